//! The canonical 16-way Merkle tree over entries, and proofs against its root.
//!
//! A radix tree over SHA-256(key): a node is a bucket exactly when its subtree holds at most
//! [`BUCKET_ENTRIES_MAX`] entries, else it has [`FANOUT`] children. The same entries therefore make the same
//! tree, whatever the order they came in, and two trees are compared by comparing digests at positions.
//!
//! A [`Summary`] is a node's as its parent commits to it. What is sealed, announced and proved against is the
//! *root*: the topmost node's summary, its digest wrapped once more in a domain of its own ([`root_of`]), so
//! that no node further down ever passes for a root.

mod chain;
mod chains;
mod evidence;
#[cfg(test)]
pub(crate) mod fixture;
mod hasher;
mod node;
mod position;
mod proof;
mod summary;
mod update;

pub use chain::{Chain, InvalidChain, Level, SIBLINGS};
pub use chains::{Branch, Chains};
pub use evidence::{Evidence, Neighbour};
pub use node::{InvalidNode, Node};
pub use position::{InvalidPosition, Position};
pub use proof::{InvalidPath, InvalidProof, Proof, Verdict};
pub use summary::Summary;
pub use update::{Applied, ApplyError, apply};

/// The children of an inner node.
pub const FANOUT: usize = 16;

/// The most entries (tombstones included) that a bucket holds.
pub const BUCKET_ENTRIES_MAX: usize = 32;

/// The root over the topmost node; `None` when it holds nothing, since an empty tree has no root.
pub fn root_of(top: &Summary) -> Option<Summary> {
    (top.total() > 0).then(|| Summary { digest: hasher::root_digest(top), ..*top })
}
