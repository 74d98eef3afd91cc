//! What clients write: judged, stamped, and staged all or nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{Content, Entry, Key, ValueTooLong, Version};
use lattice_core::time::WallTime;

use super::group::{Committed, Group};
use super::repair::Before;
use super::{Engine, Error, Now};

/// The most operations of one write.
pub const MAX_OPERATIONS: usize = 1_000;

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put {
        /// The key.
        key: Key,
        /// At most 1 MiB.
        value: Bytes,
        /// From when on it reads as absent, counted from now; `None`: never.
        ttl: Option<Duration>,
        /// What must hold.
        condition: Option<Condition>,
    },
    /// Deletes a key, whether there is something or not.
    Delete {
        /// The key.
        key: Key,
        /// What must hold.
        condition: Option<Condition>,
    },
}

/// What must hold on this node at the moment of the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key reads as absent.
    Absent,
    /// The key reads, whatever its version.
    Present,
    /// The key reads, and has this version.
    Version(Version),
}

/// What a write made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry's version.
    pub version: Version,
    /// When it expires.
    pub expires: Option<WallTime>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A condition does not hold.
    #[error("operations[{index}].condition: {problem}")]
    Condition {
        /// Which operation.
        index: usize,
        /// What is there instead.
        problem: String,
        /// The version that the key reads with.
        current: Option<Version>,
    },
    /// Too many operations, or none.
    #[error("operations: takes 1 to {MAX_OPERATIONS}, got {count}")]
    Count {
        /// How many.
        count: usize,
    },
    /// A value is too long.
    #[error("operations[{index}].value: {source}")]
    Value {
        /// Which operation.
        index: usize,
        /// How long it is.
        source: ValueTooLong,
    },
    /// Nobody knows whether a condition holds: what is there is damaged, or not known.
    #[error("operations[{index}].condition: {source}")]
    Unknown {
        /// Which operation.
        index: usize,
        /// Why.
        source: Error,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Op {
    /// What it writes to.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.as_bytes().len() + value.len(),
            Self::Delete { key, .. } => key.as_bytes().len(),
        }
    }

    fn condition(&self) -> Option<Condition> {
        match self {
            Self::Put { condition, .. } | Self::Delete { condition, .. } => *condition,
        }
    }
}

impl Condition {
    /// Judges the condition against what reads see; what is wrong otherwise.
    fn judge(self, reads: Option<Version>) -> Result<(), String> {
        match (self, reads) {
            (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::Version(wanted), Some(version)) if wanted == version => Ok(()),
            (Self::Absent, Some(version)) => Err(format!("key is present, at version {version}")),
            (Self::Present | Self::Version(_), None) => Err("key is absent".to_owned()),
            (Self::Version(_), Some(version)) => Err(format!("key is at version {version}")),
        }
    }
}

/// What a key holds while a write is staged: what was there, and what the write made of it so far.
struct Place {
    before: Before,
    after: Option<Entry>,
}

impl Engine {
    /// Writes and commits: the simple form of [`Engine::stage_write`].
    ///
    /// # Errors
    /// [`WriteError`], with nothing written.
    pub fn write(&mut self, ops: &[Op], now: Now) -> Result<(Vec<Written>, Committed), WriteError> {
        let mut group = self.begin()?;
        let written = self.stage_write(&mut group, ops, now)?;
        Ok((written, self.commit(group)?))
    }

    /// Stages operations, all of them or none; each sees what those before it did.
    ///
    /// # Errors
    /// [`WriteError`]. The group is as it was, unless the store itself failed: then it is to be rolled back, or
    /// dropped.
    pub fn stage_write(&self, group: &mut Group, ops: &[Op], now: Now) -> Result<Vec<Written>, WriteError> {
        if ops.is_empty() || ops.len() > MAX_OPERATIONS {
            return Err(WriteError::Count { count: ops.len() });
        }
        self.takes_more()?;
        let mut clock = group.clock.clone();
        let mut places: BTreeMap<Key, Place> = BTreeMap::new();
        let mut written = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            let key = op.key();
            let place = match places.get_mut(key) {
                Some(place) => place,
                None => {
                    let before = self.before(group, key)?;
                    places.entry(key.clone()).or_insert(Place { before, after: None })
                }
            };
            let (version, visible) = match (&place.after, &place.before) {
                (Some(entry), _) => (Some(entry.version), entry.visible(now.wall)),
                (None, Before::Kept(kept)) => (Some(kept.entry.version), kept.visible(now.wall)),
                (None, before @ (Before::Nothing | Before::Damaged { .. })) => (before.version(), false),
            };
            if let Some(condition) = op.condition() {
                if place.after.is_none() {
                    self.judgeable(key, &place.before)
                        .map_err(|source| WriteError::Unknown { index, source })?;
                }
                let current = version.filter(|_| visible);
                condition.judge(current).map_err(|problem| WriteError::Condition {
                    index,
                    problem,
                    current,
                })?;
            }
            let hlc = clock.stamp(now.wall, version.map(|version| version.hlc));
            let entry = entry_of(op, Version { hlc, writer: self.shared.node }, now.wall)
                .map_err(|source| WriteError::Value { index, source })?;
            written.push(Written { version: entry.version, expires: entry.expires });
            place.after = Some(entry);
        }
        // Nothing can be refused from here on.
        group.clock = clock;
        for Place { before, after } in places.into_values() {
            let Some(entry) = after else { continue };
            self.place_current(group, &entry, before)?;
            group.committed.local.push(entry);
        }
        Ok(written)
    }
}

fn entry_of(op: &Op, version: Version, now: WallTime) -> Result<Entry, ValueTooLong> {
    Ok(match op {
        Op::Put { key, value, ttl, .. } => Entry {
            key: key.clone(),
            version,
            expires: ttl.map(|ttl| now + ttl),
            content: Content::value(value.clone())?,
        },
        Op::Delete { key, .. } => {
            Entry { key: key.clone(), version, expires: None, content: Content::Tombstone }
        }
    })
}
