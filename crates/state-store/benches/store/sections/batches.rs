//! Durable batches in one process: our engine with its tree, and sled without us, in turns.

use anyhow::{Context as _, Result};
use lattice_bench::sample::Sample;

use crate::bench::Bench;
use crate::job::{Done, Job};
use crate::report::Row;
use crate::stores::{DISKS, RAW};

/// The rate counts all sealing that the batches make necessary; the time of a batch what was sealed after it.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Row>> {
    let names: Vec<&str> = DISKS.iter().map(|(name, _)| *name).chain([RAW]).collect();
    let mut rounds: Vec<Vec<Done>> = vec![Vec::new(); names.len()];
    for round in 0..bench.scale.rounds {
        bench.say(&format!("write batches, round {}", round + 1));
        for (name, done) in names.iter().zip(&mut rounds) {
            let folder = tempfile::TempDir::new_in(bench.dir())?;
            let job = Job::Write {
                store: (*name).to_owned(),
                folder: folder.path().join("store"),
                keys: bench.scale.keys_batched,
                versions: vec![0],
            };
            done.extend(job.run()?);
        }
    }
    let mut rows = Vec::new();
    for (name, rounds) in names.into_iter().zip(rounds) {
        let samples: Vec<Sample> = rounds.iter().map(|done| done.sample).collect();
        let last = rounds.last().context("batches are written at least once")?;
        rows.push(Row::new("put, batches of 1,000", name, Sample::median(&samples), last.usage).clients(1));
    }
    Ok(Row::all_beside_last(rows))
}
