//! What is written: keys in no order, and values that do not compress, the same for all who are measured.

use bytes::Bytes;
use lattice_core::model::Digest;

/// How long values are.
pub const VALUE_BYTES: usize = 100;
/// How many keys share a prefix.
pub const GROUP: u64 = 100;

fn digest(what: &str, numbers: &[u64]) -> Digest {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    Digest::of(&[what.as_bytes(), &bytes])
}

fn number(digest: &Digest) -> u64 {
    digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The key of a number, 16 bytes.
pub fn key(index: u64) -> Bytes {
    format!("{:016x}", number(&digest("key", &[index]))).into()
}

/// The prefix that [`GROUP`] keys share, 12 bytes.
pub fn prefix(group: u64) -> Bytes {
    format!("{:012x}", number(&digest("group", &[group])) >> 16).into()
}

/// The key of a number among keys in groups, 16 bytes.
pub fn grouped(index: u64) -> Bytes {
    let mut key = prefix(index / GROUP).to_vec();
    key.extend(format!("{:04}", index % GROUP).bytes());
    key.into()
}

/// The value that a key gets when it is written for the `version`th time.
pub fn value(index: u64, version: u64) -> Bytes {
    let mut value = Vec::with_capacity(VALUE_BYTES + 32);
    for part in 0.. {
        if value.len() >= VALUE_BYTES {
            break;
        }
        value.extend_from_slice(digest("value", &[index, version, part]).as_bytes());
    }
    value.truncate(VALUE_BYTES);
    value.into()
}

/// A number below `below`, for the `step`th choice of somebody.
pub fn pick(who: u64, step: u64, below: u64) -> u64 {
    number(&digest("pick", &[who, step])) % below.max(1)
}
