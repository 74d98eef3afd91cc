//! A Lattice node in one process, and the command line.
//!
//! [`node`] composes the four services; [`args`] is what can be typed, `cli` the commands that ask a running
//! node, and `demo` runs a small cluster and tells what happens to it. How the services fit together is known
//! here and nowhere else.

pub mod args;
mod cli;
mod demo;
pub mod node;
