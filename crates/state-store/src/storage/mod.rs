//! The disk behind the engine: one ordered keyspace, read by key or range, written in atomic batches.
//!
//! The trait is small on purpose, so that a second disk engine has little to get wrong, and its in-memory
//! twin passes the same tests (`contract`). All that must change together goes into one batch of the one
//! keyspace; [`Storage::commit`] returns only when the batch would survive a loss of power. What keys and
//! values mean is the business of `format`.

use std::ops::ControlFlow;

use bytes::Bytes;

mod memory;
mod sled;

#[cfg(test)]
mod contract;

pub use memory::MemoryStorage;
pub use sled::{OpenError, SledStorage};

/// The longest key of a record: a tag, a generation, and the longest key of an entry.
pub const RECORD_KEY_BYTES_MAX: usize = 1_100;

/// Changes that become durable together, or not at all. A later change of a key replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: std::collections::BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Batch {
    /// Sets a record.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.insert(key.into(), Some(value.into()));
    }

    /// Removes a record; nothing happens when there is none.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.insert(key.into(), None);
    }

    /// What this batch makes of a key: `None` when it leaves it alone, `Some(None)` when it removes it.
    pub fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.writes.get(key).map(Option::as_ref)
    }

    /// Everything in it, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.writes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Adds the changes of `later`, which replace those here.
    pub fn append(&mut self, later: Self) {
        for (key, value) in later.writes {
            self.insert(key, value);
        }
    }

    /// How many records it changes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values in it, replaced ones included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, key: Bytes, value: Option<Bytes>) {
        debug_assert!(key.len() <= RECORD_KEY_BYTES_MAX, "record keys are bounded");
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.writes.insert(key, value);
    }
}

/// The disk failed us. Whoever sees this on a commit must not go on as if nothing happened: what was in the
/// batch may or may not be there after a restart.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system said so.
    #[error("disk: {0}")]
    Io(#[from] std::io::Error),
    /// The storage engine found its own files damaged, or failed inside.
    #[error("storage engine: {0}")]
    Engine(String),
}

/// What a range is visited with: one record at a time; `Break` ends the visit.
pub type Visit<'a> = dyn FnMut(&[u8], Bytes) -> Result<ControlFlow<()>, Error> + 'a;

/// One ordered keyspace of small records, shared between one writer and any number of readers.
///
/// Reads see committed batches only, each of them whole as far as one call to [`Storage::get`] goes; a range
/// may see part of a batch that commits while it is visited.
pub trait Storage: Send + Sync + 'static {
    /// The record of a key.
    ///
    /// # Errors
    /// When the disk fails.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Visits the records of `[from, to)` in ascending order, until `visit` breaks off or fails.
    ///
    /// # Errors
    /// When the disk or `visit` fails.
    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;

    /// The last record of `[from, to)`.
    ///
    /// # Errors
    /// When the disk fails.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error>;

    /// Applies a batch as a whole; durable when it returns. Called by one thread at a time.
    ///
    /// # Errors
    /// When the disk fails; the batch is then there after a restart, or is not, but never in part.
    fn commit(&self, batch: &Batch) -> Result<(), Error>;

    /// The first record of `[from, to)`.
    ///
    /// # Errors
    /// When the disk fails.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        let mut found = None;
        self.range(from, to, &mut |key, value| {
            found = Some((Bytes::copy_from_slice(key), value));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

impl<S: Storage + ?Sized> Storage for Box<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        (**self).get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        (**self).range(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        (**self).last(from, to)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        (**self).commit(batch)
    }
}
