//! A whole node in one process: the four services, calling each other in memory.
//!
//! The services are the ones that the four binaries run, and so are the clients with which they call each
//! other; only the transport between them differs. They start in the order store, sensor, coordinator, gateway,
//! and stop in reverse, each draining before the next one goes.

use std::net::SocketAddr;
use std::process::ExitCode;

use lattice_runtime::config::{ConfigArgs, Listen};
use lattice_runtime::process::{self, Failure};
use lattice_runtime::{Config, Runtime, grpc, identity};
use p2p_sensor::PartitionHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The four services, bound and not yet running.
pub struct Node {
    store: state_store::Service,
    sensor: p2p_sensor::Service,
    coordinator: sync_coordinator::Service,
    gateway: gateway::Service,
}

impl Node {
    /// Opens the node's files and ports.
    ///
    /// # Errors
    /// What the first service that could not be bound says; those bound before it are closed again.
    pub async fn bind(config: &Config, runtime: &Runtime) -> Result<Self, Failure> {
        check(config).await?;
        let store = state_store::Service::bind(config, runtime).await?;
        let store_channel = grpc::in_memory(store.routes(), store.tasks());
        let sensor = p2p_sensor::Service::bind(config, runtime).await?;
        let sensor_channel = grpc::in_memory(sensor.routes(), sensor.tasks());
        let coordinator = sync_coordinator::Service::bind(
            config,
            runtime,
            sync_coordinator::Channels { store: store_channel.clone(), sensor: sensor_channel.clone() },
        )
        .await?;
        let coordinator_channel = grpc::in_memory(coordinator.routes(), coordinator.tasks());
        let gateway = gateway::Service::bind(
            config,
            runtime,
            gateway::Channels {
                store: store_channel,
                reads: Some(store.reads()),
                sensor: sensor_channel,
                coordinator: coordinator_channel,
            },
        )
        .await?;
        Ok(Self { store, sensor, coordinator, gateway })
    }

    /// Where clients reach it, with the actual port.
    pub fn gateway_addr(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    /// Cuts the node off from P2P, and lets it back: for demonstrations and tests.
    pub fn partition(&self) -> PartitionHandle {
        self.sensor.partition()
    }

    /// Runs until `shutdown`, or until a service ends by itself; then stops the others in order.
    ///
    /// # Errors
    /// What the first service that failed says.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let ended = CancellationToken::new();
        let mut services = vec![
            Running::start(&ended, |stop| self.store.run(stop)),
            Running::start(&ended, |stop| self.sensor.run(stop)),
            Running::start(&ended, |stop| self.coordinator.run(stop)),
            Running::start(&ended, |stop| self.gateway.run(stop)),
        ];
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = ended.cancelled() => {}
        }
        let mut outcome = Ok(());
        while let Some(service) = services.pop() {
            let stopped = service.stop().await;
            outcome = outcome.and(stopped);
        }
        outcome
    }
}

/// Refuses a bad configuration, key, folder, list of trusted keys or port before the first service writes anything.
async fn check(config: &Config) -> Result<(), Failure> {
    identity::check(&config.node)?;
    p2p_sensor::Service::check(config)?;
    sync_coordinator::Service::check(config)?;
    Ok(gateway::Service::check(config).await?)
}

/// A service as a task.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
}

impl Running {
    /// Starts a service; `ended` is cancelled when it ends, for whatever reason.
    fn start<F, E>(ended: &CancellationToken, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Failure>,
    {
        let stop = CancellationToken::new();
        let service = run(stop.clone());
        let ended = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _ended = ended;
            service.await.map_err(Into::into)
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.task.await.unwrap_or_else(|panic| Err(Failure::refused(format!("a service panicked: {panic}"))))
    }
}

/// `lattice node`: loads the configuration, runs until a signal.
pub fn main(args: &ConfigArgs) -> ExitCode {
    process::launch::<Process>(args)
}

/// The node as a process.
struct Process;

impl process::Service for Process {
    const NAME: &'static str = "lattice";
    const ABOUT: &'static str = "A Lattice node in one process";

    fn health_at(config: &Config) -> Listen {
        Listen::dial(config.gateway.listen)
    }

    fn check(config: &Config) -> Result<(), Failure> {
        state_store::Service::check_values(config)?;
        p2p_sensor::Service::check_values(config)?;
        sync_coordinator::Service::check_values(config)?;
        Ok(gateway::Service::check_values(config)?)
    }

    async fn run(config: Config, runtime: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
        Node::bind(&config, &runtime).await?.run(shutdown).await
    }
}
