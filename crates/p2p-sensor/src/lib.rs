//! The P2P sensor: knows which peers are really there, and carries what the coordinator says to them.
//!
//! The only part of Lattice that knows libp2p. It never simulates a peer, and tells four things apart: that
//! it is down (then nobody answers), that P2P is disabled, that the node is isolated (0 live peers), and that
//! it is connected to N. Siblings see it through `lattice.sensor.v1.P2pSensor`.
//!
//! - [`identity`]: one Ed25519 key is the node and its PeerId.
//! - `address`, `dialer`: where peers are, and when to dial them; the latter is pure.
//! - `membership`: whose connections are kept. `peers`: the connections themselves.
//! - `behaviour`, `codec`, `gossip`, `listen`: the libp2p stack and what travels on it.
//! - `desk`: peers' requests that wait for whoever answers them. `observers`: who hears their deltas.
//! - `network`: the one task that owns the swarm. `grpc`, `service`: the edge.

mod address;
mod behaviour;
mod codec;
mod desk;
mod dialer;
mod gossip;
mod grpc;
pub mod identity;
mod listen;
mod membership;
mod metrics;
mod network;
mod observers;
mod peers;
mod service;

pub use service::{Error, PartitionHandle, Service};
