//! Entries: a key with its value or its deletion, and what the tree knows of it.
//!
//! The tree never sees a value, only its digest. So a value may be dropped after it expired without any
//! digest changing, and a peer can tell from [`EntryHead`]s alone which entries it lacks.

use std::time::Duration;

use bytes::Bytes;

use super::{Digest, Key, KeyHash, Version};
use crate::time::WallTime;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The longest that a write may ask its key to live: ten years, longer than any lease, and far from where times overflow.
pub const TTL_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A value, at most [`VALUE_BYTES_MAX`] bytes.
    Value(Bytes),
    /// The value expired and was dropped; its digest stays, so that the entry's digest does.
    Dropped {
        /// SHA-256 of the value.
        value_digest: Digest,
    },
    /// The key was deleted.
    Tombstone,
}

/// A key with its value or its deletion. What replicas exchange and merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is an entry of.
    pub key: Key,
    /// What orders it among the entries of this key.
    pub version: Version,
    /// From this instant on the entry reads as absent. It makes no new version.
    pub expires: Option<WallTime>,
    /// Value or deletion.
    pub content: Content,
}

/// What the tree commits to of an entry: everything but the key's and the value's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// The key's place in the tree.
    pub key_hash: KeyHash,
    /// The entry's version.
    pub version: Version,
    /// The entry's expiry.
    pub expires: Option<WallTime>,
    /// Value (by digest) or deletion.
    pub content: HeadContent,
}

/// What a head says of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadContent {
    /// A value, kept or dropped, with this SHA-256.
    Value(Digest),
    /// A deletion.
    Tombstone,
}

/// A value has more than [`VALUE_BYTES_MAX`] bytes; whoever says it names which before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {length} bytes: it takes at most 1048576")]
pub struct ValueTooLong {
    /// Its length in bytes.
    pub length: usize,
}

impl Content {
    /// A value, if it is not too long.
    ///
    /// # Errors
    /// [`ValueTooLong`] beyond [`VALUE_BYTES_MAX`] bytes.
    pub fn value(bytes: Bytes) -> Result<Self, ValueTooLong> {
        match bytes.len() {
            0..=VALUE_BYTES_MAX => Ok(Self::Value(bytes)),
            length => Err(ValueTooLong { length }),
        }
    }
}

impl Entry {
    /// What the tree commits to. Hashes key and value.
    pub fn head(&self) -> EntryHead {
        EntryHead {
            key_hash: self.key.hash(),
            version: self.version,
            expires: self.expires,
            content: match &self.content {
                Content::Value(value) => HeadContent::Value(Digest::of(&[value])),
                Content::Dropped { value_digest } => HeadContent::Value(*value_digest),
                Content::Tombstone => HeadContent::Tombstone,
            },
        }
    }

    /// Whether a client reads a value here at `now`: neither deleted, nor expired, nor dropped.
    pub fn visible(&self, now: WallTime) -> bool {
        matches!(self.content, Content::Value(_)) && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether `self` replaces `other` of the same key: the greater version does; equal versions with
    /// different content (a cloned disk) are settled by the greater content digest.
    ///
    /// Total and antisymmetric, so that merging is commutative, associative and idempotent. An entry and its
    /// twin whose value was dropped are equal here: neither replaces the other.
    pub fn replaces(&self, other: &Self) -> bool {
        debug_assert_eq!(self.key, other.key, "only entries of one key compete");
        match self.version.cmp(&other.version) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.head().digest() > other.head().digest(),
        }
    }
}

impl EntryHead {
    /// The entry's digest: SHA-256 over key hash, version, expiry and the digest of the value, each of fixed
    /// size, after a domain of its own.
    pub fn digest(&self) -> Digest {
        let (has_expiry, expires) = match self.expires {
            None => ([0], [0; 8]),
            Some(at) => ([1], at.millis().to_be_bytes()),
        };
        let (kind, value) = match self.content {
            HeadContent::Tombstone => ([0], [0; 32]),
            HeadContent::Value(digest) => ([1], digest.0),
        };
        Digest::of(&[
            b"lattice/v1/entry\0",
            self.key_hash.0.as_bytes(),
            &self.version.hlc.0.to_be_bytes(),
            self.version.writer.as_bytes(),
            &has_expiry,
            &expires,
            &kind,
            &value,
        ])
    }

    /// Whether the entry is a deletion.
    pub fn is_tombstone(&self) -> bool {
        self.content == HeadContent::Tombstone
    }

    /// Whether holding `self` means lacking nothing of `other`, an entry of the same key: a greater version,
    /// or an equal one with a digest at least as great.
    pub fn dominates(&self, other: &Self) -> bool {
        debug_assert_eq!(self.key_hash, other.key_hash, "only entries of one key compete");
        match self.version.cmp(&other.version) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.digest() >= other.digest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Hlc, NodeId};

    fn entry(content: Content) -> Entry {
        Entry {
            key: Key::try_from("key-0").unwrap(),
            version: Version { hlc: Hlc::at(WallTime(1_000)), writer: NodeId([7; 32]) },
            expires: None,
            content,
        }
    }

    #[test]
    fn digests_keep_their_golden_values() {
        let value = entry(Content::Value(Bytes::from_static(b"value-0")));
        assert_eq!(
            value.head().digest().to_string(),
            "9ef542845a7cee4426592ed946d717224d0f19aa6c60f11ed692ebe96d7d6e41"
        );
        let tombstone = Entry {
            key: Key::try_from("key-9").unwrap(),
            version: Version { hlc: Hlc::at(WallTime(1_009)), writer: NodeId([7; 32]) },
            ..entry(Content::Tombstone)
        };
        assert_eq!(
            tombstone.head().digest().to_string(),
            "8d0d07faa8787d0ca8c678c2181bfe26acddf06e75c6efd415b1fe916ea7d7f1"
        );
        let expiring = Entry {
            key: Key::try_from("key-6").unwrap(),
            version: Version { hlc: Hlc::at(WallTime(1_006)), writer: NodeId([7; 32]) },
            expires: Some(WallTime(5_006)),
            content: Content::Value(Bytes::from_static(b"value-6")),
        };
        assert_eq!(
            expiring.head().digest().to_string(),
            "e644cd25c358c53b94b3b31f357de1fecf112c80010865f6acafdd20e093a6ef"
        );
    }

    #[test]
    fn dropping_a_value_changes_no_digest_and_replaces_nothing() {
        let kept = entry(Content::Value(Bytes::from_static(b"gone soon")));
        let dropped = entry(Content::Dropped { value_digest: Digest::of(&[b"gone soon"]) });
        assert_eq!(kept.head(), dropped.head());
        assert!(!kept.replaces(&dropped) && !dropped.replaces(&kept));
        assert!(kept.visible(WallTime(0)) && !dropped.visible(WallTime(0)));
    }

    #[test]
    fn an_entry_reads_as_absent_from_its_expiry_on() {
        let expiring = Entry { expires: Some(WallTime(5)), ..entry(Content::Value(Bytes::new())) };
        assert!(expiring.visible(WallTime(4)));
        assert!(!expiring.visible(WallTime(5)));
        assert!(!entry(Content::Tombstone).visible(WallTime(0)));
    }

    #[test]
    fn a_value_has_a_longest_length() {
        assert!(Content::value(Bytes::from(vec![0; VALUE_BYTES_MAX])).is_ok());
        let length = VALUE_BYTES_MAX + 1;
        assert_eq!(Content::value(Bytes::from(vec![0; length])), Err(ValueTooLong { length }));
    }

    /// Entries of one key that often have equal versions, as of a cloned disk.
    fn arb_entry() -> impl Strategy<Value = Entry> {
        let content = prop_oneof![
            Just(Content::Tombstone),
            (0_u8..3).prop_map(|value| Content::Value(Bytes::from(vec![value]))),
        ];
        (0_u64..3, 0_u8..2, prop::option::of(0_u64..2), content).prop_map(
            |(hlc, writer, expires, content)| Entry {
                key: Key::try_from("k").unwrap(),
                version: Version { hlc: Hlc(hlc), writer: NodeId([writer; 32]) },
                expires: expires.map(WallTime),
                content,
            },
        )
    }

    fn merged(a: Entry, b: Entry) -> Entry {
        if b.replaces(&a) { b } else { a }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            a in arb_entry(), b in arb_entry(), c in arb_entry(),
        ) {
            prop_assert_eq!(merged(a.clone(), b.clone()), merged(b.clone(), a.clone()));
            prop_assert_eq!(
                merged(merged(a.clone(), b.clone()), c.clone()),
                merged(a.clone(), merged(b.clone(), c))
            );
            prop_assert_eq!(merged(a.clone(), a.clone()), a.clone());
            // Heads tell the same story: one replaces the other, or has nothing to lack of it.
            prop_assert_eq!(b.replaces(&a), !a.head().dominates(&b.head()));
        }

        #[test]
        fn any_order_of_the_same_entries_merges_to_the_same_one(
            (entries, shuffled) in prop::collection::vec(arb_entry(), 1..12)
                .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        ) {
            let fold = |entries: Vec<Entry>| entries.into_iter().reduce(merged).unwrap();
            let winner = fold(entries.clone());
            prop_assert!(entries.iter().all(|entry| winner.head().dominates(&entry.head())));
            prop_assert_eq!(fold(shuffled), winner);
        }
    }
}
