//! Opening a store that was closed in order, and reading one key, each time in a new process.

use anyhow::{Context as _, Result};
use lattice_bench::sample::Sample;

use crate::bench::Bench;
use crate::job::{Done, Job};
use crate::report::Row;
use crate::stores::{DISKS, RAW};

/// Fills of fewer keys open too fast to tell anything.
const KEYS_MIN: u64 = 100_000;

/// The page cache of the system is warm.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for keys in bench.scale.fills.clone() {
        if keys < KEYS_MIN && !bench.scale.quick {
            continue;
        }
        let mut of_size = Vec::new();
        for name in DISKS.iter().map(|(name, _)| *name).chain([RAW]) {
            let folder = bench.filled(name, keys)?.folder;
            bench.say(&format!("open {name} with {keys} keys"));
            let mut opened: Vec<Done> = Vec::new();
            for _ in 0..bench.scale.openings {
                opened.extend(Job::Open { store: name.to_owned(), folder: folder.clone() }.run()?);
            }
            let samples: Vec<Sample> = opened.iter().map(|done| done.sample).collect();
            let last = opened.last().context("a store is opened at least once")?;
            of_size.push(Row::new("open", name, Sample::median(&samples), last.usage).keys(keys));
        }
        rows.extend(Row::all_beside_last(of_size));
    }
    Ok(rows)
}
