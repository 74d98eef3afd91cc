//! Why an answer is refused.

use crate::tree::{InvalidChain, InvalidNode};

/// Why a server's answer is not what hangs in its sealed tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnswer {
    /// The children sent are not as many as those not said to be equal.
    #[error("shape has {count} children beside those that are equal: it takes {expected}")]
    Children {
        /// How many were sent.
        count: usize,
        /// How many there should be.
        expected: usize,
    },
    /// Children are said to equal ours, but we named none.
    #[error("shape has children equal to ours, but we named none")]
    EqualToNothing,
    /// An inner node where a whole key hash is spelled out.
    #[error("inner node at the deepest position")]
    TooDeep,
    /// No node of a tree looks like this.
    #[error("node: {0}")]
    Node(#[from] InvalidNode),
    /// The node is not the one that its parent commits to. When our digests were truncated, two of them may
    /// have begun alike: the asker asks again with whole ones before it believes the worst.
    #[error("node is not the one that its parent commits to")]
    Digest,
    /// A chain where none belongs, or none where one does.
    #[error("chain is missing, or given beside the seal asked for")]
    ChainPresence,
    /// The chain does not lead to the root; [`InvalidChain::Root`] may, like [`Self::Digest`], come of
    /// truncated digests.
    #[error("chain: {0}")]
    Chain(#[from] InvalidChain),
    /// Another place than the one asked for.
    #[error("position is not the one asked for")]
    Position,
    /// A bucket is said to be where more hangs than a bucket holds.
    #[error("a bucket is said to be where more than 32 entries hang")]
    NoBucket,
    /// Entries out of order, or one of them twice.
    #[error("entries or heads[{index}] does not lie after the one before it")]
    NotAscending {
        /// Its place in the page.
        index: usize,
    },
    /// An entry without its value, although it never expires.
    #[error("entries[{index}] lacks its value, but never expires")]
    Withheld {
        /// Its place in the page.
        index: usize,
    },
}
