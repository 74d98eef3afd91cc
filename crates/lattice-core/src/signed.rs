//! What nodes sign, and how a signature is checked.
//!
//! Three things are signed: seals, announcements and envelopes. Each travels as the bytes of its body and a
//! signature over an ASCII context followed by those bytes as received, never re-encoded. A signature made
//! in one context is worthless in another.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::model::{EpochLength, Incarnation, NodeId};
use crate::seal::{Run, Seal};
use crate::time::WallTime;

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// A [`Seal`].
    Seal,
    /// An [`Announcement`].
    Announcement,
    /// An envelope that asks.
    Request,
    /// An envelope that answers.
    Response,
}

/// A body and its signature, as they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signed bytes, as received.
    pub body: Bytes,
    /// Ed25519, over the context and the body.
    pub signature: [u8; 64],
}

/// The signature does not cover these bytes, or is not by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// A node telling everybody its newest roots. It has no receiver; freshness rests on its sequence alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The cluster.
    pub cluster: String,
    /// Who announces.
    pub node: NodeId,
    /// Which of its stores.
    pub incarnation: Incarnation,
    /// Rises with every announcement of an incarnation; only a greater one is heard.
    pub sequence: u64,
    /// The announcer's clock.
    pub time: WallTime,
    /// The announcer's epoch length; announcements of another length are refused by name.
    pub epoch_length: EpochLength,
    /// Recent seals in ascending order, at most [`crate::seal::RUNS_MAX`].
    pub runs: Vec<Run>,
    /// Where it listens for libp2p: multiaddrs, hints only.
    pub addresses: Vec<String>,
    /// What people call it; not unique, and never trusted for identity.
    pub name: String,
    /// Its store lost entries, and does not know which: what it lacks says nothing about what there is.
    pub recovering: bool,
}

/// An announcement with the bytes that were signed. Made by the codec, which sees to it that `announcement`
/// is what the bytes say; nobody vouches for the signature until [`Self::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnnouncement {
    /// What the bytes say.
    pub announcement: Announcement,
    /// The bytes.
    pub signed: Signed,
}

/// A seal with the bytes that were signed; see [`SignedAnnouncement`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSeal {
    /// What the bytes say.
    pub seal: Seal,
    /// The bytes.
    pub signed: Signed,
}

impl Context {
    /// What precedes the body under the signature.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Seal => b"lattice/v1/seal\0",
            Self::Announcement => b"lattice/v1/announcement\0",
            Self::Request => b"lattice/v1/request\0",
            Self::Response => b"lattice/v1/response\0",
        }
    }

    fn message(self, body: &[u8]) -> Vec<u8> {
        [self.prefix(), body].concat()
    }
}

impl Signed {
    /// Signs `body` in `context`.
    pub fn sign(context: Context, body: Bytes, key: &SigningKey) -> Self {
        let signature = key.sign(&context.message(&body)).to_bytes();
        Self { body, signature }
    }

    /// Checks that `node` signed these bytes in `context`. Strict: a signature that others could have varied,
    /// or a weak key, does not pass.
    ///
    /// # Errors
    /// [`BadSignature`] in every other case.
    pub fn verify(&self, context: Context, node: &NodeId) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(node.as_bytes()).map_err(|_| BadSignature)?;
        key.verify_strict(&context.message(&self.body), &Signature::from_bytes(&self.signature))
            .map_err(|_| BadSignature)
    }
}

impl SignedAnnouncement {
    /// Checks that the node that the announcement names signed it.
    ///
    /// # Errors
    /// [`BadSignature`] when it did not.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.signed.verify(Context::Announcement, &self.announcement.node)
    }
}

impl SignedSeal {
    /// Checks that the node that the seal names signed it.
    ///
    /// # Errors
    /// [`BadSignature`] when it did not.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.signed.verify(Context::Seal, &self.seal.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: [Context; 4] =
        [Context::Seal, Context::Announcement, Context::Request, Context::Response];

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn node(key: &SigningKey) -> NodeId {
        NodeId(key.verifying_key().to_bytes())
    }

    #[test]
    fn a_signature_holds_in_its_own_context_only() {
        let key = key(1);
        for made in CONTEXTS {
            let signed = Signed::sign(made, Bytes::from_static(b"body"), &key);
            for checked in CONTEXTS {
                assert_eq!(
                    signed.verify(checked, &node(&key)).is_ok(),
                    made == checked,
                    "{made:?} {checked:?}"
                );
            }
        }
    }

    #[test]
    fn a_signature_is_one_nodes_own() {
        let signed = Signed::sign(Context::Seal, Bytes::from_static(b"body"), &key(1));
        assert_eq!(signed.verify(Context::Seal, &node(&key(2))), Err(BadSignature));
    }

    #[test]
    fn every_bit_is_signed() {
        let key = key(1);
        let node = node(&key);
        let signed = Signed::sign(Context::Request, Bytes::from_static(b"body"), &key);
        for bit in 0..signed.body.len() * 8 {
            let mut body = signed.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let flipped = Signed { body: body.into(), ..signed.clone() };
            assert_eq!(flipped.verify(Context::Request, &node), Err(BadSignature), "body bit {bit}");
        }
        for bit in 0..64 * 8 {
            let mut flipped = signed.clone();
            flipped.signature[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(flipped.verify(Context::Request, &node), Err(BadSignature), "signature bit {bit}");
        }
        for bit in 0..32 * 8 {
            let mut stranger = node;
            stranger.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(signed.verify(Context::Request, &stranger), Err(BadSignature), "key bit {bit}");
        }
    }

    #[test]
    fn a_context_does_not_run_into_the_body() {
        // Without the final zero byte, "lattice/v1/seal" + "s" could be read as a longer context.
        let key = key(1);
        let signed = Signed::sign(Context::Seal, Bytes::from_static(b""), &key);
        let bare = key.sign(b"lattice/v1/seal").to_bytes();
        assert_ne!(signed.signature, bare);
        assert_eq!(signed.signature, key.sign(b"lattice/v1/seal\0").to_bytes());
    }

    #[test]
    fn a_weak_key_signs_nothing() {
        // The identity point: under it, plain verification accepts one signature for every message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let signed = Signed { body: Bytes::from_static(b"anything"), signature };
        assert_eq!(signed.verify(Context::Seal, &NodeId(identity)), Err(BadSignature));
    }

    #[test]
    fn seals_and_announcements_are_checked_against_the_node_that_they_name() {
        let (key, other) = (key(1), key(2));
        let body = Bytes::from_static(b"what the codec made");
        let seal = Seal {
            cluster: "lattice".to_owned(),
            node: node(&key),
            incarnation: Incarnation([3; 16]),
            epoch: crate::model::Epoch(9),
            root: None,
        };
        let by = |signer: &SigningKey, context| Signed::sign(context, body.clone(), signer);
        let signed = SignedSeal { seal: seal.clone(), signed: by(&key, Context::Seal) };
        assert_eq!(signed.verify(), Ok(()));
        let signed = SignedSeal { seal, signed: by(&other, Context::Seal) };
        assert_eq!(signed.verify(), Err(BadSignature));

        let announcement = Announcement {
            cluster: "lattice".to_owned(),
            node: node(&key),
            incarnation: Incarnation([3; 16]),
            sequence: 1,
            time: WallTime(5),
            epoch_length: EpochLength(std::num::NonZeroU32::MIN),
            runs: Vec::new(),
            addresses: Vec::new(),
            name: "a".to_owned(),
            recovering: false,
        };
        let signed = SignedAnnouncement {
            announcement: announcement.clone(),
            signed: by(&key, Context::Announcement),
        };
        assert_eq!(signed.verify(), Ok(()));
        let signed = SignedAnnouncement { announcement, signed: by(&key, Context::Seal) };
        assert_eq!(signed.verify(), Err(BadSignature));
    }
}
