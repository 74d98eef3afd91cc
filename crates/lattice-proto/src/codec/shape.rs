//! The shape of a message, counted before it is decoded.
//!
//! A repeated message takes two bytes on the wire when it is empty, and a hundred and more once decoded: within
//! its few megabytes, an envelope could make us allocate fifty times as much. So the elements of every repeated
//! message are counted first, over the bytes and without allocating; the bounds are those that the conversion
//! holds again, element by element.

use lattice_core::exchange::{FETCH_ENTRIES_MAX, POSITIONS_MAX};
use lattice_core::tree::{FANOUT, Position};
use prost::encoding::{WireType, decode_key, decode_varint};

use super::delta::DELTA_ENTRIES_MAX;
use crate::convert::{BRANCHES_MAX, Invalid};

/// The field numbers down to a repeated message, what errors call it, and how many of them a whole message
/// holds at most.
type Bound = (&'static [u32], &'static str, usize);

const REQUEST: [Bound; 2] =
    [(&[4, 2], "walk.nodes", POSITIONS_MAX), (&[5, 2], "fetch.buckets", POSITIONS_MAX)];

const RESPONSE: [Bound; 8] = [
    (&[4, 2], "walk.nodes", POSITIONS_MAX),
    (&[4, 2, 2, 1], "walk.nodes.chain.levels", POSITIONS_MAX * Position::DEPTH_MAX),
    (&[4, 2, 3, 2], "walk.nodes.inner.others", POSITIONS_MAX * FANOUT),
    (&[5, 2], "fetch.pages", POSITIONS_MAX),
    (&[5, 2, 2, 2], "fetch.pages.entries.entries", FETCH_ENTRIES_MAX),
    (&[5, 2, 2, 3], "fetch.pages.entries.heads", FETCH_ENTRIES_MAX),
    (&[5, 2, 3, 1], "fetch.pages.split.children", POSITIONS_MAX * FANOUT),
    (&[5, 3], "fetch.branches", BRANCHES_MAX),
];

const DELTA: [Bound; 1] = [(&[2], "entries", DELTA_ENTRIES_MAX)];

/// Whether the bytes of a request hold no more than a request may.
pub(super) fn request(bytes: &[u8]) -> Result<(), Invalid> {
    check(bytes, &REQUEST)
}

/// Whether the bytes of a response hold no more than a response may.
pub(super) fn response(bytes: &[u8]) -> Result<(), Invalid> {
    check(bytes, &RESPONSE)
}

/// Whether the bytes of a delta hold no more than a delta may.
pub(super) fn delta(bytes: &[u8]) -> Result<(), Invalid> {
    check(bytes, &DELTA)
}

fn check(bytes: &[u8], bounds: &[Bound]) -> Result<(), Invalid> {
    for (path, field, max) in bounds {
        let count = count(bytes, path);
        if count > *max {
            return Err(Invalid::new(*field, format!("takes at most {max} in all, got {count}")));
        }
    }
    Ok(())
}

/// How many messages hang at `path`. Where the bytes are broken, counting ends; decoding will say why.
fn count(mut bytes: &[u8], path: &[u32]) -> usize {
    let Some((step, rest)) = path.split_first() else {
        return 1;
    };
    let mut found = 0;
    while let Ok((number, wire_type)) = decode_key(&mut bytes) {
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut bytes).map(|_| 0).ok(),
            WireType::ThirtyTwoBit => Some(4),
            WireType::SixtyFourBit => Some(8),
            WireType::LengthDelimited => decode_varint(&mut bytes).ok(),
            WireType::StartGroup | WireType::EndGroup => Some(0),
        };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some((field, after)) = length.and_then(|length| bytes.split_at_checked(length)) else {
            break;
        };
        if number == *step && wire_type == WireType::LengthDelimited {
            found += count(field, rest);
        }
        bytes = after;
    }
    found
}
