//! The state store: entries on disk, the Merkle tree over them, signed seals, and answers to peers.
//!
//! - [`storage`]: one ordered keyspace with durable batches; sled, and a twin in memory.
//! - `format`: what the records are called, and what they hold.
//! - [`engine`]: the store without threads, sockets or clocks; all decisions about entries and seals.
//! - [`opening`], [`salvage`]: from the files of a database, in whatever state, to an engine.
//! - [`challenges`], [`peers`]: signed requests and answers between nodes.
//! - [`verdict`]: what peers say of this node's clock.
//! - `writer`: the one thread that writes, commits in groups, and seals between them.
//! - `checking`: the walk over everything, in the background; [`offline`]: the same on a stopped store (`stopped`).
//! - [`compact`]: writes the database of a stopped store anew.
//! - [`service`], with `kv`, `watch`, `backup` and `state`: the gRPC services, from start to end; `in_place`: which
//!   reads need no thread of their own; `serving`: how peers stand back for clients.

mod backup;
pub mod challenges;
mod checking;
pub mod compact;
pub mod engine;
pub mod format;
mod in_place;
mod kv;
mod metrics;
pub mod offline;
pub mod opening;
pub mod peers;
pub mod salvage;
pub mod service;
mod serving;
mod state;
mod stopped;
pub mod storage;
pub mod verdict;
mod watch;
mod writer;

pub use engine::{Engine, Now, Reader, Settings};
pub use service::{Error, Service};
pub use storage::{MemoryStorage, SledStorage, Storage};
