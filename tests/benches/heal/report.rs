//! A line of the table.

use std::time::Duration;

use lattice_bench::report;
use lattice_bench::table::{count, digits};
use lattice_core::failover::Path;
use serde::{Serialize, Serializer};

/// One cluster.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    nodes: usize,
    #[serde(serialize_with = "name")]
    path: Path,
    /// From the end of the partition to one root everywhere; in milliseconds, as they came.
    #[serde(serialize_with = "millis")]
    times: Vec<Duration>,
}

impl Row {
    pub(crate) fn new(nodes: usize, path: Path, times: Vec<Duration>) -> Self {
        Self { nodes, path, times }
    }
}

impl report::Row<6> for Row {
    const COLUMNS: [&'static str; 6] = ["path", "nodes", "runs", "min", "p50", "max"];

    fn cells(&self) -> [String; 6] {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let at = |part: f64| {
            let place = (sorted.len() as f64 * part).ceil() as usize;
            let time = sorted.get(place.clamp(1, sorted.len()) - 1).copied().unwrap_or_default();
            format!("{} s", digits(time.as_secs_f64()))
        };
        [
            self.path.name().to_owned(),
            self.nodes.to_string(),
            count(sorted.len() as u64),
            at(0.0),
            at(0.5),
            at(1.0),
        ]
    }
}

fn millis<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(times.iter().map(|time| time.as_millis() as u64))
}

fn name<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.name())
}
