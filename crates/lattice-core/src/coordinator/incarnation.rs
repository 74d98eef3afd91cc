//! Whether our own incarnation still stands: what peers' words say against it, and when a new one is started.
//!
//! Two things tell that it does not. A peer has heard more from it than our disk knows: the disk was rolled back,
//! and what we sign next would contradict what we signed. Or a peer refuses it as one that was replaced: our
//! store is older than one that this node has used since, and nobody will ever believe it again. Either way a new
//! incarnation is the cure. A peer's word is no proof, though, so [`crate::renewal`] says how often it is taken;
//! until then we go on as we are, or one member that lies could silence another.

use super::{Coordinator, Effect, Notice};
use crate::model::{Epoch, Incarnation, NodeId};
use crate::time::Monotonic;

impl Coordinator {
    /// A peer says what it heard from us. More than we know of: our disk was rolled back.
    pub(super) fn detect_rollback(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        incarnation: Incarnation,
        heard_sequence: u64,
        heard_epoch: Epoch,
        effects: &mut Vec<Effect>,
    ) {
        let Some(own) = &self.own else { return };
        let own_epoch = own.runs.newest_epoch().unwrap_or_default();
        // Until a number is reserved in this incarnation, we cannot tell which were used.
        let sequence = self.sequence.filter(|sequence| sequence.0 == incarnation);
        let own_sequence = sequence.map_or(u64::MAX, |sequence| sequence.1);
        if (heard_sequence > own_sequence || heard_epoch > own_epoch) && self.doubt(&peer, incarnation) {
            effects.push(Effect::Notice(Notice::RolledBack {
                peer,
                incarnation,
                heard_sequence,
                own_sequence,
                heard_epoch,
                own_epoch,
                renewed_in: self.renewed_in(now),
            }));
        }
    }

    /// A peer has refused, with its signature, what we asked in this incarnation: it knows a newer one of ours.
    pub(super) fn disowned(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        if self.doubt(&peer, incarnation) {
            let renewed_in = self.renewed_in(now);
            effects.push(Effect::Notice(Notice::Disowned { peer, incarnation, renewed_in }));
        }
    }

    /// Starts the new incarnation that is wanted, as soon as one may be started.
    pub(super) fn renew(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(incarnation) = self.doubted else { return };
        if self.own.as_ref().is_none_or(|own| own.incarnation != incarnation) {
            self.doubted = None;
        } else if self.renewals.until(now).is_none() {
            self.doubted = None;
            self.given_up = Some(incarnation);
            self.renewals.started(now);
            effects.push(Effect::Remember);
            effects.push(Effect::Reincarnate { incarnation });
        }
    }

    /// When [`Self::renew`] has something to do.
    pub(super) fn next_renewal(&self) -> Option<Monotonic> {
        self.doubted.and_then(|_| self.renewals.until(Monotonic::ZERO))
    }

    /// A peer's word stands against an incarnation. Whether it is our present one, and this is news.
    fn doubt(&mut self, peer: &NodeId, incarnation: Incarnation) -> bool {
        let ours = self.own.as_ref().is_some_and(|own| own.incarnation == incarnation);
        let known = [self.given_up, self.doubted].contains(&Some(incarnation));
        let news = self.peers.contains_key(peer) && ours && !known;
        if news {
            self.doubted = Some(incarnation);
        }
        news
    }

    fn renewed_in(&self, now: Monotonic) -> std::time::Duration {
        self.renewals.until(now).map_or(std::time::Duration::ZERO, |until| until.since(now))
    }
}
