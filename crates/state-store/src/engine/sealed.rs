//! Reads all entries of the newest seal, bucket by bucket, while sealing goes on.

use std::time::Duration;

use lattice_core::model::{Entry, Epoch};
use lattice_core::seal::Seal;
use lattice_core::time::WallTime;
use lattice_core::tree::{Node, Position};

use super::shared::Pin;
use super::tree::Tree;
use super::{Error, Now, Reader};
use crate::format::keys::Generation;

/// The most of these reads at a time: each keeps a tree from being deleted.
const READS_MAX: usize = 4;

/// The entries of a seal that had not expired at its epoch's end, in order of key hash.
pub struct SealedEntries {
    reader: Reader,
    seal: Seal,
    generation: Generation,
    as_of: Epoch,
    end: WallTime,
    /// Places that are still to be read, the next one last.
    todo: Vec<Position>,
    _pin: Pin,
}

impl Reader {
    /// Reads the newest seal. `None` when too many do so already; its tree is kept while the value lives, and
    /// for `time` at most: what is read later may be gone.
    pub fn sealed_entries(&self, now: Now, time: Duration) -> Option<SealedEntries> {
        // Pinned by epoch, and read again: what was the newest when it was pinned is kept from then on.
        let epoch = self.view().newest_run().map_or(Epoch(0), |newest| newest.run.to);
        let pin = self.shared.pin(epoch, READS_MAX, now.monotonic, now.monotonic + time)?;
        let view = self.view();
        let (run, todo) = match view.newest_run() {
            Some(newest) => (Some(newest.run), vec![Position::ROOT]),
            None => (None, Vec::new()),
        };
        let as_of = run.map_or(Epoch(0), |run| run.to);
        let seal = Seal {
            cluster: self.shared.settings.cluster.clone(),
            node: self.shared.node,
            incarnation: view.incarnation,
            epoch: as_of,
            root: run.and_then(|run| run.root),
        };
        let end = self.shared.settings.epoch_length.end_of(as_of);
        let reader = self.clone();
        Some(SealedEntries { reader, seal, generation: view.generation, as_of, end, todo, _pin: pin })
    }
}

impl SealedEntries {
    /// The seal that is read.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The entries of the next bucket that has any; `None` at the end.
    ///
    /// # Errors
    /// When the disk fails, what is on it is damaged, the store recovers, or it began a new incarnation meanwhile.
    pub fn next_bucket(&mut self) -> Result<Option<Vec<Entry>>, Error> {
        self.reader.completeness()?;
        if self.reader.view().incarnation != self.seal.incarnation {
            return Err(Error::Gone);
        }
        let tree = Tree::as_of(&*self.reader.shared.storage, self.generation, self.as_of);
        while let Some(position) = self.todo.pop() {
            let Some((keyed, _)) = tree.node(&position)? else {
                if position == Position::ROOT && self.seal.root.is_none() {
                    return Ok(None);
                }
                let error = tree.damaged(&position, "is missing from the tree");
                return Err(self.reader.suspect_error(error));
            };
            match &keyed.node {
                Node::Inner(children) => {
                    let places = (0u8..).zip(children.iter()).filter(|(_, child)| child.total() > 0);
                    let places: Vec<Position> =
                        places.filter_map(|(index, _)| position.child(index)).collect();
                    self.todo.extend(places.into_iter().rev());
                }
                Node::Bucket(heads) => {
                    let mut entries = Vec::with_capacity(heads.len());
                    for (head, key) in heads.iter().zip(&keyed.keys) {
                        if head.is_tombstone() || head.expires.is_some_and(|expires| expires <= self.end) {
                            continue;
                        }
                        entries.push(self.reader.entry_of(self.generation, self.as_of, key, head)?);
                    }
                    if !entries.is_empty() {
                        return Ok(Some(entries));
                    }
                }
            }
        }
        Ok(None)
    }
}
