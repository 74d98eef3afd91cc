//! How each notice reads, word for word as operators of the earlier system know it.

use std::collections::BTreeMap;
use std::time::Duration;

use lattice_core::coordinator::{Clock as Judgement, Notice, Route};
use lattice_core::failover::{self, Health, Mode, Path};
use lattice_core::hearing::Refused;
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::pull::{Ended, Outcome, Repaired};
use lattice_core::seal::Root;
use lattice_proto::coordinator::v1 as wire;

const P2P_SENSOR: &str = "P2P_SENSOR";
const STATE_STORE: &str = "STATE_STORE";
const COORDINATOR: &str = "COORDINATOR";

/// What people call the peers.
pub type Names = BTreeMap<NodeId, String>;

/// An event as it is logged and streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `P2P_SENSOR`, `HTTP_SYNC` and so on.
    pub component: &'static str,
    /// `LUNG`, `DIVERGENCE` and so on.
    pub tag: Option<&'static str>,
    /// The words.
    pub message: String,
    /// A stable name for programs.
    pub kind: &'static str,
    /// Whom it concerns.
    pub node: Option<NodeId>,
    /// The path that it concerns.
    pub path: Option<Path>,
    /// A person should look.
    pub alarm: bool,
}

/// A notice as operators read it; `None` for what is for debugging alone.
pub fn line_of(notice: &Notice, names: &Names) -> Option<Line> {
    let by = |node: &NodeId| name_of(node, names);
    let line = match notice {
        Notice::PeerCount { live: 0 } => {
            Line::new(P2P_SENSOR, None, "peer_count", "Peer count: 0 (P2P down detected)")
        }
        Notice::PeerCount { live } => {
            Line::new(P2P_SENSOR, None, "peer_count", format!("Peer count: {live}"))
        }
        Notice::SensorUnavailable { reason } => {
            Line::new(P2P_SENSOR, None, "sensor_unavailable", format!("Unavailable: {reason}"))
        }
        Notice::SensorAnswers => Line::new(P2P_SENSOR, None, "sensor_answers", "Available again"),
        Notice::StoreUnavailable { reason } => {
            Line::new(STATE_STORE, None, "store_unavailable", format!("Unavailable: {reason}"))
        }
        Notice::StoreAnswers => Line::new(STATE_STORE, None, "store_answers", "Available again"),
        Notice::Recovering => Line::new(
            STATE_STORE,
            Some("RECOVERY"),
            "recovering",
            "Recovering from a loss: what is absent is not told until all live peers were pulled from",
        )
        .alarm(),
        Notice::Recovered => {
            Line::new(STATE_STORE, Some("RECOVERY"), "recovered", "Recovered: what is absent is told again")
        }
        Notice::TimerStarted { after } => Line::new(
            "P2P_HEARTBEAT",
            Some("TIMER"),
            "timer",
            format!("No live peers: HTTP fallback in {}", duration(*after)),
        ),
        Notice::FallbackActivated => {
            Line::new(sync(Path::Http), Some("LUNG"), "fallback", "Activating HTTP fallback").on(Path::Http)
        }
        Notice::Returned => {
            Line::new(sync(Path::P2p), Some("LUNG"), "returned", "Returning to P2P").on(Path::P2p)
        }
        Notice::HealthChanged(health) => {
            Line::new(COORDINATOR, Some("HEALTH"), "health", format!("Health: {}", health_name(*health)))
        }
        Notice::PathChanged { peer, path: to } => {
            let message = format!("{} is reached by {} from now on", by(peer), path(*to));
            Line::new(sync(*to), Some("PATH"), "path", message).on(*to).of(*peer)
        }
        Notice::Diverged { peer, route, count, pull_in, .. } => {
            let paused = pull_in.map(|wait| format!(", next pull in {}", rounded(wait))).unwrap_or_default();
            let message = format!("Detected from {} (count: {count}{paused})", called(peer, route, names));
            Line::new(sync(route.path()), Some("DIVERGENCE"), "divergence", message)
                .on(route.path())
                .of(*peer)
        }
        Notice::PullTriggered { peer, route, .. } => {
            let message = format!("Triggering state reconciliation with {}", called(peer, route, names));
            Line::new(sync(route.path()), Some("SURGEON"), "pull_started", message).on(route.path()).of(*peer)
        }
        Notice::NoTrust => Line::new(
            sync(Path::Http),
            Some("TRUST"),
            "no_trust",
            "No trusted keys: reconciling with nobody (node.trusted_keys)",
        ),
        // Harmless, or followed by a hello that settles it.
        Notice::AnnouncementRefused {
            reason: Refused::Repeated { .. } | Refused::Unconfirmed { .. },
            ..
        } => {
            return None;
        }
        // The URL is told of, once.
        Notice::AnnouncementRefused { route: Route::Http { .. }, .. } => return None,
        Notice::AnnouncementRefused { node, route: Route::P2p, reason } => {
            let message = format!("Announcement of {} refused: {reason}", by(node));
            Line::new(sync(Path::P2p), Some("REFUSED"), "refused", message).on(Path::P2p).of(*node)
        }
        Notice::Contradiction { peer, incarnation, epoch } => {
            let message = format!(
                "{} signed two roots for epoch {epoch} (incarnation {incarnation}): its disk was rolled back, or it lies",
                by(peer)
            );
            Line::new(COORDINATOR, Some("CONTRADICTION"), "contradiction", message).of(*peer)
        }
        Notice::NewIncarnation { peer, incarnation, replaced: Some(replaced) } => {
            let message = format!("{} has a new store: {incarnation} replaces {replaced}", by(peer));
            Line::new(COORDINATOR, Some("INCARNATION"), "incarnation", message).of(*peer)
        }
        Notice::UrlIdentified { url, node } => {
            let message = format!("{url} is {}", by(node));
            Line::new(sync(Path::Http), Some("PEER"), "url_identified", message).on(Path::Http).of(*node)
        }
        Notice::UrlIsOurs { url } => {
            let message = format!("{url} is this node itself: skipped");
            Line::new(sync(Path::Http), Some("PEER"), "url_is_ours", message).on(Path::Http)
        }
        Notice::UrlFailed { url, node, reason } => {
            let message = format!("{url} does not work: {reason}");
            Line {
                node: *node,
                ..Line::new(sync(Path::Http), Some("PEER"), "url_failed", message).on(Path::Http)
            }
        }
        Notice::UrlWorks { url, node } => {
            let message = format!("{url} works again");
            Line::new(sync(Path::Http), Some("PEER"), "url_works", message).on(Path::Http).of(*node)
        }
        Notice::PeerClock { peer, ahead_ms: Some(ahead_ms) } => {
            let (by_ms, side) = (ahead_ms.unsigned_abs(), if *ahead_ms < 0 { "behind" } else { "ahead of" });
            let message = format!("The clock of {} is {by_ms} ms {side} ours", by(peer));
            Line::new(COORDINATOR, Some("CLOCK"), "peer_clock", message).of(*peer)
        }
        Notice::PeerClock { peer, ahead_ms: None } => {
            let message = format!("The clock of {} is right again", by(peer));
            Line::new(COORDINATOR, Some("CLOCK"), "peer_clock", message).of(*peer)
        }
        Notice::OwnClock(judgement) => {
            let message = match clock_error(judgement, names) {
                Some(error) => error,
                None if *judgement == Judgement::Unknown => return None,
                None => "Our clock agrees with our peers".to_owned(),
            };
            Line::new(COORDINATOR, Some("CLOCK"), "own_clock", message)
        }
        Notice::RolledBack {
            peer,
            incarnation,
            heard_sequence,
            own_sequence,
            heard_epoch,
            own_epoch,
            renewed_in,
        } => {
            let said = match peer {
                Some(peer) => format!(
                    "{} heard sequence {heard_sequence} and epoch {heard_epoch}, we know of {own_sequence} and \
                     {own_epoch}",
                    by(peer)
                ),
                None => format!("sequence {heard_sequence} was used, and the store gives {own_sequence}"),
            };
            let message = format!("Our disk was rolled back: {said}; {}", given_up(incarnation, *renewed_in));
            let line = Line::new(COORDINATOR, Some("INCARNATION"), "rolled_back", message).alarm();
            Line { node: *peer, ..line }
        }
        Notice::Reappeared { incarnation } => {
            let message = format!(
                "Our disk was rolled back: incarnation {incarnation} was given up before, and is again"
            );
            Line::new(COORDINATOR, Some("INCARNATION"), "rolled_back", message).alarm()
        }
        Notice::Disowned { peer, incarnation, renewed_in } => {
            let message = format!(
                "{} knows a newer incarnation of this node: an older copy of the store was put back, or another \
                 node uses this key; {}",
                by(peer),
                given_up(incarnation, *renewed_in)
            );
            Line::new(COORDINATOR, Some("INCARNATION"), "disowned", message).of(*peer).alarm()
        }
        Notice::ModeSwitched { mode } => {
            Line::new(COORDINATOR, Some("MODE"), "mode", format!("Mode: {}", mode_name(*mode)))
        }
        // Told by other lines already, or of no use to an operator.
        Notice::SyncModeChanged(_)
        | Notice::FailoverChanged { .. }
        | Notice::Agreed { .. }
        | Notice::NewIncarnation { replaced: None, .. } => return None,
    };
    Some(line)
}

/// What becomes of our incarnation.
fn given_up(incarnation: &Incarnation, renewed_in: Duration) -> String {
    match renewed_in {
        Duration::ZERO => format!("incarnation {incarnation} is given up"),
        // Not again so soon: the one who says so may lie, or a second node be the cause.
        later => {
            format!("incarnation {incarnation} is given up in {}, as others were before it", rounded(later))
        }
    }
}

/// How a pull ended, as operators read it.
pub fn ended_line(ended: &Ended, peer: &str) -> Line {
    let message = match ended.outcome {
        Outcome::Healed => format!(
            "State synchronized: {} entries in {}, {} rounds",
            ended.entries_merged,
            bytes(ended.traffic.bytes_in),
            ended.rounds
        ),
        outcome @ (Outcome::Stale
        | Outcome::Refused
        | Outcome::Lied
        | Outcome::TimedOut
        | Outcome::Lost
        | Outcome::NoProgress) => {
            format!("Not healed with {peer}: {outcome} ({})", ended.detail)
        }
    };
    Line::new(sync(ended.path), Some("RECONCILIATION"), "pull_ended", message).on(ended.path).of(ended.peer)
}

/// What a repair came to, as operators read it.
pub fn repaired_line(ended: &Ended, repaired: &Repaired, peer: &str) -> Line {
    let Repaired { sought, repaired, .. } = repaired;
    let message = match ended.outcome {
        Outcome::Healed => format!(
            "Repaired {repaired} of {sought} damaged keys from {peer}: {}, {} rounds",
            bytes(ended.traffic.bytes_in),
            ended.rounds
        ),
        outcome @ (Outcome::Stale
        | Outcome::Refused
        | Outcome::Lied
        | Outcome::TimedOut
        | Outcome::Lost
        | Outcome::NoProgress) => {
            format!("Repaired {repaired} of {sought} damaged keys from {peer}: {outcome} ({})", ended.detail)
        }
    };
    Line::new(sync(ended.path), Some("REPAIR"), "repair_ended", message).on(ended.path).of(ended.peer)
}

/// The root that a heal led to, as operators read it.
pub fn root_line(peer: NodeId, path: Path, root: Option<&Root>) -> Line {
    let root = root.map_or_else(|| "null".to_owned(), |root| format!("{:.6}...", root.digest.to_string()));
    let message = format!("New Merkle Root: {root}");
    Line::new(sync(path), Some("RECONCILIATION"), "root", message).on(path).of(peer)
}

/// What is wrong with our clock, if others say so.
pub(crate) fn clock_error(judgement: &Judgement, names: &Names) -> Option<String> {
    match judgement {
        Judgement::Unknown | Judgement::Confirmed => None,
        Judgement::Wrong { behind_ms, peers } => {
            let side = if *behind_ms < 0 { "ahead" } else { "behind" };
            let peers: Vec<_> = peers.iter().map(|peer| name_of(peer, names)).collect();
            Some(format!("Our clock is {} ms {side}, say {}", behind_ms.unsigned_abs(), peers.join(", ")))
        }
    }
}

/// The peer as people call it: its URL on HTTP, its name on P2P.
pub(crate) fn called(node: &NodeId, route: &Route, names: &Names) -> String {
    match route {
        Route::Http { url } => url.clone(),
        Route::P2p => name_of(node, names),
    }
}

/// As people know it best: its name, else the URL that it was reached at, else the beginning of its key.
pub(crate) fn known_as(node: &NodeId, route: Option<&Route>, names: &Names) -> String {
    match route {
        Some(Route::Http { url }) if names.get(node).is_none_or(String::is_empty) => url.clone(),
        Some(Route::Http { .. } | Route::P2p) | None => name_of(node, names),
    }
}

/// Its name, or the beginning of its key while it has none.
pub(crate) fn name_of(node: &NodeId, names: &Names) -> String {
    match names.get(node) {
        Some(name) if !name.is_empty() => name.clone(),
        Some(_) | None => node.short(),
    }
}

/// As operators and programs read it.
pub(crate) fn path(path: Path) -> &'static str {
    match path {
        Path::P2p => "P2P",
        Path::Http => "HTTP",
    }
}

/// On the wire.
pub(crate) fn wire_path(path: Path) -> wire::Path {
    match path {
        Path::P2p => wire::Path::P2p,
        Path::Http => wire::Path::Http,
    }
}

/// As operators and programs read it.
pub(crate) fn failover(state: failover::State) -> &'static str {
    match state {
        failover::State::Primary => "primary",
        failover::State::PrimarySuspect { .. } => "primary suspect",
        failover::State::Secondary => "secondary",
        failover::State::PrimaryReturning { .. } => "primary returning",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::P2p => "p2p",
        Mode::Http => "http",
    }
}

fn health_name(health: Health) -> &'static str {
    match health {
        Health::Optimal => "OPTIMAL",
        Health::P2pOnly => "P2P_ONLY",
        Health::HttpOnly => "HTTP_ONLY",
        Health::Isolated => "ISOLATED",
    }
}

fn sync(path: Path) -> &'static str {
    match path {
        Path::P2p => "P2P_SYNC",
        Path::Http => "HTTP_SYNC",
    }
}

/// In whole seconds where it is: `60s`, else `1500ms`.
fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// Whole seconds, for what is not exact.
fn rounded(wait: Duration) -> String {
    format!("{}s", wait.as_millis().div_ceil(1_000))
}

/// `512 B`, `1.1 KiB`, `3.0 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let size = bytes as f64;
    if bytes < 1024 {
        format!("{bytes} B")
    } else if size < KIB * KIB {
        format!("{:.1} KiB", size / KIB)
    } else {
        format!("{:.1} MiB", size / (KIB * KIB))
    }
}

impl Line {
    fn new(
        component: &'static str,
        tag: Option<&'static str>,
        kind: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { component, tag, message: message.into(), kind, node: None, path: None, alarm: false }
    }

    fn on(mut self, path: Path) -> Self {
        self.path = Some(path);
        self
    }

    fn of(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    fn alarm(mut self) -> Self {
        self.alarm = true;
        self
    }
}
