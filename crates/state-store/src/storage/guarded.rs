//! A storage that remembers, beside the database, what the database may forget.
//!
//! - The **watermark**: the number of the last commit that was acknowledged, in a small file of its own. It is
//!   written after every commit, and not synced: it may lag, but never leads. A database that opens with less has
//!   lost what was acknowledged.
//! - The **suspicion**: once the storage engine panics, or finds its own files damaged, nothing more is asked of
//!   it. A file says so, so that the next opening looks at everything before it trusts it, and whoever runs the
//!   store is told to end it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lattice_core::model::Digest;
use tokio::sync::watch;

use super::{Batch, Error, Storage, Visit};

/// The files, in the store's folder.
pub(crate) const WATERMARK: &str = "WATERMARK";
pub(crate) const SUSPECT: &str = "SUSPECT";

/// What the watermark file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    /// There is none: nothing was ever acknowledged.
    Absent,
    /// It is there, and does not read.
    Illegible,
    /// So many commits were acknowledged.
    Commits(u64),
}

/// A storage with its watermark.
pub struct Guarded {
    // Dropped with care: what is left of a damaged engine may panic once more.
    storage: Option<Box<dyn Storage>>,
    watermark: File,
    suspect: PathBuf,
    /// Why nothing more is asked of the storage engine.
    damaged: watch::Sender<Option<String>>,
}

impl Watermark {
    /// Reads the file in a store's folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(folder: &Path) -> std::io::Result<Self> {
        match fs::read(folder.join(WATERMARK)) {
            Ok(bytes) => Ok(Self::parse(&bytes).unwrap_or(Self::Illegible)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(error),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (number, sum) = text.trim_end().strip_prefix("commit ")?.split_once(' ')?;
        (sum == check(number)).then_some(())?;
        number.parse().ok().map(Self::Commits)
    }
}

fn check(number: &str) -> String {
    Digest::of(&[b"lattice/v1/watermark\0", number.as_bytes()]).to_string()[..16].to_owned()
}

/// A line of constant length.
fn line(commits: u64) -> String {
    let number = format!("{commits:020}");
    let check = check(&number);
    format!("commit {number} {check}\n")
}

impl Guarded {
    /// Guards the storage of the database in `folder`.
    ///
    /// # Errors
    /// When the watermark cannot be written.
    pub fn new(storage: Box<dyn Storage>, folder: &Path) -> std::io::Result<Self> {
        let path = folder.join(WATERMARK);
        let watermark = File::options().write(true).create(true).truncate(false).open(path)?;
        let suspect = folder.join(SUSPECT);
        Ok(Self { storage: Some(storage), watermark, suspect, damaged: watch::Sender::new(None) })
    }

    /// Tells when the storage engine has failed in a way that only a new opening mends.
    pub fn damaged(&self) -> watch::Receiver<Option<String>> {
        self.damaged.subscribe()
    }

    fn ask<T>(&self, call: impl FnOnce(&dyn Storage) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(reason) = &*self.damaged.borrow() {
            return Err(Error::Engine(reason.clone()));
        }
        let storage = self.storage.as_deref().expect("it is taken only when dropped");
        let answer = catch_unwind(AssertUnwindSafe(|| call(storage)))
            .unwrap_or_else(|_| Err(Error::Engine("it panicked on its files".to_owned())));
        if let Err(Error::Engine(reason)) = &answer {
            self.suspect(reason);
        }
        answer
    }

    fn suspect(&self, reason: &str) {
        let noted = File::create(&self.suspect).and_then(|mut file| {
            writeln!(file, "{reason}")?;
            file.sync_all()
        });
        if let Err(error) = noted {
            tracing::error!(%error, path = %self.suspect.display(), "note that the database is damaged");
        }
        self.damaged.send_if_modified(|damaged| {
            let first = damaged.is_none();
            damaged.get_or_insert_with(|| reason.to_owned());
            first
        });
    }
}

impl Storage for Guarded {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.ask(|storage| storage.get(key))
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.ask(|storage| storage.range(from, to, visit))
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        self.ask(|storage| storage.last(from, to))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        self.ask(|storage| storage.commit(batch))?;
        let at = crate::format::keys::meta("commit");
        if let Some(Some(framed)) = batch.get(&at)
            && let Some(commits) = crate::format::last_commit(framed)
        {
            // It only ever lags: a commit is no worse for it.
            if let Err(error) = self.watermark.write_all_at(line(commits).as_bytes(), 0) {
                tracing::warn!(%error, "write the watermark");
            }
        }
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let storage = self.storage.take();
        if catch_unwind(AssertUnwindSafe(|| drop(storage))).is_err() {
            tracing::warn!("the storage engine panicked when it was closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{keys, record};
    use crate::storage::MemoryStorage;

    #[test]
    fn the_watermark_is_the_last_commit_and_no_flip_makes_it_another() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Watermark::read(folder.path()).unwrap(), Watermark::Absent);
        let guarded = Guarded::new(Box::new(MemoryStorage::new()), folder.path()).unwrap();
        for number in [1, 2, 99_999, 7] {
            let mut batch = Batch::default();
            let at = keys::meta("commit");
            let framed = record::encode(&at, &record::Commit { number });
            batch.put(at, framed);
            guarded.commit(&batch).unwrap();
            assert_eq!(Watermark::read(folder.path()).unwrap(), Watermark::Commits(number));
        }
        let path = folder.path().join(WATERMARK);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let read = Watermark::read(folder.path()).unwrap();
            assert!(matches!(read, Watermark::Illegible | Watermark::Commits(7)), "bit {bit}: {read:?}");
        }
    }

    struct Panicking;

    impl Storage for Panicking {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, Error> {
            panic!("as sled does")
        }

        fn range(&self, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), Error> {
            Ok(())
        }

        fn last(&self, _: &[u8], _: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
            Ok(None)
        }

        fn commit(&self, _: &Batch) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn after_a_panic_nothing_is_asked_any_more_and_the_folder_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let guarded = Guarded::new(Box::new(Panicking), folder.path()).unwrap();
        let damaged = guarded.damaged();
        guarded.range(b"a", b"b", &mut |_, _| unreachable!()).unwrap();
        assert!(matches!(guarded.get(b"a"), Err(Error::Engine(_))));
        assert!(matches!(guarded.range(b"a", b"b", &mut |_, _| unreachable!()), Err(Error::Engine(_))));
        assert!(guarded.commit(&Batch::default()).is_err());
        assert!(damaged.borrow().is_some());
        assert!(folder.path().join(SUSPECT).exists());
    }
}
