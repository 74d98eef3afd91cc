//! Heads of entries, many in one record: in a bucket of the tree, and in a list of what awaits sealing.
//!
//! They hold the keys of the entries rather than their hashes: most keys are shorter, and whoever has a key hash
//! finds the entry by it. Writers are listed once a record.

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, HeadContent, Hlc, Key, NodeId, Version};
use lattice_core::time::WallTime;
use prost::Message;

use super::frame::Damaged;

/// Heads, and the keys that they are of.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Heads {
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

impl Heads {
    /// Adds the head of a key.
    pub(crate) fn push(&mut self, key: &Key, head: &EntryHead) {
        let place = self.writers.iter().position(|writer| writer[..] == head.version.writer.as_bytes()[..]);
        let writer = place.unwrap_or_else(|| {
            self.writers.push(Bytes::copy_from_slice(head.version.writer.as_bytes()));
            self.writers.len() - 1
        });
        self.heads.push(HeadRecord {
            key: key.clone().into_bytes(),
            hlc: head.version.hlc.0,
            writer: u32::try_from(writer).expect("a record has at most as many writers as heads"),
            expires_ms: head.expires.map(WallTime::millis),
            value_digest: match &head.content {
                HeadContent::Value(digest) => Bytes::copy_from_slice(digest.as_bytes()),
                HeadContent::Tombstone => Bytes::new(),
            },
        });
    }

    /// About how many bytes a head of this key takes.
    pub(crate) fn bytes_of(key: &Key) -> usize {
        key.as_bytes().len() + 52
    }

    /// What the record at `at` holds, in the order in which it was added.
    pub(crate) fn parse(self, at: &[u8]) -> Result<Vec<(Key, EntryHead)>, Damaged> {
        let damaged = |problem: &dyn std::fmt::Display| Damaged::new(at, problem);
        let mut parsed = Vec::with_capacity(self.heads.len());
        for head in self.heads {
            let key =
                Key::try_from(head.key).map_err(|error| damaged(&format_args!("a key of it {error}")))?;
            let writer = self.writers.get(head.writer as usize).ok_or_else(|| damaged(&"names no writer"))?;
            let writer = NodeId::try_from(writer.as_ref()).map_err(|error| damaged(&error))?;
            let content = match head.value_digest.as_ref() {
                [] => HeadContent::Tombstone,
                digest => HeadContent::Value(Digest::try_from(digest).map_err(|error| damaged(&error))?),
            };
            let head = EntryHead {
                key_hash: key.hash(),
                version: Version { hlc: Hlc(head.hlc), writer },
                expires: head.expires_ms.map(WallTime),
                content,
            };
            parsed.push((key, head));
        }
        Ok(parsed)
    }
}

/// The heads in a record, wherever it stood; none in what is no such record.
pub(crate) fn named(content: &[u8]) -> Vec<(Key, EntryHead)> {
    Heads::decode(content).ok().and_then(|heads| heads.parse(&[]).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_read_back_in_their_order() {
        let mut heads = Heads::default();
        let mut added = Vec::new();
        for (index, name) in ["b", "a", "c"].into_iter().enumerate() {
            let key = Key::try_from(name).unwrap();
            let tombstone = name == "a";
            let head = EntryHead {
                key_hash: key.hash(),
                version: Version { hlc: Hlc(index as u64), writer: NodeId([index as u8 % 2; 32]) },
                expires: tombstone.then_some(WallTime(99)),
                content: match tombstone {
                    true => HeadContent::Tombstone,
                    false => HeadContent::Value(Digest::of(&[b"value"])),
                },
            };
            heads.push(&key, &head);
            added.push((key, head));
        }
        assert_eq!(heads.writers.len(), 2);
        let read = Heads::decode(Bytes::from(heads.encode_to_vec())).unwrap();
        assert_eq!(read.parse(b"p").unwrap(), added);
    }

    #[test]
    fn a_head_without_its_writer_is_refused() {
        let key = Key::try_from("a").unwrap();
        let mut heads = Heads::default();
        let version = Version { hlc: Hlc(1), writer: NodeId([3; 32]) };
        let head =
            EntryHead { key_hash: key.hash(), version, expires: None, content: HeadContent::Tombstone };
        heads.push(&key, &head);
        heads.writers.clear();
        assert!(heads.parse(b"p").is_err());
    }
}
