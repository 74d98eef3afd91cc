//! What a node of the tree was before an epoch, for those who stand on an older seal.
//!
//! A bucket that stayed one is told by the heads that changed in it: buckets are large, and few of their heads change
//! in an epoch. Anything else is told whole. Each record says since when the node had been so, and thereby where the
//! one before it is.

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Epoch, Key, KeyHash};
use lattice_core::tree::{Node, Position};
use prost::Message;

use super::frame::Damaged;
use super::heads::Heads;
use super::node::{self, KeyedNode, Shape};
use super::record;

/// A node as it was, by what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// This.
    Node(KeyedNode),
    /// The same bucket with other heads.
    Bucket {
        /// These in place of those of their keys.
        replaced: Vec<(Key, EntryHead)>,
        /// Without those of these.
        added: Vec<KeyHash>,
    },
}

#[derive(Clone, PartialEq, Message)]
struct HistoryRecord {
    /// The epoch since when the node was what this tells.
    #[prost(uint64, tag = "1")]
    since: u64,
    #[prost(oneof = "Shape", tags = "2, 3")]
    node: Option<Shape>,
    #[prost(message, optional, tag = "4")]
    replaced: Option<Heads>,
    /// Key hashes, one after the other.
    #[prost(bytes = "bytes", tag = "5")]
    added: Bytes,
}

impl Was {
    /// What tells `before` to those who know `after`.
    pub(crate) fn between(before: KeyedNode, after: &Node) -> Self {
        let (Node::Bucket(old), Node::Bucket(new)) = (&before.node, after) else { return Self::Node(before) };
        let mut replaced = Vec::new();
        let mut added = Vec::new();
        for head in new {
            match before.find(&head.key_hash) {
                Some((_, old)) if old == head => {}
                Some((key, old)) => replaced.push((key.clone(), *old)),
                None => added.push(head.key_hash),
            }
        }
        debug_assert_eq!(new.len() - added.len(), old.len(), "no entry leaves the tree");
        Self::Bucket { replaced, added }
    }

    /// The node as it was, when it is `after` now.
    pub(crate) fn before(
        self,
        at: &[u8],
        position: &Position,
        after: KeyedNode,
    ) -> Result<KeyedNode, Damaged> {
        let (replaced, added) = match self {
            Self::Node(node) => return Ok(node),
            Self::Bucket { replaced, added } => (replaced, added),
        };
        let Node::Bucket(heads) = &after.node else {
            return Err(Damaged::new(at, "tells a bucket by what is none"));
        };
        let mut keyed: Vec<(Key, EntryHead)> = Vec::with_capacity(heads.len());
        for (key, head) in after.keys.iter().zip(heads) {
            if added.contains(&head.key_hash) {
                continue;
            }
            let old = replaced.iter().find(|(_, old)| old.key_hash == head.key_hash);
            keyed.push(old.cloned().unwrap_or_else(|| (key.clone(), *head)));
        }
        let (keys, heads) = keyed.into_iter().unzip();
        let node = Node::bucket(position, heads).map_err(|error| Damaged::new(at, error))?;
        Ok(KeyedNode { node, keys })
    }
}

/// The record of what a node was since an epoch.
pub(crate) fn encode(at: &[u8], was: &Was, since: Epoch) -> Bytes {
    let mut history = HistoryRecord { since: since.0, ..HistoryRecord::default() };
    match was {
        Was::Node(keyed) => history.node = Some(node::shape(keyed)),
        Was::Bucket { replaced, added } => {
            let mut heads = Heads::default();
            replaced.iter().for_each(|(key, head)| heads.push(key, head));
            history.replaced = (!replaced.is_empty()).then_some(heads);
            history.added = added.iter().flat_map(|hash| *hash.0.as_bytes()).collect::<Vec<u8>>().into();
        }
    }
    record::encode(at, &history)
}

/// What a node was, and since when.
pub(crate) fn decode(at: &[u8], position: &Position, framed: &Bytes) -> Result<(Was, Epoch), Damaged> {
    let history = record::decode::<HistoryRecord>(at, framed)?;
    let was = match history.node {
        Some(shape) => Was::Node(node::parse(at, position, shape)?),
        None => {
            let hashes = history.added.chunks_exact(32);
            if !hashes.remainder().is_empty() {
                return Err(Damaged::new(at, "ends within a key hash"));
            }
            let hashes = hashes.map(|hash| Digest::try_from(hash).map(KeyHash));
            let added = hashes.collect::<Result<_, _>>().map_err(|error| Damaged::new(at, error))?;
            let replaced = history.replaced.map_or(Ok(Vec::new()), |heads| heads.parse(at))?;
            Was::Bucket { replaced, added }
        }
    };
    Ok((was, Epoch(history.since)))
}

#[cfg(test)]
mod tests {
    use lattice_core::model::{HeadContent, Hlc, NodeId, Version};
    use lattice_core::tree::{FANOUT, Summary};

    use super::*;

    fn bucket(entries: &[(&str, u64)]) -> KeyedNode {
        let mut keyed: Vec<(Key, EntryHead)> = Vec::new();
        for (name, hlc) in entries {
            let key = Key::try_from(*name).unwrap();
            let version = Version { hlc: Hlc(*hlc), writer: NodeId([7; 32]) };
            let content = HeadContent::Tombstone;
            let head = EntryHead { key_hash: key.hash(), version, expires: None, content };
            keyed.push((key, head));
        }
        keyed.sort_by_key(|(_, head)| head.key_hash);
        let (keys, heads) = keyed.into_iter().unzip();
        KeyedNode { node: Node::bucket(&Position::ROOT, heads).unwrap(), keys }
    }

    fn inner() -> KeyedNode {
        let mut children = vec![Summary::EMPTY; FANOUT];
        children[3] = Summary { digest: Digest([1; 32]), entries: 40, tombstones: 2 };
        KeyedNode { node: Node::inner(children).unwrap(), keys: Vec::new() }
    }

    #[test]
    fn a_node_comes_back_as_it_was() {
        let old = bucket(&[("a", 1), ("b", 1)]);
        let new = bucket(&[("a", 1), ("b", 2), ("c", 2), ("d", 2)]);
        for (before, after) in [(&old, &new), (&old, &old), (&old, &inner()), (&inner(), &inner())] {
            let was = Was::between(before.clone(), &after.node);
            let framed = encode(b"wkey", &was, Epoch(77));
            let (read, since) = decode(b"wkey", &Position::ROOT, &framed).unwrap();
            assert_eq!((&read, since), (&was, Epoch(77)));
            assert_eq!(read.before(b"wkey", &Position::ROOT, after.clone()).unwrap(), *before);
        }
        let was = Was::between(old, &new.node);
        let Was::Bucket { replaced, added } = &was else { panic!("told whole") };
        assert_eq!((replaced.len(), added.len()), (1, 2));
        assert!(was.before(b"wkey", &Position::ROOT, inner()).is_err());
    }
}
