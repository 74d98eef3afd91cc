//! A server that was started for this run, and the calls that all are measured with.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::usage::{self, Usage};

/// How long a server may take to answer for the first time.
const START: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_millis(50);

/// The calls of one client of a key-value database. A clone may share its connection.
pub trait KeyValue: Clone + Send + 'static {
    /// Writes, as durably as the server does.
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), Status>> + Send;

    /// Writes several entries at once.
    fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> impl Future<Output = Result<(), Status>> + Send;

    /// Reads what this server has; the length of the value, if there is one.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<Option<usize>, Status>> + Send;

    /// Reads the entries with a prefix, at most `limit`; how many there were.
    fn scan(&mut self, prefix: Bytes, limit: u32) -> impl Future<Output = Result<usize, Status>> + Send;
}

/// A server to measure, called in one way.
pub trait Server {
    /// What its clients are.
    type Client: KeyValue;

    /// What it is called in the tables.
    const NAME: &'static str;

    /// The server.
    fn process(&self) -> &Process;

    /// What clients are clones of.
    fn clients(&self) -> &[Self::Client];

    /// Waits until it has done all that it put off, so that the next one measured has the machine for itself.
    /// `entries`: how many it holds.
    fn rest(&self, entries: u64) -> impl Future<Output = Result<()>> + Send;
}

/// A process that serves a folder of its own on a port; killed and removed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    program: PathBuf,
    folder: TempDir,
}

impl Process {
    /// Starts what `command` says for a folder below `dir`.
    ///
    /// # Errors
    /// When the folder or the process cannot be made.
    pub fn start(dir: &Path, command: impl FnOnce(&Path) -> Command) -> Result<Self> {
        let folder = TempDir::new_in(dir).with_context(|| format!("make a folder in {}", dir.display()))?;
        let mut command = command(folder.path());
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, program, folder })
    }

    /// Waits until a client is answered.
    ///
    /// # Errors
    /// When the process ends, or does not answer in time.
    pub async fn answers(&mut self, mut client: impl KeyValue) -> Result<()> {
        let deadline = Instant::now() + START;
        while let Err(status) = client.get(Bytes::from_static(b"none")).await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.program.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer: {status}", self.program.display());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Ok(())
    }

    /// What it takes now.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id(), Some(self.folder.path()))
    }

    /// The processor time that it has used, in steps of 10 ms.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP/2 connection that is made with the first call.
///
/// # Errors
/// Never for an address; for the caller's convenience.
pub fn channel(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect_lazy())
}

/// An address that nobody listens at. Somebody may before the server does, which then says so.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
