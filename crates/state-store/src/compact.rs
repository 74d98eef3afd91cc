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
//! does not name, are left over (`clear`): a compaction does not begin where there is such a database already.

mod copy;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lattice_runtime::Config;
use lattice_runtime::config::Engine;
use lattice_runtime::process::Failure;

use self::copy::{Copy, Tally};
use crate::engine::Incarnations;
use crate::format::{Claimed, Manifest};
use crate::opening::{self, Opening};
use crate::service;
use crate::stopped::{self, Stopped};
use crate::storage::{self, Disk, NAMES};

/// The folder of the copy, in the store's.
pub(crate) const FOLDER: &str = "compacting";

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
    // Before it is opened, which may make it longer.
    let before = on_disk(&path).map_err(io_at(&path))?;
    // This removes what an interrupted compaction left.
    examine(opening, incarnations()).map_err(|examined| match examined {
        Examined::Damaged(reason) => Error::Damaged { path: path.clone(), reason },
        Examined::Refused(error) => error.into(),
    })?;
    if let Some(beside) = others(opening.folder, opening.disk).find(|path| path.exists()) {
        return Err(Error::Beside { path: beside });
    }
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
/// engine. Where somebody else took that away, what is left is no longer left over.
pub(crate) fn clear(folder: &Path, kept: Disk) -> io::Result<()> {
    let work = folder.join(FOLDER);
    if !work.exists() || !folder.join(kept.name()).exists() {
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
