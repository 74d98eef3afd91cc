//! The log: one event, one line, for people (`text`) or programs (`json`).
//!
//! Most events are plain `tracing` events. Those that operators know by their exact words (peer counts,
//! failover, divergence, healing) go through [`operator!`](crate::operator!), which gives them their
//! component and tag; their fields show in `json` alone, since the text says them already.

mod format;

pub(crate) use format::Format;

/// Marks an event as one of the operator's.
pub const TARGET: &str = "lattice::operator";

/// Reports an operator event: `[14:02:00] [HTTP_SYNC] [LUNG] Activating HTTP fallback`. With fields for
/// `json`, use [`operator!`](crate::operator!).
pub fn operator(component: &str, tag: Option<&str>, message: &str) {
    tracing::info!(target: TARGET, component, tag, "{message}");
}

/// Reports an operator event with fields that `json` shows beside the text:
///
/// ```
/// # let (url, count, peers) = ("http://node-2:8080", 1, 5);
/// use lattice_runtime::operator;
/// operator!("HTTP_SYNC", "DIVERGENCE", { peer = %url, count }, "Detected from {url} (count: {count})");
/// operator!("P2P_SENSOR", { peers }, "Peer count: {peers}"); // without a tag
/// ```
#[macro_export]
macro_rules! operator {
    ($component:expr, { $($fields:tt)* }, $($message:tt)+) => {
        $crate::tracing::info!(
            target: $crate::log::TARGET,
            { component = $component, $($fields)* },
            $($message)+
        )
    };
    ($component:expr, $tag:expr, { $($fields:tt)* }, $($message:tt)+) => {
        $crate::tracing::info!(
            target: $crate::log::TARGET,
            { component = $component, tag = $tag, $($fields)* },
            $($message)+
        )
    };
}
