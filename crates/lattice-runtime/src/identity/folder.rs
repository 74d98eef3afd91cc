//! The node's data folder: of one cluster, and each part of it used by one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Error, create_folder, create_once};

const MARKER: &str = "cluster";
const MARKER_BYTES_MAX: u64 = 256;
/// What names the folder.
const FIELD: &str = "node.data_dir";

/// The data folder, known to be of the configured cluster; cheap to clone.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

/// The right to one part of the data folder, until dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    // The lock lives as long as the file is open.
    _file: File,
}

impl DataDir {
    /// Opens the folder, creating it (0700) and its `cluster` marker where they are missing. A folder of
    /// another cluster is refused before anything is written.
    pub fn open(path: &Path, cluster: &str) -> Result<Self, Error> {
        let marker = path.join(MARKER);
        if !is_of(path, &marker, cluster)? {
            create_folder(path, FIELD)?;
            create_once(&marker, FIELD, format!("{cluster}\n").as_bytes())?;
            // Another service may have been faster, with another configuration.
            is_of(path, &marker, cluster)?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Refuses what [`Self::open`] would refuse, and writes nothing.
    pub(super) fn check(path: &Path, cluster: &str) -> Result<(), Error> {
        is_of(path, &path.join(MARKER), cluster).map(drop)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder `name` in it, created (0700) where it is missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        create_folder(&path, FIELD)?;
        Ok(path)
    }

    /// Takes `<name>.lock` for this process; refused while another one has it. The system frees it when
    /// the process ends, however it ends.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        let path = self.path.join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io(&path, FIELD, "open"))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path }),
            Err(TryLockError::Error(source)) => Err(Error::Io { path, field: FIELD, doing: "lock", source }),
        }
    }
}

/// Whether the marker is there; refuses one that names another cluster.
fn is_of(path: &Path, marker: &Path, cluster: &str) -> Result<bool, Error> {
    let file = match File::open(marker) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io(marker, FIELD, "open")(error)),
    };
    let mut bytes = Vec::new();
    file.take(MARKER_BYTES_MAX).read_to_end(&mut bytes).map_err(Error::io(marker, FIELD, "read"))?;
    let found = String::from_utf8_lossy(&bytes);
    let found = found.trim_end_matches('\n');
    if found == cluster {
        return Ok(true);
    }
    Err(Error::OtherCluster {
        path: path.to_owned(),
        found: found.escape_default().to_string(),
        expected: cluster.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_of_another_cluster_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        DataDir::open(&path, "blue").unwrap();
        DataDir::open(&path, "blue").unwrap();
        let error = DataDir::open(&path, "green").unwrap_err();
        let expected = format!(
            "{}: belongs to cluster blue, this node is of cluster green (node.data_dir, node.cluster)",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        let names: BTreeSet<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, BTreeSet::from(["cluster".into()]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_part_in_use_is_refused_until_it_is_released() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(parent.path(), "blue").unwrap();
        let lock = data_dir.lock("store").unwrap();
        let _other_part = data_dir.lock("coordinator").unwrap();
        let error = data_dir.lock("store").unwrap_err();
        let path = parent.path().join("store.lock");
        let expected = format!(
            "{}: in use by another process: stop that one, or use another folder (node.data_dir)",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        drop(lock);
        data_dir.lock("store").unwrap();
    }

    #[test]
    fn folders_are_made_where_they_are_missing() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(parent.path(), "blue").unwrap();
        let folder = data_dir.folder("coordinator").unwrap();
        assert_eq!(folder, data_dir.folder("coordinator").unwrap());
        assert!(folder.is_dir() && folder.starts_with(data_dir.path()));
    }
}
