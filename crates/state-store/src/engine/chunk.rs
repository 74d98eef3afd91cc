//! Takes pending entries into the tree, and finds out what that leaves without use.

use std::cell::RefCell;
use std::collections::HashMap;

use lattice_core::model::{Digest, EntryHead, Epoch, HeadContent, Key, KeyHash};
use lattice_core::seal::Root;
use lattice_core::time::WallTime;
use lattice_core::tree::{ApplyError, Node, Position, apply};

use super::pending::Waiting;
use super::records::Records;
use super::sealing::Work;
use super::tree::Tree;
use super::{Engine, Error};
use crate::format::Damaged;
use crate::format::history::{self, Was};
use crate::format::keys::Generation;
use crate::format::node::{self, Age, KeyedNode};
use crate::storage::{Batch, Storage};

/// The least key hash.
pub(super) const NO_HASH: KeyHash = KeyHash(Digest([0; 32]));

/// What the disk holds below the positions that change.
#[derive(Default)]
struct Loaded {
    nodes: HashMap<Position, (KeyedNode, Age)>,
    keys: HashMap<KeyHash, Key>,
    heads: HashMap<KeyHash, EntryHead>,
}

/// An expiry record's key without tag and generation: expiry and key hash.
pub(super) fn without_generation(at: &[u8]) -> &[u8] {
    at.get(5..).unwrap_or_default()
}

/// Takes entries into the tree of an epoch.
#[derive(Clone, Copy)]
pub(super) struct Taking<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
}

/// What that comes to.
pub(super) struct Taken {
    /// The nodes as they are now, and what they were.
    nodes: Batch,
    /// The entries' heads, with the epochs that they awaited, and what the tree had in their places.
    entries: Vec<(Epoch, EntryHead, Option<EntryHead>)>,
    /// The root after it.
    pub(super) root: Option<Root>,
}

impl Taken {
    /// Whether none of the entries was beaten by what the tree had already: that moves what was replaced.
    pub(super) fn stands_alone(&self) -> bool {
        let beaten = |head: &EntryHead, sealed: &EntryHead| sealed != head && sealed.dominates(head);
        !self
            .entries
            .iter()
            .any(|(_, head, sealed)| sealed.as_ref().is_some_and(|sealed| beaten(head, sealed)))
    }
}

impl Taking<'_> {
    /// Works out what entries, each with the epoch that it awaited, change in the tree.
    pub(super) fn take(&self, entries: Vec<(Epoch, Waiting)>) -> Result<Taken, Error> {
        let tree = Tree::newest(self.storage, self.generation);
        let loaded = RefCell::new(Loaded::default());
        let applied = apply(entries.iter().map(|(_, (_, head))| *head), |position: &Position| {
            let Some((keyed, age)) = tree.node(position)? else { return Ok(None) };
            let mut loaded = loaded.borrow_mut();
            if let Node::Bucket(heads) = &keyed.node {
                for (head, key) in heads.iter().zip(&keyed.keys) {
                    loaded.heads.insert(head.key_hash, *head);
                    loaded.keys.insert(head.key_hash, key.clone());
                }
            }
            let node = keyed.node.clone();
            loaded.nodes.insert(*position, (keyed, age));
            Ok(Some(node))
        });
        let applied = applied.map_err(|error| self.apply_error(error))?;
        let Loaded { nodes: mut before, mut keys, heads } = loaded.into_inner();

        let settled = |(awaited, (key, head)): (Epoch, Waiting)| {
            keys.insert(head.key_hash, key);
            (awaited, head, heads.get(&head.key_hash).copied())
        };
        let entries = entries.into_iter().map(settled).collect();
        let mut nodes = Batch::default();
        for (position, changed) in applied.nodes {
            let at = self.generation.node(&position);
            let changed = KeyedNode::with_keys(changed, &keys)
                .ok_or_else(|| Damaged::new(&at, "holds a key hash without a key"))?;
            let before = before.remove(&position);
            let first = before.as_ref().map_or(self.epoch, |(_, age)| age.first);
            let framed = node::encode(&at, &changed, Age { since: self.epoch, first });
            nodes.put(at, framed);
            if let Some((before, age)) = before.filter(|(_, age)| age.first < self.epoch) {
                self.note_history(&mut nodes, &position, (before, age), &changed.node)?;
            }
        }
        Ok(Taken { nodes, entries, root: applied.root })
    }

    /// Notes what a node was before the epoch, of which `after` is a part already or all.
    fn note_history(
        &self,
        nodes: &mut Batch,
        position: &Position,
        (mut before, age): (KeyedNode, Age),
        after: &Node,
    ) -> Result<(), Error> {
        let at = self.generation.history(self.epoch, position);
        let mut since = age.since;
        if since == self.epoch {
            // An earlier chunk of the epoch changed it, too.
            let tree = Tree::as_of(self.storage, self.generation, self.epoch.previous());
            let earlier = tree.node(position)?;
            let (node, age) = earlier.ok_or_else(|| Damaged::new(&at, "is missing from the tree"))?;
            (before, since) = (node, age.since);
        }
        let framed = history::encode(&at, &Was::between(before, after), since);
        nodes.put(at, framed);
        Ok(())
    }

    fn apply_error(&self, error: ApplyError<Error>) -> Error {
        match error {
            ApplyError::Load(error) => error,
            ApplyError::Missing { position } | ApplyError::Mismatch { position } => {
                Damaged::new(&self.generation.node(&position), "is not what its parent commits to").into()
            }
        }
    }
}

impl Engine {
    /// Adds what was taken into the tree to a step, and what becomes of what it replaced. Returns the root after it.
    pub(super) fn settle(&self, work: &mut Work, taken: Taken) -> Result<Option<Root>, Error> {
        work.batch.append(taken.nodes);
        for (awaited, head, sealed) in taken.entries {
            self.settle_entry(work, awaited, &head, sealed.as_ref())?;
        }
        Ok(taken.root)
    }

    /// What becomes of a pending entry, and of the one that the tree had in its place.
    fn settle_entry(
        &self,
        work: &mut Work,
        epoch: Epoch,
        head: &EntryHead,
        sealed: Option<&EntryHead>,
    ) -> Result<(), Error> {
        match sealed {
            Some(sealed) if sealed == head => {}
            Some(sealed) if sealed.dominates(head) => {
                // It came after what beats it was sealed, which stays what the trees hold.
                self.put_back(work, epoch, head)?;
            }
            Some(sealed) => {
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

    /// Keeps what was replaced in `epoch` until the next of its key is sealed, in place of `beaten`, which no tree
    /// needs.
    fn put_back(&self, work: &mut Work, epoch: Epoch, beaten: &EntryHead) -> Result<(), Error> {
        let hash = &beaten.key_hash;
        let Some(next) = self.shared.pending().next_epoch(epoch, hash) else { return Ok(()) };
        let (from, to) = (self.generation.older(epoch, hash), self.generation.older(next, hash));
        let records = Records::of(self.storage());
        if let Some(kept) = records.kept(&to)?.filter(|kept| kept.head() == *beaten) {
            kept.remove_value(&mut work.batch);
            work.batch.remove(to.clone());
            if let Some(kept) = records.kept(&from)? {
                kept.move_to(&mut work.batch, to);
                work.batch.remove(from);
            }
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
}

/// When a sealed entry leaves the state; deletions were never in it.
fn expiry(head: &EntryHead) -> Option<WallTime> {
    match head.content {
        HeadContent::Value(_) => head.expires,
        HeadContent::Tombstone => None,
    }
}
