//! Measures how long it takes from the moment that a partition heals until all nodes have one root: real processes,
//! each in a network namespace of its own. Each path has nodes of its own; both are measured at the same time, since
//! most of it is waiting.
//!
//! Half of the nodes hang on one bridge, half on another, and what is cut is the link between the two: connections
//! stay as they are, and packets no longer arrive. Both sides are written to meanwhile. Needs Linux and root.
//! `make bench-heal`, or `cargo bench -p lattice-tests --bench heal -- --help`. The table goes to stdout, progress to
//! stderr. `docs/benchmarks.md` says how to read it.

mod args;
mod nodes;
mod report;

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser as _;
use lattice_bench::machine::Machine;
use lattice_bench::report::{Place, Report};
use lattice_bench::table::count;
use lattice_core::failover::Path;

use crate::args::Args;
use crate::nodes::Cluster;
use crate::report::Row;

/// Where the documents keep it.
const PLACE: Place = Place {
    marks: ("<!-- bench-heal: begin -->\n", "<!-- bench-heal: end -->\n"),
    title: "How fast a partition heals",
};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-heal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    PLACE.check(args.json.as_deref(), args.markdown.as_deref())?;
    let began = Instant::now();
    let say = |what: String| eprintln!("{:>4} s  {what}", began.elapsed().as_secs());
    let machine = Machine::here(None, Vec::new());
    let rows: Result<Vec<Vec<Row>>> = std::thread::scope(|scope| {
        let paths: Vec<_> =
            args.paths().iter().map(|path| scope.spawn(|| measure_all(args, *path, &say))).collect();
        paths.into_iter().map(|path| path.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let rows = rows?.concat();
    say("done".to_owned());

    let (cut, keys) = (args.cut().as_secs(), count(args.keys.into()));
    let mut caveats = vec![format!(
        "partitions of {cut} s, {keys} keys written on each side; timers as they are by default"
    )];
    if cfg!(debug_assertions) {
        caveats.push("a build without optimizations: **not for publishing**".to_owned());
    }
    let report = Report { machine, caveats, rows, aims: Vec::new() };
    report.publish(PLACE, args.json.as_deref(), args.markdown.as_deref())
}

/// Measures all sizes on one path. In a thread of its own: it is where the bridges are, and reaches both sides.
fn measure_all(args: &Args, path: Path, say: &(impl Fn(String) + Sync)) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = args.nodes.iter().map(|&nodes| {
        say(format!("{nodes} nodes over {}", path.name()));
        runtime.block_on(measure(args, path, nodes, say))
    });
    rows.collect()
}

/// Cuts and heals one cluster some times.
async fn measure(args: &Args, path: Path, count: usize, say: &impl Fn(String)) -> Result<Row> {
    let nodes = Cluster::start(path, count).await?;
    let mut times: Vec<Duration> = Vec::new();
    for round in 1..=args.runs {
        nodes.wait_whole().await?;
        nodes.cut(true)?;
        nodes.write_to_both_sides(round, args.keys).await?;
        let healing = nodes.wait_apart(args.cut()).await?;
        nodes.cut(false)?;
        let took = nodes.wait_healed(healing).await?;
        say(format!(
            "  {count} over {}, run {round} of {}: {:.2} s",
            path.name(),
            args.runs,
            took.as_secs_f64()
        ));
        times.push(took);
    }
    Ok(Row::new(count, path, times))
}
