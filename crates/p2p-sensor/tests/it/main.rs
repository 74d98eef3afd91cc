//! Sensors on real sockets: each test runs several of them on loopback, and waits for what must come true.

#![allow(clippy::unwrap_used, reason = "a test, helpers included")]

mod announcements;
mod cluster;
mod exchanges;
mod harness;
mod membership;
mod process;
