//! The parsed types of configuration values that the standard library does not have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A member's Ed25519 public key, as configured.
pub type PublicKey = [u8; 32];

/// Which path carries reconciliation (`coordinator.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// P2P while it works, else HTTP.
    #[default]
    Auto,
    /// P2P only.
    P2p,
    /// HTTP only.
    Http,
}

/// What holds the entries (`store.engine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// On disk, in sled.
    #[default]
    Sled,
    /// On disk, in redb, where that is built in.
    Redb,
    /// In memory; gone with the process.
    Memory,
}

impl Engine {
    /// As it is configured, and as a store's folder names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
            Self::Memory => "memory",
        }
    }
}

/// Shape of the log (`telemetry.log_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where a service listens and its siblings dial it: these ports carry no authentication, so what is
/// parsed from configuration is loopback or a Unix socket. (`Tcp` holds any address when built in code,
/// as the gateway's health check does.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Neither an address nor a Unix socket.
    #[error("must be a loopback address with a port like 127.0.0.1:7601, or unix:/path/to.sock")]
    Malformed,
    /// An address that other hosts could reach.
    #[error("must be loopback or unix:/path, since this port carries no authentication")]
    NotLoopback,
    /// A Unix socket path that the kernel would refuse.
    #[error("must be a socket path of 1 to 100 bytes after unix:")]
    PathLength,
}

/// The kernel takes 107 bytes; the rest is for a suffix.
const SOCKET_PATH_BYTES_MAX: usize = 100;

impl Listen {
    /// Where to dial a port that listens on `address` of this host: loopback where it listens everywhere.
    pub fn dial(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self::Tcp(SocketAddr::new(ip, address.port()))
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.len() > SOCKET_PATH_BYTES_MAX {
                return Err(ListenError::PathLength);
            }
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenError::Malformed)?;
        if !address.ip().is_loopback() {
            return Err(ListenError::NotLoopback);
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}
