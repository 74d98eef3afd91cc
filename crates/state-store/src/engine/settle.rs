//! How long after an epoch's end it is sealed.
//!
//! A node that sees entries arrive after it sealed their epoch waits longer from then on, up to a limit: when
//! a node seals does not change what the root must be. After a quiet while it goes half the way back.

use std::time::Duration;

use lattice_core::time::Monotonic;

/// Without late entries for so long, the wait shortens.
const QUIET: Duration = Duration::from_secs(600);

/// The wait, and what it may be.
#[derive(Clone, Debug)]
pub(crate) struct Settle {
    least: Duration,
    most: Duration,
    current: Duration,
    changed: Monotonic,
}

impl Settle {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most: most.max(least), current: least, changed: Monotonic::ZERO }
    }

    /// The wait as it is now.
    pub(crate) fn current(&self) -> Duration {
        self.current
    }

    /// An entry came `late` after its epoch's end, when that was sealed. One that no allowed wait would have
    /// caught changes nothing.
    pub(crate) fn late(&mut self, late: Duration, now: Monotonic) {
        if late < self.most {
            self.current = self.current.max((late + late / 4).min(self.most));
        }
        self.changed = now;
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, now: Monotonic) {
        if self.current > self.least && now.since(self.changed) >= QUIET {
            self.current = self.least + (self.current - self.least) / 2;
            if self.current - self.least < Duration::from_millis(10) {
                self.current = self.least;
            }
            self.changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_entries_lengthen_the_wait_and_quiet_shortens_it() {
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        let mut settle = Settle::new(Duration::from_secs(2), Duration::from_secs(10));
        settle.late(Duration::from_secs(4), at(1));
        assert_eq!(settle.current(), Duration::from_secs(5));
        settle.late(Duration::from_secs(3600), at(2));
        assert_eq!(settle.current(), Duration::from_secs(5));
        settle.late(Duration::from_secs(9), at(3));
        assert_eq!(settle.current(), Duration::from_secs(10));
        settle.tick(at(602));
        assert_eq!(settle.current(), Duration::from_secs(10));
        settle.tick(at(603));
        assert_eq!(settle.current(), Duration::from_secs(6));
        for quiet in 2..20 {
            settle.tick(at(quiet * 603));
        }
        assert_eq!(settle.current(), Duration::from_secs(2));
    }
}
