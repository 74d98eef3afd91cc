//! Whether a short read may run in its caller's own turn, instead of on a thread that may wait for the disk.
//!
//! A read whose pages are in memory takes a few microseconds; the hop to another thread and back takes many times that,
//! and two switches of the processor. Whether its pages are there, no storage engine tells, and it may also have to wait
//! for a batch that is being applied. So a read runs in place, and is measured:
//!
//! - At most half of the runtime's threads read in place at a time. A disk that hangs holds up no more than these, and
//!   where there is one thread, nobody reads in place.
//! - One that took [`SLOW`] or longer, and waited, sends all reads to the other threads for [`PAUSES`] times as long as
//!   it took. So of a thread's time, no more than about a tenth is spent waiting here, however slow the disk. A thread
//!   that did not wait was only not given a processor, as on a busy host it is all the time: that says nothing of the
//!   disk, and the longer way would ask for more of what is short.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lattice_runtime::Clock;

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

/// The moment in which a read begins or ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Monotonic.
    at: Duration,
    /// How often this thread has waited for anything; `None` where the system does not tell.
    waits: Option<u64>,
}

impl Moment {
    /// This one, in this thread.
    pub(crate) fn now(clock: &Clock) -> Self {
        Self { at: clock.monotonic(), waits: waits() }
    }

    /// Whether what began then and ends now waited; where nobody knows, it did.
    fn waited_since(&self, begun: &Self) -> bool {
        self.waits.is_none() || self.waits != begun.waits
    }
}

/// The switches of this thread that it asked for itself, in `getrusage(2)`: it had to wait for a lock or the disk.
#[cfg(target_os = "linux")]
fn waits() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};

    u64::try_from(getrusage(UsageWho::RUSAGE_THREAD).ok()?.voluntary_context_switches()).ok()
}

#[cfg(not(target_os = "linux"))]
fn waits() -> Option<u64> {
    None
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

    /// Runs `read` if it may run here, and asks for the moment before and after.
    pub(crate) fn run<T>(&self, now: impl Fn() -> Moment, read: impl FnOnce() -> T) -> Option<T> {
        let begun = now();
        if begun.at < Duration::from_micros(self.resumes_us.load(Ordering::Relaxed)) {
            return None;
        }
        let turn = self.turn()?;
        let done = read();
        drop(turn);
        let ended = now();
        let took = ended.at.saturating_sub(begun.at);
        if took >= SLOW && ended.waited_since(&begun) {
            let resumes = ended.at + took * PAUSES;
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

    /// A thread that has waited so often, at a time in milliseconds.
    fn moment(ms: u64, waits: Option<u64>) -> Moment {
        Moment { at: Duration::from_millis(ms), waits }
    }

    fn at(ms: u64) -> impl Fn() -> Moment {
        move || moment(ms, Some(0))
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
    fn after_a_slow_read_that_waited_others_stay_away_for_ten_times_as_long() {
        for (before, after, waited) in
            [(Some(7), Some(8), true), (Some(7), Some(7), false), (None, None, true), (Some(7), None, true)]
        {
            let in_place = InPlace::new(2);
            let now = Cell::new(moment(1_000, before));
            let slow = || now.set(moment(1_003, after));
            assert_eq!(in_place.run(|| now.get(), slow), Some(()));
            for (ms, reads) in [(1_003, !waited), (1_032, !waited), (1_033, true), (1_033, true)] {
                assert_eq!(in_place.run(at(ms), || ()).is_some(), reads, "{before:?} to {after:?}, at {ms}");
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_sleeps_waits_and_one_that_computes_does_not() {
        // Of its own accord a thread gives nothing up here, but the system may still let it wait (for a page of the
        // program, say): what counts is that not every time does.
        let computes = || {
            let begun = waits();
            std::hint::black_box((0..100_000_u64).sum::<u64>());
            waits() == begun
        };
        assert!((0..100).any(|_| computes()));
        let begun = waits();
        std::thread::sleep(Duration::from_millis(1));
        assert!(waits() > begun);
    }

    #[test]
    fn a_read_that_panics_gives_its_place_back() {
        let in_place = InPlace::new(2);
        let read = std::panic::AssertUnwindSafe(|| in_place.run(at(0), || panic!("asked to")));
        assert!(std::panic::catch_unwind(read).is_err());
        assert_eq!(in_place.run(at(0), || ()), Some(()));
    }
}
