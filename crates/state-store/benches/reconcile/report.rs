//! A line of the table.

use lattice_bench::report;
use lattice_bench::table::{count, digits, megabytes, time};
use serde::Serialize;

use crate::others::Cost;
use crate::puller::Pulled;
use crate::sets::Kind;

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
}

impl report::Row<15> for Row {
    const COLUMNS: [&'static str; 15] = [
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
        "in, deflated; pays below",
    ];

    fn cells(&self) -> [String; 15] {
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
            self.pulled.deflated.as_ref().map_or("-".to_owned(), |deflated| {
                let line = deflated
                    .pays_below()
                    .map_or("-".to_owned(), |line| format!("{}/s", megabytes(line as u64)));
                format!("{}; {line}", bytes(deflated.bytes))
            }),
        ]
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
