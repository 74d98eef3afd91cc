//! Refusals, as RFC 9457 problem documents. Every one that the gateway gives over HTTP is made here.
//!
//! | `type` | status | when |
//! |---|---|---|
//! | `/problems/key-invalid` | 400 | the key is empty, too long, not UTF-8, or badly percent-encoded |
//! | `/problems/parameter-invalid` | 400 | a query parameter is unknown, repeated or wrong |
//! | `/problems/header-invalid` | 400 | a request header is wrong |
//! | `/problems/body-invalid` | 400 | the body is not what the route takes |
//! | `/problems/request-refused` | 400 | a service of the node found the request wrong |
//! | `/problems/unauthorized` | 401 | no token, or one that is not known |
//! | `/problems/forbidden` | 403 | the token's role does not suffice |
//! | `/problems/cross-origin` | 403 | a page of another site tries to change something |
//! | `/problems/key-not-found` | 404 | the key is absent, deleted or expired |
//! | `/problems/not-found` | 404 | what was named is not here |
//! | `/problems/route-not-found` | 404 | no such route |
//! | `/problems/method-not-allowed` | 405 | the route has other methods |
//! | `/problems/conflict` | 409 | the state of the node does not allow it |
//! | `/problems/gone` | 410 | what was asked for is not kept any more; `since` says where a watch can begin |
//! | `/problems/condition-failed` | 412 | `If-Match` or `If-None-Match` does not hold on this node |
//! | `/problems/too-large` | 413 | the body, or what it holds, is too large |
//! | `/problems/media-type` | 415 | the body has another content type, or is encoded |
//! | `/problems/rate-limited` | 429 | the address asks more often than it may; ask again after `Retry-After` |
//! | `/problems/internal` | 500 | a bug, or an answer nobody should give |
//! | `/problems/not-supported` | 501 | a service of the node does not know the request |
//! | `/problems/unavailable` | 503 | a service of the node is away or cannot answer now; ask again |
//! | `/problems/not-ready` | 503 | the node is not ready; `missing` says why |
//! | `/problems/busy` | 503 | too much is going on; ask again |
//! | `/problems/damaged` | 503 | the entry was found damaged and waits for repair |
//! | `/problems/recovering` | 503 | the store lost entries and waits for its peers: it cannot tell what is absent |
//! | `/problems/timeout` | 504 | a service of the node did not answer in time |
//! | `/problems/disk-full` | 507 | the node's disk has no room for writes; they go on when it has |

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lattice_proto::{metadata, reason};
use serde_json::{Map, Value};
use tonic::{Code, Status};

/// The content type of a problem document.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Seconds after which to ask again when nothing better is known.
const RETRY_AFTER_S: u32 = 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, in terms that stay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The last part of the `type`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The stable `type`.
            pub const fn uri(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!("/problems/", $name),)*
                }
            }

            /// The HTTP status.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$kind => StatusCode::$status,)*
                }
            }

            /// The `title`.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$kind => $title,)*
                }
            }
        }
    };
}

kinds! {
    /// The key is empty, too long, not UTF-8, or badly percent-encoded.
    KeyInvalid = "key-invalid", BAD_REQUEST, "Invalid key";
    /// A query parameter is unknown, repeated or wrong.
    ParameterInvalid = "parameter-invalid", BAD_REQUEST, "Invalid query parameter";
    /// A request header is wrong.
    HeaderInvalid = "header-invalid", BAD_REQUEST, "Invalid header";
    /// The body is not what the route takes.
    BodyInvalid = "body-invalid", BAD_REQUEST, "Invalid body";
    /// A service of the node found the request wrong.
    RequestRefused = "request-refused", BAD_REQUEST, "Request refused";
    /// No token, or one that is not known.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Token required";
    /// The token's role does not suffice.
    Forbidden = "forbidden", FORBIDDEN, "Role does not suffice";
    /// A page of another site tries to change something.
    CrossOrigin = "cross-origin", FORBIDDEN, "Cross-origin request";
    /// The key is absent, deleted or expired.
    KeyNotFound = "key-not-found", NOT_FOUND, "Key not found";
    /// What was named is not here.
    NotFound = "not-found", NOT_FOUND, "Not found";
    /// No such route.
    RouteNotFound = "route-not-found", NOT_FOUND, "No such route";
    /// The route has other methods.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The state of the node does not allow it.
    Conflict = "conflict", CONFLICT, "Not possible in this state";
    /// What was asked for is not kept any more.
    Gone = "gone", GONE, "Not kept any more";
    /// `If-Match` or `If-None-Match` does not hold on this node.
    ConditionFailed = "condition-failed", PRECONDITION_FAILED, "Condition does not hold";
    /// The body, or what it holds, is too large.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "Too large";
    /// The body has another content type.
    MediaType = "media-type", UNSUPPORTED_MEDIA_TYPE, "Unsupported content type";
    /// The address asks more often than it may.
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, "Too many requests";
    /// A bug, or an answer nobody should give.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// A service of the node does not know the request.
    NotSupported = "not-supported", NOT_IMPLEMENTED, "Not supported";
    /// A service of the node is away or cannot answer now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Unavailable";
    /// The node is not ready.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, "Not ready";
    /// Too much is going on.
    Busy = "busy", SERVICE_UNAVAILABLE, "Busy";
    /// The entry was found damaged and waits for repair.
    Damaged = "damaged", SERVICE_UNAVAILABLE, "Entry is damaged";
    /// The store lost entries, and cannot tell what is absent.
    Recovering = "recovering", SERVICE_UNAVAILABLE, "Recovering";
    /// A service of the node did not answer in time.
    Timeout = "timeout", GATEWAY_TIMEOUT, "Timeout";
    /// The node's disk has no room for writes.
    DiskFull = "disk-full", INSUFFICIENT_STORAGE, "Disk full";
}

/// A refusal: what, why, and what would be right.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
    members: Map<String, Value>,
    challenge: Option<&'static str>,
    etag: Option<HeaderValue>,
    retry_after_s: Option<u32>,
}

/// Whom a failed call was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sibling {
    /// The key-value half of the store: what it says is about a key.
    KeyValue,
    /// The rest of the store.
    Store,
    /// The P2P sensor.
    Sensor,
    /// The sync coordinator.
    Coordinator,
}

impl Sibling {
    /// As operators know it: the name of its binary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyValue | Self::Store => "state-store",
            Self::Sensor => "p2p-sensor",
            Self::Coordinator => "sync-coordinator",
        }
    }

    /// Turns the status of a failed call into a refusal.
    pub fn problem(self, status: &Status) -> Problem {
        let kind = self.kind(status);
        let detail = match kind {
            // What a bug says is for the log: a client cannot act on it.
            Kind::Internal => {
                tracing::error!(service = self.name(), code = ?status.code(), error = status.message(), "call failed");
                format!("{} failed; its log says why", self.name())
            }
            Kind::Timeout => {
                format!("{} did not answer in time; a write may still have been done", self.name())
            }
            Kind::Unavailable | Kind::Busy if status.message().is_empty() => {
                format!("{} does not answer", self.name())
            }
            Kind::Unavailable | Kind::Busy => format!("{}: {}", self.name(), status.message()),
            _ if status.message().is_empty() => kind.title().to_owned(),
            _ => status.message().to_owned(),
        };
        let told = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
        let mut problem = Problem::new(kind, detail);
        if let Some(version) = told(metadata::VERSION) {
            problem = problem.etag(version);
        }
        match told(metadata::WATCH_SINCE) {
            Some(since) => problem.with("since", since),
            None => problem,
        }
    }

    /// What a failed call means.
    pub fn kind(self, status: &Status) -> Kind {
        match reason::of(status) {
            Some(reason::DISK_FULL) => Kind::DiskFull,
            Some(reason::RECOVERING) => Kind::Recovering,
            Some(_) | None => self.kind_of(status.code()),
        }
    }

    fn kind_of(self, code: Code) -> Kind {
        match (code, self) {
            (Code::OutOfRange, Self::KeyValue) => Kind::Gone,
            (Code::InvalidArgument | Code::OutOfRange, _) => Kind::RequestRefused,
            (Code::NotFound, Self::KeyValue) => Kind::KeyNotFound,
            (Code::NotFound, _) => Kind::NotFound,
            (Code::FailedPrecondition, Self::KeyValue) => Kind::ConditionFailed,
            (Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted, _) => Kind::Conflict,
            (Code::ResourceExhausted, _) => Kind::Busy,
            (Code::Unavailable, _) => Kind::Unavailable,
            (Code::DeadlineExceeded | Code::Cancelled, _) => Kind::Timeout,
            (Code::DataLoss, _) => Kind::Damaged,
            (Code::Unimplemented, _) => Kind::NotSupported,
            (Code::PermissionDenied, _) => Kind::Forbidden,
            // Siblings ask for no token, and never fail with OK.
            (Code::Ok | Code::Unknown | Code::Internal | Code::Unauthenticated, _) => Kind::Internal,
        }
    }
}

impl Problem {
    /// A refusal whose `detail` names the field and what would be right.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            members: Map::new(),
            challenge: None,
            etag: None,
            retry_after_s: None,
        }
    }

    /// The same with an extension member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// The same with a `WWW-Authenticate` header.
    #[must_use]
    pub fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The same with the version that the key has, as `ETag` and `version`.
    #[must_use]
    pub(crate) fn etag(mut self, version: &str) -> Self {
        self.etag = HeaderValue::try_from(format!("\"{version}\"")).ok();
        self.with("version", version)
    }

    /// The same, to be tried again after `wait`, in whole seconds, of which the last is not cut short.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        let whole = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        self.retry_after_s = Some(u32::try_from(whole).unwrap_or(u32::MAX).max(RETRY_AFTER_S));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why, and what would be right.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// All of it, as clients read it.
    pub(crate) fn document(&self) -> Value {
        let mut document = self.members.clone();
        document.insert("type".into(), self.kind.uri().into());
        document.insert("title".into(), self.kind.title().into());
        document.insert("status".into(), self.kind.status().as_u16().into());
        document.insert("detail".into(), self.detail.as_str().into());
        Value::Object(document)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let mut response = (status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        let again = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_S);
        if let Some(seconds) = self.retry_after_s.or(again) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(etag) = self.etag {
            headers.insert(header::ETAG, etag);
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Text of a client, short enough to be repeated to it.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_distinct_types_listed_in_the_table() {
        let table = include_str!("problem.rs");
        for (index, kind) in Kind::ALL.iter().enumerate() {
            let row = format!("//! | `{}` | {} |", kind.uri(), kind.status().as_u16());
            assert!(table.contains(&row), "{row}");
            assert!(Kind::ALL[..index].iter().all(|other| other.uri() != kind.uri()), "{kind:?}");
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind:?}");
        }
    }

    #[test]
    fn statuses_of_siblings_become_problems() {
        for (code, sibling, kind) in [
            (Code::InvalidArgument, Sibling::KeyValue, Kind::RequestRefused),
            (Code::NotFound, Sibling::KeyValue, Kind::KeyNotFound),
            (Code::OutOfRange, Sibling::KeyValue, Kind::Gone),
            (Code::NotFound, Sibling::Coordinator, Kind::NotFound),
            (Code::FailedPrecondition, Sibling::KeyValue, Kind::ConditionFailed),
            (Code::FailedPrecondition, Sibling::Coordinator, Kind::Conflict),
            (Code::Unavailable, Sibling::Store, Kind::Unavailable),
            (Code::ResourceExhausted, Sibling::Store, Kind::Busy),
            (Code::DeadlineExceeded, Sibling::Coordinator, Kind::Timeout),
            (Code::DataLoss, Sibling::KeyValue, Kind::Damaged),
            (Code::Unimplemented, Sibling::Sensor, Kind::NotSupported),
            (Code::Internal, Sibling::Store, Kind::Internal),
        ] {
            assert_eq!(sibling.problem(&Status::new(code, "why")).kind(), kind, "{code:?} of {sibling:?}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_a_full_queue() {
        let status = Status::resource_exhausted("the disk is full");
        let problem = Sibling::KeyValue.problem(&reason::with(status, reason::DISK_FULL));
        assert_eq!((problem.kind(), problem.detail()), (Kind::DiskFull, "the disk is full"));
        assert_eq!(problem.kind().status().as_u16(), 507);
    }

    #[test]
    fn a_store_that_recovers_is_told_from_one_that_is_away() {
        let status = Status::unavailable("recovering: the store lost entries");
        let problem = Sibling::KeyValue.problem(&reason::with(status, reason::RECOVERING));
        assert_eq!(problem.kind(), Kind::Recovering);
        assert_eq!(problem.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn what_a_bug_says_is_not_repeated_to_clients() {
        let problem = Sibling::Store.problem(&Status::internal("secret path"));
        assert!(!problem.detail().contains("secret"));
    }

    #[test]
    fn unavailability_says_when_to_ask_again() {
        let response = Problem::new(Kind::Unavailable, "away").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        for (ms, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (3_600_000, "3600")] {
            let later = Problem::new(Kind::RateLimited, "later").retry_after(Duration::from_millis(ms));
            assert_eq!(later.into_response().headers()[header::RETRY_AFTER], seconds, "{ms} ms");
        }
    }
}
