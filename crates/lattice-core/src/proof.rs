//! What a node hands out to prove what its sealed tree holds of a key: the signed seal, the entry, and the way
//! between them.
//!
//! It is believed for its signature and its digests alone, whoever handed it over. The tree's part is
//! [`crate::tree::Proof`]; how it travels is the codec's business.

use crate::model::{Entry, Epoch, Key, NodeId};
use crate::signed::{BadSignature, SignedSeal};
use crate::tree::{InvalidProof, Proof, Verdict};

/// A proof that a node's tree, as it sealed it, holds this entry of a key, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedProof {
    /// The key.
    pub key: Key,
    /// What the node signed of its tree.
    pub seal: SignedSeal,
    /// The entry, which may be a deletion, have expired, or have lost its value; `None`: there is none.
    pub entry: Option<Entry>,
    /// From the entry, or its absence, to the seal's root.
    pub proof: Proof,
}

/// Why a proof is not true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// Another node's seal.
    #[error("seal is of node {got}, not {expected}")]
    Signer {
        /// Whose seal it was to be.
        expected: NodeId,
        /// Whose it says it is.
        got: NodeId,
    },
    /// Another cluster's seal.
    #[error("seal is of cluster {got:?}, not {expected:?}")]
    Cluster {
        /// Which cluster's it was to be.
        expected: String,
        /// Which it says.
        got: String,
    },
    /// The node did not sign this seal.
    #[error("seal: {0}")]
    Signature(#[from] BadSignature),
    /// The way does not lead from the key to the seal's root.
    #[error("proof: {0}")]
    Proof(#[from] InvalidProof),
    /// It answers a question about another key.
    #[error("proof is of key {got}, not {expected}")]
    Key {
        /// The key that was asked for.
        expected: Key,
        /// The one that it tells of.
        got: Key,
    },
    /// It stands on another seal than was asked for.
    #[error("proof is of epoch {got}, not {expected}")]
    Epoch {
        /// The epoch that was asked for.
        expected: Epoch,
        /// The one whose seal it stands on.
        got: Epoch,
    },
    /// What is proved is something else than the entry, or its absence.
    #[error("entry is not what is proved")]
    Entry,
}

impl SealedProof {
    /// Checks that `signer` sealed a tree that holds the entry, or none; of `cluster`, when one is named. What it then
    /// says, it says of [`Self::key`]: whoever asked for a key compares, or calls [`Self::answers`].
    ///
    /// # Errors
    /// [`Untrue`], the first reason found.
    pub fn verify(&self, signer: &NodeId, cluster: Option<&str>) -> Result<(), Untrue> {
        let seal = &self.seal.seal;
        if seal.node != *signer {
            return Err(Untrue::Signer { expected: *signer, got: seal.node });
        }
        if let Some(expected) = cluster.filter(|expected| *expected != seal.cluster) {
            return Err(Untrue::Cluster { expected: expected.to_owned(), got: seal.cluster.clone() });
        }
        self.seal.verify()?;
        let verdict = self.proof.verify(&self.key.hash(), seal.root.as_ref())?;
        let same = match (&self.entry, verdict) {
            (Some(entry), Verdict::Included(head)) => entry.key == self.key && entry.head() == head,
            (None, Verdict::Absent) => true,
            (Some(_), Verdict::Absent) | (None, Verdict::Included(_)) => false,
        };
        if same { Ok(()) } else { Err(Untrue::Entry) }
    }

    /// Checks that this is about `key`, and stands on the seal of `epoch`, when one is named. One absence proves that of
    /// every key between two neighbours: without this, the answer to one question could be given to another.
    ///
    /// # Errors
    /// [`Untrue::Key`] or [`Untrue::Epoch`].
    pub fn answers(&self, key: &Key, epoch: Option<Epoch>) -> Result<(), Untrue> {
        if self.key != *key {
            return Err(Untrue::Key { expected: key.clone(), got: self.key.clone() });
        }
        let got = self.seal.seal.epoch;
        match epoch.filter(|expected| *expected != got) {
            Some(expected) => Err(Untrue::Epoch { expected, got }),
            None => Ok(()),
        }
    }
}
