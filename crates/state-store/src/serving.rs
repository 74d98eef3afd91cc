//! Whose turn it is when peers ask for much: clients go first.
//!
//! Peers that pull ask as fast as they are answered, and each question takes the disk and a processor for many times
//! what a client's call takes. Without order, ten of them leave next to nothing to clients. So costly answers are made in
//! turns, on half of the processors at most, and in the order of the questions. While clients call, a turn ends with a
//! rest that is some times as long as the answer took, by the clock: what has to wait for clients already rests longer
//! after it. While no client calls, there is no rest.
//!
//! What a configured limit of bytes per second adds to that is [`crate::peers::Limit`]'s.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many times as long as the answer took a rest is.
const REST: u32 = 2;
/// The longest rest: a disk that is slow for its own reasons does not keep peers away.
const REST_MAX: Duration = Duration::from_millis(500);

/// Gives turns.
#[derive(Debug)]
pub(crate) struct Turns {
    turns: Arc<Semaphore>,
    /// How many calls of clients have begun.
    calls: AtomicU64,
}

/// A turn, from before the answer is made until its rest is over.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    calls: u64,
}

impl Turns {
    /// On a machine of so many processors.
    pub(crate) fn new(processors: NonZeroUsize) -> Self {
        Self { turns: Arc::new(Semaphore::new((processors.get() / 2).max(1))), calls: AtomicU64::new(0) }
    }

    /// A client calls.
    pub(crate) fn client_calls(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The next turn that is free; `None` when that takes longer than `patience`.
    pub(crate) async fn next(&self, patience: Duration) -> Option<Turn> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::time::timeout(patience, turn).await.ok()?.ok()?;
        Some(Turn { _turn: turn, calls: self.calls.load(Ordering::Relaxed) })
    }

    /// How long to rest at the end of a turn, when its answer took so long.
    pub(crate) fn rest(&self, turn: &Turn, took: Duration) -> Duration {
        match self.calls.load(Ordering::Relaxed) == turn.calls {
            true => Duration::ZERO,
            false => (took * REST).min(REST_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn turns(processors: usize) -> Turns {
        Turns::new(NonZeroUsize::new(processors).unwrap())
    }

    #[tokio::test]
    async fn half_of_the_processors_answer() {
        for (processors, most) in [(1, 1), (2, 1), (3, 1), (8, 4)] {
            let turns = turns(processors);
            let mut taken = Vec::new();
            while let Some(turn) = turns.next(AT_ONCE).await {
                taken.push(turn);
            }
            assert_eq!(taken.len(), most, "{processors} processors");
            taken.pop();
            assert!(turns.next(AT_ONCE).await.is_some(), "a turn that has ended is free");
        }
    }

    #[tokio::test]
    async fn a_turn_rests_while_clients_call() {
        let turns = turns(2);
        let took = Duration::from_millis(20);
        let turn = turns.next(AT_ONCE).await.unwrap();
        assert_eq!(turns.rest(&turn, took), Duration::ZERO, "nobody called");
        turns.client_calls();
        assert_eq!(turns.rest(&turn, took), took * REST);
        assert_eq!(turns.rest(&turn, Duration::from_secs(3_600)), REST_MAX);
        drop(turn);
        let turn = turns.next(AT_ONCE).await.unwrap();
        assert_eq!(turns.rest(&turn, took), Duration::ZERO, "that call was before this turn");
    }
}
