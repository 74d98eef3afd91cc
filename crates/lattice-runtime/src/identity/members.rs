//! Whom a node trusts: the keys of its configuration, plus those added and minus those removed while it ran.
//!
//! What was added and removed is kept in `<data_dir>/trust.json`. Each service reads it when it starts, so that
//! a removed key is not trusted again for a moment because a sibling is away. The coordinator, alone of them,
//! writes it, and reads it again while it runs, since operators and their tools may write it as well. A file that
//! cannot be read stops the start, and changes nothing later: ignoring it would trust again whom an operator removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::PublicKey;
use crate::files;

/// The most keys that are trusted, wherever they come from.
pub const MEMBERS_MAX: usize = 1_024;

const FILE: &str = "trust.json";
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What names the folder of the file.
const FIELD: &str = "node.data_dir";

/// The trusted keys, and where each comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    path: PathBuf,
    configured: BTreeSet<PublicKey>,
    added: BTreeSet<PublicKey>,
    removed: BTreeSet<PublicKey>,
}

/// What changed since the configuration, as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    added: Vec<String>,
    removed: Vec<String>,
}

impl Members {
    /// Reads what was added and removed in `data_dir`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Members`].
    pub fn read(data_dir: &Path, configured: &[PublicKey]) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let configured = configured.iter().copied().collect();
        Self { path, configured, added: BTreeSet::new(), removed: BTreeSet::new() }.read_again()
    }

    /// Reads the file again. One that is gone changes nothing: it may be on its way from one name to another, and
    /// nobody is to be trusted again for its absence.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Members`].
    pub fn read_again(&self) -> Result<Self, Error> {
        let mut members = self.clone();
        if let Some(bytes) = members.bytes()? {
            members.parse(&bytes).map_err(|what| Error::Members { path: members.path.clone(), what })?;
        }
        Ok(members)
    }

    /// The effective keys, at most [`MEMBERS_MAX`].
    pub fn effective(&self) -> BTreeSet<PublicKey> {
        let keys = self.configured.union(&self.added);
        keys.filter(|key| !self.removed.contains(*key)).take(MEMBERS_MAX).copied().collect()
    }

    /// Whether `key` comes from the configuration.
    pub fn is_configured(&self, key: &PublicKey) -> bool {
        self.configured.contains(key)
    }

    /// Trusts `key`; on disk after [`Self::write`].
    pub fn add(&mut self, key: PublicKey) {
        self.removed.remove(&key);
        if !self.configured.contains(&key) {
            self.added.insert(key);
        }
    }

    /// Trusts `key` no longer; on disk after [`Self::write`].
    pub fn remove(&mut self, key: &PublicKey) {
        self.added.remove(key);
        if self.configured.contains(key) {
            self.removed.insert(*key);
        }
    }

    /// Replaces the file; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Io`]; the old list stands then.
    pub fn write(&self) -> Result<(), Error> {
        let texts = |keys: &BTreeSet<PublicKey>| keys.iter().map(hex::encode).collect();
        let file = File { added: texts(&self.added), removed: texts(&self.removed) };
        let mut bytes = serde_json::to_vec_pretty(&file).expect("two lists of strings are JSON");
        bytes.push(b'\n');
        let written = files::replace(&self.path, &bytes);
        written.map_err(|source| Error::Io { path: self.path.clone(), field: FIELD, doing: "write", source })
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, Error> {
        let read = files::read(&self.path, FILE_BYTES_MAX);
        read.map_err(|source| Error::Io { path: self.path.clone(), field: FIELD, doing: "read", source })
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<(), String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| format!("is damaged ({error})"))?;
        if file.added.len().max(file.removed.len()) > MEMBERS_MAX {
            return Err(format!("has more than {MEMBERS_MAX} keys"));
        }
        let keys = |field: &str, texts: &[String]| {
            let parse = |(index, text): (usize, &String)| {
                let mut key = [0; 32];
                hex::decode_to_slice(text, &mut key).map_err(|_| format!("{field}[{index}] is {text:?}"))?;
                Ok(key)
            };
            texts.iter().enumerate().map(parse).collect::<Result<BTreeSet<PublicKey>, String>>()
        };
        (self.added, self.removed) = (keys("added", &file.added)?, keys("removed", &file.removed)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_outlive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Members::read(folder.path(), &[[1; 32], [2; 32]]).unwrap();
        let mut members = read();
        members.add([3; 32]);
        members.remove(&[1; 32]);
        assert_eq!(read().effective(), BTreeSet::from([[1; 32], [2; 32]]), "not written yet");
        members.write().unwrap();
        assert_eq!(read().effective(), BTreeSet::from([[2; 32], [3; 32]]));
        assert_eq!(read(), members);

        members.add([1; 32]);
        members.write().unwrap();
        assert!(read().effective().contains(&[1; 32]));
        assert!(read().is_configured(&[1; 32]));
    }

    #[test]
    fn what_others_wrote_is_read_again_and_a_file_that_is_gone_or_damaged_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let members = Members::read(folder.path(), &[[1; 32], [2; 32]]).unwrap();
        let text =
            format!("{{\"added\": [\"{}\"], \"removed\": [\"{}\"]}}", "03".repeat(32), "01".repeat(32));
        std::fs::write(&path, text).unwrap();
        let members = members.read_again().unwrap();
        assert_eq!(members.effective(), BTreeSet::from([[2; 32], [3; 32]]));

        std::fs::remove_file(&path).unwrap();
        assert_eq!(members.read_again().unwrap(), members);
        std::fs::write(&path, "{\"added\": [\"").unwrap();
        assert!(matches!(members.read_again(), Err(Error::Members { .. })));
    }

    #[test]
    fn a_damaged_file_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{}", "{\"added\": [\"xy\"], \"removed\": []}", "[1]"] {
            std::fs::write(folder.path().join(FILE), content).unwrap();
            let error = Members::read(folder.path(), &[]).unwrap_err();
            assert!(matches!(error, Error::Members { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("trust.json") && text.ends_with("(node.data_dir)"), "{text}");
        }
    }
}
