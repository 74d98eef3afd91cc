//! Measures what peers that pull everything, again and again, cost the clients of the store that serves them.
//!
//! The store is the real process, and so are its answers; the peers ask as an empty node does, check what is signed,
//! and throw the rest away, so that little of the machine goes into them. `make bench-serving`, or `cargo bench -p
//! state-store --bench serving -- --help`. The table goes to stdout, progress to stderr. `docs/benchmarks.md` says how
//! to read it.

mod aims;
mod args;
#[path = "../store/lattice.rs"]
mod lattice;
mod peers;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::Parser as _;
use lattice_bench::load::{self, Calls, Loops};
use lattice_bench::machine::Machine;
use lattice_bench::report::{Place, Report};
use lattice_bench::server::Server as _;
use lattice_bench::table::count;

use crate::args::{Args, Scale};
use crate::lattice::Lattice;
use crate::peers::Peers;
use crate::report::{Kind, Round, Row};

/// Where the documents keep it.
const PLACE: Place = Place {
    marks: ("<!-- bench-serving: begin -->\n", "<!-- bench-serving: end -->\n"),
    title: "What serving peers costs clients",
};

/// HTTP/2 connections that all clients share.
const CONNECTIONS: usize = 4;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-serving: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: &Args) -> Result<()> {
    PLACE.check(args.json.as_deref(), args.markdown.as_deref())?;
    let began = Instant::now();
    let say = |what: String| eprintln!("{:>4} s  {what}", began.elapsed().as_secs());
    let scale = args.scale();
    let mut rows = Vec::new();
    for kind in [Kind::Get, Kind::Put] {
        say(format!("fill two stores with {} keys", scale.keys));
        let (free, limited) =
            (Filled::start(args, None).await?, Filled::start(args, Some(args.limit)).await?);
        let ways = [(&free, 0), (&free, args.peers), (&limited, args.peers)];
        let mut measured = [const { Vec::new() }; 3];
        for round in 1..=scale.rounds {
            for ((filled, peers), rounds) in ways.iter().zip(&mut measured) {
                say(format!("{}, {peers} peers, round {round} of {}", kind.name(), scale.rounds));
                rounds.push(filled.measure(kind, *peers, &scale).await?);
            }
        }
        let measured = ways.iter().zip(&measured);
        rows.extend(Row::beside_first(
            measured.map(|((filled, peers), rounds)| Row::new(kind, *peers, filled.limit, rounds)).collect(),
        ));
    }
    say("done".to_owned());

    let (keys, clients) = (count(scale.keys), scale.clients);
    let mut caveats =
        vec![format!("{keys} keys, {clients} clients; peers and clients on the store's machine")];
    if args.quick || cfg!(debug_assertions) {
        let why = if args.quick { "small sizes and short times" } else { "a build without optimizations" };
        caveats.push(format!("{why}: **not for publishing**"));
    }
    let machine = Machine::here(Some(&args.dir), Vec::new());
    let report = Report { machine, caveats, aims: aims::judge(&rows), rows };
    report.publish(PLACE, args.json.as_deref(), args.markdown.as_deref())
}

/// A store that holds keys, and trusts the peers.
struct Filled {
    store: Lattice,
    keys: u64,
    /// How many more were written.
    written: Arc<AtomicU64>,
    /// The most bytes that peers are served per second.
    limit: Option<u64>,
}

impl Filled {
    async fn start(args: &Args, limit: Option<u64>) -> Result<Self> {
        let keys = args.scale().keys;
        let mut settings = vec![format!("node.trusted_keys={}", peers::names(args.peers).join(","))];
        settings.extend(limit.map(|limit| format!("store.serve_bytes_per_s={limit}")));
        let store = Lattice::start(&args.dir, CONNECTIONS, &settings).await?;
        load::fill(&store, keys).await?;
        Ok(Self { store, keys, written: Arc::default(), limit })
    }

    /// Clients call while so many peers pull; then everything comes to rest.
    async fn measure(&self, kind: Kind, peers: usize, scale: &Scale) -> Result<Round> {
        let calls = match kind {
            Kind::Get => Calls::Gets(self.keys),
            Kind::Put => Calls::Puts(Arc::clone(&self.written)),
        };
        let pulling = Peers::start(&self.store.store, peers).await?;
        let loops = Loops { clients: scale.clients, warm_up: scale.warm_up, time: scale.time, rate: None };
        let measured = load::run(&self.store, loops, &calls).await?;
        let served_per_s = pulling.stop().await?;
        self.store.rest(self.keys + self.written.load(Ordering::Relaxed)).await?;
        Ok(Round { sample: measured.sample, served_per_s })
    }
}
