//! What is measured, and how much of it: the command line, and the sizes that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::sections::Section;

const EXAMPLES: &str = "\
Examples:
  make bench-store
      everything; takes more than twenty minutes on two cores
  make bench-store ARGS='--markdown docs/benchmarks.md --json target/bench-store.json'
      the same, into the document and as JSON
  make bench-store ARGS='--quick'
      small sizes, to see that it works
  make bench-store ARGS='--only puts,reads --seconds 10 --etcd /opt/etcd/etcd'
      only what etcd can be compared with, for longer, with an etcd of your own
  make bench-store ARGS='--only sealing --keys-max 100000'
      what seals cost, with up to 100,000 keys";

/// Measures the state store beside etcd, raw sled and a flat Merkle tree, in one run on one disk.
#[derive(Parser)]
#[command(name = "bench-store", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Measure only these.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<Section>,
    /// Small sizes and short times, to see that it works; the numbers are not for publishing.
    #[arg(long)]
    quick: bool,
    /// The most keys that a store is filled with.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    keys_max: u64,
    /// How long one round of calls is measured; there are three for each number.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The etcd to compare with, instead of the one on the path.
    #[arg(long, value_name = "PATH")]
    pub(crate) etcd: Option<PathBuf>,
    /// Where the data go, of all that is measured; removed at the end.
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Write what was measured as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the tables as Markdown, too: between the marks of a document that has them, else as a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    /// A part that is measured in a process of its own.
    #[arg(long, hide = true)]
    pub(crate) job: Option<String>,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Whether the numbers are only to see that it works.
    pub(crate) quick: bool,
    /// How often each of two is measured, in turns; the median counts.
    pub(crate) rounds: usize,
    /// How long a round of calls takes.
    pub(crate) time: Duration,
    /// Calls before that: long enough that writes of this time are sealed while it is measured.
    pub(crate) warm_up: Duration,
    /// How many clients write at the same time.
    pub(crate) writers: &'static [usize],
    /// How many clients read at the same time.
    pub(crate) readers: &'static [usize],
    /// How many keys are read.
    pub(crate) keys_read: u64,
    /// How many keys are written in batches.
    pub(crate) keys_batched: u64,
    /// How many keys stores are filled with, ascending.
    pub(crate) fills: Vec<u64>,
    /// How many keys change with a seal, and how many seals of that are measured.
    pub(crate) changes: &'static [(u64, u32)],
    /// How often a store is opened.
    pub(crate) openings: usize,
}

impl Args {
    /// The sizes that were asked for.
    pub(crate) fn scale(&self) -> Scale {
        let fills = if self.quick { vec![1_000, 10_000] } else { vec![10_000, 100_000, 1_000_000] };
        let mut fills: Vec<u64> = fills.into_iter().filter(|fill| *fill <= self.keys_max).collect();
        if fills.is_empty() {
            fills.push(self.keys_max);
        }
        if self.quick {
            return Scale {
                quick: true,
                rounds: 1,
                time: Duration::from_millis(500),
                warm_up: Duration::from_millis(200),
                writers: &[1, 16],
                readers: &[1, 16],
                keys_read: 2_000,
                keys_batched: 5_000,
                fills,
                changes: &[(1, 5), (100, 5)],
                openings: 2,
            };
        }
        Scale {
            quick: false,
            rounds: 3,
            time: Duration::from_secs(self.seconds),
            warm_up: Duration::from_millis(3_500),
            writers: &[1, 16, 64, 256],
            readers: &[1, 64],
            keys_read: 100_000,
            keys_batched: 100_000,
            fills,
            changes: &[(1, 50), (100, 30), (10_000, 5)],
            openings: 5,
        }
    }

    /// The parts to measure, in the order in which they build on one another.
    pub(crate) fn sections(&self) -> impl Iterator<Item = Section> {
        let all = Section::value_variants().iter().copied();
        all.filter(|section| self.only.is_empty() || self.only.contains(section))
    }
}
