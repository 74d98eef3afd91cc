//! A database server that was started for this run, and the calls that both are measured with.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::usage::Usage;

/// How long a server may take to answer for the first time.
const START: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 connections that all clients share.
const CONNECTIONS: usize = 4;

/// The calls of one connection to a key-value database.
pub(crate) trait KeyValue: Clone + Send + 'static {
    /// Writes durably.
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), Status>> + Send;

    /// Writes several entries at once.
    fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> impl Future<Output = Result<(), Status>> + Send;

    /// Reads what this server has; the length of the value, if there is one.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<Option<usize>, Status>> + Send;

    /// Reads the entries with a prefix, at most `limit`; how many there were.
    fn scan(&mut self, prefix: Bytes, limit: u32) -> impl Future<Output = Result<usize, Status>> + Send;
}

/// A server to measure.
pub(crate) trait Server {
    /// What its connections are.
    type Connection: KeyValue;

    /// What it is called in the tables.
    const NAME: &'static str;

    /// The server.
    fn process(&self) -> &Process<Self::Connection>;

    /// Waits until it has done all that it put off, so that the next one measured has the machine for itself.
    /// `entries`: how many it holds.
    async fn rest(&self, entries: u64) -> Result<()>;
}

/// A process that serves a folder of its own on a port; killed and removed when dropped.
pub(crate) struct Process<Connection> {
    child: Child,
    folder: TempDir,
    /// What clients share.
    pub(crate) connections: Vec<Connection>,
}

impl<Connection: KeyValue> Process<Connection> {
    /// Starts what `command` says for a folder and waits until it answers at `address`.
    pub(crate) async fn start(
        dir: &Path,
        address: SocketAddr,
        command: impl FnOnce(&Path) -> Command,
        connect: impl Fn(Channel) -> Connection,
    ) -> Result<Self> {
        let folder = TempDir::new_in(dir).with_context(|| format!("make a folder in {}", dir.display()))?;
        let mut command = command(folder.path());
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut process = Self { child, folder, connections: Vec::new() };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);

        let mut first = connect(endpoint.connect_lazy());
        let deadline = Instant::now() + START;
        while let Err(status) = first.get(Bytes::from_static(b"none")).await {
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended: {status}", program.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer: {status}", program.display());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        for _ in 0..CONNECTIONS {
            process.connections.push(connect(endpoint.connect().await?));
        }
        Ok(process)
    }

    /// What it takes now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id(), Some(self.folder.path()))
    }
}

impl<Connection> Drop for Process<Connection> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens at. Somebody may before the server does, which then says so.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
