//! What the measurements of Lattice share, so that their tables mean the same: `make bench-store`,
//! `make bench-reconcile`, `make bench-serving` and `make bench-gateway`. Nothing of it ships.
//!
//! - [`server`], [`lattice`], [`http`], [`etcd`], [`load`]: server processes, and clients in closed loops.
//! - [`keys`], [`sample`], [`usage`]: what is written, how fast that was, and what it took.
//! - [`machine`], [`table`], [`report`]: where it was measured, and how it is told.
//!
//! What is measured, and with how much, is each program's own.

pub mod etcd;
pub mod http;
pub mod keys;
pub mod lattice;
pub mod load;
pub mod machine;
pub mod report;
pub mod sample;
pub mod server;
pub mod table;
pub mod usage;
