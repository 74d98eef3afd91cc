//! Whole coordinators, between fake siblings and over real HTTP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bytes::Bytes;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::codec;
use lattice_proto::coordinator::v1 as wire;
use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_runtime::grpc::{self, Channel};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{Config, Runtime};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use sync_coordinator::{Channels, Service};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::fake::Served;
use crate::fake::sensor::{FakeSensor, Network};
use crate::fake::store::{EPOCH, FakeStore};

const CLUSTER: &str = "test";
const PATIENCE: Duration = Duration::from_secs(30);

/// What a node is made of before its coordinator runs, so that others can know its URL.
struct Plan {
    key: Arc<NodeKey>,
    listener: TcpListener,
    config: Config,
    folder: TempDir,
    p2p: bool,
}

/// A running node.
struct Node {
    key: Arc<NodeKey>,
    url: String,
    store: FakeStore,
    sensor: FakeSensor,
    store_served: Served,
    sensor_served: Served,
    config: Config,
    running: Running,
    _folder: TempDir,
}

/// A running coordinator.
struct Running {
    client: SyncCoordinatorClient<Channel>,
    events: Streaming<wire::Event>,
    runtime: Runtime,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), sync_coordinator::Error>>,
}

async fn plan(seed: u8, p2p: bool) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let key = NodeKey::from_seed(&[seed; 32]);
    let mut config = Config::default();
    config.node.name = format!("node-{seed}");
    config.node.cluster = CLUSTER.into();
    config.node.data_dir = folder.path().join("data");
    config.node.key_file = folder.path().join("node.key");
    std::fs::write(&config.node.key_file, format!("{}\n", hex::encode(key.seed()))).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&config.node.key_file, private).unwrap();
    config.store.epoch_ms = EPOCH.as_millis() as u64;
    config.sensor.enabled = p2p;
    config.sensor.heartbeat_interval = Duration::from_millis(200);
    // Counts lapse after ten of these: on a busy machine a shorter one is too short for a heal.
    config.coordinator.poll_interval = Duration::from_millis(200);
    config.coordinator.request_timeout = Duration::from_secs(2);
    config.coordinator.peerless_timeout = Duration::from_millis(300);
    config.coordinator.return_after = Duration::from_millis(100);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    Plan { key: Arc::new(key), listener, config, folder, p2p }
}

impl Plan {
    fn node(&self) -> NodeId {
        NodeId(self.key.public())
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    fn trusts(&mut self, other: &Self) {
        self.config.node.trusted_keys.push(other.node().0);
        self.config.coordinator.http_peers.push(other.url());
    }

    async fn start(self, network: &Network) -> Node {
        let store = FakeStore::new(Arc::clone(&self.key), CLUSTER);
        let sensor = network.sensor(self.node(), self.p2p);
        let store_served = Served::start(store.routes()).await;
        let sensor_served = Served::start(sensor.routes()).await;
        let url = self.url();
        let running = run(&self.config, &store_served, &sensor_served).await;
        let gateway = (store.clone(), running.client.clone());
        tokio::spawn(async move { axum::serve(self.listener, gateway_of(gateway)).await });
        Node {
            key: self.key,
            url,
            store,
            sensor,
            store_served,
            sensor_served,
            config: self.config,
            running,
            _folder: self.folder,
        }
    }
}

async fn run(config: &Config, store: &Served, sensor: &Served) -> Running {
    let runtime = Runtime::new();
    let channels = Channels { store: store.channel(), sensor: sensor.channel() };
    let service = Service::bind(config, &runtime, channels).await.unwrap();
    let channel = grpc::in_memory(service.routes(), service.tasks());
    let mut client = SyncCoordinatorClient::new(channel);
    let events = client.watch_events(wire::WatchEventsRequest {}).await.unwrap().into_inner();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(service.run(shutdown.clone()));
    Running { client, events, runtime, shutdown, task }
}

type Gateway = (FakeStore, SyncCoordinatorClient<Channel>);

/// As much of a gateway as peers see.
fn gateway_of(gateway: Gateway) -> Router {
    Router::new()
        .route("/api/lattice/state", get(state))
        .route("/sync/v1/exchange", post(exchange))
        .with_state(gateway)
}

async fn state(State((_, mut client)): State<Gateway>) -> Result<String, StatusCode> {
    let answer = client.state(wire::StateRequest {}).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let signed = Signed::try_from(answer.into_inner().announcement.unwrap()).unwrap();
    let mut state = crate::state::state(&codec::open_announcement(&signed).unwrap());
    state.as_object_mut().unwrap().remove("timestamp");
    Ok(state.to_string())
}

async fn exchange(State((store, _)): State<Gateway>, body: Bytes) -> Vec<u8> {
    codec::encode_signed(&store.exchange_signed(&codec::decode_signed(body).unwrap()))
}

impl Node {
    fn node(&self) -> NodeId {
        NodeId(self.key.public())
    }

    async fn status(&mut self) -> wire::StatusResponse {
        self.running.client.status(wire::StatusRequest {}).await.unwrap().into_inner()
    }

    async fn heals(&mut self) -> Vec<wire::Heal> {
        self.running.client.heals(wire::HealsRequest { limit: 0 }).await.unwrap().into_inner().heals
    }

    /// Reads events until one says this; returns all of them, as the log has them.
    async fn until(&mut self, message: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.running.events.message().await.unwrap().expect("the stream goes on");
                let tag = if event.tag.is_empty() { String::new() } else { format!(" [{}]", event.tag) };
                lines.push(format!("[{}]{tag} {}", event.component, event.message));
                if event.message.starts_with(message) {
                    return;
                }
            }
        });
        let found = found.await;
        assert!(found.is_ok(), "{message:?} was not said, but\n{}", lines.join("\n"));
        lines
    }

    async fn stop(self) -> (Config, Served, Served, TempDir) {
        drop(self.running.events);
        self.running.shutdown.cancel();
        self.running.task.await.unwrap().unwrap();
        (self.config, self.store_served, self.sensor_served, self._folder)
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// Two nodes that trust each other and know each other's URLs.
async fn pair(p2p: bool) -> (Network, Node, Node) {
    let network = Network::default();
    let (mut a, mut b) = (plan(1, p2p).await, plan(2, p2p).await);
    a.trusts(&b);
    b.trusts(&a);
    let (a, b) = (a.start(&network).await, b.start(&network).await);
    (network, a, b)
}

#[tokio::test]
async fn two_nodes_heal_over_http_and_keep_the_record() {
    let (_, mut a, mut b) = pair(false).await;
    (0..5).for_each(|n| a.store.put(&format!("a{n}"), "here", true));
    (0..3).for_each(|n| b.store.put(&format!("b{n}"), "there", true));
    eventually("both have all", async || {
        a.store.entries().len() == 8 && a.store.entries() == b.store.entries()
    })
    .await;

    let url_of_b = b.url.clone();
    eventually("the heals are recorded with their roots", async || {
        let (of_a, of_b) = (a.heals().await, b.heals().await);
        let healed = |heals: &[wire::Heal], merged| {
            let mut heals = heals.iter().filter(|heal| heal.outcome == "Healed");
            heals.any(|heal| heal.entries_merged == merged && heal.root_after.len() == 32)
        };
        healed(&of_a, 3) && healed(&of_b, 5)
    })
    .await;
    let heals = a.heals().await;
    let heal = heals.iter().find(|heal| heal.entries_merged == 3).unwrap();
    assert_eq!((heal.path(), heal.peer.as_str()), (wire::Path::Http, "node-2"));
    assert_eq!(heal.node, b.node().as_bytes().as_slice());
    assert!(heal.rounds > 0 && heal.bytes_in > 0 && heal.bytes_out > 0);

    let status = a.status().await;
    assert_eq!(status.sync_mode(), wire::SyncMode::Http);
    let sensor = status.sensor.unwrap();
    assert!(
        sensor.available && !sensor.enabled && sensor.error.is_empty(),
        "disabled is not down: {sensor:?}"
    );
    assert_eq!(status.peers.len(), 1);
    assert_eq!((status.peers[0].name.as_str(), &status.peers[0].http_url), ("node-2", &url_of_b));
    let metrics = a.running.runtime.metrics.encode();
    let pulls = "lattice_coordinator_pulls_total{path=\"HTTP\",outcome=\"Healed\"} ";
    let healed = metrics.lines().find_map(|line| line.strip_prefix(pulls)).unwrap();
    assert!(healed.parse::<u64>().unwrap() > 0, "{metrics}");

    // The record outlives the process.
    let (config, store, sensor, _folder) = a.stop().await;
    let mut again = run(&config, &store, &sensor).await;
    let kept = again.client.heals(wire::HealsRequest { limit: 1_000 }).await.unwrap().into_inner().heals;
    let same = |kept: &wire::Heal| kept.id == heal.id && kept.entries_merged == heal.entries_merged;
    assert!(kept.iter().any(same), "{kept:?}");
}

#[tokio::test]
async fn a_node_that_is_told_of_a_newer_incarnation_of_its_own_starts_another_one_once() {
    for p2p in [false, true] {
        let (_network, mut a, mut b) = pair(p2p).await;
        a.store.put("before", "known to both", true);
        eventually("they know each other", async || b.store.entries().len() == 1).await;
        // Its old store is put back.
        let old = a.store.incarnations()[0];
        b.store.disown(old);
        a.store.put("written", "on the old store", true);
        b.store.put("elsewhere", "meanwhile", true);
        a.until("node-2 knows a newer incarnation of this node").await;
        b.until("node-1 has a new store").await;
        eventually("it is believed again", async || {
            a.store.entries().len() == 3 && a.store.entries() == b.store.entries()
        })
        .await;
        assert_eq!(a.store.incarnations().len(), 2);

        // The next one has to wait, also after a restart.
        b.store.disown(a.store.incarnations()[1]);
        let said = a.until("node-2 knows a newer incarnation of this node").await;
        assert!(said.last().is_some_and(|line| line.ends_with("as others were before it")), "{said:?}");
        let store = a.store.clone();
        let (config, store_served, sensor_served, _folder) = a.stop().await;
        let mut again = run(&config, &store_served, &sensor_served).await;
        let found = tokio::time::timeout(PATIENCE, async {
            while !again
                .events
                .message()
                .await
                .unwrap()
                .unwrap()
                .message
                .ends_with("as others were before it")
            {}
        });
        assert!(found.await.is_ok(), "it is said again");
        assert_eq!(store.incarnations().len(), 2);
    }
}

#[tokio::test]
async fn the_story_of_a_divergence_is_told_in_order() {
    let network = Network::default();
    let (mut a, mut b) = (plan(1, false).await, plan(2, false).await);
    a.trusts(&b);
    // B knows no URL: it is A that counts.
    b.config.node.trusted_keys.push(a.node().0);
    let (mut a, b) = (a.start(&network).await, b.start(&network).await);
    b.store.put("b", "there", true);
    let lines = a.until("New Merkle Root: ").await;
    let url = &b.url;
    let mut expected = [
        format!("[HTTP_SYNC] [DIVERGENCE] Detected from {url} (count: 1)"),
        format!("[HTTP_SYNC] [DIVERGENCE] Detected from {url} (count: 2)"),
        format!("[HTTP_SYNC] [DIVERGENCE] Detected from {url} (count: 3)"),
        format!("[HTTP_SYNC] [SURGEON] Triggering state reconciliation with {url}"),
        "[HTTP_SYNC] [RECONCILIATION] State synchronized: 1 entries in ".to_owned(),
        "[HTTP_SYNC] [RECONCILIATION] New Merkle Root: ".to_owned(),
    ]
    .into_iter()
    .peekable();
    for line in &lines {
        expected.next_if(|next| line.starts_with(next));
    }
    assert_eq!(expected.next(), None, "{lines:#?}");
}

#[tokio::test]
async fn announcements_deltas_and_pulls_travel_over_p2p() {
    let (network, mut a, mut b) = pair(true).await;
    network.connect(a.node(), b.node(), true);
    a.until("Peer count: 1").await;
    b.until("Peer count: 1").await;

    a.store.put("told", "by a delta", false);
    eventually("the delta is merged", async || b.store.entries() == a.store.entries()).await;

    a.store.put("untold", "needs a pull", true);
    eventually("the pull has merged", async || b.store.entries() == a.store.entries()).await;
    eventually("it is recorded", async || {
        let heals = b.heals().await;
        heals
            .iter()
            .any(|heal| heal.outcome == "Healed" && heal.path() == wire::Path::P2p && heal.peer == "node-1")
    })
    .await;
    let status = b.status().await;
    assert_eq!(status.sync_mode(), wire::SyncMode::P2p);
    assert_eq!(status.peers[0].state(), wire::PeerState::Live);
    assert!(status.peers[0].peer_id.starts_with("peer-"));
    assert_eq!(status.sensor.unwrap().listen_addresses, ["/ip4/127.0.0.1/tcp/9000"]);
}

#[tokio::test]
async fn an_isolated_node_breathes_with_its_second_lung_and_returns() {
    let (network, mut a, mut b) = pair(true).await;
    network.connect(a.node(), b.node(), true);
    a.until("Peer count: 1").await;
    // On a slow machine, the start itself took longer than the timer.
    eventually("P2P is in use", async || {
        a.status().await.peers[0].failover == "primary" && b.status().await.peers[0].failover == "primary"
    })
    .await;
    network.connect(a.node(), b.node(), false);
    let lines = a.until("Activating HTTP fallback").await;
    for line in [
        "[P2P_SENSOR] Peer count: 0 (P2P down detected)",
        "[P2P_HEARTBEAT] [TIMER] No live peers: HTTP fallback in 300ms",
    ] {
        assert!(lines.iter().any(|found| found == line), "{lines:#?}");
    }
    a.store.put("a", "here", false);
    b.store.put("b", "there", false);
    eventually("both directions have healed", async || {
        a.store.entries().len() == 2 && a.store.entries() == b.store.entries()
    })
    .await;
    assert_eq!(a.status().await.sync_mode(), wire::SyncMode::Http);
    network.connect(a.node(), b.node(), true);
    a.until("Returning to P2P").await;
    assert_eq!(a.status().await.sync_mode(), wire::SyncMode::P2p);
    b.until("Returning to P2P").await;
}

#[tokio::test]
async fn siblings_may_go_away_and_come_back() {
    let (network, mut a, b) = pair(true).await;
    network.connect(a.node(), b.node(), true);
    a.until("Peer count: 1").await;
    let trusted = BTreeSet::from([b.node()]);
    eventually("both are told the keys", async || {
        a.sensor.trusted() == trusted && a.store.trusted() == trusted
    })
    .await;

    a.sensor_served.go_away().await;
    let lines = a.until("Unavailable: ").await;
    assert!(lines.last().unwrap().starts_with("[P2P_SENSOR] Unavailable: "), "{lines:#?}");
    let sensor = a.status().await.sensor.unwrap();
    assert!(!sensor.available && !sensor.error.is_empty());
    a.sensor_served.come_back().await;
    a.until("Peer count: 1").await;

    a.store_served.go_away().await;
    eventually("the store is missed", async || !a.status().await.store_error.is_empty()).await;
    eventually("there is no state to tell", async || {
        let state = a.running.client.state(wire::StateRequest {}).await;
        state.is_err_and(|status| status.code() == Code::Unavailable)
    })
    .await;
    a.store_served.come_back().await;
    eventually("the store is back", async || a.status().await.store_error.is_empty()).await;
    b.store.put("late", "news", true);
    eventually("it still heals", async || a.store.entries() == b.store.entries()).await;
}

#[tokio::test]
async fn a_store_slower_than_heartbeats_makes_no_queue_of_announcements() {
    let (network, mut a, b) = pair(true).await;
    network.connect(a.node(), b.node(), true);
    a.until("Peer count: 1").await;
    // Heartbeats come every 200 ms.
    let pause = Duration::from_millis(250);
    a.store.is_slow(pause);
    tokio::time::sleep(10 * pause).await;
    let asked = a.running.client.state(wire::StateRequest {});
    let answered = tokio::time::timeout(6 * pause, asked).await;
    assert!(answered.is_ok_and(|state| state.is_ok()), "a poll waits for one announcement, or for two");
}

#[tokio::test]
async fn without_trusted_keys_it_runs_serves_and_reconciles_with_nobody() {
    let network = Network::default();
    let mut a = plan(1, true).await.start(&network).await;
    let lines = a.until("No trusted keys").await;
    let expected = "[HTTP_SYNC] [TRUST] No trusted keys: reconciling with nobody (node.trusted_keys)";
    assert_eq!(lines.last().unwrap(), expected);
    assert_eq!(a.status().await.peers, []);
    assert!(a.running.client.state(wire::StateRequest {}).await.is_ok());
    let all = a.running.client.reconcile(wire::ReconcileRequest { node: Bytes::new() }).await.unwrap();
    assert!(all.into_inner().ids.is_empty());
    let stranger = wire::ReconcileRequest { node: vec![7; 32].into() };
    assert_eq!(a.running.client.reconcile(stranger).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn trust_and_mode_change_while_it_runs() {
    let network = Network::default();
    let mut a = plan(1, false).await.start(&network).await;
    let other = NodeId(NodeKey::from_seed(&[5; 32]).public());
    let change = |change| wire::TrustRequest { change: Some(change) };
    let add = wire::trust_request::Change::Add(other.as_bytes().to_vec().into());
    let keys = a.running.client.trust(change(add)).await.unwrap().into_inner().keys;
    assert_eq!((keys.len(), keys[0].source.as_str()), (1, "run time"));
    let trusted = BTreeSet::from([other]);
    eventually("the store is told", async || a.store.trusted() == trusted).await;
    eventually("it is a known peer", async || a.status().await.peers.len() == 1).await;
    let series = format!("lattice_coordinator_divergence{{peer=\"{other}\"}} 0");
    assert!(a.running.runtime.metrics.encode().contains(&series));

    let accepted = a.running.client.reconcile(wire::ReconcileRequest { node: Bytes::new() }).await;
    assert_eq!(accepted.unwrap().into_inner().ids.len(), 1);

    a.store.is_busy(2);
    let remove = wire::trust_request::Change::Remove(other.as_bytes().to_vec().into());
    a.running.client.trust(change(remove.clone())).await.unwrap();
    eventually("it is gone", async || a.status().await.peers.is_empty()).await;
    eventually("the store hears of it, late", async || a.store.trusted().is_empty()).await;
    assert_eq!(a.running.client.trust(change(remove)).await.unwrap_err().code(), Code::NotFound);

    for (mode, message) in [
        (wire::Mode::P2p, "P2P until restart, but P2P is disabled (sensor.enabled)"),
        (wire::Mode::Http, "HTTP until restart, but no URL is configured (coordinator.http_peers)"),
        (wire::Mode::Auto, "P2P while it works, else HTTP: now "),
    ] {
        let request = wire::SwitchModeRequest { mode: mode.into() };
        let answer = a.running.client.switch_mode(request).await.unwrap().into_inner();
        assert!(answer.message.starts_with(message), "{}", answer.message);
        assert_eq!(a.status().await.mode(), mode);
    }
    let unspecified = wire::SwitchModeRequest { mode: 0 };
    assert_eq!(a.running.client.switch_mode(unspecified).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn bad_peers_are_shown_with_their_errors_and_delay_nobody() {
    let network = Network::default();
    let (mut a, mut b, stranger) = (plan(1, false).await, plan(2, false).await, plan(3, false).await);
    let mut foreign = plan(4, false).await;
    foreign.config.node.cluster = "elsewhere".into();
    a.trusts(&b);
    b.trusts(&a);
    a.config.coordinator.http_peers.push(stranger.url());
    a.config.coordinator.http_peers.push(foreign.url());
    a.config.node.trusted_keys.push(foreign.node().0);
    // Accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    a.config.coordinator.http_peers.push(hanging.clone());
    a.config.coordinator.http_peers.push(a.url());

    let (stranger_url, foreign_key) = (stranger.url(), foreign.node());
    let (mut a, b) = (a.start(&network).await, b.start(&network).await);
    let _others = (stranger.start(&network).await, foreign.start(&network).await);
    b.store.put("b", "there", true);
    eventually("the good peer is healed from", async || a.store.entries() == b.store.entries()).await;

    eventually("each error is shown", async || {
        let status = a.status().await;
        let said = |url: &str, text: &str| {
            status.url_errors.iter().any(|error| error.url == url && error.last_error.contains(text))
        };
        let foreign = status.peers.iter().find(|peer| peer.node == foreign_key.as_bytes().as_slice());
        said(&stranger_url, "is not trusted")
            && said(&hanging, "no answer within 2000 ms")
            && foreign
                .is_some_and(|peer| peer.errors > 0 && peer.last_error.contains("cluster is \"elsewhere\""))
    })
    .await;
}

#[tokio::test]
async fn a_pull_on_a_budget_asks_its_questions_later_and_heals() {
    let network = Network::default();
    let (mut a, mut b) = (plan(1, false).await, plan(2, false).await);
    a.trusts(&b);
    b.trusts(&a);
    a.config.coordinator.pull_bytes_per_s = 64 << 10;
    let (mut a, b) = (a.start(&network).await, b.start(&network).await);
    for number in 0..20 {
        b.store.put(&format!("b/{number}"), &"x".repeat(6_000), true);
    }
    eventually("it healed", async || a.store.entries() == b.store.entries()).await;
    // That took about two seconds of the budget: the questions of the next pull wait for them.
    b.store.put("late", "there", true);
    eventually("it healed again", async || a.store.entries() == b.store.entries()).await;
    let pulled_well = |heals: Vec<wire::Heal>| heals.iter().all(|heal| heal.outcome == "Healed");
    eventually("both are on record", async || a.heals().await.len() >= 2).await;
    assert!(pulled_well(a.heals().await));
}

#[tokio::test]
async fn a_heal_is_one_trace_over_both_nodes() {
    // All tasks of this test run on its own thread.
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let (_, mut a, b) = pair(false).await;
    b.store.put("b", "there", true);
    eventually("it healed", async || a.store.entries() == b.store.entries()).await;
    let mut trace_id = String::new();
    eventually("it is recorded", async || {
        let heals = a.heals().await;
        let healed = heals.into_iter().find(|heal| heal.outcome == "Healed" && heal.entries_merged == 1);
        trace_id = healed.map(|heal| heal.trace_id).unwrap_or_default();
        trace_id.len() == 32
    })
    .await;
    let merges = a.store.traces("merge");
    assert!(merges.iter().any(|trace| trace.contains(&trace_id)), "{trace_id} {merges:?}");
    // Nobody waits for the answer to a bye.
    for asked in ["walk", "fetch", "bye"] {
        eventually(asked, async || b.store.traces(asked).iter().any(|trace| trace.contains(&trace_id))).await;
    }
}
