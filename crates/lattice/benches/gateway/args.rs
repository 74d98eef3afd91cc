//! What is measured, and how much of it: the command line, and the sizes that follow from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  make bench-gateway
      everything; takes about five minutes on two cores
  make bench-gateway ARGS='--markdown docs/benchmarks.md --json target/bench-gateway.json'
      the same, into the document and as JSON
  make bench-gateway ARGS='--quick'
      small sizes, to see that it works
  make bench-gateway ARGS='--only http --seconds 10'
      only what a bare axum server can be compared with, for longer
  make bench-gateway ARGS='--only grpc --etcd /opt/etcd/etcd'
      only what etcd can be compared with, with an etcd of your own";

/// Measures the gateway of a node beside a bare axum server and beside etcd, in one run.
#[derive(Parser)]
#[command(name = "bench-gateway", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Measure only these.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROTOCOLS")]
    only: Vec<Protocol>,
    /// Small sizes and short times, to see that it works; the numbers are not for publishing.
    #[arg(long)]
    quick: bool,
    /// How long one round of calls is measured; there are three for each number.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How many reads a second are made, of all clients together, where latency is compared at the same load.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// The etcd to compare with, instead of the one on the path.
    #[arg(long, value_name = "PATH")]
    pub(crate) etcd: Option<PathBuf>,
    /// Where the data go; removed at the end.
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Write what was measured as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the tables as Markdown, too: between the marks of a document that has them, else as a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the bare server, in a process of its own.
    #[arg(long, hide = true)]
    pub(crate) bare: Option<SocketAddr>,
}

/// How clients call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// REST over HTTP/1.1, a connection for each client; beside axum.
    Http,
    /// gRPC over HTTP/2, four connections that all share; beside etcd.
    Grpc,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Whether the numbers are only to see that it works.
    pub(crate) quick: bool,
    /// How often each of two is measured, in turns; the median counts.
    pub(crate) rounds: usize,
    /// How long a round takes.
    pub(crate) time: Duration,
    /// Calls before that: long enough for a server to have met all its clients.
    pub(crate) warm_up: Duration,
    /// How many clients call at the same time.
    pub(crate) clients: &'static [usize],
    /// How many keys are read.
    pub(crate) keys: u64,
    /// Reads per second, where these are given.
    pub(crate) rate: u32,
}

impl Scale {
    /// As many as the aims are for.
    pub(crate) fn most_clients(&self) -> usize {
        self.clients.last().copied().unwrap_or(1)
    }
}

impl Args {
    /// Whether a protocol is measured.
    pub(crate) fn measures(&self, protocol: Protocol) -> bool {
        self.only.is_empty() || self.only.contains(&protocol)
    }

    /// The sizes that were asked for.
    pub(crate) fn scale(&self) -> Scale {
        let time = Duration::from_secs(self.seconds);
        match self.quick {
            true => Scale {
                quick: true,
                rounds: 1,
                time: Duration::from_millis(500),
                warm_up: Duration::from_millis(200),
                clients: &[1, 16],
                keys: 2_000,
                rate: self.rate.min(500),
            },
            false => Scale {
                quick: false,
                rounds: 3,
                time,
                warm_up: Duration::from_millis(500),
                clients: &[1, 64],
                keys: 100_000,
                rate: self.rate,
            },
        }
    }
}
