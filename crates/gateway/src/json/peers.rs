//! Of peers, and of what happens between them and the node.

use lattice_proto::coordinator::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use super::{hexed, path, peer_state, some, time};

/// Every known peer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Peers {
    success: bool,
    count: usize,
    peers: Vec<Peer>,
    /// URLs that failed and that no peer above is shown with.
    url_errors: Vec<UrlError>,
}

impl From<wire::StatusResponse> for Peers {
    fn from(status: wire::StatusResponse) -> Self {
        Self {
            success: true,
            count: status.peers.len(),
            peers: status.peers.into_iter().map(Into::into).collect(),
            url_errors: status.url_errors.into_iter().map(Into::into).collect(),
        }
    }
}

/// A peer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Peer {
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
pub struct UrlError {
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

/// Ended pulls.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heals {
    success: bool,
    heals: Vec<Heal>,
}

impl From<wire::HealsResponse> for Heals {
    fn from(answer: wire::HealsResponse) -> Self {
        Self { success: true, heals: answer.heals.into_iter().map(Into::into).collect() }
    }
}

/// A pull that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heal {
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
pub struct Event {
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

#[cfg(test)]
mod tests {
    use super::*;

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
