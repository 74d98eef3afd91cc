//! The commands that ask a running node, and what comes back.
//!
//! Every command but `node`, `demo`, `keygen`, `verify-proof`, `check` and `compact` asks over gRPC, on the port that also
//! serves the REST API.
//! Answers are tables for people or JSON for programs; the exit status tells programs the rest.

pub(crate) mod check;
mod client;
pub(crate) mod cluster;
pub(crate) mod compact;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod keygen;
pub(crate) mod kv;
mod output;
mod progress;
pub(crate) mod proof;
pub(crate) mod top;
pub(crate) mod watch;

pub(crate) use client::{Connection, URL_DEFAULT};
pub(crate) use output::{Failure, Format, Output, finish};
