//! What the coordinator knows, at one moment.

use std::time::Duration;

use crate::failover::{self, Health, Mode, Path, SyncMode};
use crate::liveness;
use crate::model::{Incarnation, NodeId};
use crate::pull;
use crate::time::Monotonic;

use super::Clock;

/// What the coordinator knows, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What the operator wants.
    pub mode: Mode,
    /// The path of the node as a whole.
    pub sync_mode: SyncMode,
    /// Which paths work.
    pub health: Health,
    /// What the sensor says.
    pub sensor: SensorStatus,
    /// Every known peer, ordered by key.
    pub peers: Vec<PeerStatus>,
    /// Every URL, in order of configuration.
    pub urls: Vec<UrlStatus>,
    /// Until the node as a whole goes to HTTP; `None` when no timer runs.
    pub fallback_in: Option<Duration>,
    /// Why the store does not answer; `None` when it does.
    pub store_error: Option<String>,
    /// Our store lost entries, and does not know which.
    pub recovering: bool,
    /// How many keys of our store are known to be damaged.
    pub damaged: u64,
    /// Announcements go out at every heartbeat.
    pub heartbeat_active: bool,
    /// What others say of our clock.
    pub clock: Clock,
    /// Pulls that are running.
    pub pulls_running: usize,
    /// Pulls that wait for a place, a path or their backoff.
    pub pulls_waiting: usize,
}

/// What the sensor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorStatus {
    /// It answers.
    pub available: bool,
    /// P2P is enabled.
    pub enabled: bool,
    /// libp2p is up.
    pub started: bool,
    /// Why it is not, or why the sensor does not answer.
    pub error: String,
    /// Known peers that are live.
    pub live: usize,
    /// Known peers that are connected and silent.
    pub zombie: usize,
    /// Both together, and those that have just connected.
    pub connected: usize,
}

/// A known peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// What it calls itself; empty when it was never heard.
    pub name: String,
    /// Where it listens for libp2p, as it says and as it is connected.
    pub addresses: Vec<String>,
    /// The URL that leads to it.
    pub url: Option<String>,
    /// What the sensor sees of it.
    pub state: liveness::State,
    /// When it was last heard, on either path.
    pub heard: Option<Monotonic>,
    /// The incarnation that is believed.
    pub incarnation: Option<Incarnation>,
    /// The path in use.
    pub path: Path,
    /// Where the failover machine stands.
    pub failover: failover::State,
    /// Consecutive differences.
    pub divergence_count: u32,
    /// Until the next pull may start.
    pub backoff: Duration,
    /// Epochs between our newest seal and the peer's, when ours is the newer one.
    pub lag_epochs: u64,
    /// The pull that is running.
    pub pull: Option<pull::Id>,
    /// What went wrong so far with the peer itself (hellos over P2P, refused announcements, failed pulls), and at
    /// [`Self::url`] (polls, hellos, pulls without an answer). Errors of other URLs are theirs alone.
    pub errors: u64,
    /// The last of these that nothing has worked after; empty for none.
    pub last_error: String,
}

/// What is known of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlState {
    /// It never said who it is.
    Unknown,
    /// It leads to this node, trusted or not.
    Of(NodeId),
    /// It leads to ourselves.
    Ours,
}

/// A configured URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlStatus {
    /// The base URL.
    pub url: String,
    /// Whose it is.
    pub state: UrlState,
    /// The last poll was good.
    pub works: bool,
    /// Polls, hellos and pulls that failed there.
    pub errors: u64,
    /// The last failure; empty for none, and when it has worked since.
    pub last_error: String,
}
