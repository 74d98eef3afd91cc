//! The part of a proof that lies within the key's bucket.
//!
//! For inclusion, the entry's head and its place. For absence, the leaves between which the key would lie:
//! since a bucket is in order of key hash, two that follow each other leave no room for a third.

use super::hasher::{Hash, entry_leaf, entry_leaves, prove, root_from_proof};
use super::{InvalidProof, Position, Verdict};
use crate::model::{Digest, EntryHead, KeyHash};

/// What a proof shows of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The key's entry.
    Included {
        /// What the tree commits to of it.
        head: EntryHead,
        /// Its place in the bucket.
        index: u32,
        /// The hashes that prove it.
        siblings: Vec<Digest>,
    },
    /// The neighbours between which the key would lie.
    Absent {
        /// None in an empty bucket; the first entry alone if the key would lie before it, the last alone if
        /// after it; else two that follow each other.
        neighbours: Vec<Neighbour>,
        /// The first neighbour's place in the bucket; 0 without any.
        index: u32,
        /// The hashes that prove them.
        siblings: Vec<Digest>,
    },
}

/// A leaf of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The entry's place in the tree.
    pub key_hash: KeyHash,
    /// The entry's digest.
    pub entry: Digest,
}

impl Evidence {
    pub(super) fn build(heads: &[EntryHead], key_hash: &KeyHash) -> Self {
        let leaves = entry_leaves(heads);
        let as_index = |index: usize| u32::try_from(index).expect("a bucket holds at most 32 entries");
        match heads.binary_search_by_key(key_hash, |head| head.key_hash) {
            Ok(index) => Self::Included {
                head: heads[index],
                index: as_index(index),
                siblings: prove(&leaves, &[index]),
            },
            Err(_) if heads.is_empty() => {
                Self::Absent { neighbours: Vec::new(), index: 0, siblings: Vec::new() }
            }
            Err(place) => {
                let shown = place.saturating_sub(1)..(place + 1).min(heads.len());
                let indices: Vec<usize> = shown.clone().collect();
                let neighbour =
                    |head: &EntryHead| Neighbour { key_hash: head.key_hash, entry: head.digest() };
                Self::Absent {
                    neighbours: heads[shown.clone()].iter().map(neighbour).collect(),
                    index: as_index(shown.start),
                    siblings: prove(&leaves, &indices),
                }
            }
        }
    }

    /// What this shows of a key in the bucket of `total` entries at `position`, and the root of the bucket's
    /// leaves that it stands on.
    pub(super) fn verify(
        &self,
        key_hash: &KeyHash,
        position: &Position,
        total: usize,
    ) -> Result<(Verdict, Hash), InvalidProof> {
        match self {
            Self::Included { head, index, siblings } => {
                if head.key_hash != *key_hash {
                    return Err(InvalidProof::Key);
                }
                let leaf = entry_leaf(&head.key_hash, &head.digest());
                let root = root_from_proof(siblings, &[*index as usize], &[leaf], total)
                    .ok_or(InvalidProof::Shape)?;
                Ok((Verdict::Included(*head), root))
            }
            Self::Absent { neighbours, index, siblings } => {
                let first = *index as usize;
                let encloses = match neighbours.as_slice() {
                    [] => total == 0 && first == 0,
                    [only] if only.key_hash > *key_hash => first == 0,
                    [only] => only.key_hash < *key_hash && first + 1 == total,
                    [before, after] => before.key_hash < *key_hash && *key_hash < after.key_hash,
                    _ => false,
                };
                if !encloses || neighbours.iter().any(|neighbour| !position.covers(&neighbour.key_hash)) {
                    return Err(InvalidProof::Neighbours);
                }
                if neighbours.is_empty() {
                    return if siblings.is_empty() {
                        Ok((Verdict::Absent, [0; 32]))
                    } else {
                        Err(InvalidProof::Shape)
                    };
                }
                let indices: Vec<usize> = (first..first + neighbours.len()).collect();
                let leaves: Vec<Hash> = neighbours
                    .iter()
                    .map(|neighbour| entry_leaf(&neighbour.key_hash, &neighbour.entry))
                    .collect();
                let root = root_from_proof(siblings, &indices, &leaves, total).ok_or(InvalidProof::Shape)?;
                Ok((Verdict::Absent, root))
            }
        }
    }
}
