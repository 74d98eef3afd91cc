//! What is measured, and how often.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lattice_core::failover::Path;

const EXAMPLES: &str = "\
Examples:
  make bench-heal
      3, 5 and 9 nodes on both paths, 10 times each: about half an hour
  make bench-heal ARGS='--markdown docs/benchmarks.md --json target/bench-heal.json'
      the same, into the document and as JSON
  make bench-heal ARGS='--nodes 3 --path p2p --runs 2'
      a short one, to see that it works";

/// Measures how long it takes from the end of a partition until all nodes have one root.
#[derive(Parser)]
#[command(name = "bench-heal", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many nodes; several, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [3, 5, 9], value_parser = node_count)]
    pub(crate) nodes: Vec<usize>,
    /// Only over this path: p2p or http.
    #[arg(long, value_parser = path)]
    path: Option<Path>,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) runs: u32,
    /// How many keys are written on each side of the partition.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) keys: u32,
    /// How long the partition lasts, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    cut: u64,
    /// Write what was measured as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the table as Markdown, too: between the marks of a document that has them, else as a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    pub(crate) fn paths(&self) -> &[Path] {
        match self.path {
            Some(Path::P2p) => &[Path::P2p],
            Some(Path::Http) => &[Path::Http],
            None => &[Path::P2p, Path::Http],
        }
    }

    pub(crate) fn cut(&self) -> Duration {
        Duration::from_secs(self.cut)
    }
}

fn path(text: &str) -> Result<Path, String> {
    match text {
        "p2p" => Ok(Path::P2p),
        "http" => Ok(Path::Http),
        _ => Err("must be p2p or http".to_owned()),
    }
}

fn node_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 2..=200) => Ok(count),
        _ => Err("must be a number from 2 to 200".to_owned()),
    }
}
