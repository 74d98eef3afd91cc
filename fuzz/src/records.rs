//! Inputs of several parts, and records with the checksums that belong to them.

use bytes::Bytes;
use lattice_core::model::Digest;

/// Splits an input into parts, each after its length of two bytes.
pub(crate) fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (part, rest) = rest.split_at(length);
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// Puts parts together as [`parts`] splits them; those that are too long are left out.
pub(crate) fn joined<Part: AsRef<[u8]>>(parts: impl IntoIterator<Item = Part>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        if let Ok(length) = u16::try_from(part.as_ref().len()) {
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(part.as_ref());
        }
    }
    bytes
}

/// A record of a store: its key, and its content in the frame that `state-store` puts around it.
pub(crate) fn framed(key: &[u8], content: &[u8]) -> Bytes {
    let kind = match key.first() {
        Some(b'c' | b'o' | b'h') => b'e',
        Some(b'r') => b'v',
        Some(tag) => *tag,
        None => 0,
    };
    // These say themselves what they are of.
    let place: &[u8] = if matches!(kind, b'e' | b'v' | b'p' | b'n') { &[] } else { key };
    let sum = Digest::of(&[b"lattice/v1/record\0", &[kind], place, content]);
    let length = u32::try_from(content.len()).expect("an input is short");
    let frame: [&[u8]; 5] = [b"LT", &[kind, 1], &length.to_le_bytes(), content, &sum.as_bytes()[..8]];
    frame.concat().into()
}

/// The content of a framed record.
pub(crate) fn content(framed: &[u8]) -> &[u8] {
    framed.get(8..framed.len().saturating_sub(8)).unwrap_or_default()
}
