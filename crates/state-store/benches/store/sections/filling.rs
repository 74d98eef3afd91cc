//! Filling a store with all keys, overwriting all of them three times, and compacting it: memory, and space on disk.

use anyhow::{Context as _, Result};

use crate::bench::Bench;
use crate::job::Job;
use crate::report::Row;
use crate::stores::{DISKS, RAW};

/// Each time in another order.
const OVERWRITES: u64 = 3;

/// The cache is `store.cache_mb` as it is by default, and sled's own the same.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Row>> {
    let keys = bench.scale.fills.last().copied().context("there is a size to fill with")?;
    let (mut stores, mut compacted) = (Vec::new(), Vec::new());
    for name in DISKS.iter().map(|(name, _)| *name).chain([RAW]) {
        let filled = bench.filled(name, keys)?;
        bench.say(&format!("overwrite {name} with {keys} keys"));
        let versions = (1..=OVERWRITES).collect();
        let folder = filled.folder.clone();
        let job = Job::Write { store: name.to_owned(), folder: filled.folder, keys, versions };
        let mut rows = Vec::new();
        for (pass, done) in std::iter::once(filled.done).chain(job.run()?).enumerate() {
            let what = if pass == 0 { "fill".to_owned() } else { format!("overwrite, time {pass}") };
            rows.push(Row::new(what, name, done.sample, done.usage).keys(keys).rss(done.rss));
        }
        stores.push(rows);
        if name != RAW {
            bench.say(&format!("compact {name}"));
            let job = Job::Compact { store: name.to_owned(), folder, keys };
            let done = job.run()?.pop().context("compacting has one outcome")?;
            compacted.push(Row::new("compact", name, done.sample, done.usage).keys(keys));
        }
    }
    let mut rows = Vec::new();
    for pass in 0..=OVERWRITES as usize {
        let of_pass = stores.iter().filter_map(|rows: &Vec<Row>| rows.get(pass).cloned()).collect();
        rows.extend(Row::all_beside_last(of_pass));
    }
    rows.extend(compacted);
    Ok(rows)
}
