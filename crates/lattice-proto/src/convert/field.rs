//! Single fields: the bytes, numbers and texts that messages are made of, each with its bound.

use std::num::NonZeroU32;

use bytes::Bytes;
use lattice_core::model::{Digest, EpochLength, Incarnation, Key, NodeId, VALUE_BYTES_MAX, ValueTooLong};

use super::{InField as _, Invalid};

/// The longest name of a cluster, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;
/// The longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// The most addresses that an announcement carries.
pub const ADDRESSES_MAX: usize = 32;
/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// The longest challenge, in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 64;
/// The longest trace context, in bytes.
pub const TRACEPARENT_BYTES_MAX: usize = 128;
/// The longest detail of a refusal, in bytes; a longer one is cut when it is sent.
pub const DETAIL_BYTES_MAX: usize = 1_024;

/// A node's key.
///
/// # Errors
/// [`Invalid`] unless it is 32 bytes.
pub fn node(field: &str, bytes: &[u8]) -> Result<NodeId, Invalid> {
    fixed(field, "a node", bytes).map(NodeId)
}

/// Keys of nodes, at most `max`.
///
/// # Errors
/// [`Invalid`] when they are too many, or one of them is not 32 bytes.
pub fn nodes(field: &str, keys: &[Bytes], max: usize) -> Result<Vec<NodeId>, Invalid> {
    at_most(field, keys.len(), max)?;
    keys.iter().enumerate().map(|(index, bytes)| node("", bytes).in_item(field, index)).collect()
}

/// The name of a store.
///
/// # Errors
/// [`Invalid`] unless it is 16 bytes.
pub fn incarnation(field: &str, bytes: &[u8]) -> Result<Incarnation, Invalid> {
    fixed(field, "an incarnation", bytes).map(Incarnation)
}

/// A digest.
///
/// # Errors
/// [`Invalid`] unless it is 32 bytes.
pub fn digest(field: &str, bytes: &[u8]) -> Result<Digest, Invalid> {
    fixed(field, "a digest", bytes).map(Digest)
}

/// A key.
///
/// # Errors
/// [`Invalid`] unless it is 1 to 1,024 bytes.
pub fn key(field: &str, bytes: Bytes) -> Result<Key, Invalid> {
    Key::try_from(bytes).map_err(|error| Invalid::new(field, error))
}

/// A value.
///
/// # Errors
/// [`Invalid`] beyond 1 MiB.
pub fn value(field: &str, bytes: Bytes) -> Result<Bytes, Invalid> {
    match bytes.len() {
        0..=VALUE_BYTES_MAX => Ok(bytes),
        length => Err(Invalid::new(field, ValueTooLong { length })),
    }
}

/// The name of a cluster.
///
/// # Errors
/// [`Invalid`] unless it is 1 to 64 of `a-z A-Z 0-9 . _ -`.
pub fn cluster(field: &str, name: String) -> Result<String, Invalid> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=CLUSTER_BYTES_MAX).contains(&name.len()) && name.chars().all(plain) {
        return Ok(name);
    }
    Err(Invalid::new(field, "a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"))
}

/// The length of an epoch, in milliseconds.
///
/// # Errors
/// [`Invalid`] for 0.
pub fn epoch_length(field: &str, millis: u32) -> Result<EpochLength, Invalid> {
    NonZeroU32::new(millis)
        .map(EpochLength)
        .ok_or_else(|| Invalid::new(field, "an epoch takes at least 1 ms, got 0"))
}

/// A field that has to be there, as a value of the model.
///
/// # Errors
/// [`Invalid`] when it is missing, or not such a value.
pub fn required<Wire, Model>(field: &str, wire: Option<Wire>) -> Result<Model, Invalid>
where
    Model: TryFrom<Wire, Error = Invalid>,
{
    let wire = wire.ok_or_else(|| Invalid::missing(field))?;
    Model::try_from(wire).in_field(field)
}

/// A field that may be absent, as a value of the model.
///
/// # Errors
/// [`Invalid`] when it is there, and not such a value.
pub fn optional<Wire, Model>(field: &str, wire: Option<Wire>) -> Result<Option<Model>, Invalid>
where
    Model: TryFrom<Wire, Error = Invalid>,
{
    wire.map(|wire| Model::try_from(wire).in_field(field)).transpose()
}

/// A repeated field, as at most `max` values of the model.
///
/// # Errors
/// [`Invalid`] when they are too many, or one of them is not such a value.
pub fn list<Wire, Model>(field: &str, wires: Vec<Wire>, max: usize) -> Result<Vec<Model>, Invalid>
where
    Model: TryFrom<Wire, Error = Invalid>,
{
    at_most(field, wires.len(), max)?;
    let mut models = Vec::with_capacity(wires.len());
    for (index, wire) in wires.into_iter().enumerate() {
        models.push(Model::try_from(wire).in_item(field, index)?);
    }
    Ok(models)
}

/// Text that may reach a log: at most `max` bytes, no control characters.
pub(crate) fn text(field: &str, text: String, max: usize) -> Result<String, Invalid> {
    if text.len() > max {
        return Err(Invalid::new(field, format!("has {} bytes: it takes at most {max}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "has control characters: it takes none"));
    }
    Ok(text)
}

/// W3C trace context, or nothing.
pub(crate) fn traceparent(field: &str, context: String) -> Result<String, Invalid> {
    text(field, context, TRACEPARENT_BYTES_MAX)
}

/// A challenge, or nothing.
pub(crate) fn challenge(field: &str, bytes: Bytes) -> Result<Bytes, Invalid> {
    match bytes.len() {
        0..=CHALLENGE_BYTES_MAX => Ok(bytes),
        length => Err(Invalid::new(
            field,
            format!("a challenge is at most {CHALLENGE_BYTES_MAX} bytes, got {length}"),
        )),
    }
}

/// Bytes of a fixed number; `what` says of what.
pub(crate) fn fixed<const LENGTH: usize>(
    field: &str,
    what: &str,
    bytes: &[u8],
) -> Result<[u8; LENGTH], Invalid> {
    bytes
        .try_into()
        .map_err(|_| Invalid::new(field, format!("{what} is {LENGTH} bytes, got {}", bytes.len())))
}

/// The bound of a repeated field.
pub(crate) fn at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    match count <= max {
        true => Ok(()),
        false => Err(Invalid::new(field, format!("takes at most {max}, got {count}"))),
    }
}

/// The bounds of a repeated field that is never empty.
pub(crate) fn some_at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    match count {
        0 => Err(Invalid::new(field, format!("takes 1 to {max}, got none"))),
        _ => at_most(field, count, max),
    }
}
