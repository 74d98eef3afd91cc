//! Whether our own incarnation still stands: what is said against it, and when a new one is started.
//!
//! Three things tell that it does not. A peer has heard more from it than our disk knows, or our store hands out a
//! number for the second time: the disk was rolled back, and what we sign next would contradict what we signed. A peer
//! refuses it as one that was replaced: our store is older than one that this node has used since, and nobody will ever
//! believe it again. Or it is back although we gave it up ourselves. A new incarnation is the cure in each case. A peer's
//! word is no proof, though, so [`crate::renewal`] says how often it is taken; until then we go on as we are, or one
//! member that lies could silence another.

use super::{Coordinator, Effect, Notice, OwnSeals};
use crate::model::{Epoch, Incarnation, NodeId};
use crate::time::Monotonic;

impl Coordinator {
    /// The store has handed out a number. One that was used already: its disk was rolled back under us.
    pub(super) fn numbered(
        &mut self,
        now: Monotonic,
        incarnation: Incarnation,
        last: u64,
        effects: &mut Vec<Effect>,
    ) {
        let used = self.sequence.replace((incarnation, last)).filter(|used| used.0 == incarnation);
        if let Some((_, used)) = used.filter(|used| used.1 >= last)
            && self.doubt(incarnation)
        {
            let epoch = self.own_epoch();
            effects.push(Effect::Notice(Notice::RolledBack {
                peer: None,
                incarnation,
                heard_sequence: used,
                own_sequence: last,
                heard_epoch: epoch,
                own_epoch: epoch,
                renewed_in: self.renewed_in(now),
            }));
        }
    }

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
        let own_epoch = self.own_epoch();
        // Until a number is reserved in this incarnation, we cannot tell which were used.
        let sequence = self.sequence.filter(|sequence| sequence.0 == incarnation);
        let own_sequence = sequence.map_or(u64::MAX, |sequence| sequence.1);
        if (heard_sequence > own_sequence || heard_epoch > own_epoch)
            && self.peers.contains_key(&peer)
            && self.doubt(incarnation)
        {
            effects.push(Effect::Notice(Notice::RolledBack {
                peer: Some(peer),
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
        if self.peers.contains_key(&peer) && self.doubt(incarnation) {
            let renewed_in = self.renewed_in(now);
            effects.push(Effect::Notice(Notice::Disowned { peer, incarnation, renewed_in }));
        }
    }

    /// The store speaks in an incarnation that was given up, and had another one since: its disk was rolled back. That is
    /// no peer's word, so that nothing is waited for.
    pub(super) fn reappeared(&self, own: &OwnSeals, effects: &mut Vec<Effect>) {
        let incarnation = own.incarnation;
        let replaced = self.own.as_ref().is_some_and(|before| before.incarnation != incarnation);
        if replaced && self.given_up == Some(incarnation) {
            effects.push(Effect::Notice(Notice::Reappeared { incarnation }));
            effects.push(Effect::Reincarnate { incarnation });
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

    fn own_epoch(&self) -> Epoch {
        self.own.as_ref().and_then(|own| own.runs.newest_epoch()).unwrap_or_default()
    }

    /// Something stands against an incarnation. Whether it is our present one, and this is news.
    fn doubt(&mut self, incarnation: Incarnation) -> bool {
        let ours = self.own.as_ref().is_some_and(|own| own.incarnation == incarnation);
        let known = [self.given_up, self.doubted].contains(&Some(incarnation));
        let news = ours && !known;
        if news {
            self.doubted = Some(incarnation);
        }
        news
    }

    fn renewed_in(&self, now: Monotonic) -> std::time::Duration {
        self.renewals.until(now).map_or(std::time::Duration::ZERO, |until| until.since(now))
    }
}
