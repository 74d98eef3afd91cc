//! Which bug was found with which seed, and by which invariant.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use lattice_bench::report::{self, Place};
use lattice_bench::table::table;
use lattice_tests::planted::Bug;
use serde::Serialize;

/// Between these, a document holds what this program writes.
const PLACE: Place =
    Place { marks: ("<!-- planted: begin -->\n", "<!-- planted: end -->\n"), title: "Planted bugs" };
const COLUMNS: [&str; 4] = ["bug", "what it breaks", "found by seed", "what did not hold"];

/// One bug.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    bug: String,
    breaks: String,
    /// The first seed that is broken by it; `None`: it was not found.
    seed: Option<u64>,
    /// What did not hold, in words.
    invariant: Option<String>,
    /// That seed holds without the bug.
    sound: bool,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) commit: String,
    /// The most seeds that each was looked for with.
    pub(crate) seeds: u64,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    pub(crate) fn new(bug: &Bug, found: Option<(u64, String)>, sound: bool) -> Self {
        let (seed, invariant) = found.unzip();
        Self { bug: bug.name.clone(), breaks: bug.breaks.clone(), seed, invariant, sound }
    }

    /// For whoever waits.
    pub(crate) fn line(&self) -> String {
        match (self.seed, &self.invariant) {
            (Some(seed), _) if !self.sound => format!("seed {seed} is broken without it, too"),
            (Some(seed), Some(invariant)) => format!("found by seed {seed}: {invariant}"),
            _ => "not found".to_owned(),
        }
    }

    fn cells(&self) -> [String; 4] {
        let seed = match self.seed {
            Some(seed) if self.sound => seed.to_string(),
            Some(seed) => format!("{seed}, and without it"),
            None => "not found".to_owned(),
        };
        let invariant = self.invariant.clone().unwrap_or_else(|| "-".to_owned());
        [self.bug.clone(), self.breaks.clone(), seed, invariant]
    }
}

impl Report {
    pub(crate) fn all_found(&self) -> bool {
        self.rows.iter().all(|row| row.seed.is_some() && row.sound)
    }

    /// The table, readable as it is and as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let found = self.rows.iter().filter(|row| row.seed.is_some() && row.sound).count();
        let mut text = String::new();
        let _ = writeln!(
            text,
            "Commit {}: {found} of {} planted bugs found, each within {} seeds.\n",
            self.commit,
            self.rows.len(),
            self.seeds
        );
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        table(&mut text, &COLUMNS, &rows);
        text
    }

    /// Writes it between the marks of a document, or as a new one.
    pub(crate) fn write_into(&self, path: &Path) -> Result<()> {
        report::write(PLACE, &self.markdown(), path)
    }
}
