//! The shapes of JSON answers, and how values of the model and of the wire are written in them. The command line shows
//! programs the same documents.
//!
//! Times are RFC 3339 in UTC with milliseconds, durations are integers ending in `_ms`, a node is its key in
//! 64 hex characters, a path is `"P2P"` or `"HTTP"`, and what is not known is `null`.

mod keys;
mod node;
mod peers;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use jiff::Timestamp;
use lattice_core::model::Version;
use lattice_proto::coordinator::v1 as wire;
use lattice_proto::types::v1 as types;

pub(crate) use self::keys::{Batched, Binary, Full, Proof};
pub use self::keys::{Change, Deleted, Entry, Page, Restored, Written};
pub(crate) use self::node::{Identity, Missing, Nodes, P2pStatus, Root, State, Well};
pub use self::node::{Reconciling, Switched, Trust, TrustedKey};
pub use self::peers::{Event, Heal, Heals, Peer, Peers, UrlError};

/// Unix milliseconds as RFC 3339; what lies past the calendar is its end.
pub fn time(ms: u64) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", timestamp.unwrap_or(Timestamp::MAX))
}

/// Bytes as standard padded base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A place in a list as text; `None` at its end.
pub fn cursor_text(cursor: &[u8]) -> Option<String> {
    (!cursor.is_empty()).then(|| URL_SAFE_NO_PAD.encode(cursor))
}

/// The place in a list that text stands for; `None` when it is none.
pub fn cursor(text: &str) -> Option<Bytes> {
    URL_SAFE_NO_PAD.decode(text).ok().map(Bytes::from)
}

/// A path by its name; `None` when there is none.
pub fn path(path: wire::Path) -> Option<&'static str> {
    match path {
        wire::Path::Unspecified => None,
        wire::Path::P2p => Some("P2P"),
        wire::Path::Http => Some("HTTP"),
    }
}

/// What the node as a whole uses.
pub fn sync_mode(mode: wire::SyncMode) -> &'static str {
    match mode {
        wire::SyncMode::P2p => "P2P",
        wire::SyncMode::Http => "HTTP",
        wire::SyncMode::None | wire::SyncMode::Unspecified => "NONE",
    }
}

/// The path that an operator pinned; `None` while the node chooses.
pub fn pinned(mode: wire::Mode) -> Option<&'static str> {
    match mode {
        wire::Mode::Auto | wire::Mode::Unspecified => None,
        wire::Mode::P2p => path(wire::Path::P2p),
        wire::Mode::Http => path(wire::Path::Http),
    }
}

/// Which paths work.
pub fn health(health: wire::Health) -> &'static str {
    match health {
        wire::Health::Optimal => "OPTIMAL",
        wire::Health::P2pOnly => "P2P_ONLY",
        wire::Health::HttpOnly => "HTTP_ONLY",
        wire::Health::Isolated | wire::Health::Unspecified => "ISOLATED",
    }
}

/// How a peer is on P2P.
pub fn peer_state(state: wire::PeerState) -> &'static str {
    match state {
        wire::PeerState::Live => "live",
        wire::PeerState::Zombie => "zombie",
        wire::PeerState::Down | wire::PeerState::Unspecified => "down",
    }
}

/// A version as the model has it; `None` when it is none.
pub fn version(version: Option<types::Version>) -> Option<Version> {
    version?.try_into().ok()
}

/// Text, or `None` when it is empty, as protobuf says "not known".
pub(crate) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A key or digest as hex, or `None` when it is empty.
fn hexed(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_end_with_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
            (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
            (u64::MAX, "9999-12-30T22:00:00.999Z"),
        ] {
            assert_eq!(time(ms), text, "{ms}");
        }
    }
}
