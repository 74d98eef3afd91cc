//! The frame around every record: `LT`, the kind, the frame's version, the length, the content, and the first
//! 8 bytes of a SHA-256.
//!
//! The checksum of most records covers their key as well, so that a record at the wrong place is noticed.
//! Entries, pieces of values, pending entries and nodes of the tree name themselves in their content; theirs
//! covers the content alone, so that they can be told from noise in the bytes of a broken file.

use bytes::Bytes;
use lattice_core::model::Digest;

const MAGIC: [u8; 2] = *b"LT";
const VERSION: u8 = 1;
const HEADER: usize = 8;
const CHECKSUM: usize = 8;
/// The kind of all records that hold an entry.
pub(crate) const ENTRY: u8 = b'e';
/// More than the content of any record that names itself: a bucket of 32 entries with the longest keys.
const NAMED_BYTES_MAX: usize = 64 << 10;
/// The bytes of the longest such record with its frame.
pub(crate) const FRAMED_BYTES_MAX: usize = HEADER + NAMED_BYTES_MAX + CHECKSUM;

/// A record is not what was written: bits changed, or it is at the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {} is damaged: {problem}", key.escape_ascii())]
pub struct Damaged {
    /// The record's key.
    pub key: Bytes,
    /// What is wrong with it.
    pub problem: String,
}

impl Damaged {
    /// `problem` with the record at `key`.
    pub(crate) fn new(key: &[u8], problem: impl std::fmt::Display) -> Self {
        Self { key: Bytes::copy_from_slice(key), problem: problem.to_string() }
    }
}

/// How long a record is with its frame.
pub(crate) fn framed_bytes(content: usize) -> usize {
    HEADER + content + CHECKSUM
}

/// The frame that `bytes` begin with, as long as it says it is; unchecked.
pub(crate) fn leading(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(*bytes.get(4..HEADER)?.first_chunk()?);
    bytes.get(..HEADER.checked_add(usize::try_from(length).ok()?)?.checked_add(CHECKSUM)?)
}

/// Frames `content` for the record `key`.
pub(crate) fn seal(key: &[u8], content: &[u8]) -> Bytes {
    let kind = kind_of(key);
    let mut framed = Vec::with_capacity(HEADER + content.len() + CHECKSUM);
    framed.extend_from_slice(&MAGIC);
    framed.extend_from_slice(&[kind, VERSION]);
    let length = u32::try_from(content.len()).expect("records are far below 4 GiB");
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(content);
    framed.extend_from_slice(&checksum(kind, key, content));
    framed.into()
}

/// The content of the framed record `key`.
pub(crate) fn open(key: &[u8], framed: &Bytes) -> Result<Bytes, Damaged> {
    let damaged = |problem| Damaged::new(key, problem);
    if framed.len() < HEADER + CHECKSUM || framed[..2] != MAGIC {
        return Err(damaged("is no framed record"));
    }
    let kind = kind_of(key);
    if framed[2] != kind || framed[3] != VERSION {
        return Err(damaged("is of another kind"));
    }
    let (header, rest) = framed.split_at(HEADER);
    let length: [u8; 4] = header[4..].try_into().expect("the header has 8 bytes");
    let (content, sum) = rest.split_at(rest.len() - CHECKSUM);
    if usize::try_from(u32::from_le_bytes(length)) != Ok(content.len()) {
        return Err(damaged("has another length"));
    }
    if sum != checksum(kind, key, content) {
        return Err(damaged("fails its checksum"));
    }
    Ok(framed.slice(HEADER..HEADER + content.len()))
}

/// Whether records of a kind say in their content what they are of.
fn names_itself(kind: u8) -> bool {
    matches!(kind, ENTRY | super::keys::PIECE | super::keys::PENDING | super::keys::NODE)
}

/// A frame in the bytes of a file that no database opens any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole record.
    Intact {
        /// [`ENTRY`], or its key's tag.
        kind: u8,
        /// What it holds.
        content: &'a [u8],
    },
    /// What looks like a record, and is none, or not any more.
    Broken {
        /// [`ENTRY`], or its key's tag.
        kind: u8,
        /// What stands where its content should.
        content: &'a [u8],
    },
    /// What looks like the beginning of a record of so many bytes, and goes on beyond these.
    Cut {
        /// How long it would be.
        length: usize,
    },
}

/// The place of the first bytes from `at` on that may begin a record which names itself.
pub(crate) fn next(bytes: &[u8], at: usize) -> Option<usize> {
    let starts = memchr::memmem::find_iter(bytes.get(at..)?, &MAGIC);
    starts.map(|start| at + start).find(|start| match bytes.get(start + 2..start + 4) {
        Some(kind) => names_itself(kind[0]) && kind[1] == VERSION,
        // Its kind is cut off.
        None => true,
    })
}

/// What stands at a place that [`next`] found.
pub(crate) fn recognize(bytes: &[u8]) -> Found<'_> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Found::Cut { length: HEADER } };
    let length: [u8; 4] = header[4..].try_into().expect("the header has 8 bytes");
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    let kind = header[2];
    if length > NAMED_BYTES_MAX {
        return Found::Broken { kind, content: &[] };
    }
    let Some((content, sum)) = rest.get(..length + CHECKSUM).map(|framed| framed.split_at(length)) else {
        return Found::Cut { length: HEADER + length + CHECKSUM };
    };
    match sum == checksum(kind, &[], content) {
        true => Found::Intact { kind, content },
        false => Found::Broken { kind, content },
    }
}

/// What the frame says of a record: its key's tag, and one kind for all records that hold an entry.
fn kind_of(key: &[u8]) -> u8 {
    match key.first() {
        Some(&super::keys::CURRENT | &super::keys::OLDER | &super::keys::HELD) => ENTRY,
        // A piece that waits for its entry is the piece that it will be.
        Some(&super::keys::SALVAGED) => super::keys::PIECE,
        Some(tag) => *tag,
        None => 0,
    }
}

fn checksum(kind: u8, key: &[u8], content: &[u8]) -> [u8; CHECKSUM] {
    let place: &[u8] = if names_itself(kind) { &[] } else { key };
    let digest = Digest::of(&[b"lattice/v1/record\0", &[kind], place, content]);
    *digest.as_bytes().first_chunk().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_anywhere_shows() {
        for key in [b"m/state".as_slice(), b"c/apple"] {
            let framed = seal(key, b"content");
            assert_eq!(open(key, &framed).unwrap(), "content");
            for bit in 0..framed.len() * 8 {
                let mut bytes = framed.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(open(key, &bytes.into()).is_err(), "bit {bit}");
            }
            assert!(open(key, &framed.slice(..framed.len() - 1)).is_err());
        }
    }

    #[test]
    fn a_record_at_the_wrong_place_shows() {
        let framed = seal(b"m/state", b"content");
        assert!(open(b"m/other", &framed).is_err());
        assert!(open(b"n/state", &framed).is_err());
    }
}
