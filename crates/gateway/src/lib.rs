//! The gateway: the only public port of a node, for clients, for operators, and for the HTTP path between
//! nodes.
//!
//! It holds nothing. Each request is checked here (who asks, how large, is it well formed), turned into a
//! call of the sibling that knows, and the answer is turned back into HTTP. REST and gRPC share one port;
//! the content type tells them apart.
//!
//! ```text
//!              ┌ gRPC ─► auth ─► rpc ──────────────────────┐
//!   server ────┤                                           ├──► siblings, over `lattice_runtime::grpc`
//!              └ HTTP ─► auth ─► routes ─► query, key,     │
//!                                conditions, body, json ───┘
//! ```
//!
//! What a refusal looks like is decided in one place, [`problem`]; who may do what, in the table of routes.
//! The gateway never reads the node's key, and depends on no other service's crate.

mod accept;
mod access;
mod app;
mod auth;
mod body;
mod conditions;
mod drain;
mod examples;
mod guard;
pub mod json;
mod key;
mod observe;
mod openapi;
pub mod problem;
mod proof;
mod query;
mod ready;
mod routes;
mod rpc;
mod server;
mod service;

pub use proof::document as proof_document;
pub use service::{Channels, Error, Service};
