//! The sensor's part of a node: who is connected, and the machine that tells the live from the silent.

use std::collections::BTreeSet;
use std::time::Duration;

use lattice_core::coordinator::{Event, SensorPeer};
use lattice_core::liveness::{self, Liveness};
use lattice_core::model::NodeId;

use super::node::monotonic;
use super::settings::Settings;

/// A running sensor.
#[derive(Debug)]
pub struct Sensor {
    started: Duration,
    liveness: Liveness,
}

impl Sensor {
    /// Nobody is connected.
    pub fn new(now: Duration, settings: &Settings, trusted: BTreeSet<NodeId>) -> Self {
        let liveness = Liveness::new(settings.peer_timeout, settings.heartbeat_interval, trusted);
        Self { started: now, liveness }
    }

    /// Hands the machine what happened. Whether anything changed that others are told.
    pub fn hear(&mut self, now: Duration, event: liveness::Event) -> bool {
        let mut effects = Vec::new();
        self.liveness.handle(monotonic(self.started, now), event, &mut effects);
        !effects.is_empty()
    }

    /// When the next peer becomes a zombie, if nothing is heard.
    pub fn deadline(&self) -> Option<Duration> {
        self.liveness.deadline().map(|deadline| self.started + deadline.0)
    }

    /// Whether a trusted peer is connected.
    pub fn is_connected(&self, peer: &NodeId) -> bool {
        self.liveness.state(peer) != liveness::State::Down
    }

    /// The connected peers.
    pub fn connected(&self) -> Vec<NodeId> {
        self.liveness.connected().map(|(peer, _, _)| peer).collect()
    }

    /// The whole present state, as the coordinator hears it.
    pub fn state(&self) -> Event {
        let peers = self
            .liveness
            .connected()
            .map(|(node, state, _)| SensorPeer { node, state, addresses: Vec::new() })
            .collect();
        Event::Sensor { enabled: true, started: true, error: String::new(), peers }
    }
}
