//! What makes a node the node it is: its key, the folder that goes with it, and whom it trusts.
//!
//! Four services may start at once and each needs both, so both are created the same way: written and
//! synced under a name of their own, then linked into place. The link succeeds for exactly one; the others
//! read what it left. A half-written key can never be seen.
//!
//! A folder that belongs to another cluster, or is used by another process, is refused before anything in
//! it changes.

mod folder;
mod key;
mod members;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use folder::{DataDir, Lock};
pub use key::NodeKey;
pub use members::{MEMBERS_MAX, Members};

use crate::config;

/// Why a key or folder is refused. Each message is one line that names the file and what is right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system said no.
    #[error("{}: {doing}: {source}{} ({field})", path.display(), cure(source.kind()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The configuration's field that leads there.
        field: &'static str,
        /// What we were doing.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The key file is a folder.
    #[error("{}: is a folder: must be the file of the node's key, or a name for it (node.key_file)", path.display())]
    Folder {
        /// What is named as the key file.
        path: PathBuf,
    },
    /// The key file holds something else.
    #[error("{}: must hold an Ed25519 seed of 64 hex characters (node.key_file)", path.display())]
    Content {
        /// The key file.
        path: PathBuf,
    },
    /// The key is gone, and its store is there.
    #[error(
        "{}: is missing, but {} is the store of a node that had a key: put the key back, or move that folder aside to \
         start as a new node (node.key_file, node.data_dir)",
        path.display(),
        store.display()
    )]
    Lost {
        /// The key file.
        path: PathBuf,
        /// The store's folder.
        store: PathBuf,
    },
    /// The key file is open to others.
    #[error(
        "{}: has mode {mode:04o} and is open to other users: run chmod 600 {} (node.key_file)",
        path.display(),
        path.display()
    )]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The list of keys added and removed is there and is something else.
    #[error(
        "{}: {what}: must be {{\"added\": [key], \"removed\": [key]}} with keys of 64 hex characters; mend it, or \
         move it aside to trust node.trusted_keys alone (node.data_dir)",
        path.display()
    )]
    Members {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The folder belongs to another cluster.
    #[error(
        "{}: belongs to cluster {found}, this node is of cluster {expected} (node.data_dir, node.cluster)",
        path.display()
    )]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// What its marker says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
    /// Another process holds the lock.
    #[error("{}: in use by another process: stop that one, or use another folder (node.data_dir)", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
}

impl Error {
    fn io(path: &Path, field: &'static str, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, field, doing, source }
    }
}

/// What would help, where the system's own words do not say so.
fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => ": must be open to the user that runs this process",
        ErrorKind::ReadOnlyFilesystem => ": must be on a disk that can be written",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": needs room on its disk",
        _ => "",
    }
}

/// The store's folder in the node's. It is made after the key.
pub const STORE_FOLDER: &str = "store";

/// Refuses what is there of a node's key, folder and list of keys, and is damaged or of another cluster; also a store
/// whose key is gone, before a new key makes another node of it. Call it before anything is opened: nothing is written,
/// and what is not there yet is fine.
///
/// # Errors
/// [`Error`], as [`DataDir::open`], [`NodeKey::load`] and [`Members::read`].
pub fn check(node: &config::Node) -> Result<(), Error> {
    DataDir::check(&node.data_dir, &node.cluster)?;
    let store = node.data_dir.join(STORE_FOLDER);
    // Looked at before the key, since another service may just be making both.
    let is_new = !store.exists();
    match NodeKey::load(&node.key_file) {
        Ok(_) => {}
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !is_new => {
            return Err(Error::Lost { path: node.key_file.clone(), store });
        }
        // It is made at the first start.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Members::read(&node.data_dir, &node.trusted_keys).map(drop)
}

/// Creates `path` with `content` and mode 0600, whole and synced, unless it exists: then it is left alone.
fn create_once(path: &Path, field: &'static str, content: &[u8]) -> Result<(), Error> {
    let folder = parent(path);
    let temporary = folder.join(format!(".new-{}", hex::encode(crate::entropy::bytes::<8>())));
    let written = write_synced(&temporary, content).map_err(Error::io(path, field, "create"));
    let linked = written.and_then(|()| match std::fs::hard_link(&temporary, path) {
        // Somebody was faster: theirs holds.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map_err(Error::io(path, field, "create")),
    });
    let _ = std::fs::remove_file(&temporary);
    linked?;
    sync_folder(folder, field)
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_folder(folder: &Path, field: &'static str) -> Result<(), Error> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io(folder, field, "sync"))
}

/// The folder that holds `path`; a bare name is in the working directory.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Creates `path` and what leads to it, with mode 0700 for what is new. The names of what is new are synced:
/// else a power loss could take a folder, and all that was acknowledged in it.
fn create_folder(path: &Path, field: &'static str) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let is_new = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let new: Vec<&Path> = path.ancestors().take_while(is_new).collect();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io(
        path,
        field,
        "create folder",
    ))?;
    new.into_iter().try_for_each(|folder| sync_folder(parent(folder), field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_whose_key_is_gone_is_refused_and_no_key_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_owned();
        let key_file = data_dir.join("node.key");
        let node = config::Node { key_file: key_file.clone(), data_dir, ..Default::default() };
        check(&node).unwrap();
        NodeKey::load_or_create(&key_file).unwrap();
        let store = node.data_dir.join(STORE_FOLDER);
        std::fs::create_dir(&store).unwrap();
        check(&node).unwrap();

        std::fs::remove_file(&key_file).unwrap();
        let error = check(&node).unwrap_err().to_string();
        let expected = format!("{}: is missing, but {} is the store", key_file.display(), store.display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(!key_file.exists());
        std::fs::rename(&store, node.data_dir.join("store-aside")).unwrap();
        check(&node).unwrap();
    }
}
