//! The P2P sensor, as the coordinator calls it: the only way to libp2p.
//!
//! What is heard here is a wire type until it leaves this module. Announcements are opened and their
//! signatures checked; deltas stay bytes until they are merged.

use std::time::Duration;

use bytes::Bytes;
use lattice_core::coordinator::{Recipients, SensorPeer};
use lattice_core::liveness;
use lattice_core::model::NodeId;
use lattice_core::signed::{Signed, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_proto::codec;
use lattice_proto::convert::{self, InField as _, Invalid};
use lattice_proto::sensor::v1 as wire;
use lattice_proto::sensor::v1::p2p_sensor_client::P2pSensorClient;
use lattice_runtime::grpc::{Channel, MESSAGE_BYTES_MAX};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::envelopes::AskError;
use crate::streams::reason;
use lattice_runtime::identity::MEMBERS_MAX;

/// The longest wait for what the sensor does at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// The most addresses, and the longest one, that are taken from the sensor.
const ADDRESSES_MAX: usize = convert::ADDRESSES_MAX;

/// Calls the sensor; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sensor {
    calls: P2pSensorClient<Channel>,
    watches: P2pSensorClient<Channel>,
}

/// What the sensor sees at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) enabled: bool,
    pub(crate) started: bool,
    pub(crate) error: String,
    /// This node's own.
    pub(crate) peer_id: String,
    pub(crate) listen_addresses: Vec<String>,
    pub(crate) peers: Vec<SensorPeer>,
    /// What libp2p calls the peers, and when each was last heard on its connections.
    pub(crate) details: Vec<Detail>,
}

/// What the machine has no use for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detail {
    pub(crate) node: NodeId,
    pub(crate) peer_id: String,
    pub(crate) heard: Option<WallTime>,
}

/// What came from a peer by itself.
#[derive(Clone, Debug)]
pub(crate) enum Observed {
    /// Over the announcer's own connection.
    Announcement { from: NodeId, announcement: Box<SignedAnnouncement> },
    /// By gossip, signed by `writer`.
    Delta { writer: NodeId, bytes: Bytes },
}

impl Sensor {
    pub(crate) fn new(channel: &Channel) -> Self {
        let client = |channel| {
            P2pSensorClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        Self { calls: client(channel.deadline(DEADLINE)), watches: client(channel.clone()) }
    }

    pub(crate) async fn announce(
        &self,
        announcement: &SignedAnnouncement,
        to: Recipients,
    ) -> Result<u32, Status> {
        let node = match to {
            Recipients::All => Bytes::new(),
            Recipients::Peer(node) => node.as_bytes().to_vec().into(),
        };
        let announcement = Some((&announcement.signed).into());
        let request = wire::AnnounceRequest { announcement, node };
        Ok(self.calls.clone().announce(request).await?.into_inner().peers)
    }

    /// Whether anybody subscribes.
    pub(crate) async fn broadcast(&self, delta: Vec<u8>) -> Result<bool, Status> {
        let request = wire::BroadcastRequest { delta: delta.into() };
        Ok(self.calls.clone().broadcast(request).await?.into_inner().published)
    }

    /// Carries an envelope to a connected peer and brings one back, unopened.
    pub(crate) async fn exchange(
        &self,
        peer: NodeId,
        envelope: &Signed,
        timeout: Duration,
    ) -> Result<Signed, AskError> {
        let message =
            wire::ExchangeRequest { node: peer.as_bytes().to_vec().into(), request: Some(envelope.into()) };
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        let answer = self.calls.clone().exchange(request).await.map_err(|status| match status.code() {
            Code::DeadlineExceeded => {
                AskError::TimedOut(format!("no answer within {} ms", timeout.as_millis()))
            }
            _ => AskError::Lost(reason(&status)),
        })?;
        let response = convert::required("response", answer.into_inner().response);
        response.map_err(|error: Invalid| AskError::Lost(format!("answer is malformed: {error}")))
    }

    /// A sensor whose P2P is disabled lets nobody in, whoever is trusted: it is told nothing, and is there.
    pub(crate) async fn set_trust(&self, nodes: impl Iterator<Item = NodeId>) -> Result<(), Status> {
        let nodes = nodes.map(|node| node.as_bytes().to_vec().into()).collect();
        match self.calls.clone().set_trust(wire::SetTrustRequest { nodes }).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
            Err(status) => Err(status),
        }
    }

    pub(crate) async fn watch_peers(&self) -> Result<Streaming<wire::WatchPeersResponse>, Status> {
        Ok(self.watches.clone().watch_peers(wire::WatchPeersRequest {}).await?.into_inner())
    }

    pub(crate) async fn observe(&self) -> Result<Streaming<wire::Observation>, Status> {
        Ok(self.watches.clone().observe(wire::ObserveRequest {}).await?.into_inner())
    }

    /// Answers go into the channel; the requests come out of the stream.
    pub(crate) async fn serve(
        &self,
        answers: mpsc::Receiver<wire::ServeRequest>,
    ) -> Result<Streaming<wire::ServeResponse>, Status> {
        Ok(self.watches.clone().serve(ReceiverStream::new(answers)).await?.into_inner())
    }
}

impl TryFrom<wire::WatchPeersResponse> for Sight {
    type Error = Invalid;

    fn try_from(wire: wire::WatchPeersResponse) -> Result<Self, Invalid> {
        if wire.peers.len() > MEMBERS_MAX {
            return Err(Invalid::new(
                "peers",
                format!("takes at most {MEMBERS_MAX}, got {}", wire.peers.len()),
            ));
        }
        let mut sight = Self {
            enabled: wire.enabled,
            started: wire.started,
            error: wire.error,
            peer_id: wire.peer_id,
            listen_addresses: short(wire.listen_addresses),
            ..Self::default()
        };
        for (index, peer) in wire.peers.into_iter().enumerate() {
            let state = match peer.state() {
                wire::State::Live => liveness::State::Live,
                wire::State::Fresh => liveness::State::Fresh,
                wire::State::Zombie => liveness::State::Zombie,
                wire::State::Unspecified => {
                    return Err(Invalid::missing("state")).in_item("peers", index);
                }
            };
            let node = convert::node("node", &peer.node).in_item("peers", index)?;
            let heard = (peer.last_heartbeat_ms > 0).then_some(WallTime(peer.last_heartbeat_ms));
            sight.details.push(Detail { node, peer_id: peer.peer_id, heard });
            sight.peers.push(SensorPeer { node, state, addresses: short(peer.addresses) });
        }
        Ok(sight)
    }
}

/// Those that fit into an announcement.
fn short(addresses: Vec<String>) -> Vec<String> {
    let fits = |address: &String| address.len() <= convert::ADDRESS_BYTES_MAX;
    addresses.into_iter().filter(fits).take(ADDRESSES_MAX).collect()
}

/// What was heard, if it is what it should be: a wrong signature on somebody's own connection is no
/// announcement.
pub(crate) fn observed(wire: wire::Observation) -> Result<Observed, Invalid> {
    let node = convert::node("node", &wire.node)?;
    match wire.what {
        Some(wire::observation::What::Announcement(signed)) => {
            let signed = Signed::try_from(signed).in_field("announcement")?;
            let announcement =
                codec::open_announcement(&signed).map_err(|error| Invalid::new("announcement", error))?;
            if announcement.announcement.node != node {
                return Err(Invalid::new(
                    "announcement.node",
                    "is not the node whose connection it came over",
                ));
            }
            Ok(Observed::Announcement { from: node, announcement: Box::new(announcement) })
        }
        Some(wire::observation::What::Delta(bytes)) => Ok(Observed::Delta { writer: node, bytes }),
        None => Err(Invalid::missing("what")),
    }
}
