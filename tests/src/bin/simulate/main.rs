//! Runs the simulation over many seeds, and says what was simulated, what went wrong in it, what was checked, and
//! what did not hold.
//!
//! `make simulate`, or `cargo run -p lattice-tests --features programs --bin simulate -- --help`. The summary goes to
//! stdout, progress to stderr. What is simulated is for `lattice_tests::simulation`.

mod args;
mod summary;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use lattice_tests::simulation::campaign::{self, Campaign, Totals};

use crate::args::Args;

/// Between two lines of progress, where they cannot replace each other.
const TELL_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything held.
fn run(args: &Args) -> Result<bool> {
    if let Some(seed) = args.seed {
        return Ok(replay(seed));
    }
    let seeds = args.seeds();
    let mut progress = Progress::new(seeds.len() as u64);
    let campaign = Campaign { seeds, threads: args.threads(), until_broken: args.until_broken };
    let began = Instant::now();
    let totals = campaign.run(|totals| progress.tell(totals));
    progress.end();
    print!("{}", summary::text(&totals, began.elapsed()));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&summary::json(&totals, began.elapsed()))? + "\n";
        fs::write(path, json).with_context(|| format!("--json: write {}", path.display()))?;
    }
    Ok(totals.failures.is_empty())
}

/// Runs one history; whether it held.
fn replay(seed: u64) -> bool {
    match campaign::history(seed) {
        Ok(report) => {
            println!("seed {seed} holds: {:?} after the end of its faults", report.converged_after);
            true
        }
        Err(failure) => {
            println!("{}", failure.report);
            false
        }
    }
}

/// Says on stderr how far it is: in place on a terminal, else a line now and then.
struct Progress {
    seeds: u64,
    began: Instant,
    told: Option<Instant>,
    in_place: bool,
    failures: usize,
}

impl Progress {
    fn new(seeds: u64) -> Self {
        let in_place = io::stderr().is_terminal();
        Self { seeds, began: Instant::now(), told: None, in_place, failures: 0 }
    }

    fn tell(&mut self, totals: &Totals) {
        for failure in &totals.failures[self.failures..] {
            self.end();
            eprintln!("seed {}: it does not hold that {}", failure.seed, failure.invariant);
        }
        self.failures = totals.failures.len();
        let every = if self.in_place { Duration::ZERO } else { TELL_EVERY };
        if self.told.is_some_and(|told| told.elapsed() < every) && totals.seeds < self.seeds {
            return;
        }
        self.told = Some(Instant::now());
        let elapsed = self.began.elapsed();
        let left = elapsed.mul_f64((self.seeds - totals.seeds) as f64 / totals.seeds.max(1) as f64);
        let line = format!(
            "{:>4} s  {} of {} seeds, {} broken, {} s left",
            elapsed.as_secs(),
            totals.seeds,
            self.seeds,
            totals.failures.len(),
            left.as_secs(),
        );
        match self.in_place {
            true => eprint!("\r\x1b[K{line}"),
            false => eprintln!("{line}"),
        }
        // Progress that cannot be told is no reason to stop.
        let _ = io::stderr().flush();
    }

    fn end(&self) {
        if self.in_place {
            eprint!("\r\x1b[K");
        }
    }
}
