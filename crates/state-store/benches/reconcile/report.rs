//! What was measured, as a table, as Markdown and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::aims::Aim;
use crate::machine::Machine;
use crate::others::Cost;
use crate::puller::Pulled;
use crate::sets::Kind;
use crate::table::{count, digits, megabytes, table, time};

/// Between these, a document holds what this program writes.
pub(crate) const MARKS: (&str, &str) =
    ("<!-- bench-reconcile: begin -->\n", "<!-- bench-reconcile: end -->\n");
const COLUMNS: [&str; 14] = [
    "n",
    "differ",
    "how",
    "floor",
    "out",
    "in",
    "metadata",
    "total / floor",
    "rounds",
    "CPU, pull / serve",
    "memory",
    "negentropy, rounds",
    "search tree, rounds",
    "whole state",
];

/// One pull.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// How many entries the one has who serves.
    pub(crate) keys: u64,
    /// How many of them the other lacks.
    pub(crate) differing: u64,
    /// How.
    pub(crate) kind: Kind,
    /// What these take, each encoded once.
    pub(crate) floor: u64,
    /// What all entries take.
    pub(crate) whole: u64,
    /// What it came to.
    #[serde(flatten)]
    pub(crate) pulled: Pulled,
    /// What the crate `negentropy` takes to find them, the entries apart.
    pub(crate) negentropy: Option<Cost>,
    /// What the crate `merkle-search-tree` takes.
    pub(crate) search_tree: Option<Cost>,
}

impl Row {
    /// All bytes, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.pulled.bytes_in + self.pulled.bytes_out
    }

    /// All but the entries themselves.
    pub(crate) fn metadata(&self) -> u64 {
        self.bytes().saturating_sub(self.floor)
    }

    /// How often the least possible.
    pub(crate) fn ratio(&self) -> f64 {
        self.bytes() as f64 / self.floor.max(1) as f64
    }

    fn cells(&self) -> [String; 14] {
        let cost = |cost: &Option<Cost>| match cost {
            Some(cost) => format!("{}, {}", bytes(cost.bytes_in + cost.bytes_out), cost.rounds),
            None => "-".to_owned(),
        };
        let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6;
        [
            count(self.keys),
            count(self.differing),
            self.kind.name().to_owned(),
            bytes(self.floor),
            bytes(self.pulled.bytes_out),
            bytes(self.pulled.bytes_in),
            bytes(self.metadata()),
            format!("{}×", digits(self.ratio())),
            count(u64::from(self.pulled.rounds)),
            format!("{} / {}", time(micros(self.pulled.cpu)), time(micros(self.pulled.cpu_server))),
            megabytes(self.pulled.memory),
            cost(&self.negentropy),
            cost(&self.search_tree),
            bytes(self.whole),
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
        for line in self.machine.lines().iter().chain(&self.caveats) {
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
}

/// Bytes, with a unit that suits them.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes as f64 / 1_024.0 {
        kib if kib < 1.0 => format!("{bytes} B"),
        kib if kib < 1_024.0 => format!("{} KiB", digits(kib)),
        kib => format!("{} MiB", digits(kib / 1_024.0)),
    }
}
