//! Who a node is: its key, and which of its stores speaks.

use std::fmt;
use std::str::FromStr;

/// A node's identity: its Ed25519 public key. Also the writer in versions, the signer of seals, and the
/// source of its libp2p PeerId. Prints as 64 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The public key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 hex characters, for logs that people read.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl TryFrom<&[u8]> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidNodeId> {
        bytes.try_into().map(Self).map_err(|_| InvalidNodeId)
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidNodeId)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On the stack: it is in the answer of every read.
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).expect("two digits for each byte");
        f.write_str(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({}..)", self.short())
    }
}

/// What was given is not an Ed25519 public key in size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node is 32 bytes, 64 hex characters")]
pub struct InvalidNodeId;

/// Which store of a node speaks: 16 random bytes, made with the database and part of everything signed.
///
/// A wiped or rebuilt store is a new incarnation of the same node and never contradicts the old one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({}..)", hex::encode(&self.0[..4]))
    }
}
