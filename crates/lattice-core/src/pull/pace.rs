//! How long a pull may wait for a peer that brings little.
//!
//! Each answer of a pull may come in time, and the whole still last for ever: a server that answers one position at a
//! time, each just before it is given up, would hold a pull's slot for days. So waiting is paid for. A pull begins
//! with some patience, each wait for an answer takes from it, and what an answer proved gives back: as much as a
//! whole request timeout for the sixteenth part of what one answer may bring. A peer that brings that much in every
//! request timeout is never given up, however much it has; one that brings less is, once the patience is gone.

use std::time::Duration;

use crate::exchange::{ANSWER_BYTES_MAX, FETCH_ENTRIES_MAX, POSITIONS_MAX};
use crate::model::{Content, Entry};

/// An answer that brings so large a part of the most that one may bring is worth a request timeout.
const PART: u128 = 16;
/// Of what an answer brings, in millionths of the most.
const FULL: u128 = 1_000_000;

/// What a pull may still wait.
#[derive(Debug)]
pub(super) struct Pace {
    request_timeout: Duration,
    patience: Duration,
    waited: Duration,
}

/// What an answer has brought and proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Worth {
    /// Places in the tree.
    pub(super) positions: usize,
    /// Entries, with their keys and values.
    pub(super) entries: usize,
    /// What these take.
    pub(super) bytes: usize,
}

impl Worth {
    /// So many places, and these entries.
    pub(super) fn of(positions: usize, entries: &[Entry]) -> Self {
        let bytes = |entry: &Entry| {
            let value = match &entry.content {
                Content::Value(value) => value.len(),
                Content::Dropped { .. } | Content::Tombstone => 0,
            };
            entry.key.as_bytes().len() + value
        };
        Self { positions, entries: entries.len(), bytes: entries.iter().map(bytes).sum() }
    }
}

impl Pace {
    /// Nothing was waited for yet.
    pub(super) fn new(request_timeout: Duration, patience: Duration) -> Self {
        Self { request_timeout, patience, waited: Duration::ZERO }
    }

    /// An answer was waited for so long. What is longer than a request timeout was not the peer's doing: the question
    /// was kept back for our own budget.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.waited += waited.min(self.request_timeout);
    }

    /// An answer has proved to be worth this much.
    pub(super) fn brought(&mut self, worth: Worth) {
        let part = |count: usize, most: usize| count as u128 * FULL / most as u128;
        let parts = part(worth.positions, POSITIONS_MAX)
            + part(worth.entries, FETCH_ENTRIES_MAX)
            + part(worth.bytes, ANSWER_BYTES_MAX);
        let nanos = self.request_timeout.as_nanos() * parts.min(FULL) * PART / FULL;
        let paid = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.waited = self.waited.saturating_sub(paid);
    }

    /// Whether there is no patience left.
    pub(super) fn is_over(&self) -> bool {
        self.waited >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn pace() -> Pace {
        Pace::new(TIMEOUT, TIMEOUT * 12)
    }

    /// How many answers, each of which takes nearly a request timeout, are waited for; of a million.
    fn lasts(worth: Worth) -> u32 {
        let mut pace = pace();
        for answer in 0..1_000_000 {
            if pace.is_over() {
                return answer;
            }
            pace.waited(TIMEOUT.mul_f64(0.99));
            pace.brought(worth);
        }
        1_000_000
    }

    #[test]
    fn who_brings_a_sixteenth_of_an_answer_in_time_is_never_given_up_and_who_brings_less_is() {
        let of = |positions, entries, bytes| Worth { positions, entries, bytes };
        for enough in [of(64, 0, 0), of(0, 256, 0), of(0, 1, 128 << 10), of(32, 128, 0)] {
            assert_eq!(lasts(enough), 1_000_000, "{enough:?}");
        }
        assert_eq!(lasts(of(0, 0, 0)), 13);
        assert_eq!(lasts(of(1, 0, 0)), 13);
        assert_eq!(lasts(of(1, 1, 100)), 13);
        assert_eq!(lasts(of(32, 0, 0)), 25);
    }

    #[test]
    fn what_was_waited_for_our_own_budget_is_not_counted() {
        let mut pace = pace();
        for _ in 0..11 {
            pace.waited(Duration::from_secs(3_600));
        }
        assert!(!pace.is_over(), "eleven request timeouts at most");
        pace.waited(Duration::from_secs(3_600));
        assert!(pace.is_over());
        pace.brought(Worth { positions: 64, ..Worth::default() });
        assert!(!pace.is_over(), "what comes late is worth as much");
    }
}
