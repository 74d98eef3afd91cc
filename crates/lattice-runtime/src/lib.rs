//! How a Lattice service starts, is observed and stops.
//!
//! Each service needs the same things before it can do its own work: the node's configuration, its key, a
//! clock, logs, traces and metrics, tasks that somebody looks after, a way to call its siblings and to be
//! called, and an orderly end. They live here once, so that four services in one process and four processes
//! behave alike.
//!
//! This crate knows nothing of replication and depends on no other crate of Lattice.

pub mod allocator;
pub mod clock;
pub mod config;
pub mod duration;
pub mod entropy;
pub mod files;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod log;
pub mod metrics;
pub mod process;
pub mod reload;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use allocator::Allocator;
pub use clock::Clock;
pub use config::Config;
pub use metrics::Metrics;
pub use tasks::TaskGroup;
// For the macro `operator!`, which is used where `tracing` need not be a dependency.
#[doc(hidden)]
pub use tracing;

/// What the services of one process share; made once by the binary, cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The process's clock.
    pub clock: Clock,
    /// The process's metrics registry.
    pub metrics: Metrics,
}

impl Runtime {
    /// A system clock and an empty registry.
    pub fn new() -> Self {
        Self { clock: Clock::system(), metrics: Metrics::new() }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self::new()
    }
}
