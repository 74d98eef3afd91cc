//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Generous: a loaded machine may be slow, and a wait that is met costs no more than it takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` sees something, and returns it.
///
/// # Panics
/// When [`PATIENCE`] is over, with `what` was not seen.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "not seen within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks for as long as `during`, and fails as soon as `holds` does not.
///
/// # Panics
/// When it does not.
pub async fn throughout(what: &str, during: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < during {
        assert!(holds().await, "no longer true after {:?}: {what}", start.elapsed());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
