//! The model of Lattice, and every decision of replication, in pure code.
//!
//! Nothing here waits, reads a clock, touches a disk or a socket, or knows a wire format: the caller hands
//! in the time, the bytes and the randomness, and gets back values. The same code therefore runs in a node,
//! in a unit test, and in a simulation of hundreds of nodes.
//!
//! - [`model`]: what a node stores: keys, versions, entries, and the names of nodes and epochs.
//! - [`clock`]: the hybrid logical clock that stamps versions.
//! - [`tree`]: the canonical 16-way Merkle tree over entries, and proofs against its root.
//! - [`seal`]: a root at the end of an epoch, and how two nodes compare theirs.
//! - [`signed`]: what nodes sign, and the checks before any of it is believed.
//! - [`proof`]: what a node hands out to prove what it holds of a key.
//! - [`exchange`]: what the one who pulls asks, and what the one who serves answers.
//! - [`liveness`], [`hearing`], [`divergence`], [`failover`], [`backoff`], [`renewal`], [`recovery`], [`repair`],
//!   [`pull`], [`coordinator`]: the machines that decide.
//! - [`budget`]: bytes per second, for those who pull and those who serve.

pub mod backoff;
pub mod budget;
pub mod clock;
pub mod coordinator;
pub mod divergence;
pub mod exchange;
pub mod failover;
pub mod hearing;
pub mod liveness;
pub mod model;
pub mod proof;
pub mod pull;
pub mod recovery;
pub mod renewal;
pub mod repair;
pub mod seal;
pub mod signed;
pub mod time;
pub mod tree;
