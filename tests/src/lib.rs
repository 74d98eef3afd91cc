//! What the end-to-end tests and the simulation stand on.
//!
//! [`cluster`] writes configuration files and starts the real binaries; [`client`] asks them what an operator
//! could ask; [`wait`] looks until something is true. None of these knows how a service works inside;
//! [`simulation`] knows the machines and the engine, and nothing of processes; [`planted`], which bugs it is to find.
//! [`hostile`] is a peer of real nodes that lies to them; [`network`], what is between real nodes, and goes wrong.

pub mod client;
pub mod cluster;
pub mod hostile;
pub mod network;
pub mod planted;
pub mod simulation;
pub mod wait;
