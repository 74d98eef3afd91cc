//! Who hears the deltas: each observer has a queue of its own, bounded by count and by bytes.
//!
//! What does not fit is lost to that observer and counted: gossip is a hint, and a slow reader holds up neither
//! the network nor the others.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt as _};
use lattice_proto::sensor::v1::Observation;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Observers at a time: the coordinator, and those that it has just left behind.
const OBSERVERS_MAX: usize = 8;
/// Deltas that wait for one observer.
const DELTAS_MAX: usize = 1_024;
/// Their bytes.
const DELTAS_BYTES_MAX: usize = 32 << 20;

/// The observers; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Observers {
    observers: Arc<Mutex<Vec<Observer>>>,
    lost: Counter,
}

/// A delta, and its share of its observer's queue.
type Waiting = (Observation, OwnedSemaphorePermit);

#[derive(Debug)]
struct Observer {
    deltas: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Observers {
    /// Nobody observes; `lost` counts what readers were too slow for.
    pub(crate) fn new(lost: Counter) -> Self {
        Self { observers: Arc::default(), lost }
    }

    /// All deltas from now on; `None` when too many observe already.
    pub(crate) fn subscribe(&self) -> Option<impl Stream<Item = Observation> + Send + use<>> {
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| !observer.deltas.is_closed());
        if observers.len() >= OBSERVERS_MAX {
            return None;
        }
        let (deltas, waiting) = mpsc::channel(DELTAS_MAX);
        observers.push(Observer { deltas, room: Arc::new(Semaphore::new(DELTAS_BYTES_MAX)) });
        Some(ReceiverStream::new(waiting).map(|(delta, _room)| delta))
    }

    /// Tells everybody a delta of so many bytes.
    pub(crate) fn tell(&self, delta: &Observation, bytes: usize) {
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|observer| {
            if !observer.put(delta, bytes) {
                self.lost.inc();
            }
            !observer.deltas.is_closed()
        });
    }
}

impl Observer {
    fn put(&self, delta: &Observation, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => self.deltas.try_send((delta.clone(), room)).is_ok(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn delta(byte: u8) -> Observation {
        Observation { node: vec![byte].into(), what: None }
    }

    /// What waits for an observer.
    fn drain(observed: &mut (impl Stream<Item = Observation> + Unpin)) -> usize {
        let mut count = 0;
        while let Some(Some(_)) = observed.next().now_or_never() {
            count += 1;
        }
        count
    }

    #[test]
    fn what_waits_is_bounded_by_bytes_and_by_count() {
        let observers = Observers::new(Counter::default());
        let mut observed = observers.subscribe().unwrap();
        for _ in 0..40 {
            observers.tell(&delta(1), 1 << 20);
        }
        assert_eq!((drain(&mut observed), observers.lost.get()), (32, 8));
        for _ in 0..=DELTAS_MAX {
            observers.tell(&delta(2), 100);
        }
        assert_eq!((drain(&mut observed), observers.lost.get()), (DELTAS_MAX, 9));
        observers.tell(&delta(3), DELTAS_BYTES_MAX);
        assert_eq!(drain(&mut observed), 1, "what was read made room");
    }

    #[test]
    fn a_slow_observer_costs_the_others_nothing() {
        let observers = Observers::new(Counter::default());
        let (_slow, mut quick) = (observers.subscribe().unwrap(), observers.subscribe().unwrap());
        for _ in 0..100 {
            observers.tell(&delta(1), 1 << 20);
            assert_eq!(drain(&mut quick), 1);
        }
        assert_eq!(observers.lost.get(), 68);
    }

    #[test]
    fn observers_are_bounded_and_one_that_is_gone_makes_room() {
        let observers = Observers::new(Counter::default());
        let mut all: Vec<_> = (0..OBSERVERS_MAX).map(|_| observers.subscribe().unwrap()).collect();
        assert!(observers.subscribe().is_none());
        all.pop();
        assert!(observers.subscribe().is_some());
    }
}
