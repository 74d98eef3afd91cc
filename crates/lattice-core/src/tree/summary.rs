//! What a parent knows of a child: its digest, and how much hangs below it.

use crate::model::Digest;

/// A node of the tree, as its parent commits to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The node's digest, which commits to the counts as well.
    pub digest: Digest,
    /// Entries below that hold a value (expired ones included).
    pub entries: u64,
    /// Entries below that are deletions.
    pub tombstones: u64,
}

impl Summary {
    /// Of a bucket without entries: what every place is, below which nothing hangs.
    pub const EMPTY: Self = Self {
        digest: Digest([
            0xb9, 0xe6, 0x89, 0x51, 0xad, 0xf2, 0x59, 0xeb, 0x5b, 0xe0, 0xe9, 0xc9, 0x23, 0x8a, 0x97, 0x22,
            0x93, 0x62, 0x8b, 0x69, 0x68, 0x83, 0x62, 0x8d, 0xd6, 0xe4, 0xf2, 0x87, 0x26, 0x06, 0xfc, 0x13,
        ]),
        entries: 0,
        tombstones: 0,
    };

    /// Everything below, deletions included: what decides between bucket and inner node.
    pub fn total(&self) -> u64 {
        self.entries.saturating_add(self.tombstones)
    }
}
