//! The wire: golden bytes, round trips, and what is refused.

#![allow(clippy::unwrap_used, reason = "fixtures and strategies are test code too")]

mod backups;
mod damage;
mod fixtures;
mod golden;
mod messages;
mod proof_mutations;
mod proofs;
mod refusals;
mod round_trips;
mod signed;
mod strategies;
