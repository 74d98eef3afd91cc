//! What travels between simulated nodes: the real bytes of everything that is signed.

use bytes::Bytes;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;

use super::network::{Class, Way};

/// Names a question of one node; never used twice by it.
pub type QuestionId = u64;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A signed announcement, on a P2P stream of its own.
    Announcement(Signed),
    /// An encoded delta, by gossip; gossip itself vouches for the writer.
    Delta {
        /// Who signed it.
        writer: NodeId,
        /// The encoded delta.
        bytes: Bytes,
    },
    /// A signed request.
    Request {
        /// Of the asker.
        question: QuestionId,
        /// The envelope.
        envelope: Signed,
    },
    /// `GET /api/lattice/state`.
    GetState {
        /// Of the asker.
        question: QuestionId,
    },
    /// The answer to either: a signed envelope or announcement, or why there is none.
    Answer {
        /// Of the asker.
        question: QuestionId,
        /// What came.
        outcome: Result<Signed, String>,
    },
}

impl Message {
    /// What it is to the network.
    pub fn class(&self) -> Class {
        match self {
            Self::Announcement(_) => Class::Ordered,
            Self::Delta { .. } => Class::Delta,
            Self::Request { .. } | Self::GetState { .. } => Class::Request,
            Self::Answer { .. } => Class::Answer,
        }
    }

    /// A number for its kind, and bytes that tell it from others: for the trace.
    pub fn mark(&self) -> (u8, &[u8]) {
        match self {
            Self::Announcement(signed) => (0, &signed.signature),
            Self::Delta { bytes, .. } => (1, bytes),
            Self::Request { envelope, .. } => (2, &envelope.signature),
            Self::GetState { .. } => (3, &[]),
            Self::Answer { outcome: Ok(signed), .. } => (4, &signed.signature),
            Self::Answer { outcome: Err(reason), .. } => (5, reason.as_bytes()),
        }
    }
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    /// To which node.
    pub to: usize,
    /// By which way.
    pub way: Way,
    /// What.
    pub message: Message,
}
