//! The file that names a store's folder: read before the database is touched, so that a folder of another
//! format, engine, cluster or node is refused with nothing written.
//!
//! Its last line is a checksum. Beside a database, a file that fails it, or is gone, is no reason to refuse: the database
//! names the same things once more, and the file is written anew when those are right.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use lattice_core::model::{Digest, NodeId};

use super::VERSION;

/// The file's name.
pub(crate) const FILE: &str = "FORMAT";
const BYTES_MAX: u64 = 4_096;

/// What a store's folder says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What made the database, like `sled`.
    pub engine: String,
    /// The cluster whose entries it holds.
    pub cluster: String,
    /// The node whose store it is.
    pub node: NodeId,
    /// How long its epochs are, in milliseconds.
    pub epoch_ms: u32,
}

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Ours.
    Ours,
    /// The file does not read: whose the database is, it says itself.
    Illegible,
    /// There is none beside a database, which says it itself, if it is ours at all.
    Missing,
}

/// Why a folder is not our store's.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read or written.
    #[error("{path}: {source} (node.data_dir)")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not one of ours.
    #[error("{path}: is not the description of a lattice store")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The folder has another format.
    #[error("{path}: has format {found}, this release reads {VERSION}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// The database was made by another engine.
    #[error(
        "store.engine: {expected:?}, but {path} was made by {found:?}: set it to that, or move the store with lattice compact \
         --engine {expected}"
    )]
    Engine {
        /// The file.
        path: PathBuf,
        /// What is configured.
        expected: String,
        /// What made it.
        found: String,
    },
    /// The store is of another cluster.
    #[error("node.cluster: {expected:?}, but {path} is of cluster {found:?}")]
    Cluster {
        /// The file.
        path: PathBuf,
        /// What is configured.
        expected: String,
        /// Its cluster.
        found: String,
    },
    /// The store is another node's.
    #[error("node.key_file: is of node {expected}, but {path} is of node {found}")]
    Node {
        /// The file.
        path: PathBuf,
        /// Us.
        expected: NodeId,
        /// Whose it is.
        found: String,
    },
    /// The store was made with epochs of another length.
    #[error("store.epoch_ms: {expected}, but {path} was made with {found}")]
    EpochLength {
        /// The file.
        path: PathBuf,
        /// What is configured.
        expected: u32,
        /// What it was made with.
        found: String,
    },
    /// There is a database, but nothing says whose.
    #[error(
        "{path}: does not say whose the database beside it is, and neither does that ({reason}): put the file back, or \
         move the folder aside to start with an empty store (node.data_dir)"
    )]
    Unnamed {
        /// The file.
        path: PathBuf,
        /// Why the database does not.
        reason: String,
    },
}

impl Manifest {
    /// Checks that `folder` is ours, or writes that it is when it says nothing. `occupied` tells that it holds
    /// a database.
    ///
    /// # Errors
    /// [`ManifestError`]; nothing is written then.
    pub fn claim(&self, folder: &Path, occupied: bool) -> Result<Claimed, ManifestError> {
        let path = folder.join(FILE);
        let io = |source| ManifestError::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let legible = metadata.len() <= BYTES_MAX;
                let bytes = if legible { fs::read(&path).map_err(io)? } else { Vec::new() };
                match std::str::from_utf8(&bytes).ok().and_then(checked) {
                    Some(text) => self.check(text, path).map(|()| Claimed::Ours),
                    None if occupied => Ok(Claimed::Illegible),
                    None => Err(ManifestError::Malformed { path }),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && occupied => Ok(Claimed::Missing),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.write(folder, &path).map_err(io)?;
                Ok(Claimed::Ours)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Writes the file anew, where it is gone or does not read: the database has been found to be ours.
    ///
    /// # Errors
    /// [`ManifestError::Io`].
    pub fn renew(&self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(FILE);
        self.write(folder, &path).map_err(|source| ManifestError::Io { path, source })
    }

    /// What made the database in `folder`, if the file reads.
    pub fn engine_of(folder: &Path) -> Option<String> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        checked(&text)?.lines().find_map(|line| line.strip_prefix("engine ")).map(str::to_owned)
    }

    fn check(&self, text: &str, path: PathBuf) -> Result<(), ManifestError> {
        let mut lines = text.lines();
        if lines.next() != Some("lattice-store") {
            return Err(ManifestError::Malformed { path });
        }
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
        let field = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
        // The format comes first: in another one, the rest may be called otherwise.
        match field("format") {
            None => return Err(ManifestError::Malformed { path }),
            Some(found) if found != VERSION.to_string() => {
                return Err(ManifestError::Format { path, found: found.to_owned() });
            }
            Some(_) => {}
        }
        let (Some(engine), Some(cluster), Some(node), Some(epoch_ms)) =
            (field("engine"), field("cluster"), field("node"), field("epoch_ms"))
        else {
            return Err(ManifestError::Malformed { path });
        };
        if engine != self.engine {
            let (expected, found) = (self.engine.clone(), engine.to_owned());
            return Err(ManifestError::Engine { path, expected, found });
        }
        if cluster != self.cluster {
            let (expected, found) = (self.cluster.clone(), cluster.to_owned());
            return Err(ManifestError::Cluster { path, expected, found });
        }
        if node != self.node.to_string() {
            return Err(ManifestError::Node { path, expected: self.node, found: node.to_owned() });
        }
        if epoch_ms != self.epoch_ms.to_string() {
            let found = epoch_ms.to_owned();
            return Err(ManifestError::EpochLength { path, expected: self.epoch_ms, found });
        }
        Ok(())
    }

    /// Written beside and moved into place: the file is there as a whole, or not at all.
    fn write(&self, folder: &Path, path: &Path) -> std::io::Result<()> {
        let draft = folder.join(format!("{FILE}.new"));
        let mut file = File::create(&draft)?;
        let Self { engine, cluster, node, epoch_ms } = self;
        let text = format!(
            "lattice-store\nformat {VERSION}\nengine {engine}\ncluster {cluster}\nnode {node}\nepoch_ms {epoch_ms}\n"
        );
        file.write_all(with_check(&text).as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    }
}

/// The text with the line that it must end in.
fn with_check(text: &str) -> String {
    let digest = Digest::of(&[b"lattice/v1/manifest\0", text.as_bytes()]).to_string();
    format!("{text}check {}\n", &digest[..16])
}

/// The text without its last line, if that is right.
fn checked(text: &str) -> Option<&str> {
    let body = &text[..text.rfind("check ")?];
    (with_check(body) == text).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest { engine: "sled".into(), cluster: "lattice".into(), node: NodeId([1; 32]), epoch_ms: 1_000 }
    }

    #[test]
    fn a_folder_is_claimed_once_and_then_recognized() {
        let folder = tempfile::tempdir().unwrap();
        manifest().claim(folder.path(), false).unwrap();
        manifest().claim(folder.path(), true).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        manifest().claim(folder.path(), false).unwrap();
        let refused = |manifest: Manifest| manifest.claim(folder.path(), true).unwrap_err().to_string();
        let text = refused(Manifest { engine: "redb".into(), ..manifest() });
        assert!(text.starts_with("store.engine: \"redb\""), "{text}");
        let text = refused(Manifest { cluster: "other".into(), ..manifest() });
        assert!(text.starts_with("node.cluster: \"other\""), "{text}");
        let text = refused(Manifest { node: NodeId([2; 32]), ..manifest() });
        assert!(text.starts_with("node.key_file:"), "{text}");
        let text = refused(Manifest { epoch_ms: 500, ..manifest() });
        assert!(text.starts_with("store.epoch_ms: 500") && text.ends_with("was made with 1000"), "{text}");
        fs::write(folder.path().join(FILE), with_check("lattice-store\nformat 9\n")).unwrap();
        let text = refused(manifest());
        assert!(text.ends_with("has format 9, this release reads 1"), "{text}");
        fs::write(folder.path().join(FILE), "something else").unwrap();
        assert!(matches!(manifest().claim(folder.path(), false), Err(ManifestError::Malformed { .. })));
    }

    #[test]
    fn a_flip_anywhere_leaves_the_decision_to_the_database() {
        let folder = tempfile::tempdir().unwrap();
        manifest().claim(folder.path(), false).unwrap();
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert_eq!(manifest().claim(folder.path(), true).unwrap(), Claimed::Illegible, "bit {bit}");
        }
        manifest().renew(folder.path()).unwrap();
        assert_eq!(manifest().claim(folder.path(), true).unwrap(), Claimed::Ours);
    }

    #[test]
    fn without_the_file_the_decision_is_the_databases_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(manifest().claim(folder.path(), true).unwrap(), Claimed::Missing);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
