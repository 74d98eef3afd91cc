//! Shares the writer's time between writes and sealing.
//!
//! While both have work, each gets half: neither holds up the other, however long a step of it takes. What one had more
//! is made up for, within limits. Who writes and waits for the answer is away for a moment, and sealing does not begin
//! a step in that moment if it had more than its share; when nobody has written for longer, the time is its own.

use std::time::Duration;

/// How long sealing waits for writes that it owes time.
const PATIENCE: Duration = Duration::from_millis(5);
/// The most that is made up for, or what one piece of work took, if that was longer: so long one holds up the other.
const OWED_MAX: Duration = Duration::from_millis(10);

/// Who had more of the writer's time lately.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// How much longer writes had.
    writes: Duration,
    /// How much longer sealing had.
    sealing: Duration,
    /// Nobody writes.
    quiet: bool,
}

impl Shares {
    /// How long to wait for a write before the next step of sealing.
    pub(super) fn patience(&self) -> Duration {
        self.sealing.min(PATIENCE)
    }

    /// Whether the next step is sealing's.
    pub(super) fn may_seal(&self) -> bool {
        self.quiet || self.sealing.is_zero()
    }

    /// Writes, and waiting for them, took so long.
    pub(super) fn wrote(&mut self, time: Duration) {
        self.quiet = false;
        let left = time.saturating_sub(self.sealing);
        self.sealing = self.sealing.saturating_sub(time);
        self.writes = (self.writes + left).min(OWED_MAX.max(time));
    }

    /// No write came.
    pub(super) fn waited(&mut self) {
        *self = Self { quiet: true, ..Self::default() };
    }

    /// A step of sealing took so long.
    pub(super) fn sealed(&mut self, time: Duration) {
        // Somebody may have come to write: who was quiet is asked again after each step.
        self.quiet = false;
        let left = time.saturating_sub(self.writes);
        self.writes = self.writes.saturating_sub(time);
        self.sealing = (self.sealing + left).min(OWED_MAX.max(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn each_gets_half_of_the_time_while_both_have_work() {
        for (write, step) in [(3, 15), (15, 3), (100, 1), (7, 7)] {
            let mut shares = Shares::default();
            let (mut writing, mut sealing) = (0, 0);
            for _ in 0..1_000 {
                shares.wrote(ms(write));
                writing += write;
                while shares.may_seal() {
                    shares.sealed(ms(step));
                    sealing += step;
                }
            }
            let more = writing.abs_diff(sealing);
            assert!(more <= write.max(step) + 1, "{write} {step}: {writing} {sealing}");
        }
    }

    #[test]
    fn sealing_has_the_time_that_nobody_wants() {
        let mut shares = Shares::default();
        shares.wrote(ms(1));
        shares.sealed(ms(100));
        assert!(!shares.may_seal());
        assert_eq!(shares.patience(), PATIENCE);
        shares.waited();
        assert!(shares.may_seal());
        // One step, and then somebody may have come.
        shares.sealed(ms(2));
        assert!(!shares.may_seal());
        assert_eq!(shares.patience(), ms(2));
    }

    #[test]
    fn what_was_had_long_ago_is_forgotten() {
        let mut shares = Shares::default();
        (0..100).for_each(|_| shares.wrote(ms(3)));
        shares.sealed(OWED_MAX);
        shares.sealed(ms(1));
        assert!(!shares.may_seal());
        assert_eq!(shares.patience(), ms(1));
    }
}
