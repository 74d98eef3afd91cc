//! The node's configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! A node has one file for all of its services, since they share most of what matters (the cluster, the
//! members, where each listens). Every key is listed once, in `keys`, from which reading,
//! refusing and printing follow; a key that is not in that table does not exist, in any layer.
//!
//! Parsing happens here and only here: the fields below carry parsed types. What only one service can
//! parse (multiaddrs, URLs) stays text, and that service refuses it with [`Error::value`].

mod args;
mod check;
mod error;
mod field;
mod keys;
mod layers;
#[cfg(test)]
mod tests;
mod types;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use args::ConfigArgs;
pub use error::Error;
pub use layers::{Sources, host_name};
pub use types::{Engine, Listen, ListenError, LogFormat, Mode, PublicKey};

/// The configuration of one node, with every layer applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What all services of the node share.
    pub node: Node,
    /// The state store.
    pub store: Store,
    /// The P2P sensor.
    pub sensor: Sensor,
    /// The sync coordinator.
    pub coordinator: Coordinator,
    /// The gateway.
    pub gateway: Gateway,
    /// Logs, traces and metrics.
    pub telemetry: Telemetry,
}

/// `[node]`: what all services share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A name for people; identity is the key. Default: the host name.
    pub name: String,
    /// The cluster, part of every signature: 1 to 64 of `a-z A-Z 0-9 . _ -`. Default: `lattice`.
    pub cluster: String,
    /// Folder of the key and the store. Default: `./data`.
    pub data_dir: PathBuf,
    /// File of the Ed25519 seed. Default: `<data_dir>/node.key`.
    pub key_file: PathBuf,
    /// The members' public keys; empty trusts nobody. At most 1,024.
    pub trusted_keys: Vec<PublicKey>,
    /// How far a peer's clock may be ahead, 1 ms to 24 h. Default: 10 s.
    pub max_clock_drift: Duration,
}

/// `[store]`: the state store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Where it serves gRPC and its siblings dial it. Default: `127.0.0.1:7601`.
    pub listen: Listen,
    /// Length of an epoch in milliseconds, 1 to 3,600,000; equal on all nodes. Default: 1000.
    pub epoch_ms: u64,
    /// How long after an epoch's end it is sealed, in milliseconds, 1 to `settle_max_ms`. Default: 2000.
    pub settle_ms: u64,
    /// How far `settle_ms` may lengthen by itself, in milliseconds, up to 3,600,000. Default: 10000.
    pub settle_max_ms: u64,
    /// Sealed trees kept for walks and proofs, 1 to 100,000. Default: 30.
    pub retain_epochs: u64,
    /// Memory for pages and tree in MiB, 1 to 1,048,576. Default: 64.
    pub cache_mb: u64,
    /// What holds the entries. Default: `sled`.
    pub engine: Engine,
    /// What peers may be served per second, in bytes: 0 for no limit, or at least 65,536. Default: 0.
    pub serve_bytes_per_s: u64,
    /// How much of the disk is checked a second, up to 2^40 bytes; 0 for not at all. Default: 8 MiB.
    pub check_bytes_per_s: u64,
}

/// `[sensor]`: the P2P sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sensor {
    /// Whether P2P is used at all. Default: true.
    pub enabled: bool,
    /// Where it serves gRPC and its siblings dial it. Default: `127.0.0.1:7602`.
    pub listen: Listen,
    /// Multiaddrs to listen on for peers, not empty, at most 16. Default: `/ip4/0.0.0.0/tcp/9000`.
    pub p2p_listen: Vec<String>,
    /// Multiaddrs of peers to dial, with or without `/p2p/<id>`; at most 1,024. Default: none.
    pub bootstrap: Vec<String>,
    /// Prefix of the gossipsub topics, 1 to 128 characters. Default: `lattice/v1`.
    pub topic: String,
    /// Time between announcements, 1 ms to 24 h. Default: 5 s.
    pub heartbeat_interval: Duration,
    /// Silence after which a connected peer is a zombie, longer than a heartbeat, to 24 h. Default: 30 s.
    pub peer_timeout: Duration,
}

/// `[coordinator]`: the sync coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    /// Where it serves gRPC and its siblings dial it. Default: `127.0.0.1:7603`.
    pub listen: Listen,
    /// Base URLs of peers' gateways, also `dns+http://name:port`; at most 1,024. Default: none.
    pub http_peers: Vec<String>,
    /// PEM file of the authorities that peers' TLS is checked against. Default: the system's.
    pub http_ca: Option<PathBuf>,
    /// Time between polls of one peer over HTTP, 1 ms to 24 h. Default: 10 s.
    pub poll_interval: Duration,
    /// Longest wait for one answer of a peer, 1 ms to 24 h. Default: 5 s.
    pub request_timeout: Duration,
    /// How long a peer is gone before HTTP takes over, 1 ms to 24 h. Default: 60 s.
    pub peerless_timeout: Duration,
    /// How long a peer is back before P2P takes over again, 1 ms to 24 h. Default: 10 s.
    pub return_after: Duration,
    /// Consecutive differences that start a pull, 1 to 1,000. Default: 3.
    pub divergence_threshold: u32,
    /// Longest pause after failed pulls, 1 ms to 24 h. Default: 300 s.
    pub backoff_max: Duration,
    /// Concurrent pulls, 1 to 64. Default: 2.
    pub pulls_max: usize,
    /// What all pulls may cost per second, in bytes: 0 for no limit, or at least 65,536. Default: 0.
    pub pull_bytes_per_s: u64,
    /// Which path to use. Default: `auto`.
    pub mode: Mode,
}

/// `[gateway]`: the public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where it serves HTTP and gRPC. Default: `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// File with one `<role> <token>` a line. Default: none, which is open and so only for loopback.
    pub token_file: Option<PathBuf>,
    /// Serve beyond loopback without tokens. Default: false.
    pub insecure: bool,
    /// PEM file of the certificate to serve TLS with, and those that vouch for it. Default: none, no TLS.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key; set exactly when `tls_cert` is. Default: none.
    pub tls_key: Option<PathBuf>,
    /// Origins whose pages may call it from a browser, `*` for all; at most 1,024. Default: none.
    pub cors_origins: Vec<String>,
    /// Open connections, 1 to 65,536; more wait in the kernel's queue. Default: 1,024.
    pub connections_max: usize,
    /// Requests at a time whose answer has not begun, 1 to 65,536. Default: 1,024.
    pub requests_max: usize,
    /// Answers at a time that last (watches, events, backups), 1 to 65,536. Default: 256.
    pub streams_max: usize,
    /// How long a request may take until its answer begins, 1 ms to 24 h. Default: 30 s.
    pub request_timeout: Duration,
    /// Requests a second that one address may send, 0 for no limit, to 1,000,000. Default: 0.
    pub rate_per_s: u32,
    /// How many of them may come at once, 1 to 1,000,000. Default: 100.
    pub rate_burst: u32,
}

/// `[telemetry]`: logs, traces and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Telemetry {
    /// Shape of the log. Default: `text`.
    pub log_format: LogFormat,
    /// `http://` URL of an OTLP gRPC collector. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, else none.
    pub otlp_endpoint: Option<String>,
    /// Where a service that has no HTTP port answers `/metrics`. Default: none.
    pub metrics_listen: Option<SocketAddr>,
}

impl Config {
    /// Reads and checks every layer. Pure: the world is in `sources`.
    pub fn load(sources: Sources) -> Result<Self, Error> {
        layers::load(sources)
    }

    /// Checks what concerns more than the form of one value. [`Config::load`] has done so; for a
    /// configuration that was changed in code.
    pub fn validate(&self) -> Result<(), Error> {
        check::check(self)
    }

    /// The effective configuration as TOML that loads back to the same; what `--print-config` prints.
    pub fn to_toml(&self) -> String {
        keys::to_toml(self)
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: host_name(),
            cluster: "lattice".into(),
            data_dir: "./data".into(),
            key_file: "./data/node.key".into(),
            trusted_keys: Vec::new(),
            max_clock_drift: Duration::from_secs(10),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            listen: loopback(7601).into(),
            epoch_ms: 1000,
            settle_ms: 2000,
            settle_max_ms: 10_000,
            retain_epochs: 30,
            cache_mb: 64,
            engine: Engine::Sled,
            serve_bytes_per_s: 0,
            check_bytes_per_s: 8 << 20,
        }
    }
}

impl Default for Sensor {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: loopback(7602).into(),
            p2p_listen: vec!["/ip4/0.0.0.0/tcp/9000".into()],
            bootstrap: Vec::new(),
            topic: "lattice/v1".into(),
            heartbeat_interval: Duration::from_secs(5),
            peer_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            listen: loopback(7603).into(),
            http_peers: Vec::new(),
            http_ca: None,
            poll_interval: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            peerless_timeout: Duration::from_secs(60),
            return_after: Duration::from_secs(10),
            divergence_threshold: 3,
            backoff_max: Duration::from_secs(300),
            pulls_max: 2,
            pull_bytes_per_s: 0,
            mode: Mode::Auto,
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            token_file: None,
            insecure: false,
            tls_cert: None,
            tls_key: None,
            cors_origins: Vec::new(),
            connections_max: 1024,
            requests_max: 1024,
            streams_max: 256,
            request_timeout: Duration::from_secs(30),
            rate_per_s: 0,
            rate_burst: 100,
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
