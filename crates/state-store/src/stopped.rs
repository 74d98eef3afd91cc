//! A store whose node does not run, taken by this process: what a command needs before it works on the files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lattice_runtime::identity::{self, DataDir, Lock, NodeKey};
use lattice_runtime::process::Failure;
use lattice_runtime::{Clock, Config};

use crate::opening::{self, Opening, set_aside};
use crate::service::{self, FOLDER};
use crate::storage::{self, Disk};
use crate::{engine, writer};

/// Why a stopped store cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("{path}: there is no store (node.data_dir)")]
    Nothing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It keeps nothing.
    #[error("store.engine: a store in memory leaves nothing on the disk")]
    Memory,
    /// What is found is noted, and the storage engine writes when it opens its files.
    #[error(
        "{path}: is on a disk that cannot be written, which this has to: copy the folder to one that can, and use the \
         copy (node.data_dir)"
    )]
    ReadOnly {
        /// The node's folder.
        path: PathBuf,
    },
    /// The node's key or folder is refused, or another process has it.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The configuration is refused.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// The database does not open, for a reason that is no damage.
    #[error(transparent)]
    Opening(#[from] opening::Error),
    /// The disk fails.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Identity(error) => error.into(),
            Error::Service(error) => error.into(),
            Error::Memory => Self::config(error),
            Error::Nothing { .. }
            | Error::ReadOnly { .. }
            | Error::Opening(_)
            | Error::Engine(_)
            | Error::Io { .. } => Self::refused(error),
        }
    }
}

/// A stopped store, for this process alone.
pub(crate) struct Stopped {
    pub(crate) folder: PathBuf,
    disk: Disk,
    cache_bytes: u64,
    settings: engine::Settings,
    key: NodeKey,
    pub(crate) clock: Clock,
    _lock: Lock,
}

impl Stopped {
    /// Takes the store that a configuration names.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let disk = service::disk(config.store.engine)?.ok_or(Error::Memory)?;
        let folder = config.node.data_dir.join(FOLDER);
        if !folder.is_dir() || (!storage::exists(&folder) && set_aside_in(&folder)?.is_empty()) {
            return Err(Error::Nothing { path: folder });
        }
        let settings = service::settings(config)?;
        let data_dir = DataDir::open(&config.node.data_dir, &config.node.cluster)?;
        let lock = data_dir.lock(FOLDER).map_err(|error| unwritable(error, &config.node.data_dir))?;
        let key = NodeKey::load(&config.node.key_file)?;
        let cache_bytes = config.store.cache_mb << 20;
        Ok(Self { folder, disk, cache_bytes, settings, key, clock: Clock::system(), _lock: lock })
    }

    /// How it is opened.
    pub(crate) fn opening<T>(&self, open: impl FnOnce(Opening<'_>) -> T) -> T {
        let now = || writer::now(&self.clock);
        let key = self.key.signing_key().clone();
        let (disk, settings) = (self.disk, self.settings.clone());
        open(Opening { folder: &self.folder, disk, cache_bytes: self.cache_bytes, settings, key, now: &now })
    }
}

fn unwritable(error: identity::Error, data_dir: &Path) -> Error {
    match error {
        identity::Error::Io { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem => {
            Error::ReadOnly { path: data_dir.to_owned() }
        }
        error => error.into(),
    }
}

/// The folders that were set aside in a store's.
pub(crate) fn set_aside_in(folder: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    set_aside(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })
}
