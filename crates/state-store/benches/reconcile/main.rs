//! Measures what a pull costs: bytes both ways, rounds, CPU time and memory, for states of several sizes that
//! differ in several amounts; beside the least that any method must move, two crates that reconcile sets, and a
//! copy of the whole state.
//!
//! The pull machine, the engine and the signed envelopes are those that ship; they meet in memory, without
//! sockets. `make bench-reconcile`, or `cargo bench -p state-store --bench reconcile -- --help`. The table goes to
//! stdout, progress to stderr. `docs/benchmarks.md` says how to read it.
//!
//! - `args`: how much is measured.
//! - `sets`: what the two replicas hold.
//! - `server`, `replica`, `puller`, `usage`: who answers, who asks, and what that costs the one who asks.
//! - `deflate`: what compression would save.
//! - `others`: the crates that we are compared with.
//! - `report`, `aims`: what is told.

mod aims;
mod args;
mod deflate;
mod others;
mod puller;
mod replica;
mod report;
mod server;
mod sets;
mod usage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser as _;
use lattice_bench::machine::{self, Machine};
use lattice_bench::report::{Place, Report};

use crate::args::Args;
use crate::report::Row;
use crate::server::Server;
use crate::sets::{Kind, Sets, Values};

/// Where the documents keep it.
const PLACE: Place = Place {
    marks: ("<!-- bench-reconcile: begin -->\n", "<!-- bench-reconcile: end -->\n"),
    title: "What reconciling costs",
};

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-reconcile: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    PLACE.check(args.json.as_deref(), args.markdown.as_deref())?;
    let began = Instant::now();
    let say = |what: String| eprintln!("{:>4} s  {what}", began.elapsed().as_secs());
    let machine = Machine::here(None, machine::locked(&["negentropy", "merkle-search-tree"]));
    let mut rows = Vec::new();
    for keys in args.sizes() {
        say(format!("a state of {keys} keys"));
        let sets = Sets::new(keys, args.values);
        let mut server = Server::of(&sets)?;
        for differing in args.differences(keys) {
            for kind in [Kind::Missing, Kind::Changed] {
                say(format!("{differing} of {keys} keys {}", kind.name()));
                rows.push(measure(args, &sets, &mut server, kind, differing)?);
            }
        }
    }
    say("done".to_owned());

    let mut caveats = match args.values {
        Values::Random => Vec::new(),
        Values::Json => {
            vec!["values are JSON: **not for publishing** beside those that do not compress".to_owned()]
        }
    };
    if cfg!(debug_assertions) {
        caveats.push("a build without optimizations: the CPU times are **not for publishing**".to_owned());
    }
    let report = Report { machine, caveats, aims: aims::judge(&rows), rows };
    report.publish(PLACE, args.json.as_deref(), args.markdown.as_deref())
}

fn measure(args: &Args, sets: &Sets, server: &mut Server, kind: Kind, differing: u64) -> Result<Row> {
    let ours = sets.behind(kind, differing);
    let (negentropy, search_tree) = match args.alone {
        true => (None, None),
        false => (
            Some(others::negentropy(sets, &ours)?),
            others::is_bearable(sets).then(|| others::search_tree(sets, &ours)),
        ),
    };
    let pulled = puller::pull(ours, differing, server, args.deflate)?;
    Ok(Row {
        keys: sets.keys(),
        differing,
        kind,
        floor: sets.bytes(differing),
        whole: sets.bytes(sets.keys()),
        pulled,
        negentropy,
        search_tree,
    })
}
