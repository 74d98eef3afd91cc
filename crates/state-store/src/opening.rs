//! Opens a store's database, whatever state it is in.
//!
//! A database that does not open, lost what was acknowledged, or lacks the records that say what it is, is set
//! aside under a dated name and never touched again; a new one takes its place under a new incarnation, takes
//! over what can be salvaged, and recovers from its peers. An opening does this once at most. So that a dying
//! disk is not fed one database after the other, the next one is refused once [`SET_ASIDE_MAX`] were set aside
//! within [`SET_ASIDE_WITHIN`]; folders are never deleted by us.
//!
//! sled destroys what it does not understand of its own log: the log is looked at first (`storage::sled_log`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lattice_core::model::NodeId;
use tokio::sync::watch;

use crate::compact;
use crate::engine::{self, Engine, Incarnations, Now, OpenError, Settings};
use crate::format::{Claimed, Manifest, ManifestError, keys, manifest, record};
use crate::salvage::{self, REASON, SALVAGED};
use crate::storage::sled_log::{self, Inspection};
use crate::storage::{self, Disk, Guarded, Storage, Watermark};

/// So many databases may be set aside within so long a time.
pub const SET_ASIDE_MAX: usize = 3;
/// The time in which they count.
pub const SET_ASIDE_WITHIN: Duration = Duration::from_secs(24 * 3_600);
/// How the folders are called, before their date.
const SET_ASIDE: &str = "damaged-";
/// What is set aside: databases of all engines, and what stands beside them.
const PARTS: [&str; 5] =
    [storage::NAMES[0], storage::NAMES[1], compact::FOLDER, storage::WATERMARK, storage::SUSPECT];
/// The most lines that a reason has.
const REASON_LINES_MAX: usize = 20;

/// What a store is opened with.
pub struct Opening<'a> {
    /// The store's folder.
    pub folder: &'a Path,
    /// What keeps the database.
    pub disk: Disk,
    /// What may be kept in memory.
    pub cache_bytes: u64,
    /// How the store behaves.
    pub settings: Settings,
    /// The node's key.
    pub key: SigningKey,
    /// What time it is.
    pub now: &'a dyn Fn() -> Now,
}

/// An open store.
pub struct Opened {
    /// The engine.
    pub engine: Engine,
    /// Tells when the database is found to be so damaged that only a new opening mends it.
    pub damaged: watch::Receiver<Option<String>>,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is not ours.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The database cannot be opened, for a reason that is no damage.
    #[error(transparent)]
    Storage(#[from] storage::OpenError),
    /// The database is not ours.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// The folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A database was set aside and its salvage did not end.
    #[error(transparent)]
    Salvage(#[from] salvage::Error),
    /// Too many were set aside.
    #[error(
        "{path}: the database is damaged ({reason}), and {SET_ASIDE_MAX} were set aside within 24 hours: check the \
         disk, then move the folders {SET_ASIDE}* elsewhere to start"
    )]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the last one.
        reason: String,
    },
    /// A new database is damaged at once.
    #[error("{path}: a new database is damaged at once: {reason}")]
    Hopeless {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why an attempt failed.
enum Attempt {
    /// What is there is damaged.
    Damaged(String),
    /// Something else.
    Refused(Error),
}

impl<E: Into<Error>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Opening<'_> {
    /// Opens the store's database; makes it where there is none, and again where it is damaged.
    ///
    /// # Errors
    /// [`Error`]; nothing is written when the folder is not ours.
    pub fn open(&self, incarnations: impl Fn() -> Incarnations) -> Result<Opened, Error> {
        let mut opened = match self.attempt(incarnations()) {
            Ok(opened) => opened,
            Err(Attempt::Refused(error)) => return Err(error),
            Err(Attempt::Damaged(reason)) => {
                self.set_aside(&reason)?;
                match self.attempt(incarnations()) {
                    Ok(opened) => opened,
                    Err(Attempt::Refused(error)) => return Err(error),
                    Err(Attempt::Damaged(reason)) => {
                        return Err(Error::Hopeless { path: self.folder.to_owned(), reason });
                    }
                }
            }
        };
        self.salvage(&mut opened.engine)?;
        Ok(opened)
    }

    /// Opens the database as it is, or tells why that cannot be done: the damage, place by place. Nothing is set
    /// aside.
    ///
    /// # Errors
    /// [`Error`], when it is not damage that is in the way.
    pub fn examine(&self, incarnations: Incarnations) -> Result<Result<Opened, Vec<String>>, Error> {
        match self.attempt(incarnations) {
            Ok(opened) => Ok(Ok(opened)),
            Err(Attempt::Damaged(reason)) => Ok(Err(reason.lines().map(str::to_owned).collect())),
            Err(Attempt::Refused(error)) => Err(error),
        }
    }

    fn io(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.folder.to_owned();
        move |source| Error::Io { path: path.clone(), source }
    }

    /// How this store's folder describes itself.
    pub(crate) fn manifest(&self) -> Manifest {
        Manifest {
            engine: self.disk.name().to_owned(),
            cluster: self.settings.cluster.clone(),
            node: NodeId(self.key.verifying_key().to_bytes()),
            epoch_ms: self.settings.epoch_length.0.get(),
        }
    }

    fn attempt(&self, incarnations: Incarnations) -> Result<Opened, Attempt> {
        let ours = self.manifest();
        let occupied = storage::exists(self.folder);
        let claimed = ours.claim(self.folder, occupied)?;
        let unnamed = |reason: String| {
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            ManifestError::Unnamed { path: self.folder.join(manifest::FILE), reason }
        };
        if claimed != Claimed::Ours && !self.folder.join(self.disk.name()).exists() {
            return Err(unnamed(format!("it is none of {}", self.disk.name())).into());
        }
        if claimed == Claimed::Ours {
            compact::clear(self.folder, self.disk).map_err(self.io())?;
        }
        let opened = match (self.attempt_database(incarnations), claimed) {
            // It may be anybody's: it is left as it is.
            (Err(Attempt::Damaged(reason)), Claimed::Missing) => return Err(unnamed(reason).into()),
            (opened, _) => opened?,
        };
        match claimed {
            Claimed::Ours => {}
            Claimed::Illegible | Claimed::Missing => {
                tracing::warn!(folder = %self.folder.display(), "FORMAT was damaged or missing, and is written anew");
                ours.renew(self.folder)?;
            }
        }
        Ok(opened)
    }

    fn attempt_database(&self, incarnations: Incarnations) -> Result<Opened, Attempt> {
        let commits = self.inspect_log().and_then(|()| self.watermark())?;
        let storage = match self.disk.open(self.folder, self.cache_bytes) {
            Ok(storage) => storage,
            Err(storage::OpenError::Damaged { reason, .. }) => return Err(Attempt::Damaged(reason)),
            Err(error) => return Err(error.into()),
        };
        let storage = Guarded::new(storage, self.folder).map_err(self.io())?;
        self.trust(&storage, commits)?;
        let damaged = storage.damaged();
        let opened =
            Engine::open(storage, self.settings.clone(), self.key.clone(), incarnations, (self.now)());
        let engine = opened.map_err(|error| match error {
            OpenError::Store(
                error @ (engine::Error::Damaged(_) | engine::Error::Storage(storage::Error::Engine(_))),
            ) => Attempt::Damaged(error.to_string()),
            error => Attempt::Refused(error.into()),
        })?;
        Ok(Opened { engine, damaged })
    }

    /// Looks at the log before sled does.
    fn inspect_log(&self) -> Result<(), Attempt> {
        if self.disk != Disk::Sled {
            return Ok(());
        }
        let commits = self.watermark()?;
        let inspection = sled_log::inspect(&self.folder.join("sled")).map_err(self.io())?;
        let last = match inspection {
            Inspection::Sound { last_commit } => last_commit.unwrap_or_default(),
            Inspection::Damaged { places } => {
                let more = places.len().saturating_sub(REASON_LINES_MAX);
                let mut lines: Vec<String> = places.into_iter().take(REASON_LINES_MAX).collect();
                lines.extend((more > 0).then(|| format!("and {more} more places")));
                return Err(Attempt::Damaged(lines.join("\n")));
            }
        };
        match last < commits {
            true => Err(Attempt::Damaged(lost(last, commits))),
            false => Ok(()),
        }
    }

    /// How many commits were acknowledged.
    fn watermark(&self) -> Result<u64, Attempt> {
        Ok(match Watermark::read(self.folder).map_err(self.io())? {
            Watermark::Absent => 0,
            // There was one at least; the database will have to be believed for the rest.
            Watermark::Illegible => 1,
            Watermark::Commits(commits) => commits,
        })
    }

    /// Looks at a database more closely when something is said against it.
    fn trust(&self, storage: &Guarded, commits: u64) -> Result<(), Attempt> {
        let damaged = |error: storage::Error| match error {
            storage::Error::Engine(reason) => Attempt::Damaged(reason),
            error => Attempt::Refused(OpenError::from(error).into()),
        };
        let suspect = self.folder.join(storage::SUSPECT);
        if suspect.exists() {
            tracing::warn!(folder = %self.folder.display(), "the database was suspect when it was closed: reading all of it");
            let everything = storage.range(&[], &[u8::MAX], &mut |_, _| Ok(ControlFlow::Continue(())));
            everything.map_err(damaged)?;
            fs::remove_file(&suspect).map_err(self.io())?;
        }
        let at = keys::meta("commit");
        let last = storage.get(&at).map_err(damaged)?;
        let last = last.and_then(|framed| record::decode::<record::Commit>(&at, &framed).ok());
        let last = last.map_or(0, |commit| commit.number);
        match last < commits {
            true => Err(Attempt::Damaged(lost(last, commits))),
            false => Ok(()),
        }
    }

    fn set_aside(&self, reason: &str) -> Result<(), Error> {
        let now = (self.now)().wall.millis();
        let recent = |millis: u64| u128::from(now.saturating_sub(millis)) < SET_ASIDE_WITHIN.as_millis();
        let folders = set_aside(self.folder).map_err(self.io())?;
        if folders.iter().filter(|(_, millis)| recent(*millis)).count() >= SET_ASIDE_MAX {
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            return Err(Error::TooMany { path: self.folder.to_owned(), reason });
        }
        let folder = self.make_folder(now).map_err(self.io())?;
        tracing::error!(
            reason = reason.replace('\n', "; "),
            folder = %folder.display(),
            "the database is damaged: it is set aside, and what can be salvaged is"
        );
        let moved = || -> io::Result<()> {
            let mut file = File::create(folder.join(REASON))?;
            writeln!(file, "{reason}")?;
            file.sync_all()?;
            File::open(&folder)?.sync_all()?;
            // A description that does not read describes what is set aside, if anything.
            let occupied = storage::exists(self.folder);
            let illegible = matches!(self.manifest().claim(self.folder, occupied), Ok(Claimed::Illegible));
            for part in PARTS.into_iter().chain(illegible.then_some(manifest::FILE)) {
                match fs::rename(self.folder.join(part), folder.join(part)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            File::open(&folder)?.sync_all()?;
            File::open(self.folder)?.sync_all()
        };
        moved().map_err(self.io())
    }

    fn make_folder(&self, millis: u64) -> io::Result<PathBuf> {
        let date =
            i64::try_from(millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        let date = date.unwrap_or_default().strftime(DATE).to_string();
        for number in 0..=SET_ASIDE_MAX {
            let more = if number == 0 { String::new() } else { format!("-{number}") };
            let folder = self.folder.join(format!("{SET_ASIDE}{date}{more}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| folder),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Salvages what was set aside and not salvaged yet.
    fn salvage(&self, engine: &mut Engine) -> Result<(), Error> {
        for (folder, _) in set_aside(self.folder).map_err(self.io())? {
            if folder.join(SALVAGED).exists() {
                continue;
            }
            if engine.recovering().is_none() {
                let reason = fs::read_to_string(folder.join(REASON)).unwrap_or_default();
                let begun = engine.begin_recovering(reason.trim(), (self.now)());
                begun.map_err(OpenError::from)?;
            }
            let salvaged = salvage::run(engine, &folder, self.now)?;
            let salvage::Salvaged { entries, lost, illegible } = salvaged;
            tracing::warn!(
                folder = %folder.display(),
                entries,
                lost,
                illegible,
                "salvaged; recovering until peers have filled the store again"
            );
        }
        Ok(())
    }
}

/// How dates are written in the names of folders.
const DATE: &str = "%Y%m%dT%H%M%SZ";

fn lost(last: u64, commits: u64) -> String {
    format!("its last commit is {last}, but {commits} were acknowledged")
}

/// The folders that were set aside, oldest first, and when that was.
///
/// # Errors
/// When the folder cannot be read.
pub fn set_aside(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(date) = name.strip_prefix(SET_ASIDE) else { continue };
        let date = date.split('-').next().unwrap_or_default();
        let date = jiff::fmt::strtime::parse(DATE, date).and_then(|date| date.to_datetime());
        let date = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC));
        let millis = date.map_or(0, |date| date.timestamp().as_millisecond());
        folders.push((path, u64::try_from(millis).unwrap_or_default()));
    }
    folders.sort();
    Ok(folders)
}
