//! The second path: plain HTTP to peers' gateways.
//!
//! Two requests exist: `GET /api/lattice/state` (a poll, which carries nothing) and
//! `POST /sync/v1/exchange` (a signed envelope). Everything that a peer sends is read up to a bound and
//! within a deadline, redirects are not followed, and proxies do not come between nodes. Whatever goes wrong
//! is an error of that URL; the other peers are asked by other tasks and never notice.

mod address;
mod state;

pub use address::{ADDRESSES_MAX, Address, ResolveError, URLS_MAX};
pub use state::{StateError, read as read_state};

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lattice_core::signed::{Signed, SignedAnnouncement};
use lattice_proto::codec;
use lattice_runtime::config;
use lattice_runtime::grpc::innermost;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};

/// The longest answer to a poll that is read.
pub const STATE_BYTES_MAX: usize = 64 << 10;

/// What an exchange travels as.
pub const EXCHANGE_CONTENT_TYPE: &str = "application/x-protobuf";

/// Asks peers over HTTP; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
}

/// Why no HTTP client could be made: the certificates.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CertificatesError(#[from] config::Error);

/// What goes wrong between two nodes before a word of the answer is understood.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody there, or not reachable.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Connected, or trying to, and nothing came.
    #[error("no answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    /// An answer began and did not end.
    #[error("answer incomplete after {} ms: {bytes} bytes came", within.as_millis())]
    Incomplete {
        /// How long we waited.
        within: Duration,
        /// What had come.
        bytes: usize,
    },
    /// The connection ended in the middle.
    #[error("answer broke off after {bytes} bytes: {why}")]
    BrokeOff {
        /// What had come.
        bytes: usize,
        /// Why.
        why: String,
    },
    /// The way leads elsewhere; we do not follow.
    #[error("answer is a redirect ({status}) to {location}: redirects are not followed between nodes")]
    Redirect {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// Any other status than 200.
    #[error("answer has status {0}, not 200")]
    Status(u16),
    /// More than we read.
    #[error("answer is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// The request could not be sent.
    #[error("cannot send: {0}")]
    Send(String),
}

/// Why an exchange over HTTP brought no envelope.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nothing that could be read.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Read, and not a signed envelope.
    #[error("answer is not a signed envelope: {0}")]
    Malformed(#[from] codec::OpenError),
}

impl Client {
    /// A client whose every request ends within `timeout`. `ca` replaces the system's roots; without it and
    /// without `tls`, no certificates are loaded at all, so that a system without any still speaks HTTP.
    ///
    /// # Errors
    /// [`CertificatesError`] when the file cannot be read or holds no certificate, or the system has none.
    pub fn new(ca: Option<&Path>, tls: bool, timeout: Duration) -> Result<Self, CertificatesError> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout)
            .timeout(timeout)
            .pool_max_idle_per_host(2)
            .user_agent(concat!("lattice/", env!("CARGO_PKG_VERSION")));
        let builder = match ca {
            Some(path) => builder.tls_certs_only(certificates(path)?),
            None if tls => builder,
            None => builder.tls_certs_only([]),
        };
        let http = builder.build().map_err(|error| {
            let value = ca.map_or_else(|| "not set".to_owned(), |path| path.display().to_string());
            let expected =
                format!("must be a PEM file of authorities, since TLS cannot start: {}", causes(&error));
            config::Error::value("coordinator.http_ca", value, expected)
        })?;
        Ok(Self { http, timeout })
    }

    /// Asks the gateway at `base` for its state. The answer is checked against itself, its signature included;
    /// who signed it, and whether that is any good, is for the caller.
    ///
    /// # Errors
    /// [`StateError`], each reason with its own words.
    pub async fn poll(&self, base: &str) -> Result<SignedAnnouncement, StateError> {
        let request = self.http.get(format!("{base}/api/lattice/state")).header(ACCEPT, "application/json");
        let body = self.ask(request, STATE_BYTES_MAX).await?;
        state::read(&body)
    }

    /// Carries a signed envelope to the gateway at `base` and brings one back, unopened.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn exchange(&self, base: &str, envelope: &Signed) -> Result<Signed, ExchangeError> {
        let request = self
            .http
            .post(format!("{base}/sync/v1/exchange"))
            .header(CONTENT_TYPE, EXCHANGE_CONTENT_TYPE)
            .body(codec::encode_signed(envelope));
        let body = self.ask(request, codec::SIGNED_BYTES_MAX).await?;
        Ok(codec::decode_signed(body)?)
    }

    /// Sends, insists on 200, and reads at most `limit` bytes, all within the timeout.
    async fn ask(&self, request: reqwest::RequestBuilder, limit: usize) -> Result<Bytes, TransportError> {
        let mut answer = request.send().await.map_err(|error| self.not_sent(&error))?;
        let status = answer.status();
        if status.is_redirection() {
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.unwrap_or("nowhere").chars().take(200).collect();
            return Err(TransportError::Redirect { status: status.as_u16(), location });
        }
        if status != reqwest::StatusCode::OK {
            return Err(TransportError::Status(status.as_u16()));
        }
        let too_large = TransportError::TooLarge { limit };
        if answer.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large);
        }
        let mut body = BytesMut::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > limit => return Err(too_large),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body.freeze()),
                Err(error) if error.is_timeout() => {
                    return Err(TransportError::Incomplete { within: self.timeout, bytes: body.len() });
                }
                Err(error) => {
                    return Err(TransportError::BrokeOff { bytes: body.len(), why: causes(&error) });
                }
            }
        }
    }

    fn not_sent(&self, error: &reqwest::Error) -> TransportError {
        if error.is_timeout() {
            TransportError::NoAnswer(self.timeout)
        } else if error.is_connect() {
            TransportError::Connect(causes(error))
        } else {
            TransportError::Send(causes(error))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, config::Error> {
    let refuse = |why: String| config::Error::value("coordinator.http_ca", path.display().to_string(), why);
    let pem = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| refuse(format!("must be a PEM file of authorities: {error}")))?;
    if found.is_empty() {
        return Err(refuse("must be a PEM file with at least one certificate".to_owned()));
    }
    Ok(found)
}

/// The innermost reason, which is what says something: the outer ones repeat the URL.
fn causes(error: &reqwest::Error) -> String {
    innermost(error).to_string()
}
