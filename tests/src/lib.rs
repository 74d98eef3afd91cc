//! What the end-to-end tests and the simulation stand on.
//!
//! [`cluster`] writes configuration files and starts the real binaries; [`client`] asks them what an operator
//! could ask; [`wait`] looks until something is true. Nothing here knows how a service works inside.

pub mod client;
pub mod cluster;
pub mod wait;
