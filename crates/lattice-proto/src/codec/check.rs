//! All that is asked of a request or a response before it is believed.
//!
//! The order is that of distrust, and of cost: size, header, cluster, receiver, trust, signature, incarnation,
//! challenge, and only then the payload. A stranger's bytes therefore cost a lookup, and a replay costs a
//! signature check, whatever they carry.

use lattice_core::exchange::{Reason, Refusal, Request, Response};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::signed::{Context, Signed};

use super::OpenError;
use super::envelope::{Header, parse_request, parse_response, read_header, request_hash};
use crate::convert::Invalid;

/// What a receiver knows when it opens a request.
pub struct RequestChecks<'a> {
    /// Our cluster.
    pub cluster: &'a str,
    /// Us.
    pub node: NodeId,
    /// Whether a sender is a member.
    pub trusted: &'a dyn Fn(&NodeId) -> bool,
    /// Whether a sender may speak for this incarnation; false for one that was replaced.
    pub incarnation_ok: &'a dyn Fn(&NodeId, &Incarnation) -> bool,
    /// Spends a challenge that we issued to this sender; false when there is no such. Called at most once, and
    /// only for a request that is otherwise in order up to its payload.
    pub take_challenge: &'a mut dyn FnMut(&NodeId, &[u8]) -> bool,
}

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// The reason, for programs.
    pub reason: Reason,
    /// The reason, for people.
    pub detail: String,
    /// To whom a signed refusal goes; `None` when not even that could be read.
    pub header: Option<Box<Header>>,
}

impl Refused {
    /// What the refusal says.
    pub fn refusal(&self) -> Refusal {
        Refusal { reason: self.reason, detail: self.detail.clone() }
    }
}

/// What an asker knows when it opens a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseChecks<'a> {
    /// The request, as it was sent.
    pub request: &'a Signed,
    /// Our cluster.
    pub cluster: &'a str,
    /// Us.
    pub node: NodeId,
    /// Whom we asked.
    pub sender: NodeId,
    /// The incarnation that we think we asked; `None` when any will do.
    pub incarnation: Option<Incarnation>,
}

/// Why a response is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The envelope is too large, malformed, or not signed by the node that was asked: an error of the path,
    /// which nobody vouches for.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The envelope is of another cluster.
    #[error("response is of cluster {got:?}, not {expected:?}")]
    Cluster {
        /// Ours.
        expected: String,
        /// Its.
        got: String,
    },
    /// Another node answered.
    #[error("response is by node {got}, not {expected}")]
    Sender {
        /// Whom we asked.
        expected: NodeId,
        /// Who answered.
        got: NodeId,
    },
    /// The response is for another node.
    #[error("response is for node {got}, not {expected}")]
    Receiver {
        /// Us.
        expected: NodeId,
        /// Whom it is for.
        got: NodeId,
    },
    /// The response answers another request.
    #[error("response answers another request")]
    Request,
    /// Another store of the node answered. Signed by the node: it has a new incarnation.
    #[error("response is by incarnation {got}, not {expected}")]
    Incarnation {
        /// Whom we asked.
        expected: Incarnation,
        /// Who answered.
        got: Incarnation,
    },
    /// The payload is malformed, and signed by the node that was asked.
    #[error("signed response is malformed: {0}")]
    Payload(Invalid),
}

/// Opens a peer's request.
///
/// An announcement that the request carries was checked as well: the sender signed it, about itself.
///
/// # Errors
/// [`Refused`], with the first reason found.
pub fn open_request(signed: &Signed, checks: RequestChecks<'_>) -> Result<(Header, Request), Refused> {
    let (header, payload) = match read_header(signed) {
        Ok(read) => read,
        Err(error) => return Err(unread(error)),
    };
    if let Err((reason, detail)) = admit(signed, &header, checks) {
        return Err(Refused { reason, detail, header: Some(Box::new(header)) });
    }
    let malformed = |detail: String| (Reason::Malformed, detail);
    let parsed = parse_request(payload).map_err(|error| malformed(error.to_string()));
    match parsed.and_then(|request| own_announcement(&header, &request).map(|()| request)) {
        Ok(request) => Ok((header, request)),
        Err((reason, detail)) => Err(Refused { reason, detail, header: Some(Box::new(header)) }),
    }
}

/// Why not even the header could be read.
fn unread(error: OpenError) -> Refused {
    Refused { reason: Reason::Malformed, detail: format!("request: {error}"), header: None }
}

/// What is asked of a request before its payload is parsed.
fn admit(signed: &Signed, header: &Header, checks: RequestChecks<'_>) -> Result<(), (Reason, String)> {
    let Header { cluster, sender, incarnation, receiver, challenge, request_hash, .. } = header;
    if cluster != checks.cluster {
        let detail = format!("request is for cluster {cluster}: this node is of {}", checks.cluster);
        return Err((Reason::Cluster, detail));
    }
    if *receiver != checks.node {
        return Err((Reason::Receiver, format!("request is for node {receiver}: this is {}", checks.node)));
    }
    if !(checks.trusted)(sender) {
        return Err((Reason::Untrusted, format!("node {sender} is not among the trusted keys here")));
    }
    if signed.verify(Context::Request, sender).is_err() {
        return Err((Reason::Signature, format!("signature is not node {sender}'s over this request")));
    }
    if request_hash.is_some() {
        let detail = "request_hash: is for responses, a request has none".to_owned();
        return Err((Reason::Malformed, detail));
    }
    if !(checks.incarnation_ok)(sender, incarnation) {
        let detail = format!("incarnation {incarnation} of node {sender} was replaced by a newer one");
        return Err((Reason::Incarnation, detail));
    }
    if !(checks.take_challenge)(sender, challenge) {
        let detail = "challenge is missing, spent or too old: next_challenge holds a fresh one".to_owned();
        return Err((Reason::Challenge, detail));
    }
    Ok(())
}

/// Whether the announcement that a request carries, if any, is the sender's own.
fn own_announcement(header: &Header, request: &Request) -> Result<(), (Reason, String)> {
    let Some(carried) = &request.announcement else {
        return Ok(());
    };
    let says = &carried.announcement;
    let differs = if says.node != header.sender {
        Some(("node", says.node.to_string(), header.sender.to_string()))
    } else if says.incarnation != header.incarnation {
        Some(("incarnation", says.incarnation.to_string(), header.incarnation.to_string()))
    } else if says.cluster != header.cluster {
        Some(("cluster", says.cluster.clone(), header.cluster.clone()))
    } else {
        None
    };
    if let Some((field, got, expected)) = differs {
        let detail =
            format!("payload.announcement.body.{field}: takes the envelope's, {expected}, got {got}");
        return Err((Reason::Malformed, detail));
    }
    carried.verify().map_err(|error| (Reason::Signature, format!("payload.announcement: {error}")))
}

/// Opens the response to our request.
///
/// # Errors
/// [`ResponseError`], the first one found; [`ResponseError::Incarnation`] and [`ResponseError::Payload`] only
/// under a valid signature.
pub fn open_response(
    signed: &Signed,
    checks: &ResponseChecks<'_>,
) -> Result<(Header, Response), ResponseError> {
    let (header, payload) = read_header(signed)?;
    if header.cluster != checks.cluster {
        return Err(ResponseError::Cluster { expected: checks.cluster.to_owned(), got: header.cluster });
    }
    if header.sender != checks.sender {
        return Err(ResponseError::Sender { expected: checks.sender, got: header.sender });
    }
    if header.receiver != checks.node {
        return Err(ResponseError::Receiver { expected: checks.node, got: header.receiver });
    }
    if header.request_hash != Some(request_hash(checks.request)) {
        return Err(ResponseError::Request);
    }
    signed.verify(Context::Response, &header.sender).map_err(OpenError::from)?;
    if let Some(expected) = checks.incarnation.filter(|expected| *expected != header.incarnation) {
        return Err(ResponseError::Incarnation { expected, got: header.incarnation });
    }
    match parse_response(payload) {
        Ok(response) => Ok((header, response)),
        Err(OpenError::Malformed(invalid)) => Err(ResponseError::Payload(invalid)),
        Err(error @ (OpenError::TooLarge { .. } | OpenError::Signature)) => Err(error.into()),
    }
}
