//! The coordinator from outside: its HTTP client against servers that misbehave, its envelopes, and whole
//! coordinators between siblings that live in memory.

mod envelopes;
mod fake;
mod node;
mod state;
