//! Sensors that share a network: who is connected to whom is what the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use lattice_core::model::NodeId;
use lattice_proto::convert;
use lattice_proto::sensor::v1 as wire;
use lattice_proto::sensor::v1::observation::What;
use lattice_proto::sensor::v1::p2p_sensor_server::{P2pSensor, P2pSensorServer};
use lattice_proto::types::v1::Signed;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::store::pass_on;
use super::{Answers, stream};

#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<BTreeMap<NodeId, Arc<Sensor>>>>);

struct Sensor {
    enabled: bool,
    connected: watch::Sender<BTreeSet<NodeId>>,
    observations: broadcast::Sender<wire::Observation>,
    serving: Mutex<Serving>,
    trusted: Mutex<BTreeSet<NodeId>>,
}

#[derive(Default)]
struct Serving {
    server: Option<mpsc::Sender<Result<wire::ServeResponse, Status>>>,
    next: u64,
    pending: BTreeMap<u64, oneshot::Sender<Option<Signed>>>,
}

#[derive(Clone)]
pub(crate) struct FakeSensor {
    node: NodeId,
    network: Network,
    own: Arc<Sensor>,
}

impl Network {
    pub(crate) fn sensor(&self, node: NodeId, enabled: bool) -> FakeSensor {
        let own = Arc::new(Sensor {
            enabled,
            connected: watch::Sender::default(),
            observations: broadcast::Sender::new(64),
            serving: Mutex::default(),
            trusted: Mutex::default(),
        });
        self.0.lock().unwrap().insert(node, Arc::clone(&own));
        FakeSensor { node, network: self.clone(), own }
    }

    pub(crate) fn connect(&self, a: NodeId, b: NodeId, connected: bool) {
        let sensors = self.0.lock().unwrap();
        for (from, to) in [(a, b), (b, a)] {
            sensors[&from].connected.send_modify(|peers| {
                if connected {
                    peers.insert(to);
                } else {
                    peers.remove(&to);
                }
            });
        }
    }

    fn get(&self, node: &NodeId) -> Option<Arc<Sensor>> {
        self.0.lock().unwrap().get(node).cloned()
    }
}

impl FakeSensor {
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(P2pSensorServer::new(self.clone()))
    }

    pub(crate) fn trusted(&self) -> BTreeSet<NodeId> {
        self.own.trusted.lock().unwrap().clone()
    }

    fn tell(&self, to: impl Iterator<Item = NodeId>, what: &What) -> u32 {
        let connected = self.own.connected.borrow().clone();
        let mut told = 0;
        for peer in to.filter(|peer| connected.contains(peer)) {
            if let Some(peer) = self.network.get(&peer) {
                let node = self.node.as_bytes().to_vec().into();
                let _ = peer.observations.send(wire::Observation { node, what: Some(what.clone()) });
                told += 1;
            }
        }
        told
    }

    /// As the sensor has it: without P2P, only its state can be asked for.
    fn enabled(&self) -> Result<(), Status> {
        match self.own.enabled {
            true => Ok(()),
            false => Err(Status::failed_precondition("P2P is disabled (sensor.enabled)")),
        }
    }

    fn everybody(&self) -> Vec<NodeId> {
        self.own.connected.borrow().iter().copied().collect()
    }
}

fn state_of(sensor: &Sensor, connected: &BTreeSet<NodeId>) -> wire::WatchPeersResponse {
    let peer = |node: &NodeId| wire::Peer {
        node: node.as_bytes().to_vec().into(),
        peer_id: format!("peer-{}", node.short()),
        state: wire::State::Live.into(),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
        last_heartbeat_ms: 1,
        connected_ms: 1,
    };
    wire::WatchPeersResponse {
        enabled: sensor.enabled,
        started: sensor.enabled,
        error: String::new(),
        peer_id: "peer-own".into(),
        listen_addresses: vec!["/ip4/127.0.0.1/tcp/9000".into()],
        peers: connected.iter().map(peer).collect(),
    }
}

#[tonic::async_trait]
impl P2pSensor for FakeSensor {
    type WatchPeersStream = Answers<wire::WatchPeersResponse>;
    type ObserveStream = Answers<wire::Observation>;
    type ServeStream = Answers<wire::ServeResponse>;

    async fn watch_peers(
        &self,
        _: Request<wire::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let (sender, answers) = stream();
        let own = Arc::clone(&self.own);
        let mut connected = own.connected.subscribe();
        tokio::spawn(async move {
            loop {
                let state = state_of(&own, &connected.borrow_and_update());
                if sender.send(Ok(state)).await.is_err() || connected.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(answers))
    }

    async fn announce(
        &self,
        request: Request<wire::AnnounceRequest>,
    ) -> Result<Response<wire::AnnounceResponse>, Status> {
        self.enabled()?;
        let request = request.into_inner();
        let what = What::Announcement(request.announcement.unwrap());
        let to = match request.node.is_empty() {
            true => self.everybody(),
            false => vec![convert::node("node", &request.node)?],
        };
        Ok(Response::new(wire::AnnounceResponse { peers: self.tell(to.into_iter(), &what) }))
    }

    async fn broadcast(
        &self,
        request: Request<wire::BroadcastRequest>,
    ) -> Result<Response<wire::BroadcastResponse>, Status> {
        self.enabled()?;
        let told = self.tell(self.everybody().into_iter(), &What::Delta(request.into_inner().delta));
        Ok(Response::new(wire::BroadcastResponse { published: told > 0 }))
    }

    async fn observe(
        &self,
        _: Request<wire::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.enabled()?;
        Ok(Response::new(pass_on(self.own.observations.subscribe())))
    }

    async fn exchange(
        &self,
        request: Request<wire::ExchangeRequest>,
    ) -> Result<Response<wire::ExchangeResponse>, Status> {
        self.enabled()?;
        let request = request.into_inner();
        let node = convert::node("node", &request.node)?;
        let connected = self.own.connected.borrow().contains(&node);
        let peer = self.network.get(&node).filter(|_| connected);
        let peer = peer.ok_or_else(|| Status::unavailable("not connected"))?;
        let (reply, answer) = oneshot::channel();
        let server = {
            let mut serving = peer.serving.lock().unwrap();
            serving.next += 1;
            let id = serving.next;
            serving.pending.insert(id, reply);
            let node = self.node.as_bytes().to_vec().into();
            let asked = wire::ServeResponse { id, node, request: request.request };
            serving.server.clone().map(|server| (server, asked))
        };
        let (server, asked) = server.ok_or_else(|| Status::unavailable("nobody answers there"))?;
        server.send(Ok(asked)).await.map_err(|_| Status::unavailable("nobody answers there"))?;
        match answer.await {
            Ok(Some(response)) => Ok(Response::new(wire::ExchangeResponse { response: Some(response) })),
            Ok(None) | Err(_) => Err(Status::unavailable("nobody answers there")),
        }
    }

    async fn serve(
        &self,
        request: Request<Streaming<wire::ServeRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        self.enabled()?;
        let mut answers = request.into_inner();
        let (sender, requests) = stream();
        let own = Arc::clone(&self.own);
        tokio::spawn(async move {
            let first = answers.message().await;
            assert!(matches!(first, Ok(Some(first)) if first.response.is_none()), "it says that it is there");
            own.serving.lock().unwrap().server = Some(sender);
            while let Ok(Some(answer)) = answers.message().await {
                let pending = own.serving.lock().unwrap().pending.remove(&answer.id);
                let _ = pending.map(|pending| pending.send(answer.response));
            }
        });
        Ok(Response::new(requests))
    }

    async fn set_trust(
        &self,
        request: Request<wire::SetTrustRequest>,
    ) -> Result<Response<wire::SetTrustResponse>, Status> {
        self.enabled()?;
        let nodes = convert::nodes("nodes", &request.into_inner().nodes, 1_024)?;
        *self.own.trusted.lock().unwrap() = nodes.into_iter().collect();
        Ok(Response::new(wire::SetTrustResponse {}))
    }
}
