//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lattice_core::time::WallTime;

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

/// The wall clock.
///
/// # Panics
/// When it stands before 1970.
pub fn wall() -> WallTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    WallTime(u64::try_from(now.as_millis()).expect("a clock before the end of time"))
}
