//! Keys, and where they hang in the tree.

use std::fmt;

use bytes::Bytes;

use super::Digest;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;

/// A key: 1 to [`KEY_BYTES_MAX`] bytes. Cheap to clone; ordered bytewise.
///
/// The model takes any bytes; the gateway accepts UTF-8 only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Without copying.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The key's place in the tree: SHA-256 of its bytes.
    pub fn hash(&self) -> KeyHash {
        KeyHash(Digest::of(&[&self.0]))
    }
}

impl TryFrom<Bytes> for Key {
    type Error = InvalidKey;

    fn try_from(bytes: Bytes) -> Result<Self, InvalidKey> {
        match bytes.len() {
            0 => Err(InvalidKey::Empty),
            1..=KEY_BYTES_MAX => Ok(Self(bytes)),
            length => Err(InvalidKey::TooLong { length }),
        }
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = InvalidKey;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidKey> {
        Self::try_from(Bytes::copy_from_slice(bytes))
    }
}

impl TryFrom<&str> for Key {
    type Error = InvalidKey;

    fn try_from(text: &str) -> Result<Self, InvalidKey> {
        Self::try_from(text.as_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Why bytes are not a key; whoever says it names what they are of before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No bytes at all.
    #[error("is empty: it takes 1 to 1024 bytes")]
    Empty,
    /// More than [`KEY_BYTES_MAX`].
    #[error("has {length} bytes: it takes 1 to 1024")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// SHA-256 of a key: where its entry hangs in the tree, and how peers name it to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub Digest);

impl KeyHash {
    /// The 4 bits at `depth`, from the most significant; `depth` is below 64.
    pub fn nibble(&self, depth: usize) -> u8 {
        let byte = self.0.as_bytes()[depth / 2];
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f }
    }
}
