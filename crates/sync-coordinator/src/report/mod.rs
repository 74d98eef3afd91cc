//! Tells operators what happens: in the log, word for word as they know it, on the event stream, and in the
//! metrics.
//!
//! [`line_of`] renders; nothing here decides. An event reaches the stream exactly when it reaches the log, so
//! that the two never tell different stories.

mod line;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lattice_core::coordinator::Notice;
use lattice_core::failover::{Path, SyncMode};
use lattice_core::model::NodeId;
use lattice_core::pull::{Ended, Repaired};
use lattice_core::seal::Root;
use lattice_proto::coordinator::v1 as wire;
use lattice_runtime::{Clock, log, operator};
use tokio::sync::broadcast;
use tracing::{debug, error};

use crate::metrics::Metrics;

pub use line::{Line, Names, ended_line, line_of, repaired_line, root_line};
pub(crate) use line::{called, clock_error, failover, known_as, name_of, path, wire_path};

/// Events that a slow reader may lag behind before it loses some.
pub const EVENTS_MAX: usize = 1_024;

/// Refusals that are remembered, so that one that goes on is told once.
const REFUSALS_MAX: usize = 1_024;

/// The log, the stream and the metrics; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    clock: Clock,
    metrics: Metrics,
    events: broadcast::Sender<wire::Event>,
    /// Why the last announcement of a node was refused.
    refusals: Arc<Mutex<BTreeMap<NodeId, &'static str>>>,
}

impl Report {
    pub(crate) fn new(clock: Clock, metrics: Metrics) -> Self {
        Self { clock, metrics, events: broadcast::Sender::new(EVENTS_MAX), refusals: Arc::default() }
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<wire::Event> {
        self.events.subscribe()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn notice(&self, notice: &Notice, names: &Names) {
        self.count(notice);
        match line_of(notice, names).filter(|_| self.is_news(notice)) {
            Some(line) => self.tell(line),
            None => debug!(?notice, "noticed"),
        }
    }

    /// Whether a notice says more than the one before: a peer that is refused is refused at each heartbeat.
    fn is_news(&self, notice: &Notice) -> bool {
        let Notice::AnnouncementRefused { node, reason, .. } = notice else { return true };
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REFUSALS_MAX && !refusals.contains_key(node) {
            refusals.pop_first();
        }
        refusals.insert(*node, reason.name()) != Some(reason.name())
    }

    /// A pull has ended.
    pub(crate) fn pull_ended(&self, ended: &Ended, peer: &str) {
        self.metrics.pull_ended(ended);
        self.tell(ended_line(ended, peer));
    }

    /// A repair has ended.
    pub(crate) fn repair_ended(&self, ended: &Ended, repaired: &Repaired, peer: &str) {
        self.metrics.repair_ended(ended, repaired);
        self.tell(repaired_line(ended, repaired, peer));
    }

    /// The root that a heal led to.
    pub(crate) fn root_after(&self, peer: NodeId, path: Path, root: Option<&Root>) {
        self.tell(root_line(peer, path, root));
    }

    /// Into the log and onto the stream.
    pub(crate) fn tell(&self, line: Line) {
        let node = line.node.map(|node| node.to_string());
        let on = line.path.map(path);
        let Line { component, tag, kind, message, .. } = &line;
        match line.alarm {
            true => error!(target: log::TARGET, component, tag, kind, peer = node, path = on, "{message}"),
            false => operator!(component, tag, { kind, peer = node, path = on }, "{message}"),
        }
        // Nobody may be listening.
        let _ = self.events.send(wire::Event {
            time_ms: self.clock.wall_ms(),
            component: line.component.to_owned(),
            tag: line.tag.unwrap_or_default().to_owned(),
            message: line.message,
            kind: line.kind.to_owned(),
            node: line.node.map(|node| node.as_bytes().to_vec().into()).unwrap_or_default(),
            path: line.path.map_or(wire::Path::Unspecified, wire_path).into(),
            missed: 0,
        });
    }

    fn count(&self, notice: &Notice) {
        match notice {
            Notice::SyncModeChanged(SyncMode::P2p) => self.metrics.switched(Path::P2p),
            Notice::SyncModeChanged(SyncMode::Http) => self.metrics.switched(Path::Http),
            Notice::Diverged { peer, route, count, .. } => self.metrics.diverged(*peer, route.path(), *count),
            Notice::Agreed { peer, .. } => self.metrics.agreed(*peer),
            Notice::AnnouncementRefused { reason, .. } => self.metrics.refused(reason.name()),
            Notice::SyncModeChanged(SyncMode::None)
            | Notice::PeerCount { .. }
            | Notice::SensorUnavailable { .. }
            | Notice::SensorAnswers
            | Notice::StoreUnavailable { .. }
            | Notice::StoreAnswers
            | Notice::Recovering
            | Notice::Recovered
            | Notice::TimerStarted { .. }
            | Notice::FallbackActivated
            | Notice::Returned
            | Notice::HealthChanged(_)
            | Notice::PathChanged { .. }
            | Notice::FailoverChanged { .. }
            | Notice::PullTriggered { .. }
            | Notice::NoTrust
            | Notice::Contradiction { .. }
            | Notice::NewIncarnation { .. }
            | Notice::UrlIdentified { .. }
            | Notice::UrlIsOurs { .. }
            | Notice::UrlFailed { .. }
            | Notice::UrlWorks { .. }
            | Notice::PeerClock { .. }
            | Notice::OwnClock(_)
            | Notice::RolledBack { .. }
            | Notice::Reappeared { .. }
            | Notice::Disowned { .. }
            | Notice::ModeSwitched { .. } => {}
        }
    }
}
