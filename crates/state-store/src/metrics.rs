//! The store's metrics. All series exist from the start.

use std::time::Duration;

use lattice_core::exchange::Reason;
use lattice_runtime::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::engine::{FindingKind, Merged, Stats};

/// Seconds: from a commit on a fast disk to one behind a slow one.
const COMMIT_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Seconds: from an entry that just missed its seal to one that no wait would have caught.
const LATENESS_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 600.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    entries: Gauge,
    tombstones: Gauge,
    sealed_epoch: Gauge,
    pending: Gauge,
    held: Gauge,
    held_bytes: Gauge,
    settle_ms: Gauge,
    halted: Gauge,
    failed: Gauge,
    disk_free_bytes: Gauge,
    disk_full: Gauge,
    commit_duration: Histogram,
    commits: Counter,
    seals: Counter,
    lateness: Histogram,
    conflicts: Counter,
    queue: Gauge,
    merged: Family<Outcome, Counter>,
    exchanges: Family<Outcome, Counter>,
    damaged: Gauge,
    recovering: Gauge,
    found: Family<Kind, Counter>,
    check_bytes: Counter,
    check_passes: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

const FINDINGS: [FindingKind; 5] =
    [FindingKind::Entry, FindingKind::Node, FindingKind::Uncovered, FindingKind::Other, FindingKind::Mended];

fn finding(kind: FindingKind) -> Kind {
    let kind = match kind {
        FindingKind::Entry => "entry",
        FindingKind::Node => "node",
        FindingKind::Uncovered => "uncovered",
        FindingKind::Other => "other",
        FindingKind::Mended => "mended",
    };
    Kind { kind }
}

const MERGE_OUTCOMES: [&str; 5] = ["merged", "known", "held", "dropped", "repaired"];
const REASONS: [Reason; 10] = [
    Reason::Challenge,
    Reason::Untrusted,
    Reason::Cluster,
    Reason::Receiver,
    Reason::Incarnation,
    Reason::Signature,
    Reason::Malformed,
    Reason::Empty,
    Reason::Busy,
    Reason::Unavailable,
];

fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Challenge => "challenge",
        Reason::Untrusted => "untrusted",
        Reason::Cluster => "cluster",
        Reason::Receiver => "receiver",
        Reason::Incarnation => "incarnation",
        Reason::Signature => "signature",
        Reason::Malformed => "malformed",
        Reason::Empty => "empty",
        Reason::Busy => "busy",
        Reason::Unavailable => "unavailable",
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            entries: Gauge::default(),
            tombstones: Gauge::default(),
            sealed_epoch: Gauge::default(),
            pending: Gauge::default(),
            held: Gauge::default(),
            held_bytes: Gauge::default(),
            settle_ms: Gauge::default(),
            halted: Gauge::default(),
            failed: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            disk_full: Gauge::default(),
            commit_duration: Histogram::new(COMMIT_BUCKETS),
            commits: Counter::default(),
            seals: Counter::default(),
            lateness: Histogram::new(LATENESS_BUCKETS),
            conflicts: Counter::default(),
            queue: Gauge::default(),
            merged: Family::default(),
            exchanges: Family::default(),
            damaged: Gauge::default(),
            recovering: Gauge::default(),
            found: Family::default(),
            check_bytes: Counter::default(),
            check_passes: Counter::default(),
        };
        for kind in FINDINGS {
            drop(metrics.found.get_or_create(&finding(kind)));
        }
        for outcome in MERGE_OUTCOMES {
            drop(metrics.merged.get_or_create(&Outcome { outcome }));
        }
        for outcome in REASONS.map(name).into_iter().chain(["answered"]) {
            drop(metrics.exchanges.get_or_create(&Outcome { outcome }));
        }
        let Self {
            entries,
            tombstones,
            sealed_epoch,
            pending,
            held,
            held_bytes,
            settle_ms,
            halted,
            failed,
            disk_free_bytes,
            disk_full,
            commit_duration,
            commits,
            seals,
            lateness,
            conflicts,
            queue,
            merged,
            exchanges,
            damaged,
            recovering,
            found,
            check_bytes,
            check_passes,
        } = metrics.clone();
        registry.with(|registry| {
            registry.register(
                "lattice_store_damaged_entries",
                "Keys whose entries are known to be damaged",
                damaged,
            );
            registry.register(
                "lattice_store_recovering",
                "1 while the store waits for its peers to fill it again",
                recovering,
            );
            registry.register("lattice_store_findings", "What was found damaged or mended, by kind", found);
            registry.register("lattice_store_check_bytes", "Bytes that the check has read", check_bytes);
            registry.register("lattice_store_check_passes", "Checks that came to their end", check_passes);
            registry.register("lattice_store_entries", "Entries under the newest sealed root", entries);
            registry.register(
                "lattice_store_tombstones",
                "Deletions under the newest sealed root",
                tombstones,
            );
            registry.register("lattice_store_sealed_epoch", "The newest sealed epoch", sealed_epoch);
            registry.register("lattice_store_pending", "Entries that await sealing", pending);
            registry.register("lattice_store_held", "Entries held because they are ahead of the clock", held);
            registry.register("lattice_store_held_bytes", "Bytes of held entries", held_bytes);
            registry.register(
                "lattice_store_settle_ms",
                "How long after its end an epoch is sealed",
                settle_ms,
            );
            registry.register("lattice_store_sealing_halted", "1 while sealing is halted", halted);
            registry.register("lattice_store_failed", "1 once a commit has failed", failed);
            registry.register(
                "lattice_store_disk_free_bytes",
                "Free space where the database is, when last looked at",
                disk_free_bytes,
            );
            registry.register(
                "lattice_store_disk_full",
                "1 while writes are refused for want of space",
                disk_full,
            );
            registry.register(
                "lattice_store_commit_duration_seconds",
                "From a group's staging to its durability",
                commit_duration,
            );
            registry.register("lattice_store_commits", "Groups committed", commits);
            registry.register("lattice_store_seals", "Epochs sealed with entries", seals);
            registry.register(
                "lattice_store_lateness_seconds",
                "How long after their epoch's end entries came whose epoch was sealed already",
                lateness,
            );
            registry.register(
                "lattice_store_conflicts",
                "Equal versions with different content (a cloned disk or key)",
                conflicts,
            );
            registry.register("lattice_store_queue", "Changes that wait for the writer", queue);
            registry.register(
                "lattice_store_merged_entries",
                "Entries of others, by what became of them",
                merged,
            );
            registry.register(
                "lattice_store_exchanges",
                "Peers' requests, by what became of them",
                exchanges,
            );
        });
        metrics
    }

    pub(crate) fn stats(&self, stats: &Stats) {
        self.entries.set(gauge(stats.entries));
        self.tombstones.set(gauge(stats.tombstones));
        self.sealed_epoch.set(gauge(stats.sealed_epoch));
        self.pending.set(gauge(stats.pending));
        self.held.set(gauge(stats.held));
        self.held_bytes.set(gauge(stats.held_bytes));
        self.settle_ms.set(gauge(u64::try_from(stats.settle.as_millis()).unwrap_or(u64::MAX)));
        self.halted.set(i64::from(stats.halted));
        self.damaged.set(gauge(stats.damaged));
        self.recovering.set(i64::from(stats.recovering));
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commit_duration.observe(took.as_secs_f64());
        self.commits.inc();
    }

    pub(crate) fn sealed(&self) {
        self.seals.inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.set(1);
    }

    pub(crate) fn disk(&self, free: u64, full: bool) {
        self.disk_free_bytes.set(gauge(free));
        self.disk_full.set(i64::from(full));
    }

    pub(crate) fn late(&self, late: &[Duration]) {
        late.iter().for_each(|late| self.lateness.observe(late.as_secs_f64()));
    }

    pub(crate) fn conflicts(&self, count: u64) {
        self.conflicts.inc_by(count);
    }

    pub(crate) fn queued(&self, change: i64) {
        self.queue.inc_by(change);
    }

    pub(crate) fn merged(&self, merged: &Merged) {
        let Merged { merged, known, held, dropped, repaired } = *merged;
        let counts = [merged - repaired, known, held, dropped, repaired];
        for (outcome, count) in MERGE_OUTCOMES.into_iter().zip(counts) {
            self.merged.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    pub(crate) fn found(&self, kind: FindingKind) {
        self.found.get_or_create(&finding(kind)).inc();
    }

    pub(crate) fn checked(&self, bytes: u64) {
        self.check_bytes.inc_by(bytes);
    }

    pub(crate) fn checked_all(&self) {
        self.check_passes.inc();
    }

    pub(crate) fn exchanged(&self, refused: Option<Reason>) {
        let outcome = refused.map_or("answered", name);
        self.exchanges.get_or_create(&Outcome { outcome }).inc();
    }
}
