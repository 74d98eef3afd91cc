//! The store as its siblings and peers see it: over gRPC, in memory and on sockets, and on a real disk.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod compacting;
mod crash;
mod damage;
mod durability;
mod exchange;
mod files;
mod full_disk;
mod harness;
mod key_value;
mod process;
mod siblings;
mod strace;
mod watching;
