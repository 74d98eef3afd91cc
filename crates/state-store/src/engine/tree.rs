//! Reads the persisted tree as it was at an epoch: of each node, the newest record that is not younger.

use lattice_core::model::{EntryHead, Epoch, Key, KeyHash};
use lattice_core::tree::{FANOUT, Node, Position, Summary};

use super::Error;
use crate::format::Damaged;
use crate::format::keys::{self, Generation};
use crate::format::node::{self, KeyedNode};
use crate::storage::Storage;

/// The tree as of an epoch.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    storage: &'a dyn Storage,
    generation: Generation,
    as_of: Epoch,
}

/// What a way down the tree ends in.
pub(crate) struct Way {
    /// The children of the inner nodes passed, the topmost first.
    pub(crate) inner: Vec<[Summary; FANOUT]>,
    /// What hangs at its end; the empty bucket where nothing does.
    pub(crate) end: KeyedNode,
}

impl<'a> Tree<'a> {
    pub(crate) fn as_of(storage: &'a dyn Storage, generation: Generation, as_of: Epoch) -> Self {
        Self { storage, generation, as_of }
    }

    /// The newest tree, including what is put into it for the seal under way.
    pub(crate) fn newest(storage: &'a dyn Storage, generation: Generation) -> Self {
        Self::as_of(storage, generation, Epoch(u64::MAX - 1))
    }

    /// The node at a position, and since which epoch it is so.
    pub(crate) fn node(&self, position: &Position) -> Result<Option<(KeyedNode, Epoch)>, Error> {
        let from = self.generation.node(position, Epoch(0));
        let to = self.generation.node(position, self.as_of.next());
        let Some((key, framed)) = self.storage.last(&from, &to)? else { return Ok(None) };
        let epoch = keys::node_epoch(&key).ok_or_else(|| Damaged::new(&key, "has no epoch"))?;
        Ok(Some((node::decode(&key, position, &framed)?, epoch)))
    }

    /// The way down to `position`. `None` when the tree does not reach as deep: a bucket hangs above it.
    pub(crate) fn way(&self, position: &Position) -> Result<Option<Way>, Error> {
        let towards = position.first();
        let mut inner: Vec<[Summary; FANOUT]> = Vec::with_capacity(position.depth());
        let mut at = Position::ROOT;
        loop {
            let node = self.at(&at, inner.last())?;
            if at == *position {
                return Ok(Some(Way { inner, end: node }));
            }
            let Node::Inner(children) = node.node else { return Ok(None) };
            inner.push(*children);
            at = Position::towards(&towards, at.depth() + 1);
        }
    }

    /// What the tree holds of a key.
    pub(crate) fn find(&self, hash: &KeyHash) -> Result<Option<(Key, EntryHead)>, Error> {
        let mut above: Option<Box<[Summary; FANOUT]>> = None;
        for depth in 0..=Position::DEPTH_MAX {
            let node = self.at(&Position::towards(hash, depth), above.as_deref())?;
            match node.node {
                Node::Inner(children) => above = Some(children),
                Node::Bucket(_) => return Ok(node.find(hash).map(|(key, head)| (key.clone(), *head))),
            }
        }
        Ok(None)
    }

    /// The node at a position whose parent has these children.
    fn at(&self, position: &Position, above: Option<&[Summary; FANOUT]>) -> Result<KeyedNode, Error> {
        let empty = KeyedNode { node: Node::empty_bucket(), keys: Vec::new() };
        let known = match (above, position.depth().checked_sub(1)) {
            (Some(children), Some(depth)) => Some(&children[usize::from(position.nibble(depth))]),
            _ => None,
        };
        if known.is_some_and(|known| known.total() == 0) {
            return Ok(empty);
        }
        match self.node(position)? {
            Some((node, _)) => Ok(node),
            None if known.is_none() => Ok(empty),
            None => {
                let at = self.generation.node(position, self.as_of);
                Err(Damaged::new(&at, "is missing from the tree").into())
            }
        }
    }
}
