//! The messages of `types.v1` as bytes: the store's records on disk, and bodies of HTTP and libp2p.
//!
//! Decoding copies what it keeps, so that a record never pins the page that it was read from, and is as strict
//! as on the network: bytes from the disk are never a proven fact either.

use bytes::Bytes;
use lattice_core::exchange::ENVELOPE_BYTES_MAX;
use lattice_core::model::{Entry, EntryHead, Version};
use lattice_core::seal::Run;
use lattice_core::signed::Signed;
use lattice_core::tree::{Position, Summary};
use prost::Message as _;

use super::OpenError;
use super::error::{bounded, decode};
use crate::convert::Invalid;
use crate::types::v1 as wire;

/// The most bytes of an encoded [`Signed`]: the largest envelope, its signature and framing.
pub const SIGNED_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + 128;

/// An entry as bytes.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    wire::Entry::from(entry).encode_to_vec()
}

/// How many bytes [`encode_entry`] makes.
pub fn entry_bytes(entry: &Entry) -> usize {
    wire::Entry::from(entry).encoded_len()
}

/// An entry from bytes.
///
/// # Errors
/// [`Invalid`] when they are not one.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, Invalid> {
    decode::<wire::Entry>(bytes)?.try_into()
}

/// What the tree commits to of an entry, as bytes.
pub fn encode_head(head: &EntryHead) -> Vec<u8> {
    wire::EntryHead::from(head).encode_to_vec()
}

/// What the tree commits to of an entry, from bytes.
///
/// # Errors
/// [`Invalid`] when they are not such.
pub fn decode_head(bytes: &[u8]) -> Result<EntryHead, Invalid> {
    decode::<wire::EntryHead>(bytes)?.try_into()
}

/// A version as bytes.
pub fn encode_version(version: &Version) -> Vec<u8> {
    wire::Version::from(version).encode_to_vec()
}

/// A version from bytes.
///
/// # Errors
/// [`Invalid`] when they are not one.
pub fn decode_version(bytes: &[u8]) -> Result<Version, Invalid> {
    decode::<wire::Version>(bytes)?.try_into()
}

/// What a parent knows of a node of the tree, as bytes.
pub fn encode_summary(summary: &Summary) -> Vec<u8> {
    wire::Summary::from(summary).encode_to_vec()
}

/// What a parent knows of a node of the tree, from bytes.
///
/// # Errors
/// [`Invalid`] when they are not such.
pub fn decode_summary(bytes: &[u8]) -> Result<Summary, Invalid> {
    decode::<wire::Summary>(bytes)?.try_into()
}

/// A place in the tree as bytes.
pub fn encode_position(position: &Position) -> Vec<u8> {
    wire::Position::from(position).encode_to_vec()
}

/// A place in the tree from bytes.
///
/// # Errors
/// [`Invalid`] when they are not one.
pub fn decode_position(bytes: &[u8]) -> Result<Position, Invalid> {
    decode::<wire::Position>(bytes)?.try_into()
}

/// A run of equal roots as bytes.
pub fn encode_run(run: &Run) -> Vec<u8> {
    wire::Run::from(run).encode_to_vec()
}

/// A run of equal roots from bytes.
///
/// # Errors
/// [`Invalid`] when they are not one.
pub fn decode_run(bytes: &[u8]) -> Result<Run, Invalid> {
    decode::<wire::Run>(bytes)?.try_into()
}

/// A body and its signature as bytes: what travels as the body of an exchange.
pub fn encode_signed(signed: &Signed) -> Vec<u8> {
    wire::Signed::from(signed).encode_to_vec()
}

/// A body and its signature from bytes, without copying the body.
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn decode_signed(bytes: Bytes) -> Result<Signed, OpenError> {
    bounded(bytes.len(), SIGNED_BYTES_MAX)?;
    Ok(decode::<wire::Signed>(bytes)?.try_into()?)
}
