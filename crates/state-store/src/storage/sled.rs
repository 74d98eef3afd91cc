//! sled as the disk.
//!
//! Three things that sled 0.34 leaves open are settled here. Its `flush` ends in `sync_file_range`, which
//! promises nothing at a loss of power: every commit ends in an fsync of the log file of our own. Pages too
//! large for the log (long keys make such) become files in `blobs/`, which it does not sync either: new ones
//! are synced, and their folder, before the log is. And on a damaged file it may panic: opening catches that.
//! sled locks its folder against other processes by itself.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, Error, Storage, Visit};

/// The folder of the database inside the store's.
const FOLDER: &str = "sled";
/// How often, and after which pauses, sled is waited for at the end.
const RELEASE_TRIES: usize = 2_000;
const RELEASE_PAUSE: Duration = Duration::from_millis(1);

/// A sled database, all in its default tree.
pub struct SledStorage {
    // Dropped before the log, which then waits for sled to have let go.
    db: sled::Db,
    log: Log,
    blobs: Mutex<Blobs>,
}

/// Why a database does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path}: in use by another process: stop that one, or use another folder (node.data_dir)")]
    InUse {
        /// The database's folder.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("open database {path}: {source} (node.data_dir)")]
    Io {
        /// The database's folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its files are damaged, or not of this release of sled.
    #[error("open database {path}: {reason} (node.data_dir)")]
    Damaged {
        /// The database's folder.
        path: PathBuf,
        /// What sled says.
        reason: String,
    },
}

impl SledStorage {
    /// Opens the database in `folder`, and makes it when there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let path = folder.join(FOLDER);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let config = sled::Config::new().path(&path).cache_capacity(cache_bytes).flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                return Err(OpenError::InUse { path });
            }
            Ok(Err(sled::Error::Io(error))) => return Err(io(error)),
            Ok(Err(error)) => return Err(OpenError::Damaged { path, reason: one_line(&error) }),
            Err(_) => return Err(OpenError::Damaged { path, reason: "sled panicked on its files".into() }),
        };
        let log = Log(File::open(path.join("db")).map_err(io)?);
        let blobs = Blobs::open(path.join("blobs")).map_err(io)?;
        // The names of the files that sled made are durable before anything is acknowledged, and so is the
        // folder's own, which may have been made just before a crash.
        for folder in [Some(path.as_path()), Some(folder), folder.parent()].into_iter().flatten() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        Ok(Self { db, log, blobs: Mutex::new(blobs) })
    }

    /// Whether `folder` holds a database.
    pub fn exists(folder: &Path) -> bool {
        folder.join(FOLDER).exists()
    }
}

impl Storage for SledStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.db.get(key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        for record in self.db.range(from..to) {
            let (key, value) = record?;
            if visit(&key, Bytes::copy_from_slice(&value))? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(None);
        }
        let last = self.db.range(from..to).next_back().transpose()?;
        Ok(last.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => writes.insert(key.as_ref(), value.as_ref()),
                None => writes.remove(key.as_ref()),
            }
        }
        self.db.apply_batch(writes)?;
        self.db.flush()?;
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        self.log.0.sync_data()?;
        Ok(())
    }
}

impl From<sled::Error> for Error {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Engine(one_line(&other)),
        }
    }
}

fn one_line(error: &sled::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The log file, held open to sync it. When dropped, it waits until sled's own threads have closed the file
/// and with it the lock: whoever dropped the storage may open it again at once.
struct Log(File);

impl Drop for Log {
    fn drop(&mut self) {
        for _ in 0..RELEASE_TRIES {
            if self.0.try_lock().is_ok() {
                return;
            }
            std::thread::sleep(RELEASE_PAUSE);
        }
        tracing::warn!("sled did not let go of its files");
    }
}

/// The folder of the pages that did not fit into the log. Each is a file of its own, named by its place in
/// the log: later ones have greater names.
struct Blobs {
    folder: PathBuf,
    synced: Option<u64>,
}

impl Blobs {
    fn open(folder: PathBuf) -> std::io::Result<Self> {
        let mut blobs = Self { folder, synced: None };
        blobs.sync()?;
        Ok(blobs)
    }

    /// Syncs the files that came since the last time. The folder is nearly always empty.
    fn sync(&mut self) -> std::io::Result<()> {
        let mut newest = self.synced;
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let Some(name) = name.to_str().and_then(|name| name.parse::<u64>().ok()) else { continue };
            if self.synced.is_some_and(|synced| name <= synced) {
                continue;
            }
            match File::open(file.path()) {
                Ok(file) => file.sync_all()?,
                // sled removed it in the meantime: nothing refers to it any more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            newest = newest.max(Some(name));
        }
        if newest != self.synced {
            File::open(&self.folder)?.sync_all()?;
            self.synced = newest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_opens_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..50u8 {
            let storage = SledStorage::open(folder.path(), 1 << 20).unwrap();
            let mut batch = Batch::default();
            batch.put(vec![number], vec![number; 1_000]);
            storage.commit(&batch).unwrap();
        }
    }

    #[test]
    fn a_second_opening_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _first = SledStorage::open(folder.path(), 1 << 20).unwrap();
        let second = SledStorage::open(folder.path(), 1 << 20).map(|_| ());
        let error = second.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        assert!(error.to_string().ends_with("use another folder (node.data_dir)"), "{error}");
    }
}
