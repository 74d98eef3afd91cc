//! The chain of digests that proves what hangs at a position under a root.
//!
//! Each level is the small proof that one of sixteen children belongs to its parent, with the parent's
//! counts. The chain of a position at depth *d* has *d* levels; at the root it has none, and only the root's
//! own wrapping is checked.

use super::hasher::{child_leaf, child_leaves, inner_digest, prove, root_from_proof};
use super::{BUCKET_ENTRIES_MAX, FANOUT, Position, Summary, root_of};
use crate::model::Digest;

/// The hashes that prove one of sixteen children.
pub const SIBLINGS: usize = 4;

/// Proves that a node hangs at a position under a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The inner nodes above the position, the topmost first: as many as the position is deep.
    pub levels: Vec<Level>,
}

/// An inner node on the way down, with the proof of the child through which the way goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The node's entries that hold a value.
    pub entries: u64,
    /// The node's deletions.
    pub tombstones: u64,
    /// Of the child's siblings, from the leaves up (as `rs_merkle` orders them).
    pub siblings: [Digest; SIBLINGS],
}

/// Why a chain does not prove what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChain {
    /// The chain has more or fewer levels than the position is deep.
    #[error("chain has {levels} levels for a position {depth} deep")]
    Depth {
        /// The chain's levels.
        levels: usize,
        /// The position's depth.
        depth: usize,
    },
    /// The branches are not as many as the inner nodes above the positions proved.
    #[error("chains have {count} branches: these positions take {expected}")]
    Branches {
        /// How many there are.
        count: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A position that lies below another one, which is proved as well.
    #[error("positions lie below one another")]
    Overlap,
    /// An inner node that holds less than what is below it, or so little that it would be a bucket, or whose
    /// hashes are not as many as they should be.
    #[error("levels[{level}] has counts or hashes that cannot be")]
    Counts {
        /// Which level.
        level: usize,
    },
    /// The chain is well formed, but leads to another root.
    #[error("chain leads to another root")]
    Root,
}

impl Chain {
    /// The chain down to `position`, from the children of the inner nodes above it, the topmost first.
    ///
    /// # Errors
    /// [`InvalidChain::Depth`] when they are not as many as the position is deep.
    pub fn build(path: &[&[Summary; FANOUT]], position: &Position) -> Result<Self, InvalidChain> {
        let depth = position.depth();
        if path.len() != depth {
            return Err(InvalidChain::Depth { levels: path.len(), depth });
        }
        let level = |(depth, children): (usize, &&[Summary; FANOUT])| {
            let (entries, tombstones) = super::node::counts(children);
            let proof = prove(&child_leaves(children), &[usize::from(position.nibble(depth))]);
            let siblings = proof.try_into().expect("one of sixteen leaves is proved by four hashes");
            Level { entries, tombstones, siblings }
        };
        Ok(Self { levels: path.iter().enumerate().map(level).collect() })
    }

    /// Checks that `node` hangs at `position` under `root`.
    ///
    /// # Errors
    /// [`InvalidChain`] when that is not what the chain proves.
    pub fn verify(&self, position: &Position, node: &Summary, root: &Summary) -> Result<(), InvalidChain> {
        let depth = position.depth();
        if self.levels.len() != depth {
            return Err(InvalidChain::Depth { levels: self.levels.len(), depth });
        }
        let mut below = *node;
        for (level, parent) in self.levels.iter().enumerate().rev() {
            below = parent.over(position.nibble(level), &below).ok_or(InvalidChain::Counts { level })?;
        }
        if root_of(&below).as_ref() == Some(root) { Ok(()) } else { Err(InvalidChain::Root) }
    }
}

impl Level {
    /// This node, if `child` is the one at `nibble`; `None` when the counts contradict each other.
    fn over(&self, nibble: u8, child: &Summary) -> Option<Summary> {
        let total = self.entries.checked_add(self.tombstones)?;
        let fits = self.entries >= child.entries && self.tombstones >= child.tombstones;
        if !fits || total <= BUCKET_ENTRIES_MAX as u64 {
            return None;
        }
        let leaves_root =
            root_from_proof(&self.siblings, &[usize::from(nibble)], &[child_leaf(child)], FANOUT)?;
        let digest = inner_digest(self.entries, self.tombstones, &leaves_root);
        Some(Summary { digest, entries: self.entries, tombstones: self.tombstones })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::fixture::{Tree, arb_heads, golden};
    use crate::tree::{Node, root_of};

    /// Bits of a level: two counts and four digests.
    const LEVEL_BITS: usize = 64 + 64 + SIBLINGS * 256;

    /// `chain` with one bit flipped.
    fn flipped(chain: &Chain, bit: usize) -> Chain {
        let mut chain = chain.clone();
        let level = &mut chain.levels[bit / LEVEL_BITS];
        match bit % LEVEL_BITS {
            bit @ 0..64 => level.entries ^= 1 << bit,
            bit @ 64..128 => level.tombstones ^= 1 << (bit - 64),
            bit => {
                let bit = bit - 128;
                level.siblings[bit / 256].0[bit % 256 / 8] ^= 1 << (bit % 8);
            }
        }
        chain
    }

    #[test]
    fn every_bit_of_a_chain_counts() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let (position, node) = tree.nodes.last_key_value().unwrap();
        let summary = node.summary();
        let chain = tree.chain(position);
        assert_eq!(chain.levels.len(), position.depth());
        assert_eq!(chain.verify(position, &summary, &root), Ok(()));
        for bit in 0..chain.levels.len() * LEVEL_BITS {
            assert!(flipped(&chain, bit).verify(position, &summary, &root).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn only_the_right_node_place_and_root_pass() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let (position, node) = tree.nodes.last_key_value().unwrap();
        let (summary, chain) = (node.summary(), tree.chain(position));

        let sibling = position.parent().unwrap().child(0).unwrap();
        assert_eq!(chain.verify(&sibling, &summary, &root), Err(InvalidChain::Root));
        let depth = position.depth();
        assert_eq!(
            chain.verify(&position.parent().unwrap(), &summary, &root),
            Err(InvalidChain::Depth { levels: depth, depth: depth - 1 })
        );
        for (entries, tombstones) in [(1, 0), (0, 1)] {
            let mut other = summary;
            other.entries += entries;
            other.tombstones += tombstones;
            assert_eq!(chain.verify(position, &other, &root), Err(InvalidChain::Root));
            let mut other = root;
            other.entries += entries;
            other.tombstones += tombstones;
            assert_eq!(chain.verify(position, &summary, &other), Err(InvalidChain::Root));
        }
        // A node is no root: the root's digest is wrapped once more.
        let top = tree.nodes[&Position::ROOT].summary();
        assert_eq!(chain.verify(position, &summary, &top), Err(InvalidChain::Root));
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let (position, node) = tree.nodes.last_key_value().unwrap();
        let (summary, chain) = (node.summary(), tree.chain(position));
        for (entries, tombstones) in [(u64::MAX, 1), (0, 33), (32, 0), (1_000, 0)] {
            let mut chain = chain.clone();
            chain.levels[0] = Level { entries, tombstones, ..chain.levels[0] };
            assert_eq!(chain.verify(position, &summary, &root), Err(InvalidChain::Counts { level: 0 }));
        }
    }

    #[test]
    fn the_root_has_an_empty_chain() {
        for count in [1, 100] {
            let tree = Tree::of(golden(count));
            let top = tree.nodes[&Position::ROOT].summary();
            let chain = tree.chain(&Position::ROOT);
            assert_eq!(chain.levels, []);
            assert_eq!(chain.verify(&Position::ROOT, &top, &tree.root.unwrap()), Ok(()));
            assert_eq!(chain.verify(&Position::ROOT, &top, &top), Err(InvalidChain::Root));
        }
        assert_eq!(root_of(&Summary::EMPTY), None);
        assert_eq!(
            Chain { levels: Vec::new() }.verify(&Position::ROOT, &Summary::EMPTY, &Summary::EMPTY),
            Err(InvalidChain::Root)
        );
    }

    #[test]
    fn a_path_of_the_wrong_length_makes_no_chain() {
        let position = Position::ROOT.child(3).unwrap();
        assert_eq!(Chain::build(&[], &position), Err(InvalidChain::Depth { levels: 0, depth: 1 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_node_is_proved_and_nothing_else(
            heads in arb_heads(200), pick in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(),
        ) {
            let tree = Tree::of(heads);
            let Some(root) = tree.root else { return Ok(()) };
            let positions: Vec<Position> = tree.nodes.keys().copied().collect();
            let position = positions[pick.index(positions.len())];
            let summary = tree.nodes[&position].summary();
            let chain = tree.chain(&position);
            prop_assert_eq!(chain.verify(&position, &summary, &root), Ok(()));
            if position != Position::ROOT {
                let bit = bit.index(chain.levels.len() * LEVEL_BITS);
                prop_assert!(flipped(&chain, bit).verify(&position, &summary, &root).is_err());
            }
            let mut other = summary;
            other.digest.0[7] ^= 4;
            prop_assert_eq!(chain.verify(&position, &other, &root), Err(InvalidChain::Root));

            // A place where nothing hangs is proved as well, being the empty bucket.
            if let Node::Inner(children) = &tree.nodes[&position] {
                for (index, child) in children.iter().enumerate() {
                    let place = position.child(index as u8).unwrap();
                    prop_assert_eq!(tree.chain(&place).verify(&place, child, &root), Ok(()));
                }
            }
        }
    }
}
