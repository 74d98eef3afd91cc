//! A Lattice node in one process, and the command line.
//!
//! [`node`] composes the four services; [`cli`] is what an operator types; [`demo`] runs a small cluster and
//! tells what happens to it. How the services fit together is known here and nowhere else.

pub mod cli;
pub mod demo;
pub mod node;
