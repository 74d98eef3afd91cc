//! Sensors of one test: each with its own key, folder and ports, called in memory like its siblings call it.

use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lattice_core::model::{EpochLength, Incarnation, NodeId};
use lattice_core::signed::{Announcement, Signed};
use lattice_core::time::WallTime;
use lattice_proto::codec::sign_announcement;
use lattice_proto::sensor::v1::p2p_sensor_client::P2pSensorClient;
use lattice_proto::sensor::v1::{
    AnnounceRequest, SetTrustRequest, State, WatchPeersRequest, WatchPeersResponse,
};
use lattice_runtime::grpc::{Channel, MESSAGE_BYTES_MAX, in_memory};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{Config, Runtime};
use p2p_sensor::{PartitionHandle, Service};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Nothing here takes this long, even on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_secs(2);
pub(crate) const CLUSTER: &str = "test";

pub(crate) type Client = P2pSensorClient<Channel>;

/// A node's folder, key and configuration, whether it runs or not.
pub(crate) struct Home {
    pub(crate) key: NodeKey,
    pub(crate) config: Config,
    _folder: TempDir,
}

/// A sensor that runs.
pub(crate) struct Sensor {
    pub(crate) node: NodeId,
    pub(crate) client: Client,
    pub(crate) partition: PartitionHandle,
    pub(crate) runtime: Runtime,
    pub(crate) addresses: Vec<String>,
    key: Arc<NodeKey>,
    sequence: Arc<AtomicU64>,
    beating: Arc<AtomicBool>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), p2p_sensor::Error>>,
}

pub(crate) fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed(&[seed; 32])
}

pub(crate) fn id(seed: u8) -> NodeId {
    NodeId(key(seed).public())
}

impl Home {
    /// The node of key `seed`, which listens on a free TCP port and trusts the keys of `trusted`.
    pub(crate) fn new(seed: u8, trusted: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.name = format!("node-{seed}");
        config.node.cluster = CLUSTER.into();
        config.node.data_dir = folder.path().join("data");
        config.node.key_file = folder.path().join("node.key");
        config.node.trusted_keys = trusted.iter().map(|seed| id(*seed).0).collect();
        config.sensor.p2p_listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
        config.sensor.heartbeat_interval = Duration::from_millis(200);
        config.sensor.peer_timeout = PEER_TIMEOUT;
        let seed_text: String = std::iter::repeat_n(format!("{seed:02x}"), 32).collect();
        std::fs::write(&config.node.key_file, seed_text).unwrap();
        std::fs::set_permissions(&config.node.key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { key: key(seed), config, _folder: folder }
    }

    pub(crate) fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.sensor.p2p_listen = vec![address.into()];
        self
    }

    pub(crate) fn bootstrap<'a>(mut self, addresses: impl IntoIterator<Item = &'a String>) -> Self {
        self.config.sensor.bootstrap.extend(addresses.into_iter().cloned());
        self
    }

    pub(crate) async fn start(&self) -> Sensor {
        let runtime = Runtime::new();
        let service = Service::bind(&self.config, &runtime).await.unwrap();
        assert_eq!(service.node(), NodeId(self.key.public()));
        let channel = in_memory(service.routes(), service.tasks());
        let client = P2pSensorClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (partition, addresses) = (service.partition(), service.listen_addresses());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(service.run(shutdown.clone()));
        Sensor {
            node: NodeId(self.key.public()),
            client,
            partition,
            runtime,
            addresses,
            key: Arc::new(NodeKey::from_seed(self.key.seed())),
            sequence: Arc::new(AtomicU64::new(1)),
            beating: Arc::new(AtomicBool::new(false)),
            shutdown,
            running,
        }
    }

    /// Starts it, announcing from the beginning.
    pub(crate) async fn start_beating(&self) -> Sensor {
        let sensor = self.start().await;
        sensor.beat();
        sensor
    }
}

impl Sensor {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.running).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn watch(&self) -> Streaming<WatchPeersResponse> {
        self.client.clone().watch_peers(WatchPeersRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the state is so, and returns it.
    pub(crate) async fn until(
        &self,
        what: &str,
        so: impl Fn(&WatchPeersResponse) -> bool,
    ) -> WatchPeersResponse {
        let mut states = self.watch().await;
        let mut last = None;
        let found = tokio::time::timeout(DEADLINE, async {
            while let Some(state) = states.message().await.unwrap() {
                if so(&state) {
                    return state;
                }
                last = Some(state);
            }
            panic!("{what}: the stream ended");
        });
        match found.await {
            Ok(state) => state,
            Err(_) => panic!("{what}: still {last:?}\n{}", self.runtime.metrics.encode()),
        }
    }

    pub(crate) async fn until_live(&self, count: usize) -> WatchPeersResponse {
        self.until(&format!("{count} live"), |state| live(state) == count).await
    }

    /// A correct announcement of this node, with a fresh sequence.
    pub(crate) fn announcement(&self) -> Announcement {
        Announcement {
            cluster: CLUSTER.into(),
            node: self.node,
            incarnation: Incarnation([1; 16]),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            time: WallTime(self.runtime.clock.wall_ms()),
            epoch_length: EpochLength(NonZeroU32::MIN),
            runs: Default::default(),
            addresses: self.addresses.clone(),
            name: "node".into(),
            recovering: false,
        }
    }

    pub(crate) fn sign(&self, announcement: &Announcement) -> Signed {
        sign_announcement(announcement, self.key.signing_key()).signed
    }

    /// Sends bytes as an announcement to all; returns to how many.
    pub(crate) async fn announce(&self, signed: &Signed) -> u32 {
        let request = AnnounceRequest { announcement: Some(signed.into()), node: Default::default() };
        self.client.clone().announce(request).await.unwrap().into_inner().peers
    }

    /// Announces at each of [`heartbeats`] until [`Self::hush`].
    pub(crate) fn beat(&self) {
        if self.beating.swap(true, Ordering::Relaxed) {
            return;
        }
        let (beating, shutdown) = (self.beating.clone(), self.shutdown.clone());
        let mut client = self.client.clone();
        let (key, sequence) = (self.key.clone(), self.sequence.clone());
        let mut announcement = self.announcement();
        tokio::spawn(async move {
            let mut beats = heartbeats();
            while beating.load(Ordering::Relaxed) && !shutdown.is_cancelled() {
                beats.tick().await;
                announcement.sequence = sequence.fetch_add(1, Ordering::Relaxed);
                let signed = sign_announcement(&announcement, key.signing_key()).signed;
                let request =
                    AnnounceRequest { announcement: Some((&signed).into()), node: Default::default() };
                let _ = client.announce(request).await;
            }
        });
    }

    pub(crate) fn hush(&self) {
        self.beating.store(false, Ordering::Relaxed);
    }

    pub(crate) async fn trust(&self, seeds: &[u8]) {
        let nodes = seeds.iter().map(|seed| id(*seed).0.to_vec().into()).collect();
        self.client.clone().set_trust(SetTrustRequest { nodes }).await.unwrap();
    }

    /// A series of the metrics, as in `lattice_sensor_dials_total{outcome="own"}`.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.runtime.metrics.encode();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no series {series} in\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    pub(crate) async fn until_metric(&self, series: &str, at_least: u64) {
        eventually(&format!("{series} is {at_least}"), async || self.metric(series) >= at_least).await;
    }
}

/// Looks again and again until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let seen = async {
        while !holds().await {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, seen).await.is_ok(), "not seen within {DEADLINE:?}: {what}");
}

/// The rhythm in which nodes announce here, well within [`PEER_TIMEOUT`].
pub(crate) fn heartbeats() -> tokio::time::Interval {
    tokio::time::interval(Duration::from_millis(100))
}

pub(crate) fn live(state: &WatchPeersResponse) -> usize {
    state.peers.iter().filter(|peer| peer.state() == State::Live).count()
}

pub(crate) fn zombies(state: &WatchPeersResponse) -> usize {
    state.peers.iter().filter(|peer| peer.state() == State::Zombie).count()
}

/// A port that is free for TCP and UDP at the moment.
pub(crate) fn free_port() -> u16 {
    for _ in 0..100 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// `first` listens, `second` knows its address; both run and trust each other.
pub(crate) async fn pair() -> (Sensor, Sensor) {
    let first = Home::new(1, &[1, 2]).start().await;
    let second = Home::new(2, &[1, 2]).bootstrap(&first.addresses).start().await;
    (first, second)
}
