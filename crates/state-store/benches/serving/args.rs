//! What is measured, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  make bench-serving
      everything; takes about three minutes
  make bench-serving ARGS='--markdown docs/benchmarks.md --json target/bench-serving.json'
      the same, into the document and as JSON
  make bench-serving ARGS='--quick'
      small sizes, to see that it works
  make bench-serving ARGS='--peers 3 --limit 1048576'
      fewer peers, and another limit";

/// Measures what peers that pull everything, again and again, cost the clients of the store that serves them.
#[derive(Parser)]
#[command(name = "bench-serving", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many peers pull.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = peer_count)]
    pub(crate) peers: usize,
    /// The limit that is measured too (`store.serve_bytes_per_s`).
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub(crate) limit: u64,
    /// How long one round is measured; there are three.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Small sizes and short times, to see that it works; the numbers are not for publishing.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where the data go; removed at the end.
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
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// How many keys the store holds.
    pub(crate) keys: u64,
    /// How many clients call.
    pub(crate) clients: usize,
    /// How often each is measured, in turns; the median counts.
    pub(crate) rounds: usize,
    /// How long a round takes.
    pub(crate) time: Duration,
    /// Calls before that: long enough that writes of this time are sealed while it is measured.
    pub(crate) warm_up: Duration,
}

impl Args {
    /// The sizes that were asked for.
    pub(crate) fn scale(&self) -> Scale {
        match self.quick {
            true => Scale {
                keys: 2_000,
                clients: 64,
                rounds: 1,
                time: Duration::from_millis(500),
                warm_up: Duration::from_millis(200),
            },
            false => Scale {
                keys: 100_000,
                clients: 64,
                rounds: 3,
                time: Duration::from_secs(self.seconds),
                warm_up: Duration::from_millis(3_500),
            },
        }
    }
}

fn peer_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=250) => Ok(count),
        _ => Err("must be a number from 1 to 250".to_owned()),
    }
}
