//! Proofs that a key has this entry under a root, or none.
//!
//! A proof is the chain down to the bucket where the key would hang, and what shows the bucket's part: for
//! inclusion the entry's head, for absence the leaves between which the key would lie. About 1 KiB at a
//! million keys. Against a signed seal's root it holds without trusting whoever hands it over.

use std::borrow::Borrow;

use super::hasher::bucket_digest;
use super::{BUCKET_ENTRIES_MAX, Chain, Evidence, FANOUT, InvalidChain, Node, Position, Summary};
use crate::model::{EntryHead, KeyHash};

/// Proves for one key that a tree holds this entry of it, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// From the root down to the key's bucket, whose position follows from the key and the chain's length.
    pub chain: Chain,
    /// The bucket's entries that hold a value.
    pub entries: u64,
    /// The bucket's deletions.
    pub tombstones: u64,
    /// The bucket's part.
    pub evidence: Evidence,
}

/// What a proof proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The tree holds this entry of the key. It may be a deletion, or expired.
    Included(EntryHead),
    /// The tree holds no entry of the key.
    Absent,
}

/// The nodes are not a way from the root down to the key's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path does not lead from the root to the key's bucket")]
pub struct InvalidPath;

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProof {
    /// The chain has more levels than a key hash has nibbles.
    #[error("chain has {levels} levels: it takes at most 64")]
    TooDeep {
        /// Its levels.
        levels: usize,
    },
    /// The bucket's counts are not those of a bucket, or not those of the evidence.
    #[error("bucket counts cannot be")]
    Counts,
    /// The entry is of another key.
    #[error("entry is of another key")]
    Key,
    /// The neighbours do not enclose the key, or do not belong into its bucket.
    #[error("neighbours do not enclose the key")]
    Neighbours,
    /// The indices lie outside of the bucket, or the hashes are not as many as such a proof takes.
    #[error("proof within the bucket has the wrong shape")]
    Shape,
    /// The tree is empty, but the proof shows something.
    #[error("proof shows something of an empty tree")]
    EmptyTree,
    /// The chain does not lead from the bucket to the root.
    #[error("chain: {0}")]
    Chain(#[from] InvalidChain),
}

impl Proof {
    /// Proves what the tree holds of a key, from the nodes on the way to it: the topmost first, its bucket
    /// last (an empty one where nothing hangs).
    ///
    /// # Errors
    /// [`InvalidPath`] when the nodes are no such way.
    pub fn build(path: &[impl Borrow<Node>], key_hash: &KeyHash) -> Result<Self, InvalidPath> {
        let (bucket, above) = path.split_last().ok_or(InvalidPath)?;
        let Node::Bucket(heads) = bucket.borrow() else {
            return Err(InvalidPath);
        };
        let mut inner: Vec<&[Summary; FANOUT]> = Vec::with_capacity(above.len());
        for node in above {
            let Node::Inner(children) = node.borrow() else {
                return Err(InvalidPath);
            };
            inner.push(children);
        }
        if inner.len() > Position::DEPTH_MAX {
            return Err(InvalidPath);
        }
        let position = Position::towards(key_hash, inner.len());
        let chain = Chain::build(&inner, &position).map_err(|_| InvalidPath)?;
        let (entries, tombstones) = bucket.borrow().counts();
        Ok(Self { chain, entries, tombstones, evidence: Evidence::build(heads, key_hash) })
    }

    /// Checks the proof against a root and says what it proves.
    ///
    /// # Errors
    /// [`InvalidProof`] when it proves nothing of this key under this root.
    pub fn verify(&self, key_hash: &KeyHash, root: Option<&Summary>) -> Result<Verdict, InvalidProof> {
        let Some(root) = root else {
            return self.verify_empty_tree();
        };
        let levels = self.chain.levels.len();
        if levels > Position::DEPTH_MAX {
            return Err(InvalidProof::TooDeep { levels });
        }
        let position = Position::towards(key_hash, levels);
        let total = self.entries.checked_add(self.tombstones).ok_or(InvalidProof::Counts)?;
        let total = usize::try_from(total).map_err(|_| InvalidProof::Counts)?;
        if total > BUCKET_ENTRIES_MAX {
            return Err(InvalidProof::Counts);
        }
        let (verdict, leaves_root) = self.evidence.verify(key_hash, &position, total)?;
        if let Verdict::Included(head) = &verdict {
            let of_its_kind = if head.is_tombstone() { self.tombstones } else { self.entries };
            if of_its_kind == 0 {
                return Err(InvalidProof::Counts);
            }
        }
        let digest = bucket_digest(self.entries, self.tombstones, &leaves_root);
        let bucket = Summary { digest, entries: self.entries, tombstones: self.tombstones };
        self.chain.verify(&position, &bucket, root)?;
        Ok(verdict)
    }

    /// Of a tree without a root, nothing is shown, and every key is absent.
    fn verify_empty_tree(&self) -> Result<Verdict, InvalidProof> {
        let nothing = Evidence::Absent { neighbours: Vec::new(), index: 0, siblings: Vec::new() };
        let empty = self.chain.levels.is_empty() && self.entries == 0 && self.tombstones == 0;
        if empty && self.evidence == nothing { Ok(Verdict::Absent) } else { Err(InvalidProof::EmptyTree) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Digest, HeadContent};
    use crate::time::WallTime;
    use crate::tree::Neighbour;
    use crate::tree::fixture::{Tree, arb_heads, arb_key_hash, golden, head};
    use crate::tree::hasher::{entry_leaves, prove};

    fn flip(digest: &mut Digest, bit: usize) {
        digest.0[bit / 8 % 32] ^= 1 << (bit % 8);
    }

    /// Every proof that differs from `proof` in bit `bit` (or the one that it wraps around to) of one field.
    fn mutations(proof: &Proof, bit: usize) -> Vec<Proof> {
        let mut all = Vec::new();
        let mut mutate = |change: &dyn Fn(&mut Proof)| {
            let mut mutated = proof.clone();
            change(&mut mutated);
            all.push(mutated);
        };
        mutate(&|proof| proof.entries ^= 1 << (bit % 64));
        mutate(&|proof| proof.tombstones ^= 1 << (bit % 64));
        for level in 0..proof.chain.levels.len() {
            mutate(&|proof| proof.chain.levels[level].entries ^= 1 << (bit % 64));
            mutate(&|proof| proof.chain.levels[level].tombstones ^= 1 << (bit % 64));
            mutate(&|proof| flip(&mut proof.chain.levels[level].siblings[bit % 4], bit));
            mutate(&|proof| {
                proof.chain.levels.remove(level);
            });
            mutate(&|proof| proof.chain.levels.insert(level, proof.chain.levels[level]));
        }
        for head_change in [
            (|head, bit| flip(&mut head.key_hash.0, bit)) as fn(&mut EntryHead, usize),
            |head, bit| head.version.hlc.0 ^= 1 << (bit % 64),
            |head, bit| head.version.writer.0[bit / 8 % 32] ^= 1 << (bit % 8),
            |head, bit| {
                head.expires = match head.expires {
                    None => Some(WallTime(0)),
                    Some(at) => Some(WallTime(at.0 ^ 1 << (bit % 64))),
                }
            },
            |head, bit| match &mut head.content {
                HeadContent::Value(digest) => flip(digest, bit),
                HeadContent::Tombstone => head.content = HeadContent::Value(Digest::default()),
            },
        ] {
            if matches!(proof.evidence, Evidence::Included { .. }) {
                mutate(&|proof| {
                    if let Evidence::Included { head, .. } = &mut proof.evidence {
                        head_change(head, bit);
                    }
                });
            }
        }
        let (Evidence::Included { siblings, .. } | Evidence::Absent { siblings, .. }) = &proof.evidence;
        let shown = siblings.len();
        mutate(&|proof| match &mut proof.evidence {
            Evidence::Included { index, .. } | Evidence::Absent { index, .. } => {
                *index ^= 1 << (bit % 32);
            }
        });
        mutate(&|proof| match &mut proof.evidence {
            Evidence::Included { siblings, .. } | Evidence::Absent { siblings, .. } => {
                siblings.push(Digest::default());
            }
        });
        for sibling in 0..shown {
            mutate(&|proof| match &mut proof.evidence {
                Evidence::Included { siblings, .. } | Evidence::Absent { siblings, .. } => {
                    flip(&mut siblings[sibling], bit);
                }
            });
            mutate(&|proof| match &mut proof.evidence {
                Evidence::Included { siblings, .. } | Evidence::Absent { siblings, .. } => {
                    siblings.remove(sibling);
                }
            });
        }
        if let Evidence::Absent { neighbours, .. } = &proof.evidence {
            for neighbour in 0..neighbours.len() {
                for change in [
                    (|neighbours, at, bit| flip(&mut neighbours[at].key_hash.0, bit))
                        as fn(&mut Vec<Neighbour>, usize, usize),
                    |neighbours, at, bit| flip(&mut neighbours[at].entry, bit),
                    |neighbours, at, _| {
                        neighbours.remove(at);
                    },
                    |neighbours, at, _| neighbours.insert(at, neighbours[at]),
                ] {
                    mutate(&|proof| {
                        if let Evidence::Absent { neighbours, .. } = &mut proof.evidence {
                            change(neighbours, neighbour, bit);
                        }
                    });
                }
            }
        }
        all
    }

    /// Bytes of a proof as any plain encoding has them, without tags.
    fn size(proof: &Proof) -> usize {
        let bucket = match &proof.evidence {
            Evidence::Included { siblings, .. } => 122 + 32 * siblings.len(),
            Evidence::Absent { neighbours, siblings, .. } => 64 * neighbours.len() + 32 * siblings.len(),
        };
        proof.chain.levels.len() * (16 + 4 * 32) + 20 + bucket
    }

    #[test]
    fn every_key_has_its_proof_and_no_other_passes() {
        for count in [1, 2, 3, 31, 32, 33, 300] {
            let tree = Tree::of(golden(count));
            let root = tree.root.as_ref();
            for number in 0..count + 40 {
                let key_hash = head(number, 0).key_hash;
                let proof = Proof::build(&tree.path(&key_hash), &key_hash).unwrap();
                let expected = tree.get(&key_hash).map_or(Verdict::Absent, Verdict::Included);
                assert_eq!(proof.verify(&key_hash, root), Ok(expected));
                let other = head(number + 1, 0).key_hash;
                if expected != Verdict::Absent {
                    assert_eq!(proof.verify(&other, root), Err(InvalidProof::Key));
                }
                assert_eq!(proof.verify(&key_hash, None), Err(InvalidProof::EmptyTree));
            }
        }
    }

    #[test]
    fn every_bit_of_a_proof_counts() {
        let tree = Tree::of(golden(300));
        for number in [0, 9, 13, 400, 401, 402] {
            let key_hash = head(number, 0).key_hash;
            let proof = Proof::build(&tree.path(&key_hash), &key_hash).unwrap();
            for bit in (0..256).step_by(3) {
                for mutated in mutations(&proof, bit) {
                    assert!(mutated.verify(&key_hash, tree.root.as_ref()).is_err(), "{mutated:?}");
                }
            }
        }
    }

    #[test]
    fn absence_cannot_be_shown_of_a_key_that_is_there() {
        let tree = Tree::of(golden(30));
        let root = tree.root.as_ref();
        let Node::Bucket(heads) = tree.node(&Position::ROOT) else { panic!("30 entries are a bucket") };
        let leaves = entry_leaves(&heads);
        let present = heads[10].key_hash;
        let around = |indices: &[usize]| Proof {
            chain: Chain { levels: Vec::new() },
            entries: 27,
            tombstones: 3,
            evidence: Evidence::Absent {
                neighbours: indices
                    .iter()
                    .map(|index| Neighbour {
                        key_hash: heads[*index].key_hash,
                        entry: heads[*index].digest(),
                    })
                    .collect(),
                index: indices[0] as u32,
                siblings: prove(&leaves, indices),
            },
        };
        // Two that are not next to each other, one that is not at the end, and the key itself.
        assert_eq!(
            around(&[9, 11]).verify(&present, root),
            Err(InvalidProof::Chain(InvalidChain::Root)),
            "shown as neighbours, they make another root"
        );
        assert_eq!(around(&[9]).verify(&present, root), Err(InvalidProof::Neighbours));
        assert_eq!(around(&[11]).verify(&present, root), Err(InvalidProof::Neighbours));
        assert_eq!(around(&[9, 10]).verify(&present, root), Err(InvalidProof::Neighbours));
        assert_eq!(around(&[10]).verify(&present, root), Err(InvalidProof::Neighbours));
        assert_eq!(around(&[9, 10, 11]).verify(&present, root), Err(InvalidProof::Neighbours));
    }

    #[test]
    fn in_an_empty_tree_every_key_is_absent() {
        let key_hash = head(1, 1).key_hash;
        let proof = Proof::build(&[Node::empty_bucket()], &key_hash).unwrap();
        assert_eq!(proof.verify(&key_hash, None), Ok(Verdict::Absent));
        let tree = Tree::of(golden(1));
        assert_eq!(proof.verify(&key_hash, tree.root.as_ref()), Err(InvalidProof::Chain(InvalidChain::Root)));
    }

    #[test]
    fn a_path_that_leads_elsewhere_makes_no_proof() {
        let tree = Tree::of(golden(100));
        let key_hash = head(1, 1).key_hash;
        let path = tree.path(&key_hash);
        assert_eq!(Proof::build(&path[..1], &key_hash), Err(InvalidPath));
        assert_eq!(Proof::build(&[] as &[Node], &key_hash), Err(InvalidPath));
        let reversed: Vec<&Node> = path.iter().rev().collect();
        assert_eq!(Proof::build(&reversed, &key_hash), Err(InvalidPath));
    }

    /// At a million keys most buckets hang four levels deep: those of a smaller tree stand in for them.
    #[test]
    fn a_proof_stays_near_a_kibibyte() {
        let level = 16 + 4 * 32;
        let tree = Tree::of(golden(4_000));
        for number in (0..4_100).step_by(50) {
            let key_hash = head(number, 0).key_hash;
            let proof = Proof::build(&tree.path(&key_hash), &key_hash).unwrap();
            assert!(proof.chain.levels.len() <= 3);
            assert!(size(&proof) + (4 - proof.chain.levels.len()) * level <= 1_024, "{}", size(&proof));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn proofs_of_any_tree_verify_and_their_mutations_do_not(
            heads in arb_heads(150),
            stranger in arb_key_hash(),
            pick in any::<prop::sample::Index>(),
            bit in 0_usize..256,
        ) {
            let tree = Tree::of(heads.clone());
            let mut keys = vec![stranger];
            if !heads.is_empty() {
                keys.push(heads[pick.index(heads.len())].key_hash);
            }
            for key_hash in keys {
                let proof = Proof::build(&tree.path(&key_hash), &key_hash).unwrap();
                let expected = tree.get(&key_hash).map_or(Verdict::Absent, Verdict::Included);
                prop_assert_eq!(proof.verify(&key_hash, tree.root.as_ref()), Ok(expected));
                for mutated in mutations(&proof, bit) {
                    prop_assert!(mutated.verify(&key_hash, tree.root.as_ref()).is_err());
                }
            }
        }
    }
}
