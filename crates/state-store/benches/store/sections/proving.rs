//! Proofs that a key is there, or is not, under the newest seal: making one, checking one, and how large it is.

use anyhow::Result;

use crate::bench::Bench;
use crate::job::Job;
use crate::report::Row;
use crate::stores::DISKS;

/// How many of each are made and checked.
const PROOFS: u64 = 1_000;

/// Nobody to compare with: the peers prove nothing.
pub(super) fn run(bench: &mut Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for keys in bench.scale.fills.clone() {
        for name in DISKS.iter().map(|(name, _)| *name) {
            let folder = bench.filled(name, keys)?.folder;
            bench.say(&format!("prove what {name} has of {keys} keys"));
            let job = Job::Prove { store: name.to_owned(), folder, keys, proofs: PROOFS };
            for (what, done) in PARTS.iter().zip(job.run()?) {
                rows.push(Row::new(*what, name, done.sample, done.usage).keys(keys).proof(done.proof_bytes));
            }
        }
    }
    Ok(rows)
}

/// What is measured, in the order of the outcomes.
pub(crate) const PARTS: [&str; 4] = ["prove presence", "verify presence", "prove absence", "verify absence"];
