//! The nodes of the demo: real ones, each with its own key, ports and data folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use lattice_core::model::{Epoch, NodeId};
use lattice_runtime::identity::NodeKey;
use lattice_runtime::{Clock, Config, Runtime};
use p2p_sensor::PartitionHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::observe::Observer;
use crate::node::Node;

/// The timers of the story.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    heartbeat_interval: Duration,
    peer_timeout: Duration,
    poll_interval: Duration,
    pub(super) peerless_timeout: Duration,
    return_after: Duration,
    epoch_ms: u64,
    settle_ms: u64,
    /// How long a step that waits for one of these timers may take on a busy machine.
    pub(super) patience: Duration,
}

/// The running nodes.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    pace: Pace,
    /// Removed with everything in it at the end.
    _folder: tempfile::TempDir,
}

/// One node, and the way to ask it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) id: NodeId,
    pub(super) url: String,
    pub(super) observer: Observer,
    pub(super) partition: PartitionHandle,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Pace {
    /// What production uses.
    pub(super) fn production() -> Self {
        let defaults = Config::default();
        Self {
            heartbeat_interval: defaults.sensor.heartbeat_interval,
            peer_timeout: defaults.sensor.peer_timeout,
            poll_interval: defaults.coordinator.poll_interval,
            peerless_timeout: defaults.coordinator.peerless_timeout,
            return_after: defaults.coordinator.return_after,
            epoch_ms: defaults.store.epoch_ms,
            settle_ms: defaults.store.settle_ms,
            patience: Duration::from_secs(180),
        }
    }

    /// The same story in a tenth of the time.
    pub(super) fn fast() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            peer_timeout: Duration::from_secs(3),
            poll_interval: Duration::from_secs(1),
            peerless_timeout: Duration::from_secs(5),
            return_after: Duration::from_secs(2),
            epoch_ms: 500,
            settle_ms: 1_000,
            patience: Duration::from_secs(30),
        }
    }
}

impl Cluster {
    /// Starts `count` nodes that know and trust each other.
    pub(super) async fn start(count: usize, pace: Pace) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lattice-demo-").tempdir().context("make a folder")?;
        let ports = free_ports(2 * count)?;
        let (p2p_ports, http_ports) = ports.split_at(count);
        let mut configs = Vec::new();
        for index in 0..count {
            let data_dir = folder.path().join(format!("node-{}", index + 1));
            let mut config = Config::default();
            config.node.name = format!("node-{}", index + 1);
            config.node.cluster = "demo".to_owned();
            config.node.key_file = data_dir.join("node.key");
            config.node.data_dir = data_dir;
            config.store.epoch_ms = pace.epoch_ms;
            config.store.settle_ms = pace.settle_ms;
            config.sensor.p2p_listen = vec![format!("/ip4/127.0.0.1/tcp/{}", p2p_ports[index])];
            config.sensor.heartbeat_interval = pace.heartbeat_interval;
            config.sensor.peer_timeout = pace.peer_timeout;
            config.coordinator.poll_interval = pace.poll_interval;
            config.coordinator.peerless_timeout = pace.peerless_timeout;
            config.coordinator.return_after = pace.return_after;
            config.gateway.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, http_ports[index]));
            for other in (0..count).filter(|other| *other != index) {
                config.sensor.bootstrap.push(format!("/ip4/127.0.0.1/tcp/{}", p2p_ports[other]));
                config.coordinator.http_peers.push(format!("http://127.0.0.1:{}", http_ports[other]));
            }
            std::fs::create_dir_all(&config.node.data_dir).context("make a data folder")?;
            configs.push(config);
        }
        let mut keys = Vec::new();
        for config in &configs {
            keys.push(NodeKey::load_or_create(&config.node.key_file)?.public());
        }
        let mut members = Vec::new();
        for (mut config, key) in configs.into_iter().zip(&keys) {
            config.node.trusted_keys = keys.clone();
            config.validate()?;
            members.push(Member::start(config, NodeId(*key)).await?);
        }
        Ok(Self { members, pace, _folder: folder })
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// The epoch that a write would belong to now.
    pub(super) fn current_epoch(&self) -> Epoch {
        Epoch(Clock::system().wall_ms() / self.pace.epoch_ms)
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.url.as_str())
    }

    /// Stops all nodes and waits for their last flush.
    pub(super) async fn stop(self) {
        for member in &self.members {
            member.shutdown.cancel();
        }
        for member in self.members {
            // A node that failed has said so on standard error.
            let _ = member.task.await;
        }
    }
}

impl Member {
    async fn start(config: Config, id: NodeId) -> anyhow::Result<Self> {
        let name = config.node.name.clone();
        let node = Node::bind(&config, &Runtime::new()).await.with_context(|| format!("start {name}"))?;
        let url = format!("http://{}", node.gateway_addr());
        let partition = node.partition();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (shutdown, name) = (shutdown.clone(), name.clone());
            async move {
                if let Err(error) = node.run(shutdown).await {
                    eprintln!("lattice: {name}: {error:#}");
                }
            }
        });
        let observer = Observer::new(&url)?;
        Ok(Self { name, id, url, observer, partition, shutdown, task })
    }
}

/// Ports that were free a moment ago. All are held until the last is known, so that none is given twice.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
