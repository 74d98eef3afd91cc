//! What is measured, and how much of it.

use std::path::PathBuf;

use clap::Parser;

use crate::sets::Values;

const EXAMPLES: &str = "\
Examples:
  make bench-reconcile
      everything; takes some minutes, and three gigabytes of memory for a million keys
  make bench-reconcile ARGS='--markdown docs/benchmarks.md --json target/bench-reconcile.json'
      the same, into the document and as JSON
  make bench-reconcile ARGS='--keys-max 10000'
      only the smallest state, to see that it works
  make bench-reconcile ARGS='--keys-max 100000 --differing 1000 --alone'
      one difference, and only our own pull
  make bench-reconcile ARGS='--keys-max 100000 --alone --deflate --values json'
      what compression would save";

/// Measures what a pull costs, beside what any method must move and what others do.
#[derive(Parser)]
#[command(name = "bench-reconcile", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The most keys that a state has; all sizes up to it are measured.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    keys_max: u64,
    /// Measure only differences of so many entries.
    #[arg(long, value_delimiter = ',', value_name = "D", value_parser = clap::value_parser!(u64).range(1..))]
    differing: Vec<u64>,
    /// Measure only our own pull, and not the crates that it is compared with.
    #[arg(long)]
    pub(crate) alone: bool,
    /// What values are.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) values: Values,
    /// Deflate every answer, too: what that saves, and takes.
    #[arg(long)]
    pub(crate) deflate: bool,
    /// Write what was measured as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the tables as Markdown, too: between the marks of a document that has them, else as a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// How many keys states have.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        let mut sizes = vec![10_000, 100_000, 1_000_000];
        sizes.retain(|size| *size <= self.keys_max);
        if sizes.last() != Some(&self.keys_max) {
            sizes.push(self.keys_max);
        }
        sizes
    }

    /// How many entries of a state differ: some, up to all.
    pub(crate) fn differences(&self, keys: u64) -> Vec<u64> {
        let mut differing = vec![1, 10, 100, 1_000, 10_000, 100_000];
        differing.retain(|differing| *differing < keys);
        differing.push(keys);
        if !self.differing.is_empty() {
            differing.retain(|differing| self.differing.contains(differing));
        }
        differing
    }
}
