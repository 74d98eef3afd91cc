//! How often this node may start a new incarnation because a peer's word says that it must.
//!
//! A peer that heard more from us than our disk knows, or that refuses our incarnation as one that was replaced,
//! is right nearly always: then the only way back is a new incarnation, and the first one is started at once.
//! But nothing proves its word. A member that lies would have us start over for ever, and two nodes that share
//! one key would replace each other in turns. So after each one there is a pause, which doubles up to a day, and
//! is forgotten only after two calm days.
//!
//! Kept across restarts by the shell, as wall-clock time.

use std::time::Duration;

use crate::time::{Monotonic, WallTime};

/// The pause after the first one.
const PAUSE_MIN: Duration = Duration::from_secs(5 * 60);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// After a pause and so long without another one, the next is the first again. Longer than the longest pause, or
/// whoever comes as soon as it may would be taken for somebody new.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(48 * 3_600);

/// What survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many were started in a row.
    pub count: u32,
    /// When the next one may be.
    pub until: WallTime,
}

/// The new incarnations that were started, and when the next one may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    /// How many in a row; 0: none that is remembered.
    count: u32,
    until: Monotonic,
}

impl Renewals {
    /// None was started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes back what was kept. No pause is longer than a day from now, whatever the clock did.
    pub fn import(now: Monotonic, wall: WallTime, kept: Kept) -> Self {
        Self { count: kept.count, until: now + kept.until.since(wall).min(PAUSE_MAX) }
    }

    /// What is to be kept; `None` when none was started.
    pub fn export(&self, now: Monotonic, wall: WallTime) -> Option<Kept> {
        let over = now.since(self.until);
        let until = if over.is_zero() { wall + self.until.since(now) } else { wall - over };
        (self.count > 0).then_some(Kept { count: self.count, until })
    }

    /// When the next one may be started; `None`: now.
    pub fn until(&self, now: Monotonic) -> Option<Monotonic> {
        (self.count > 0 && self.until > now).then_some(self.until)
    }

    /// One is started.
    pub fn started(&mut self, now: Monotonic) {
        if now.since(self.until) >= FORGOTTEN_AFTER {
            self.count = 0;
        }
        let doubled = 1_u32.checked_shl(self.count).and_then(|times| PAUSE_MIN.checked_mul(times));
        self.until = now + doubled.map_or(PAUSE_MAX, |pause| pause.min(PAUSE_MAX));
        self.count = self.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    /// When one is started that is wanted at every moment.
    fn eager(mut renewals: Renewals, mut now: Monotonic, until: Monotonic) -> Vec<u64> {
        let mut started = Vec::new();
        while now <= until {
            started.push(now.0.as_secs());
            renewals.started(now);
            now = renewals.until(now).expect("there is always a pause");
        }
        started
    }

    #[test]
    fn the_first_is_at_once_and_pauses_double() {
        assert_eq!(Renewals::new().until(at(7)), None);
        assert_eq!(eager(Renewals::new(), at(0), at(4_000)), [0, 300, 900, 2_100]);
    }

    #[test]
    fn whoever_wants_one_at_every_moment_gets_one_a_day_in_the_end() {
        let day = 24 * 3_600;
        let started = eager(Renewals::new(), at(0), at(100 * day));
        assert!(started.len() < 110, "{} in a hundred days", started.len());
        assert!(started.windows(2).rev().take(50).all(|two| two[1] - two[0] == day));
    }

    #[test]
    fn calm_days_are_forgotten_and_nothing_less() {
        let mut renewals = Renewals::new();
        for _ in 0..5 {
            renewals.started(at(0));
        }
        let mut soon = renewals;
        let pause = renewals.until(at(0)).unwrap();
        soon.started(pause + (FORGOTTEN_AFTER - Duration::from_secs(1)));
        assert_eq!(soon.count, 6);
        renewals.started(pause + FORGOTTEN_AFTER);
        assert_eq!(renewals.count, 1);
    }

    #[test]
    fn what_is_kept_goes_on_after_a_restart_whatever_the_clock_did() {
        let mut renewals = Renewals::new();
        assert_eq!(renewals.export(at(5), WallTime(1_000_000)), None);
        renewals.started(at(5));
        let kept = renewals.export(at(5), WallTime(1_000_000)).unwrap();
        assert_eq!(kept, Kept { count: 1, until: WallTime(1_300_000) });
        let back = Renewals::import(at(0), WallTime(1_100_000), kept);
        assert_eq!(back.until(at(0)), Some(at(200)));
        assert_eq!(back.export(at(250), WallTime(1_350_000)), Some(kept), "also when the pause is over");
        let stepped = Renewals::import(at(0), WallTime(0), kept);
        assert_eq!(stepped.until(at(0)), Some(at(1_300)));
        let far = Kept { count: 40, until: WallTime(u64::MAX) };
        let mut far = Renewals::import(at(0), WallTime(0), far);
        assert_eq!(far.until(at(0)), Some(Monotonic(PAUSE_MAX)));
        far.started(Monotonic(PAUSE_MAX));
        assert_eq!(far.until(at(0)), Some(Monotonic(PAUSE_MAX * 2)));
    }
}
