//! The parts of the run. Each measures one thing with all who can do it, and makes rows of it.

mod batches;
mod calls;
mod filling;
mod opening;
mod proving;
mod sealing;

use anyhow::Result;
use clap::ValueEnum;

use crate::bench::Bench;
use crate::report::Row;

/// A part of the run. Those further down may change stores that those further up measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Durable single puts over gRPC, beside etcd.
    Puts,
    /// Point reads and scans over gRPC, beside etcd's serializable ones.
    Reads,
    /// Durable batches of 1,000, beside raw sled.
    Batches,
    /// Opening a filled store, beside raw sled.
    Opening,
    /// Proving that a key is there, or is not, and verifying that.
    Proving,
    /// Sealing some changed keys, beside building one flat tree anew.
    Sealing,
    /// Filling a store and overwriting it three times, beside raw sled, and compacting it: memory, and space on disk.
    Filling,
}

impl Section {
    /// Measures it.
    pub(crate) fn run(self, bench: &mut Bench) -> Result<Vec<Row>> {
        match self {
            Self::Puts => calls::puts(bench),
            Self::Reads => calls::reads(bench),
            Self::Batches => batches::run(bench),
            Self::Opening => opening::run(bench),
            Self::Proving => proving::run(bench),
            Self::Sealing => sealing::run(bench),
            Self::Filling => filling::run(bench),
        }
    }
}
