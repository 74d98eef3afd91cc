//! What the records are called. Numbers are big-endian, so that order of bytes is order of numbers.
//!
//! | key | holds |
//! |---|---|
//! | `m` name | of the whole store: `identity`, `state`, `sequence`, `commit`, `rebuild`, `recovering`, `salvage` |
//! | `c` key | the entry with the greatest version of a key: what reads see |
//! | `v` entry digest, index | a piece of a value too long to stand in its entry's record |
//! | `h` version, key hash | an entry too far ahead of the clock, held until it is due |
//! | `d` node | what was heard of a peer's incarnations |
//! | `b` key | an entry that was found damaged (broken), until it is repaired or overwritten |
//! | `r` entry digest, index | a piece of a value, rescued from a broken database, that waits for its entry |
//! | `l` number | changes of current entries, in the order of their commits, from this number on |
//! | `t` expiry, key | the current entry of a key, whose value is dropped some time after its expiry |
//! | `o` generation, epoch, key hash | the entry of a key until this epoch: an older tree, or one to come, needs it |
//! | `p` generation, epoch, commit, index | heads of entries that a commit let await the sealing of an epoch |
//! | `n` generation, position | a node of the newest tree |
//! | `w` generation, epoch, position | what a node was until this epoch |
//! | `x` generation, expiry, key hash | a sealed entry that will expire |
//! | `s` generation, first epoch | a run of seals with one root |

use lattice_core::model::{Digest, Epoch, Hlc, Key, KeyHash, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_core::tree::Position;

pub(crate) const META: u8 = b'm';
pub(crate) const CURRENT: u8 = b'c';
pub(crate) const PIECE: u8 = b'v';
pub(crate) const HELD: u8 = b'h';
pub(crate) const HEARD: u8 = b'd';
pub(crate) const DAMAGED: u8 = b'b';
pub(crate) const SALVAGED: u8 = b'r';
pub(crate) const TERM: u8 = b't';
pub(crate) const CHANGE: u8 = b'l';
pub(crate) const OLDER: u8 = b'o';
pub(crate) const PENDING: u8 = b'p';
pub(crate) const NODE: u8 = b'n';
pub(crate) const EXPIRY: u8 = b'x';
pub(crate) const SEAL: u8 = b's';
pub(crate) const HISTORY: u8 = b'w';

/// The records that live under a generation.
pub(crate) const DERIVED: [u8; 6] = [OLDER, PENDING, NODE, HISTORY, EXPIRY, SEAL];

/// Whether readers look at a record before it is below a seal: nothing of it is shown before it is durable. At the
/// others only the writer looks.
pub(crate) fn is_served(at: &[u8]) -> bool {
    matches!(at.first(), Some(&(CURRENT | PIECE)))
}

/// Which build of the derived records counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) u32);

fn join(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// A record of the whole store.
pub(crate) fn meta(name: &str) -> Vec<u8> {
    join(META, &[name.as_bytes()])
}

/// The current entry of a key.
pub(crate) fn current(key: &Key) -> Vec<u8> {
    join(CURRENT, &[key.as_bytes()])
}

/// A piece of an entry's value.
pub(crate) fn piece(entry: &Digest, index: u16) -> Vec<u8> {
    join(PIECE, &[entry.as_bytes(), &index.to_be_bytes()])
}

/// All pieces of an entry's value: `[from, to)`.
pub(crate) fn pieces(entry: &Digest) -> (Vec<u8>, Vec<u8>) {
    let mut to = piece(entry, u16::MAX);
    to.push(0);
    (piece(entry, 0), to)
}

/// A piece that waits for its entry.
pub(crate) fn salvaged(entry: &[u8], index: u16) -> Vec<u8> {
    join(SALVAGED, &[entry, &index.to_be_bytes()])
}

/// The note that a key's entry is damaged.
pub(crate) fn damaged(key: &[u8]) -> Vec<u8> {
    join(DAMAGED, &[key])
}

/// A held entry.
pub(crate) fn held(version: &Version, key_hash: &KeyHash) -> Vec<u8> {
    join(HELD, &[&version.hlc.0.to_be_bytes(), version.writer.as_bytes(), key_hash.0.as_bytes()])
}

/// The clock reading in the key of a held entry.
pub(crate) fn held_hlc(key: &[u8]) -> Option<Hlc> {
    key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(|bytes| Hlc(u64::from_be_bytes(bytes)))
}

/// What was heard of a peer.
pub(crate) fn heard(node: &NodeId) -> Vec<u8> {
    join(HEARD, &[node.as_bytes()])
}

/// Changes from this number on.
pub(crate) fn change(sequence: u64) -> Vec<u8> {
    join(CHANGE, &[&sequence.to_be_bytes()])
}

/// The number in the key of such a record.
pub(crate) fn change_sequence(at: &[u8]) -> Option<u64> {
    at.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
}

/// A current entry whose value will expire.
pub(crate) fn term(expires: WallTime, key: &Key) -> Vec<u8> {
    join(TERM, &[&expires.millis().to_be_bytes(), key.as_bytes()])
}

/// The expiry in the key of such a record.
pub(crate) fn term_expires(at: &[u8]) -> Option<WallTime> {
    at.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(|bytes| WallTime(u64::from_be_bytes(bytes)))
}

/// The entry's key in the key of such a record.
pub(crate) fn term_key(at: &[u8]) -> Option<Key> {
    Key::try_from(at.get(9..)?).ok()
}

/// All such records that expire at `expires` at the latest: `[from, to)`.
pub(crate) fn terms_until(expires: WallTime) -> (Vec<u8>, Vec<u8>) {
    let after = join(TERM, &[&expires.millis().saturating_add(1).to_be_bytes()]);
    (vec![TERM], if expires.millis() == u64::MAX { vec![TERM + 1] } else { after })
}

/// The peer of such a record.
pub(crate) fn heard_node(key: &[u8]) -> Option<NodeId> {
    NodeId::try_from(key.get(1..)?).ok()
}

impl Generation {
    fn key(self, tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = join(tag, &[&self.0.to_be_bytes()]);
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }

    /// All records of a tag in this generation: `[from, to)`.
    pub(crate) fn all(self, tag: u8) -> (Vec<u8>, Vec<u8>) {
        (self.key(tag, &[]), Self(self.0.saturating_add(1)).key(tag, &[]))
    }

    /// All records of a tag in the generations before this one: `[from, to)`.
    pub(crate) fn before(self, tag: u8) -> (Vec<u8>, Vec<u8>) {
        (vec![tag], self.key(tag, &[]))
    }

    /// The entry of a key until `epoch`.
    pub(crate) fn older(self, epoch: Epoch, key_hash: &KeyHash) -> Vec<u8> {
        self.key(OLDER, &[&epoch.0.to_be_bytes(), key_hash.0.as_bytes()])
    }

    /// A list of what a commit, by its number, lets await the sealing of an epoch.
    pub(crate) fn pending(self, epoch: Epoch, commit: u64, index: u32) -> Vec<u8> {
        self.key(PENDING, &[&epoch.0.to_be_bytes(), &commit.to_be_bytes(), &index.to_be_bytes()])
    }

    /// A node of the newest tree.
    pub(crate) fn node(self, position: &Position) -> Vec<u8> {
        self.key(NODE, &[&[depth(position)], position.prefix()])
    }

    /// What a node was until `epoch`.
    pub(crate) fn history(self, epoch: Epoch, position: &Position) -> Vec<u8> {
        self.key(HISTORY, &[&epoch.0.to_be_bytes(), &[depth(position)], position.prefix()])
    }

    /// The records of a tag that begin with an epoch, up to `epoch`: `[from, to)`.
    pub(crate) fn until(self, tag: u8, epoch: Epoch) -> (Vec<u8>, Vec<u8>) {
        (self.key(tag, &[]), self.key(tag, &[&epoch.next().0.to_be_bytes()]))
    }

    /// A sealed entry that will expire.
    pub(crate) fn expiry(self, expires: WallTime, key_hash: &KeyHash) -> Vec<u8> {
        self.key(EXPIRY, &[&expires.millis().to_be_bytes(), key_hash.0.as_bytes()])
    }

    /// A run of seals.
    pub(crate) fn seal(self, from: Epoch) -> Vec<u8> {
        self.key(SEAL, &[&from.0.to_be_bytes()])
    }
}

fn depth(position: &Position) -> u8 {
    u8::try_from(position.depth()).expect("a position is at most 64 deep")
}

/// The epoch in the key of a list of what is pending, an older entry, or what a node was.
pub(crate) fn epoch_in(key: &[u8]) -> Option<Epoch> {
    key.get(5..13).and_then(|bytes| bytes.try_into().ok()).map(|bytes| Epoch(u64::from_be_bytes(bytes)))
}

/// The generation of a derived record's key.
pub(crate) fn generation(key: &[u8]) -> Option<Generation> {
    key.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(|bytes| Generation(u32::from_be_bytes(bytes)))
}

/// A key hash below the node of such a key.
pub(crate) fn node_towards(key: &[u8]) -> Option<KeyHash> {
    let prefix = key.get(6..)?;
    let mut hash = [0; 32];
    hash.get_mut(..prefix.len())?.copy_from_slice(prefix);
    Some(KeyHash(Digest(hash)))
}

/// The first key after all that begin with `prefix`; `None` when there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_keys_is_order_of_epochs() {
        let generation = Generation(7);
        let older = |epoch| generation.older(Epoch(epoch), &KeyHash(Digest([0; 32])));
        assert!(older(255) < older(256));
        assert_eq!(epoch_in(&older(300)), Some(Epoch(300)));
        let (from, to) = generation.until(OLDER, Epoch(300));
        assert!(from < older(0) && older(300) < to && to < older(301));
        assert_eq!(epoch_in(&generation.history(Epoch(300), &Position::ROOT)), Some(Epoch(300)));
        let top = generation.node(&Position::ROOT);
        assert_eq!(super::generation(&top), Some(generation));
        assert_eq!(node_towards(&top), Some(KeyHash(Digest([0; 32]))));
        let towards = KeyHash(Digest([0xab; 32]));
        let deep = generation.node(&Position::towards(&towards, 3));
        assert_eq!(
            node_towards(&deep).map(|hash| hash.0.as_bytes()[..3].to_vec()),
            Some(vec![0xab, 0xa0, 0])
        );
        assert_eq!(epoch_in(&generation.pending(Epoch(5), 1, 2)), Some(Epoch(5)));
        assert!(generation.pending(Epoch(5), 255, 9) < generation.pending(Epoch(5), 256, 0));
        let last = |generation: Generation| generation.pending(Epoch(u64::MAX), u64::MAX, u32::MAX);
        let (from, to) = generation.all(PENDING);
        assert!(from <= generation.pending(Epoch(0), 0, 0) && last(generation) < to);
        let (from, to) = generation.before(PENDING);
        assert!(from < last(Generation(6)) && to <= generation.pending(Epoch(0), 0, 0));
    }

    #[test]
    fn prefixes_end_where_the_next_begins() {
        assert_eq!(after_prefix(b"a"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff, 0xff]), None);
    }
}
