//! A hostile peer of real nodes: it holds a key that they trust, or one that they do not, and answers wrongly.
//!
//! What it would say if it were honest comes from the engine that ships ([`offer`]): a tree that really is there, so
//! that each wrong answer is wrong in one way alone. [`mouth`] turns a request into an answer and makes it wrong,
//! in the way of its [`kind`]: [`twist`] changes what is signed, the kind itself says how the bytes travel. [`http`]
//! and [`p2p`] carry it over the two paths, on real sockets. [`scene`] is where all of them meet.

pub mod http;
pub mod kind;
pub mod mouth;
pub mod offer;
pub mod p2p;
pub mod scene;
pub mod twist;

pub use kind::Kind;
pub use lattice_core::failover::Path;
pub use mouth::{Mouth, Reply};
