//! A line of the table.

use lattice_bench::report;
use lattice_bench::sample::Sample;
use lattice_bench::table::{count, digits, megabytes, rate, time};
use lattice_bench::usage::Usage;
use serde::Serialize;

use crate::job::RssAt;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) name: String,
    /// Who did it.
    pub(crate) system: &'static str,
    /// How many keys a store held, or else how many operations were measured.
    pub(crate) n: u64,
    /// How many did it at the same time.
    pub(crate) clients: usize,
    /// Operations per second.
    pub(crate) ops_per_s: f64,
    /// The median of a call, in microseconds.
    pub(crate) p50_us: f64,
    /// What 99 of 100 calls do not exceed, in microseconds.
    pub(crate) p99_us: f64,
    /// The most memory of the process, in bytes.
    pub(crate) rss_peak: u64,
    /// Its memory at the end.
    rss_end: u64,
    /// What its files take, in bytes.
    pub(crate) disk: u64,
    /// Who it is compared with.
    peer: Option<&'static str>,
    /// Its operations per second over those of the peer.
    pub(crate) ratio: Option<f64>,
    /// The largest proof that was made, in bytes.
    pub(crate) proof_bytes: Option<usize>,
    /// Memory on the way, where it was looked at.
    rss: Vec<RssAt>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, system: &'static str, sample: Sample, usage: Usage) -> Self {
        Self {
            name: name.into(),
            system,
            n: sample.n,
            clients: 1,
            ops_per_s: sample.ops_per_s,
            p50_us: sample.p50_us,
            p99_us: sample.p99_us,
            rss_peak: usage.rss_peak,
            rss_end: usage.rss_end,
            disk: usage.disk,
            peer: None,
            ratio: None,
            proof_bytes: None,
            rss: Vec::new(),
        }
    }

    pub(crate) fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// How many keys the store held.
    pub(crate) fn keys(self, n: u64) -> Self {
        Self { n, ..self }
    }

    pub(crate) fn proof(self, proof_bytes: Option<usize>) -> Self {
        Self { proof_bytes, ..self }
    }

    pub(crate) fn rss(self, rss: Vec<RssAt>) -> Self {
        Self { rss, ..self }
    }

    /// Compares it with a peer that did as much.
    pub(crate) fn compared(self, peer: &Self) -> Self {
        Self { peer: Some(peer.system), ratio: Some(self.ops_per_s / peer.ops_per_s), ..self }
    }

    /// Ours, and the peer's where there is one.
    pub(crate) fn beside(ours: Self, peer: Option<Self>) -> Vec<Self> {
        match peer {
            Some(peer) => vec![ours.compared(&peer), peer],
            None => vec![ours],
        }
    }

    /// Compares all with the last.
    pub(crate) fn all_beside_last(mut rows: Vec<Self>) -> Vec<Self> {
        let Some(peer) = rows.pop() else { return rows };
        let mut rows: Vec<Self> = rows.into_iter().map(|row| row.compared(&peer)).collect();
        rows.push(peer);
        rows
    }
}

impl report::Row<10> for Row {
    const COLUMNS: [&'static str; 10] =
        ["what", "who", "n", "clients", "ops/s", "p50", "p99", "peak RSS", "on disk", "ratio to peer"];

    fn cells(&self) -> [String; 10] {
        let bytes = |bytes: u64| if bytes == 0 { String::new() } else { megabytes(bytes) };
        let rss = match self.rss.is_empty() {
            true => bytes(self.rss_peak),
            false => format!("{}, end {}", bytes(self.rss_peak), bytes(self.rss_end)),
        };
        [
            match self.proof_bytes {
                Some(bytes) => format!("{}, {} B", self.name, count(bytes as u64)),
                None => self.name.clone(),
            },
            self.system.to_owned(),
            count(self.n),
            count(self.clients as u64),
            rate(self.ops_per_s),
            time(self.p50_us),
            time(self.p99_us),
            rss,
            bytes(self.disk),
            self.ratio.map(|ratio| format!("{}×", digits(ratio))).unwrap_or_default(),
        ]
    }
}
