//! The nodes that are cut apart, with the timers of their defaults, and one path only.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::future::{join_all, try_join_all};
use lattice_core::failover::Path;
use lattice_tests::client::{Client, common_root};
use lattice_tests::cluster::epoch_of_ms;
use lattice_tests::network::nodes::Nodes;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Whatever is waited for comes within so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// `store.epoch_ms`, by default.
const EPOCH_MS: u64 = 1_000;

/// A running cluster.
pub(crate) struct Cluster {
    path: Path,
    nodes: Nodes,
}

impl Cluster {
    /// Starts so many, and waits until they answer.
    pub(crate) async fn start(path: Path, count: usize) -> Result<Self> {
        let mut nodes = Nodes::new(path, count, &[])?;
        nodes.start(0..count).await;
        Ok(Self { path, nodes })
    }

    /// Cuts the two sides apart, or joins them.
    pub(crate) fn cut(&self, cut: bool) -> Result<()> {
        self.nodes.network.cut(cut)
    }

    /// Waits until all see each other, and have one root.
    pub(crate) async fn wait_whole(&self) -> Result<()> {
        let others = self.nodes.clients.len() as u64 - 1;
        if self.path == Path::P2p {
            until("all nodes see each other", async || {
                let live = join_all(self.nodes.clients.iter().map(Client::live_peers)).await;
                live.iter().all(|live| *live == Some(others)).then_some(())
            })
            .await?;
        }
        let all: Vec<&Client> = self.nodes.clients.iter().collect();
        let now = epoch_of_ms(EPOCH_MS);
        until("all nodes have one root", async || self.one_root(&all, now).await).await
    }

    /// Writes so many keys on each side, each of them on one node after the other.
    pub(crate) async fn write_to_both_sides(&self, round: u32, keys: u32) -> Result<()> {
        try_join_all([true, false].map(|first| async move {
            let side = self.nodes.side(first);
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
        let sides = [self.nodes.side(true), self.nodes.side(false)];
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
        let all: Vec<&Client> = self.nodes.clients.iter().collect();
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
