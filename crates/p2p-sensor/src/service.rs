//! The service as a whole: gets the ports, runs, drains.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lattice_core::liveness::Liveness;
use lattice_core::model::NodeId;
use lattice_core::time::Monotonic;
use lattice_proto::sensor::v1::WatchPeersResponse;
use lattice_proto::sensor::v1::p2p_sensor_server::P2pSensorServer;
use lattice_runtime::config;
use lattice_runtime::grpc::MESSAGE_BYTES_MAX;
use lattice_runtime::http::BindError;
use lattice_runtime::identity::{DataDir, Members, NodeKey};
use lattice_runtime::process::Failure;
use lattice_runtime::{Config, Runtime, TaskGroup, entropy, tasks};
use libp2p::gossipsub::IdentTopic;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::address::{self, Bootstrap};
use crate::dialer::{Bounds, Dialer};
use crate::gossip::Gate;
use crate::grpc::{Handler, Rooms};
use crate::metrics::Metrics;
use crate::network::{COMMANDS_MAX, Heard, Network, Parts};
use crate::observers::Observers;
use crate::{behaviour, identity, listen};

/// Announcements kept for a reader that falls behind; a few kilobytes each.
const ANNOUNCEMENTS_MAX: usize = 512;
/// The longest pause between two dials of one target.
const REDIAL_MAX: Duration = Duration::from_secs(30);
/// The pause after the first failure.
const REDIAL_MIN: Duration = Duration::from_millis(500);
/// How long calls in flight get at the end; all of them are told at once that nothing more will come.
const GRACE: Duration = Duration::from_secs(2);

/// Why the sensor does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The node's key or folder is refused.
    #[error(transparent)]
    Identity(#[from] lattice_runtime::identity::Error),
    /// A port for peers is not to be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// libp2p could not be set up.
    #[error("{0}")]
    Start(String),
    /// It stopped by itself.
    #[error(transparent)]
    Tasks(#[from] tasks::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => error.into(),
            Error::Identity(error) => error.into(),
            Error::Listen(error) => error.into(),
            Error::Tasks(error) => error.into(),
            Error::Start(_) => Failure::refused(error),
        }
    }
}

/// The sensor, listening for peers and not yet talking to them.
pub struct Service {
    me: NodeId,
    handler: Handler,
    sensing: Sensing,
    partition: PartitionHandle,
    tasks: TaskGroup,
}

/// What senses peers.
enum Sensing {
    Network(Box<Network>),
    /// Nothing does. The channels are kept: who watches waits, as long as the service runs, and does not learn that
    /// it has ended.
    Disabled(Channels),
}

/// Cuts the node off from P2P, for tests and demonstrations: its connections really close, and it can
/// neither dial nor be dialled. Reachable only from code that holds it, never over gRPC or by configuration.
#[derive(Clone, Debug)]
pub struct PartitionHandle {
    cut: Arc<watch::Sender<bool>>,
}

impl PartitionHandle {
    /// Closes every connection, and refuses new ones in both directions.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Ends the cut: peers are dialled again at once.
    pub fn heal(&self) {
        self.cut.send_replace(false);
    }

    /// Whether the node is cut off.
    pub fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }
}

impl Service {
    /// Refuses values of the configuration, and looks at nothing else.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad multiaddr.
    pub fn check_values(config: &Config) -> Result<(), Error> {
        parse(&config.sensor)?;
        Ok(())
    }

    /// Refuses what [`Self::bind`] would refuse of the configuration and the ports, and writes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad multiaddr; [`Error::Listen`] when a port is not to be had.
    pub fn check(config: &Config) -> Result<(), Error> {
        let (listen_on, _) = parse(&config.sensor)?;
        if config.sensor.enabled {
            listen::probe(&listen_on)?;
        }
        Ok(())
    }

    /// Reads the key (and makes it, when this service is the first), and listens on `sensor.p2p_listen`
    /// unless P2P is disabled. Nobody is dialled or let in before [`Self::run`]. Call it inside the runtime.
    ///
    /// # Errors
    /// [`Error::Config`] for a bad multiaddr; [`Error::Identity`] for a bad key or folder; [`Error::Listen`]
    /// when a port is not to be had. Nothing was written in the first and, as a rule, in the last case.
    pub async fn bind(config: &Config, runtime: &Runtime) -> Result<Self, Error> {
        Self::check(config)?;
        let (listen_on, bootstrap) = parse(&config.sensor)?;
        DataDir::open(&config.node.data_dir, &config.node.cluster)?;
        let key = NodeKey::load_or_create(&config.node.key_file)?;
        let me = NodeId(key.public());
        let keypair = identity::keypair(&key);

        let (view, viewed) = watch::channel(WatchPeersResponse {
            enabled: config.sensor.enabled,
            peer_id: PeerId::from_public_key(&keypair.public()).to_string(),
            ..WatchPeersResponse::default()
        });
        let metrics = Metrics::new(&runtime.metrics);
        let heard = Heard {
            announcements: broadcast::Sender::new(ANNOUNCEMENTS_MAX),
            deltas: Observers::new(metrics.observations_lost.clone()),
        };
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (cut, cut_changed) = watch::channel(false);
        let tasks = TaskGroup::new("p2p-sensor");
        let handler = Handler {
            view: viewed,
            heard: heard.clone(),
            commands: config.sensor.enabled.then_some(commands),
            rooms: Rooms::new(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            callers: Arc::new(AtomicU64::new(1)),
        };
        let channels = Channels { commands: received, cut: cut_changed, view, heard };
        let sensing = if config.sensor.enabled {
            let places = (&listen_on[..], &bootstrap[..]);
            Sensing::Network(Box::new(
                network(config, runtime, &keypair, me, places, channels, metrics).await?,
            ))
        } else {
            Sensing::Disabled(channels)
        };
        let partition = PartitionHandle { cut: Arc::new(cut) };
        Ok(Self { me, handler, sensing, partition, tasks })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.me
    }

    /// Where it listens for peers: multiaddrs with the actual ports; empty when P2P is disabled.
    pub fn listen_addresses(&self) -> Vec<String> {
        self.handler.view.borrow().listen_addresses.clone()
    }

    /// `lattice.sensor.v1.P2pSensor`, to be served on a socket or in memory.
    pub fn routes(&self) -> Routes {
        let server = P2pSensorServer::new(self.handler.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(server)
    }

    /// The service's tasks: where the handlers of an in-memory channel run.
    pub fn tasks(&self) -> &TaskGroup {
        &self.tasks
    }

    /// To cut the node off from P2P; does nothing when P2P is disabled.
    pub fn partition(&self) -> PartitionHandle {
        self.partition.clone()
    }

    /// Finds and serves peers until `shutdown`; then ends the streams, closes the connections and returns.
    ///
    /// # Errors
    /// [`Error::Tasks`] when the network loop failed, or calls did not end in time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        // `partition`, and what a disabled network leaves, live on, so that their channels do.
        let Self { me, handler, sensing, partition, tasks } = self;
        drop(handler);
        let idle = match sensing {
            Sensing::Network(network) => {
                tracing::info!(node = %me, "sensing peers");
                let stopping = tasks.token();
                tasks.spawn_essential("network", async move {
                    network.run(stopping).await;
                    Ok(())
                });
                None
            }
            Sensing::Disabled(channels) => {
                tracing::info!(node = %me, "P2P is disabled (sensor.enabled)");
                Some(channels)
            }
        };
        tasks.run_until(shutdown, GRACE).await?;
        drop((partition, idle));
        Ok(())
    }
}

/// The loop's ends of its channels.
struct Channels {
    commands: mpsc::Receiver<crate::network::Command>,
    cut: watch::Receiver<bool>,
    view: watch::Sender<WatchPeersResponse>,
    heard: Heard,
}

async fn network(
    config: &Config,
    runtime: &Runtime,
    keypair: &Keypair,
    me: NodeId,
    (listen_on, bootstrap): (&[Multiaddr], &[Bootstrap]),
    channels: Channels,
    metrics: Metrics,
) -> Result<Network, Error> {
    let sensor = &config.sensor;
    let topic = IdentTopic::new(format!("{}/{}/delta", sensor.topic, config.node.cluster));
    let gate = Gate::new(metrics.clone());
    let parts =
        behaviour::Parts { keypair, topic: &topic, gate: gate.clone(), peer_timeout: sensor.peer_timeout };
    let mut swarm = behaviour::build(&parts).map_err(|error| Error::Start(error.to_string()))?;
    listen::listen(&mut swarm, listen_on).await?;

    // A peer that comes back is found within the time after which it was given up.
    let max = sensor.peer_timeout.min(REDIAL_MAX);
    let bounds = Bounds { min: REDIAL_MIN.min(max / 8), max };
    let now = Monotonic(runtime.clock.monotonic());
    let members = Members::read(&config.node.data_dir, &config.node.trusted_keys)?;
    let trusted = members.effective().into_iter().map(NodeId).collect();
    Ok(Network::new(Parts {
        swarm,
        me,
        cluster: config.node.cluster.clone(),
        topic: topic.hash(),
        gate,
        clock: runtime.clock.clone(),
        dialer: Dialer::new(now, me, bootstrap, bounds, entropy::seed()),
        liveness: Liveness::new(sensor.peer_timeout, sensor.heartbeat_interval, BTreeSet::new()),
        trusted,
        commands: channels.commands,
        cut: channels.cut,
        view: channels.view,
        heard: channels.heard,
        metrics,
        libp2p_metrics: runtime.metrics.with(libp2p::metrics::Metrics::new),
    }))
}

fn parse(sensor: &config::Sensor) -> Result<(Vec<Multiaddr>, Vec<Bootstrap>), config::Error> {
    let mut listen_on = Vec::new();
    for (index, text) in sensor.p2p_listen.iter().enumerate() {
        listen_on.push(address::parse_listen(index, text)?);
    }
    let mut bootstrap = Vec::new();
    for (index, text) in sensor.bootstrap.iter().enumerate() {
        bootstrap.push(address::parse_bootstrap(index, text)?);
    }
    Ok((listen_on, bootstrap))
}
