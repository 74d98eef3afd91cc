//! Signed seals.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::seal::Seal;
use lattice_core::signed::{Context, Signed, SignedSeal};
use prost::Message as _;

use super::OpenError;
use super::error::{bounded, decode};
use crate::types::v1 as wire;

/// The most bytes of a seal, all of whose fields are short.
pub const SEAL_BYTES_MAX: usize = 1 << 10;

/// Encodes and signs a seal. `key` is that of the node it names.
pub fn sign_seal(seal: &Seal, key: &SigningKey) -> SignedSeal {
    debug_assert_eq!(key.verifying_key().as_bytes(), seal.node.as_bytes(), "a node seals its own tree");
    let body = wire::Seal::from(seal).encode_to_vec().into();
    SignedSeal { seal: seal.clone(), signed: Signed::sign(Context::Seal, body, key) }
}

/// Opens a seal, and checks that the node that it names signed it.
///
/// # Errors
/// [`OpenError`], in the order of its variants.
pub fn open_seal(signed: &Signed) -> Result<SignedSeal, OpenError> {
    let seal = decode_seal(signed)?;
    seal.verify()?;
    Ok(seal)
}

/// Opens a seal without looking at its signature: the caller does, by [`SignedSeal::verify`].
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn decode_seal(signed: &Signed) -> Result<SignedSeal, OpenError> {
    bounded(signed.body.len(), SEAL_BYTES_MAX)?;
    let seal = decode::<wire::Seal>(signed.body.clone())?.try_into()?;
    // A copy, since what is kept would else pin all of the message that it came in.
    let body = Bytes::copy_from_slice(&signed.body);
    Ok(SignedSeal { seal, signed: Signed { body, signature: signed.signature } })
}
