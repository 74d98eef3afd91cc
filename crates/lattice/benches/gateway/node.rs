//! The real node in one process, with the configuration that it has by default, and two ways to call it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lattice_bench::server::{Process, Server, channel, free_address};
use lattice_bench::{http, lattice};
use serde::Deserialize;

/// HTTP/2 connections that all clients share.
pub(crate) const CONNECTIONS: usize = 4;
/// How long sealing may lag behind.
const SEALED: Duration = Duration::from_secs(120);
const SEALED_PAUSE: Duration = Duration::from_millis(100);

/// A running node.
pub(crate) struct Node {
    process: Process,
    address: SocketAddr,
}

impl Node {
    /// Starts one with data below `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut process = Process::start(dir, |folder| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lattice"));
            command
                .current_dir(folder)
                .arg("node")
                .args(["--set", &format!("gateway.listen={address}")])
                .args(["--set", &format!("node.data_dir={}", folder.join("data").display())])
                .args(["--set", "sensor.p2p_listen=/ip4/127.0.0.1/tcp/0"])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            command
        })?;
        process.answers(http::Client::new(address)).await?;
        Ok(Self { process, address })
    }

    /// Waits until all entries are sealed.
    async fn rest(&self, entries: u64) -> Result<()> {
        #[derive(Deserialize)]
        struct State {
            state_size: u64,
        }
        let mut client = http::Client::new(self.address);
        let deadline = Instant::now() + SEALED;
        loop {
            let answer = client.call("GET", "/api/lattice/state", "", b"").await?;
            let state: State = serde_json::from_slice(&answer.body).context("/api/lattice/state")?;
            if state.state_size == entries {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("of {entries} entries, {} are sealed after {} s", state.state_size, SEALED.as_secs());
            }
            tokio::time::sleep(SEALED_PAUSE).await;
        }
    }
}

/// A node called over REST.
pub(crate) struct OverHttp {
    node: Node,
    clients: Vec<http::Client>,
}

impl OverHttp {
    pub(crate) fn new(node: Node) -> Self {
        Self { clients: vec![http::Client::new(node.address)], node }
    }
}

impl Server for OverHttp {
    type Client = http::Client;

    const NAME: &'static str = "lattice";

    fn process(&self) -> &Process {
        &self.node.process
    }

    fn clients(&self) -> &[http::Client] {
        &self.clients
    }

    async fn rest(&self, entries: u64) -> Result<()> {
        self.node.rest(entries).await
    }
}

/// A node called over gRPC.
pub(crate) struct OverGrpc {
    node: Node,
    clients: Vec<lattice::Client>,
}

impl OverGrpc {
    /// Call it inside the runtime.
    pub(crate) fn new(node: Node) -> Result<Self> {
        let clients = (0..CONNECTIONS).map(|_| Ok(lattice::Client::new(channel(node.address)?)));
        Ok(Self { clients: clients.collect::<Result<_>>()?, node })
    }
}

impl Server for OverGrpc {
    type Client = lattice::Client;

    const NAME: &'static str = "lattice";

    fn process(&self) -> &Process {
        &self.node.process
    }

    fn clients(&self) -> &[lattice::Client] {
        &self.clients
    }

    async fn rest(&self, entries: u64) -> Result<()> {
        self.node.rest(entries).await
    }
}
