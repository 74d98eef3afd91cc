//! Envelopes: a request or a response, with what is needed to refuse it before it is parsed.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{ENVELOPE_BYTES_MAX, Request, Response};
use lattice_core::model::{Digest, Incarnation, NodeId};
use lattice_core::signed::{Context, Signed};
use prost::Message as _;

use super::error::{bounded, decode};
use super::{OpenError, shape};
use crate::convert::{self, Invalid};
use crate::peer::v1 as wire;

/// What an envelope says outside of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: String,
    /// Who signs.
    pub sender: NodeId,
    /// Which of the sender's stores.
    pub incarnation: Incarnation,
    /// To whom.
    pub receiver: NodeId,
    /// In a request: what the receiver issued, at most [`convert::CHALLENGE_BYTES_MAX`] bytes; empty when the
    /// sender has none, and in a response.
    pub challenge: Bytes,
    /// Random, so that no two envelopes are the same.
    pub nonce: [u8; 16],
    /// W3C trace context, at most [`convert::TRACEPARENT_BYTES_MAX`] bytes; empty without a trace.
    pub traceparent: String,
    /// In a response, the hash of the request that it answers ([`request_hash`]); `None` in a request.
    pub request_hash: Option<Digest>,
}

impl Header {
    /// The header of the answer that the receiver of `request`, whose header is `self`, gives from its store
    /// `incarnation`.
    pub fn answer(&self, request: &Signed, incarnation: Incarnation, nonce: [u8; 16]) -> Self {
        Self {
            cluster: self.cluster.clone(),
            sender: self.receiver,
            incarnation,
            receiver: self.sender,
            challenge: Bytes::new(),
            nonce,
            traceparent: self.traceparent.clone(),
            request_hash: Some(request_hash(request)),
        }
    }
}

/// What a response calls its request: SHA-256 of the request's body.
pub fn request_hash(request: &Signed) -> Digest {
    Digest::of(&[&request.body])
}

/// Encodes and signs a request. `key` is the sender's.
pub fn sign_request(header: &Header, request: &Request, key: &SigningKey) -> Signed {
    debug_assert!(header.request_hash.is_none(), "a request answers no request");
    Signed::sign(Context::Request, encode(header, wire::Request::from(request).encode_to_vec()), key)
}

/// Encodes and signs a response. `key` is the sender's.
pub fn sign_response(header: &Header, response: &Response, key: &SigningKey) -> Signed {
    debug_assert!(header.request_hash.is_some(), "a response names its request");
    Signed::sign(Context::Response, encode(header, wire::Response::from(response).encode_to_vec()), key)
}

/// Reads the header, and leaves the payload as bytes. Nobody vouches for either yet.
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn read_header(signed: &Signed) -> Result<(Header, Bytes), OpenError> {
    bounded(signed.body.len(), ENVELOPE_BYTES_MAX)?;
    let envelope: wire::Envelope = decode(signed.body.clone())?;
    let header = Header {
        cluster: convert::cluster("cluster", envelope.cluster)?,
        sender: convert::node("sender", &envelope.sender)?,
        incarnation: convert::incarnation("incarnation", &envelope.incarnation)?,
        receiver: convert::node("receiver", &envelope.receiver)?,
        challenge: convert::challenge("challenge", envelope.challenge)?,
        nonce: convert::fixed("nonce", "a nonce", &envelope.nonce)?,
        traceparent: convert::traceparent("traceparent", envelope.traceparent)?,
        request_hash: match envelope.request_hash.is_empty() {
            true => None,
            false => Some(convert::digest("request_hash", &envelope.request_hash)?),
        },
    };
    Ok((header, envelope.payload))
}

/// Parses the payload of a request whose envelope was checked.
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn parse_request(payload: Bytes) -> Result<Request, OpenError> {
    bounded(payload.len(), ENVELOPE_BYTES_MAX)?;
    shape::request(&payload).map_err(payload_invalid)?;
    let request = decode::<wire::Request>(payload).and_then(Request::try_from);
    request.map_err(payload_invalid)
}

/// Parses the payload of a response whose envelope was checked.
///
/// # Errors
/// [`OpenError::TooLarge`] and [`OpenError::Malformed`].
pub fn parse_response(payload: Bytes) -> Result<Response, OpenError> {
    bounded(payload.len(), ENVELOPE_BYTES_MAX)?;
    shape::response(&payload).map_err(payload_invalid)?;
    let response = decode::<wire::Response>(payload).and_then(Response::try_from);
    response.map_err(payload_invalid)
}

fn payload_invalid(invalid: Invalid) -> OpenError {
    OpenError::Malformed(invalid.within("payload"))
}

fn encode(header: &Header, payload: Vec<u8>) -> Bytes {
    let envelope = wire::Envelope {
        cluster: header.cluster.clone(),
        sender: Bytes::copy_from_slice(header.sender.as_bytes()),
        incarnation: Bytes::copy_from_slice(&header.incarnation.0),
        receiver: Bytes::copy_from_slice(header.receiver.as_bytes()),
        challenge: header.challenge.clone(),
        nonce: Bytes::copy_from_slice(&header.nonce),
        traceparent: header.traceparent.clone(),
        request_hash: header
            .request_hash
            .map(|hash| Bytes::copy_from_slice(hash.as_bytes()))
            .unwrap_or_default(),
        payload: payload.into(),
    };
    envelope.encode_to_vec().into()
}
