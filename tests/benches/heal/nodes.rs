//! The nodes that are cut apart: one process each, with the timers of their defaults, and one path only.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use futures::future::{join_all, try_join_all};
use lattice_runtime::identity::NodeKey;
use lattice_tests::client::{Client, common_root};
use lattice_tests::cluster::{Process, binary_path, epoch_of_ms};
use serde::Serialize;
use tempfile::TempDir;

use crate::network::{Network, address, first_side};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Whatever is waited for comes within so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// `store.epoch_ms`, by default.
const EPOCH_MS: u64 = 1_000;

/// The path that the nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Path {
    /// libp2p alone: no node has a URL of another.
    P2p,
    /// HTTP alone: P2P is disabled.
    Http,
}

impl Path {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P2p => "P2P",
            Self::Http => "HTTP",
        }
    }
}

/// A running cluster.
pub(crate) struct Nodes {
    path: Path,
    clients: Vec<Client>,
    // In this order: processes end before their network and their files go.
    _processes: Vec<Process>,
    network: Network,
    _folder: TempDir,
}

impl Nodes {
    /// Starts so many, and waits until they answer.
    pub(crate) async fn start(path: Path, count: usize) -> Result<Self> {
        let network = Network::new(count).context("make the network")?;
        let folder = tempfile::Builder::new().prefix("lattice-heal-").tempdir()?;
        let homes: Vec<PathBuf> =
            (0..count).map(|index| folder.path().join(format!("node-{index}"))).collect();
        let keys = homes.iter().map(|home| key(home)).collect::<Result<Vec<String>>>()?;
        let mut processes = Vec::new();
        for (index, home) in homes.iter().enumerate() {
            let config = home.join("lattice.toml");
            fs::write(&config, configuration(path, index, home, &keys))?;
            let mut command = network.on(index);
            command.arg(binary_path("lattice")).args(["node", "--config"]).arg(&config).current_dir(home);
            processes.push(Process::spawn(command, home.join("node.log")));
        }
        let clients: Vec<Client> =
            (0..count).map(|index| Client::new(&format!("http://{}:8080", address(index)))).collect();
        let nodes = Self { path, clients, _processes: processes, network, _folder: folder };
        until("all nodes answer", async || {
            join_all(nodes.clients.iter().map(Client::ready)).await.into_iter().collect::<Option<Vec<()>>>()
        })
        .await?;
        Ok(nodes)
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Waits until all see each other, and have one root.
    pub(crate) async fn wait_whole(&self) -> Result<()> {
        let others = self.clients.len() as u64 - 1;
        if self.path == Path::P2p {
            until("all nodes see each other", async || {
                let live = join_all(self.clients.iter().map(Client::live_peers)).await;
                live.iter().all(|live| *live == Some(others)).then_some(())
            })
            .await?;
        }
        let all: Vec<&Client> = self.clients.iter().collect();
        let now = epoch_of_ms(EPOCH_MS);
        until("all nodes have one root", async || self.one_root(&all, now).await).await
    }

    /// Writes so many keys on each side, each of them on one node after the other.
    pub(crate) async fn write_to_both_sides(&self, round: u32, keys: u32) -> Result<()> {
        try_join_all([true, false].map(|first| async move {
            let side = self.side(first);
            for key in 0..keys {
                let client = side[key as usize % side.len()];
                let name = format!("side-{}/round-{round}/key-{key}", u8::from(first));
                client.put(&name, "a value that the other side lacks").await.map_err(anyhow::Error::msg)?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }

    /// Waits for as long as the partition is to last, and until each side has one root of its own. Returns the
    /// epoch after which all have to agree.
    pub(crate) async fn wait_apart(&self, cut: Duration) -> Result<u64> {
        let written = epoch_of_ms(EPOCH_MS);
        tokio::time::sleep(cut).await;
        let sides = [self.side(true), self.side(false)];
        until("each side has a root of its own", async || {
            let roots = join_all(sides.iter().map(|side| common_root(side, written))).await;
            match &roots[..] {
                [Some((_, first)), Some((_, second))] => (first != second).then_some(()),
                _ => None,
            }
        })
        .await?;
        Ok(written)
    }

    /// Waits until all nodes have one root that stands for all that was written. How long that took.
    pub(crate) async fn wait_healed(&self, written: u64) -> Result<Duration> {
        let began = Instant::now();
        let all: Vec<&Client> = self.clients.iter().collect();
        until("all nodes have one root again", async || self.one_root(&all, written).await).await?;
        Ok(began.elapsed())
    }

    async fn one_root(&self, clients: &[&Client], after: u64) -> Option<()> {
        // An empty cluster has no root yet, and nothing to agree on.
        match common_root(clients, after).await {
            Some(_) => Some(()),
            None => {
                let runs = join_all(clients.iter().map(|client| client.runs())).await;
                let empty = |runs: &Option<Vec<_>>| {
                    runs.as_ref().is_some_and(|runs: &Vec<lattice_tests::client::Run>| {
                        runs.iter().all(|run| run.root.is_none())
                    })
                };
                runs.iter().all(empty).then_some(())
            }
        }
    }

    fn side(&self, first: bool) -> Vec<&Client> {
        let count = self.clients.len();
        let on = |index: &usize| first_side(*index, count) == first;
        (0..count).filter(on).map(|index| &self.clients[index]).collect()
    }
}

/// Makes a node's folder and key. The public half.
fn key(home: &FilePath) -> Result<String> {
    let data = home.join("data");
    fs::create_dir_all(&data)?;
    Ok(hex::encode(NodeKey::load_or_create(&data.join("node.key"))?.public()))
}

/// What an operator would write, all timers left as they are.
fn configuration(path: Path, index: usize, home: &FilePath, keys: &[String]) -> String {
    let others = || (0..keys.len()).filter(move |other| *other != index).map(address);
    let list =
        |items: Vec<String>| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
    let (bootstrap, urls) = match path {
        Path::P2p => (others().map(|at| format!("/ip4/{at}/tcp/9000")).collect(), Vec::new()),
        Path::Http => (Vec::new(), others().map(|at| format!("http://{at}:8080")).collect()),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "[node]\nname = \"node-{index}\"\ncluster = \"bench\"\ndata_dir = \"{}\"\ntrusted_keys = [{}]\n\n\
         [sensor]\nenabled = {}\np2p_listen = [\"/ip4/{at}/tcp/9000\"]\nbootstrap = [{}]\n\n\
         [coordinator]\nhttp_peers = [{}]\n\n\
         [gateway]\nlisten = \"{at}:8080\"\ninsecure = true\n",
        home.join("data").display(),
        list(keys.to_vec()),
        path == Path::P2p,
        list(bootstrap),
        list(urls),
        at = address(index),
    );
    text
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return Ok(seen);
        }
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
