//! The clock: the only place where the time of the machine is asked for.
//!
//! Decisions take the time as an argument, so that a test or a simulation can be any hour. The shells
//! around them get theirs here. Two times exist: monotonic time since the process started, which orders
//! what this process does and never steps, and wall time, which is compared between machines and may step
//! at any moment.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The process's clock; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// The clock of the machine. All clocks of one process share one start.
    pub fn system() -> Self {
        static STARTED: OnceLock<Instant> = OnceLock::new();
        Self { started: *STARTED.get_or_init(Instant::now) }
    }

    /// Time since the process first asked for a clock; never goes back.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    /// Milliseconds since 1970 by the wall clock; may step in either direction. 0 before 1970.
    pub fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until `monotonic()` is at least `deadline`; at once when it already is. Safe to cancel.
    pub async fn sleep_until(&self, deadline: Duration) {
        match self.started.checked_add(deadline) {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleep_until_ends_at_or_after_its_deadline() {
        let clock = Clock::system();
        let deadline = clock.monotonic() + Duration::from_millis(5);
        clock.sleep_until(deadline).await;
        assert!(clock.monotonic() >= deadline);
        clock.sleep_until(Duration::ZERO).await;
    }

    #[test]
    fn clocks_of_one_process_agree() {
        let (first, second) = (Clock::system(), Clock::system());
        let earlier = first.monotonic();
        assert!(second.monotonic() >= earlier);
        assert!(first.wall_ms() > 1_600_000_000_000);
    }
}
