//! Real nodes on the hosts of a network: one process each, with one path to each other.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use anyhow::{Context as _, Result};
use lattice_core::failover::Path;
use lattice_runtime::identity::NodeKey;
use tempfile::TempDir;

use super::{Network, address, first_side};
use crate::client::Client;
use crate::cluster::{Process, binary_path};
use crate::wait::eventually;

/// A cluster's files, network and processes.
#[derive(Debug)]
pub struct Nodes {
    /// One for each node.
    pub clients: Vec<Client>,
    // In this order: processes end before their network and their files go.
    processes: Vec<Option<Process>>,
    /// The hosts that they are on.
    pub network: Network,
    homes: Vec<PathBuf>,
    settings: Vec<String>,
    folder: Option<TempDir>,
}

impl Nodes {
    /// Makes so many, none of which runs yet. Of each other they know only the addresses of one path: over P2P no node
    /// has a URL of another, over HTTP P2P is disabled. All else is as it is by default, but for `settings`, each a
    /// `section.key=value`.
    ///
    /// # Errors
    /// When there is no room for them, or no network.
    pub fn new(path: Path, count: usize, settings: &[&str]) -> Result<Self> {
        let network = Network::new(count).context("make the network")?;
        let folder = tempfile::Builder::new().prefix("lattice-network-").tempdir()?;
        let homes: Vec<PathBuf> =
            (0..count).map(|index| folder.path().join(format!("node-{index}"))).collect();
        let keys = homes.iter().map(|home| key(home)).collect::<Result<Vec<String>>>()?;
        for (index, home) in homes.iter().enumerate() {
            fs::write(home.join("lattice.toml"), configuration(path, index, home, &keys))?;
        }
        Ok(Self {
            clients: (0..count)
                .map(|index| Client::new(&format!("http://{}:8080", address(index))))
                .collect(),
            processes: (0..count).map(|_| None).collect(),
            network,
            homes,
            settings: settings.iter().map(|setting| format!("--set={setting}")).collect(),
            folder: Some(folder),
        })
    }

    /// Starts these, and waits until they answer.
    pub async fn start(&mut self, indexes: impl IntoIterator<Item = usize> + Clone) {
        for index in indexes.clone() {
            let home = &self.homes[index];
            let mut command = self.network.on(index);
            command.arg(binary_path("lattice")).args(["node", "--config", "lattice.toml"]);
            command.args(&self.settings).current_dir(home);
            self.processes[index] = Some(Process::spawn(command, home.join("node.log")));
        }
        for index in indexes {
            let (client, home) = (&self.clients[index], self.homes[index].display());
            eventually(&format!("node {index} answers (see {home})"), async || client.ready().await).await;
        }
    }

    /// The clients of the nodes on the first side, or on the other one.
    pub fn side(&self, first: bool) -> Vec<&Client> {
        let count = self.clients.len();
        let on = |index: &usize| first_side(*index, count) == first;
        (0..count).filter(on).map(|index| &self.clients[index]).collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the nodes' files are kept in {}", folder.keep().display());
        }
    }
}

/// Makes a node's folder and key. The public half.
fn key(home: &FilePath) -> Result<String> {
    let data = home.join("data");
    fs::create_dir_all(&data)?;
    Ok(hex::encode(NodeKey::load_or_create(&data.join("node.key"))?.public()))
}

/// What an operator would write.
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
        "[node]\nname = \"node-{index}\"\ncluster = \"network\"\ndata_dir = \"{}\"\ntrusted_keys = [{}]\n\n\
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
