//! How the tree hashes: every kind of node in a domain of its own, every digest over its counts.
//!
//! `rs_merkle` builds and checks the small trees inside a node (over a bucket's entries, or over sixteen
//! children). It separates no domains, takes the number of leaves on trust, and its verification accepts
//! duplicate indices, trailing hashes and wrong totals. So the domains are here, counts go into the digests,
//! and [`root_from_proof`] checks the shape of a proof before `rs_merkle` is asked.
//!
//! An odd node at the end of a layer is promoted as it is. That is sound only because the number of leaves is
//! bound by the digest above.

use rs_merkle::{Hasher as _, MerkleProof, MerkleTree};

use super::{FANOUT, Summary};
use crate::model::{Digest, EntryHead, KeyHash};

/// The hash of a node inside the small trees.
pub(super) type Hash = [u8; 32];

const ENTRY: u8 = 0x00;
const CONCAT: u8 = 0x01;
const BUCKET: u8 = 0x02;
const CHILD: u8 = 0x03;
const INNER: u8 = 0x04;
const ROOT: u8 = 0x05;

/// SHA-256 with our domains, for `rs_merkle`.
#[derive(Clone)]
struct Hasher;

impl rs_merkle::Hasher for Hasher {
    type Hash = Hash;

    /// A leaf of a bucket.
    fn hash(data: &[u8]) -> Hash {
        Digest::of(&[&[ENTRY], data]).0
    }

    fn concat_and_hash(left: &Hash, right: Option<&Hash>) -> Hash {
        right.map_or(*left, |right| Digest::of(&[&[CONCAT], left, right]).0)
    }
}

/// The leaf of an entry in its bucket.
pub(super) fn entry_leaf(key_hash: &KeyHash, entry: &Digest) -> Hash {
    let mut data = [0; 64];
    data[..32].copy_from_slice(key_hash.0.as_bytes());
    data[32..].copy_from_slice(entry.as_bytes());
    Hasher::hash(&data)
}

/// The leaves of a bucket.
pub(super) fn entry_leaves(heads: &[EntryHead]) -> Vec<Hash> {
    heads.iter().map(|head| entry_leaf(&head.key_hash, &head.digest())).collect()
}

/// The leaf of a child in its parent.
pub(super) fn child_leaf(child: &Summary) -> Hash {
    Digest::of(&[
        &[CHILD],
        child.digest.as_bytes(),
        &child.entries.to_be_bytes(),
        &child.tombstones.to_be_bytes(),
    ])
    .0
}

/// The leaves of an inner node.
pub(super) fn child_leaves(children: &[Summary; FANOUT]) -> [Hash; FANOUT] {
    children.each_ref().map(child_leaf)
}

/// The digest of a bucket over the root of its leaves; of one without entries, over 32 zero bytes.
pub(super) fn bucket_digest(entries: u64, tombstones: u64, leaves_root: &Hash) -> Digest {
    Digest::of(&[&[BUCKET], &entries.to_be_bytes(), &tombstones.to_be_bytes(), leaves_root])
}

/// The digest of an inner node over the root of its sixteen leaves.
pub(super) fn inner_digest(entries: u64, tombstones: u64, leaves_root: &Hash) -> Digest {
    Digest::of(&[&[INNER], &entries.to_be_bytes(), &tombstones.to_be_bytes(), leaves_root])
}

/// The digest of a root over that of the topmost node.
pub(super) fn root_digest(top: &Summary) -> Digest {
    Digest::of(&[&[ROOT], &top.entries.to_be_bytes(), &top.tombstones.to_be_bytes(), top.digest.as_bytes()])
}

/// The root of a small tree; 32 zero bytes without leaves.
pub(super) fn leaves_root(leaves: &[Hash]) -> Hash {
    MerkleTree::<Hasher>::from_leaves(leaves).root().unwrap_or_default()
}

/// The hashes that, with the leaves at `indices` (ascending), rebuild the root of a small tree.
pub(super) fn prove(leaves: &[Hash], indices: &[usize]) -> Vec<Digest> {
    let proof = MerkleTree::<Hasher>::from_leaves(leaves).proof(indices);
    proof.proof_hashes().iter().copied().map(Digest).collect()
}

/// The root of a small tree of `total` leaves, from those at `indices` and a proof. `None` unless there is
/// at least one index, the indices ascend and lie below `total`, each has its leaf, and the proof has exactly
/// the hashes that such a proof takes.
pub(super) fn root_from_proof(
    proof: &[Digest],
    indices: &[usize],
    leaves: &[Hash],
    total: usize,
) -> Option<Hash> {
    let ascending = indices.is_sorted_by(|a, b| a < b);
    let within = indices.last().is_some_and(|last| *last < total);
    if !ascending || !within || leaves.len() != indices.len() || proof.len() != proof_len(indices, total) {
        return None;
    }
    let hashes = proof.iter().map(|hash| hash.0).collect();
    MerkleProof::<Hasher>::new(hashes).root(indices, leaves, total).ok()
}

/// How many hashes prove the leaves at `indices` (ascending, below `total`).
fn proof_len(indices: &[usize], total: usize) -> usize {
    let mut known = indices.to_vec();
    let mut layer = total;
    let mut hashes = 0;
    while layer > 1 {
        // A sibling past the end of the layer does not exist: its neighbour is promoted.
        hashes += known.iter().filter(|&&i| (i ^ 1) < layer && !known.contains(&(i ^ 1))).count();
        known.iter_mut().for_each(|index| *index /= 2);
        known.dedup();
        layer = layer.div_ceil(2);
    }
    hashes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::Node;
    use crate::tree::fixture::golden;

    fn hex(hash: &[u8]) -> String {
        hex::encode(hash)
    }

    #[test]
    fn every_domain_keeps_its_golden_value() {
        let head = golden(1)[0];
        assert_eq!(
            hex(&entry_leaf(&head.key_hash, &head.digest())),
            "cb7abbd9dc6d639d2e8fc6acf0550fa5d76fb7fc45a7d23c5666b238149ef6ec"
        );
        let mut bucket = Node::Bucket(vec![head]).summary();
        assert_eq!(
            bucket.digest.to_string(),
            "dd9f11e6c411764c78acee9cd5dbef9b1e1d86e4d9149ca041094c9710b7e3f2"
        );
        assert_eq!(
            hex(&child_leaf(&bucket)),
            "8ac1c570fc5ebe95ab65faeb2f3bca600c24b1d84b3e81192bde03d5335779ad"
        );
        assert_eq!(
            root_digest(&bucket).to_string(),
            "1cb86ef978aa45672a38aaaf965deadd8cfab312ed886b435205fb936ea56888"
        );
        assert_eq!(bucket_digest(0, 0, &leaves_root(&[])), Summary::EMPTY.digest);

        // An inner node, by its parts.
        let [left, right] = [[1; 32], [2; 32]];
        let concat = <Hasher as rs_merkle::Hasher>::concat_and_hash(&left, Some(&right));
        assert_eq!(concat, Digest::of(&[&[0x01], &left, &right]).0);
        assert_eq!(leaves_root(&[left, right]), concat);
        bucket.digest = inner_digest(1, 2, &concat);
        assert_eq!(
            bucket.digest,
            Digest::of(&[&[0x04], &[0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 2], &concat])
        );
    }

    #[test]
    fn a_proof_of_the_wrong_shape_is_refused_before_rs_merkle_sees_it() {
        let leaves: Vec<Hash> = (0..7).map(|leaf| [leaf; 32]).collect();
        let root = Some(leaves_root(&leaves));
        let proof = prove(&leaves, &[2, 3]);
        let shown = &leaves[2..4];
        assert_eq!(root_from_proof(&proof, &[2, 3], shown, 7), root);

        let mut trailing = proof.clone();
        trailing.push(Digest::default());
        assert_eq!(root_from_proof(&trailing, &[2, 3], shown, 7), None);
        assert_eq!(root_from_proof(&proof[1..], &[2, 3], shown, 7), None);
        assert_eq!(root_from_proof(&proof, &[3, 2], &[shown[1], shown[0]], 7), None);
        assert_eq!(root_from_proof(&proof, &[2, 2], &[shown[0], shown[0]], 7), None);
        assert_eq!(root_from_proof(&proof, &[2, 3], &shown[..1], 7), None);
        assert_eq!(root_from_proof(&proof, &[6, 7], shown, 7), None);
        assert_eq!(root_from_proof(&[], &[], &[], 7), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_leaf_or_two_neighbours_are_proved_by_the_expected_hashes(
            total in 1_usize..=32, first in 0_usize..32, both in any::<bool>(),
        ) {
            let first = first % total;
            let leaves: Vec<Hash> = (0..total).map(|leaf| [leaf as u8; 32]).collect();
            let indices: Vec<usize> =
                (first..=first + usize::from(both)).filter(|index| *index < total).collect();
            let shown: Vec<Hash> = indices.iter().map(|index| leaves[*index]).collect();
            let proof = prove(&leaves, &indices);
            prop_assert_eq!(proof.len(), proof_len(&indices, total));
            prop_assert_eq!(root_from_proof(&proof, &indices, &shown, total), Some(leaves_root(&leaves)));
        }
    }
}
