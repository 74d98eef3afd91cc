//! What the two replicas hold: entries with keys in no order, and values that do not compress.

use anyhow::Result;
use lattice_core::model::{Content, Digest, Entry, EntryHead, HeadContent, Hlc, Key, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_proto::codec::entry_bytes;
use serde::Serialize;

/// How long values are.
pub(crate) const VALUE_BYTES: usize = 100;
/// When the first entry was written, in Unix milliseconds, and over how long the others.
pub(crate) const FIRST: u64 = 1_700_000_000_000;
pub(crate) const SPAN_MS: u64 = 10_000_000;

/// How the one who pulls differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It lacks entries.
    Missing,
    /// It has older versions of them.
    Changed,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
        }
    }
}

/// The state of the one who serves.
pub(crate) struct Sets {
    heads: Vec<EntryHead>,
}

/// An entry as sets of others know it: its key, and what tells its versions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) head: EntryHead,
}

impl Sets {
    pub(crate) fn new(keys: u64) -> Self {
        Self { heads: (0..keys).map(|index| entry(index, 1).head()).collect() }
    }

    pub(crate) fn keys(&self) -> u64 {
        self.heads.len() as u64
    }

    /// All that the one who serves holds.
    pub(crate) fn all(&self) -> impl Iterator<Item = Item> {
        (0..).zip(&self.heads).map(|(index, head)| Item { index, head: *head })
    }

    /// What the one who pulls holds, when the first `differing` entries differ. Keys are hashed, so that these are
    /// anywhere in the tree.
    pub(crate) fn behind(&self, kind: Kind, differing: u64) -> Vec<Item> {
        let before = |item: Item| match (item.index < differing, kind) {
            (false, _) => Some(item),
            (true, Kind::Missing) => None,
            (true, Kind::Changed) => Some(Item { head: entry(item.index, 0).head(), ..item }),
        };
        self.all().filter_map(before).collect()
    }

    /// What the first entries take when each is encoded once: the least that anybody who lacks them must hear.
    pub(crate) fn bytes(&self, entries: u64) -> u64 {
        (0..entries).map(|index| entry_bytes(&entry(index, 1)) as u64).sum()
    }
}

/// Entry `index`, in its older (0) or newer (1) version: in both, its time among the others is at random.
pub(crate) fn entry(index: u64, version: u64) -> Entry {
    let drawn = digest("key", index);
    let key = hex::encode(&drawn.as_bytes()[..8]);
    let at = WallTime(FIRST + number(&digest("time", index)) % SPAN_MS + version);
    let mut value = Vec::with_capacity(VALUE_BYTES + 32);
    for part in 0.. {
        if value.len() >= VALUE_BYTES {
            break;
        }
        value.extend_from_slice(
            Digest::of(&[drawn.as_bytes(), &u64::to_be_bytes(version), &u64::to_be_bytes(part)]).as_bytes(),
        );
    }
    value.truncate(VALUE_BYTES);
    Entry {
        key: Key::try_from(key.as_str()).expect("sixteen characters are a key"),
        version: Version { hlc: Hlc::at(at), writer: NodeId([7; 32]) },
        expires: None,
        content: Content::Value(value.into()),
    }
}

/// The key of entry `index`, and the digest of its value, as trees of others take them.
pub(crate) fn keyed(item: &Item) -> Result<(Vec<u8>, [u8; 32])> {
    let value = match item.head.content {
        HeadContent::Value(digest) => digest.0,
        HeadContent::Tombstone => anyhow::bail!("entry {} is a deletion", item.index),
    };
    Ok((hex::encode(&digest("key", item.index).as_bytes()[..8]).into_bytes(), value))
}

fn digest(what: &str, index: u64) -> Digest {
    Digest::of(&[what.as_bytes(), &index.to_be_bytes()])
}

fn number(digest: &Digest) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
