//! Siblings that keep everything in memory, and a gateway in front of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use gateway::{Channels, Service};
use lattice_core::model::{Digest, Epoch, EpochLength, Hlc, Incarnation, NodeId, Version};
use lattice_core::seal::Run;
use lattice_core::signed::{Announcement, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_core::tree::Summary;
use lattice_proto::codec::sign_announcement;
use lattice_proto::coordinator::v1 as coordinator;
use lattice_proto::coordinator::v1::sync_coordinator_server::{SyncCoordinator, SyncCoordinatorServer};
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_server::{KeyValue, KeyValueServer};
use lattice_proto::reason;
use lattice_proto::store::v1 as store;
use lattice_proto::store::v1::state_store_server::{StateStore, StateStoreServer};
use lattice_proto::types::v1 as types;
use lattice_runtime::grpc::{self, HealthReporter, MESSAGE_BYTES_MAX, ServingStatus};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{Config, Runtime, TaskGroup};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub const PEER: [u8; 32] = [9; 32];
/// What the store says of a disk that is full.
pub const DISK_FULL: &str = "the disk is full: 63 MiB are free, writes go on from 96 MiB";
/// Every entry with a time to live expires then.
pub const EXPIRES_MS: u64 = 1_700_000_000_007;

/// A running gateway and the siblings behind it.
pub struct Node {
    pub address: SocketAddr,
    pub fakes: Fakes,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), gateway::Error>>,
}

pub struct Fakes {
    pub store: Store,
    pub coordinator: Coordinator,
    pub store_health: HealthReporter,
    pub store_tasks: TaskGroup,
    pub sensor_tasks: TaskGroup,
    pub coordinator_tasks: TaskGroup,
}

impl Node {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let (fakes, channels) = Fakes::new().await;
        Self::start_among(fakes, channels, adjust).await
    }

    /// A gateway whose siblings are behind `channels`.
    pub async fn start_among(fakes: Fakes, channels: Channels, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.node.name = "alpha".into();
        config.gateway.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        adjust(&mut config);
        let service = Service::bind(&config, &Runtime::new(), channels).await.unwrap();
        let address = service.local_addr();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(service.run(shutdown.clone()));
        Self { address, fakes, shutdown, running }
    }

    /// Tells it to stop, and does not wait.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(super::client::DEADLINE, self.running).await;
        ended.expect("it does not stop").unwrap().unwrap();
    }
}

impl Fakes {
    pub async fn new() -> (Self, Channels) {
        let store = Store::default();
        let coordinator = Coordinator::new();
        let (store_health, health) = grpc::health();
        store_health.set_service_status("lattice.kv.v1.KeyValue", ServingStatus::Serving).await;
        let store_routes = Routes::new(health)
            .add_service(KeyValueServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(StateStoreServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX));
        let sensor_routes = Routes::new(grpc::health().1);
        // Without a health service of its own: it answers all the same.
        let coordinator_routes = Routes::new(SyncCoordinatorServer::new(coordinator.clone()));
        let fakes = Self {
            store,
            coordinator,
            store_health,
            store_tasks: TaskGroup::new("store"),
            sensor_tasks: TaskGroup::new("sensor"),
            coordinator_tasks: TaskGroup::new("coordinator"),
        };
        let channels = Channels {
            reads: None,
            store: grpc::in_memory(store_routes, &fakes.store_tasks),
            sensor: grpc::in_memory(sensor_routes, &fakes.sensor_tasks),
            coordinator: grpc::in_memory(coordinator_routes, &fakes.coordinator_tasks),
        };
        (fakes, channels)
    }
}

/// Entries in memory. Some keys misbehave: `damaged`, `broken`, `full` and `waits`.
#[derive(Clone, Default)]
pub struct Store {
    entries: Arc<Mutex<BTreeMap<Bytes, types::Entry>>>,
    /// Lets `waits` go on.
    pub go: Arc<Notify>,
    /// A write of `waits` has begun.
    pub begun: Arc<Notify>,
}

impl Store {
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Version {
        self.write(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value), None)
    }

    fn write(&self, key: Bytes, value: Bytes, expires_ms: Option<u64>) -> Version {
        let mut entries = self.entries.lock().unwrap();
        let greatest = entries.values().map(|entry| entry.version.as_ref().unwrap().hlc).max();
        let version = Version { hlc: Hlc(greatest.unwrap_or_default() + 1), writer: NodeId([7; 32]) };
        let content = Some(types::entry::Content::Value(value));
        let entry = types::Entry { key: key.clone(), version: Some((&version).into()), expires_ms, content };
        entries.insert(key, entry);
        version
    }

    fn check(&self, key: &Bytes, condition: Option<kv::Condition>) -> Result<(), Status> {
        use kv::condition::Condition;
        let found = self.entries.lock().unwrap().get(key).and_then(|entry| entry.version.clone());
        let holds = match condition.and_then(|condition| condition.condition) {
            None => true,
            Some(Condition::Absent(_)) => found.is_none(),
            Some(Condition::Present(_)) => found.is_some(),
            Some(Condition::Version(version)) => found == Some(version),
        };
        if holds {
            return Ok(());
        }
        let mut also = tonic::metadata::MetadataMap::new();
        let mut message = "condition: key is absent".to_owned();
        if let Some(version) = found.and_then(|version| Version::try_from(version).ok()) {
            also.insert(lattice_proto::metadata::VERSION, version.to_string().parse().unwrap());
            message = format!("condition: key is at version {version}");
        }
        Err(Status::with_metadata(tonic::Code::FailedPrecondition, message, also))
    }

    async fn misbehave(&self, key: &[u8]) -> Result<(), Status> {
        match key {
            b"damaged" => Err(Status::data_loss("the entry was found damaged")),
            b"broken" => Err(Status::internal("a secret of the store")),
            b"full" => Err(Status::resource_exhausted("too many writes wait")),
            b"disk" => Err(reason::with(Status::resource_exhausted(DISK_FULL), reason::DISK_FULL)),
            b"waits" => {
                self.begun.notify_one();
                self.go.notified().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl KeyValue for Store {
    type WatchStream = Streamed<kv::WatchResponse>;
    type BackupStream = Streamed<kv::BackupResponse>;

    /// All entries as changes, and then nothing more; after `id-away`, the store goes away instead.
    async fn watch(&self, request: Request<kv::WatchRequest>) -> Answer<Self::WatchStream> {
        let kv::WatchRequest { prefix, since } = request.into_inner();
        if since == "id-old" {
            let mut also = tonic::metadata::MetadataMap::new();
            also.insert(lattice_proto::metadata::WATCH_SINCE, "id-9".parse().unwrap());
            return Err(Status::with_metadata(tonic::Code::OutOfRange, "since: id-old is too old", also));
        }
        let away = since == "id-away";
        let id = if since.is_empty() { "id-0".to_owned() } else { since };
        let mut messages: Vec<Result<_, Status>> = vec![Ok(kv::WatchResponse { id, entry: None })];
        let entries = self.entries.lock().unwrap();
        let matching = entries.values().filter(|entry| entry.key.starts_with(&prefix)).cloned();
        let change = |(number, entry)| kv::WatchResponse { id: format!("id-{number}"), entry: Some(entry) };
        messages.extend((1..).zip(matching).map(change).map(Ok));
        if away {
            messages.push(Err(Status::unavailable("the store is stopping")));
        }
        let messages = futures::stream::iter(messages);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(messages, futures::stream::pending()))))
    }

    async fn prove(&self, request: Request<kv::ProveRequest>) -> Answer<kv::ProveResponse> {
        match request.into_inner().epoch {
            Some(_) => Err(Status::out_of_range("epoch: trees of epochs 5 to 9 are kept, got 1")),
            None => Err(Status::unavailable("nothing is sealed here yet")),
        }
    }

    async fn backup(&self, _: Request<kv::BackupRequest>) -> Answer<Self::BackupStream> {
        let pieces = ["one", "two"].map(|text| Ok(kv::BackupResponse { data: Bytes::from(text) }));
        Ok(Response::new(Box::pin(futures::stream::iter(pieces))))
    }

    /// Counts the bytes; something that begins with `bad` is damaged.
    async fn restore(
        &self,
        request: Request<tonic::Streaming<kv::RestoreRequest>>,
    ) -> Answer<kv::RestoreResponse> {
        let mut sent = request.into_inner();
        let mut done = kv::RestoreResponse::default();
        while let Some(piece) = sent.message().await? {
            if piece.data.starts_with(b"bad") {
                let what = "the backup is damaged at byte 0 (frame 0): is no backup of lattice; the 0 entries before it \
                            are restored";
                return Err(Status::invalid_argument(what));
            }
            done.entries += piece.data.len() as u64;
            done.cluster = if piece.any_cluster { "any".into() } else { "ours".into() };
        }
        Ok(Response::new(done))
    }

    async fn get(&self, request: Request<kv::GetRequest>) -> Answer<kv::GetResponse> {
        let kv::GetRequest { key, version_min } = request.into_inner();
        self.misbehave(&key).await?;
        let entry = self.entries.lock().unwrap().get(&key).cloned();
        if let Some(least) = version_min {
            let have = entry.as_ref().and_then(|entry| entry.version.as_ref());
            if have.is_none_or(|have| have.hlc < least.hlc) {
                return Err(Status::unavailable("this node has an older version"));
            }
        }
        let entry = entry.ok_or_else(|| Status::not_found("key is absent"))?;
        Ok(Response::new(kv::GetResponse { entry: Some(entry) }))
    }

    async fn put(&self, request: Request<kv::PutRequest>) -> Answer<kv::PutResponse> {
        let kv::PutRequest { key, value, ttl_ms, condition } = request.into_inner();
        self.misbehave(&key).await?;
        self.check(&key, condition)?;
        let expires_ms = ttl_ms.map(|_| EXPIRES_MS);
        let version = self.write(key, value, expires_ms);
        Ok(Response::new(kv::PutResponse { version: Some((&version).into()), expires_ms }))
    }

    async fn delete(&self, request: Request<kv::DeleteRequest>) -> Answer<kv::DeleteResponse> {
        let kv::DeleteRequest { key, condition } = request.into_inner();
        self.check(&key, condition)?;
        let version = self.write(key.clone(), Bytes::new(), None);
        self.entries.lock().unwrap().remove(&key);
        Ok(Response::new(kv::DeleteResponse { version: Some((&version).into()) }))
    }

    async fn list(&self, request: Request<kv::ListRequest>) -> Answer<kv::ListResponse> {
        let kv::ListRequest { prefix, start, cursor, limit } = request.into_inner();
        let entries = self.entries.lock().unwrap();
        let mut matching = entries
            .range(start.max(cursor.clone())..)
            .filter(|(key, _)| key.starts_with(&prefix) && **key != cursor)
            .map(|(_, entry)| entry.clone());
        let page: Vec<_> = matching.by_ref().take(limit as usize).collect();
        let more = matching.next().is_some();
        let next = page.last().filter(|_| more).map(|entry| entry.key.clone()).unwrap_or_default();
        Ok(Response::new(kv::ListResponse { entries: page, next }))
    }

    async fn batch(&self, request: Request<kv::BatchRequest>) -> Answer<kv::BatchResponse> {
        use kv::operation::Operation;
        let mut versions = Vec::new();
        for operation in request.into_inner().operations {
            let version = match operation.operation.unwrap() {
                Operation::Put(put) => self.write(put.key, put.value, None),
                Operation::Delete(delete) => {
                    let version = self.write(delete.key.clone(), Bytes::new(), None);
                    self.entries.lock().unwrap().remove(&delete.key);
                    version
                }
            };
            versions.push((&version).into());
        }
        Ok(Response::new(kv::BatchResponse { versions }))
    }
}

macro_rules! not_played {
    ($($method:ident($request:ty) -> $response:ty;)*) => {
        // Spelled out as `async_trait` would: it does not look into macros.
        $(fn $method<'life0, 'async_trait>(
            &'life0 self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not played")) })
        })*
    };
}

#[tonic::async_trait]
impl StateStore for Store {
    type WatchSealsStream = Streamed<store::SealsResponse>;
    type WatchLocalWritesStream = Streamed<store::LocalWrites>;
    type WatchAskedStream = Streamed<store::Asked>;
    type SealedEntriesStream = Streamed<store::SealedEntriesResponse>;
    type CheckStream = Streamed<store::CheckResponse>;

    not_played! {
        merge(store::MergeRequest) -> store::MergeResponse;
        seals(store::SealsRequest) -> store::SealsResponse;
        watch_seals(store::WatchSealsRequest) -> Self::WatchSealsStream;
        watch_local_writes(store::WatchLocalWritesRequest) -> Self::WatchLocalWritesStream;
        watch_asked(store::WatchAskedRequest) -> Self::WatchAskedStream;
        nodes(store::NodesRequest) -> store::NodesResponse;
        compare(store::CompareRequest) -> store::CompareResponse;
        reserve_sequence(store::ReserveSequenceRequest) -> store::ReserveSequenceResponse;
        heard(store::HeardRequest) -> store::HeardResponse;
        reincarnate(store::ReincarnateRequest) -> store::ReincarnateResponse;
        judge_clock(store::JudgeClockRequest) -> store::JudgeClockResponse;
        set_trust(store::SetTrustRequest) -> store::SetTrustResponse;
        damaged(store::DamagedRequest) -> store::DamagedResponse;
        check(store::CheckRequest) -> Self::CheckStream;
        recovered(store::RecoveredRequest) -> store::RecoveredResponse;
    }

    /// Answers with the request's body and an `!`.
    async fn exchange(&self, request: Request<store::ExchangeRequest>) -> Answer<store::ExchangeResponse> {
        let mut signed = request.into_inner().request.unwrap();
        signed.body = [&signed.body[..], b"!"].concat().into();
        Ok(Response::new(store::ExchangeResponse { response: Some(signed) }))
    }

    async fn writable(&self, _: Request<store::WritableRequest>) -> Answer<store::WritableResponse> {
        Ok(Response::new(store::WritableResponse { problem: DISK_FULL.to_owned() }))
    }

    /// One piece an entry; the key `cut` ends the stream with an error.
    async fn sealed_entries(
        &self,
        _: Request<store::SealedEntriesRequest>,
    ) -> Answer<Self::SealedEntriesStream> {
        let root = types::Summary { digest: vec![5; 32].into(), entries: 3, tombstones: 1 };
        let seal = types::Seal { epoch: 42, root: Some(root), ..Default::default() };
        let mut pieces = vec![Ok(store::SealedEntriesResponse { seal: Some(seal), entries: vec![] })];
        for entry in self.entries.lock().unwrap().values() {
            pieces.push(match &entry.key[..] {
                b"cut" => Err(Status::unavailable("the store is stopping")),
                _ => Ok(store::SealedEntriesResponse { seal: None, entries: vec![entry.clone()] }),
            });
        }
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }
}

/// A coordinator of one peer.
#[derive(Clone)]
pub struct Coordinator {
    pub announcement: Arc<SignedAnnouncement>,
    trusted: Arc<Mutex<Vec<Bytes>>>,
    events: Arc<Mutex<broadcast::Sender<coordinator::Event>>>,
    /// Somebody subscribed.
    pub subscribed: Arc<Notify>,
}

impl Coordinator {
    fn new() -> Self {
        let key = NodeKey::from_seed(&[1; 32]);
        let root = Summary { digest: Digest([3; 32]), entries: 5, tombstones: 2 };
        let announcement = Announcement {
            cluster: "lattice".into(),
            node: NodeId(key.public()),
            incarnation: Incarnation([2; 16]),
            sequence: 12,
            time: WallTime(EXPIRES_MS),
            epoch_length: EpochLength(1000.try_into().unwrap()),
            runs: vec![
                Run { from: Epoch(1), to: Epoch(8), root: None },
                Run { from: Epoch(9), to: Epoch(11), root: Some(root) },
            ],
            addresses: vec!["/ip4/127.0.0.1/tcp/9000".into()],
            name: "alpha".into(),
            recovering: false,
        };
        Self {
            announcement: Arc::new(sign_announcement(&announcement, key.signing_key())),
            trusted: Arc::new(Mutex::new(vec![Bytes::from_static(&PEER)])),
            events: Arc::new(Mutex::new(broadcast::channel(16).0)),
            subscribed: Arc::default(),
        }
    }

    pub fn happen(&self, message: &str) {
        let event = coordinator::Event {
            time_ms: EXPIRES_MS,
            component: "HTTP_SYNC".into(),
            tag: "DIVERGENCE".into(),
            message: message.into(),
            kind: "divergence".into(),
            node: Bytes::from_static(&PEER),
            path: coordinator::Path::Http.into(),
            missed: 0,
        };
        self.events.lock().unwrap().send(event).unwrap();
    }

    /// Ends all event streams, as a restart does.
    pub fn forget_readers(&self) {
        *self.events.lock().unwrap() = broadcast::channel(16).0;
    }
}

#[tonic::async_trait]
impl SyncCoordinator for Coordinator {
    type WatchEventsStream = Streamed<coordinator::Event>;

    async fn status(&self, _: Request<coordinator::StatusRequest>) -> Answer<coordinator::StatusResponse> {
        Ok(Response::new(coordinator::StatusResponse {
            node: Bytes::copy_from_slice(self.announcement.announcement.node.as_bytes()),
            name: "alpha".into(),
            mode: coordinator::Mode::Auto.into(),
            sync_mode: coordinator::SyncMode::Http.into(),
            health: coordinator::Health::HttpOnly.into(),
            sensor: Some(coordinator::Sensor {
                available: true,
                enabled: true,
                started: true,
                peer_id: "12D3KooW".into(),
                listen_addresses: vec!["/ip4/127.0.0.1/tcp/9000".into()],
                live: 0,
                zombie: 1,
                connected: 1,
                ..Default::default()
            }),
            peers: vec![coordinator::Peer {
                node: Bytes::from_static(&PEER),
                peer_id: "12D3KooX".into(),
                name: "beta".into(),
                addresses: vec!["/ip4/127.0.0.2/tcp/9000".into()],
                http_url: "http://127.0.0.2:8080".into(),
                state: coordinator::PeerState::Zombie.into(),
                last_heartbeat_ms: EXPIRES_MS,
                path: coordinator::Path::Http.into(),
                failover: "secondary".into(),
                divergence_count: 2,
                backoff_ms: 4_000,
                lag_epochs: 3,
                errors: 1,
                last_error: "refused".into(),
            }],
            urls: vec!["http://127.0.0.2:8080".into()],
            fallback_in_ms: Some(250),
            heartbeat_active: true,
            ..Default::default()
        }))
    }

    async fn state(&self, _: Request<coordinator::StateRequest>) -> Answer<coordinator::StateResponse> {
        let announcement = Some((&self.announcement.signed).into());
        Ok(Response::new(coordinator::StateResponse { announcement, state_size: 4 }))
    }

    async fn watch_events(
        &self,
        _: Request<coordinator::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let events = BroadcastStream::new(self.events.lock().unwrap().subscribe());
        self.subscribed.notify_one();
        Ok(Response::new(Box::pin(events.map(|event| event.map_err(|_| Status::internal("lagged"))))))
    }

    async fn switch_mode(
        &self,
        request: Request<coordinator::SwitchModeRequest>,
    ) -> Answer<coordinator::SwitchModeResponse> {
        let path = match request.into_inner().mode() {
            coordinator::Mode::P2p => return Err(Status::failed_precondition("P2P is disabled")),
            _ => coordinator::Path::Http,
        };
        Ok(Response::new(coordinator::SwitchModeResponse { path: path.into(), message: "uses HTTP".into() }))
    }

    async fn reconcile(
        &self,
        request: Request<coordinator::ReconcileRequest>,
    ) -> Answer<coordinator::ReconcileResponse> {
        let node = request.into_inner().node;
        if !node.is_empty() && node != PEER[..] {
            let node = hex::encode(&node);
            return Err(Status::not_found(format!("{node} is not a known peer: add it to the trusted keys")));
        }
        let ids = self.trusted.lock().unwrap().iter().map(|_| "heal-1".to_owned()).collect();
        Ok(Response::new(coordinator::ReconcileResponse { ids }))
    }

    async fn heals(&self, request: Request<coordinator::HealsRequest>) -> Answer<coordinator::HealsResponse> {
        let heal = coordinator::Heal {
            id: "heal-1".into(),
            node: Bytes::from_static(&PEER),
            peer: "http://127.0.0.2:8080".into(),
            path: coordinator::Path::Http.into(),
            outcome: "Healed".into(),
            started_ms: EXPIRES_MS,
            duration_ms: 31,
            rounds: 2,
            bytes_in: 1_100,
            bytes_out: 200,
            entries_merged: 12,
            root_after: vec![3; 32].into(),
            trace_id: "ab".repeat(16),
            ..Default::default()
        };
        let heals = vec![heal; request.into_inner().limit.min(3) as usize];
        Ok(Response::new(coordinator::HealsResponse { heals }))
    }

    async fn trust(&self, request: Request<coordinator::TrustRequest>) -> Answer<coordinator::TrustResponse> {
        use coordinator::trust_request::Change;
        let mut trusted = self.trusted.lock().unwrap();
        match request.into_inner().change {
            None => {}
            Some(Change::Add(node)) => trusted.push(node),
            Some(Change::Remove(node)) => trusted.retain(|other| *other != node),
        }
        let keys = trusted
            .iter()
            .map(|node| coordinator::TrustedKey { node: node.clone(), source: "run time".into() });
        Ok(Response::new(coordinator::TrustResponse { keys: keys.collect() }))
    }
}
