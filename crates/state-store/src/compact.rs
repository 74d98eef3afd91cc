//! Writes the database of a stopped store anew, in the place of the old one or for another storage engine.
//!
//! The records are copied one by one, as they are, into a folder beside the database; nothing of them is judged. What
//! was written is read again and compared, and has to open as a store, before it takes the place of the old database
//! (docs/decisions/0025). Until that one name changes, the store is what it was; from then on it is the copy:
//!
//! | engine | what makes the copy the store | what is left then |
//! |---|---|---|
//! | the same | the two databases exchange their names | the old one, in the folder of the copy |
//! | another | the copy's `FORMAT` replaces that of the store | the old one, beside the new |
//!
//! The folder of the copy goes last of all. So while it is there, what it holds, and databases of engines that `FORMAT`
//! does not name, are left over ([`clear`]): a compaction does not begin where there is such a database already.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lattice_core::model::Digest;
use lattice_runtime::Config;
use lattice_runtime::config::Engine;
use lattice_runtime::process::Failure;
use rustix::fs::{CWD, RenameFlags};

use crate::engine::Incarnations;
use crate::format::{Claimed, Manifest, keys, manifest};
use crate::opening::{self, Opening};
use crate::service;
use crate::stopped::{self, Stopped};
use crate::storage::{self, Batch, Disk, Guarded, NAMES, Storage, WATERMARK};
use crate::writer::{RESERVE_BYTES, Space};

/// The folder of the copy, in the store's.
pub(crate) const FOLDER: &str = "compacting";
/// The most that is copied at a time.
const BATCH_RECORDS: usize = 4_096;
const BATCH_BYTES: usize = 1 << 20;
/// How often progress is told, in records.
const TELL_EVERY: u64 = 1_024;
/// What a copy takes, at most, of what its keys and values do, as measured.
const TIMES_THE_RECORDS: u64 = 3;

/// What a compaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// How many records there are.
    pub records: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// The engine that kept them, and what its database took on the disk.
    pub before: (&'static str, u64),
    /// The same of the one that keeps them now.
    pub after: (&'static str, u64),
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The records are counted.
    Counting,
    /// They are copied.
    Copying,
    /// The copy is read again.
    Comparing,
    /// The copy takes the place of what was copied, name by name.
    Replacing,
}

/// Why a store was not compacted. It is what it was; at the most, old files are left for the next opening to remove.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store is not there, or not for us.
    #[error(transparent)]
    Stopped(#[from] stopped::Error),
    /// The configuration asks for what this binary cannot do.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// The database does not open, for a reason that is no damage.
    #[error(transparent)]
    Opening(#[from] opening::Error),
    /// The database or its copy does not open.
    #[error(transparent)]
    Open(#[from] storage::OpenError),
    /// A copy would hide what is lost.
    #[error(
        "{path}: the database is damaged ({reason}): start the node, which salvages it, and compact it after that"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is left over could not be told from it.
    #[error("{path}: is beside the store's database, and not of this store: move it out of the folder")]
    Beside {
        /// The other database.
        path: PathBuf,
    },
    /// The file system cannot do what makes it safe.
    #[error(
        "{path}: its file system cannot exchange two names at once ({source}): compact a copy of the folder on another"
    )]
    Exchange {
        /// The folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// The copy does not fit beside the database.
    #[error("{path}: its disk has no room for the copy: about {} MiB have to be free", needed >> 20)]
    Room {
        /// The folder.
        path: PathBuf,
        /// What is needed, about, in bytes.
        needed: u64,
    },
    /// The disk, or the storage engine, does not give back what it was given.
    #[error(
        "{path}: the copy is not what was copied ({reason}): nothing was changed; check the disk and the memory"
    )]
    Different {
        /// The copy.
        path: PathBuf,
        /// In what.
        reason: String,
    },
    /// The disk fails.
    #[error("{path}: {source}")]
    Storage {
        /// The database.
        path: PathBuf,
        /// Why.
        source: storage::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Stopped(error) => error.into(),
            Error::Service(error) => error.into(),
            error => Self::refused(error),
        }
    }
}

/// Compacts a stopped store, and moves it to the engine `to` when one is named. `progress` hears what is done, how much
/// of it, and of how much, where that is known.
///
/// # Errors
/// [`Error`].
pub fn run(
    config: &Config,
    to: Option<Engine>,
    progress: impl FnMut(Step, u64, Option<u64>),
) -> Result<Compacted, Error> {
    let mut config = config.clone();
    let to = match to {
        Some(to) => Some(service::disk(to)?.ok_or(stopped::Error::Memory)?),
        None => None,
    };
    if to.is_some() && config.store.engine != Engine::Memory {
        // Whoever moves a store may have configured where to before.
        let made_by = Manifest::engine_of(&config.node.data_dir.join(service::FOLDER));
        let known =
            [Engine::Sled, Engine::Redb].into_iter().find(|known| made_by.as_deref() == Some(known.name()));
        config.store.engine = known.unwrap_or(config.store.engine);
    }
    let store = Stopped::of(&config)?;
    store.opening(|opening| database(&opening, to.unwrap_or(opening.disk), service::incarnations, progress))
}

/// Compacts the database that `opening` names, which nobody else has, for the engine `to`.
///
/// # Errors
/// [`Error`].
pub fn database(
    opening: &Opening<'_>,
    to: Disk,
    incarnations: impl Fn() -> Incarnations,
    mut progress: impl FnMut(Step, u64, Option<u64>),
) -> Result<Compacted, Error> {
    let path = opening.folder.join(opening.disk.name());
    if !path.exists() {
        // That it is of another engine would be the better reason.
        opening.manifest().claim(opening.folder, true).map_err(opening::Error::from)?;
        return Err(stopped::Error::Nothing { path }.into());
    }
    // This removes what an interrupted compaction left.
    examine(opening, incarnations()).map_err(|examined| match examined {
        Examined::Damaged(reason) => Error::Damaged { path: path.clone(), reason },
        Examined::Refused(error) => error.into(),
    })?;
    if let Some(beside) = others(opening.folder, opening.disk).find(|path| path.exists()) {
        return Err(Error::Beside { path: beside });
    }
    let before = on_disk(&path).map_err(io_at(&path))?;
    let copy = Copy { opening, to, work: opening.folder.join(FOLDER) };
    match copy.make(incarnations, &mut progress) {
        Ok(Tally { records, bytes, .. }) => {
            let after = opening.folder.join(to.name());
            let after = on_disk(&after).map_err(io_at(&after))?;
            let (before, after) = ((opening.disk.name(), before), (to.name(), after));
            Ok(Compacted { records, bytes, before, after })
        }
        Err(error) => {
            // Left for the next opening, should this fail too.
            if matches!(opening.manifest().claim(opening.folder, true), Ok(Claimed::Ours)) {
                let _ = clear(opening.folder, opening.disk);
            }
            Err(error)
        }
    }
}

/// Removes what an interrupted compaction left in a folder whose `FORMAT` names `kept`, beside the database of that
/// engine.
pub(crate) fn clear(folder: &Path, kept: Disk) -> io::Result<()> {
    let work = folder.join(FOLDER);
    if !work.exists() {
        return Ok(());
    }
    for path in others(folder, kept) {
        remove(&path)?;
    }
    File::open(folder)?.sync_all()?;
    remove(&work)?;
    File::open(folder)?.sync_all()
}

/// Where databases of other engines would be.
fn others(folder: &Path, than: Disk) -> impl Iterator<Item = PathBuf> {
    NAMES.into_iter().filter(move |name| *name != than.name()).map(|name| folder.join(name))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A copy that is being made, in a folder of its own.
struct Copy<'a> {
    opening: &'a Opening<'a>,
    to: Disk,
    work: PathBuf,
}

impl Copy<'_> {
    fn make(
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
    fn fill(&self, progress: &mut dyn FnMut(Step, u64, Option<u64>)) -> Result<Tally, Error> {
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
        let mut target = Target {
            storage: self.to.open(&self.work, cache_bytes)?,
            space: Space::of_folder(&self.work).map_err(io_at(&self.work))?,
            folder,
            needed,
            batch: Batch::default(),
            failed: None,
        };
        target.make_sure_of(tally.bytes + RESERVE_BYTES)?;
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

/// Where records are copied to.
struct Target<'a> {
    storage: Box<dyn Storage>,
    space: Space,
    folder: &'a Path,
    needed: u64,
    batch: Batch,
    /// Why nothing more is written.
    failed: Option<Error>,
}

impl Target<'_> {
    fn put(&mut self, key: &[u8], value: Bytes) -> ControlFlow<()> {
        self.batch.put(Bytes::copy_from_slice(key), value);
        if self.batch.len() < BATCH_RECORDS && self.batch.bytes() < BATCH_BYTES {
            return ControlFlow::Continue(());
        }
        match self.commit() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.make_sure_of(RESERVE_BYTES)?;
        let batch = std::mem::take(&mut self.batch);
        self.storage.commit(&batch).map_err(|source| match source {
            storage::Error::Io(source)
                if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
            {
                self.no_room()
            }
            source => Error::Storage { path: self.folder.join(FOLDER), source },
        })
    }

    fn make_sure_of(&mut self, bytes: u64) -> Result<(), Error> {
        match self.space.look() {
            Some(free) if free < bytes => Err(self.no_room()),
            Some(_) | None => Ok(()),
        }
    }

    fn no_room(&self) -> Error {
        Error::Room { path: self.folder.to_owned(), needed: self.needed }
    }
}

/// How many records there are, and a digest over all of them in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    records: u64,
    bytes: u64,
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

/// Why a database was not found to be a sound one of this store.
enum Examined {
    Damaged(String),
    Refused(opening::Error),
}

/// Opens a database as a store, and closes it.
fn examine(opening: &Opening<'_>, incarnations: Incarnations) -> Result<(), Examined> {
    match opening.examine(incarnations) {
        Ok(Ok(opened)) => {
            drop(opened);
            Ok(())
        }
        Ok(Err(places)) => Err(Examined::Damaged(places.join("; "))),
        Err(error) => Err(Examined::Refused(error)),
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

/// What a file, or all below a folder, takes on the disk.
fn on_disk(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.blocks() * 512);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += on_disk(&entry?.path())?;
    }
    Ok(bytes)
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
