//! Measures the state store beside what people would use instead: etcd over gRPC, sled without us, and one flat
//! Merkle tree. All are measured in one run on one disk, in turns, and the table says how they compare.
//!
//! `make bench-store`, or `cargo bench -p state-store --bench store -- --help`. The table goes to stdout,
//! progress to stderr. `docs/benchmarks.md` says how to read it.
//!
//! - `args`, `bench`: how much is measured, and what the parts of the run share.
//! - `sections`: the parts. A further one is a module and a line there.
//! - `server`, `lattice`, `etcd`, `load`: server processes, and clients in closed loops.
//! - `stores`, `engine`, `raw_sled`, `job`: stores inside a process, each measured in one of its own.
//! - `keys`, `sample`, `usage`, `report`, `aims`: what is written, measured, and told; with `machine` and `table` from
//!   `../common`.

mod aims;
mod args;
mod bench;
mod engine;
mod etcd;
mod job;
mod keys;
mod lattice;
mod load;
#[path = "../common/machine.rs"]
mod machine;
mod raw_sled;
mod report;
mod sample;
mod sections;
mod server;
mod stores;
#[path = "../common/table.rs"]
mod table;
mod usage;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use lattice_runtime::Allocator;

use crate::args::Args;
use crate::bench::Bench;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;
use crate::job::Job;
use crate::machine::Machine;
use crate::report::{MARKS, Report};

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
    print!("{}", report.markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json + "\n").with_context(|| format!("--json: write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        write_markdown(&report, path).with_context(|| format!("--markdown: write {}", path.display()))?;
    }
    Ok(())
}

fn write_markdown(report: &Report, path: &Path) -> Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(document) => Some(document),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let document = report.document(before.as_deref());
    let document = document.with_context(|| format!("it has no lines {MARKS:?} to write between"))?;
    Ok(fs::write(path, document)?)
}
