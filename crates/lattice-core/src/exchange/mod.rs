//! What the one who pulls asks, and what the one who serves answers.
//!
//! The same questions travel over libp2p and over HTTP, inside signed envelopes ([`crate::signed`]). Serving
//! is stateless: every answer carries the seal that it stands on, and pages come with the chains of digests from
//! the root, so that each answer is provable without any other.
//!
//! What both have costs as little as can be: the asker names it by digests that are cut short, and the answer says
//! in a bit whether it is so. A cut digest that begins alike by accident shows at once, since the node does not
//! rebuild to what was signed.

mod invalid;
mod page;
mod walk;

use crate::model::{Digest, Entry, EntryHead, Epoch, KeyHash};
use crate::signed::{SignedAnnouncement, SignedSeal};
use crate::time::WallTime;
use crate::tree::{BUCKET_ENTRIES_MAX, Chain, Chains, FANOUT, Position, Summary};

pub use invalid::InvalidAnswer;
pub use walk::Anchor;

/// The most positions in one walk, and buckets in one fetch.
pub const POSITIONS_MAX: usize = 1_024;
/// The most positions that are asked with whole digests, so that no question grows large.
pub const WHOLE_POSITIONS_MAX: usize = 64;
/// The most entries that one fetch asks for by key.
pub const KEYS_MAX: usize = 1_024;
/// The most entries that one answer brings, those of which it only tells the head included.
pub const FETCH_ENTRIES_MAX: usize = 4_096;
/// The longest entry, in encoded bytes, that an answer brings unasked. Of a longer one it tells the head, and the
/// asker, who may have it already, asks by key.
pub const INLINE_BYTES_MAX: usize = 4_096;
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
    /// What these buckets hold that I lack, at `epoch` (`None`: your newest seal).
    Fetch {
        /// The seal that the buckets were learned under.
        epoch: Option<Epoch>,
        /// At most [`POSITIONS_MAX`], with [`KEYS_MAX`] keys between them. None lies below another.
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
    /// What the asker knows of below there: these heads need not be told.
    pub known: Known,
    /// Entries that the asker lacks and wants whatever their size, in ascending order. They may be known.
    pub keys: Vec<KeyHash>,
}

/// The digests of up to [`BUCKET_ENTRIES_MAX`] entries, in order of key hash, truncated to save bytes. A collision
/// shows as a bucket that does not rebuild; the asker then asks again with whole digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    width: u8,
    bytes: Vec<u8>,
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
        /// From the root down to all of them.
        chains: Chains,
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
    /// A bucket, or nothing (an empty one): what it holds is for a fetch.
    Bucket,
}

/// One bucket of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where.
    pub position: Position,
    /// What is there.
    pub bucket: PageBucket,
}

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageBucket {
    /// All that the bucket holds, each of it in one of three ways.
    Entries {
        /// Bit *i* is set when the *i*th of the entries that the asker knows is in the bucket, and is not among
        /// `entries`.
        known: u32,
        /// Whole, in order of key hash: what the asker does not know, and what it wants.
        entries: Vec<Entry>,
        /// In order of key hash: what the asker does not know, and what is too long to come unasked.
        heads: Vec<EntryHead>,
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

impl Known {
    /// Truncates the digests of `heads`, of which there are at most [`BUCKET_ENTRIES_MAX`], to `width` bytes (1 to
    /// 32).
    pub fn truncate(heads: &[EntryHead], width: usize) -> Self {
        debug_assert!(heads.len() <= BUCKET_ENTRIES_MAX, "a bucket's heads are named");
        let width = width.clamp(1, Digests::WIDTH_MAX);
        let bytes = heads.iter().flat_map(|head| head.digest().0.into_iter().take(width)).collect();
        Self { width: width as u8, bytes }
    }

    /// Parses digests of `width` bytes each.
    pub fn parse(width: usize, bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let fits = (1..=Digests::WIDTH_MAX).contains(&width) && bytes.len().is_multiple_of(width);
        (fits && bytes.len() / width <= BUCKET_ENTRIES_MAX)
            .then(|| Self { width: width as u8, bytes: bytes.to_vec() })
    }

    /// Bytes per digest; 0 when there is none.
    pub fn width(&self) -> usize {
        if self.bytes.is_empty() { 0 } else { usize::from(self.width) }
    }

    /// All of them, one after the other.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Which of them begins like `digest`; the first of several.
    pub fn find(&self, digest: &Digest) -> Option<usize> {
        let width = self.width().max(1);
        self.bytes.chunks_exact(width).position(|known| *known == digest.0[..width])
    }
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
    fn what_is_known_is_found_by_how_it_begins() {
        let mut heads = golden(32);
        heads.sort_by_key(|head| head.key_hash);
        for width in [4, 32] {
            let known = Known::truncate(&heads, width);
            assert_eq!((known.width(), known.as_bytes().len()), (width, 32 * width));
            assert_eq!(Known::parse(width, known.as_bytes()), Some(known.clone()));
            assert!(heads.iter().enumerate().all(|(at, head)| known.find(&head.digest()) == Some(at)));
            assert_eq!(known.find(&Digest([0xab; 32])), None);
        }
        let none = Known::truncate(&[], 4);
        assert_eq!((none.width(), none.find(&heads[0].digest())), (0, None));
        assert_eq!(Known::parse(0, &[]), Some(Known::default()));
        for (width, length) in [(0, 4), (4, 6), (33, 33), (4, 33 * 4)] {
            assert_eq!(Known::parse(width, &vec![0; length]), None, "{width}, {length}");
        }
    }

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
