//! The real `state-store` process, with the configuration that it has by default, but for what is asked for.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lattice_bench::lattice::Client;
use lattice_bench::server::{Process, Server, channel, free_address};
use lattice_proto::store::v1::SealsRequest;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use tonic::transport::Channel;

/// How long sealing may lag behind.
const SEALED: Duration = Duration::from_secs(120);
const SEALED_PAUSE: Duration = Duration::from_millis(100);

/// A state store, and its clients.
pub(crate) struct Lattice {
    process: Process,
    clients: Vec<Client>,
    /// For what its siblings ask.
    pub(crate) store: StateStoreClient<Channel>,
}

impl Lattice {
    /// Starts one with data below `dir`, and these settings; its clients share so many connections.
    pub(crate) async fn start(dir: &Path, connections: usize, settings: &[String]) -> Result<Self> {
        let address = free_address()?;
        let mut process = Process::start(dir, |folder| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_state-store"));
            command
                .current_dir(folder)
                .args(["--set", &format!("store.listen={address}")])
                .args(["--set", &format!("node.data_dir={}", folder.join("data").display())])
                .args(["--set", &format!("node.key_file={}", folder.join("node.key").display())])
                .args(settings.iter().flat_map(|setting| ["--set", setting]))
                .stdout(Stdio::null());
            command
        })?;
        let clients = (0..connections).map(|_| Ok(Client::new(channel(address)?)));
        process.answers(Client::new(channel(address)?)).await?;
        let store = StateStoreClient::new(channel(address)?);
        Ok(Self { process, clients: clients.collect::<Result<_>>()?, store })
    }
}

impl Server for Lattice {
    type Client = Client;

    const NAME: &'static str = "lattice";

    fn process(&self) -> &Process {
        &self.process
    }

    fn clients(&self) -> &[Client] {
        &self.clients
    }

    async fn rest(&self, entries: u64) -> Result<()> {
        let deadline = Instant::now() + SEALED;
        loop {
            let seals = self.store.clone().seals(SealsRequest {}).await?.into_inner();
            let sealed = seals.runs.last().and_then(|run| run.root.as_ref()).map_or(0, |root| root.entries);
            if sealed == entries {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("of {entries} entries, {sealed} are sealed after {} s", SEALED.as_secs());
            }
            tokio::time::sleep(SEALED_PAUSE).await;
        }
    }
}
