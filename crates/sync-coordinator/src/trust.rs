//! Whom this node reconciles with, and how that changes while it runs.
//!
//! The list itself is the runtime's ([`Members`]): every service reads it, this one alone changes it, on disk
//! before it takes effect. What others write there takes effect as well ([`Trust::look`]).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use lattice_core::model::NodeId;
use lattice_runtime::identity::{self, MEMBERS_MAX, Members};
use tokio::sync::{Mutex, watch};

/// The effective trusted keys, our own never among them; cheap to clone.
pub type Keys = Arc<BTreeSet<NodeId>>;

/// Keeps the list.
#[derive(Debug)]
pub struct Trust {
    own: NodeId,
    members: Mutex<Members>,
    configured: BTreeSet<NodeId>,
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
    /// The list cannot be read or written; nothing changed.
    #[error(transparent)]
    List(#[from] identity::Error),
    /// The task that reads or writes did not end.
    #[error("read or write the trusted keys: {0}")]
    Write(io::Error),
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
    #[error("there are {MEMBERS_MAX} trusted keys already: remove one first")]
    Full,
}

impl Trust {
    /// Reads what was added and removed in `data_dir`. Call outside of async code, or where a moment's
    /// disk work harms nobody.
    ///
    /// # Errors
    /// [`Error::List`].
    pub fn open(data_dir: &Path, configured: &[[u8; 32]], own: NodeId) -> Result<Self, Error> {
        let members = Members::read(data_dir, configured)?;
        let keys = effective(&members, own);
        let configured = configured.iter().copied().map(NodeId).collect();
        Ok(Self { own, members: Mutex::new(members), configured, effective: watch::Sender::new(keys) })
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
        let mut members = self.members.lock().await;
        self.take_in(&mut members).await?;
        let keys = self.keys();
        if keys.contains(&node) {
            return Ok(());
        }
        if keys.len() >= MEMBERS_MAX {
            return Err(Error::Full);
        }
        let mut next = members.clone();
        next.add(node.0);
        self.apply(&mut members, next).await
    }

    /// Trusts `node` no longer, also after a restart.
    ///
    /// # Errors
    /// [`Error`]; nothing changed then.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        let mut members = self.members.lock().await;
        self.take_in(&mut members).await?;
        if !self.keys().contains(&node) {
            return Err(Error::NotTrusted(node));
        }
        let mut next = members.clone();
        next.remove(&node.0);
        self.apply(&mut members, next).await
    }

    /// Looks whether others have changed the file, and takes in what they wrote; whether there was anything. A file
    /// that is damaged or gone changes nothing.
    ///
    /// # Errors
    /// [`Error::List`], [`Error::Write`].
    pub async fn look(&self) -> Result<bool, Error> {
        let mut members = self.members.lock().await;
        self.take_in(&mut members).await
    }

    async fn take_in(&self, members: &mut Members) -> Result<bool, Error> {
        let before = members.clone();
        let read = on_disk(move || before.read_again()).await?;
        let changed = read != *members;
        if changed {
            *members = read;
            self.publish(members);
        }
        Ok(changed)
    }

    /// Writes first; then it counts.
    async fn apply(&self, members: &mut Members, next: Members) -> Result<(), Error> {
        *members = on_disk(move || next.write().map(|()| next)).await?;
        self.publish(members);
        Ok(())
    }

    /// Tells everybody, if it makes a difference.
    fn publish(&self, members: &Members) {
        let keys = effective(members, self.own);
        self.effective.send_if_modified(|told| {
            let differs = *told != keys;
            *told = keys;
            differs
        });
    }
}

async fn on_disk(
    work: impl FnOnce() -> Result<Members, identity::Error> + Send + 'static,
) -> Result<Members, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|panic| Error::Write(io::Error::other(panic)))??)
}

fn effective(members: &Members, own: NodeId) -> Keys {
    Arc::new(members.effective().into_iter().map(NodeId).filter(|node| *node != own).collect())
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
    async fn what_others_write_counts_and_what_they_break_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust::open(folder.path(), &[node(1).0, node(2).0], node(9)).unwrap();
        let mut watched = trust.watch();
        assert!(!trust.look().await.unwrap(), "there is no file");
        let file = folder.path().join("trust.json");
        let write = |text: String| std::fs::write(&file, text).unwrap();
        write(format!("{{\"added\": [\"{}\"], \"removed\": [\"{}\"]}}", node(3), node(1)));
        assert!(trust.look().await.unwrap());
        assert_eq!(**watched.borrow_and_update(), BTreeSet::from([node(2), node(3)]));
        assert!(!trust.look().await.unwrap(), "it was taken in");

        // A change through the node stands on what others wrote a moment ago.
        write(format!("{{\"added\": [\"{}\"], \"removed\": [\"{}\"]}}", node(4), node(1)));
        trust.add(node(5)).await.unwrap();
        let expected = BTreeSet::from([node(2), node(4), node(5)]);
        assert_eq!(*trust.keys(), expected);

        write("{\"added\": [".to_owned());
        assert!(matches!(trust.look().await, Err(Error::List(_))));
        assert!(matches!(trust.add(node(6)).await, Err(Error::List(_))), "what is there is not written over");
        std::fs::remove_file(&file).unwrap();
        assert!(!trust.look().await.unwrap());
        assert_eq!(*trust.keys(), expected);
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

    #[tokio::test]
    async fn a_change_that_cannot_be_written_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust::open(&folder.path().join("gone"), &[], node(9)).unwrap();
        assert!(matches!(trust.add(node(1)).await, Err(Error::List(_))));
        assert!(trust.keys().is_empty());
    }
}
