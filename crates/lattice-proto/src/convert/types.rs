//! The messages of `types.v1`.

use bytes::Bytes;
use lattice_core::model::{Content, Digest, Entry, EntryHead, Epoch, HeadContent, Hlc, KeyHash, Version};
use lattice_core::seal::{RUNS_MAX, Run, Seal};
use lattice_core::signed::Signed;
use lattice_core::time::WallTime;
use lattice_core::tree::{Position, Summary};

use super::field::{cluster, digest, fixed, incarnation, key, list, node, optional, required, value};
use super::{InField as _, Invalid};
use crate::types::v1 as wire;

/// The bytes of something of fixed size.
pub(super) fn bytes_of(fixed: &[u8]) -> Bytes {
    Bytes::copy_from_slice(fixed)
}

impl From<&Version> for wire::Version {
    fn from(version: &Version) -> Self {
        Self { hlc: version.hlc.0, writer: bytes_of(version.writer.as_bytes()) }
    }
}

impl TryFrom<wire::Version> for Version {
    type Error = Invalid;

    fn try_from(wire: wire::Version) -> Result<Self, Invalid> {
        Ok(Self { hlc: Hlc(wire.hlc), writer: node("writer", &wire.writer)? })
    }
}

impl From<&Entry> for wire::Entry {
    fn from(entry: &Entry) -> Self {
        use wire::entry::Content as WireContent;
        Self {
            key: entry.key.clone().into_bytes(),
            version: Some((&entry.version).into()),
            expires_ms: entry.expires.map(WallTime::millis),
            content: Some(match &entry.content {
                Content::Value(value) => WireContent::Value(value.clone()),
                Content::Dropped { value_digest } => WireContent::Dropped(bytes_of(value_digest.as_bytes())),
                Content::Tombstone => WireContent::Tombstone(wire::Tombstone {}),
            }),
        }
    }
}

impl TryFrom<wire::Entry> for Entry {
    type Error = Invalid;

    fn try_from(wire: wire::Entry) -> Result<Self, Invalid> {
        use wire::entry::Content as WireContent;
        Ok(Self {
            key: key("key", wire.key)?,
            version: required("version", wire.version)?,
            expires: wire.expires_ms.map(WallTime),
            content: match wire.content.ok_or_else(|| Invalid::missing("content"))? {
                WireContent::Value(bytes) => Content::Value(value("value", bytes)?),
                WireContent::Dropped(bytes) => Content::Dropped { value_digest: digest("dropped", &bytes)? },
                WireContent::Tombstone(wire::Tombstone {}) => Content::Tombstone,
            },
        })
    }
}

impl From<&EntryHead> for wire::EntryHead {
    fn from(head: &EntryHead) -> Self {
        use wire::entry_head::Content as WireContent;
        Self {
            key_hash: bytes_of(head.key_hash.0.as_bytes()),
            version: Some((&head.version).into()),
            expires_ms: head.expires.map(WallTime::millis),
            content: Some(match &head.content {
                HeadContent::Value(digest) => WireContent::ValueDigest(bytes_of(digest.as_bytes())),
                HeadContent::Tombstone => WireContent::Tombstone(wire::Tombstone {}),
            }),
        }
    }
}

impl TryFrom<wire::EntryHead> for EntryHead {
    type Error = Invalid;

    fn try_from(wire: wire::EntryHead) -> Result<Self, Invalid> {
        use wire::entry_head::Content as WireContent;
        Ok(Self {
            key_hash: KeyHash(fixed("key_hash", "a key hash", &wire.key_hash).map(Digest)?),
            version: required("version", wire.version)?,
            expires: wire.expires_ms.map(WallTime),
            content: match wire.content.ok_or_else(|| Invalid::missing("content"))? {
                WireContent::ValueDigest(bytes) => HeadContent::Value(digest("value_digest", &bytes)?),
                WireContent::Tombstone(wire::Tombstone {}) => HeadContent::Tombstone,
            },
        })
    }
}

impl From<&Summary> for wire::Summary {
    fn from(summary: &Summary) -> Self {
        Self {
            digest: bytes_of(summary.digest.as_bytes()),
            entries: summary.entries,
            tombstones: summary.tombstones,
        }
    }
}

impl TryFrom<wire::Summary> for Summary {
    type Error = Invalid;

    fn try_from(wire: wire::Summary) -> Result<Self, Invalid> {
        let wire::Summary { digest: bytes, entries, tombstones } = wire;
        Ok(Self { digest: digest("digest", &bytes)?, entries, tombstones })
    }
}

impl From<&Position> for wire::Position {
    fn from(position: &Position) -> Self {
        // At most 64.
        Self { depth: position.depth() as u32, prefix: bytes_of(position.prefix()) }
    }
}

impl TryFrom<wire::Position> for Position {
    type Error = Invalid;

    fn try_from(wire: wire::Position) -> Result<Self, Invalid> {
        Self::parse(wire.depth, &wire.prefix).map_err(|error| Invalid::new("", error))
    }
}

impl From<&Run> for wire::Run {
    fn from(run: &Run) -> Self {
        Self { epoch_from: run.from.0, epoch_to: run.to.0, root: run.root.as_ref().map(Into::into) }
    }
}

impl TryFrom<wire::Run> for Run {
    type Error = Invalid;

    fn try_from(wire: wire::Run) -> Result<Self, Invalid> {
        let (from, to) = (Epoch(wire.epoch_from), Epoch(wire.epoch_to));
        if from > to {
            return Err(Invalid::new("epoch_to", format!("takes at least epoch_from, {from}, got {to}")));
        }
        Ok(Self { from, to, root: root("root", wire.root)? })
    }
}

/// Runs in ascending order, at most [`RUNS_MAX`].
///
/// # Errors
/// [`Invalid`] when they are too many, one of them is none, or does not lie after the one before it.
pub fn runs(field: &str, wire: Vec<wire::Run>) -> Result<Vec<Run>, Invalid> {
    let runs: Vec<Run> = list(field, wire, RUNS_MAX)?;
    for (index, pair) in runs.windows(2).enumerate() {
        let (before, run) = (pair[0], pair[1]);
        if run.from <= before.to {
            let problem = format!("takes more than the run before it, {}, got {}", before.to, run.from);
            return Err(Invalid::new("epoch_from", problem)).in_item(field, index + 1);
        }
    }
    Ok(runs)
}

impl From<&Seal> for wire::Seal {
    fn from(seal: &Seal) -> Self {
        Self {
            cluster: seal.cluster.clone(),
            node: bytes_of(seal.node.as_bytes()),
            incarnation: bytes_of(&seal.incarnation.0),
            epoch: seal.epoch.0,
            root: seal.root.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Seal> for Seal {
    type Error = Invalid;

    fn try_from(wire: wire::Seal) -> Result<Self, Invalid> {
        Ok(Self {
            cluster: cluster("cluster", wire.cluster)?,
            node: node("node", &wire.node)?,
            incarnation: incarnation("incarnation", &wire.incarnation)?,
            epoch: Epoch(wire.epoch),
            root: root("root", wire.root)?,
        })
    }
}

/// A root over at least one entry or deletion; without any there is none.
fn root(field: &str, wire: Option<wire::Summary>) -> Result<Option<Summary>, Invalid> {
    let root: Option<Summary> = optional(field, wire)?;
    match root {
        Some(root) if root.total() == 0 => {
            Err(Invalid::new(field, "holds nothing: an empty tree has no root"))
        }
        root => Ok(root),
    }
}

impl From<&Signed> for wire::Signed {
    fn from(signed: &Signed) -> Self {
        Self { body: signed.body.clone(), signature: bytes_of(&signed.signature) }
    }
}

impl TryFrom<wire::Signed> for Signed {
    type Error = Invalid;

    fn try_from(wire: wire::Signed) -> Result<Self, Invalid> {
        Ok(Self { body: wire.body, signature: fixed("signature", "a signature", &wire.signature)? })
    }
}
