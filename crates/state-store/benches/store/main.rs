//! Measures the state store beside what people would use instead: etcd over gRPC, sled without us, and one flat
//! Merkle tree. All are measured in one run on one disk, in turns, and the table says how they compare.
//!
//! `make bench-store`, or `cargo bench -p state-store --bench store -- --help`. The table goes to stdout,
//! progress to stderr. `docs/benchmarks.md` says how to read it.
//!
//! - `args`, `bench`: how much is measured, and what the parts of the run share.
//! - `sections`: the parts. A further one is a module and a line there.
//! - `lattice`: our server process. etcd's, and the clients of both, come from `lattice_bench`.
//! - `stores`, `engine`, `raw_sled`, `job`: stores inside a process, each measured in one of its own.
//! - `report`, `aims`: what is told.

mod aims;
mod args;
mod bench;
mod engine;
mod job;
mod lattice;
mod raw_sled;
mod report;
mod sections;
mod stores;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use lattice_bench::etcd;
use lattice_bench::machine::{self, Machine};
use lattice_bench::report::{Place, Report};
use lattice_runtime::Allocator;

use crate::args::Args;
use crate::bench::Bench;
use crate::job::Job;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the documents keep it.
const PLACE: Place = Place {
    marks: ("<!-- bench-store: begin -->\n", "<!-- bench-store: end -->\n"),
    title: "Benchmarks of the state store",
};

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.job {
        Some(job) => Job::work(job),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    PLACE.check(args.json.as_deref(), args.markdown.as_deref())?;
    let mut bench = Bench::new(args)?;
    let etcd = bench.etcd.iter().map(|etcd| format!("etcd {}", etcd.version));
    let peers = etcd.chain(machine::locked(&["sled", "rs_merkle"])).collect();
    let machine = Machine::here(Some(&args.dir), peers);
    let mut rows = Vec::new();
    for section in args.sections() {
        rows.extend(section.run(&mut bench)?);
    }
    bench.say("done");

    let mut caveats = Vec::new();
    if bench.scale.quick || cfg!(debug_assertions) {
        let why =
            if bench.scale.quick { "small sizes and short times" } else { "a build without optimizations" };
        caveats.push(format!("{why}: **not for publishing**"));
    }
    if bench.etcd.is_none() {
        caveats.push(etcd::HINT.to_owned());
    }
    let report = Report { machine, caveats, aims: aims::judge(&rows), rows };
    report.publish(PLACE, args.json.as_deref(), args.markdown.as_deref())
}
