//! The node's identity, as libp2p sees it.
//!
//! A node is one Ed25519 key. Its libp2p PeerId is the *identity multihash* of that key: the key itself with
//! a few bytes in front, not a digest of it. So both names carry the same 32 bytes, and each can be had from
//! the other; this module is the only place where that happens.

use lattice_core::model::NodeId;
use lattice_runtime::identity::NodeKey;
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};

/// The multihash code of an identity.
const IDENTITY: u64 = 0;

/// A name that is not that of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not a point on the curve: nobody can have this key.
    #[error("not an Ed25519 public key")]
    NotAKey,
    /// The peer's key is of another kind (RSA, say), which no node has.
    #[error("not the identity of an Ed25519 key")]
    NotEd25519,
}

/// The key pair that libp2p proves the node's identity with.
pub fn keypair(key: &NodeKey) -> Keypair {
    let mut seed = *key.seed();
    // libp2p overwrites the seed that it is given.
    Keypair::ed25519_from_bytes(&mut seed).expect("32 bytes are an Ed25519 seed")
}

/// What libp2p calls a node.
///
/// # Errors
/// [`Error::NotAKey`] when nobody can have this key.
pub fn peer_id(node: &NodeId) -> Result<PeerId, Error> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).map_err(|_| Error::NotAKey)?;
    Ok(PeerId::from_public_key(&PublicKey::from(key)))
}

/// The node that libp2p calls so.
///
/// # Errors
/// [`Error::NotEd25519`] when no node can be called so.
pub fn node_id(peer: &PeerId) -> Result<NodeId, Error> {
    let multihash = peer.as_ref();
    if multihash.code() != IDENTITY {
        return Err(Error::NotEd25519);
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).map_err(|_| Error::NotEd25519)?;
    let key = key.try_into_ed25519().map_err(|_| Error::NotEd25519)?;
    Ok(NodeId(key.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_lead_to_each_other() {
        for seed in 0..=255_u8 {
            let key = NodeKey::from_seed(&[seed; 32]);
            let node = NodeId(key.public());
            let peer = peer_id(&node).unwrap();
            assert_eq!(peer, keypair(&key).public().to_peer_id());
            assert_eq!(node_id(&peer), Ok(node));
            assert!(peer.to_base58().starts_with("12D3KooW"), "{peer}");
        }
    }

    #[test]
    fn a_peer_that_is_no_ed25519_key_is_no_node() {
        assert_eq!(node_id(&PeerId::random()), Err(Error::NotEd25519));
        // A SHA-256 multihash, as RSA keys have.
        let rsa: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().unwrap();
        assert_eq!(node_id(&rsa), Err(Error::NotEd25519));
    }

    #[test]
    fn bytes_that_are_no_point_have_no_peer_id() {
        // Of all 32-byte strings about half are no point; this is one.
        let mut bytes = [0; 32];
        bytes[0] = 2;
        assert_eq!(peer_id(&NodeId(bytes)), Err(Error::NotAKey));
    }
}
