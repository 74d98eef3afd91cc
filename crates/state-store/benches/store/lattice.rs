//! The real `state-store` process, with the configuration that it has by default.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::{BatchRequest, GetRequest, ListRequest, Operation, PutRequest, operation};
use lattice_proto::store::v1::SealsRequest;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_proto::types::v1::entry::Content;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::server::{KeyValue, Process, Server, free_address};

/// How long sealing may lag behind.
const SEALED: Duration = Duration::from_secs(120);
const SEALED_PAUSE: Duration = Duration::from_millis(100);

/// A state store, and its clients.
pub(crate) struct Lattice(Process<Connection>);

impl Lattice {
    /// Starts one with data below `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let command = |folder: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_state-store"));
            command
                .current_dir(folder)
                .args(["--set", &format!("store.listen={address}")])
                .args(["--set", &format!("node.data_dir={}", folder.join("data").display())])
                .args(["--set", &format!("node.key_file={}", folder.join("node.key").display())])
                .stdout(Stdio::null());
            command
        };
        let connect = |channel: Channel| Connection {
            kv: KeyValueClient::new(channel.clone()),
            store: StateStoreClient::new(channel),
        };
        Ok(Self(Process::start(dir, address, command, connect).await?))
    }
}

impl Server for Lattice {
    type Connection = Connection;

    const NAME: &'static str = "lattice";

    fn process(&self) -> &Process<Connection> {
        &self.0
    }

    async fn rest(&self, entries: u64) -> Result<()> {
        let Some(connection) = self.0.connections.first() else { return Ok(()) };
        let deadline = Instant::now() + SEALED;
        loop {
            let seals = connection.store.clone().seals(SealsRequest {}).await?.into_inner();
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

/// One connection to it.
#[derive(Clone)]
pub(crate) struct Connection {
    kv: KeyValueClient<Channel>,
    store: StateStoreClient<Channel>,
}

fn put((key, value): (Bytes, Bytes)) -> PutRequest {
    PutRequest { key, value, ttl_ms: None, condition: None }
}

impl KeyValue for Connection {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        self.kv.put(put((key, value))).await.map(|_| ())
    }

    async fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Status> {
        let operation = |entry| Operation { operation: Some(operation::Operation::Put(put(entry))) };
        let operations = entries.into_iter().map(operation).collect();
        self.kv.batch(BatchRequest { operations }).await.map(|_| ())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, Status> {
        let entry = match self.kv.get(GetRequest { key, version_min: None }).await {
            Ok(response) => response.into_inner().entry,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        Ok(entry.and_then(|entry| match entry.content {
            Some(Content::Value(value)) => Some(value.len()),
            Some(Content::Tombstone(_) | Content::Dropped(_)) | None => None,
        }))
    }

    async fn scan(&mut self, prefix: Bytes, limit: u32) -> Result<usize, Status> {
        let request = ListRequest { prefix, limit, ..ListRequest::default() };
        Ok(self.kv.list(request).await?.into_inner().entries.len())
    }
}
