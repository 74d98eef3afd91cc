//! Which seeds are run, and where the summary goes.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  make simulate SEEDS=2000
      the seeds 1 to 2000, on all cores
  make simulate SEED=1234
      one of them, with every event that is worth a line
  make simulate SEEDS=100 ARGS='--first-seed 5000 --json target/simulate.json'
      other ones, with the summary as JSON, too

A history is made of its seed alone: the same one happens every time. Status 0: everything held. 1: something did
not; its seeds are named.";

/// Simulates clusters in which everything goes wrong, one for each seed, and checks what must hold.
#[derive(Parser)]
#[command(name = "simulate", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    first_seed: u64,
    /// Only this one: what is known of it when it is broken. SIMULATION_TRACE=1 prints all of it.
    #[arg(long, conflicts_with_all = ["seeds", "first_seed", "json"])]
    pub(crate) seed: Option<u64>,
    /// How many histories at once [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Begin nothing more once something is broken.
    #[arg(long)]
    pub(crate) until_broken: bool,
    /// Write the summary as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Args {
    pub(crate) fn seeds(&self) -> Vec<u64> {
        (0..self.seeds).map(|number| self.first_seed.wrapping_add(number)).collect()
    }

    pub(crate) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(cores, usize::from)
    }
}
