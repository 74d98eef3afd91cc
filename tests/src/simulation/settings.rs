//! What a simulated cluster is made of: the timings of INTERFACE.md unless a scenario says otherwise.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lattice_core::model::{Digest, EpochLength, NodeId};

/// The name of every simulated cluster.
pub const CLUSTER: &str = "simulated";

/// The timings and bounds, alike on all nodes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many nodes.
    pub nodes: usize,
    /// `store.epoch_ms`.
    pub epoch_length: EpochLength,
    /// `store.settle_ms`.
    pub settle: Duration,
    /// `store.settle_max_ms`.
    pub settle_max: Duration,
    /// `store.retain_epochs`.
    pub retain_epochs: u64,
    /// `node.max_clock_drift`.
    pub max_clock_drift: Duration,
    /// `sensor.heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `sensor.peer_timeout`.
    pub peer_timeout: Duration,
    /// `coordinator.poll_interval`.
    pub poll_interval: Duration,
    /// `coordinator.request_timeout`.
    pub request_timeout: Duration,
    /// `coordinator.peerless_timeout`.
    pub peerless_timeout: Duration,
    /// `coordinator.return_after`.
    pub return_after: Duration,
    /// `coordinator.divergence_threshold`.
    pub divergence_threshold: u32,
    /// `coordinator.backoff_max`.
    pub backoff_max: Duration,
    /// `coordinator.pulls_max`.
    pub pulls_max: usize,
}

impl Settings {
    /// The defaults of INTERFACE.md, for so many nodes.
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            epoch_length: EpochLength(NonZeroU32::new(1_000).expect("it is not 0")),
            settle: Duration::from_secs(2),
            settle_max: Duration::from_secs(10),
            retain_epochs: 30,
            max_clock_drift: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(5),
            peer_timeout: Duration::from_secs(30),
            poll_interval: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            peerless_timeout: Duration::from_secs(60),
            return_after: Duration::from_secs(10),
            divergence_threshold: 3,
            backoff_max: Duration::from_secs(300),
            pulls_max: 2,
        }
    }
}

/// Who is who: all nodes' keys, ids and URLs.
#[derive(Debug)]
pub struct Directory {
    keys: Vec<SigningKey>,
    ids: Vec<NodeId>,
    indexes: BTreeMap<NodeId, usize>,
}

impl Directory {
    /// So many nodes, with keys made of `seed`.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let key = |index: usize| {
            let secret = Digest::of(&[b"simulated node", &seed.to_be_bytes(), &index.to_be_bytes()]);
            SigningKey::from_bytes(&secret.0)
        };
        let keys: Vec<SigningKey> = (0..nodes).map(key).collect();
        let ids: Vec<NodeId> = keys.iter().map(|key| NodeId(key.verifying_key().to_bytes())).collect();
        let indexes = ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
        Self { keys, ids, indexes }
    }

    /// The key of a node.
    pub fn key(&self, index: usize) -> &SigningKey {
        &self.keys[index]
    }

    /// The id of a node.
    pub fn id(&self, index: usize) -> NodeId {
        self.ids[index]
    }

    /// All ids.
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// Which node has an id.
    pub fn index(&self, id: &NodeId) -> Option<usize> {
        self.indexes.get(id).copied()
    }

    /// The URL of a node's gateway.
    pub fn url(index: usize) -> String {
        format!("http://node-{index}:8080")
    }

    /// All URLs.
    pub fn urls(&self) -> Vec<String> {
        (0..self.ids.len()).map(Self::url).collect()
    }

    /// Which node is at a URL.
    pub fn at_url(&self, url: &str) -> Option<usize> {
        let index: usize = url.strip_prefix("http://node-")?.strip_suffix(":8080")?.parse().ok()?;
        (index < self.ids.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_urls_lead_back_to_their_node() {
        let directory = Directory::new(3, 7);
        for index in 0..3 {
            assert_eq!(directory.index(&directory.id(index)), Some(index));
            assert_eq!(directory.at_url(&Directory::url(index)), Some(index));
        }
        assert_eq!(directory.at_url("http://node-3:8080"), None);
        assert_ne!(directory.id(0), Directory::new(3, 8).id(0));
    }
}
