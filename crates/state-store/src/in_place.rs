//! Whether a short read may run in its caller's own turn, instead of on a thread that may wait for the disk.
//!
//! A read whose pages are in memory takes a few microseconds; the hop to another thread and back takes many times that,
//! and two switches of the processor. Whether its pages are there, no storage engine tells, and it may also have to wait
//! for a batch that is being applied. So a read runs in place, and is measured:
//!
//! - At most half of the runtime's threads read in place at a time. A disk that hangs holds up no more than these, and
//!   where there is one thread, nobody reads in place.
//! - One that took [`SLOW`] or longer sends all reads to the other threads for [`PAUSES`] times as long as it took. So
//!   of a thread's time, no more than about a tenth is spent waiting here, however slow the disk.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What a read in memory never takes.
const SLOW: Duration = Duration::from_millis(1);
/// For how many times its own duration a slow read keeps others from following it.
const PAUSES: u32 = 10;

/// Admits reads.
#[derive(Debug)]
pub(crate) struct InPlace {
    reading_max: usize,
    reading: AtomicUsize,
    /// When reads may begin again after a slow one, in microseconds.
    resumes_us: AtomicU64,
}

/// A read in place.
#[derive(Debug)]
struct Turn<'a>(&'a InPlace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InPlace {
    /// For a runtime of so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { reading_max: threads / 2, reading: AtomicUsize::new(0), resumes_us: AtomicU64::new(0) }
    }

    /// Runs `read` if it may run here; `now` is monotonic.
    pub(crate) fn run<T>(&self, now: impl Fn() -> Duration, read: impl FnOnce() -> T) -> Option<T> {
        let begun = now();
        if begun < Duration::from_micros(self.resumes_us.load(Ordering::Relaxed)) {
            return None;
        }
        let turn = self.turn()?;
        let done = read();
        drop(turn);
        let ended = now();
        let took = ended.saturating_sub(begun);
        if took >= SLOW {
            let resumes = ended + took * PAUSES;
            self.resumes_us
                .fetch_max(u64::try_from(resumes.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        Some(done)
    }

    fn turn(&self) -> Option<Turn<'_>> {
        let turn = Turn(self);
        // Counted first: of two who come at once, neither overlooks the other.
        (self.reading.fetch_add(1, Ordering::Relaxed) < self.reading_max).then_some(turn)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn at(ms: u64) -> impl Fn() -> Duration {
        move || Duration::from_millis(ms)
    }

    #[test]
    fn half_of_the_threads_read_in_place() {
        for (threads, reading_max) in [(0, 0), (1, 0), (2, 1), (3, 1), (8, 4)] {
            let in_place = InPlace::new(threads);
            assert_eq!(nested(&in_place), reading_max, "{threads} threads");
            assert_eq!(nested(&in_place), reading_max, "{threads} threads, once these have ended");
        }
    }

    /// How many reads there may be at the same time.
    fn nested(in_place: &InPlace) -> usize {
        in_place.run(at(0), || nested(in_place)).map_or(0, |inner| inner + 1)
    }

    #[test]
    fn after_a_slow_read_others_stay_away_for_ten_times_as_long() {
        let in_place = InPlace::new(2);
        let now = Cell::new(1_000);
        let clock = || Duration::from_millis(now.get());
        let slow = || now.set(1_003);
        assert_eq!(in_place.run(clock, slow), Some(()));
        for (now, reads) in [(1_003, false), (1_032, false), (1_033, true), (1_033, true)] {
            assert_eq!(in_place.run(at(now), || ()).is_some(), reads, "at {now}");
        }
    }

    #[test]
    fn a_read_that_panics_gives_its_place_back() {
        let in_place = InPlace::new(2);
        let read = std::panic::AssertUnwindSafe(|| in_place.run(at(0), || panic!("asked to")));
        assert!(std::panic::catch_unwind(read).is_err());
        assert_eq!(in_place.run(at(0), || ()), Some(()));
    }
}
