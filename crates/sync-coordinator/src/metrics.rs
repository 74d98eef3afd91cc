//! The coordinator's metrics. Every series of a closed label set is there from the start, with 0; so is one
//! for each trusted key.

use std::collections::BTreeSet;

use lattice_core::coordinator::Status;
use lattice_core::failover::{Path, SyncMode};
use lattice_core::model::NodeId;
use lattice_core::pull::{Ended, Outcome, Repaired};
use lattice_runtime::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Metric;

/// Seconds: from a pull of nothing over loopback to one that fills a store.
const DURATION_BUCKETS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

const PATHS: [Path; 2] = [Path::P2p, Path::Http];

const FAILOVER_STATES: [&str; 4] = ["primary", "primary suspect", "secondary", "primary returning"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPath {
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeer {
    peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPull {
    path: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRepair {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What came of a delta.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delta {
    /// Ours, and somebody subscribes.
    Sent,
    /// Ours, and nobody subscribes, or the sensor is away.
    NotSent,
    /// A peer's, merged.
    Merged,
    /// A peer's, and not what its signer may say.
    Refused,
    /// A peer's, and too many are waiting, or the store is away.
    Dropped,
}

impl Delta {
    const ALL: [Self; 5] = [Self::Sent, Self::NotSent, Self::Merged, Self::Refused, Self::Dropped];

    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::NotSent => "not_sent",
            Self::Merged => "merged",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// A sibling that the coordinator depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sibling {
    Store,
    Sensor,
}

impl Sibling {
    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Sensor => "sensor",
        }
    }
}

/// What repairs come to whose peer has answered everything: all that was looked for is mended, or some, or none.
const REPAIRED: [&str; 3] = ["All", "Some", "None"];

/// Names under which announcements are refused.
const REFUSALS: [&str; 8] =
    ["untrusted", "cluster", "epoch_length", "repeated", "sequence", "unconfirmed", "replaced", "runs"];

/// Handles to all of them; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    path: Family<OfPath, Gauge>,
    path_switches: Family<To, Counter>,
    divergence: Family<OfPeer, Gauge>,
    divergences: Family<OfPath, Counter>,
    pulls: Family<OfPull, Counter>,
    pull_duration: Histogram,
    pull_bytes: Family<Direction, Counter>,
    pulls_running: Gauge,
    repairs: Family<OfRepair, Counter>,
    repaired_keys: Counter,
    recovering: Gauge,
    failover: Family<OfState, Gauge>,
    polls: Family<Result, Counter>,
    deltas: Family<Result, Counter>,
    refused: Family<Reason, Counter>,
    up: Family<Service, Gauge>,
    events_missed: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            path: Family::default(),
            path_switches: Family::default(),
            divergence: Family::default(),
            divergences: Family::default(),
            pulls: Family::default(),
            pull_duration: Histogram::new(DURATION_BUCKETS),
            pull_bytes: Family::default(),
            pulls_running: Gauge::default(),
            repairs: Family::default(),
            repaired_keys: Counter::default(),
            recovering: Gauge::default(),
            failover: Family::default(),
            polls: Family::default(),
            deltas: Family::default(),
            refused: Family::default(),
            up: Family::default(),
            events_missed: Counter::default(),
        };
        registry.with(|registry| {
            add(registry, "path", "Whether the node as a whole uses this path", metrics.path.clone());
            add(
                registry,
                "path_switches",
                "Changes of the node's path, to this one",
                metrics.path_switches.clone(),
            );
            add(
                registry,
                "divergence",
                "Consecutive differences counted of a peer",
                metrics.divergence.clone(),
            );
            add(registry, "divergences", "Differences counted", metrics.divergences.clone());
            add(registry, "pulls", "Pulls that have ended", metrics.pulls.clone());
            add(registry, "pull_duration_seconds", "Duration of pulls", metrics.pull_duration.clone());
            add(registry, "pull_bytes", "Bytes of signed envelopes of pulls", metrics.pull_bytes.clone());
            add(registry, "pulls_running", "Pulls under way", metrics.pulls_running.clone());
            add(
                registry,
                "repairs",
                "Repairs that have ended: of all keys looked for, of some, of none, or why not",
                metrics.repairs.clone(),
            );
            add(registry, "repaired_keys", "Damaged keys that were mended", metrics.repaired_keys.clone());
            add(
                registry,
                "recovering",
                "Whether the store waits for pulls from all live peers after a loss",
                metrics.recovering.clone(),
            );
            add(registry, "failover", "Peers by failover state", metrics.failover.clone());
            add(registry, "polls", "Polls over HTTP", metrics.polls.clone());
            add(registry, "deltas", "Deltas of local writes, sent and received", metrics.deltas.clone());
            add(
                registry,
                "announcements_refused",
                "Announcements that were not heard",
                metrics.refused.clone(),
            );
            add(registry, "sibling_up", "Whether a sibling service answers", metrics.up.clone());
            add(registry, "events_missed", "Events lost to slow readers", metrics.events_missed.clone());
        });
        metrics.start();
        metrics
    }

    /// Makes every series of a closed label set.
    fn start(&self) {
        for path in PATHS {
            drop(self.path.get_or_create(&OfPath { path: name(path) }));
            drop(self.path_switches.get_or_create(&To { to: name(path) }));
            drop(self.divergences.get_or_create(&OfPath { path: name(path) }));
            for outcome in Outcome::ALL {
                drop(self.pulls.get_or_create(&OfPull { path: name(path), outcome: outcome.name() }));
            }
        }
        for outcome in REPAIRED.into_iter().chain(Outcome::ALL.map(Outcome::name)) {
            if outcome != Outcome::Healed.name() {
                drop(self.repairs.get_or_create(&OfRepair { outcome }));
            }
        }
        for direction in ["in", "out"] {
            drop(self.pull_bytes.get_or_create(&Direction { direction }));
        }
        for state in FAILOVER_STATES {
            drop(self.failover.get_or_create(&OfState { state }));
        }
        for result in ["ok", "failed"] {
            drop(self.polls.get_or_create(&Result { result }));
        }
        for result in Delta::ALL.map(Delta::name) {
            drop(self.deltas.get_or_create(&Result { result }));
        }
        for reason in REFUSALS {
            drop(self.refused.get_or_create(&Reason { reason }));
        }
        for service in [Sibling::Store, Sibling::Sensor].map(Sibling::name) {
            drop(self.up.get_or_create(&Service { service }));
        }
    }

    /// One series for each trusted key, and none for others.
    pub(crate) fn trust(&self, before: &BTreeSet<NodeId>, now: &BTreeSet<NodeId>) {
        for gone in before.difference(now) {
            self.divergence.remove(&OfPeer { peer: gone.to_string() });
        }
        for node in now {
            drop(self.divergence.get_or_create(&OfPeer { peer: node.to_string() }));
        }
    }

    /// What the machine knows.
    pub(crate) fn status(&self, status: &Status) {
        let used = match status.sync_mode {
            SyncMode::P2p => Some(Path::P2p),
            SyncMode::Http => Some(Path::Http),
            SyncMode::None => None,
        };
        for path in PATHS {
            self.path.get_or_create(&OfPath { path: name(path) }).set(i64::from(used == Some(path)));
        }
        for state in FAILOVER_STATES {
            let peers = status.peers.iter().filter(|peer| crate::report::failover(peer.failover) == state);
            self.failover.get_or_create(&OfState { state }).set(number(peers.count()));
        }
        for peer in &status.peers {
            let peer_label = OfPeer { peer: peer.node.to_string() };
            self.divergence.get_or_create(&peer_label).set(i64::from(peer.divergence_count));
        }
        self.pulls_running.set(number(status.pulls_running));
        self.recovering.set(i64::from(status.recovering));
    }

    pub(crate) fn switched(&self, to: Path) {
        self.path_switches.get_or_create(&To { to: name(to) }).inc();
    }

    pub(crate) fn diverged(&self, peer: NodeId, path: Path, count: u32) {
        self.divergences.get_or_create(&OfPath { path: name(path) }).inc();
        self.divergence.get_or_create(&OfPeer { peer: peer.to_string() }).set(i64::from(count));
    }

    pub(crate) fn agreed(&self, peer: NodeId) {
        self.divergence.get_or_create(&OfPeer { peer: peer.to_string() }).set(0);
    }

    pub(crate) fn pull_ended(&self, ended: &Ended) {
        let label = OfPull { path: name(ended.path), outcome: ended.outcome.name() };
        self.pulls.get_or_create(&label).inc();
        self.pull_duration.observe(ended.ended.since(ended.started).as_secs_f64());
        self.pull_bytes(ended);
    }

    /// A repair costs what a pull costs, and is none.
    pub(crate) fn repair_ended(&self, ended: &Ended, repaired: &Repaired) {
        let [all, some, none] = REPAIRED;
        let outcome = match (ended.outcome, repaired.repaired) {
            (Outcome::Healed, 0) => none,
            (Outcome::Healed, repairs) if repairs < repaired.sought => some,
            (Outcome::Healed, _) => all,
            (outcome, _) => outcome.name(),
        };
        self.repairs.get_or_create(&OfRepair { outcome }).inc();
        self.repaired_keys.inc_by(repaired.repaired);
        self.pull_bytes(ended);
    }

    fn pull_bytes(&self, ended: &Ended) {
        let bytes = |direction, bytes| self.pull_bytes.get_or_create(&Direction { direction }).inc_by(bytes);
        bytes("in", ended.traffic.bytes_in);
        bytes("out", ended.traffic.bytes_out);
    }

    pub(crate) fn polled(&self, good: bool) {
        self.polls.get_or_create(&Result { result: if good { "ok" } else { "failed" } }).inc();
    }

    pub(crate) fn delta(&self, delta: Delta) {
        self.deltas.get_or_create(&Result { result: delta.name() }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn up(&self, sibling: Sibling, up: bool) {
        self.up.get_or_create(&Service { service: sibling.name() }).set(i64::from(up));
    }

    pub(crate) fn missed(&self, events: u64) {
        self.events_missed.inc_by(events);
    }
}

fn add(registry: &mut prometheus_client::registry::Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(format!("lattice_coordinator_{name}"), help, metric);
}

fn name(path: Path) -> &'static str {
    crate::report::path(path)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_label_sets_and_trusted_keys_start_with_zero() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        metrics.trust(&BTreeSet::new(), &BTreeSet::from([a, b]));
        metrics.trust(&BTreeSet::from([a, b]), &BTreeSet::from([b]));
        let text = registry.encode();
        for line in [
            "lattice_coordinator_path{path=\"P2P\"} 0",
            "lattice_coordinator_path_switches_total{to=\"HTTP\"} 0",
            "lattice_coordinator_divergences_total{path=\"P2P\"} 0",
            "lattice_coordinator_pulls_total{path=\"HTTP\",outcome=\"Healed\"} 0",
            "lattice_coordinator_pulls_total{path=\"P2P\",outcome=\"NoProgress\"} 0",
            "lattice_coordinator_pull_duration_seconds_count 0",
            "lattice_coordinator_repairs_total{outcome=\"All\"} 0",
            "lattice_coordinator_repairs_total{outcome=\"TimedOut\"} 0",
            "lattice_coordinator_recovering 0",
            "lattice_coordinator_pull_bytes_total{direction=\"in\"} 0",
            &format!("lattice_coordinator_divergence{{peer=\"{b}\"}} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains(&a.to_string()), "a key that is no longer trusted has no series");
    }
}
