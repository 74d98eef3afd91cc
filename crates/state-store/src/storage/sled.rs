//! sled as the disk: what sled 0.34 leaves open is settled here (docs/decisions/0020 has the whole account).
//!
//! - Its `flush` ends in `sync_file_range`, which promises nothing at a loss of power: every commit ends in an
//!   `fdatasync` of the log of our own, and opening syncs what sled does not (`files`).
//! - Pages that are too large for the log become files that are not ordered with it, and a batch could be torn:
//!   the segments are so long that no page of ours is ([`SEGMENT_BYTES`]).
//! - It shows a batch before it is durable: readers are told what was there before (`shadow`).
//! - It frees what it replaced far more slowly than large batches replace it: every commit helps ([`collect`]).
//! - It may panic on a damaged file: every call catches that. After a failed write it may forget to wake those who
//!   wait: `alarm` does.
//! - A commit that failed is the last: what is on the disk then is known only after a restart.
//!
//! sled locks its folder against other processes by itself.

mod alarm;
mod files;
mod shadow;

use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{Batch, Error, OpenError, Storage, Visit};
use alarm::Alarm;
use files::{Blobs, Log};
use shadow::{Before, Shadow, between};

/// The folder of the database inside the store's.
pub(super) const FOLDER: &str = "sled";
/// The length of a segment of the log. A page of more than a quarter of it would become a file of its own; the
/// largest that our records make is one of 17 buckets of the tree, each of 32 keys of 1 KiB, about 650 KiB.
const SEGMENT_BYTES: usize = 4 << 20;

/// How often the collector is asked after a commit, and how often more for its records.
const TURNS: usize = 4;
const RECORDS_A_TURN: usize = 256;

/// A sled database, all in its default tree.
pub struct SledStorage {
    // Dropped first, since it holds the database too.
    alarm: Option<Alarm>,
    db: Option<sled::Db>,
    // Dropped after the database: it waits for sled to have let go.
    log: Log,
    blobs: Mutex<Blobs>,
    hidden: fn(&[u8]) -> bool,
    shadow: Shadow,
    failed: AtomicBool,
}

impl SledStorage {
    /// Opens the database in `folder`, and makes it when there is none. `cache_bytes` is what sled may keep of its
    /// pages in memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let path = folder.join(FOLDER);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .segment_size(files::segment_bytes(&path).unwrap_or(SEGMENT_BYTES));
        if !files::clear(&path).map_err(io)? {
            return Err(OpenError::InUse { path });
        }
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                return Err(OpenError::InUse { path });
            }
            Ok(Err(sled::Error::Io(error))) => return Err(io(told(error))),
            Ok(Err(error)) => return Err(OpenError::Damaged { path, reason: one_line(&error) }),
            Err(_) => return Err(OpenError::Damaged { path, reason: "sled panicked on its files".into() }),
        };
        let log = Log::open(&path).map_err(io)?;
        let storage = Self {
            alarm: Some(Alarm::start(config, db.clone()).map_err(io)?),
            db: Some(db),
            log,
            blobs: Mutex::new(Blobs::open(&path).map_err(io)?),
            hidden: |_| true,
            shadow: Shadow::default(),
            failed: AtomicBool::new(false),
        };
        // Before anything is acknowledged.
        files::settle(&path).map_err(io)?;
        Ok(storage)
    }

    /// Hides what is not durable of these keys only: to note what they held costs a read each.
    #[must_use]
    pub fn hiding(mut self, hidden: fn(&[u8]) -> bool) -> Self {
        self.hidden = hidden;
        self
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("it is taken only when dropped")
    }

    /// What the hidden keys of a batch hold, read where the writer has not. It also brings their pages into memory,
    /// so that sled, which lets nobody read while it applies a batch, applies it the sooner.
    fn before(&self, batch: &Batch) -> Result<Before, Error> {
        let hidden = batch.writes().filter(|(key, _)| (self.hidden)(key));
        let before = hidden.map(|(key, write)| {
            let held = match &write.held {
                Some(held) => held.clone(),
                None => self.db().get(key)?.map(owned),
            };
            debug_assert_eq!(held, self.db().get(key)?.map(owned), "the writer says what the disk holds");
            Ok((key.clone(), held))
        });
        before.collect()
    }

    /// Applies a batch, durable when this returns. `visible` is called when sled shows it already.
    fn write(&self, batch: &Batch, visible: impl FnOnce()) -> Result<(), Error> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => writes.insert(key.as_ref(), value.as_ref()),
                None => writes.remove(key.as_ref()),
            }
        }
        self.shadow.cast(self.before(batch)?);
        self.db().apply_batch(writes)?;
        visible();
        self.db().flush()?;
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        self.log.sync()?;
        self.shadow.lift();
        collect(batch.len());
        Ok(())
    }

    fn commit_with(&self, batch: &Batch, visible: impl FnOnce()) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Engine("a commit failed before".to_owned()));
        }
        let written = guarded(|| self.write(batch, visible));
        if written.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        written
    }

    /// Visits what a commit under way removed from `[from, to)`.
    fn visit_removed(
        &self,
        from: Bound<&[u8]>,
        to: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let Some(before) = self.shadow.before() else { return Ok(ControlFlow::Continue(())) };
        for (key, value) in between(&before, from, to) {
            if visit(key, value.clone())?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn visit_range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut passed: Option<sled::IVec> = None;
        for record in self.db().range(from..to) {
            let (key, value) = record?;
            let since = passed.as_deref().map_or(Bound::Included(from), Bound::Excluded);
            if self.visit_removed(since, &key, visit)?.is_break() {
                return Ok(());
            }
            let value = self.shadow.of(&key).unwrap_or_else(|| Some(owned(value)));
            if let Some(value) = value
                && visit(&key, value)?.is_break()
            {
                return Ok(());
            }
            passed = Some(key);
        }
        let since = passed.as_deref().map_or(Bound::Included(from), Bound::Excluded);
        self.visit_removed(since, to, visit).map(|_| ())
    }

    fn find_last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        let mut last = None;
        for record in self.db().range(from..to).rev() {
            let (key, value) = record?;
            if let Some(value) = self.shadow.of(&key).unwrap_or_else(|| Some(owned(value))) {
                last = Some((owned(key), value));
                break;
            }
        }
        let before = self.shadow.before();
        let removed = before.as_ref().and_then(|before| {
            let (key, value) = between(before, Bound::Included(from), to).next_back()?;
            Some((key.clone(), value.clone()))
        });
        Ok(last.max(removed))
    }
}

impl Storage for SledStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        // What a failed commit left behind may not be readable any more.
        if let Some(before) = self.shadow.of(key) {
            return Ok(before);
        }
        let value = guarded(|| Ok(self.db().get(key)?))?;
        Ok(self.shadow.of(key).unwrap_or_else(|| value.map(owned)))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        guarded(|| self.visit_range(from, to, visit))
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(None);
        }
        guarded(|| self.find_last(from, to))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        self.commit_with(batch, || {})
    }
}

impl Drop for SledStorage {
    fn drop(&mut self) {
        drop(self.alarm.take());
        // sled syncs once more as it ends, and panics when that fails: nobody waits for it any more.
        if catch_unwind(AssertUnwindSafe(|| drop(self.db.take()))).is_err() {
            tracing::error!("sled could not write as it ended");
        }
    }
}

/// Frees what sled replaced in a commit of so many records.
///
/// sled leaves old pages and buffers to `crossbeam-epoch`, which frees a few hundred once in 128 turns of a thread,
/// and a batch is one turn, whatever its size: memory grew with all that was ever written, to gigabytes at 10^6 keys.
/// The collector is the process' own, and each of these is a turn that frees about 500.
fn collect(records: usize) {
    for _ in 0..TURNS + records / RECORDS_A_TURN {
        crossbeam_epoch::pin().flush();
    }
}

/// Runs sled, which panics on what it believes impossible: damaged files make it so.
fn guarded<T>(sled: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(sled))
        .unwrap_or_else(|_| Err(Error::Engine("sled panicked: its files are damaged".to_owned())))
}

fn owned(value: sled::IVec) -> Bytes {
    Bytes::copy_from_slice(&value)
}

impl From<sled::Error> for Error {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(told(error)),
            other => Self::Engine(one_line(&other)),
        }
    }
}

/// sled hands errors of its threads on as the debug text of what they were: back to what the system said.
fn told(error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let code = text.split_once("Os { code: ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    code.map_or(error, std::io::Error::from_raw_os_error)
}

fn one_line(error: &sled::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<SledStorage, OpenError> {
        SledStorage::open(folder, 1 << 20)
    }

    fn batch(puts: &[(&str, &str)], removes: &[&str]) -> Batch {
        let mut batch = Batch::default();
        puts.iter().for_each(|(key, value)| batch.put(key.to_string(), value.to_string()));
        removes.iter().for_each(|key| batch.remove(key.to_string()));
        batch
    }

    fn records(storage: &SledStorage, from: &str, to: &str) -> Vec<(String, String)> {
        let mut records = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut visit = |key: &[u8], value: Bytes| {
            records.push((text(key), text(&value)));
            Ok(ControlFlow::Continue(()))
        };
        storage.range(from.as_bytes(), to.as_bytes(), &mut visit).unwrap();
        records
    }

    #[test]
    fn what_was_closed_opens_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..50u8 {
            let storage = open(folder.path()).unwrap();
            let mut batch = Batch::default();
            batch.put(vec![number], vec![number; 1_000]);
            storage.commit(&batch).unwrap();
        }
    }

    #[test]
    fn a_second_opening_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path()).unwrap();
        let error = open(folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        assert!(error.to_string().ends_with("use another folder (node.data_dir)"), "{error}");
    }

    #[test]
    fn nobody_reads_a_batch_that_is_not_durable_yet() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path()).unwrap();
        let old = [("b", "1"), ("d", "2"), ("f", "3"), ("h", "4")];
        storage.commit(&batch(&old, &[])).unwrap();
        let change = batch(&[("a", "new"), ("b", "changed"), ("e", "new"), ("i", "new")], &["d", "h", "z"]);
        let mut looked = false;
        let look = || {
            assert_eq!(storage.db().get("b").unwrap().unwrap(), "changed", "sled shows it");
            for key in ["a", "b", "d", "e", "f", "h", "i"] {
                let before = old.iter().find(|(old, _)| *old == key).map(|(_, value)| Bytes::from(*value));
                assert_eq!(storage.get(key.as_bytes()).unwrap(), before, "{key}");
            }
            let all: Vec<_> = old.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
            assert_eq!(records(&storage, "a", "z"), all);
            assert_eq!(records(&storage, "c", "g"), all[1..3]);
            let found = |found: Option<(Bytes, Bytes)>| found.map(|(key, _)| key);
            assert_eq!(found(storage.last(b"a", b"z").unwrap()), Some(Bytes::from("h")));
            assert_eq!(found(storage.last(b"a", b"f").unwrap()), Some(Bytes::from("d")));
            assert_eq!(found(storage.last(b"i", b"z").unwrap()), None);
            assert_eq!(found(storage.first(b"a", b"z").unwrap()), Some(Bytes::from("b")));
            assert_eq!(found(storage.first(b"c", b"e").unwrap()), Some(Bytes::from("d")));
            looked = true;
        };
        storage.commit_with(&change, look).unwrap();
        assert!(looked);
        let keys: Vec<_> = records(&storage, "a", "z").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "b", "e", "f", "i"]);
        assert_eq!(storage.last(b"a", b"z").unwrap(), Some((Bytes::from("i"), Bytes::from("new"))));
    }

    #[test]
    fn a_commit_that_failed_is_the_last_and_never_read() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path()).unwrap();
        storage.commit(&batch(&[("a", "1")], &[])).unwrap();
        let failed = storage.commit_with(&batch(&[("a", "2"), ("b", "2")], &[]), || panic!("as sled might"));
        assert!(matches!(failed, Err(Error::Engine(_))), "{failed:?}");
        let again = storage.commit(&batch(&[("c", "3")], &[])).unwrap_err();
        assert_eq!(again.to_string(), "storage engine: a commit failed before");
        assert_eq!(records(&storage, "a", "z"), [("a".to_owned(), "1".to_owned())]);
        assert_eq!(storage.get(b"b").unwrap(), None);
    }

    #[test]
    fn the_largest_pages_stay_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path()).unwrap();
        for round in 0..20u64 {
            let mut batch = Batch::default();
            for number in 0..20u64 {
                // A bucket of 32 of the longest keys, with what the tree knows of each.
                let mut key = (number * 100 + round).to_be_bytes().to_vec();
                key.resize(crate::storage::RECORD_KEY_BYTES_MAX, 7);
                batch.put(key, vec![1; 32 * 1_200]);
            }
            storage.commit(&batch).unwrap();
        }
        let blobs = std::fs::read_dir(folder.path().join(FOLDER).join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0);
    }

    #[test]
    fn memory_follows_the_cache_and_not_what_was_written() {
        let resident_mib = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
        };
        let folder = tempfile::tempdir().unwrap();
        // Reads collect a little: here are none but sled's own.
        let storage = SledStorage::open(folder.path(), 8 << 20).unwrap().hiding(|_| false);
        let before = resident_mib();
        for round in 0..100u64 {
            let mut batch = Batch::default();
            for number in 0..1_000u64 {
                // Anywhere in the tree, as hashes are.
                let key = (round * 1_000 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                batch.put(key.to_be_bytes().to_vec(), vec![7; 100]);
            }
            storage.commit(&batch).unwrap();
        }
        let grown = resident_mib().saturating_sub(before);
        println!("{grown} MiB for 10^5 records of 100 bytes and a cache of 8 MiB");
        assert!(grown < 64, "{grown} MiB");
    }

    #[test]
    fn a_database_keeps_the_segments_that_it_was_made_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FOLDER);
        drop(sled::Config::new().path(&path).open().unwrap());
        assert_eq!(files::segment_bytes(&path), Some(512 << 10));
        let storage = open(folder.path()).unwrap();
        storage.commit(&batch(&[("a", "1")], &[])).unwrap();
        drop(storage);
        assert_eq!(records(&open(folder.path()).unwrap(), "a", "b").len(), 1);
    }

    #[test]
    fn a_snapshot_that_was_being_written_at_a_kill_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path()).unwrap();
        storage.commit(&batch(&[("a", "1")], &[])).unwrap();
        drop(storage);
        let draft = folder.path().join(FOLDER).join("snap.FFFFFFFFFFFFFFFF.generating");
        std::fs::write(&draft, b"half").unwrap();
        assert_eq!(records(&open(folder.path()).unwrap(), "a", "b").len(), 1);
        assert!(!draft.exists());
    }

    #[test]
    fn errors_of_sleds_threads_are_told_in_the_systems_words() {
        let error = sled::Error::Io(std::io::Error::from_raw_os_error(5));
        let handed_on = Error::from(error.clone().clone());
        assert_eq!(handed_on.to_string(), "disk: Input/output error (os error 5)");
    }
}
