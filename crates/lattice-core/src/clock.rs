//! The hybrid logical clock that stamps versions.
//!
//! A stamp follows the wall clock, yet is always greater than what it overwrites, so that a node whose clock
//! lags still wins over what it has seen. A stamp far ahead drags nothing else along: our last stamp counts
//! only while it lies within `max_drift` of the wall clock, so one key written ahead of time (by a clock
//! that was wrong, here or elsewhere) does not pull the versions of all others with it.
//!
//! Which received versions are held back until they are due is asked here ([`Clock::too_far_ahead`]);
//! holding them is the store's work.

use std::time::Duration;

use crate::model::Hlc;
use crate::time::WallTime;

/// How long the word of peers that a clock is wrong holds, unless it is said again: whoever said it may be gone.
pub const WRONG_HOLDS: Duration = Duration::from_secs(60);

/// Stamps the versions of one writer. The caller reads the wall clock and hands it in.
#[derive(Clone, Debug)]
pub struct Clock {
    max_drift: Duration,
    last: Hlc,
}

impl Clock {
    /// A clock whose last stamp was `last` (`Hlc::default()` for none).
    pub fn new(max_drift: Duration, last: Hlc) -> Self {
        Self { max_drift, last }
    }

    /// The stamp of a write at `now` over a version with reading `overwritten`: the greatest of the wall
    /// clock, one past `overwritten`, and one past our last stamp if that lies within `max_drift`.
    ///
    /// It is greater than `overwritten`, save at the end of 48-bit time, which [`Self::too_far_ahead`] keeps
    /// out.
    pub fn stamp(&mut self, now: WallTime, overwritten: Option<Hlc>) -> Hlc {
        let mut stamp = Hlc::at(now);
        if !self.too_far_ahead(now, self.last) {
            stamp = stamp.max(self.last.next());
        }
        if let Some(overwritten) = overwritten {
            stamp = stamp.max(overwritten.next());
        }
        // A stamp that only its key forced far ahead is not remembered: the next one could not build on it
        // anyway, and would repeat readings that other keys have had in this millisecond.
        if !self.too_far_ahead(now, stamp) {
            self.last = stamp;
        }
        stamp
    }

    /// The last stamp that the next one builds on. To be kept across restarts.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// Whether `hlc` lies further ahead of `now` than `max_drift`; a received version that does is held.
    pub fn too_far_ahead(&self, now: WallTime, hlc: Hlc) -> bool {
        hlc.wall() > now + self.max_drift
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRIFT: Duration = Duration::from_secs(10);

    fn hlc(millis: u64, counter: u64) -> Hlc {
        Hlc(millis << 16 | counter)
    }

    #[test]
    fn a_stamp_is_the_greatest_of_wall_clock_overwritten_and_last() {
        for (case, last, now, overwritten, stamp) in [
            ("wall clock", hlc(900, 5), 1_000, Some(hlc(800, 0)), hlc(1_000, 0)),
            ("last, in the same millisecond", hlc(1_000, 5), 1_000, None, hlc(1_000, 6)),
            ("last, ahead within the drift", hlc(11_000, 5), 1_000, None, hlc(11_000, 6)),
            ("last is too far ahead to count", hlc(11_001, 0), 1_000, None, hlc(1_000, 0)),
            ("overwritten", hlc(900, 0), 1_000, Some(hlc(1_200, 7)), hlc(1_200, 8)),
            ("overwritten, however far ahead", hlc(900, 0), 1_000, Some(hlc(99_000, 7)), hlc(99_000, 8)),
            ("the counter carries", hlc(1_000, 0xffff), 1_000, None, hlc(1_001, 0)),
        ] {
            let mut clock = Clock::new(DRIFT, last);
            assert_eq!(clock.stamp(WallTime(now), overwritten), stamp, "{case}");
        }
    }

    #[test]
    fn a_stamp_far_ahead_drags_no_other_along() {
        let mut clock = Clock::new(DRIFT, Hlc::default());
        let now = WallTime(1_000);
        assert_eq!(clock.stamp(now, None), hlc(1_000, 0));
        assert_eq!(clock.stamp(now, Some(hlc(50_000, 0))), hlc(50_000, 1));
        assert_eq!(clock.stamp(now, None), hlc(1_000, 1), "nor is a reading used twice");
    }

    #[test]
    fn the_bound_itself_is_not_too_far_ahead() {
        let clock = Clock::new(DRIFT, Hlc::default());
        assert!(!clock.too_far_ahead(WallTime(1_000), hlc(11_000, 0xffff)));
        assert!(clock.too_far_ahead(WallTime(1_000), hlc(11_001, 0)));
        assert!(!clock.too_far_ahead(WallTime(1_000), hlc(1, 0)));
    }

    proptest! {
        #[test]
        fn stamps_of_one_writer_for_one_key_always_rise(
            steps in prop::collection::vec((0_u64..60_000, 0_usize..4, any::<bool>()), 1..200),
        ) {
            // The wall clock jumps as it likes; now and then the process restarts from what it kept.
            let mut clock = Clock::new(DRIFT, Hlc::default());
            let mut newest = [None; 4];
            for (now, key, restart) in steps {
                if restart {
                    clock = Clock::new(DRIFT, clock.last());
                }
                let now = WallTime(now);
                let stamp = clock.stamp(now, newest[key]);
                prop_assert!(newest[key].is_none_or(|before| before < stamp));
                prop_assert!(stamp >= Hlc::at(now));
                newest[key] = Some(stamp);
            }
        }

        #[test]
        fn readings_repeat_for_no_key_while_the_wall_clock_goes_forward(
            steps in prop::collection::vec((0_u64..3, 0_usize..4), 1..200),
        ) {
            let mut clock = Clock::new(DRIFT, Hlc::default());
            let mut now = WallTime(1_000);
            let mut newest = [None; 4];
            let mut last = Hlc::default();
            for (passed, key) in steps {
                now = now + Duration::from_millis(passed);
                let stamp = clock.stamp(now, newest[key]);
                prop_assert!(last < stamp);
                newest[key] = Some(stamp);
                last = stamp;
            }
        }
    }
}
