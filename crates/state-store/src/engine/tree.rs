//! Reads the persisted tree as it was at an epoch: each node as it is now, and then back through what it was.

use lattice_core::model::{EntryHead, Epoch, Key, KeyHash};
use lattice_core::tree::{FANOUT, Node, Position, Summary};

use super::Error;
use super::shared::Shared;
use crate::format::history::{self, Was};
use crate::format::keys::{self, Generation};
use crate::format::node::{self, Age, KeyedNode};
use crate::format::{Damaged, record};
use crate::storage::Storage;

/// The tree as of an epoch.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    storage: &'a dyn Storage,
    generation: Generation,
    as_of: Epoch,
}

/// The way to a key.
pub(crate) struct KeyPath {
    /// The nodes, the topmost first; the key's bucket last, an empty one where nothing hangs.
    pub(crate) nodes: Vec<Node>,
    /// What the tree holds of the key.
    pub(crate) found: Option<(Key, EntryHead)>,
}

impl<'a> Tree<'a> {
    pub(crate) fn as_of(storage: &'a dyn Storage, generation: Generation, as_of: Epoch) -> Self {
        Self { storage, generation, as_of }
    }

    /// The newest tree, including what is put into it for the seal under way.
    pub(crate) fn newest(storage: &'a dyn Storage, generation: Generation) -> Self {
        Self::as_of(storage, generation, Epoch(u64::MAX - 1))
    }

    /// The node at a position, and since when it is so.
    pub(crate) fn node(&self, position: &Position) -> Result<Option<(KeyedNode, Age)>, Error> {
        let at = self.generation.node(position);
        let newest = match self.storage.get(&at)? {
            Some(framed) => Some(node::decode(&at, position, &framed)?),
            None => None,
        };
        let Some((mut node, mut age)) = newest.filter(|(_, age)| age.first <= self.as_of) else {
            return match *position == Position::ROOT && self.was_sealed()? {
                true => Err(self.damaged(position, "is missing from the tree")),
                false => Ok(None),
            };
        };
        while age.since > self.as_of {
            let (was, since) = self.history(age.since, position)?;
            node = was.before(&at, position, node)?;
            age.since = since;
        }
        Ok(Some((node, age)))
    }

    /// What the node at a position was until `epoch`, when it was changed, and since when.
    fn history(&self, epoch: Epoch, position: &Position) -> Result<(Was, Epoch), Error> {
        let at = self.generation.history(epoch, position);
        let framed = self.storage.get(&at)?;
        let framed = framed.ok_or_else(|| Damaged::new(&at, "is missing: a node was changed then"))?;
        let (was, since) = history::decode(&at, position, &framed)?;
        match since < epoch {
            true => Ok((was, since)),
            false => Err(Damaged::new(&at, "is not older than what came after it").into()),
        }
    }

    /// Whether the newest seal up to then has a root: then the tree has one. A tree that lost its root would else
    /// be taken for an empty one.
    fn was_sealed(&self) -> Result<bool, Error> {
        let (from, _) = self.generation.all(keys::SEAL);
        let Some((at, framed)) = self.storage.last(&from, &self.generation.seal(self.as_of.next()))? else {
            return Ok(false);
        };
        let (run, _) = record::decode::<record::SealRun>(&at, &framed)?.parse(&at)?;
        Ok(run.root.is_some())
    }

    /// The way to a key, and what the tree holds of it.
    pub(crate) fn path(&self, hash: &KeyHash) -> Result<KeyPath, Error> {
        let mut nodes: Vec<Node> = Vec::new();
        loop {
            let above = match nodes.last() {
                Some(Node::Inner(children)) => Some(&**children),
                Some(Node::Bucket(_)) | None => None,
            };
            let node = self.at(&Position::towards(hash, nodes.len()), above)?;
            let found = node.find(hash).map(|(key, head)| (key.clone(), *head));
            let ends = matches!(node.node, Node::Bucket(_)) || nodes.len() == Position::DEPTH_MAX;
            nodes.push(node.node);
            if ends {
                return Ok(KeyPath { nodes, found });
            }
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

    /// The node at a position which is what its parent commits to. `None` where that says that nothing is, or at
    /// the top of an empty tree.
    pub(crate) fn proved(
        &self,
        position: &Position,
        known: Option<&Summary>,
    ) -> Result<Option<KeyedNode>, Error> {
        if known.is_some_and(|known| known.total() == 0) {
            return Ok(None);
        }
        match (self.node(position)?, known) {
            (Some((node, _)), Some(known)) if node.node.summary() != *known => {
                Err(self.damaged(position, "is not what its parent commits to"))
            }
            (Some((node, _)), _) => Ok(Some(node)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.damaged(position, "is missing from the tree")),
        }
    }

    /// The node at a position is not as it should be.
    pub(crate) fn damaged(&self, position: &Position, problem: &str) -> Error {
        Damaged::new(&self.generation.node(position), problem).into()
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
        match (self.node(position)?, known) {
            // Its counts are looked at everywhere, its digest where that is what matters: it costs more.
            (Some((node, _)), Some(known)) if node.node.counts() != (known.entries, known.tombstones) => {
                Err(self.damaged(position, "is not what its parent commits to"))
            }
            (Some((node, _)), _) => Ok(node),
            (None, None) => Ok(empty),
            (None, Some(_)) => Err(self.damaged(position, "is missing from the tree")),
        }
    }
}

/// How often a tree that changes is looked at once more.
const TRIES: usize = 8;

/// What the newest tree holds of a key, while steps of sealing may change it: from one node to the next it may be another
/// one, and then they do not fit. Damage stays when it is looked at again; this does not.
pub(super) fn find_newest(
    storage: &dyn Storage,
    generation: Generation,
    hash: &KeyHash,
) -> Result<Option<(Key, EntryHead)>, Error> {
    let tree = Tree::newest(storage, generation);
    for _ in 1..TRIES {
        match tree.find(hash) {
            Err(Error::Damaged(_)) => {}
            found => return found,
        }
    }
    tree.find(hash)
}

/// The newest that the tree, or what awaits sealing, says of a key: what must be here, whatever the key's own
/// record says. What awaits sealing is looked at first: an entry sealed in between is then found in the tree.
pub(crate) fn covering(
    shared: &Shared,
    generation: Generation,
    hash: &KeyHash,
) -> Result<Option<EntryHead>, Error> {
    let mut newest: Option<EntryHead> = None;
    for (_, head) in shared.pending().of(hash) {
        newest = Some(newest.filter(|newest| newest.dominates(head)).unwrap_or(*head));
    }
    let sealed = find_newest(&*shared.storage, generation, hash)?.map(|(_, sealed)| sealed);
    Ok(match (newest, sealed) {
        (Some(newest), Some(sealed)) if sealed.dominates(&newest) => Some(sealed),
        (newest, sealed) => newest.or(sealed),
    })
}
