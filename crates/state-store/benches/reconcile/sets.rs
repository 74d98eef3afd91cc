//! What the two replicas hold: entries with keys in no order, and values that do not compress, or do.

use anyhow::Result;
use clap::ValueEnum;
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

/// What values are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Values {
    /// Bytes that do not compress.
    #[default]
    Random,
    /// Records of a service registry, as JSON.
    Json,
}

/// The state of the one who serves.
pub(crate) struct Sets {
    values: Values,
    heads: Vec<EntryHead>,
}

/// An entry as sets of others know it: its key, and what tells its versions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) head: EntryHead,
}

impl Sets {
    pub(crate) fn new(keys: u64, values: Values) -> Self {
        Self { values, heads: (0..keys).map(|index| entry(index, 1, values).head()).collect() }
    }

    /// Entry `index` of the one who serves.
    pub(crate) fn entry(&self, index: u64) -> Entry {
        entry(index, 1, self.values)
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
            (true, Kind::Changed) => Some(Item { head: entry(item.index, 0, self.values).head(), ..item }),
        };
        self.all().filter_map(before).collect()
    }

    /// What the first entries take when each is encoded once: the least that anybody who lacks them must hear.
    pub(crate) fn bytes(&self, entries: u64) -> u64 {
        (0..entries).map(|index| entry_bytes(&self.entry(index)) as u64).sum()
    }
}

/// Entry `index`, in its older (0) or newer (1) version: in both, its time among the others is at random.
fn entry(index: u64, version: u64, values: Values) -> Entry {
    let drawn = digest("key", index);
    let key = hex::encode(&drawn.as_bytes()[..8]);
    let at = WallTime(FIRST + number(&digest("time", index)) % SPAN_MS + version);
    let value = match values {
        Values::Random => random(&drawn, version),
        Values::Json => record(&drawn, version, at),
    };
    Entry {
        key: Key::try_from(key.as_str()).expect("sixteen characters are a key"),
        version: Version { hlc: Hlc::at(at), writer: NodeId([7; 32]) },
        expires: None,
        content: Content::Value(value.into()),
    }
}

fn random(drawn: &Digest, version: u64) -> Vec<u8> {
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
    value
}

fn record(drawn: &Digest, version: u64, at: WallTime) -> Vec<u8> {
    const SERVICES: [&str; 4] = ["checkout", "catalogue", "payments", "search"];
    let [service, zone, second, third, fourth, port, weight, healthy, ..] = drawn.0;
    let value = format!(
        "{{\"service\":\"{}\",\"address\":\"10.{second}.{third}.{fourth}:{}\",\"zone\":\"eu-west-1{}\",\"weight\":{weight},\
         \"healthy\":{},\"revision\":{version},\"since\":{}}}",
        SERVICES[usize::from(service) % SERVICES.len()],
        8_000 + u16::from(port),
        char::from(b'a' + zone % 3),
        healthy > 5,
        at.millis(),
    );
    value.into_bytes()
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
