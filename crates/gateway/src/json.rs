//! The shapes of JSON answers, and how values of the model and of the wire are written in them.
//!
//! Times are RFC 3339 in UTC with milliseconds, durations are integers ending in `_ms`, a node is its key in
//! 64 hex characters, a path is `"P2P"` or `"HTTP"`, and what is not known is `null`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use lattice_core::signed::SignedAnnouncement;
use lattice_proto::coordinator::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

/// The answer to a write.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) version: String,
    pub(crate) expires: Option<String>,
}

/// The answer to a delete.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    pub(crate) key: String,
    pub(crate) version: String,
}

/// A page of entries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) next: Option<String>,
}

/// An entry of a page.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) version: String,
    pub(crate) expires: Option<String>,
}

/// A change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Change {
    pub(crate) key: String,
    /// `put`, `delete`, or `expire`: an entry came whose value had gone already.
    pub(crate) op: &'static str,
    pub(crate) value: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) expires: Option<String>,
}

/// The answer to a restore.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Restored {
    pub(crate) success: bool,
    pub(crate) cluster: String,
    pub(crate) entries: u64,
    pub(crate) merged: u64,
    pub(crate) known: u64,
    pub(crate) held: u64,
    pub(crate) dropped: u64,
}

/// The answer to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Batched {
    pub(crate) versions: Vec<String>,
}

/// The signed state of this node, with a readable copy of what it says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct State {
    success: bool,
    merkle_root: Option<String>,
    state_size: u64,
    epoch: Option<u64>,
    signed: bool,
    timestamp: String,
    cluster: String,
    node: String,
    name: String,
    public_key: String,
    incarnation: String,
    /// Its store lost entries, and waits for its peers to fill it again.
    recovering: bool,
    seals: Vec<Seal>,
    announcement: String,
    signature: String,
}

/// A run of equal roots.
#[derive(Debug, Serialize, ToSchema)]
struct Seal {
    epoch_from: u64,
    epoch_to: u64,
    root: Option<String>,
    entries: u64,
    tombstones: u64,
}

impl State {
    pub(crate) fn new(state: &SignedAnnouncement, state_size: u64) -> Self {
        let SignedAnnouncement { announcement, signed } = state;
        let seals: Vec<Seal> = announcement
            .runs
            .iter()
            .map(|run| Seal {
                epoch_from: run.from.0,
                epoch_to: run.to.0,
                root: run.root.map(|root| root.digest.to_string()),
                entries: run.root.map_or(0, |root| root.entries),
                tombstones: run.root.map_or(0, |root| root.tombstones),
            })
            .collect();
        let newest = seals.last();
        Self {
            success: true,
            merkle_root: newest.and_then(|seal| seal.root.clone()),
            state_size,
            epoch: newest.map(|seal| seal.epoch_to),
            signed: true,
            timestamp: time(announcement.time.millis()),
            cluster: announcement.cluster.clone(),
            node: announcement.node.to_string(),
            name: announcement.name.clone(),
            public_key: announcement.node.to_string(),
            incarnation: announcement.incarnation.to_string(),
            recovering: announcement.recovering,
            announcement: STANDARD.encode(&signed.body),
            signature: hex::encode(signed.signature),
            seals,
        }
    }
}

/// The peers' gateways.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nodes {
    pub(crate) success: bool,
    pub(crate) count: usize,
    pub(crate) nodes: Vec<String>,
}

/// What the node says of its two paths.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct P2pStatus {
    pub(crate) success: bool,
    pub(crate) enabled: bool,
    pub(crate) started: bool,
    pub(crate) libp2p_available: bool,
    pub(crate) error: Option<String>,
    pub(crate) topic: String,
    pub(crate) listen_multiaddrs: Vec<String>,
    pub(crate) bootstrap_peers: Vec<String>,
    pub(crate) peer_count: u32,
    pub(crate) has_peers: bool,
    pub(crate) http_sync_enabled: bool,
    pub(crate) sync_mode: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) heartbeat_active: bool,
    pub(crate) connected_count: u32,
    pub(crate) zombie_count: u32,
    pub(crate) health: &'static str,
    pub(crate) fallback_in_ms: Option<u64>,
    pub(crate) clock_error: Option<String>,
}

/// Who the node is on libp2p.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    pub(crate) success: bool,
    pub(crate) peer_id: String,
    pub(crate) public_key: String,
    pub(crate) listen_addrs: Vec<String>,
}

/// Every known peer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Peers {
    pub(crate) success: bool,
    pub(crate) count: usize,
    pub(crate) peers: Vec<Peer>,
    /// URLs that failed and that no peer above is shown with.
    pub(crate) url_errors: Vec<UrlError>,
}

/// A peer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Peer {
    public_key: String,
    peer_id: Option<String>,
    name: Option<String>,
    addresses: Vec<String>,
    http_url: Option<String>,
    state: &'static str,
    last_heartbeat: Option<String>,
    path: Option<&'static str>,
    failover: Option<String>,
    divergence_count: u32,
    backoff_ms: u64,
    lag_epochs: u64,
    errors: u64,
    last_error: Option<String>,
}

/// A URL that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UrlError {
    url: String,
    errors: u64,
    last_error: Option<String>,
}

impl From<wire::Peer> for Peer {
    fn from(peer: wire::Peer) -> Self {
        Self {
            state: peer_state(peer.state()),
            path: path(peer.path()),
            public_key: hex::encode(&peer.node),
            peer_id: some(peer.peer_id),
            name: some(peer.name),
            addresses: peer.addresses,
            http_url: some(peer.http_url),
            last_heartbeat: (peer.last_heartbeat_ms > 0).then(|| time(peer.last_heartbeat_ms)),
            failover: some(peer.failover),
            divergence_count: peer.divergence_count,
            backoff_ms: peer.backoff_ms,
            lag_epochs: peer.lag_epochs,
            errors: peer.errors,
            last_error: some(peer.last_error),
        }
    }
}

impl From<wire::UrlError> for UrlError {
    fn from(error: wire::UrlError) -> Self {
        Self { url: error.url, errors: error.errors, last_error: some(error.last_error) }
    }
}

/// The effective trusted keys.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Trust {
    pub(crate) success: bool,
    pub(crate) count: usize,
    pub(crate) keys: Vec<TrustedKey>,
}

/// A trusted key, and where it comes from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrustedKey {
    pub(crate) public_key: String,
    pub(crate) source: String,
}

impl From<wire::TrustResponse> for Trust {
    fn from(answer: wire::TrustResponse) -> Self {
        let keys: Vec<_> = answer
            .keys
            .into_iter()
            .map(|key| TrustedKey { public_key: hex::encode(&key.node), source: key.source })
            .collect();
        Self { success: true, count: keys.len(), keys }
    }
}

/// Ended pulls.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Heals {
    pub(crate) success: bool,
    pub(crate) heals: Vec<Heal>,
}

/// A pull that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Heal {
    id: String,
    peer: Option<String>,
    /// As people call the peer: its name, or where that is not known yet its URL on HTTP.
    peer_name: Option<String>,
    path: Option<&'static str>,
    outcome: String,
    detail: Option<String>,
    started: String,
    duration_ms: u64,
    rounds: u32,
    bytes_in: u64,
    bytes_out: u64,
    entries_merged: u64,
    root_before: Option<String>,
    root_after: Option<String>,
    trace_id: Option<String>,
}

impl From<wire::Heal> for Heal {
    fn from(heal: wire::Heal) -> Self {
        Self {
            path: path(heal.path()),
            id: heal.id,
            peer: hexed(&heal.node),
            peer_name: some(heal.peer),
            outcome: heal.outcome,
            detail: some(heal.detail),
            started: time(heal.started_ms),
            duration_ms: heal.duration_ms,
            rounds: heal.rounds,
            bytes_in: heal.bytes_in,
            bytes_out: heal.bytes_out,
            entries_merged: heal.entries_merged,
            root_before: hexed(&heal.root_before),
            root_after: hexed(&heal.root_after),
            trace_id: some(heal.trace_id),
        }
    }
}

/// What happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    time: String,
    component: String,
    tag: Option<String>,
    message: String,
    kind: String,
    peer: Option<String>,
    path: Option<&'static str>,
    missed: u64,
}

impl From<wire::Event> for Event {
    fn from(event: wire::Event) -> Self {
        Self {
            path: path(event.path()),
            time: time(event.time_ms),
            component: event.component,
            tag: some(event.tag),
            message: event.message,
            kind: event.kind,
            peer: hexed(&event.node),
            missed: event.missed,
        }
    }
}

/// The answer to a change of mode.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Switched {
    pub(crate) success: bool,
    pub(crate) mode: Option<&'static str>,
    pub(crate) message: String,
}

/// The answer to a demand for a pull.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reconciling {
    pub(crate) success: bool,
    /// The first; with a peer named, the only one.
    pub(crate) id: String,
    pub(crate) ids: Vec<String>,
}

/// That it is so.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Well {
    /// `alive`, `ready` or `healthy`.
    pub(crate) status: &'static str,
}

/// A proof, and what it says.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct Proof {
    success: bool,
    key: String,
    included: bool,
    entry: Option<ProvedEntry>,
    epoch: u64,
    /// The newest write of the key, when the seal does not cover it yet.
    unsealed: Option<Unsealed>,
    /// The signed seal, as it can be read.
    #[schema(value_type = Object)]
    seal: serde_json::Value,
    /// A `lattice.kv.v1.ProveResponse` in base64: nothing else is evidence.
    proof: String,
}

/// The entry that a proof is about.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct ProvedEntry {
    version: String,
    expires: Option<String>,
    deleted: bool,
    value: Option<String>,
}

/// A write that is not sealed yet.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what crate::proof writes")]
pub(crate) struct Unsealed {
    version: String,
    epoch: u64,
}

/// The whole state as of a seal.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "the shape of what routes::full streams")]
pub(crate) struct Full {
    success: bool,
    merkle_root: Option<String>,
    epoch: Option<u64>,
    /// Values by their keys; one that is not UTF-8 is `{"base64": ".."}`.
    #[schema(value_type = Object)]
    state: serde_json::Value,
}

/// Any bytes.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "a shape")]
pub(crate) struct Binary(Vec<u8>);

/// Who answers at `/`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) status: &'static str,
}

/// A service that is missing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Missing {
    pub(crate) service: &'static str,
    pub(crate) reason: String,
}

/// Unix milliseconds as RFC 3339; what lies past the calendar is its end.
pub(crate) fn time(ms: u64) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", timestamp.unwrap_or(Timestamp::MAX))
}

/// Bytes as standard padded base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A path by its name; `None` when there is none.
pub(crate) fn path(path: wire::Path) -> Option<&'static str> {
    match path {
        wire::Path::Unspecified => None,
        wire::Path::P2p => Some("P2P"),
        wire::Path::Http => Some("HTTP"),
    }
}

/// What the node as a whole uses.
pub(crate) fn sync_mode(mode: wire::SyncMode) -> &'static str {
    match mode {
        wire::SyncMode::P2p => "P2P",
        wire::SyncMode::Http => "HTTP",
        wire::SyncMode::None | wire::SyncMode::Unspecified => "NONE",
    }
}

/// What the operator chose.
pub(crate) fn mode(mode: wire::Mode) -> &'static str {
    match mode {
        wire::Mode::Auto | wire::Mode::Unspecified => "auto",
        wire::Mode::P2p => "p2p",
        wire::Mode::Http => "http",
    }
}

/// Which paths work.
pub(crate) fn health(health: wire::Health) -> &'static str {
    match health {
        wire::Health::Optimal => "OPTIMAL",
        wire::Health::P2pOnly => "P2P_ONLY",
        wire::Health::HttpOnly => "HTTP_ONLY",
        wire::Health::Isolated | wire::Health::Unspecified => "ISOLATED",
    }
}

fn peer_state(state: wire::PeerState) -> &'static str {
    match state {
        wire::PeerState::Live => "live",
        wire::PeerState::Zombie => "zombie",
        wire::PeerState::Down | wire::PeerState::Unspecified => "down",
    }
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

    #[test]
    fn what_is_not_known_is_null() {
        let peer = serde_json::to_value(Peer::from(wire::Peer::default())).unwrap();
        for member in ["peer_id", "name", "http_url", "last_heartbeat", "path", "last_error"] {
            assert_eq!(peer[member], serde_json::Value::Null, "{member}");
        }
        assert_eq!(peer["state"], "down");
    }

    #[test]
    fn a_heal_names_its_peer_by_key() {
        let heal =
            wire::Heal { node: vec![7; 32].into(), peer: "beta".into(), path: 2, ..Default::default() };
        let heal = serde_json::to_value(Heal::from(heal)).unwrap();
        assert_eq!(heal["peer"], "07".repeat(32));
        assert_eq!((&heal["peer_name"], &heal["path"]), (&"beta".into(), &"HTTP".into()));
        assert_eq!(heal["root_before"], serde_json::Value::Null);
    }
}
