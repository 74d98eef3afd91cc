//! Decides, with the machines of `lattice_core`, which path to use, who diverges, when to pull and what to
//! report; and does what they decide.
//!
//! The decisions are pure and live in [`lattice_core::coordinator`]. This crate is the shell around them: it
//! hands events over and runs the effects, calls the siblings and the peers that events come from and effects
//! go to, and serves what the rest of the node asks. Nothing here touches libp2p, or the disk of the store.
//!
//! ```text
//!   sensor streams ─┐                       ┌─► sensor calls, store calls, HTTP to peers
//!   store streams ──┼─► events ─► machine ──┼─► heals and backoff on disk
//!   polls, pulls ───┘   (shell)             └─► log, events, metrics (report)
//! ```
//!
//! - `shell`: the one loop, and the effects that it runs. `watch`: the streams that feed it.
//! - `deltas`: writes on their way to other nodes, and theirs on the way here.
//! - `store`, `sensor`: the siblings, as they are called from here. [`http`]: the peers' gateways.
//! - `announcer`: what this node says of itself. [`envelopes`]: how it asks others.
//! - [`trust`], [`heals`]: what is kept. [`report`]: what operators read. `api`: what is served.

mod announcer;
mod api;
mod deltas;
pub mod envelopes;
pub mod heals;
pub mod http;
mod keeper;
mod metrics;
pub mod report;
mod sensor;
mod service;
mod shell;
mod store;
mod streams;
pub mod trust;
mod watch;

pub use service::{Channels, Error, Service};
