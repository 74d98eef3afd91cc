//! What the gRPC service asks of the network loop.

use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::sensor::v1::ServeResponse;
use std::collections::BTreeSet;
use tokio::sync::{mpsc, oneshot};

use crate::desk::CallerId;

/// Commands that wait for the loop; their senders wait beyond that.
pub(crate) const COMMANDS_MAX: usize = 256;

/// One thing to do. A reply that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send an announcement to one connected peer, or to all. Replies with how many.
    Announce { announcement: Signed, to: Option<NodeId>, reply: oneshot::Sender<u32> },
    /// Publish a delta. Replies whether anybody subscribes.
    Broadcast { delta: Vec<u8>, reply: oneshot::Sender<bool> },
    /// Ask a peer.
    Exchange { node: NodeId, request: Signed, reply: oneshot::Sender<Result<Signed, ExchangeError>> },
    /// A caller answers peers' requests from now on.
    Serve { caller: CallerId, requests: mpsc::Sender<ServeResponse> },
    /// An answer of a caller; `None` when it has none.
    Answer { caller: CallerId, id: u64, response: Option<Signed> },
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
