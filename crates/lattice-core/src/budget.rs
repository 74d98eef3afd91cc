//! A budget of bytes per second, for work whose price is known only when it is done.
//!
//! What was spent is a debt that time pays off at the budget's rate. Work may begin while there is no debt (or a
//! small one, as the caller likes): one large answer overdraws the budget, and what comes after it waits. So the
//! long-run average never exceeds the rate, whatever the sizes are.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::time::Monotonic;

/// The budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    bytes_per_s: NonZeroU64,
    /// When everything that was spent so far is paid off.
    paid: Monotonic,
}

impl Budget {
    /// Nothing was spent yet.
    pub fn new(bytes_per_s: NonZeroU64) -> Self {
        Self { bytes_per_s, paid: Monotonic::ZERO }
    }

    /// How long `bytes` take at the budget's rate.
    pub fn price(&self, bytes: u64) -> Duration {
        // In nanoseconds of 128 bits, so that neither factor is too large.
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// `bytes` were spent.
    pub fn spend(&mut self, now: Monotonic, bytes: u64) {
        self.paid = self.paid.max(now) + self.price(bytes);
    }

    /// When the debt is paid off; in the past while there is none.
    pub fn paid(&self) -> Monotonic {
        self.paid
    }

    /// How long until the debt is paid off.
    pub fn debt(&self, now: Monotonic) -> Duration {
        self.paid.since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    #[test]
    fn what_was_spent_is_paid_off_at_the_rate() {
        let mut budget = Budget::new(NonZeroU64::new(1_000).unwrap());
        assert_eq!(budget.debt(at(5_000)), Duration::ZERO);
        budget.spend(at(5_000), 2_000);
        assert_eq!(budget.debt(at(5_000)), Duration::from_secs(2));
        budget.spend(at(6_000), 500);
        assert_eq!(budget.debt(at(6_000)), Duration::from_millis(1_500));
        assert_eq!(budget.debt(at(7_500)), Duration::ZERO);
        // An idle hour buys nothing.
        budget.spend(at(3_607_500), 1_000);
        assert_eq!(budget.debt(at(3_607_500)), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn the_average_never_exceeds_the_rate(sizes in prop::collection::vec(0..5_000_000_u64, 1..50), rate in 1..10_000_000_u64) {
            let mut budget = Budget::new(NonZeroU64::new(rate).unwrap());
            let (mut now, start, mut spent) = (at(1_000), at(1_000), 0_u64);
            for size in sizes {
                budget.spend(now, size);
                spent += size;
                now = now + budget.debt(now);
            }
            let allowed = now.since(start).as_secs_f64() * rate as f64;
            prop_assert!(spent as f64 <= allowed * 1.000_001 + 1.0, "{spent} of {allowed}");
        }
    }
}
