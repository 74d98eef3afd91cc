//! What a pull that ends `Healed` has promised: that its node holds all that the peer had sealed when it began.
//!
//! The pull machine judges this by the bucket heads that it walked. Here it is judged from outside, by reading both
//! stores.

use lattice_core::model::{Incarnation, Key, Version};
use lattice_core::pull::{self, Outcome};

use super::invariant::Invariant;
use super::verdict::Broken;
use super::world::World;

/// What the peer of a pull had sealed when it began.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    /// The peer.
    pub(super) peer: usize,
    /// In which incarnations both were.
    stores: (Incarnation, Incarnation),
    versions: Vec<(Key, Version)>,
}

impl World {
    /// A pull began: what it will have brought, if anybody can tell.
    pub(super) fn promise(&mut self, node: usize, id: pull::Id, peer: usize) {
        if self.checks.doubtful.contains(&self.directory.id(peer)) {
            return;
        }
        let incarnation = |node| self.own(node).map(|own| own.incarnation);
        let (Some(own), Some(of_peer)) = (incarnation(node), incarnation(peer)) else { return };
        let wall = self.nodes[peer].wall(self.now);
        let sealed = self.nodes[peer].store().and_then(|store| store.sealed(self.now, wall).ok());
        let Some((_, map)) = sealed else { return };
        let versions = map.into_iter().map(|(key, entry)| (key, entry.version)).collect();
        self.promises.insert((node, id), Promise { peer, stores: (own, of_peer), versions });
    }

    /// A pull ended: whether it kept its promise. What is too far ahead, or damaged, nobody can hold yet.
    ///
    /// # Errors
    /// When it did not.
    pub(super) fn pull_ended(&mut self, node: usize, ended: &pull::Ended) -> Result<(), Broken> {
        let Some(promise) = self.promises.remove(&(node, ended.id)) else { return Ok(()) };
        let Some(own) = self.own(node) else { return Ok(()) };
        let judged = ended.outcome == Outcome::Healed && ended.repaired.is_none() && ended.entries_ahead == 0;
        let same = promise.stores.0 == own.incarnation && Some(promise.stores.1) == ended.incarnation;
        if !judged || !same || own.damaged > 0 || self.liars.contains_key(&node) {
            return Ok(());
        }
        let keys = promise.versions.iter().map(|(key, _)| key);
        let held = self.nodes[node].store().map(|store| store.readable(keys)).unwrap_or_default();
        let older = |key: &Key, version: &Version| held.get(key).is_none_or(|entry| entry.version < *version);
        let missing = promise.versions.iter().find(|(key, version)| older(key, version));
        let kept = match missing {
            None => Ok(()),
            Some((key, version)) => Err(format!(
                "{key} at {version} was sealed by node {}, {:?} is held",
                promise.peer,
                held.get(key).map(|entry| entry.version.to_string()),
            )),
        };
        let kept = self.checks.result(Invariant::HealedLacksNothing, kept);
        kept.map_err(|violation| self.violated(Some(node), violation))
    }

    /// A node has another disk: what was promised by and to it is void.
    pub(super) fn forget_promises(&mut self, node: usize) {
        self.promises.retain(|(by, _), promise| *by != node && promise.peer != node);
    }
}
