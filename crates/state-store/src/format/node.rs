//! A node of the tree as a record.
//!
//! A bucket holds the keys of its entries rather than their hashes: most keys are shorter, and whoever has a
//! key hash finds the entry by it. Writers are listed once a bucket. Children that hold nothing are left out
//! of an inner node.

use std::collections::HashMap;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, HeadContent, Hlc, Key, KeyHash, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_core::tree::{FANOUT, Node, Position, Summary};
use prost::Message;

use super::frame::Damaged;
use super::record;

#[derive(Clone, PartialEq, Message)]
struct NodeRecord {
    #[prost(oneof = "Shape", tags = "1, 2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Shape {
    #[prost(message, tag = "1")]
    Bucket(BucketRecord),
    #[prost(message, tag = "2")]
    Inner(InnerRecord),
}

#[derive(Clone, PartialEq, Message)]
struct BucketRecord {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    writers: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    heads: Vec<HeadRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct HeadRecord {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(fixed64, tag = "2")]
    hlc: u64,
    #[prost(uint32, tag = "3")]
    writer: u32,
    #[prost(uint64, optional, tag = "4")]
    expires_ms: Option<u64>,
    /// Empty for a deletion.
    #[prost(bytes = "bytes", tag = "5")]
    value_digest: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct InnerRecord {
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
    /// The entry of a key hash in a bucket.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<(&Key, &EntryHead)> {
        let Node::Bucket(heads) = &self.node else { return None };
        let index = heads.binary_search_by_key(hash, |head| head.key_hash).ok()?;
        Some((&self.keys[index], &heads[index]))
    }
}

/// The record of a node; `keys` knows the keys of its heads.
pub(crate) fn encode(at: &[u8], node: &Node, keys: &HashMap<KeyHash, Key>) -> Result<Bytes, Damaged> {
    let shape = match node {
        Node::Bucket(heads) => Shape::Bucket(bucket(at, heads, keys)?),
        Node::Inner(children) => Shape::Inner(inner(children)),
    };
    Ok(record::encode(at, &NodeRecord { shape: Some(shape) }))
}

fn bucket(at: &[u8], heads: &[EntryHead], keys: &HashMap<KeyHash, Key>) -> Result<BucketRecord, Damaged> {
    let mut writers: Vec<NodeId> = Vec::new();
    let mut records = Vec::with_capacity(heads.len());
    for head in heads {
        let key =
            keys.get(&head.key_hash).ok_or_else(|| Damaged::new(at, "holds a key hash without a key"))?;
        let place = writers.iter().position(|writer| *writer == head.version.writer);
        let writer = place.unwrap_or_else(|| {
            writers.push(head.version.writer);
            writers.len() - 1
        });
        records.push(HeadRecord {
            key: key.clone().into_bytes(),
            hlc: head.version.hlc.0,
            writer: u32::try_from(writer).expect("a bucket has at most 32 writers"),
            expires_ms: head.expires.map(WallTime::millis),
            value_digest: match &head.content {
                HeadContent::Value(digest) => Bytes::copy_from_slice(digest.as_bytes()),
                HeadContent::Tombstone => Bytes::new(),
            },
        });
    }
    let writers = writers.iter().map(|writer| Bytes::copy_from_slice(writer.as_bytes())).collect();
    Ok(BucketRecord { writers, heads: records })
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
pub(crate) fn decode(at: &[u8], position: &Position, framed: &Bytes) -> Result<KeyedNode, Damaged> {
    match record::decode::<NodeRecord>(at, framed)?.shape {
        Some(Shape::Bucket(bucket)) => decode_bucket(at, position, bucket),
        Some(Shape::Inner(inner)) => decode_inner(at, &inner),
        None => Err(Damaged::new(at, "is neither bucket nor inner node")),
    }
}

fn decode_bucket(at: &[u8], position: &Position, bucket: BucketRecord) -> Result<KeyedNode, Damaged> {
    let damaged = |problem: &dyn std::fmt::Display| Damaged::new(at, problem);
    let mut keys = Vec::with_capacity(bucket.heads.len());
    let mut heads = Vec::with_capacity(bucket.heads.len());
    for head in bucket.heads {
        let key = Key::try_from(head.key).map_err(|error| damaged(&error))?;
        let writer = bucket.writers.get(head.writer as usize).ok_or_else(|| damaged(&"names no writer"))?;
        let writer = NodeId::try_from(writer.as_ref()).map_err(|error| damaged(&error))?;
        let content = match head.value_digest.as_ref() {
            [] => HeadContent::Tombstone,
            digest => HeadContent::Value(Digest::try_from(digest).map_err(|error| damaged(&error))?),
        };
        heads.push(EntryHead {
            key_hash: key.hash(),
            version: Version { hlc: Hlc(head.hlc), writer },
            expires: head.expires_ms.map(WallTime),
            content,
        });
        keys.push(key);
    }
    let node = Node::bucket(position, heads).map_err(|error| damaged(&error))?;
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
    let Ok(NodeRecord { shape: Some(Shape::Bucket(bucket)) }) = NodeRecord::decode(content) else {
        return Vec::new();
    };
    match decode_bucket(&[], &Position::ROOT, bucket) {
        Ok(KeyedNode { node: Node::Bucket(heads), keys }) => keys.into_iter().zip(heads).collect(),
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_bucket_reads_back() {
        let keys: Vec<Key> = ["a", "b", "c"].iter().map(|key| Key::try_from(*key).unwrap()).collect();
        let known: HashMap<KeyHash, Key> = keys.iter().map(|key| (key.hash(), key.clone())).collect();
        let mut heads: Vec<EntryHead> = keys.iter().map(|key| head(key, key.as_bytes() == b"b")).collect();
        heads.sort_by_key(|head| head.key_hash);
        let node = Node::bucket(&Position::ROOT, heads).unwrap();
        let framed = encode(b"nkey", &node, &known).unwrap();
        let read = decode(b"nkey", &Position::ROOT, &framed).unwrap();
        assert_eq!(read.node, node);
        let (key, head) = read.find(&keys[1].hash()).unwrap();
        assert_eq!((key, head.is_tombstone()), (&keys[1], true));
        assert!(encode(b"nkey", &node, &HashMap::new()).is_err());
    }

    #[test]
    fn an_inner_node_reads_back() {
        let mut children = vec![Summary::EMPTY; FANOUT];
        children[3] = Summary { digest: Digest([1; 32]), entries: 40, tombstones: 2 };
        children[15] = Summary { digest: Digest([2; 32]), entries: 0, tombstones: 1 };
        let node = Node::inner(children).unwrap();
        let framed = encode(b"nkey", &node, &HashMap::new()).unwrap();
        assert_eq!(decode(b"nkey", &Position::ROOT, &framed).unwrap().node, node);
    }
}
