//! A store that lost entries: pulls that do not wait for differences, and the word that it has recovered.
//!
//! [`crate::recovery`] decides; here it is told what it needs to know.

use super::{Coordinator, Effect};
use crate::model::NodeId;
use crate::pull::Cause;
use crate::recovery::{self, Offer};
use crate::time::Monotonic;

impl Coordinator {
    /// Hands an event to the recovery machine, and does what it decides.
    pub(super) fn recover(&mut self, now: Monotonic, event: recovery::Event, effects: &mut Vec<Effect>) {
        let mut decided = Vec::new();
        self.recovery.handle(now, event, &mut decided);
        for effect in decided {
            match effect {
                recovery::Effect::Pull { peer } => self.want(peer, Cause::Recovery),
                recovery::Effect::Recovered { incarnation } => {
                    effects.push(Effect::Recovered { incarnation });
                }
            }
        }
    }

    /// What a peer's newest seal has to give, as it announced it.
    pub(super) fn offer(&self, peer: &NodeId) -> Offer {
        match self.hearing.runs(peer).and_then(|runs| runs.newest()).map(|run| run.root) {
            None => Offer::Unsealed,
            Some(None) => Offer::Nothing,
            Some(Some(_)) => Offer::Root,
        }
    }
}
