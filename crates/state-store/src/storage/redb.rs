//! redb as the disk: a B-tree in one file that is never overwritten in place.
//!
//! Of what sled leaves open, redb does most by itself: a commit is durable when it returns, readers keep the tree
//! of the last durable commit, and a failed write latches. Left to us: the name of its file is synced, and a
//! commit that failed is the last one here too. It saves where its free pages are with every commit (*quick
//! repair*), so that opening after a kill reads no more than after an orderly end.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::{
    Builder, CommitError, Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase as _,
    StorageError, TableDefinition, TableError, TransactionError,
};

use super::{Batch, Error, OpenError, REDB_FILE, Storage, Visit};

/// All records.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// A redb database with one table.
pub struct RedbStorage {
    db: Database,
    failed: AtomicBool,
}

impl RedbStorage {
    /// Opens the database in `folder`, and makes it when there is none. `cache_bytes` is what redb may keep of its
    /// pages in memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        let path = folder.join(REDB_FILE);
        let cache = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let db = Builder::new().set_cache_size(cache).create(&path);
        let db = db.map_err(|error| open_error(path.clone(), error))?;
        let storage = Self { db, failed: AtomicBool::new(false) };
        storage.make_table().map_err(|error| match error {
            Error::Io(source) => OpenError::Io { path: path.clone(), source },
            Error::Engine(reason) => OpenError::Damaged { path: path.clone(), reason },
        })?;
        for folder in folder.ancestors().take(3) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| OpenError::Io { path: path.clone(), source })?;
        }
        Ok(storage)
    }

    /// So that readers find the table before anything was committed.
    fn make_table(&self) -> Result<(), Error> {
        let read = self.db.begin_read()?;
        if matches!(read.open_table(RECORDS), Err(TableError::TableDoesNotExist(_))) {
            self.write(&Batch::default())?;
        }
        Ok(())
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate).map_err(engine)?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in batch.iter() {
            match value {
                Some(value) => drop(table.insert(key.as_ref(), value.as_ref())?),
                None => drop(table.remove(key.as_ref())?),
            }
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    /// The records as of the last durable commit.
    fn records(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, Error> {
        Ok(self.db.begin_read()?.open_table(RECORDS)?)
    }
}

impl Storage for RedbStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.records()?.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        for record in self.records()?.range(from..to)? {
            let (key, value) = record?;
            if visit(key.value(), Bytes::copy_from_slice(value.value()))? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(None);
        }
        let last = self.records()?.range(from..to)?.next_back().transpose()?;
        Ok(last
            .map(|(key, value)| (Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value()))))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Engine("a commit failed before".to_owned()));
        }
        let written = self.write(batch);
        if written.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        written
    }
}

fn open_error(path: PathBuf, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        // What is no database of redb comes as an error of this kind.
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != std::io::ErrorKind::InvalidData =>
        {
            OpenError::Io { path, source }
        }
        other => OpenError::Damaged { path, reason: one_line(&other) },
    }
}

fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn engine(error: impl std::error::Error) -> Error {
    Error::Engine(one_line(&error))
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) => Self::Io(error),
            other => engine(other),
        }
    }
}

impl From<TransactionError> for Error {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => engine(other),
        }
    }
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => engine(other),
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => engine(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _first = RedbStorage::open(folder.path(), 1 << 20).unwrap();
        let error = RedbStorage::open(folder.path(), 1 << 20).map(|_| ()).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_none_of_redbs_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(REDB_FILE), vec![7; 1 << 16]).unwrap();
        let error = RedbStorage::open(folder.path(), 1 << 20).map(|_| ()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }

    #[test]
    fn a_range_reads_one_commit_and_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let storage = RedbStorage::open(folder.path(), 1 << 20).unwrap();
        let put = |value: &str| {
            let mut batch = Batch::default();
            ["a", "b", "c"].iter().for_each(|key| batch.put(key.to_string(), value.to_owned()));
            storage.commit(&batch).unwrap();
        };
        put("old");
        let mut seen = Vec::new();
        let mut visit = |_: &[u8], value: Bytes| {
            seen.push(value);
            put("new");
            Ok(ControlFlow::Continue(()))
        };
        storage.range(b"a", b"z", &mut visit).unwrap();
        assert_eq!(seen, ["old", "old", "old"]);
    }
}
