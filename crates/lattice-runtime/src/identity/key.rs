//! The node's Ed25519 key and its file.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::{Error, create_folder, create_once, parent};

/// A seed in hex with a line end, and some room to tell that a file is longer.
const FILE_BYTES_MAX: usize = 128;
/// Others may do nothing and the group not write. The group may read: a Kubernetes secret that is mounted
/// with `fsGroup` is readable by the group, and cannot be otherwise.
const MODE_REFUSED: u32 = 0o027;
/// What names the file.
const FIELD: &str = "node.key_file";

/// The node's key: its identity, and what it signs with. The secret is wiped when dropped, and never
/// printed.
#[derive(Clone)]
pub struct NodeKey {
    // Wipes itself when dropped.
    signing: SigningKey,
}

impl NodeKey {
    /// A new random key, in no file.
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(crate::entropy::bytes()))
    }

    /// The key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { signing: SigningKey::from_bytes(seed) }
    }

    /// Loads the key of `path`; where there is none, creates one (and its folder). Any number of processes
    /// may do this at once and all get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match Self::load(path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        create_folder(parent(path), FIELD)?;
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(Self::generate().seed()))));
        create_once(path, FIELD, text.as_bytes())?;
        Self::load(path)
    }

    /// Loads the key of `path`; refuses a file that others may read or that holds anything else.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path, FIELD, "open"))?;
        let metadata = file.metadata().map_err(Error::io(path, FIELD, "read"))?;
        if metadata.is_dir() {
            return Err(Error::Folder { path: path.to_owned() });
        }
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & MODE_REFUSED != 0 {
            return Err(Error::Mode { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
        let mut limited = file.take(FILE_BYTES_MAX as u64);
        limited.read_to_end(&mut text).map_err(Error::io(path, FIELD, "read"))?;

        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_ascii(), seed.as_mut_slice())
            .map_err(|_| Error::Content { path: path.to_owned() })?;
        Ok(Self::from_seed(&seed))
    }

    /// What to sign with.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// The public half: the node's identity.
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The secret half, for libraries that make their own key of it.
    pub fn seed(&self) -> &[u8; 32] {
        self.signing.as_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("public", &hex::encode(self.public())).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn services_that_start_at_once_get_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/node.key");
        let start = Barrier::new(4);
        let keys: Vec<NodeKey> = std::thread::scope(|scope| {
            let create = || {
                start.wait();
                NodeKey::load_or_create(&path).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for key in &keys {
            assert_eq!(key.public(), keys[0].public());
        }
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "only the key: {left:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", hex::encode(keys[0].seed())));
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_key_of_a_known_seed_is_known() {
        // RFC 8032, section 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        fs::write(&path, seed).unwrap();
        for mode in [0o600, 0o400, 0o440] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(hex::encode(NodeKey::load(&path).unwrap().public()), public);
        }
    }

    #[test]
    fn a_key_file_that_is_wrong_is_refused_in_one_line_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let name = path.display();
        let good = "ab".repeat(32);
        let content = format!("{name}: must hold an Ed25519 seed of 64 hex characters (node.key_file)");
        let mode =
            format!("{name}: has mode 0644 and is open to other users: run chmod 600 {name} (node.key_file)");
        let cases = [
            (String::new(), 0o600, &content),
            ("ab".repeat(31), 0o600, &content),
            ("zz".repeat(32), 0o600, &content),
            ("ab".repeat(5000), 0o600, &content),
            (format!("{good} {good}"), 0o600, &content),
            (good.clone(), 0o644, &mode),
        ];
        for (text, permissions, expected) in cases {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(permissions)).unwrap();
            let error = NodeKey::load_or_create(&path).unwrap_err();
            assert_eq!(&error.to_string(), expected);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = NodeKey::load(Path::new("/nowhere/node.key")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere/node.key: open: No such file or directory (os error 2) (node.key_file)"
        );
    }

    #[test]
    fn a_folder_is_no_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = NodeKey::load_or_create(folder.path()).unwrap_err().to_string();
        let expected = "is a folder: must be the file of the node's key, or a name for it (node.key_file)";
        assert_eq!(error, format!("{}: {expected}", folder.path().display()));
    }

    #[test]
    fn what_cannot_be_written_is_named_with_its_field() {
        let folder = tempfile::tempdir().unwrap();
        // A file where a folder should be: it stops root, too.
        fs::write(folder.path().join("data"), "").unwrap();
        let path = folder.path().join("data/node.key");
        let error = NodeKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        assert!(error.ends_with("(node.key_file)"), "{error}");
        let error = Error::io(&path, FIELD, "create")(ErrorKind::ReadOnlyFilesystem.into()).to_string();
        assert!(error.ends_with(": must be on a disk that can be written (node.key_file)"), "{error}");
    }

    #[test]
    fn debug_does_not_print_the_secret() {
        let key = NodeKey::generate();
        let text = format!("{key:?}");
        assert!(
            !text.contains(&hex::encode(key.seed())) && text.contains(&hex::encode(key.public())),
            "{text}"
        );
    }
}
