//! sled's files, as far as sled leaves it to others that they survive a loss of power.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often, and after which pauses, sled is waited for at the end.
const RELEASE_TRIES: usize = 2_000;
const RELEASE_PAUSE: Duration = Duration::from_millis(1);
/// The folders whose names are synced: the database's, the store's, the node's, and where that is.
const FOLDERS: usize = 4;
/// sled's file of settings.
const SETTINGS: &str = "conf";

/// The log file, held open to sync it. It is opened apart from sled's own handle: the kernel tells a failed write
/// once to each handle, so that sled's background work cannot use up what a commit has to hear.
///
/// When dropped, it waits until sled's own threads have closed the file and with it the lock: whoever dropped the
/// storage may open it again at once.
pub(super) struct Log(File);

impl Log {
    pub(super) fn open(database: &Path) -> io::Result<Self> {
        File::open(database.join("db")).map(Self)
    }

    /// All that was written to the log is durable when this returns, and the file's new length with it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

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

/// Removes what a kill left of a snapshot that was being written. sled would take the draft for the newest
/// snapshot, and refuse to open on it; the one before it is still there. False when another process has the
/// database.
pub(super) fn clear(database: &Path) -> io::Result<bool> {
    let log = match File::open(database.join("db")) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    // The lock that sled takes itself; let go of at the end, before sled does.
    match log.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    for file in fs::read_dir(database)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(true)
}

/// Makes durable what opening made: sled does not sync its settings, nor the names of any of its files.
pub(super) fn settle(database: &Path) -> io::Result<()> {
    for file in fs::read_dir(database)? {
        let file = file?;
        if file.file_type()?.is_file() {
            File::open(file.path())?.sync_all()?;
        }
    }
    for folder in database.ancestors().take(FOLDERS) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The length of the segments that a database was made with; `None` when there is none, or it does not say.
pub(super) fn segment_bytes(database: &Path) -> Option<usize> {
    let settings = fs::read(database.join(SETTINGS)).ok()?;
    let lines = settings.split(|byte| *byte == b'\n');
    let mut lengths = lines.filter_map(|line| line.strip_prefix(b"segment_size: "));
    std::str::from_utf8(lengths.next()?).ok()?.trim().parse().ok()
}

/// The folder of the pages that did not fit into the log. Each is a file of its own, named by its place in
/// the log: later ones have greater names.
pub(super) struct Blobs {
    folder: PathBuf,
    synced: Option<u64>,
}

impl Blobs {
    pub(super) fn open(database: &Path) -> io::Result<Self> {
        let mut blobs = Self { folder: database.join("blobs"), synced: None };
        blobs.sync()?;
        Ok(blobs)
    }

    /// Syncs the files that came since the last time. The folder is nearly always empty.
    pub(super) fn sync(&mut self) -> io::Result<()> {
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
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
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
