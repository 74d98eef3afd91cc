//! The store of the one who pulls: its tree alone, in memory, without the entries themselves.

use std::collections::HashMap;
use std::convert::Infallible;

use anyhow::{Context as _, Result};
use lattice_core::model::{Entry, EntryHead};
use lattice_core::pull::MergeCounts;
use lattice_core::tree::{self, Node, Position, Summary};

/// A tree.
pub(crate) struct Replica {
    nodes: HashMap<Position, Node>,
    root: Option<Summary>,
}

impl Replica {
    pub(crate) fn of(heads: impl IntoIterator<Item = EntryHead>) -> Result<Self> {
        let mut replica = Self { nodes: HashMap::new(), root: None };
        replica.apply(heads)?;
        Ok(replica)
    }

    fn apply(&mut self, heads: impl IntoIterator<Item = EntryHead>) -> Result<()> {
        let load = |position: &Position| Ok::<_, Infallible>(self.nodes.get(position).cloned());
        let applied = tree::apply(heads, load).context("put entries into the tree")?;
        self.nodes.extend(applied.nodes);
        self.root = applied.root;
        Ok(())
    }

    pub(crate) fn root(&self) -> Option<Summary> {
        self.root
    }

    /// What we have at some places: inner nodes, or the heads below.
    pub(crate) fn own(&self, positions: &[Position]) -> Vec<Node> {
        positions.iter().map(|position| self.own_at(position)).collect()
    }

    fn own_at(&self, position: &Position) -> Node {
        let mut at = *position;
        loop {
            match (self.nodes.get(&at), at.parent()) {
                (Some(node), _) if at == *position => return node.clone(),
                (Some(Node::Bucket(heads)), _) => {
                    let below = heads.iter().filter(|head| position.covers(&head.key_hash));
                    return Node::Bucket(below.copied().collect());
                }
                (None, Some(parent)) => at = parent,
                (Some(Node::Inner(_)), _) | (None, None) => return Node::empty_bucket(),
            }
        }
    }

    /// Whether an entry, or a newer one of its key, is here.
    pub(crate) fn dominates(&self, head: &EntryHead) -> bool {
        let mut depth = 0;
        loop {
            match self.nodes.get(&Position::towards(&head.key_hash, depth)) {
                Some(Node::Inner(_)) => depth += 1,
                Some(Node::Bucket(heads)) => {
                    let found = heads.binary_search_by_key(&head.key_hash, |head| head.key_hash);
                    return found.is_ok_and(|found| heads[found].dominates(head));
                }
                None => return false,
            }
        }
    }

    /// Merges entries.
    pub(crate) fn merge(&mut self, entries: &[Entry]) -> Result<MergeCounts> {
        let mut heads: Vec<EntryHead> = entries.iter().map(Entry::head).collect();
        heads.retain(|head| !self.dominates(head));
        let merged = heads.len() as u64;
        self.apply(heads)?;
        Ok(MergeCounts { merged, known: entries.len() as u64 - merged, ..MergeCounts::default() })
    }
}
