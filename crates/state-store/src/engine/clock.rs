//! What time it is for sealing: the wall clock, as long as it keeps step with the monotonic one.
//!
//! A clock that jumps forward would seal epochs that nobody has finished writing; one that jumps back would
//! leave seals in the future. So a step beyond the allowed drift halts sealing until the new time is
//! confirmed: by somebody who knows ([`SealClock::confirm`]), or because it stood long enough.

use std::time::Duration;

use lattice_core::time::{Monotonic, WallTime};

use super::Now;

/// The clock that sealing follows.
#[derive(Clone, Debug)]
pub(crate) struct SealClock {
    max_drift: Duration,
    confirm_after: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The wall clock is believed; it leads the monotonic one by so many milliseconds.
    Following { lead: i128 },
    /// It stepped, and stands there since.
    Doubted { before: Option<i128>, lead: i128, since: Monotonic },
}

fn lead(now: Now) -> i128 {
    i128::from(now.wall.millis()) - i128::try_from(now.monotonic.0.as_millis()).unwrap_or(i128::MAX)
}

impl SealClock {
    /// Begins by believing the wall clock, unless the newest seal, which ends at `sealed`, lies too far ahead
    /// of it: then one of the two is wrong.
    pub(crate) fn new(
        max_drift: Duration,
        confirm_after: Duration,
        now: Now,
        sealed: Option<WallTime>,
    ) -> Self {
        let lead = lead(now);
        let state = match sealed {
            Some(sealed) if sealed > now.wall + max_drift => {
                State::Doubted { before: None, lead, since: now.monotonic }
            }
            Some(_) | None => State::Following { lead },
        };
        Self { max_drift, confirm_after, state }
    }

    /// Looks at the clocks. To be called often: what lies between two looks counts as one step.
    pub(crate) fn observe(&mut self, now: Now) {
        let seen = lead(now);
        let near = |other: i128| (seen - other).unsigned_abs() <= self.max_drift.as_millis();
        self.state = match self.state {
            State::Following { lead } if near(lead) => State::Following { lead: seen },
            State::Following { lead } => {
                State::Doubted { before: Some(lead), lead: seen, since: now.monotonic }
            }
            // Put right again.
            State::Doubted { before: Some(before), .. } if near(before) => State::Following { lead: seen },
            State::Doubted { before, lead, .. } if !near(lead) => {
                State::Doubted { before, lead: seen, since: now.monotonic }
            }
            State::Doubted { since, .. } if now.monotonic.since(since) >= self.confirm_after => {
                State::Following { lead: seen }
            }
            doubted @ State::Doubted { .. } => doubted,
        };
    }

    /// The wall clock is right, says somebody who knows.
    pub(crate) fn confirm(&mut self, now: Now) {
        self.state = State::Following { lead: lead(now) };
    }

    /// The time to seal by; `None` while sealing is halted.
    pub(crate) fn time(&self, now: Now) -> Option<WallTime> {
        matches!(self.state, State::Following { .. }).then_some(now.wall)
    }

    /// Whether sealing is halted.
    pub(crate) fn is_halted(&self) -> bool {
        matches!(self.state, State::Doubted { .. })
    }

    /// Why sealing is halted.
    pub(crate) fn halted(&self) -> Option<String> {
        let State::Doubted { before, lead, .. } = self.state else { return None };
        let confirmed =
            format!("halted until it is confirmed or stood for {} s", self.confirm_after.as_secs());
        Some(match before {
            Some(before) => {
                let way = if lead > before { "forward" } else { "back" };
                let by = (lead - before).unsigned_abs();
                format!("wall clock stepped {way} by {by} ms: sealing is {confirmed}")
            }
            None => format!("newest seal lies ahead of the wall clock: sealing is {confirmed}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall: u64, monotonic: u64) -> Now {
        Now { wall: WallTime(wall), monotonic: Monotonic(Duration::from_secs(monotonic)) }
    }

    fn clock() -> SealClock {
        SealClock::new(Duration::from_secs(10), Duration::from_secs(60), now(1_000_000, 0), None)
    }

    #[test]
    fn small_steps_are_followed() {
        let mut clock = clock();
        for wall in [1_009_000, 1_001_000] {
            clock.observe(now(wall, 0));
            assert_eq!(clock.time(now(wall, 0)), Some(WallTime(wall)));
        }
    }

    #[test]
    fn a_large_step_halts_until_it_stood_long_enough() {
        for wall in [1_100_000, 900_000] {
            let mut clock = clock();
            clock.observe(now(wall, 0));
            assert!(clock.halted().is_some());
            clock.observe(now(wall + 59_000, 59));
            assert_eq!(clock.time(now(wall + 59_000, 59)), None);
            clock.observe(now(wall + 60_000, 60));
            assert_eq!(clock.time(now(wall + 60_000, 60)), Some(WallTime(wall + 60_000)));
        }
    }

    #[test]
    fn a_second_step_begins_the_wait_anew_and_stepping_back_ends_it() {
        let mut clock = clock();
        clock.observe(now(1_100_000, 0));
        clock.observe(now(1_250_000, 50));
        clock.observe(now(1_265_000, 65));
        assert!(clock.halted().unwrap().starts_with("wall clock stepped forward by 200000 ms"));
        clock.observe(now(1_066_000, 66));
        assert_eq!(clock.halted(), None);
    }

    #[test]
    fn whoever_knows_may_confirm() {
        let mut clock = clock();
        clock.observe(now(1_100_000, 0));
        clock.confirm(now(1_100_000, 0));
        assert_eq!(clock.halted(), None);
    }

    #[test]
    fn seals_far_ahead_of_the_clock_are_doubted_from_the_start() {
        let ahead = WallTime(1_010_001);
        let drift = Duration::from_secs(10);
        let clock = SealClock::new(drift, Duration::from_secs(60), now(1_000_000, 0), Some(ahead));
        assert!(clock.halted().unwrap().starts_with("newest seal lies ahead"));
        let clock = SealClock::new(drift, Duration::from_secs(60), now(1_000_001, 0), Some(ahead));
        assert_eq!(clock.halted(), None);
    }
}
