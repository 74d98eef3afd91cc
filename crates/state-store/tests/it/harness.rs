//! A running store, and clients for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::NodeId;
use lattice_core::tree::Position;
use lattice_proto::convert::Seals;
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::reads::Reads;
use lattice_proto::store::v1 as store;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::grpc::{self, Channel, MESSAGE_BYTES_MAX};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{Config, Runtime};
use state_store::{Error, Service};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest that any condition is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store in this process.
pub(crate) struct Store {
    pub(crate) kv: KeyValueClient<Channel>,
    pub(crate) store: StateStoreClient<Channel>,
    pub(crate) reads: Arc<dyn Reads>,
    pub(crate) node: NodeId,
    pub(crate) runtime: Runtime,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

/// A configuration with short epochs, whose only member but itself is `peer`.
pub(crate) fn config(folder: &Path, peer: Option<&NodeKey>) -> Config {
    let mut config = Config::default();
    config.node.data_dir = folder.to_owned();
    config.node.key_file = folder.join("node.key");
    config.node.trusted_keys = peer.map(NodeKey::public).into_iter().collect();
    config.store.listen = "127.0.0.1:0".parse().unwrap();
    config.store.epoch_ms = 100;
    config.store.settle_ms = 50;
    config.store.settle_max_ms = 200;
    config.store.cache_mb = 8;
    config
}

pub(crate) fn clients(channel: &Channel) -> (KeyValueClient<Channel>, StateStoreClient<Channel>) {
    let kv = KeyValueClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let store = StateStoreClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    (kv, store)
}

impl Store {
    /// Called in memory.
    pub(crate) async fn start(config: &Config) -> Self {
        let runtime = Runtime::new();
        let service = Service::bind(config, &runtime).await.unwrap();
        let channel = grpc::in_memory(service.routes(), service.tasks());
        Self::run(service, &channel, runtime)
    }

    /// Called over a socket.
    pub(crate) async fn start_on_a_socket(config: &Config) -> Self {
        let runtime = Runtime::new();
        let server = grpc::Server::bind("store.listen", &config.store.listen).await.unwrap();
        let service = Service::bind(config, &runtime).await.unwrap().on(server);
        let channel = Channel::connect(&service.local_addr().unwrap());
        Self::run(service, &channel, runtime)
    }

    fn run(service: Service, channel: &Channel, runtime: Runtime) -> Self {
        let (node, reads) = (service.reader().node(), service.reads());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(service.run(shutdown.clone()));
        let (kv, store) = clients(channel);
        Self { kv, store, reads, node, runtime, shutdown, running }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> kv::PutResponse {
        self.kv.clone().put(put(key, value)).await.unwrap().into_inner()
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Bytes> {
        let request = kv::GetRequest { key: bytes(key), version_min: None };
        let entry = match self.kv.clone().get(request).await {
            Ok(response) => response.into_inner().entry.unwrap(),
            Err(status) if status.code() == tonic::Code::NotFound => return None,
            Err(status) => panic!("{status}"),
        };
        match entry.content.unwrap() {
            lattice_proto::types::v1::entry::Content::Value(value) => Some(value),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn seals(&self) -> Seals {
        let seals = self.store.clone().seals(store::SealsRequest {}).await.unwrap();
        seals.into_inner().try_into().unwrap()
    }

    /// Waits until as many entries are sealed.
    pub(crate) async fn sealed(&self, entries: u64) -> Seals {
        until("entries are sealed", async || {
            let seals = self.seals().await;
            let root = seals.runs.last().and_then(|run| run.root);
            (root.map_or(0, |root| root.entries) == entries).then_some(seals)
        })
        .await
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answered = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    match answered.await {
        Ok(answer) => answer,
        Err(_) => panic!("in vain: {what}"),
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> kv::PutRequest {
    kv::PutRequest { key: bytes(key), value: bytes(value), ttl_ms: None, condition: None }
}

pub(crate) fn root_position() -> Position {
    Position::ROOT
}

/// A folder for one test.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}
