//! What was measured, as a table, as Markdown and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::aims::Aim;
use crate::job::RssAt;
use crate::machine::Machine;
use crate::sample::Sample;
use crate::table::{self, count, digits, megabytes, table, time};
use crate::usage::Usage;

/// Between these, a document holds what this program writes.
pub(crate) const MARKS: (&str, &str) = ("<!-- bench-store: begin -->\n", "<!-- bench-store: end -->\n");
const COLUMNS: [&str; 10] =
    ["what", "who", "n", "clients", "ops/s", "p50", "p99", "peak RSS", "on disk", "ratio to peer"];

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

    fn cells(&self) -> [String; 10] {
        let bytes = |bytes: u64| if bytes == 0 { String::new() } else { megabytes(bytes) };
        let rss = match self.rss.is_empty() {
            true => bytes(self.rss_peak),
            false => format!("{}, end {}", bytes(self.rss_peak), bytes(self.rss_end)),
        };
        [
            self.name.clone(),
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

/// Everything that the run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Where and when.
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Why the numbers are not for publishing; empty when they are.
    pub(crate) caveats: Vec<String>,
    /// The table.
    pub(crate) rows: Vec<Row>,
    /// What the numbers should be.
    pub(crate) aims: Vec<Aim>,
}

impl Report {
    /// The tables, readable as they are and as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut bullets: Vec<String> = self.machine.lines();
        bullets.extend(self.caveats.iter().cloned());
        for line in bullets {
            let _ = writeln!(text, "- {line}");
        }
        text.push('\n');
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        table(&mut text, &COLUMNS, &rows);
        if !self.aims.is_empty() {
            text.push('\n');
            let rows: Vec<_> = self.aims.iter().map(Aim::cells).collect();
            table(&mut text, &Aim::COLUMNS, &rows);
        }
        text
    }

    /// A new document with the tables, or the one that is there with them between its marks; `None` when it
    /// has no marks.
    pub(crate) fn document(&self, document: Option<&str>) -> Option<String> {
        table::document(MARKS, "Benchmarks of the state store", document, &self.markdown())
    }
}

fn rate(per_second: f64) -> String {
    if per_second < 100.0 { digits(per_second) } else { count(per_second.round() as u64) }
}
