//! Of keys and values.

use lattice_core::model::Version;
use lattice_proto::kv::v1 as kv;
use lattice_proto::types::v1 as types;
use serde::Serialize;
use utoipa::ToSchema;

use super::{base64, cursor_text, time, version};
use crate::key;

/// The answer to a write.
#[derive(Debug, Serialize, ToSchema)]
pub struct Written {
    key: String,
    version: String,
    expires: Option<String>,
}

impl Written {
    /// A write of `key`: what it is since then, and when that expires, in Unix milliseconds.
    pub fn new(key: &[u8], version: &Version, expires_ms: Option<u64>) -> Self {
        Self { key: key::text(key), version: version.to_string(), expires: expires_ms.map(time) }
    }
}

/// The answer to a delete.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    key: String,
    version: String,
}

impl Deleted {
    /// A delete of `key`, and the version of that.
    pub fn new(key: &[u8], version: &Version) -> Self {
        Self { key: key::text(key), version: version.to_string() }
    }
}

/// A page of entries.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page {
    entries: Vec<Entry>,
    /// The cursor of the next page; `null` at the end.
    next: Option<String>,
}

impl Page {
    /// Entries with values, and the cursor of what follows them, empty at the end; `None` when one has no value or no
    /// version.
    pub fn new(entries: Vec<types::Entry>, next: &[u8]) -> Option<Self> {
        let entries = entries.into_iter().map(Entry::new).collect::<Option<_>>()?;
        Some(Self { entries, next: cursor_text(next) })
    }
}

/// An entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    key: String,
    /// Base64.
    value: String,
    version: String,
    expires: Option<String>,
}

impl Entry {
    /// An entry with its value; `None` when it has no value, or no version.
    pub fn new(entry: types::Entry) -> Option<Self> {
        let Some(types::entry::Content::Value(value)) = entry.content else { return None };
        Some(Self {
            key: key::text(&entry.key),
            value: base64(&value),
            version: version(entry.version)?.to_string(),
            expires: entry.expires_ms.map(time),
        })
    }
}

/// A change.
#[derive(Debug, Serialize, ToSchema)]
pub struct Change {
    key: String,
    /// `put`, `delete`, or `expire`: an entry came whose value had gone already.
    op: &'static str,
    value: Option<String>,
    version: Option<String>,
    expires: Option<String>,
}

impl From<types::Entry> for Change {
    fn from(entry: types::Entry) -> Self {
        let (op, value) = match entry.content {
            Some(types::entry::Content::Value(value)) => ("put", Some(base64(&value))),
            Some(types::entry::Content::Dropped(_)) => ("expire", None),
            Some(types::entry::Content::Tombstone(_)) | None => ("delete", None),
        };
        Self {
            key: key::text(&entry.key),
            op,
            value,
            version: version(entry.version).map(|version| version.to_string()),
            expires: entry.expires_ms.map(time),
        }
    }
}

/// The answer to a restore.
#[derive(Debug, Serialize, ToSchema)]
pub struct Restored {
    success: bool,
    cluster: String,
    entries: u64,
    merged: u64,
    known: u64,
    held: u64,
    dropped: u64,
}

impl From<kv::RestoreResponse> for Restored {
    fn from(answer: kv::RestoreResponse) -> Self {
        let kv::RestoreResponse { cluster, entries, merged, known, held, dropped } = answer;
        Self { success: true, cluster, entries, merged, known, held, dropped }
    }
}

/// The answer to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Batched {
    pub(crate) versions: Vec<String>,
}

/// A proof, and what it says.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct Proof {
    success: bool,
    key: String,
    included: bool,
    entry: Option<ProvedEntry>,
    epoch: u64,
    /// The newest write of the key, when the seal does not cover it yet.
    unsealed: Option<Unsealed>,
    /// The signed seal, as it can be read.
    #[schema(value_type = Object)]
    seal: serde_json::Value,
    /// A `lattice.kv.v1.ProveResponse` in base64: nothing else is evidence.
    proof: String,
}

/// The entry that a proof is about.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct ProvedEntry {
    version: String,
    expires: Option<String>,
    deleted: bool,
    value: Option<String>,
}

/// A write that is not sealed yet.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct Unsealed {
    version: String,
    epoch: u64,
}

/// The whole state as of a seal.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what routes::full streams")]
pub(crate) struct Full {
    success: bool,
    merkle_root: Option<String>,
    epoch: Option<u64>,
    /// Values by their keys; one that is not UTF-8 is `{"base64": ".."}`.
    #[schema(value_type = Object)]
    state: serde_json::Value,
}

/// Any bytes.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "a shape")]
pub(crate) struct Binary(Vec<u8>);
