//! One way to call a service, over sockets or in memory, and to be called.
//!
//! Generated clients are generic over their transport. Ours is [`Channel`]: either a socket that dials and
//! redials by itself, or the very routes of a service in the same process ([`in_memory`]). Both forms serve
//! through [`layered`], so deadlines, limits, tracing and the fate of a panic are the same in both; a
//! service cannot tell how it is called.
//!
//! Message sizes are limited on each generated client and server: see [`MESSAGE_BYTES_MAX`].

mod channel;
mod deadline;
mod health;
mod layered;
mod memory;
mod reconnect;
mod server;
#[cfg(test)]
mod tests;

pub use channel::{Channel, innermost};
pub use health::{
    HealthReporter, ReflectionError, ServingStatus, health, healthcheck, healthcheck_over_tls, reflection,
};
pub use layered::{Layered, layered};
pub use memory::in_memory;
pub use reconnect::Reconnect;
pub use server::Server;

/// Limit of one message in either direction. Set it on every generated client and server with
/// `max_decoding_message_size` and `max_encoding_message_size`; tonic's own default is 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Concurrent calls of one service, streams included; one more is refused with `RESOURCE_EXHAUSTED`.
pub const CALLS_MAX: usize = 1024;
