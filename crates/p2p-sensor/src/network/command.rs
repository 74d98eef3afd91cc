//! What the gRPC service asks of the network loop.
//!
//! What carries a payload also carries its [`Room`]: the bytes that wait for the loop are bounded, each kind for
//! itself, so that deltas never crowd requests out.

use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::sensor::v1::ServeResponse;
use std::collections::BTreeSet;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::desk::CallerId;

/// Commands that wait for the loop; their senders wait beyond that.
pub(crate) const COMMANDS_MAX: usize = 256;
/// Bytes of deltas that wait for the loop; one more is refused.
pub(crate) const DELTAS_BYTES_MAX: usize = 8 << 20;
/// Bytes of requests that wait for the loop or for their answers; one more is refused.
pub(crate) const REQUESTS_BYTES_MAX: usize = 64 << 20;
/// Bytes of answers that wait for the loop; whoever brings more waits.
pub(crate) const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// The share of a payload in what may wait; given back when it is dropped.
pub(crate) type Room = OwnedSemaphorePermit;

/// One thing to do. A reply that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send an announcement to one connected peer, or to all. Replies with how many.
    Announce { announcement: Signed, to: Option<NodeId>, reply: oneshot::Sender<u32> },
    /// Publish a delta. Replies whether anybody subscribes.
    Broadcast { delta: Vec<u8>, room: Room, reply: oneshot::Sender<bool> },
    /// Ask a peer.
    Exchange {
        node: NodeId,
        request: Signed,
        room: Room,
        reply: oneshot::Sender<Result<Signed, ExchangeError>>,
    },
    /// A caller answers peers' requests from now on.
    Serve { caller: CallerId, requests: mpsc::Sender<ServeResponse> },
    /// An answer of a caller; `None` when it has none.
    Answer { caller: CallerId, id: u64, response: Option<Signed>, room: Room },
    /// A caller is gone.
    CallerGone { caller: CallerId },
    /// The effective trusted keys.
    SetTrust { trusted: BTreeSet<NodeId>, reply: oneshot::Sender<()> },
}

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the peer is not connected")]
    NotConnected,
    #[error("too many requests to the peer are in flight")]
    Busy,
    #[error("the peer did not answer in time")]
    TimedOut,
    #[error("nobody answers at the peer")]
    Unanswered,
    #[error("the connection to the peer failed: {0}")]
    Failed(String),
}
