//! The store as its siblings and peers see it: over gRPC, in memory and on sockets, and on a real disk.

mod exchange;
mod harness;
mod key_value;
mod process;
mod siblings;
