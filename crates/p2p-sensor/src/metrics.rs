//! What the sensor counts. Every series exists from the start, with 0.

use lattice_core::liveness::Counts;
use lattice_runtime::Metrics as Registered;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::membership::Denied;

/// The sensor's metrics; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    peers: Family<State, Gauge>,
    announcements: Family<Kind, Counter>,
    announcements_refused: Family<Reason, Counter>,
    dials: Family<Outcome, Counter>,
    connections_refused: Family<Reason, Counter>,
    exchanges: Family<Exchange, Counter>,
    gossip: Family<Kind, Counter>,
    pub(crate) observations_lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exchange {
    direction: Direction,
    outcome: &'static str,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// A peer asked us.
    In,
    /// We asked a peer.
    Out,
}

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// Sent to one peer.
    Sent,
    /// Sent, and the peer did not take it.
    Failed,
    /// A peer's, valid.
    Heard,
}

/// Why a peer's announcement was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not a well-formed announcement.
    Malformed,
    /// It is of another cluster.
    Cluster,
    /// It names another node than the one whose connection it came on.
    Signer,
    /// The node that it names did not sign it.
    Signature,
    /// The peer has been removed meanwhile.
    Untrusted,
}

/// How a dial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    /// A peer is connected.
    Connected,
    /// Nobody, or somebody else, is there.
    Failed,
    /// A stranger is there.
    Refused,
    /// We are there.
    Own,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Answered.
    Answered,
    /// Nobody answers there.
    Unanswered,
    /// Not in time.
    TimedOut,
    /// Too many at a time.
    Busy,
    /// The connection is missing, or broke.
    Failed,
}

/// What became of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gossip {
    /// Ours, sent to somebody.
    Published,
    /// Ours, and nobody subscribes.
    NoPeers,
    /// Sent or forwarded to a peer, and its queue had no room, or it waited there too long.
    Dropped,
    /// A peer's, handed on.
    Heard,
    /// Signed by a stranger, or malformed.
    Refused,
}

const STATES: [&str; 3] = ["live", "zombie", "connected"];
const DIRECTIONS: [Direction; 2] = [Direction::In, Direction::Out];

impl Metrics {
    pub(crate) fn new(registered: &Registered) -> Self {
        let metrics = Self::default();
        metrics.start_at_zero();
        registered.with(|registry| {
            let m = metrics.clone();
            registry.register(
                "lattice_sensor_peers",
                "Peers by state; connected is live, zombie and not heard yet",
                m.peers,
            );
            registry.register(
                "lattice_sensor_announcements",
                "Announcements by what became of them",
                m.announcements,
            );
            registry.register(
                "lattice_sensor_announcements_refused",
                "Announcements of peers that were refused",
                m.announcements_refused,
            );
            registry.register("lattice_sensor_dials", "Dials by outcome", m.dials);
            registry.register(
                "lattice_sensor_connections_refused",
                "Connections refused",
                m.connections_refused,
            );
            registry.register("lattice_sensor_exchanges", "Exchanges by direction and outcome", m.exchanges);
            registry.register("lattice_sensor_gossip", "Deltas by what became of them", m.gossip);
            registry.register(
                "lattice_sensor_observations_lost",
                "Announcements and deltas that a reader was too slow for",
                m.observations_lost,
            );
        });
        metrics
    }

    fn start_at_zero(&self) {
        for state in STATES {
            drop(self.peers.get_or_create(&State { state }));
        }
        for what in [Announcement::Sent, Announcement::Failed, Announcement::Heard] {
            drop(self.announcements.get_or_create(&Kind { kind: what.label() }));
        }
        use Refused::{Cluster, Malformed, Signature, Signer, Untrusted};
        for reason in [Malformed, Cluster, Signer, Signature, Untrusted] {
            drop(self.announcements_refused.get_or_create(&Reason { reason: reason.label() }));
        }
        for outcome in [Dial::Connected, Dial::Failed, Dial::Refused, Dial::Own] {
            drop(self.dials.get_or_create(&Outcome { outcome: outcome.label() }));
        }
        for denied in [Denied::Untrusted, Denied::Cut, Denied::Pending] {
            drop(self.connections_refused.get_or_create(&Reason { reason: denied_label(denied) }));
        }
        for direction in DIRECTIONS {
            for ended in [Ended::Answered, Ended::Unanswered, Ended::TimedOut, Ended::Busy, Ended::Failed] {
                drop(self.exchanges.get_or_create(&Exchange { direction, outcome: ended.label() }));
            }
        }
        use Gossip::{Dropped, Heard, NoPeers, Published};
        for what in [Published, NoPeers, Dropped, Heard, Gossip::Refused] {
            drop(self.gossip.get_or_create(&Kind { kind: what.label() }));
        }
    }

    /// How many peers are what.
    pub(crate) fn set_peers(&self, counts: Counts) {
        for (state, count) in STATES.into_iter().zip([counts.live, counts.zombie, counts.connected()]) {
            self.peers.get_or_create(&State { state }).set(count as i64);
        }
    }

    pub(crate) fn announcement(&self, what: Announcement) {
        self.announcements.get_or_create(&Kind { kind: what.label() }).inc();
    }

    pub(crate) fn announcement_refused(&self, reason: Refused) {
        self.announcements_refused.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    pub(crate) fn dial(&self, outcome: Dial) {
        self.dials.get_or_create(&Outcome { outcome: outcome.label() }).inc();
    }

    pub(crate) fn connection_refused(&self, denied: Denied) {
        self.connections_refused.get_or_create(&Reason { reason: denied_label(denied) }).inc();
    }

    pub(crate) fn exchange(&self, direction: Direction, ended: Ended) {
        self.exchanges.get_or_create(&Exchange { direction, outcome: ended.label() }).inc();
    }

    pub(crate) fn gossip(&self, what: Gossip) {
        self.gossip.get_or_create(&Kind { kind: what.label() }).inc();
    }

    /// So many deltas never left for a peer that was too slow for them.
    pub(crate) fn gossip_lost(&self, count: u64) {
        self.gossip.get_or_create(&Kind { kind: Gossip::Dropped.label() }).inc_by(count);
    }
}

impl Announcement {
    fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Heard => "heard",
        }
    }
}

impl Refused {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Cluster => "cluster",
            Self::Signer => "signer",
            Self::Signature => "signature",
            Self::Untrusted => "untrusted",
        }
    }
}

impl Dial {
    fn label(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Own => "own",
        }
    }
}

impl Ended {
    fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unanswered => "unanswered",
            Self::TimedOut => "timed_out",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

impl Gossip {
    fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::NoPeers => "no_peers",
            Self::Dropped => "dropped",
            Self::Heard => "heard",
            Self::Refused => "refused",
        }
    }
}

fn denied_label(denied: Denied) -> &'static str {
    match denied {
        Denied::Untrusted => "untrusted",
        Denied::Cut => "cut",
        Denied::Pending => "pending",
    }
}

impl prometheus_client::encoding::EncodeLabelValue for Direction {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        text.encode(encoder)
    }
}
