//! The seals that a pull stands on: one signer, one incarnation, and never two roots for one epoch.

use super::{Config, Failed, Outcome};
use crate::model::{Epoch, Incarnation};
use crate::seal::Root;
use crate::signed::SignedSeal;

/// Seals remembered in one pull, to see that no epoch has two roots.
const SEALS_MAX: usize = 8;

/// What the peer has sealed, as far as its answers have shown.
#[derive(Debug)]
pub(super) struct Ground {
    incarnation: Option<Incarnation>,
    /// The seal that the first answer stood on: what is dominated in the end.
    first: Option<(Epoch, Option<Root>)>,
    seals: Vec<(Epoch, Option<Root>)>,
}

impl Ground {
    /// Nothing was answered; seals must be of `incarnation`, or of whichever comes first.
    pub(super) fn new(incarnation: Option<Incarnation>) -> Self {
        Self { incarnation, first: None, seals: Vec::new() }
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    pub(super) fn first(&self) -> Option<(Epoch, Option<Root>)> {
        self.first
    }

    /// One of the peer's stores has answered; another one than before has nothing to do with this pull.
    pub(super) fn answered_by(&mut self, incarnation: Incarnation) -> Result<(), Failed> {
        let expected = *self.incarnation.get_or_insert(incarnation);
        if incarnation != expected {
            let detail = format!("the peer answers as incarnation {incarnation}, not as {expected}");
            return Err(Failed::new(Outcome::Stale, detail));
        }
        Ok(())
    }

    /// Checks the seal that an answer stands on. `asked`: the one that was asked for, `None` for the newest.
    /// Returns its epoch and root, `None` for an empty tree.
    pub(super) fn accept(
        &mut self,
        config: &Config,
        signed: &SignedSeal,
        asked: Option<Epoch>,
    ) -> Result<Option<(Epoch, Root)>, Failed> {
        let seal = &signed.seal;
        if signed.verify().is_err() {
            return Err(Failed::new(Outcome::Lost, "the seal's signature does not verify"));
        }
        if seal.cluster != config.cluster || seal.node != config.peer {
            let detail = format!("signed for a seal of node {} of cluster {:?}", seal.node, seal.cluster);
            return Err(Failed::new(Outcome::Refused, detail));
        }
        let incarnation = *self.incarnation.get_or_insert(seal.incarnation);
        if seal.incarnation != incarnation {
            let detail = format!("the seal is of incarnation {}, not of {incarnation}", seal.incarnation);
            return Err(Failed::new(Outcome::Stale, detail));
        }
        let least = asked.or(config.announced.newest_epoch()).unwrap_or_default();
        if seal.epoch < least {
            let detail = format!("the seal is of epoch {}, after one of epoch {least}", seal.epoch);
            return Err(Failed::new(Outcome::Stale, detail));
        }
        let known = self.seals.iter().find(|known| known.0 == seal.epoch).map(|known| known.1);
        let known = known.or_else(|| config.announced.at(seal.epoch).map(|root| root.copied()));
        if known.is_some_and(|known| known != seal.root) {
            return Err(Failed::new(Outcome::Lied, format!("two roots for epoch {}", seal.epoch)));
        }
        if seal.root.is_some_and(|root| root.total() == 0) {
            return Err(Failed::new(Outcome::Lied, "a root over nothing"));
        }
        if self.held_more(config, seal.epoch, seal.root) {
            return Err(Failed::new(Outcome::Lied, "the tree has lost entries that it held"));
        }
        self.first.get_or_insert((seal.epoch, seal.root));
        if !self.seals.contains(&(seal.epoch, seal.root)) {
            if self.seals.len() == SEALS_MAX {
                self.seals.remove(0);
            }
            self.seals.push((seal.epoch, seal.root));
        }
        Ok(seal.root.map(|root| (seal.epoch, root)))
    }

    /// Whether this incarnation has sealed more before. Entries are never removed from a tree: one that shrinks
    /// would end the walk early, with nothing proved of what was left out.
    fn held_more(&self, config: &Config, epoch: Epoch, root: Option<Root>) -> bool {
        let total = |root: Option<Root>| root.map_or(0, |root| root.total());
        let announced = config.announced.as_slice().iter().map(|run| (run.from, run.root));
        let mut before = self.first.into_iter().chain(self.seals.iter().copied()).chain(announced);
        before.any(|(at, held)| at <= epoch && total(held) > total(root))
    }
}
