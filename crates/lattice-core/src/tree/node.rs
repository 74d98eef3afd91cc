//! A node of the tree: a bucket of entries, or sixteen children.
//!
//! The shape is canonical: a bucket holds at most [`BUCKET_ENTRIES_MAX`] entries, in order of key hash, and
//! an inner node has more below it. The constructors check what a node alone can show of that; bytes from the
//! disk or the network come in through them.

use super::hasher::{bucket_digest, child_leaves, entry_leaves, inner_digest, leaves_root};
use super::{BUCKET_ENTRIES_MAX, FANOUT, Position, Summary};
use crate::model::EntryHead;

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// What hangs at each nibble, in order. Below it hang more entries than a bucket holds.
    Inner(Box<[Summary; FANOUT]>),
    /// The entries below, by ascending key hash, at most [`BUCKET_ENTRIES_MAX`].
    Bucket(Vec<EntryHead>),
}

/// Why something is not a node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNode {
    /// More entries than a bucket holds.
    #[error("bucket has {count} entries: it takes at most 32")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// An entry whose key hash does not lie after the one before it.
    #[error("heads[{index}].key_hash does not lie after the one before it")]
    NotAscending {
        /// Its place in the bucket.
        index: usize,
    },
    /// An entry that belongs elsewhere.
    #[error("heads[{index}].key_hash does not belong below this position")]
    Misplaced {
        /// Its place in the bucket.
        index: usize,
    },
    /// An inner node has sixteen children.
    #[error("inner node has {count} children: it takes 16")]
    ChildCount {
        /// How many.
        count: usize,
    },
    /// What hangs below an inner node would fit into a bucket.
    #[error("inner node has {total} entries below it: they belong into a bucket")]
    TooFew {
        /// How many.
        total: u64,
    },
    /// A child without entries, whose digest is not [`Summary::EMPTY`]'s.
    #[error("children[{index}] holds nothing, but is not the empty bucket")]
    EmptyChild {
        /// Which child.
        index: usize,
    },
    /// The children's counts exceed 64 bits.
    #[error("children hold more than 2^64 entries")]
    Overflow,
}

impl Node {
    /// A bucket without entries.
    pub const fn empty_bucket() -> Self {
        Self::Bucket(Vec::new())
    }

    /// The bucket of `heads` at `position`.
    ///
    /// # Errors
    /// [`InvalidNode`] when they are too many, not ascending by key hash, or belong elsewhere.
    pub fn bucket(position: &Position, heads: Vec<EntryHead>) -> Result<Self, InvalidNode> {
        if heads.len() > BUCKET_ENTRIES_MAX {
            return Err(InvalidNode::TooMany { count: heads.len() });
        }
        if let Some(index) = heads.windows(2).position(|pair| pair[0].key_hash >= pair[1].key_hash) {
            return Err(InvalidNode::NotAscending { index: index + 1 });
        }
        if let Some(index) = heads.iter().position(|head| !position.covers(&head.key_hash)) {
            return Err(InvalidNode::Misplaced { index });
        }
        Ok(Self::Bucket(heads))
    }

    /// The inner node over `children`, in order of nibble.
    ///
    /// # Errors
    /// [`InvalidNode`] when they are not sixteen, hold no more than a bucket does, or one that holds nothing
    /// is not the empty bucket.
    pub fn inner(children: Vec<Summary>) -> Result<Self, InvalidNode> {
        let count = children.len();
        let children: Box<[Summary; FANOUT]> =
            children.try_into().map_err(|_| InvalidNode::ChildCount { count })?;
        if let Some(index) = children.iter().position(|child| child.total() == 0 && *child != Summary::EMPTY)
        {
            return Err(InvalidNode::EmptyChild { index });
        }
        let total = children
            .iter()
            .flat_map(|child| [child.entries, child.tombstones])
            .try_fold(0, u64::checked_add)
            .ok_or(InvalidNode::Overflow)?;
        if total <= BUCKET_ENTRIES_MAX as u64 {
            return Err(InvalidNode::TooFew { total });
        }
        Ok(Self::Inner(children))
    }

    /// What a parent commits to. Hashes all of the node.
    pub fn summary(&self) -> Summary {
        let (entries, tombstones) = self.counts();
        let digest = match self {
            Self::Inner(children) => inner_digest(entries, tombstones, &leaves_root(&child_leaves(children))),
            Self::Bucket(heads) if heads.is_empty() => return Summary::EMPTY,
            Self::Bucket(heads) => bucket_digest(entries, tombstones, &leaves_root(&entry_leaves(heads))),
        };
        Summary { digest, entries, tombstones }
    }

    /// The entries with a value, and the deletions, below this node. Hashes nothing.
    pub fn counts(&self) -> (u64, u64) {
        match self {
            Self::Inner(children) => counts(children),
            Self::Bucket(heads) => heads.iter().fold((0, 0), |(entries, tombstones), head| {
                if head.is_tombstone() { (entries, tombstones + 1) } else { (entries + 1, tombstones) }
            }),
        }
    }
}

/// The sums of the children's counts, which [`Node::inner`] has found to fit.
pub(super) fn counts(children: &[Summary; FANOUT]) -> (u64, u64) {
    children.iter().fold((0, 0), |(entries, tombstones), child| {
        (child.entries.saturating_add(entries), child.tombstones.saturating_add(tombstones))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::golden;

    fn bucket(count: u64) -> Vec<EntryHead> {
        let mut heads = golden(count);
        heads.sort_by_key(|head| head.key_hash);
        heads
    }

    fn child(entries: u64, tombstones: u64) -> Summary {
        Summary { entries, tombstones, ..Summary::EMPTY }
    }

    #[test]
    fn a_bucket_is_ascending_in_place_and_not_too_large() {
        let heads = bucket(32);
        let node = Node::bucket(&Position::ROOT, heads.clone()).unwrap();
        assert_eq!(node.counts(), (29, 3));
        assert_eq!(
            node.summary().digest.to_string(),
            "a784d8149e45dea9f67260a69bb430362aa488e2092016d65ca8c6c1c191f474"
        );
        assert_eq!(Node::bucket(&Position::ROOT, bucket(33)), Err(InvalidNode::TooMany { count: 33 }));

        let mut swapped = heads.clone();
        swapped.swap(4, 5);
        assert_eq!(Node::bucket(&Position::ROOT, swapped), Err(InvalidNode::NotAscending { index: 5 }));
        let mut twice = bucket(3);
        twice[1] = twice[0];
        assert_eq!(Node::bucket(&Position::ROOT, twice), Err(InvalidNode::NotAscending { index: 1 }));

        let place = Position::towards(&heads[0].key_hash, 1);
        let first_outside = heads.iter().position(|head| !place.covers(&head.key_hash)).unwrap();
        assert_eq!(Node::bucket(&place, heads), Err(InvalidNode::Misplaced { index: first_outside }));
    }

    #[test]
    fn the_empty_bucket_has_the_empty_summary() {
        assert_eq!(Node::empty_bucket().summary(), Summary::EMPTY);
        assert_eq!(Node::bucket(&Position::ROOT, Vec::new()), Ok(Node::empty_bucket()));
    }

    #[test]
    fn an_inner_node_holds_more_than_a_bucket_in_sixteen_children() {
        let mut children = vec![Summary::EMPTY; FANOUT];
        children[3] = child(20, 0);
        children[9] = child(0, 12);
        assert_eq!(Node::inner(children.clone()), Err(InvalidNode::TooFew { total: 32 }));
        children[9] = child(0, 13);
        assert_eq!(Node::inner(children.clone()).unwrap().counts(), (20, 13));

        assert_eq!(Node::inner(children[..15].to_vec()), Err(InvalidNode::ChildCount { count: 15 }));
        let mut overflow = children.clone();
        overflow[0] = child(u64::MAX, 1);
        assert_eq!(Node::inner(overflow), Err(InvalidNode::Overflow));
        children[5].digest.0[0] ^= 1;
        assert_eq!(Node::inner(children), Err(InvalidNode::EmptyChild { index: 5 }));
    }
}
