//! Proves to anybody what a sealed tree holds of a key.

use lattice_core::model::{Content, Entry, Epoch, Key, Version};
use lattice_core::proof::SealedProof;
use lattice_core::seal::Run;
use lattice_core::tree::Proof;

use super::records::Records;
use super::shared::View;
use super::tree::{KeyPath, Tree};
use super::{Error, Reader};
use crate::format::Damaged;

/// How often a proof is made again because its tree went out of reach.
const RETRIES: usize = 4;

/// A proof, and what it does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The proof.
    pub sealed: SealedProof,
    /// The key's newest write, and the epoch it is of, when that is another than the one proved.
    pub unsealed: Option<(Version, Epoch)>,
}

/// Why nothing is proved.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// There is nothing to stand on.
    #[error("nothing is sealed here yet")]
    NoSeal,
    /// The tree of that epoch is not kept any more, or is not made yet.
    #[error("epoch: trees of epochs {from} to {to} are kept, got {epoch}")]
    NotKept {
        /// The epoch asked for.
        epoch: Epoch,
        /// The oldest that is kept.
        from: Epoch,
        /// The newest.
        to: Epoch,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Reader {
    /// Proves what the tree of a sealed epoch, the newest when none is named, holds of a key. What a store that
    /// lost entries does not know it does not prove either: a signed absence would be the worst way to tell one.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(&self, key: &Key, epoch: Option<Epoch>) -> Result<Proved, ProveError> {
        self.refuse_damaged(key)?;
        for _ in 0..RETRIES {
            let view = self.view();
            let (at, run) = standing(&view, epoch)?;
            let proved = self.prove_at(key, &view, at, &run);
            // What was read is that tree only if none of it was deleted meanwhile.
            let now = self.view();
            let stands = now.generation == view.generation && now.incarnation == view.incarnation;
            if stands && now.kept(at).is_some() {
                let proved = proved?;
                if proved.sealed.entry.as_ref().is_none_or(is_deletion) {
                    self.absence()?;
                }
                return Ok(proved);
            }
        }
        Err(Error::Gone.into())
    }

    fn prove_at(&self, key: &Key, view: &View, at: Epoch, run: &Run) -> Result<Proved, Error> {
        let hash = key.hash();
        let tree = Tree::as_of(&*self.shared.storage, view.generation, run.to);
        let KeyPath { nodes, found } = tree.path(&hash)?;
        let proof = Proof::build(&nodes, &hash).map_err(|error| Damaged::new(hash.0.as_bytes(), error))?;
        let entry = match &found {
            Some((key, head)) => Some(self.entry_of(view.generation, run.to, key, head)?),
            None => None,
        };
        let current = Records::of(&*self.shared.storage).current(key)?.map(|current| current.head());
        let unsealed = current.filter(|current| found.is_none_or(|(_, head)| head != *current));
        let unsealed = unsealed.map(|current| {
            let epoch = current.version.hlc.epoch(self.shared.settings.epoch_length);
            (current.version, epoch)
        });
        let seal = self.shared.sign(view.incarnation, at, run.root);
        Ok(Proved { sealed: SealedProof { key: key.clone(), seal, entry, proof }, unsealed })
    }
}

fn is_deletion(entry: &Entry) -> bool {
    matches!(entry.content, Content::Tombstone)
}

/// The epoch to stand on, and the run that covers it.
fn standing(view: &View, epoch: Option<Epoch>) -> Result<(Epoch, Run), ProveError> {
    let newest = view.newest_run().ok_or(ProveError::NoSeal)?.run;
    let Some(epoch) = epoch else { return Ok((newest.to, newest)) };
    match view.kept(epoch) {
        Some(run) => Ok((epoch, *run)),
        None => {
            let oldest = view.runs.iter().find(|sealed| sealed.run.to >= view.horizon);
            let from = oldest.map_or(newest.from, |oldest| oldest.run.from);
            Err(ProveError::NotKept { epoch, from, to: newest.to })
        }
    }
}
