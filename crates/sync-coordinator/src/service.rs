//! The service as a whole: opens its files, offers its gRPC routes, runs until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use lattice_core::coordinator::{self, Coordinator};
use lattice_core::failover::Mode;
use lattice_core::model::{EpochLength, NodeId};
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::DESCRIPTORS;
use lattice_proto::coordinator::v1::sync_coordinator_server::SyncCoordinatorServer;
use lattice_runtime::config::{self, Listen};
use lattice_runtime::grpc::{self, Channel, MESSAGE_BYTES_MAX, ReflectionError};
use lattice_runtime::http::{BindError, DRAIN_MAX};
use lattice_runtime::identity::{self, DataDir, NodeKey};
use lattice_runtime::process::Failure;
use lattice_runtime::{Config, Runtime, TaskGroup, entropy, tasks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::Span;

use crate::announcer::{Announcer, SHARED_FOR_MAX, Voice};
use crate::api::Api;
use crate::envelopes::Asker;
use crate::http::{Address, CertificatesError, Client};
use crate::keeper::{self, Keeper};
use crate::metrics::Metrics;
use crate::report::Report;
use crate::sensor::Sensor;
use crate::shell::{Hands, Inbox, Input, Parts, Shell};
use crate::store::Store;
use crate::trust::{self, Trust};
use crate::watch::{Watch, distinct};

/// With a port: beyond its own drain, so that it is the port that cuts what is left.
const GRACE: Duration = DRAIN_MAX.saturating_add(Duration::from_secs(2));

/// Without one: nothing here takes long once it is told to end, but a reader may have stopped reading.
const GRACE_IN_MEMORY: Duration = Duration::from_secs(3);

/// The folder below the data folder, and the name of its lock.
const FOLDER: &str = "coordinator";

/// How the coordinator calls its siblings: over sockets, or in memory.
#[derive(Debug, Clone)]
pub struct Channels {
    /// The state store.
    pub store: Channel,
    /// The P2P sensor.
    pub sensor: Channel,
}

/// Why the coordinator does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is refused: exit status 2.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The authorities for TLS are refused: exit status 2.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// The key or the data folder is refused.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The trusted keys cannot be read.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The coordinator's own files cannot be read.
    #[error("{folder}: cannot be read: {source} (node.data_dir)")]
    Files {
        /// Where.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
    /// The port could not be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The built-in descriptors cannot be served.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    /// It stopped by itself.
    #[error(transparent)]
    Tasks(#[from] tasks::Error),
}

/// Who can act, by the exit status.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Identity(error) => error.into(),
            Error::Config(_) | Error::Certificates(_) | Error::Trust(_) => Self::config(error),
            Error::Files { .. } | Error::Listen(_) | Error::Reflection(_) | Error::Tasks(_) => {
                Self::refused(error)
            }
        }
    }
}

/// The coordinator, bound and not yet running.
pub struct Service {
    routes: Routes,
    server: Option<grpc::Server>,
    tasks: TaskGroup,
    shell: Shell,
    inbox: mpsc::Receiver<(Span, Input)>,
    files: keeper::Files,
    writes: mpsc::Receiver<keeper::Write>,
    watch: Watch,
    names: Vec<Address>,
    poll_interval: Duration,
    _lock: identity::Lock,
}

impl Service {
    /// Refuses values of the configuration, and looks at nothing else.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad URL.
    pub fn check_values(config: &Config) -> Result<(), Error> {
        Address::parse_all(&config.coordinator.http_peers)?;
        Ok(())
    }

    /// Refuses what [`Self::bind`] would refuse of the configuration, and writes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad URL; [`Error::Certificates`] for bad authorities.
    pub fn check(config: &Config) -> Result<(), Error> {
        Self::client(config).map(drop)
    }

    /// The URLs of peers, and the client that asks them.
    fn client(config: &Config) -> Result<(Vec<Address>, Client), Error> {
        let addresses = Address::parse_all(&config.coordinator.http_peers)?;
        let tls = addresses.iter().any(Address::is_tls);
        let timeout = config.coordinator.request_timeout;
        let client = Client::new(config.coordinator.http_ca.as_deref(), tls, timeout)?;
        Ok((addresses, client))
    }

    /// Reads key, trust and history, and takes the coordinator's folder; calls no sibling and opens no port
    /// yet. Call it inside the runtime.
    ///
    /// # Errors
    /// [`Error`]; each names the field or the file.
    pub async fn bind(config: &Config, runtime: &Runtime, channels: Channels) -> Result<Self, Error> {
        let (addresses, http) = Self::client(config)?;
        let timeout = config.coordinator.request_timeout;
        let data_dir = DataDir::open(&config.node.data_dir, &config.node.cluster)?;
        let lock = data_dir.lock(FOLDER)?;
        let folder = data_dir.folder(FOLDER)?;
        let key = Arc::new(NodeKey::load_or_create(&config.node.key_file)?);
        let node = NodeId(key.public());
        let trust = Trust::open(data_dir.path(), &config.node.trusted_keys, node)?;
        let files = keeper::Files::open(folder.clone())
            .map_err(|source| Error::Files { folder: folder.display().to_string(), source })?;

        let clock = runtime.clock.clone();
        let tasks = TaskGroup::new("sync-coordinator");
        let metrics = Metrics::register(&runtime.metrics);
        let report = Report::new(clock.clone(), metrics.clone());
        let store = Store::new(&channels.store);
        let (inbox, waiting) = Inbox::new();
        let (keeper, writes) = Keeper::new();
        let machine = Coordinator::new(
            machine_config(config, node, &trust, &addresses),
            Monotonic(clock.monotonic()),
            WallTime(clock.wall_ms()),
            &files.memory,
        );
        let (heartbeat, poll) = (config.sensor.heartbeat_interval, config.coordinator.poll_interval);
        let voice = Voice {
            key: Arc::clone(&key),
            cluster: config.node.cluster.clone(),
            name: config.node.name.clone(),
            shared_for: SHARED_FOR_MAX.min(heartbeat).min(poll),
        };
        let hands = Arc::new(Hands::new(Parts {
            clock: clock.clone(),
            store: store.clone(),
            sensor: Sensor::new(&channels.sensor),
            http,
            asker: Asker::new(key, config.node.cluster.clone()),
            announcer: Announcer::new(voice, clock.clone(), store, inbox.clone()),
            trust,
            keeper,
            inbox,
            request_timeout: timeout,
        }));
        let api = Api {
            node,
            name: config.node.name.clone(),
            cluster: config.node.cluster.clone(),
            http_configured: !addresses.is_empty(),
            p2p_configured: config.sensor.enabled,
            hands: Arc::clone(&hands),
            history: Arc::clone(&files.history),
            report: report.clone(),
            tasks: tasks.clone(),
        };
        Ok(Self {
            routes: routes(api)?,
            server: None,
            shell: Shell::new(machine, clock, Arc::clone(&hands), report, tasks.clone()),
            inbox: waiting,
            files,
            writes,
            watch: Watch::new(hands, config.node.cluster.clone(), metrics, tasks.clone()),
            names: addresses,
            poll_interval: config.coordinator.poll_interval,
            tasks,
            _lock: lock,
        })
    }

    /// Serves on `server` too, for a coordinator with a process of its own. The caller has bound it first: a port
    /// that is taken is refused before any file is touched.
    pub fn on(mut self, server: grpc::Server) -> Self {
        self.server = Some(server);
        self
    }

    /// Where it listens, with the actual port; `None` when it has no socket.
    pub fn local_addr(&self) -> Option<Listen> {
        self.server.as_ref().map(grpc::Server::local)
    }

    /// `SyncCoordinator`, health and reflection, to be mounted in memory.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// The group whose tasks in-memory handlers are: `grpc::in_memory(service.routes(), service.tasks())`.
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// Runs until `shutdown`; then ends pulls and streams, writes what is left to write, and returns.
    ///
    /// # Errors
    /// [`Error::Tasks`] when a part of it failed, or did not end in time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { routes, server, tasks, shell, inbox, files, writes, watch, names, poll_interval, .. } =
            self;
        let ended = tasks.token();
        tasks.spawn_essential("files", async move {
            files.keep(writes, ended).await;
            Ok(())
        });
        let ended = tasks.token();
        tasks.spawn_essential("shell", async move {
            shell.run(inbox, ended).await;
            Ok(())
        });
        watch.start();
        if names.iter().any(|address| matches!(address, Address::Name { .. })) {
            watch.resolve(names, poll_interval);
        }
        let grace = if server.is_some() { GRACE } else { GRACE_IN_MEMORY };
        if let Some(server) = server {
            tracing::info!(listen = %server.local(), "sync-coordinator serves");
            let ended = tasks.token();
            tasks.spawn_essential("serve", async move {
                server.serve(routes, ended).await;
                Ok(())
            });
        }
        Ok(tasks.run_until(shutdown, grace).await?)
    }
}

fn routes(api: Api) -> Result<Routes, Error> {
    let service = SyncCoordinatorServer::new(api)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (_, health) = grpc::health();
    let reflection = grpc::reflection(&[DESCRIPTORS])?;
    Ok(Routes::new(service).add_service(health).add_service(reflection))
}

fn machine_config(
    config: &Config,
    node: NodeId,
    trust: &Trust,
    addresses: &[Address],
) -> coordinator::Config {
    let fixed = |address: &Address| match address {
        Address::Url(url) => vec![url.clone()],
        // Expanded as soon as we run.
        Address::Name { .. } => Vec::new(),
    };
    let urls: Vec<_> = addresses.iter().map(fixed).collect();
    coordinator::Config {
        node,
        cluster: config.node.cluster.clone(),
        epoch_length: epoch_length(config.store.epoch_ms),
        trusted: trust.keys().iter().copied().collect(),
        urls: distinct(&urls),
        heartbeat_interval: config.sensor.heartbeat_interval,
        peer_timeout: config.sensor.peer_timeout,
        poll_interval: config.coordinator.poll_interval,
        request_timeout: config.coordinator.request_timeout,
        peerless_timeout: config.coordinator.peerless_timeout,
        return_after: config.coordinator.return_after,
        divergence_threshold: config.coordinator.divergence_threshold,
        backoff_max: config.coordinator.backoff_max,
        pulls_max: config.coordinator.pulls_max,
        pull_bytes_per_s: std::num::NonZeroU64::new(config.coordinator.pull_bytes_per_s),
        mode: match config.coordinator.mode {
            config::Mode::Auto => Mode::Auto,
            config::Mode::P2p => Mode::P2p,
            config::Mode::Http => Mode::Http,
        },
        p2p_enabled: config.sensor.enabled,
        max_clock_drift: config.node.max_clock_drift,
        seed: entropy::seed(),
    }
}

fn epoch_length(millis: u64) -> EpochLength {
    let millis = u32::try_from(millis).ok().and_then(std::num::NonZeroU32::new);
    EpochLength(millis.expect("an epoch was checked to take 1 to 3,600,000 ms"))
}
