//! The gateway over a real port, with siblings that the tests play.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers are tests, too")]

mod answers;
mod auth;
mod client;
mod control;
mod dashboard;
mod examples;
mod fakes;
mod files;
mod grpc;
mod guards;
mod kv;
mod lattice;
mod limits;
mod ops;
mod service;
mod streams;
