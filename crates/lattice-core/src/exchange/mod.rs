//! What the one who pulls asks, and what the one who serves answers.
//!
//! The same questions travel over libp2p and over HTTP, inside signed envelopes ([`crate::signed`]). Serving
//! is stateless: every answer carries the seal that it stands on, and pages carry the chain of digests from
//! the root, so that each is provable alone.

mod invalid;
mod page;
mod walk;

use crate::model::{Digest, Entry, EntryHead, Epoch, KeyHash};
use crate::signed::{SignedAnnouncement, SignedSeal};
use crate::time::WallTime;
use crate::tree::{Chain, FANOUT, Position, Summary};

pub use invalid::InvalidAnswer;
pub use walk::Anchor;

/// The most positions in one walk, and buckets in one fetch.
pub const POSITIONS_MAX: usize = 256;
/// The most entries asked for in one fetch.
pub const FETCH_ENTRIES_MAX: usize = 1_024;
/// The most bytes of an answer's entries before the server leaves the rest for the next question. The first
/// entry is always included, so that any value fits.
pub const ANSWER_BYTES_MAX: usize = 2 << 20;
/// The most bytes of a whole envelope, request or response; beyond it nothing is parsed.
pub const ENVELOPE_BYTES_MAX: usize = 4 << 20;

/// A question from the one who pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The asker's announcement; set on the first request of a pull and on a hello.
    pub announcement: Option<SignedAnnouncement>,
    /// The pull that this request belongs to; `None` outside of one.
    pub pull: Option<PullPart>,
    /// The question.
    pub ask: Ask,
}

/// Where a request stands in its pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullPart {
    /// Chosen by the asker, the same throughout the pull.
    pub id: u64,
    /// The pull answers one of the receiver's own, and is not answered in kind itself.
    pub in_kind: bool,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who are you, now? Proves the responder's key and incarnation.
    Hello,
    /// What differs below these positions, at `epoch` (`None`: your newest seal)?
    Walk {
        /// The seal that the positions were learned under.
        epoch: Option<Epoch>,
        /// At most [`POSITIONS_MAX`].
        nodes: Vec<WalkAsk>,
    },
    /// The entries of these buckets, at `epoch` (`None`: your newest seal).
    Fetch {
        /// The seal that the buckets were learned under.
        epoch: Option<Epoch>,
        /// At most [`POSITIONS_MAX`], with [`FETCH_ENTRIES_MAX`] entries between them.
        buckets: Vec<FetchAsk>,
    },
    /// The pull has ended; the one asked may pull in its turn.
    Bye,
}

/// One position of a walk, with what the asker has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkAsk {
    /// Where.
    pub position: Position,
    /// The asker's own child digests, each truncated to [`Digests::width`]; `None` when it has no inner node
    /// there.
    pub mine: Option<Digests>,
}

/// Sixteen child digests, truncated to save bytes. A collision shows as a parent that does not rebuild; the
/// asker then asks again with whole digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    width: u8,
    bytes: Vec<u8>,
}

/// One bucket of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchAsk {
    /// Where the bucket hangs.
    pub position: Position,
    /// The entries that the asker lacks, in ascending order.
    pub keys: Vec<KeyHash>,
}

/// What a server says to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// A challenge for the asker's next request, if it has none left.
    pub next_challenge: Vec<u8>,
    /// The server's clock, signed with the rest.
    pub time: WallTime,
    /// The answer.
    pub answer: Answer,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a hello.
    Hello {
        /// The greatest sequence heard from the asker under this incarnation; 0 for none.
        heard_sequence: u64,
        /// The greatest epoch heard from the asker under this incarnation; 0 for none.
        heard_epoch: Epoch,
    },
    /// To a walk.
    Walk {
        /// The seal that the answer stands on: the one asked for, or a newer one.
        seal: SignedSeal,
        /// In the order asked, a leading part of it when the answer would grow too large; never empty.
        nodes: Vec<WalkNode>,
    },
    /// To a fetch.
    Fetch {
        /// The seal that the answer stands on: the one asked for, or a newer one.
        seal: SignedSeal,
        /// In the order asked, a leading part of it when the answer would grow too large; never empty.
        pages: Vec<Page>,
    },
    /// To a bye.
    Bye,
    /// The request was not answered.
    Refused(Refusal),
}

/// One position of a walk, as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkNode {
    /// Where.
    pub position: Position,
    /// From the root down to here; set exactly when the seal is not the one asked for.
    pub chain: Option<Chain>,
    /// What is there.
    pub shape: Shape,
}

/// What hangs at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An inner node.
    Inner {
        /// Bit *i* is set when child *i* equals what the asker said it has there.
        equal: u16,
        /// The other children, in order.
        others: Vec<Summary>,
    },
    /// A bucket, or nothing (an empty one): its entries' heads, in order of key hash.
    Bucket(Vec<EntryHead>),
}

/// One bucket of a fetch, provable alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where.
    pub position: Position,
    /// From the root down to here.
    pub chain: Chain,
    /// What is there.
    pub bucket: PageBucket,
}

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageBucket {
    /// The bucket's heads, and those of the entries asked for that fit.
    Entries {
        /// All of the bucket, in order of key hash.
        heads: Vec<EntryHead>,
        /// Of the entries asked for, a leading part when the answer would grow too large.
        entries: Vec<Entry>,
    },
    /// The bucket has split since: an inner node with these children.
    Split(Vec<Summary>),
}

/// Why a request was not answered. A refusal is signed like any answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for programs.
    pub reason: Reason,
    /// The reason, for people: what was wrong, and what would be right.
    pub detail: String,
}

/// The reasons for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The challenge is missing, spent or too old; [`Response::next_challenge`] holds a fresh one.
    Challenge,
    /// The sender is not a trusted key here.
    Untrusted,
    /// The envelope is for another cluster.
    Cluster,
    /// The envelope is for another node.
    Receiver,
    /// The sender's incarnation was replaced by a newer one.
    Incarnation,
    /// The signature does not cover these bytes.
    Signature,
    /// The bytes are not a well-formed request.
    Malformed,
    /// There is nothing to offer: the tree is empty, or nothing is sealed yet.
    Empty,
    /// Too much is going on; ask later.
    Busy,
    /// The store cannot answer now.
    Unavailable,
}

impl Digests {
    /// The widest: whole digests.
    pub const WIDTH_MAX: usize = 32;

    /// Truncates the digests of the sixteen children to `width` bytes (1 to 32).
    pub fn truncate(children: &[Summary; FANOUT], width: usize) -> Self {
        let width = width.clamp(1, Self::WIDTH_MAX);
        let bytes = children.iter().flat_map(|child| child.digest.0[..width].iter().copied()).collect();
        Self { width: width as u8, bytes }
    }

    /// Parses sixteen digests of equal width.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let width = bytes.len() / FANOUT;
        let exact = bytes.len().is_multiple_of(FANOUT);
        (exact && (1..=Self::WIDTH_MAX).contains(&width))
            .then(|| Self { width: width as u8, bytes: bytes.to_vec() })
    }

    /// Bytes per digest.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// All sixteen, one after the other.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether child `index` (0 to 15) begins like `digest`.
    pub fn matches(&self, index: usize, digest: &Digest) -> bool {
        let width = self.width();
        self.bytes.get(index * width..(index + 1) * width) == Some(&digest.0[..width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;
    use crate::tree::fixture::{Tree, golden};

    #[test]
    fn digests_are_truncated_and_compared_alike() {
        let tree = Tree::of(golden(300));
        let Node::Inner(mine) = tree.node(&Position::ROOT) else { panic!("300 entries take an inner node") };
        for width in [1, 8, 32] {
            let digests = Digests::truncate(&mine, width);
            assert_eq!((digests.width(), digests.as_bytes().len()), (width, 16 * width));
            assert_eq!(Digests::parse(digests.as_bytes()), Some(digests.clone()));
            for (index, child) in mine.iter().enumerate() {
                assert!(digests.matches(index, &child.digest));
                assert!(!digests.matches(index, &Digest([child.digest.0[0] ^ 1; 32])));
            }
            assert!(!digests.matches(FANOUT, &mine[0].digest));
        }
        for length in [0, 15, 17, 33 * 16] {
            assert_eq!(Digests::parse(&vec![0; length]), None, "{length}");
        }
    }
}
