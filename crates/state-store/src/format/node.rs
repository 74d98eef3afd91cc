//! A node of the tree as a record.
//!
//! A bucket holds heads with their keys (`heads`). Children that hold nothing are left out of an inner node.

use std::collections::HashMap;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Epoch, Key, KeyHash};
use lattice_core::tree::{FANOUT, Node, Position, Summary};
use prost::Message;

use super::frame::Damaged;
use super::heads::Heads;
use super::record;

#[derive(Clone, PartialEq, Message)]
struct NodeRecord {
    #[prost(oneof = "Shape", tags = "2, 3")]
    shape: Option<Shape>,
    /// The epoch since when it is so, and the one since when there is a node.
    #[prost(uint64, tag = "1")]
    since: u64,
    #[prost(uint64, tag = "4")]
    first: u64,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Shape {
    #[prost(message, tag = "2")]
    Bucket(Heads),
    #[prost(message, tag = "3")]
    Inner(InnerRecord),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InnerRecord {
    /// Bit i is set when child i holds something.
    #[prost(uint32, tag = "1")]
    present: u32,
    /// Of those, one after the other.
    #[prost(bytes = "bytes", tag = "2")]
    digests: Bytes,
    #[prost(uint64, repeated, tag = "3")]
    entries: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    tombstones: Vec<u64>,
}

/// A node, and the keys of its heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyedNode {
    pub(crate) node: Node,
    /// One for each head of a bucket, in their order; none for an inner node.
    pub(crate) keys: Vec<Key>,
}

impl KeyedNode {
    /// A node, with the keys of its heads from `keys`.
    pub(crate) fn with_keys(node: Node, keys: &HashMap<KeyHash, Key>) -> Option<Self> {
        let keys = match &node {
            Node::Bucket(heads) => {
                heads.iter().map(|head| keys.get(&head.key_hash).cloned()).collect::<Option<_>>()?
            }
            Node::Inner(_) => Vec::new(),
        };
        Some(Self { node, keys })
    }

    /// The entry of a key hash in a bucket.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<(&Key, &EntryHead)> {
        let Node::Bucket(heads) = &self.node else { return None };
        let index = heads.binary_search_by_key(hash, |head| head.key_hash).ok()?;
        Some((&self.keys[index], &heads[index]))
    }
}

/// Since when a node is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    /// The epoch since when it is so.
    pub(crate) since: Epoch,
    /// The epoch since when there is a node at its position.
    pub(crate) first: Epoch,
}

/// The record of a node.
pub(crate) fn encode(at: &[u8], keyed: &KeyedNode, age: Age) -> Bytes {
    let record = NodeRecord { since: age.since.0, first: age.first.0, shape: Some(shape(keyed)) };
    record::encode(at, &record)
}

/// What is written of a node.
pub(crate) fn shape(keyed: &KeyedNode) -> Shape {
    match &keyed.node {
        Node::Bucket(heads) => {
            let mut record = Heads::default();
            for (key, head) in keyed.keys.iter().zip(heads) {
                record.push(key, head);
            }
            Shape::Bucket(record)
        }
        Node::Inner(children) => Shape::Inner(inner(children)),
    }
}

fn inner(children: &[Summary; FANOUT]) -> InnerRecord {
    let mut record = InnerRecord::default();
    let mut digests = Vec::new();
    for (index, child) in children.iter().enumerate().filter(|(_, child)| child.total() > 0) {
        record.present |= 1 << index;
        digests.extend_from_slice(child.digest.as_bytes());
        record.entries.push(child.entries);
        record.tombstones.push(child.tombstones);
    }
    record.digests = digests.into();
    record
}

/// The node in the record at `at`, which hangs at `position`.
pub(crate) fn decode(at: &[u8], position: &Position, framed: &Bytes) -> Result<(KeyedNode, Age), Damaged> {
    let NodeRecord { shape, since, first } = record::decode(at, framed)?;
    let shape = shape.ok_or_else(|| Damaged::new(at, "is neither bucket nor inner node"))?;
    Ok((parse(at, position, shape)?, Age { since: Epoch(since), first: Epoch(first) }))
}

/// The node that was written so.
pub(crate) fn parse(at: &[u8], position: &Position, shape: Shape) -> Result<KeyedNode, Damaged> {
    match shape {
        Shape::Bucket(bucket) => decode_bucket(at, position, bucket),
        Shape::Inner(inner) => decode_inner(at, &inner),
    }
}

fn decode_bucket(at: &[u8], position: &Position, bucket: Heads) -> Result<KeyedNode, Damaged> {
    let (keys, heads) = bucket.parse(at)?.into_iter().unzip();
    let node = Node::bucket(position, heads).map_err(|error| Damaged::new(at, error))?;
    Ok(KeyedNode { node, keys })
}

fn decode_inner(at: &[u8], inner: &InnerRecord) -> Result<KeyedNode, Damaged> {
    let damaged = |problem: &dyn std::fmt::Display| Damaged::new(at, problem);
    let mut children = vec![Summary::EMPTY; FANOUT];
    let mut digests = inner.digests.chunks_exact(32);
    let mut counts = inner.entries.iter().zip(&inner.tombstones);
    for (index, child) in children.iter_mut().enumerate() {
        if inner.present & (1 << index) != 0 {
            let (Some(digest), Some((entries, tombstones))) = (digests.next(), counts.next()) else {
                return Err(damaged(&"lacks children"));
            };
            let digest = Digest::try_from(digest).map_err(|error| damaged(&error))?;
            *child = Summary { digest, entries: *entries, tombstones: *tombstones };
        }
    }
    if digests.next().is_some() || counts.next().is_some() || !digests.remainder().is_empty() {
        return Err(damaged(&"has more children than it says"));
    }
    let node = Node::inner(children).map_err(|error| damaged(&error))?;
    Ok(KeyedNode { node, keys: Vec::new() })
}

/// The entries that a bucket's record names, wherever it hung; none for an inner node, or what is no node.
pub(crate) fn named(content: &[u8]) -> Vec<(Key, EntryHead)> {
    let Ok(NodeRecord { shape: Some(Shape::Bucket(bucket)), .. }) = NodeRecord::decode(content) else {
        return Vec::new();
    };
    match decode_bucket(&[], &Position::ROOT, bucket) {
        Ok(KeyedNode { node: Node::Bucket(heads), keys }) => keys.into_iter().zip(heads).collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use lattice_core::model::{HeadContent, Hlc, NodeId, Version};
    use lattice_core::time::WallTime;

    use super::*;

    fn head(key: &Key, tombstone: bool) -> EntryHead {
        let content =
            if tombstone { HeadContent::Tombstone } else { HeadContent::Value(Digest::of(&[b"value"])) };
        EntryHead {
            key_hash: key.hash(),
            version: Version { hlc: Hlc(77), writer: NodeId([3; 32]) },
            expires: tombstone.then_some(WallTime(99)),
            content,
        }
    }

    const AGE: Age = Age { since: Epoch(9), first: Epoch(7) };

    #[test]
    fn a_bucket_reads_back() {
        let keys: Vec<Key> = ["a", "b", "c"].iter().map(|key| Key::try_from(*key).unwrap()).collect();
        let known: HashMap<KeyHash, Key> = keys.iter().map(|key| (key.hash(), key.clone())).collect();
        let mut heads: Vec<EntryHead> = keys.iter().map(|key| head(key, key.as_bytes() == b"b")).collect();
        heads.sort_by_key(|head| head.key_hash);
        let node = Node::bucket(&Position::ROOT, heads).unwrap();
        assert_eq!(KeyedNode::with_keys(node.clone(), &HashMap::new()), None);
        let keyed = KeyedNode::with_keys(node, &known).unwrap();
        let framed = encode(b"nkey", &keyed, AGE);
        let (read, age) = decode(b"nkey", &Position::ROOT, &framed).unwrap();
        assert_eq!((&read, age), (&keyed, AGE));
        let (key, head) = read.find(&keys[1].hash()).unwrap();
        assert_eq!((key, head.is_tombstone()), (&keys[1], true));
    }

    #[test]
    fn an_inner_node_reads_back() {
        let mut children = vec![Summary::EMPTY; FANOUT];
        children[3] = Summary { digest: Digest([1; 32]), entries: 40, tombstones: 2 };
        children[15] = Summary { digest: Digest([2; 32]), entries: 0, tombstones: 1 };
        let keyed = KeyedNode { node: Node::inner(children).unwrap(), keys: Vec::new() };
        let framed = encode(b"nkey", &keyed, AGE);
        assert_eq!(decode(b"nkey", &Position::ROOT, &framed).unwrap(), (keyed, AGE));
    }
}
