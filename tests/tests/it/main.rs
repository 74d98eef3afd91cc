//! The cluster as a whole: real processes, real sockets, real disks; the simulation; and the arrows between
//! the crates.

mod arrows;
mod client_examples;
mod command_line;
mod damage;
mod documents;
mod health_under_load;
mod hostile;
mod http_path;
mod keeping;
mod network;
mod p2p_path;
mod services;
mod simulation;
mod tls;
mod trust;
mod watching;
