//! Deltas: batches of a node's own committed writes, broadcast on gossipsub, whose signature names the node.

use bytes::Bytes;
use lattice_core::model::{Entry, NodeId};
use prost::Message as _;

use super::error::decode;
use super::shape;
use crate::convert::{self, Invalid};
use crate::peer::v1 as wire;

/// The most bytes of a delta, well under the message limit of gossipsub.
pub const DELTA_BYTES_MAX: usize = 256 << 10;
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

/// Entries as deltas; see [`split_deltas`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    /// The deltas, encoded.
    pub messages: Vec<Vec<u8>>,
    /// How many entries fit into no delta; only a pull brings them.
    pub left_out: usize,
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

/// Encodes entries as deltas within their bounds, in order. An entry too large for any delta is left out.
pub fn split_deltas(cluster: &str, entries: &[Entry], traceparent: &str) -> Deltas {
    let frame = encode_delta(cluster, &[], traceparent).len();
    let mut deltas = Deltas::default();
    let mut batch = Vec::new();
    let mut bytes = frame;
    for entry in entries {
        let size = framed(super::entry_bytes(entry));
        if frame + size > DELTA_BYTES_MAX {
            deltas.left_out += 1;
            continue;
        }
        if bytes + size > DELTA_BYTES_MAX || batch.len() == DELTA_ENTRIES_MAX {
            deltas.messages.push(encode_delta(cluster, &batch, traceparent));
            batch.clear();
            bytes = frame;
        }
        batch.push(entry.clone());
        bytes += size;
    }
    if !batch.is_empty() {
        deltas.messages.push(encode_delta(cluster, &batch, traceparent));
    }
    deltas
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
