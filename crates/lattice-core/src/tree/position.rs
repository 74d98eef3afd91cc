//! Where a node hangs in the tree: the nibbles of key hash on the way down to it.

use std::fmt;

use crate::model::{Digest, KeyHash};

/// A place in the tree: the first `depth` nibbles (0 to 64) of the key hashes below it. Ordered so that a
/// node comes before its descendants and siblings follow each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The nibbles, most significant first; zero past `depth`.
    prefix: [u8; 32],
    depth: u8,
}

impl Position {
    /// The root's place.
    pub const ROOT: Self = Self { prefix: [0; 32], depth: 0 };
    /// The deepest place: a whole key hash.
    pub const DEPTH_MAX: usize = 64;

    /// The place `depth` nibbles down towards `hash`.
    pub fn towards(hash: &KeyHash, depth: usize) -> Self {
        debug_assert!(depth <= Self::DEPTH_MAX, "a key hash has 64 nibbles");
        let mut prefix = *hash.0.as_bytes();
        let whole = depth / 2;
        if whole < 32 {
            prefix[whole] &= if depth.is_multiple_of(2) { 0 } else { 0xf0 };
            prefix[(whole + 1).min(32)..].fill(0);
        }
        Self { prefix, depth: u8::try_from(depth).unwrap_or(u8::MAX) }
    }

    /// Parses `depth` and `ceil(depth / 2)` bytes of prefix, whose spare bits must be zero: one place has one
    /// encoding.
    ///
    /// # Errors
    /// [`InvalidPosition`] for anything else.
    pub fn parse(depth: u32, prefix: &[u8]) -> Result<Self, InvalidPosition> {
        let depth = usize::try_from(depth).map_err(|_| InvalidPosition)?;
        if depth > Self::DEPTH_MAX || prefix.len() != depth.div_ceil(2) {
            return Err(InvalidPosition);
        }
        let mut hash = [0; 32];
        hash[..prefix.len()].copy_from_slice(prefix);
        let parsed = Self::towards(&KeyHash(Digest(hash)), depth);
        if parsed.prefix == hash { Ok(parsed) } else { Err(InvalidPosition) }
    }

    /// The nibbles down to here.
    pub fn depth(&self) -> usize {
        usize::from(self.depth)
    }

    /// The nibbles packed into `ceil(depth / 2)` bytes.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..self.depth().div_ceil(2)]
    }

    /// The smallest key hash below this place.
    pub fn first(&self) -> KeyHash {
        KeyHash(Digest(self.prefix))
    }

    /// The greatest key hash below this place.
    pub fn last(&self) -> KeyHash {
        let mut hash = self.prefix;
        let whole = self.depth() / 2;
        if whole < 32 {
            hash[whole] |= if self.depth.is_multiple_of(2) { 0xff } else { 0x0f };
            hash[(whole + 1).min(32)..].fill(0xff);
        }
        KeyHash(Digest(hash))
    }

    /// The nibble at `depth` on the way here; `depth` is below [`Self::depth`].
    pub fn nibble(&self, depth: usize) -> u8 {
        KeyHash(Digest(self.prefix)).nibble(depth)
    }

    /// The place of child `index` (0 to 15); `None` at [`Self::DEPTH_MAX`].
    pub fn child(&self, index: u8) -> Option<Self> {
        if self.depth() == Self::DEPTH_MAX || index > 15 {
            return None;
        }
        let mut prefix = self.prefix;
        prefix[self.depth() / 2] |= if self.depth.is_multiple_of(2) { index << 4 } else { index };
        Some(Self { prefix, depth: self.depth + 1 })
    }

    /// The place above; the root has none.
    pub fn parent(&self) -> Option<Self> {
        self.depth().checked_sub(1).map(|depth| Self::towards(&self.first(), depth))
    }

    /// Whether `hash` belongs below this place.
    pub fn covers(&self, hash: &KeyHash) -> bool {
        Self::towards(hash, self.depth()) == *self
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/")?;
        (0..self.depth()).try_for_each(|depth| write!(f, "{:x}", self.nibble(depth)))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({self})")
    }
}

/// The bytes are not a place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is a depth of 0 to 64 and half as many bytes, spare bits zero")]
pub struct InvalidPosition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_cover_exactly_their_nibble() {
        let hash = KeyHash(Digest::of(&[b"apple"]));
        let mut position = Position::ROOT;
        for depth in 0..Position::DEPTH_MAX {
            assert!(position.covers(&hash));
            assert!(position.first() <= hash && hash <= position.last());
            let stranger = position.child(hash.nibble(depth) ^ 1).unwrap();
            assert!(!stranger.covers(&hash));
            position = position.child(hash.nibble(depth)).unwrap();
            assert_eq!(position, Position::towards(&hash, depth + 1));
            assert_eq!(Position::parse(depth as u32 + 1, position.prefix()), Ok(position));
        }
        assert_eq!(position.child(0), None);
        assert_eq!(position.first(), hash);
    }

    #[test]
    fn a_place_has_one_encoding() {
        assert_eq!(Position::parse(1, &[0x1f]), Err(InvalidPosition));
        assert_eq!(Position::parse(2, &[]), Err(InvalidPosition));
        assert_eq!(Position::parse(65, &[0; 33]), Err(InvalidPosition));
        assert_eq!(Position::parse(0, &[]), Ok(Position::ROOT));
    }
}
