//! How long to wait before a stream is resumed or a service asked again.

use std::time::Duration;

/// Delays that double from `min` to `max`, each with jitter, so that four services that lost a fifth do not
/// return in one step.
#[derive(Debug, Clone)]
pub struct Reconnect {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Reconnect {
    /// From 100 ms to 1 s: a sibling is on this machine, and what it brings is wanted as soon as it is back.
    pub fn new() -> Self {
        Self::with_bounds(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// From `min` to `max`.
    pub fn with_bounds(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), next: min }
    }

    /// How long to wait now: between half and all of the current delay, which then doubles.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts over from `min`: it has worked.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_up_to_the_bound_and_start_over() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut reconnect = Reconnect::with_bounds(min, max);
        for full_ms in [100, 200, 400, 800, 1000, 1000, 1000] {
            let full = Duration::from_millis(full_ms);
            let delay = reconnect.next_delay();
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
        }
        reconnect.reset();
        assert!(reconnect.next_delay() <= min);
    }
}
