//! Makes the copy of a database, proves that it is one, and puts it in its place.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lattice_core::model::Digest;
use rustix::fs::{CWD, RenameFlags};

use super::{Error, Examined, FOLDER, Step, clear, examine, io_at};
use crate::engine::Incarnations;
use crate::format::{Manifest, keys, manifest};
use crate::opening::{self, Opening};
use crate::storage::{self, Batch, Disk, Guarded, Storage, WATERMARK};
use crate::writer::{RESERVE_BYTES, Space};

/// The most that is copied at a time.
const BATCH_RECORDS: usize = 4_096;
const BATCH_BYTES: usize = 1 << 20;
/// How often progress is told, in records.
pub(super) const TELL_EVERY: u64 = 1_024;
/// What a copy takes, at most, of what its keys and values do, as measured.
const TIMES_THE_RECORDS: u64 = 3;

/// A copy that is being made, in a folder of its own.
pub(super) struct Copy<'a> {
    pub(super) opening: &'a Opening<'a>,
    pub(super) to: Disk,
    pub(super) work: PathBuf,
}

impl Copy<'_> {
    /// Copies, proves, replaces.
    pub(super) fn make(
        &self,
        incarnations: impl Fn() -> Incarnations,
        progress: &mut dyn FnMut(Step, u64, Option<u64>),
    ) -> Result<Tally, Error> {
        let (folder, work) = (self.opening.folder, self.work.as_path());
        fs::create_dir(work).map_err(io_at(work))?;
        if self.to == self.opening.disk {
            self.can_exchange()?;
        }
        let tally = self.fill(progress)?;
        // It has to open as this store, with as many commits as were acknowledged.
        let manifest = Manifest { engine: self.to.name().to_owned(), ..self.opening.manifest() };
        manifest.renew(work).map_err(opening::Error::from)?;
        fs::copy(folder.join(WATERMARK), work.join(WATERMARK)).map_err(io_at(work))?;
        let copied = Opening {
            folder: work,
            disk: self.to,
            settings: self.opening.settings.clone(),
            key: self.opening.key.clone(),
            ..*self.opening
        };
        examine(&copied, incarnations()).map_err(|examined| match examined {
            Examined::Damaged(reason) => Error::Different { path: work.to_owned(), reason },
            Examined::Refused(error) => error.into(),
        })?;
        sync(work).map_err(io_at(work))?;
        self.replace(progress).map_err(io_at(folder))?;
        Ok(tally)
    }

    /// Finds out early whether two names can be exchanged.
    fn can_exchange(&self) -> Result<(), Error> {
        let [one, other] = ["one", "other"].map(|name| self.work.join(name));
        let tried = || -> io::Result<()> {
            fs::create_dir(&one)?;
            fs::create_dir(&other)?;
            rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)?;
            fs::remove_dir(&one)?;
            fs::remove_dir(&other)
        };
        tried().map_err(|source| Error::Exchange { path: self.opening.folder.to_owned(), source })
    }

    /// Copies all records, and compares them.
    pub(super) fn fill(&self, progress: &mut dyn FnMut(Step, u64, Option<u64>)) -> Result<Tally, Error> {
        let Opening { folder, disk, cache_bytes, .. } = *self.opening;
        // Two databases are open, with the memory of one.
        let cache_bytes = cache_bytes / 2;
        let path = folder.join(disk.name());
        let from = disk.open(folder, cache_bytes)?;
        // What is found to be damaged on the way is for the next start to know.
        let from = Guarded::new(from, folder).map_err(io_at(folder))?;
        let at = |error| match error {
            storage::Error::Engine(reason) => Error::Damaged { path: path.clone(), reason },
            source => Error::Storage { path: path.clone(), source },
        };
        let tally = Tally::of(&from, |done| progress(Step::Counting, done, None)).map_err(at)?;
        let needed = tally.bytes * TIMES_THE_RECORDS + RESERVE_BYTES;
        let space = Space::of_folder(&self.work).map_err(io_at(&self.work))?;
        let mut room = Room { space, folder, needed };
        room.is_there(tally.bytes + RESERVE_BYTES)?;
        let storage = self.to.open(&self.work, cache_bytes)?;
        let mut target = Target { storage, room, batch: Batch::default(), failed: None };
        let mut done = 0;
        let mut commit = None;
        let last = keys::meta("commit");
        let read = from.range(&[], &[u8::MAX], &mut |key, value| {
            if u64::is_multiple_of(done, TELL_EVERY) {
                progress(Step::Copying, done, Some(tally.records));
            }
            done += 1;
            if key == last {
                commit = Some(value);
                return Ok(ControlFlow::Continue(()));
            }
            Ok(target.put(key, value))
        });
        if let Some(error) = target.failed {
            return Err(error);
        }
        read.map_err(at)?;
        // The last that was written is how sled's log is known to be whole.
        if let Some(commit) = commit {
            target.batch.put(last, commit);
        }
        target.commit()?;
        drop(target);
        drop(from);

        let copy = self.to.open(&self.work, cache_bytes)?;
        let at = |source| Error::Storage { path: self.work.clone(), source };
        let copied =
            Tally::of(&*copy, |done| progress(Step::Comparing, done, Some(tally.records))).map_err(at)?;
        if copied != tally {
            let reason = format!("{} records in place of {}, or others", copied.records, tally.records);
            return Err(Error::Different { path: self.work.clone(), reason });
        }
        Ok(tally)
    }

    /// Makes the copy the store, and removes what it replaces.
    fn replace(&self, progress: &mut dyn FnMut(Step, u64, Option<u64>)) -> io::Result<()> {
        let (folder, work) = (self.opening.folder, self.work.as_path());
        let mut said = 0;
        let mut say = || {
            progress(Step::Replacing, said, None);
            said += 1;
        };
        let [made, place] = [work, folder].map(|folder| folder.join(self.to.name()));
        say();
        if self.to == self.opening.disk {
            rustix::fs::renameat_with(CWD, made, CWD, place, RenameFlags::EXCHANGE)?;
        } else {
            fs::rename(made, place)?;
            File::open(folder)?.sync_all()?;
            say();
            fs::rename(work.join(manifest::FILE), folder.join(manifest::FILE))?;
        }
        File::open(work)?.sync_all()?;
        File::open(folder)?.sync_all()?;
        say();
        clear(folder, self.to)?;
        say();
        Ok(())
    }
}

/// The room on the disk of the copy.
struct Room<'a> {
    space: Space,
    folder: &'a Path,
    needed: u64,
}

impl Room<'_> {
    fn is_there(&mut self, bytes: u64) -> Result<(), Error> {
        match self.space.look() {
            Some(free) if free < bytes => Err(self.is_gone()),
            Some(_) | None => Ok(()),
        }
    }

    fn is_gone(&self) -> Error {
        Error::Room { path: self.folder.to_owned(), needed: self.needed }
    }
}

/// Where records are copied to.
struct Target<'a> {
    storage: Box<dyn Storage>,
    room: Room<'a>,
    batch: Batch,
    /// Why nothing more is written.
    failed: Option<Error>,
}

impl Target<'_> {
    /// What fails is told apart from what the database that is read says.
    fn put(&mut self, key: &[u8], value: Bytes) -> ControlFlow<()> {
        self.batch.put(Bytes::copy_from_slice(key), value);
        if self.batch.len() < BATCH_RECORDS && self.batch.bytes() < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        self.failed = self.commit().err();
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.room.is_there(RESERVE_BYTES)?;
        let batch = std::mem::take(&mut self.batch);
        self.storage.commit(&batch).map_err(|error| match error {
            storage::Error::Io(error)
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                self.room.is_gone()
            }
            source => Error::Storage { path: self.room.folder.join(FOLDER), source },
        })
    }
}

/// How many records there are, and a digest over all of them in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) bytes: u64,
    digest: Digest,
}

impl Tally {
    fn of(storage: &dyn Storage, mut progress: impl FnMut(u64)) -> Result<Self, storage::Error> {
        let mut tally = Self { records: 0, bytes: 0, digest: Digest([0; 32]) };
        storage.range(&[], &[u8::MAX], &mut |key, value| {
            if tally.records.is_multiple_of(TELL_EVERY) {
                progress(tally.records);
            }
            let lengths = [key.len() as u64, value.len() as u64].map(u64::to_le_bytes);
            tally.digest = Digest::of(&[tally.digest.as_bytes(), lengths.as_flattened(), key, &value]);
            tally.records += 1;
            tally.bytes += (key.len() + value.len()) as u64;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(tally)
    }
}

/// Makes all below a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { sync(&path)? } else { File::open(path)?.sync_all()? }
    }
    File::open(folder)?.sync_all()
}
