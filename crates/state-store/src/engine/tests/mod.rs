//! Tests of the engine, on the storage in memory unless they are about the disk.

mod damage;
mod expiring;
pub(crate) mod fixture;
mod merging;
mod properties;
mod proving;
mod reading;
mod sealing;
mod serving;
mod watching;
