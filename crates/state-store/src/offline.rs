//! Checks a stopped store, and lets an operator accept what it lost.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lattice_runtime::identity::{self, DataDir, Lock, NodeKey};
use lattice_runtime::process::Failure;
use lattice_runtime::{Clock, Config};

use crate::engine::{self, DamagedEntry, Engine, Finding, Read};
use crate::opening::{self, Opened, Opening, set_aside};
use crate::salvage;
use crate::service::{self, FOLDER};
use crate::storage::{self, Disk};
use crate::writer;

/// How many damaged keys are read at a time.
const PAGE: usize = 1_000;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What keeps the database from being opened; the next start sets it aside and salvages it.
    pub places: Vec<String>,
    /// What this check found, and noted.
    pub findings: Vec<Finding>,
    /// All keys that are noted as damaged.
    pub damaged: Vec<DamagedEntry>,
    /// Why the store recovers; `None` when it does not.
    pub recovering: Option<String>,
    /// What was read.
    pub read: Read,
    /// Folders that were set aside, and how many lines their reports have.
    pub set_aside: Vec<(PathBuf, usize)>,
}

/// Why a store cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("{path}: there is no store that could be checked (node.data_dir)")]
    Nothing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It keeps nothing.
    #[error("store.engine: a store in memory leaves nothing to check")]
    Memory,
    /// The check notes what it finds, and the storage engine writes when it opens its files.
    #[error(
        "{path}: is on a disk that cannot be written, which a check has to: copy the folder to one that can, and check the \
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

impl Report {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        let found = !self.places.is_empty() || !self.findings.is_empty() || !self.damaged.is_empty();
        !found && self.recovering.is_none()
    }
}

/// A stopped store, for this process alone.
struct Stopped {
    folder: PathBuf,
    disk: Disk,
    cache_bytes: u64,
    settings: engine::Settings,
    key: NodeKey,
    clock: Clock,
    _lock: Lock,
}

impl Stopped {
    fn of(config: &Config) -> Result<Self, Error> {
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

    fn opening<T>(&self, open: impl FnOnce(Opening<'_>) -> T) -> T {
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

fn set_aside_in(folder: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    set_aside(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })
}

/// Checks all of a stopped store. What is found is noted in it, so that it is not served when the node runs again.
/// `progress` hears how much is done, in thousandths.
///
/// # Errors
/// [`Error`], when it cannot be checked.
pub fn check(config: &Config, mut progress: impl FnMut(u32, Read)) -> Result<Report, Error> {
    let store = Stopped::of(config)?;
    let mut report = Report::default();
    for (folder, _) in set_aside_in(&store.folder)? {
        let lines = salvage::report(&folder).map_or(0, |report| report.lines().count());
        report.set_aside.push((folder, lines));
    }
    let opened = store.opening(|opening| opening.examine(service::incarnations()))?;
    let Opened { mut engine, damaged } = match opened {
        Ok(opened) => opened,
        Err(places) => return Ok(Report { places, ..report }),
    };
    match check_all(&mut engine, &store.clock, &mut report, &mut progress) {
        Ok(()) => {}
        // The storage engine has found its files damaged: that is a finding, too.
        Err(error) => match &*damaged.borrow() {
            Some(reason) => report.places.push(reason.clone()),
            None => return Err(error.into()),
        },
    }
    report.recovering = engine.recovering().map(str::to_owned);
    Ok(report)
}

fn check_all(
    engine: &mut Engine,
    clock: &Clock,
    report: &mut Report,
    progress: &mut impl FnMut(u32, Read),
) -> Result<(), engine::Error> {
    let mut check = engine.reader().check();
    loop {
        let more = check.step()?;
        engine.look_into_suspicions(writer::now(clock))?;
        report.findings.append(&mut engine.take_findings());
        report.read = check.read();
        progress(check.permille(), report.read);
        if !more {
            break;
        }
    }
    // What was looked into last may have led on.
    engine.look_into_suspicions(writer::now(clock))?;
    report.findings.append(&mut engine.take_findings());
    let mut after = Vec::new();
    loop {
        let page = engine.reader().damaged(&after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.key.as_bytes().to_vec();
        report.damaged.extend(page);
    }
}

/// Accepts what a stopped store lost: damaged keys read as what is left of them, and the store recovers no more.
/// Returns how many damaged keys were given up.
///
/// # Errors
/// [`Error`].
pub fn accept_loss(config: &Config) -> Result<u64, Error> {
    let store = Stopped::of(config)?;
    let mut opened = store.opening(|opening| opening.open(service::incarnations))?;
    Ok(opened.engine.accept_loss(writer::now(&store.clock))?)
}
