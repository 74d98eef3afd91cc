//! What a seal costs, from the moment its epoch is due; beside it, one flat tree that is built anew, which is
//! what a library without updates in place would have to do.

use anyhow::{Context as _, Result};
use lattice_bench::table::count;

use crate::bench::Bench;
use crate::job::Job;
use crate::report::Row;
use crate::stores::DISKS;

/// How often the flat tree is built.
const ROOTS: u32 = 5;

/// Changed keys are any; the epochs follow one upon the other.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for keys in bench.scale.fills.clone() {
        bench.say(&format!("build a flat tree of {keys} keys"));
        let flat = Job::FlatRoot { keys, roots: ROOTS }.run()?.pop();
        let flat = flat.context("building a tree has one outcome")?;
        let flat = Row::new("root, all keys", "rs_merkle", flat.sample, flat.usage).keys(keys);
        let changes: Vec<(u64, u32)> = bench.scale.changes.to_vec();
        for name in DISKS.iter().map(|(name, _)| *name) {
            let folder = bench.filled(name, keys)?.folder;
            bench.say(&format!("seal {name} with {keys} keys"));
            let job = Job::Seal { store: name.to_owned(), folder, keys, changes: changes.clone() };
            for ((changed, _), done) in changes.iter().zip(job.run()?) {
                let row =
                    Row::new(format!("seal, {} changed", count(*changed)), name, done.sample, done.usage);
                rows.push(row.keys(keys).compared(&flat));
            }
        }
        rows.push(flat);
    }
    Ok(rows)
}
