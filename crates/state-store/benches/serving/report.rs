//! A line of the table.

use lattice_bench::report;
use lattice_bench::sample::Sample;
use lattice_bench::table::{count, digits, megabytes, rate, time};
use serde::Serialize;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Reads of keys that are there.
    Get,
    /// Durable writes of new ones.
    Put,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
        }
    }
}

/// What was measured once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Of the clients.
    pub(crate) sample: Sample,
    /// The bytes that peers were served per second.
    pub(crate) served_per_s: f64,
}

/// Clients, beside some peers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) peers: usize,
    /// `store.serve_bytes_per_s`.
    pub(crate) limit: Option<u64>,
    /// The bytes that peers were served per second.
    served_per_s: f64,
    /// Of the clients.
    #[serde(flatten)]
    sample: Sample,
    /// Their operations per second over those without peers.
    pub(crate) part: f64,
}

impl Row {
    pub(crate) fn new(kind: Kind, peers: usize, limit: Option<u64>, rounds: &[Round]) -> Self {
        let samples: Vec<Sample> = rounds.iter().map(|round| round.sample).collect();
        let mut served: Vec<f64> = rounds.iter().map(|round| round.served_per_s).collect();
        served.sort_unstable_by(f64::total_cmp);
        let served_per_s = served.get(served.len() / 2).copied().unwrap_or_default();
        Self { kind, peers, limit, served_per_s, sample: Sample::median(&samples), part: 1.0 }
    }

    /// All of them, beside the first.
    pub(crate) fn beside_first(mut rows: Vec<Self>) -> Vec<Self> {
        if let Some(alone) = rows.first().map(|row| row.sample.ops_per_s) {
            rows.iter_mut().for_each(|row| row.part = row.sample.ops_per_s / alone);
        }
        rows
    }
}

impl report::Row<8> for Row {
    const COLUMNS: [&'static str; 8] =
        ["what", "limit", "peers", "served /s", "ops/s", "p50", "p99", "of ops/s without peers"];

    fn cells(&self) -> [String; 8] {
        [
            self.kind.name().to_owned(),
            self.limit.map_or("none".to_owned(), |limit| format!("{}/s", megabytes(limit))),
            count(self.peers as u64),
            megabytes(self.served_per_s as u64),
            rate(self.sample.ops_per_s),
            time(self.sample.p50_us),
            time(self.sample.p99_us),
            format!("{}×", digits(self.part)),
        ]
    }
}
