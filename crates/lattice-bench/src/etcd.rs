//! etcd as a peer: one member, with its default durability, called through its own gRPC API.
//!
//! The messages are the few fields of `etcdserverpb` that are used here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::server::{KeyValue, Process, Server, channel, free_address};

/// How to get one.
pub const HINT: &str = "etcd was not found: install it (Debian: etcd-server) or name it by --etcd; \
    its rows, and the ratios to them, are missing";

/// An etcd that can be started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// As it says.
    pub version: String,
}

impl Program {
    /// The one that was named, which has to run, else the one on the path, if there is one.
    ///
    /// # Errors
    /// When the one that was named is no etcd.
    pub fn find(named: Option<&Path>) -> Result<Option<Self>> {
        if let Some(path) = named {
            return Self::at(path).map(Some);
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&folders).map(|folder| folder.join("etcd")).find(|path| path.is_file());
        found.map(|path| Self::at(&path)).transpose()
    }

    fn at(path: &Path) -> Result<Self> {
        let ran = Command::new(path).arg("--version").output();
        let ran = ran.with_context(|| format!("--etcd: run {} --version", path.display()))?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        ensure!(ran.status.success() && version.is_some(), "--etcd: {} is no etcd", path.display());
        Ok(Self { path: path.to_owned(), version: version.unwrap_or_default().trim().to_owned() })
    }
}

/// A running etcd, and its clients.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    clients: Vec<Client>,
}

impl Etcd {
    /// Starts one with data below `dir`; its clients share so many connections.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(program: &Program, dir: &Path, connections: usize) -> Result<Self> {
        let (address, peers) = (free_address()?, format!("http://{}", free_address()?));
        let urls = format!("http://{address}");
        let mut process = Process::start(dir, |folder| {
            let mut command = Command::new(&program.path);
            command
                .args(["--name", "bench", "--log-level", "error"])
                .arg("--data-dir")
                .arg(folder.join("data"))
                .args(["--listen-client-urls", &urls, "--advertise-client-urls", &urls])
                .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
                .args(["--initial-cluster", &format!("bench={peers}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        })?;
        let clients = (0..connections).map(|_| Ok(Client(Grpc::new(channel(address)?))));
        process.answers(Client(Grpc::new(channel(address)?))).await?;
        Ok(Self { process, clients: clients.collect::<Result<_>>()? })
    }
}

impl Server for Etcd {
    type Client = Client;

    const NAME: &'static str = "etcd";

    fn process(&self) -> &Process {
        &self.process
    }

    fn clients(&self) -> &[Client] {
        &self.clients
    }

    async fn rest(&self, _entries: u64) -> Result<()> {
        Ok(())
    }
}

/// One connection to it; clones share it.
#[derive(Clone, Debug)]
pub struct Client(Grpc<Channel>);

impl Client {
    async fn call<Asked, Answer>(&mut self, path: &'static str, request: Asked) -> Result<Answer, Status>
    where
        Asked: prost::Message + 'static,
        Answer: prost::Message + Default + 'static,
    {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Asked, Answer>::default();
        Ok(self.0.unary(Request::new(request), path, codec).await?.into_inner())
    }

    async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", request).await
    }
}

impl KeyValue for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await.map(|Answered {}| ())
    }

    async fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Status> {
        let put = |(key, value)| RequestOp { request_put: Some(PutRequest { key, value }) };
        let request = TxnRequest { success: entries.into_iter().map(put).collect() };
        self.call("/etcdserverpb.KV/Txn", request).await.map(|Answered {}| ())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, Status> {
        let request = RangeRequest { key, serializable: true, ..RangeRequest::default() };
        Ok(self.range(request).await?.kvs.first().map(|found| found.value.len()))
    }

    async fn scan(&mut self, prefix: Bytes, limit: u32) -> Result<usize, Status> {
        // The first key after the prefix: its last byte is a hex digit.
        let mut range_end = prefix.to_vec();
        if let Some(last) = range_end.last_mut() {
            *last += 1;
        }
        let request = RangeRequest {
            key: prefix,
            range_end: range_end.into(),
            limit: i64::from(limit),
            serializable: true,
        };
        Ok(self.range(request).await?.kvs.len())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// An answer of which nothing is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Answered {}

#[derive(Clone, PartialEq, prost::Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    request_put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValueRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValueRecord {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}
