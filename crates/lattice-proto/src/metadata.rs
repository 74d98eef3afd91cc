//! Names of gRPC metadata with which refusals tell programs more than a message does.

/// With `FAILED_PRECONDITION` of a write: the version that the key has instead, when it has one.
pub const VERSION: &str = "lattice-version";
/// With `OUT_OF_RANGE` of a watch: the id to list the keys after, and to watch from.
pub const WATCH_SINCE: &str = "lattice-watch-since";
