//! Simulated time: one that passes for all, and each node's own idea of it.

use std::time::Duration;

use lattice_core::time::WallTime;

/// The wall-clock time at which simulations begin.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// The true wall-clock time, so long after the beginning.
pub fn true_time(now: Duration) -> WallTime {
    WallTime(EPOCH_MS) + now
}

/// A node's wall clock: off by some time, and perhaps going too fast or too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Skew {
    /// How far it is ahead at the beginning, in milliseconds; negative: behind.
    pub ahead_ms: i64,
    /// By how many millionths it is too fast; negative: too slow.
    pub parts_per_million: i64,
}

impl Skew {
    /// What the clock shows.
    pub fn wall(&self, now: Duration) -> WallTime {
        let passed = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let gained = passed.saturating_mul(self.parts_per_million) / 1_000_000;
        WallTime(true_time(now).millis().saturating_add_signed(self.ahead_ms.saturating_add(gained)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_off_and_goes_wrong() {
        let hour = Duration::from_secs(3600);
        assert_eq!(Skew::default().wall(hour), true_time(hour));
        let skew = Skew { ahead_ms: -5, parts_per_million: 100 };
        assert_eq!(skew.wall(Duration::ZERO).millis(), EPOCH_MS - 5);
        assert_eq!(skew.wall(hour).millis(), true_time(hour).millis() - 5 + 360);
    }
}
