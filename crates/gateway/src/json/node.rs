//! Of the node itself, and of what operators ask of it.

use lattice_core::signed::SignedAnnouncement;
use lattice_proto::coordinator::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use super::{base64, path, time};

/// The signed state of this node, with a readable copy of what it says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct State {
    success: bool,
    merkle_root: Option<String>,
    state_size: u64,
    epoch: Option<u64>,
    signed: bool,
    timestamp: String,
    cluster: String,
    node: String,
    name: String,
    public_key: String,
    incarnation: String,
    /// Its store lost entries, and waits for its peers to fill it again.
    recovering: bool,
    seals: Vec<Seal>,
    announcement: String,
    signature: String,
}

/// A run of equal roots.
#[derive(Debug, Serialize, ToSchema)]
struct Seal {
    epoch_from: u64,
    epoch_to: u64,
    root: Option<String>,
    entries: u64,
    tombstones: u64,
}

impl State {
    pub(crate) fn new(state: &SignedAnnouncement, state_size: u64) -> Self {
        let SignedAnnouncement { announcement, signed } = state;
        let seals: Vec<Seal> = announcement
            .runs
            .iter()
            .map(|run| Seal {
                epoch_from: run.from.0,
                epoch_to: run.to.0,
                root: run.root.map(|root| root.digest.to_string()),
                entries: run.root.map_or(0, |root| root.entries),
                tombstones: run.root.map_or(0, |root| root.tombstones),
            })
            .collect();
        let newest = seals.last();
        Self {
            success: true,
            merkle_root: newest.and_then(|seal| seal.root.clone()),
            state_size,
            epoch: newest.map(|seal| seal.epoch_to),
            signed: true,
            timestamp: time(announcement.time.millis()),
            cluster: announcement.cluster.clone(),
            node: announcement.node.to_string(),
            name: announcement.name.clone(),
            public_key: announcement.node.to_string(),
            incarnation: announcement.incarnation.to_string(),
            recovering: announcement.recovering,
            announcement: base64(&signed.body),
            signature: hex::encode(signed.signature),
            seals,
        }
    }
}

/// The peers' gateways.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nodes {
    pub(crate) success: bool,
    pub(crate) count: usize,
    pub(crate) nodes: Vec<String>,
}

/// What the node says of its two paths.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct P2pStatus {
    pub(crate) success: bool,
    pub(crate) enabled: bool,
    pub(crate) started: bool,
    pub(crate) libp2p_available: bool,
    pub(crate) error: Option<String>,
    pub(crate) topic: String,
    pub(crate) listen_multiaddrs: Vec<String>,
    pub(crate) bootstrap_peers: Vec<String>,
    pub(crate) peer_count: u32,
    pub(crate) has_peers: bool,
    pub(crate) http_sync_enabled: bool,
    pub(crate) sync_mode: &'static str,
    /// The path that an operator pinned; `null` while the node chooses.
    pub(crate) pinned: Option<&'static str>,
    pub(crate) heartbeat_active: bool,
    pub(crate) connected_count: u32,
    pub(crate) zombie_count: u32,
    pub(crate) health: &'static str,
    pub(crate) fallback_in_ms: Option<u64>,
    pub(crate) clock_error: Option<String>,
}

/// Who the node is on libp2p.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    pub(crate) success: bool,
    pub(crate) peer_id: String,
    pub(crate) public_key: String,
    pub(crate) listen_addrs: Vec<String>,
}

/// The effective trusted keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct Trust {
    pub(crate) success: bool,
    pub(crate) count: usize,
    pub(crate) keys: Vec<TrustedKey>,
}

/// A trusted key, and where it comes from.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrustedKey {
    pub(crate) public_key: String,
    pub(crate) source: String,
}

impl From<wire::TrustResponse> for Trust {
    fn from(answer: wire::TrustResponse) -> Self {
        let keys: Vec<_> = answer
            .keys
            .into_iter()
            .map(|key| TrustedKey { public_key: hex::encode(&key.node), source: key.source })
            .collect();
        Self { success: true, count: keys.len(), keys }
    }
}

/// The answer to a change of mode.
#[derive(Debug, Serialize, ToSchema)]
pub struct Switched {
    success: bool,
    /// The path that is used now.
    mode: Option<&'static str>,
    message: String,
}

impl From<wire::SwitchModeResponse> for Switched {
    fn from(answer: wire::SwitchModeResponse) -> Self {
        Self { success: true, mode: path(answer.path()), message: answer.message }
    }
}

/// The answer to a demand for a pull.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reconciling {
    success: bool,
    /// The first; with a peer named, the only one.
    id: String,
    ids: Vec<String>,
}

impl Reconciling {
    /// What has begun; `None` when nothing has, for want of a peer.
    pub fn new(answer: wire::ReconcileResponse) -> Option<Self> {
        let ids = answer.ids;
        Some(Self { success: true, id: ids.first()?.clone(), ids })
    }
}

/// That it is so.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Well {
    /// `alive`, `ready` or `healthy`.
    pub(crate) status: &'static str,
}

/// Who answers at `/`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) status: &'static str,
}

/// A service that is missing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Missing {
    pub(crate) service: &'static str,
    pub(crate) reason: String,
}
