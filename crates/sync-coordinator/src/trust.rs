//! Whom this node reconciles with: the keys of the configuration, plus those added and minus those removed
//! while it ran.
//!
//! What was added and removed is kept in `<data_dir>/trust.json`, on disk before it takes effect. A file that
//! cannot be read stops the start: ignoring it would trust again whom an operator removed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use lattice_core::model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::files;

/// The most keys that are trusted, wherever they come from.
pub const KEYS_MAX: usize = 1_024;

const FILE: &str = "trust.json";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The effective trusted keys, our own never among them; cheap to clone.
pub type Keys = Arc<BTreeSet<NodeId>>;

/// Keeps the list.
#[derive(Debug)]
pub struct Trust {
    path: PathBuf,
    own: NodeId,
    configured: BTreeSet<NodeId>,
    changes: Mutex<Changes>,
    effective: watch::Sender<Keys>,
}

/// Where a trusted key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `node.trusted_keys`.
    Configuration,
    /// Added while the node ran.
    RunTime,
}

/// Why the list is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there and cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and is something else.
    #[error("{}: {what}: must be {{\"added\": [key], \"removed\": [key]}} with keys of 64 hex characters", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file cannot be written; nothing changed.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a key that could have signed anything.
    #[error("{0} is not an Ed25519 public key")]
    NotAKey(NodeId),
    /// Nobody to remove.
    #[error("{0} is not a trusted key")]
    NotTrusted(NodeId),
    /// One's own key needs no trust.
    #[error("{0} is this node's own key")]
    Own(NodeId),
    /// There are too many.
    #[error("there are {KEYS_MAX} trusted keys already: remove one first")]
    Full,
}

/// What changed since the configuration, as it is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    added: Vec<String>,
    removed: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Changes {
    added: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
}

impl Trust {
    /// Reads what was added and removed in `data_dir`. Call outside of async code, or where a moment's
    /// disk work harms nobody.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Damaged`].
    pub fn open(data_dir: &Path, configured: &[[u8; 32]], own: NodeId) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let changes = match files::read(&path, FILE_BYTES_MAX) {
            Ok(None) => Changes::default(),
            Ok(Some(bytes)) => {
                Changes::parse(&bytes).map_err(|what| Error::Damaged { path: path.clone(), what })?
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        let configured: BTreeSet<_> = configured.iter().copied().map(NodeId).collect();
        let keys = changes.effective(&configured, own);
        Ok(Self { path, own, configured, changes: Mutex::new(changes), effective: watch::Sender::new(keys) })
    }

    /// The effective keys.
    pub fn keys(&self) -> Keys {
        self.effective.borrow().clone()
    }

    /// The effective keys, and every change of them.
    pub fn watch(&self) -> watch::Receiver<Keys> {
        self.effective.subscribe()
    }

    /// The effective keys with their sources, in order.
    pub fn list(&self) -> Vec<(NodeId, Source)> {
        let source = |node| match self.configured.contains(&node) {
            true => Source::Configuration,
            false => Source::RunTime,
        };
        self.keys().iter().map(|node| (*node, source(*node))).collect()
    }

    /// Trusts `node` from now on, also after a restart.
    ///
    /// # Errors
    /// [`Error`]; nothing changed then.
    pub async fn add(&self, node: NodeId) -> Result<(), Error> {
        match VerifyingKey::from_bytes(node.as_bytes()) {
            Ok(key) if !key.is_weak() => {}
            Ok(_) | Err(_) => return Err(Error::NotAKey(node)),
        }
        if node == self.own {
            return Err(Error::Own(node));
        }
        let mut changes = self.changes.lock().await;
        let keys = self.keys();
        if keys.contains(&node) {
            return Ok(());
        }
        if keys.len() >= KEYS_MAX {
            return Err(Error::Full);
        }
        let mut next = changes.clone();
        next.removed.remove(&node);
        if !self.configured.contains(&node) {
            next.added.insert(node);
        }
        self.apply(&mut changes, next).await
    }

    /// Trusts `node` no longer, also after a restart.
    ///
    /// # Errors
    /// [`Error`]; nothing changed then.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        let mut changes = self.changes.lock().await;
        if !self.keys().contains(&node) {
            return Err(Error::NotTrusted(node));
        }
        let mut next = changes.clone();
        next.added.remove(&node);
        if self.configured.contains(&node) {
            next.removed.insert(node);
        }
        self.apply(&mut changes, next).await
    }

    /// Writes first; then it counts.
    async fn apply(&self, changes: &mut Changes, next: Changes) -> Result<(), Error> {
        let (path, bytes) = (self.path.clone(), next.print());
        let written = tokio::task::spawn_blocking(move || files::replace(&path, &bytes)).await;
        let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        written.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.effective.send_replace(next.effective(&self.configured, self.own));
        *changes = next;
        Ok(())
    }
}

impl Changes {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| format!("is damaged ({error})"))?;
        let keys = |field: &str, texts: &[String]| {
            let parse = |(index, text): (usize, &String)| {
                text.parse().map_err(|_| format!("{field}[{index}] is {text:?}"))
            };
            texts.iter().enumerate().map(parse).collect::<Result<BTreeSet<NodeId>, _>>()
        };
        if file.added.len().max(file.removed.len()) > KEYS_MAX {
            return Err(format!("has more than {KEYS_MAX} keys"));
        }
        Ok(Self { added: keys("added", &file.added)?, removed: keys("removed", &file.removed)? })
    }

    fn print(&self) -> Vec<u8> {
        let texts = |keys: &BTreeSet<NodeId>| keys.iter().map(NodeId::to_string).collect();
        let file = File { added: texts(&self.added), removed: texts(&self.removed) };
        let mut bytes = serde_json::to_vec_pretty(&file).expect("two lists of strings are JSON");
        bytes.push(b'\n');
        bytes
    }

    fn effective(&self, configured: &BTreeSet<NodeId>, own: NodeId) -> Keys {
        let keys = configured.union(&self.added).copied();
        Arc::new(keys.filter(|node| *node != own && !self.removed.contains(node)).take(KEYS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use lattice_runtime::identity::NodeKey;

    use super::*;

    fn node(seed: u8) -> NodeId {
        NodeId(NodeKey::from_seed(&[seed; 32]).public())
    }

    #[tokio::test]
    async fn changes_outlive_a_restart_and_own_key_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let configured = [node(1).0, node(2).0, node(9).0];
        let open = || Trust::open(folder.path(), &configured, node(9)).unwrap();
        let trust = open();
        assert_eq!(trust.keys().len(), 2);
        let mut watched = trust.watch();
        trust.add(node(3)).await.unwrap();
        trust.remove(node(1)).await.unwrap();
        assert!(watched.has_changed().unwrap());
        let mut expected = vec![(node(2), Source::Configuration), (node(3), Source::RunTime)];
        expected.sort_by_key(|(node, _)| *node);
        assert_eq!(trust.list(), expected);
        assert_eq!(open().list(), expected);
        assert_eq!(*watched.borrow_and_update(), trust.keys());

        trust.add(node(1)).await.unwrap();
        assert!(open().list().contains(&(node(1), Source::Configuration)));
    }

    #[tokio::test]
    async fn what_cannot_be_trusted_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust::open(folder.path(), &[], node(9)).unwrap();
        assert!(matches!(trust.add(node(9)).await, Err(Error::Own(_))));
        assert!(matches!(trust.remove(node(1)).await, Err(Error::NotTrusted(_))));
        // The identity point: in size a key, of small order.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert!(matches!(trust.add(NodeId(weak)).await, Err(Error::NotAKey(_))));
        assert!(trust.keys().is_empty());
    }

    #[test]
    fn a_damaged_file_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{}", "{\"added\": [\"xy\"], \"removed\": []}", "[1]"] {
            std::fs::write(folder.path().join(FILE), content).unwrap();
            let error = Trust::open(folder.path(), &[], node(9)).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("trust.json"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_written_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust::open(&folder.path().join("gone"), &[], node(9)).unwrap();
        assert!(matches!(trust.add(node(1)).await, Err(Error::Write { .. })));
        assert!(trust.keys().is_empty());
    }
}
