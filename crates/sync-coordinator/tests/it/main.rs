//! The coordinator from outside: its HTTP client against servers that misbehave, its envelopes, and whole
//! coordinators between siblings that live in memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod envelopes;
mod fake;
mod node;
mod state;
