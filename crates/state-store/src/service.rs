//! The store as a service: opens files, answers gRPC, runs the writer, and ends in order.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::model::{EpochLength, Incarnation, NodeId};
use lattice_proto::kv::v1::key_value_server::KeyValueServer;
use lattice_proto::reads::Reads;
use lattice_proto::store::v1::state_store_server::StateStoreServer;
use lattice_runtime::config::{self, Listen};
use lattice_runtime::grpc::{self, HealthReporter, MESSAGE_BYTES_MAX, ServingStatus};
use lattice_runtime::http::BindError;
use lattice_runtime::identity::{self, DataDir, Lock, Members, NodeKey};
use lattice_runtime::process::Failure;
use lattice_runtime::{Clock, Config, Runtime, TaskGroup, entropy, tasks};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::engine::{self, Engine, Incarnations, Reader, Settings};
use crate::kv::KeyValue;
use crate::metrics::Metrics;
use crate::opening::{self, Opened, Opening};
use crate::peers::{Limit, Peers};
use crate::serving::Turns;
use crate::state::{self, StateStore};
use crate::storage::{self, Disk, MemoryStorage};
use crate::writer::{self, Space, Writable, Writer};

/// The store's folder in the node's.
pub(crate) const FOLDER: &str = identity::STORE_FOLDER;
/// The storage engines that are built in.
const ENGINES: &[config::Engine] = &[
    config::Engine::Sled,
    #[cfg(feature = "redb")]
    config::Engine::Redb,
    config::Engine::Memory,
];
/// How long calls in flight get at the end, and the writer after them.
const GRACE: Duration = Duration::from_secs(10);
/// The longest that a peer waits for its turn, and the longest that its answer is then kept back for
/// `store.serve_bytes_per_s`.
const SERVE_DELAY_MAX: Duration = Duration::from_secs(2);
/// The services whose health is told.
const NAMES: [&str; 3] = ["", KEY_VALUE, "lattice.store.v1.StateStore"];
/// Serving exactly while the store takes writes.
const KEY_VALUE: &str = "lattice.kv.v1.KeyValue";

/// Why the store does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's key or folder is refused.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The store's folder is not ours, or the database does not open.
    #[error(transparent)]
    Opening(#[from] opening::Error),
    /// The store in memory does not open.
    #[error(transparent)]
    Engine(#[from] engine::OpenError),
    /// The configuration is refused.
    #[error("store.epoch_ms: takes 1 to 3600000, got {0}")]
    EpochLength(u64),
    /// The storage engine is known, but was left out of this binary.
    #[error("store.engine: {0} is not built into this binary, which has {has}", has = built_in())]
    NotBuiltIn(&'static str),
    /// What is kept in memory would begin empty beside what is on the disk.
    #[error(
        "store.engine: \"memory\", but {} holds a database: use the engine that made it, or another folder (node.data_dir)",
        path.display()
    )]
    Occupied {
        /// The store's folder.
        path: PathBuf,
    },
    /// The port is not to be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// Reflection does not load.
    #[error(transparent)]
    Reflection(#[from] grpc::ReflectionError),
    /// The writer's thread does not start.
    #[error("start the writer: {0}")]
    Thread(std::io::Error),
    /// Opening panicked or was cancelled.
    #[error("open the store: {0}")]
    Open(String),
    /// A part of it failed, or did not end in time.
    #[error(transparent)]
    Tasks(#[from] tasks::Error),
}

fn built_in() -> String {
    ENGINES.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Identity(error) => error.into(),
            Error::EpochLength(_) | Error::NotBuiltIn(_) => Self::config(error),
            Error::Listen(error) => error.into(),
            Error::Tasks(error) => error.into(),
            Error::Occupied { .. }
            | Error::Opening(_)
            | Error::Engine(_)
            | Error::Reflection(_)
            | Error::Thread(_)
            | Error::Open(_) => Self::refused(error),
        }
    }
}

/// The store, open and not yet running.
pub struct Service {
    server: Option<grpc::Server>,
    routes: Routes,
    reads: KeyValue,
    reader: Reader,
    writer: Writer,
    idle: writer::Idle,
    health: HealthReporter,
    tasks: TaskGroup,
    check: Check,
    damaged: watch::Receiver<Option<String>>,
    lock: Option<Lock>,
}

/// What the check needs to run.
struct Check {
    clock: Clock,
    metrics: Metrics,
    bytes_per_s: u64,
}

impl Service {
    /// Refuses values of the configuration, and looks at nothing else.
    ///
    /// # Errors
    /// [`Error::EpochLength`] and [`Error::NotBuiltIn`].
    pub fn check_values(config: &Config) -> Result<(), Error> {
        settings(config)?;
        disk(config.store.engine)?;
        Ok(())
    }

    /// Opens the store's files; makes what is not there yet, the node's key included. Nothing runs before
    /// [`Self::run`]. Call it inside the runtime.
    ///
    /// # Errors
    /// [`Error`], one line that names what is wrong; a folder that is not this node's is left as it is.
    pub async fn bind(config: &Config, runtime: &Runtime) -> Result<Self, Error> {
        let members = Members::read(&config.node.data_dir, &config.node.trusted_keys)?;
        let opened = {
            let (config, clock) = (config.clone(), runtime.clock.clone());
            tokio::task::spawn_blocking(move || open(&config, &clock)).await
        };
        let (Opened { engine, damaged }, space, lock) =
            opened.map_err(|error| Error::Open(error.to_string()))??;
        let reader = engine.reader();
        let metrics = Metrics::register(&runtime.metrics);
        let (writer, idle) = writer::writer(engine, space, runtime.clock.clone(), metrics.clone());
        let tasks = TaskGroup::new("state-store");

        let trusted: BTreeSet<NodeId> = members.effective().into_iter().map(NodeId).collect();
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let turns = Arc::new(Turns::new(processors));
        let state = StateStore {
            reader: reader.clone(),
            writer: writer.clone(),
            peers: Arc::new(Peers::new(reader.clone(), trusted).limited(limit(config))),
            asked: broadcast::Sender::new(state::ASKED_MAX),
            followed: state::LocalWritesFollowed::new(&writer.published.local),
            exchanges: state::exchanges(),
            turns: Arc::clone(&turns),
            patience: serve_delay_max(config),
            clock: runtime.clock.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        let bytes_per_s = config.store.check_bytes_per_s;
        let check = Check { clock: runtime.clock.clone(), metrics, bytes_per_s };
        let (clock, stopping) = (runtime.clock.clone(), tasks.token());
        let key_value = KeyValue::new(reader.clone(), writer.clone(), clock, turns, stopping);
        let (health, health_service) = grpc::health();
        for name in NAMES {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        let routes = Routes::new(
            KeyValueServer::new(key_value.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            StateStoreServer::new(state)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(health_service)
        .add_service(grpc::reflection(&[lattice_proto::DESCRIPTORS])?);
        Ok(Self {
            server: None,
            routes,
            reads: key_value,
            reader,
            writer,
            idle,
            health,
            tasks,
            check,
            damaged,
            lock,
        })
    }

    /// Serves on `server` too, for a store with a process of its own. The caller has bound it first: a port
    /// that is taken is refused before any file is touched.
    pub fn on(mut self, server: grpc::Server) -> Self {
        self.server = Some(server);
        self
    }

    /// Where it listens, with the actual port; `None` when it has no socket.
    pub fn local_addr(&self) -> Option<Listen> {
        self.server.as_ref().map(grpc::Server::local)
    }

    /// `KeyValue`, `StateStore`, health and reflection, to be mounted in memory.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// The group whose tasks in-memory handlers are: `grpc::in_memory(service.routes(), service.tasks())`.
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// Point reads without a call, for who is in the same process.
    pub fn reads(&self) -> Arc<dyn Reads> {
        Arc::new(self.reads.clone())
    }

    /// Reads the store directly, in the same process.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Runs until `shutdown`; then finishes the calls in flight, lets the writer commit what waits, and
    /// returns.
    ///
    /// # Errors
    /// [`Error`] when a part of it failed, or did not end in time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            server,
            routes,
            reads: _,
            reader,
            writer,
            idle,
            health,
            tasks,
            check,
            mut damaged,
            lock: _lock,
        } = self;
        let writable = writer.published.writable.subscribe();
        let (thread, mut ended) = idle.start().map_err(Error::Thread)?;
        let stopping = tasks.token();
        let (done, writing) = tokio::sync::oneshot::channel();
        tasks.spawn_essential("writer", async move {
            tokio::select! {
                end = &mut ended => {
                    let why = if end.is_ok() { "ended" } else { "panicked" };
                    anyhow::bail!("the writer {why}");
                }
                () = stopping.cancelled() => {}
            }
            // Handed back: it goes on until the calls in flight have been answered.
            let _ = done.send(ended);
            Ok(())
        });
        let stopping = tasks.token();
        tasks.spawn_essential("database", async move {
            tokio::select! {
                Ok(reason) = damaged.wait_for(Option::is_some) => {
                    let reason = reason.clone().unwrap_or_default();
                    anyhow::bail!("the database is damaged, and is looked at when the store starts again: {reason}");
                }
                () = stopping.cancelled() => Ok(()),
            }
        });
        let (stopping, checking) = (tasks.token(), writer.published.checking.clone());
        tasks.spawn("check", async move {
            checking.run(reader, check.clock, check.metrics, check.bytes_per_s, stopping).await;
            Ok(())
        });
        let stopping = tasks.token();
        tasks.spawn("health", async move {
            report(health, writable, stopping).await;
            Ok(())
        });
        if let Some(server) = server {
            tracing::info!(listen = %server.local(), "state-store serves");
            let stopping = tasks.token();
            tasks.spawn_essential("serve", async move {
                server.serve(routes, stopping).await;
                Ok(())
            });
        }
        let outcome = tasks.run_until(shutdown, GRACE).await;
        if let Ok(ended) = writing.await {
            let stopped = tokio::task::spawn_blocking(move || writer.stop());
            let in_time = tokio::time::timeout(GRACE, async { (stopped.await, ended.await) }).await;
            if in_time.is_ok() {
                // It has ended: this does not wait.
                let _ = thread.join();
            } else {
                tracing::error!("the writer did not end in time");
            }
        }
        Ok(outcome?)
    }
}

/// Tells the health of the services: none of them is well once a commit has failed, and while the disk is full
/// clients cannot write.
async fn report(
    health: HealthReporter,
    mut writable: watch::Receiver<Writable>,
    stopping: CancellationToken,
) {
    loop {
        let now = writable.borrow_and_update().clone();
        for name in NAMES {
            let serving = match now {
                Writable::Yes => true,
                Writable::Full(_) => name != KEY_VALUE,
                Writable::Failed(_) => false,
            };
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            changed = writable.changed() => if changed.is_err() { return },
            () = stopping.cancelled() => return,
        }
    }
}

/// Opens the engine on what the configuration names, and finds out how to tell the room on its disk. The lock keeps
/// other processes from looking at files that change under them.
fn open(config: &Config, clock: &Clock) -> Result<(Opened, Space, Option<Lock>), Error> {
    // What this binary cannot do is refused before anything is made.
    let (settings, disk) = (settings(config)?, disk(config.store.engine)?);
    let path = config.node.data_dir.join(FOLDER);
    if disk.is_none() && storage::exists(&path) {
        return Err(Error::Occupied { path });
    }
    let data_dir = DataDir::open(&config.node.data_dir, &config.node.cluster)?;
    let key = NodeKey::load_or_create(&config.node.key_file)?.signing_key().clone();
    let now = || writer::now(clock);
    let Some(disk) = disk else {
        let engine = Engine::open(MemoryStorage::new(), settings, key, incarnations(), now())?;
        let opened = Opened { engine, damaged: watch::Sender::new(None).subscribe() };
        return Ok((opened, Space::unlimited(), None));
    };
    let lock = data_dir.lock(FOLDER)?;
    let folder = data_dir.folder(FOLDER)?;
    let cache_bytes = config.store.cache_mb << 20;
    let opened =
        Opening { folder: &folder, disk, cache_bytes, settings, key, now: &now }.open(incarnations)?;
    let space = Space::of_folder(&folder);
    let space = space.map_err(|source| opening::Error::Io { path: folder.clone(), source })?;
    Ok((opened, space, Some(lock)))
}

/// What keeps a configured engine's database on the disk; `None` when nothing does.
pub(crate) fn disk(engine: config::Engine) -> Result<Option<Disk>, Error> {
    match engine {
        config::Engine::Memory => Ok(None),
        config::Engine::Sled => Ok(Some(Disk::Sled)),
        #[cfg(feature = "redb")]
        config::Engine::Redb => Ok(Some(Disk::Redb)),
        #[cfg(not(feature = "redb"))]
        config::Engine::Redb => Err(Error::NotBuiltIn(engine.name())),
    }
}

/// What serving peers may cost.
fn limit(config: &Config) -> Option<Limit> {
    let bytes_per_s = NonZeroU64::new(config.store.serve_bytes_per_s)?;
    Some(Limit::new(bytes_per_s, serve_delay_max(config)))
}

/// What waited for its turn, and was kept back then, is to arrive before its asker gives up.
fn serve_delay_max(config: &Config) -> Duration {
    SERVE_DELAY_MAX.min(config.coordinator.request_timeout / 3)
}

pub(crate) fn incarnations() -> Incarnations {
    Box::new(|| Incarnation(entropy::bytes()))
}

pub(crate) fn settings(config: &Config) -> Result<Settings, Error> {
    let epoch_ms = u32::try_from(config.store.epoch_ms).ok().and_then(NonZeroU32::new);
    Ok(Settings {
        cluster: config.node.cluster.clone(),
        epoch_length: EpochLength(epoch_ms.ok_or(Error::EpochLength(config.store.epoch_ms))?),
        settle: Duration::from_millis(config.store.settle_ms),
        settle_max: Duration::from_millis(config.store.settle_max_ms),
        retain_epochs: config.store.retain_epochs,
        max_clock_drift: config.node.max_clock_drift,
        confirm_after: config.coordinator.peerless_timeout,
    })
}
