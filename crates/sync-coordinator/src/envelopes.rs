//! The asking side of signed envelopes: one question to one peer, one answer that is proved to be its own.
//!
//! A request carries a challenge that the receiver issued; each answer hands us one for the next request. We
//! keep a few of them for each peer. Without one, or with one that is spent or too old (the peer's store was
//! restarted), the first try is refused, the refusal brings a fresh one, and the question is asked once more.
//! What carries the envelopes does not matter here: the same bytes travel over libp2p and over HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lattice_core::exchange::{Answer, Reason, Request, Response};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::signed::Signed;
use lattice_proto::codec::{self, Header, ResponseChecks, ResponseError};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{entropy, trace};

use crate::http::{ExchangeError, TransportError};

/// Challenges kept for one peer: a pull asks one thing at a time, and a hello may fall beside it.
const CHALLENGES_PER_PEER_MAX: usize = 4;

/// Peers for whom challenges are kept; beyond them the first one's are forgotten, and cost it one refusal.
const PEERS_MAX: usize = lattice_runtime::identity::MEMBERS_MAX;

/// Asks in this node's name.
pub struct Asker {
    key: Arc<NodeKey>,
    node: NodeId,
    cluster: String,
    challenges: Mutex<BTreeMap<NodeId, VecDeque<Bytes>>>,
}

/// Who is asked, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// Our store's incarnation.
    pub ours: Incarnation,
    /// Whom we ask.
    pub peer: NodeId,
    /// Its incarnation, as far as we know; `None` when any will do.
    pub theirs: Option<Incarnation>,
}

/// An answer that was proved to be the peer's own, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What it says; also when it is a refusal.
    pub response: Response,
    /// Which of the peer's stores says so.
    pub incarnation: Incarnation,
    /// Bytes of the envelopes that came, those of a refused first try included.
    pub bytes_in: u64,
    /// Bytes of the envelopes that went.
    pub bytes_out: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing came in time.
    #[error("{0}")]
    TimedOut(String),
    /// The path failed.
    #[error("{0}")]
    Lost(String),
    /// Something came that the peer did not say, or did not say to this question.
    #[error("{0}")]
    NotProved(#[from] ResponseError),
}

impl From<ExchangeError> for AskError {
    fn from(error: ExchangeError) -> Self {
        match &error {
            ExchangeError::Transport(TransportError::NoAnswer(_) | TransportError::Incomplete { .. }) => {
                Self::TimedOut(error.to_string())
            }
            ExchangeError::Transport(
                TransportError::Connect(_)
                | TransportError::BrokeOff { .. }
                | TransportError::Redirect { .. }
                | TransportError::Status(_)
                | TransportError::TooLarge { .. }
                | TransportError::Send(_),
            )
            | ExchangeError::Malformed(_) => Self::Lost(error.to_string()),
        }
    }
}

impl Asker {
    /// Asks with the node's key.
    pub fn new(key: Arc<NodeKey>, cluster: String) -> Self {
        let node = NodeId(key.public());
        Self { key, node, cluster, challenges: Mutex::new(BTreeMap::new()) }
    }

    /// Asks, over whatever `carry` is; twice at most.
    ///
    /// # Errors
    /// [`AskError`]. A refusal is an answer, not an error.
    pub async fn ask<Carried>(
        &self,
        between: Between,
        request: &Request,
        carry: impl Fn(Signed) -> Carried,
    ) -> Result<Answered, AskError>
    where
        Carried: Future<Output = Result<Signed, AskError>>,
    {
        let (mut bytes_in, mut bytes_out) = (0, 0);
        let mut tries = 0;
        loop {
            tries += 1;
            let envelope = self.envelope(&between, request);
            bytes_out += envelope.body.len() as u64;
            let answer = carry(envelope.clone()).await?;
            bytes_in += answer.body.len() as u64;
            let checks = ResponseChecks {
                request: &envelope,
                cluster: &self.cluster,
                node: self.node,
                sender: between.peer,
                incarnation: between.theirs,
            };
            let (header, response) = codec::open_response(&answer, &checks)?;
            if !response.next_challenge.is_empty() {
                self.keep(between.peer, response.next_challenge.clone());
            }
            let unchallenged =
                matches!(&response.answer, Answer::Refused(refusal) if refusal.reason == Reason::Challenge);
            if unchallenged && tries == 1 && !response.next_challenge.is_empty() {
                continue;
            }
            return Ok(Answered { response, incarnation: header.incarnation, bytes_in, bytes_out });
        }
    }

    fn envelope(&self, between: &Between, request: &Request) -> Signed {
        let header = Header {
            cluster: self.cluster.clone(),
            sender: self.node,
            incarnation: between.ours,
            receiver: between.peer,
            challenge: self.take(between.peer).unwrap_or_default(),
            nonce: entropy::bytes(),
            traceparent: trace::current_traceparent().unwrap_or_default(),
            request_hash: None,
        };
        codec::sign_request(&header, request, self.key.signing_key())
    }

    /// The newest one: the older ones may be too old.
    fn take(&self, peer: NodeId) -> Option<Bytes> {
        self.lock().get_mut(&peer)?.pop_back()
    }

    fn keep(&self, peer: NodeId, challenge: impl Into<Bytes>) {
        let mut challenges = self.lock();
        if challenges.len() >= PEERS_MAX && !challenges.contains_key(&peer) {
            challenges.pop_first();
        }
        let kept = challenges.entry(peer).or_default();
        if kept.len() >= CHALLENGES_PER_PEER_MAX {
            kept.pop_front();
        }
        kept.push_back(challenge.into());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, VecDeque<Bytes>>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
