//! Takes pending entries into the tree, and finds out what that leaves without use.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Epoch, HeadContent, Key, KeyHash};
use lattice_core::seal::Root;
use lattice_core::time::WallTime;
use lattice_core::tree::{ApplyError, Node, Position, apply};

use super::repair::remove_entry;
use super::sealing::Work;
use super::tree::Tree;
use super::{Engine, Error};
use crate::format::{Damaged, node};

/// The least key hash.
pub(super) const NO_HASH: KeyHash = KeyHash(Digest([0; 32]));

/// What the disk holds below the positions that change.
#[derive(Default)]
struct Loaded {
    /// Since when each node was as it is.
    epochs: HashMap<Position, Epoch>,
    keys: HashMap<KeyHash, Key>,
    heads: HashMap<KeyHash, EntryHead>,
}

/// An expiry record's key without tag and generation: expiry and key hash.
pub(super) fn without_generation(at: &[u8]) -> &[u8] {
    at.get(5..).unwrap_or_default()
}

impl Engine {
    /// Takes entries into the tree of `epoch`. Returns the root after it.
    pub(super) fn take_into_tree(
        &self,
        work: &mut Work,
        epoch: Epoch,
        entries: Vec<(Key, EntryHead)>,
    ) -> Result<Option<Root>, Error> {
        let tree = Tree::newest(self.storage(), self.generation);
        let loaded = RefCell::new(Loaded::default());
        let applied = apply(entries.iter().map(|(_, head)| *head), |position: &Position| {
            let Some((keyed, since)) = tree.node(position)? else { return Ok(None) };
            let mut loaded = loaded.borrow_mut();
            loaded.epochs.insert(*position, since);
            if let Node::Bucket(heads) = &keyed.node {
                for (head, key) in heads.iter().zip(&keyed.keys) {
                    loaded.heads.insert(head.key_hash, *head);
                    loaded.keys.insert(head.key_hash, key.clone());
                }
            }
            Ok(Some(keyed.node))
        });
        let applied = applied.map_err(|error| self.apply_error(error, epoch))?;
        let Loaded { epochs, mut keys, heads } = loaded.into_inner();

        for (key, head) in entries {
            self.settle_entry(work, &head, heads.get(&head.key_hash))?;
            keys.insert(head.key_hash, key);
        }
        for (position, changed) in &applied.nodes {
            let at = self.generation.node(position, epoch);
            let framed = node::encode(&at, changed, &keys)?;
            work.batch.put(at, framed);
            if let Some(since) = epochs.get(position).filter(|since| **since < epoch) {
                work.garbage.nodes.push(self.generation.node(position, *since).into());
            }
        }
        Ok(applied.root)
    }

    /// What becomes of a pending entry, and of the one that the tree had in its place.
    fn settle_entry(
        &self,
        work: &mut Work,
        head: &EntryHead,
        sealed: Option<&EntryHead>,
    ) -> Result<(), Error> {
        match sealed {
            Some(sealed) if sealed == head => {}
            Some(sealed) if sealed.dominates(head) => {
                // It came after what beats it was sealed: no tree ever needs it.
                let digest = head.digest();
                remove_entry(self.storage(), &mut work.batch, self.generation.older(&digest), &digest)?;
            }
            Some(sealed) => {
                work.garbage.entries.push(Bytes::copy_from_slice(sealed.digest().as_bytes()));
                if let Some(expires) = expiry(sealed) {
                    if self.counted(work, expires, &sealed.key_hash) {
                        work.state.expired = work.state.expired.saturating_sub(1);
                    } else {
                        work.batch.remove(self.generation.expiry(expires, &sealed.key_hash));
                    }
                }
                self.note_expiry(work, head);
            }
            None => self.note_expiry(work, head),
        }
        Ok(())
    }

    fn note_expiry(&self, work: &mut Work, head: &EntryHead) {
        let Some(expires) = expiry(head) else { return };
        if self.counted(work, expires, &head.key_hash) {
            work.state.expired += 1;
        } else {
            let at = self.generation.expiry(expires, &head.key_hash);
            let framed = crate::format::frame::seal(&at, &[]);
            work.batch.put(at, framed);
        }
    }

    /// Whether an expiry lies before the mark, up to which `expired` counts.
    fn counted(&self, work: &Work, expires: WallTime, hash: &KeyHash) -> bool {
        let at = self.generation.expiry(expires, hash);
        without_generation(&at) <= &work.state.expired_mark[..]
    }

    fn apply_error(&self, error: ApplyError<Error>, epoch: Epoch) -> Error {
        match error {
            ApplyError::Load(error) => error,
            ApplyError::Missing { position } | ApplyError::Mismatch { position } => {
                Damaged::new(&self.generation.node(&position, epoch), "is not what its parent commits to")
                    .into()
            }
        }
    }
}

/// When a sealed entry leaves the state; deletions were never in it.
fn expiry(head: &EntryHead) -> Option<WallTime> {
    match head.content {
        HeadContent::Value(_) => head.expires,
        HeadContent::Tombstone => None,
    }
}
