//! The disk behind the engine: one ordered keyspace, read by key or range, written in atomic batches.
//!
//! The trait is small on purpose, so that a second disk engine has little to get wrong, and all of them pass the
//! same tests (`contract`): sled, redb where it is built in, and a twin in memory. All that must change together goes into one batch of the one
//! keyspace; [`Storage::commit`] returns only when the batch would survive a loss of power. What keys and
//! values mean is the business of `format`.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::format::keys;

mod batch;
mod guarded;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod sled;
pub mod sled_log;

#[cfg(test)]
mod contract;

pub use batch::{Batch, Write};
pub use guarded::{Guarded, Watermark};
pub(crate) use guarded::{SUSPECT, WATERMARK};
pub use memory::MemoryStorage;
#[cfg(feature = "redb")]
pub use redb::RedbStorage;
pub use sled::SledStorage;

/// redb's file inside the store's folder, known also to a build without redb.
const REDB_FILE: &str = "redb";
/// What the databases in a store's folder are called, of all engines.
pub(crate) const NAMES: [&str; 2] = [sled::FOLDER, REDB_FILE];
/// The longest key of a record: a tag, a generation, and the longest key of an entry.
pub const RECORD_KEY_BYTES_MAX: usize = 1_100;

/// Why a database does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path}: in use by another process: stop that one, or use another folder (node.data_dir)")]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("open database {path}: {source}: {} (node.data_dir)", cure(source.kind()))]
    Io {
        /// The database.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its files are damaged, or not of this release of the storage engine.
    #[error("open database {path}: {reason} (node.data_dir)")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What the storage engine says.
        reason: String,
    },
}

/// What would help.
fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "its disk is full: make room before the next start"
        }
        ErrorKind::ReadOnlyFilesystem => "must be on a disk that can be written",
        _ => "must be in a folder that this process can write",
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
/// Reads see durable batches only, each of them whole as far as one call to [`Storage::get`] goes; a range may see
/// part of a batch that commits while it is visited. A storage may be told of keys for which it need not take
/// that care: those that only the writer reads before they are durable.
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
    /// When the disk fails; the batch is then there after a restart, or is not, but never in part. No later commit
    /// succeeds, and reads go on as before it.
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

/// A storage engine that keeps its database on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// sled.
    Sled,
    /// redb.
    #[cfg(feature = "redb")]
    Redb,
}

impl Disk {
    /// What the description of a store's folder calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => sled::FOLDER,
            #[cfg(feature = "redb")]
            Self::Redb => REDB_FILE,
        }
    }

    /// Opens the database in a store's folder; makes it where there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self, folder: &Path, cache_bytes: u64) -> Result<Box<dyn Storage>, OpenError> {
        Ok(match self {
            Self::Sled => Box::new(SledStorage::open(folder, cache_bytes)?.hiding(keys::is_served)),
            #[cfg(feature = "redb")]
            Self::Redb => Box::new(RedbStorage::open(folder, cache_bytes)?),
        })
    }
}

/// Whether `folder` holds a database, of whatever engine.
pub fn exists(folder: &Path) -> bool {
    NAMES.iter().any(|name| folder.join(name).exists())
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
