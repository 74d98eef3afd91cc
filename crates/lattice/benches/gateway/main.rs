//! Measures the gateway of a whole node beside a bare axum server with routes of the same shape, over HTTP/1.1, and
//! beside etcd, over gRPC: the same reads and writes, by the same clients, in one run, in turns.
//!
//! `make bench-gateway`, or `cargo bench -p lattice --bench gateway -- --help`. The table goes to stdout, progress to
//! stderr. `docs/benchmarks.md` says how to read it.
//!
//! - `args`: how much is measured.
//! - `node`, `bare`: the servers; etcd's process, and the clients of all, come from `lattice_bench`.
//! - `pairs`: two servers in turns.
//! - `report`, `aims`: what is told.

mod aims;
mod args;
mod bare;
mod node;
mod pairs;
mod report;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use lattice_bench::etcd::{self, Etcd};
use lattice_bench::load::{self, Calls};
use lattice_bench::machine::{self, Machine};
use lattice_bench::report::{Place, Report};
use lattice_runtime::Allocator;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::args::{Args, Protocol, Scale};
use crate::bare::Bare;
use crate::node::{Node, OverGrpc, OverHttp};
use crate::pairs::Pair;
use crate::report::Row;

/// Also of the bare server: what differs between the two is not the allocator.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the documents keep it.
const PLACE: Place = Place {
    marks: ("<!-- bench-gateway: begin -->\n", "<!-- bench-gateway: end -->\n"),
    title: "What the gateway costs",
};

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.bare {
        Some(address) => bare::serve(address),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    PLACE.check(args.json.as_deref(), args.markdown.as_deref())?;
    let folder = TempDir::with_prefix_in("bench-gateway-", &args.dir);
    let folder = folder.with_context(|| format!("--dir: make a folder in {}", args.dir.display()))?;
    let etcd = etcd::Program::find(args.etcd.as_deref())?;
    let etcd_name = etcd.iter().map(|etcd| format!("etcd {}", etcd.version));
    let machine = Machine::here(Some(&args.dir), etcd_name.chain(machine::locked(&["axum"])).collect());
    let run = Run { scale: args.scale(), folder, etcd, started: Instant::now() };

    let mut rows = Vec::new();
    let runtime = Runtime::new()?;
    if args.measures(Protocol::Http) {
        rows.extend(runtime.block_on(run.over_http())?);
    }
    if args.measures(Protocol::Grpc) {
        rows.extend(runtime.block_on(run.over_grpc())?);
    }
    run.say("done");

    let mut caveats = Vec::new();
    if run.scale.quick || cfg!(debug_assertions) {
        let why =
            if run.scale.quick { "small sizes and short times" } else { "a build without optimizations" };
        caveats.push(format!("{why}: **not for publishing**"));
    }
    if run.etcd.is_none() {
        caveats.push(etcd::HINT.to_owned());
    }
    let report = Report { machine, caveats, aims: aims::judge(&rows, &run.scale), rows };
    report.publish(PLACE, args.json.as_deref(), args.markdown.as_deref())
}

/// What all that is measured shares.
struct Run {
    scale: Scale,
    folder: TempDir,
    etcd: Option<etcd::Program>,
    started: Instant,
}

impl Run {
    fn say(&self, what: &str) {
        eprintln!("{:>4} s  {what}", self.started.elapsed().as_secs());
    }

    /// REST, beside the bare server.
    async fn over_http(&self) -> Result<Vec<Row>> {
        let dir = self.folder.path();
        let keys = self.scale.keys;
        let mut rows = Vec::new();

        self.say(&format!("http: fill servers with {keys} keys"));
        let (ours, bare) = (OverHttp::new(Node::start(dir).await?), Bare::start(dir).await?);
        load::fill(&ours, keys).await?;
        load::fill(&bare, keys).await?;
        let pair = Pair { ours: &ours, other: Some(&bare), protocol: Protocol::Http, scale: &self.scale };
        for clients in self.scale.clients {
            self.say(&format!("http: get with {clients} clients"));
            rows.extend(pair.closed("get", *clients, &Calls::Gets(keys)).await?);
        }
        let (clients, rate) = (self.scale.most_clients(), self.scale.rate);
        self.say(&format!("http: {rate} gets a second of {clients} clients"));
        rows.extend(pair.paced("get", clients, rate, &Calls::Gets(keys)).await?);
        self.say(&format!("http: scan with {clients} clients"));
        rows.extend(pair.closed("scan of 100", clients, &Calls::Scans(keys)).await?);
        drop((ours, bare));

        for clients in self.scale.clients {
            self.say(&format!("http: put with {clients} clients"));
            let (ours, bare) = (OverHttp::new(Node::start(dir).await?), Bare::start(dir).await?);
            let pair = Pair { ours: &ours, other: Some(&bare), protocol: Protocol::Http, scale: &self.scale };
            rows.extend(pair.closed("put", *clients, &Calls::Puts(Default::default())).await?);
        }
        Ok(rows)
    }

    /// gRPC, beside etcd where there is one.
    async fn over_grpc(&self) -> Result<Vec<Row>> {
        let dir = self.folder.path();
        let keys = self.scale.keys;
        let mut rows = Vec::new();

        self.say(&format!("grpc: fill servers with {keys} keys"));
        let (ours, etcd) = (OverGrpc::new(Node::start(dir).await?)?, self.etcd(dir).await?);
        load::fill(&ours, keys).await?;
        if let Some(etcd) = &etcd {
            load::fill(etcd, keys).await?;
        }
        let pair = Pair { ours: &ours, other: etcd.as_ref(), protocol: Protocol::Grpc, scale: &self.scale };
        for clients in self.scale.clients {
            self.say(&format!("grpc: get with {clients} clients"));
            rows.extend(pair.closed("get", *clients, &Calls::Gets(keys)).await?);
        }
        let clients = self.scale.most_clients();
        self.say(&format!("grpc: scan with {clients} clients"));
        rows.extend(pair.closed("scan of 100", clients, &Calls::Scans(keys)).await?);
        drop((ours, etcd));

        for clients in self.scale.clients {
            self.say(&format!("grpc: put with {clients} clients"));
            let (ours, etcd) = (OverGrpc::new(Node::start(dir).await?)?, self.etcd(dir).await?);
            let pair =
                Pair { ours: &ours, other: etcd.as_ref(), protocol: Protocol::Grpc, scale: &self.scale };
            rows.extend(pair.closed("put", *clients, &Calls::Puts(Default::default())).await?);
        }
        Ok(rows)
    }

    async fn etcd(&self, dir: &std::path::Path) -> Result<Option<Etcd>> {
        match &self.etcd {
            Some(program) => Ok(Some(Etcd::start(program, dir, node::CONNECTIONS).await?)),
            None => Ok(None),
        }
    }
}
