//! Deltas: batches of a node's own committed writes, broadcast on gossipsub, whose signature names the node.
//!
//! Every legal entry fits into a delta: one that did not would reach nobody before it counted as a divergence
//! of a cluster that is well. Batches are cut far smaller, so that one that is lost takes little with it.

use bytes::Bytes;
use lattice_core::model::{Entry, KEY_BYTES_MAX, NodeId, VALUE_BYTES_MAX};
use prost::Message as _;

use super::error::decode;
use super::shape;
use crate::convert::{self, Invalid};
use crate::peer::v1 as wire;

/// The most bytes of a delta: the largest entry, and what its version, expiry, cluster, trace and framing take.
pub const DELTA_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + 512;
/// Where a batch is cut; only an entry that is larger by itself makes a larger delta.
pub const DELTA_BYTES_TARGET: usize = 256 << 10;
/// The most entries of a delta.
pub const DELTA_ENTRIES_MAX: usize = 1_024;

/// What a delta carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Writes of the node that signed it.
    pub entries: Vec<Entry>,
    /// W3C trace context of the first of them; empty without a trace.
    pub traceparent: String,
}

/// Why a delta is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// More than [`DELTA_BYTES_MAX`]; none of it was looked at.
    #[error("delta has {bytes} bytes: it takes at most {DELTA_BYTES_MAX}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// The bytes are not a delta, or one of its fields is wrong.
    #[error("delta is malformed: {0}")]
    Malformed(#[from] Invalid),
    /// The delta is of another cluster.
    #[error("delta is of cluster {got:?}, not {expected:?}")]
    Cluster {
        /// Ours.
        expected: String,
        /// Its.
        got: String,
    },
    /// An entry that the signer did not write.
    #[error("entries[{index}].version.writer: is not the node that signed the delta")]
    Writer {
        /// Which entry.
        index: usize,
    },
}

/// Encodes entries as one delta. The caller sees to its bounds, or uses [`split_deltas`].
pub fn encode_delta(cluster: &str, entries: &[Entry], traceparent: &str) -> Vec<u8> {
    let delta = wire::Delta {
        cluster: cluster.to_owned(),
        entries: entries.iter().map(Into::into).collect(),
        traceparent: traceparent.to_owned(),
    };
    delta.encode_to_vec()
}

/// Encodes entries as deltas, in order: each within [`DELTA_BYTES_TARGET`] and [`DELTA_ENTRIES_MAX`], or of one
/// entry. A trace context too long for a delta is left out.
pub fn split_deltas<'a>(
    cluster: &'a str,
    entries: &'a [Entry],
    traceparent: &'a str,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let traceparent = if traceparent.len() <= convert::TRACEPARENT_BYTES_MAX { traceparent } else { "" };
    let frame = encode_delta(cluster, &[], traceparent).len();
    let mut rest = entries;
    std::iter::from_fn(move || {
        let (batch, left) = rest.split_at(batch_length(rest, frame));
        rest = left;
        (!batch.is_empty()).then(|| encode_delta(cluster, batch, traceparent))
    })
}

/// How many of the entries the next delta takes, whose frame has so many bytes.
fn batch_length(entries: &[Entry], frame: usize) -> usize {
    let length = entries.len().min(DELTA_ENTRIES_MAX);
    let mut bytes = frame;
    for (index, entry) in entries[..length].iter().enumerate() {
        bytes += framed(super::entry_bytes(entry));
        if index > 0 && bytes > DELTA_BYTES_TARGET {
            return index;
        }
    }
    length
}

/// Parses a delta that `writer` signed.
///
/// # Errors
/// [`DeltaError`], in the order of its variants.
pub fn decode_delta(bytes: Bytes, writer: &NodeId, cluster: &str) -> Result<Delta, DeltaError> {
    if bytes.len() > DELTA_BYTES_MAX {
        return Err(DeltaError::TooLarge { bytes: bytes.len() });
    }
    shape::delta(&bytes)?;
    let delta: wire::Delta = decode(bytes)?;
    let got = convert::cluster("cluster", delta.cluster)?;
    if got != cluster {
        return Err(DeltaError::Cluster { expected: cluster.to_owned(), got });
    }
    let traceparent = convert::traceparent("traceparent", delta.traceparent)?;
    let entries: Vec<Entry> = convert::list("entries", delta.entries, DELTA_ENTRIES_MAX)?;
    match entries.iter().position(|entry| entry.version.writer != *writer) {
        Some(index) => Err(DeltaError::Writer { index }),
        None => Ok(Delta { entries, traceparent }),
    }
}

/// The size of a message of `length` bytes as an element of a repeated field.
fn framed(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}
