//! The chains of several positions under one root, with what they share told once.
//!
//! What one answer proves lies close together, or else many answers would be needed: near the root all chains
//! are the same, and where all sixteen children of a node are proved, nothing else is needed of it. So the inner
//! nodes above the positions come once each, with the hashes that their proved children leave open.

use std::collections::BTreeMap;

use super::chain::InvalidChain;
use super::hasher::{Hash, child_leaf, child_leaves, inner_digest, prove, root_from_proof};
use super::{BUCKET_ENTRIES_MAX, FANOUT, Position, Summary, root_of};
use crate::model::Digest;

/// Proves that nodes hang at several positions under one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains {
    /// The inner nodes above the positions, each once, in order of position.
    pub branches: Vec<Branch>,
}

/// An inner node above proved positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The node's entries that hold a value.
    pub entries: u64,
    /// The node's deletions.
    pub tombstones: u64,
    /// What its children that are on the way to a proved position leave open of its small tree, as `rs_merkle`
    /// orders it.
    pub siblings: Vec<Digest>,
}

/// Where there are branches, and which of each one's children are on the way to a proved position (ascending).
type Ways = BTreeMap<Position, Vec<usize>>;

impl Chains {
    /// The chains down to `positions`, none of which lies below another. `children` says what hangs below the inner
    /// nodes above them.
    ///
    /// # Errors
    /// The place above one of them of which `children` says nothing.
    pub fn build(
        positions: impl IntoIterator<Item = Position>,
        children: &BTreeMap<Position, [Summary; FANOUT]>,
    ) -> Result<Self, Position> {
        let branch = |(position, indices): (Position, Vec<usize>)| {
            let children = children.get(&position).ok_or(position)?;
            let (entries, tombstones) = super::node::counts(children);
            Ok(Branch { entries, tombstones, siblings: prove(&child_leaves(children), &indices) })
        };
        let branches = above(positions).into_iter().map(branch).collect::<Result<_, _>>()?;
        Ok(Self { branches })
    }

    /// Checks that each of `nodes` hangs at its position under `root`.
    ///
    /// # Errors
    /// [`InvalidChain`] when that is not what the chains prove, or one of the positions lies below another.
    pub fn verify(&self, nodes: &BTreeMap<Position, Summary>, root: &Summary) -> Result<(), InvalidChain> {
        let ways = above(nodes.keys().copied());
        if ways.len() != self.branches.len() {
            return Err(InvalidChain::Branches { count: self.branches.len(), expected: ways.len() });
        }
        let mut known = nodes.clone();
        // Those further down come later in order, and are needed earlier.
        for (level, ((position, indices), branch)) in ways.iter().zip(&self.branches).enumerate().rev() {
            let summary = branch.over(position, indices, &known).ok_or(InvalidChain::Counts { level })?;
            if known.insert(*position, summary).is_some() {
                return Err(InvalidChain::Overlap);
            }
        }
        let top = known.get(&Position::ROOT);
        if top.is_some_and(|top| root_of(top).as_ref() == Some(root)) {
            Ok(())
        } else {
            Err(InvalidChain::Root)
        }
    }
}

impl Branch {
    /// This node, if the children at `indices` are the known ones; `None` when the counts contradict each other, or
    /// the hashes are not as many as they should be.
    fn over(
        &self,
        position: &Position,
        indices: &[usize],
        known: &BTreeMap<Position, Summary>,
    ) -> Option<Summary> {
        let (mut entries, mut tombstones) = (0_u64, 0_u64);
        let mut leaves: Vec<Hash> = Vec::with_capacity(indices.len());
        for index in indices {
            let child = known.get(&position.child(u8::try_from(*index).ok()?)?)?;
            entries = entries.checked_add(child.entries)?;
            tombstones = tombstones.checked_add(child.tombstones)?;
            leaves.push(child_leaf(child));
        }
        let total = self.entries.checked_add(self.tombstones)?;
        let fits = self.entries >= entries && self.tombstones >= tombstones;
        if !fits || total <= BUCKET_ENTRIES_MAX as u64 {
            return None;
        }
        let leaves_root = root_from_proof(&self.siblings, indices, &leaves, FANOUT)?;
        let digest = inner_digest(self.entries, self.tombstones, &leaves_root);
        Some(Summary { digest, entries: self.entries, tombstones: self.tombstones })
    }
}

/// The places above `positions`, with the children through which the ways go on.
fn above(positions: impl IntoIterator<Item = Position>) -> Ways {
    let mut ways = Ways::new();
    for position in positions {
        let mut below = position;
        while let Some(parent) = below.parent() {
            let index = usize::from(below.nibble(parent.depth()));
            let indices = ways.entry(parent).or_default();
            match indices.binary_search(&index) {
                // From here on up, another position has the same way.
                Ok(_) => break,
                Err(place) => indices.insert(place, index),
            }
            below = parent;
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Node;
    use crate::tree::fixture::{Tree, arb_heads, golden};

    /// The buckets of a tree, and its inner nodes.
    fn parts(tree: &Tree) -> (BTreeMap<Position, Summary>, BTreeMap<Position, [Summary; FANOUT]>) {
        let (mut buckets, mut inner) = (BTreeMap::new(), BTreeMap::new());
        for (position, node) in &tree.nodes {
            match node {
                Node::Inner(children) => drop(inner.insert(*position, **children)),
                Node::Bucket(_) => drop(buckets.insert(*position, node.summary())),
            }
        }
        (buckets, inner)
    }

    fn prove_all(nodes: &BTreeMap<Position, Summary>, tree: &Tree) -> Chains {
        Chains::build(nodes.keys().copied(), &parts(tree).1).unwrap()
    }

    #[test]
    fn every_bit_of_the_chains_counts() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let nodes: BTreeMap<_, _> = parts(&tree).0.into_iter().step_by(5).collect();
        let chains = prove_all(&nodes, &tree);
        assert_eq!(chains.verify(&nodes, &root), Ok(()));
        for branch in 0..chains.branches.len() {
            let refuse = |change: &dyn Fn(&mut Branch)| {
                let mut chains = chains.clone();
                change(&mut chains.branches[branch]);
                assert!(chains.verify(&nodes, &root).is_err(), "branch {branch}");
            };
            for bit in 0..64 {
                refuse(&|branch| branch.entries ^= 1 << bit);
                refuse(&|branch| branch.tombstones ^= 1 << bit);
            }
            for sibling in 0..chains.branches[branch].siblings.len() {
                refuse(&|branch| branch.siblings[sibling].0[sibling] ^= 1);
            }
            refuse(&|branch| branch.siblings.push(Digest::default()));
        }
        for changed in nodes.keys() {
            let mut nodes = nodes.clone();
            nodes.get_mut(changed).unwrap().digest.0[0] ^= 1;
            assert!(chains.verify(&nodes, &root).is_err(), "{changed}");
        }
    }

    #[test]
    fn other_positions_than_those_proved_are_refused() {
        let tree = Tree::of(golden(1_000));
        let root = tree.root.unwrap();
        let (buckets, inner) = parts(&tree);
        let nodes: BTreeMap<_, _> = buckets.iter().take(3).map(|(at, node)| (*at, *node)).collect();
        let chains = prove_all(&nodes, &tree);
        let mut fewer = nodes.clone();
        fewer.pop_first();
        assert!(chains.verify(&fewer, &root).is_err());
        // One below another has no chain of its own.
        let mut overlapping = nodes.clone();
        overlapping.insert(Position::ROOT, tree.nodes[&Position::ROOT].summary());
        assert_eq!(chains.verify(&overlapping, &root), Err(InvalidChain::Overlap));
        assert_eq!(Chains::build(nodes.keys().copied(), &BTreeMap::new()), Err(Position::ROOT));
        assert!(Chains::build(nodes.keys().copied(), &inner).is_ok());
        assert!(matches!(
            Chains::default().verify(&nodes, &root),
            Err(InvalidChain::Branches { count: 0, .. })
        ));
        assert_eq!(Chains::default().verify(&BTreeMap::new(), &root), Err(InvalidChain::Root));
    }

    #[test]
    fn a_whole_tree_is_proved_without_a_hash() {
        let tree = Tree::of(golden(1_000));
        let (mut nodes, inner) = parts(&tree);
        for (position, children) in &inner {
            for (child, index) in children.iter().zip(0_u8..).filter(|(child, _)| child.total() == 0) {
                nodes.insert(position.child(index).unwrap(), *child);
            }
        }
        let chains = prove_all(&nodes, &tree);
        assert!(chains.branches.iter().all(|branch| branch.siblings.is_empty()));
        assert_eq!(chains.verify(&nodes, &tree.root.unwrap()), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_buckets_are_proved_and_nothing_else(
            heads in arb_heads(200), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
            changed in any::<prop::sample::Index>(),
        ) {
            let tree = Tree::of(heads);
            let Some(root) = tree.root else { return Ok(()) };
            let (buckets, _) = parts(&tree);
            let all: Vec<(Position, Summary)> = buckets.into_iter().collect();
            let mut nodes: BTreeMap<_, _> = picks.iter().map(|pick| all[pick.index(all.len())]).collect();
            let chains = prove_all(&nodes, &tree);
            prop_assert_eq!(chains.verify(&nodes, &root), Ok(()));
            let at = *nodes.keys().nth(changed.index(nodes.len())).unwrap();
            nodes.get_mut(&at).unwrap().digest.0[9] ^= 4;
            prop_assert!(chains.verify(&nodes, &root).is_err());
        }
    }
}
