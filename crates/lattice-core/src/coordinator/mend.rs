//! Damaged entries of our own store: who may have them, and the repairs that look for them.
//!
//! [`crate::repair`] decides when and what; a repair runs as a pull does, beside the others and within the same
//! bounds, and comes after them.

use super::peers::Wanted;
use super::{Coordinator, Effect};
use crate::pull::{self, Cause};
use crate::recovery::Offer;
use crate::repair::{self, Candidate};
use crate::time::Monotonic;

use rand::RngExt as _;

impl Coordinator {
    /// Hands an event to the repair machine, and does what it decides.
    pub(super) fn mend(&mut self, now: Monotonic, event: repair::Event, effects: &mut Vec<Effect>) {
        let mut decided = Vec::new();
        self.repair.handle(now, event, &mut decided);
        for effect in decided {
            match effect {
                repair::Effect::List { after, limit } => effects.push(Effect::ListDamaged { after, limit }),
                repair::Effect::Seek { peer, lost } => {
                    self.wants += 1;
                    let id = pull::Id(self.random.random_range(1..=u64::MAX));
                    let wanted = Wanted { id, cause: Cause::Repair, order: self.wants };
                    self.start_pull(now, peer, wanted, &lost, effects);
                }
            }
        }
    }

    /// Starts what is to be repaired, as far as there is somebody to ask.
    pub(super) fn start_repairs(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        // Once more when nobody is left to ask for a page: that makes room for the next one.
        for _ in 0..2 {
            if self.can_speak() && self.repair.looks_for_peers(now) {
                let candidates = self.candidates(now);
                self.mend(now, repair::Event::Peers(candidates), effects);
            }
        }
    }

    /// Peers that are live, have something to give, and do not recover themselves: what such a one has may be
    /// older than what was lost.
    fn candidates(&self, now: Monotonic) -> Vec<Candidate> {
        let room = self.pulls.len() < self.config.pulls_max;
        let fresh_for = self.config.fresh_for();
        let mut candidates = Vec::new();
        for (&peer, known) in &self.peers {
            let live = known.heard.is_some_and(|heard| now.since(heard) < fresh_for);
            let knows = !known.recovering && self.offer(&peer) == Offer::Root;
            let reached = self.route(&peer).is_some() && self.held_back(now, &peer).is_none();
            if live && knows && reached {
                candidates.push(Candidate { peer, free: room && !self.pulls.contains_key(&peer) });
            }
        }
        candidates
    }
}
