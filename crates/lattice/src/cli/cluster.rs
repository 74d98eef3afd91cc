//! `lattice status`, `peers`, `events`, `heals`, `switch`, `reconcile` and `trust`.

use gateway::json;
use gateway::problem::Kind;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::codec::decode_announcement;
use lattice_proto::coordinator::v1::{
    Event, HealsRequest, Mode, Path, Peer, ReconcileRequest, StateRequest, StatusRequest, StatusResponse,
    SwitchModeRequest, TrustRequest, WatchEventsRequest, trust_request,
};
use tonic::Status;

use super::client::Connection;
use super::output::{Failure, Output, rfc3339, say, size, time};

/// The paths that can be pinned.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum PathChoice {
    /// The node chooses, per peer
    Auto,
    /// Always P2P
    P2p,
    /// Always HTTP
    Http,
}

/// What can be done to the trusted keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TrustCommand {
    /// The effective trusted keys, and where each comes from
    List,
    /// Trust a key from now on
    Add {
        /// The public key, 64 hex characters
        key: String,
    },
    /// Trust a key no more
    Remove {
        /// The public key, 64 hex characters
        key: String,
    },
}

/// What the node is and how it does.
pub(crate) async fn status(node: Connection, out: Output) -> Result<(), Failure> {
    let status = ask_status(&node).await?;
    let sensor = status.sensor.clone().unwrap_or_default();
    let sealed = newest_seal(&node).await;
    if out.is_json() {
        return out.json(&serde_json::json!({
            "node": hex::encode(&status.node),
            "name": status.name,
            "cluster": status.cluster,
            "sync_mode": json::sync_mode(status.sync_mode()),
            "pinned": json::pinned(status.mode()),
            "health": json::health(status.health()),
            "sensor": {
                "available": sensor.available,
                "enabled": sensor.enabled,
                "started": sensor.started,
                "error": non_empty(&sensor.error),
                "peer_id": sensor.peer_id,
                "listen_addresses": sensor.listen_addresses,
                "live": sensor.live,
                "zombie": sensor.zombie,
                "connected": sensor.connected,
            },
            "sealed": sealed.as_ref().map(|sealed| serde_json::json!({
                "epoch": sealed.epoch, "root": sealed.root, "entries": sealed.entries,
            })),
            "fallback_in_ms": status.fallback_in_ms,
            "store_error": non_empty(&status.store_error),
            "clock_error": non_empty(&status.clock_error),
            "missing": status.missing.iter().map(|missing| serde_json::json!({
                "service": missing.service, "reason": missing.reason,
            })).collect::<Vec<_>>(),
            "recovering": status.recovering,
            "damaged": status.damaged,
            "urls": status.urls,
            "url_errors": status.url_errors.into_iter().map(json::UrlError::from).collect::<Vec<_>>(),
        }));
    }
    let p2p = match (sensor.available, sensor.enabled, sensor.started) {
        (false, _, _) => format!("sensor unavailable: {}", sensor.error),
        (true, false, _) => "disabled".to_owned(),
        (true, true, false) => format!("down: {}", sensor.error),
        (true, true, true) => {
            format!("{} live, {} zombie, {} connected", sensor.live, sensor.zombie, sensor.connected)
        }
    };
    let mut lines = vec![
        ("node", format!("{} ({})", status.name, hex::encode(&status.node))),
        ("cluster", status.cluster.clone()),
        ("sync mode", sync_text(&status)),
        ("health", json::health(status.health()).to_owned()),
        ("p2p", p2p),
        ("http peers", status.urls.len().to_string()),
    ];
    if let Some(Sealed { epoch, root, entries }) = &sealed {
        let root = root.as_deref().map_or("none", |root| &root[..root.len().min(16)]);
        lines.push(("sealed", format!("{entries} keys, root {root}, epoch {epoch}")));
    }
    if let Some(left) = status.fallback_in_ms {
        lines.push(("http fallback in", format!("{:.1} s", left as f64 / 1_000.0)));
    }
    if !status.store_error.is_empty() {
        lines.push(("store", status.store_error.clone()));
    }
    for missing in &status.missing {
        lines.push(("not ready", format!("{}: {}", missing.service, missing.reason)));
    }
    if status.recovering {
        lines
            .push(("store", "recovering: tells no absence until all live peers were pulled from".to_owned()));
    }
    if status.damaged > 0 {
        lines.push(("damaged keys", status.damaged.to_string()));
    }
    if !status.clock_error.is_empty() {
        lines.push(("clock", status.clock_error.clone()));
    }
    // What has worked since has no last error.
    for failed in status.url_errors.iter().filter(|failed| !failed.last_error.is_empty()) {
        lines.push(("url", format!("{}: {} errors, last: {}", failed.url, failed.errors, failed.last_error)));
    }
    lines.into_iter().try_for_each(|(name, value)| out.line(&format!("{name:<17} {value}")))
}

/// The peers, one a row.
pub(crate) async fn peers(node: Connection, out: Output) -> Result<(), Failure> {
    let status = ask_status(&node).await?;
    if out.is_json() {
        return out.json(&json::Peers::from(status));
    }
    if status.peers.is_empty() {
        return out.line("no peers: node.trusted_keys names none besides this node");
    }
    let rows = by_name(&status.peers)
        .into_iter()
        .map(|peer| {
            vec![
                if peer.name.is_empty() { "-".to_owned() } else { peer.name.clone() },
                hex::encode(&peer.node).chars().take(8).collect(),
                json::peer_state(peer.state()).to_owned(),
                path_text(peer.path()).to_owned(),
                peer.failover.clone(),
                peer.divergence_count.to_string(),
                if peer.backoff_ms == 0 { "-".to_owned() } else { format!("{} ms", peer.backoff_ms) },
                peer.lag_epochs.to_string(),
                time(peer.last_heartbeat_ms),
                if peer.http_url.is_empty() { "-".to_owned() } else { peer.http_url.clone() },
                format!("{} {}", peer.errors, peer.last_error).trim().to_owned(),
            ]
        })
        .collect();
    let header = [
        "NAME",
        "KEY",
        "STATE",
        "PATH",
        "FAILOVER",
        "DIVERGED",
        "BACKOFF",
        "LAG",
        "LAST HEARD",
        "URL",
        "ERRORS",
    ];
    out.table(&header, rows)
}

/// Follows the node's events until it ends or the reader goes.
pub(crate) async fn events(node: Connection, out: Output) -> Result<(), Failure> {
    let answer = node.coordinator().watch_events(WatchEventsRequest {}).await;
    let mut events = answer.map_err(|status| node.failure(&status))?.into_inner();
    say(&format!("Following the events of {} (end with Ctrl-C)", node.url()));
    while let Some(event) = events.message().await.map_err(|status| node.ended("events", &status))? {
        if out.is_json() {
            out.json(&json::Event::from(event))?;
            continue;
        }
        if event.missed > 0 {
            out.line(&format!("... {} events missed", event.missed))?;
        }
        out.line(&event_line(&event))?;
    }
    Err(node.ended("events", &Status::unavailable("the node closed the stream")))
}

/// The last heals, one a row.
pub(crate) async fn heals(node: Connection, out: Output, limit: u32) -> Result<(), Failure> {
    let request = node.request(HealsRequest { limit });
    let answer = node.coordinator().heals(request).await.map_err(|status| node.failure(&status))?;
    let answer = answer.into_inner();
    if out.is_json() {
        return out.json(&json::Heals::from(answer));
    }
    let heals = answer.heals;
    if heals.is_empty() {
        return out.line("no reconciliation yet");
    }
    let rows = heals
        .iter()
        .map(|heal| {
            vec![
                time(heal.started_ms),
                heal.peer.clone(),
                path_text(heal.path()).to_owned(),
                heal.outcome.clone(),
                heal.entries_merged.to_string(),
                heal.rounds.to_string(),
                size(heal.bytes_in),
                size(heal.bytes_out),
                format!("{} ms", heal.duration_ms),
                root_text(&heal.root_after).map_or_else(|| "-".to_owned(), |root| root[..8].to_owned()),
                if heal.detail.is_empty() { "-".to_owned() } else { heal.detail.clone() },
            ]
        })
        .collect();
    let header = [
        "STARTED",
        "PEER",
        "PATH",
        "OUTCOME",
        "MERGED",
        "ROUNDS",
        "IN",
        "OUT",
        "TOOK",
        "ROOT AFTER",
        "DETAIL",
    ];
    out.table(&header, rows)
}

/// Pins a path, or unpins it.
pub(crate) async fn switch(node: Connection, out: Output, choice: PathChoice) -> Result<(), Failure> {
    let mode = match choice {
        PathChoice::Auto => Mode::Auto,
        PathChoice::P2p => Mode::P2p,
        PathChoice::Http => Mode::Http,
    };
    let request = node.request(SwitchModeRequest { mode: mode.into() });
    let answer = node.coordinator().switch_mode(request).await.map_err(|status| node.failure(&status))?;
    let answer = answer.into_inner();
    match out.is_json() {
        true => out.json(&json::Switched::from(answer)),
        false => out.line(&answer.message),
    }
}

/// Starts a pull from one peer, or from all.
pub(crate) async fn reconcile(node: Connection, out: Output, peer: Option<String>) -> Result<(), Failure> {
    let peer = peer.map(|peer| parse_key("PEER", &peer)).transpose()?;
    let request = node.request(ReconcileRequest { node: peer.unwrap_or_default().into() });
    let answer = node.coordinator().reconcile(request).await.map_err(|status| node.failure(&status))?;
    let answer = answer.into_inner();
    let ids = answer.ids.join(", ");
    let Some(begun) = json::Reconciling::new(answer) else {
        let why = "there is no peer to reconcile with: add trusted keys (node.trusted_keys)";
        return Err(Failure::of_node(Kind::Conflict, why));
    };
    match out.is_json() {
        true => out.json(&begun),
        false => out.line(&format!("reconciliation started: {ids} (see lattice heals)")),
    }
}

/// Lists or changes the trusted keys.
pub(crate) async fn trust(node: Connection, out: Output, command: TrustCommand) -> Result<(), Failure> {
    let change = match command {
        TrustCommand::List => None,
        TrustCommand::Add { key } => Some(trust_request::Change::Add(parse_key("KEY", &key)?.into())),
        TrustCommand::Remove { key } => Some(trust_request::Change::Remove(parse_key("KEY", &key)?.into())),
    };
    let request = node.request(TrustRequest { change });
    let answer = node.coordinator().trust(request).await.map_err(|status| node.failure(&status))?;
    let answer = answer.into_inner();
    if out.is_json() {
        return out.json(&json::Trust::from(answer));
    }
    let keys = answer.keys;
    if keys.is_empty() {
        return out.line("no trusted keys: this node reconciles with nobody");
    }
    out.table(
        &["KEY", "SOURCE"],
        keys.iter().map(|key| vec![hex::encode(&key.node), key.source.clone()]).collect(),
    )
}

/// The newest seal of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) epoch: u64,
    /// 64 hex characters; empty when the map is.
    pub(super) root: Option<String>,
    pub(super) entries: u64,
}

/// The newest seal, as the node announces it. A node whose store is away has none, and is shown all the same.
pub(super) async fn newest_seal(node: &Connection) -> Option<Sealed> {
    let state = node.coordinator().state(node.request(StateRequest {})).await.ok()?.into_inner();
    let announcement = decode_announcement(&Signed::try_from(state.announcement?).ok()?).ok()?;
    let newest = announcement.announcement.runs.last()?;
    let root = newest.root.map(|root| root.digest.to_string());
    Some(Sealed { epoch: newest.to.0, root, entries: state.state_size })
}

/// Peers as they are shown: by name, those without one last.
pub(super) fn by_name(peers: &[Peer]) -> Vec<&Peer> {
    let mut peers: Vec<_> = peers.iter().collect();
    peers.sort_by_key(|peer| (peer.name.is_empty(), &peer.name, &peer.node));
    peers
}

async fn ask_status(node: &Connection) -> Result<StatusResponse, Failure> {
    let request = node.request(StatusRequest {});
    let answer = node.coordinator().status(request).await.map_err(|status| node.failure(&status))?;
    Ok(answer.into_inner())
}

fn parse_key(name: &str, text: &str) -> Result<Vec<u8>, Failure> {
    let key: NodeId = text.parse().map_err(|_| {
        Failure::usage(format!("{name} {text:?} is not a public key: right are 64 hex characters"))
    })?;
    Ok(key.as_bytes().to_vec())
}

/// An event as the log has it.
pub(crate) fn event_line(event: &Event) -> String {
    let clock = rfc3339(event.time_ms).map_or_else(|| "--:--:--".to_owned(), |at| at[11..19].to_owned());
    let tag = if event.tag.is_empty() { String::new() } else { format!("[{}] ", event.tag) };
    format!("[{clock}] [{}] {tag}{}", event.component, event.message)
}

fn root_text(root: &[u8]) -> Option<String> {
    (root.len() == 32).then(|| hex::encode(root))
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn path_text(path: Path) -> &'static str {
    json::path(path).unwrap_or("-")
}

/// What the node as a whole uses, and whether that was chosen for it.
pub(super) fn sync_text(status: &StatusResponse) -> String {
    let pinned = json::pinned(status.mode()).map(|path| format!(" (pinned to {path})")).unwrap_or_default();
    format!("{}{pinned}", json::sync_mode(status.sync_mode()))
}
