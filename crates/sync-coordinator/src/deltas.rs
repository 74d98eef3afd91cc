//! Deltas on both ways: our clients' writes out to the other nodes, theirs into our store.
//!
//! Gossip is a hint, and only a pull heals. So both ways have a queue that is bounded by count and by bytes; what
//! does not fit is dropped and counted, and nobody upstream ever waits. Writes that wait together travel
//! together, and deltas leave one by one with a pause: a burst of small commits becomes a few batches, and a burst
//! of large values does not overrun the sensor's short queues.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{Entry, NodeId};
use lattice_proto::codec::{self, DELTA_ENTRIES_MAX};
use lattice_proto::convert::Invalid;
use lattice_proto::store as store_proto;
use lattice_runtime::{TaskGroup, trace};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{Instrument as _, Span, debug, info_span, warn};

use crate::metrics::{Delta, Metrics};
use crate::shell::{Hands, spawn};
use crate::streams::reason;

/// Local writes that wait to be broadcast, and their bytes.
const WRITES_MAX: usize = 32 << 10;
const WRITES_BYTES_MAX: usize = 32 << 20;
/// Deltas of peers that wait to be merged, and their bytes.
const HEARD_MAX: usize = 1_024;
const HEARD_BYTES_MAX: usize = 32 << 20;
/// Deltas that are merged at once: the store commits them together.
const MERGING_MAX: usize = 4;
/// Between two deltas: 200 a second are 50 MB/s of batches, or 200 MB/s of the largest values.
const PAUSE: Duration = Duration::from_millis(5);

/// Carries deltas; clones share everything.
#[derive(Clone)]
pub(crate) struct Deltas {
    hands: Arc<Hands>,
    cluster: String,
    metrics: Metrics,
    tasks: TaskGroup,
    writes: Queue<Write>,
    heard: Queue<(NodeId, Bytes)>,
}

/// A local write, and the trace that it belongs to.
struct Write {
    entry: Entry,
    traceparent: Arc<str>,
}

/// Something that waits, and its place.
struct Placed<T> {
    item: T,
    place: OwnedSemaphorePermit,
}

/// A queue with a bound of items and one of bytes.
struct Queue<T> {
    items: mpsc::Sender<Placed<T>>,
    room: Arc<Semaphore>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), room: Arc::clone(&self.room) }
    }
}

impl<T> Queue<T> {
    fn new(items_max: usize, bytes_max: usize) -> (Self, mpsc::Receiver<Placed<T>>) {
        let (items, waiting) = mpsc::channel(items_max);
        (Self { items, room: Arc::new(Semaphore::new(bytes_max)) }, waiting)
    }

    /// Whether there was room for an item of so many bytes.
    fn put(&self, item: T, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(place) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
        self.items.try_send(Placed { item, place }).is_ok()
    }
}

impl Deltas {
    /// Carries from now on what it is told of.
    pub(crate) fn start(hands: Arc<Hands>, cluster: String, metrics: Metrics, tasks: TaskGroup) -> Self {
        let (writes, waiting_writes) = Queue::new(WRITES_MAX, WRITES_BYTES_MAX);
        let (heard, waiting_heard) = Queue::new(HEARD_MAX, HEARD_BYTES_MAX);
        let deltas = Self { hands, cluster, metrics, tasks, writes, heard };
        let (outbound, ended) = (deltas.clone(), deltas.tasks.token());
        deltas.tasks.spawn_essential("broadcast deltas", async move {
            ended.run_until_cancelled(outbound.broadcast_writes(waiting_writes)).await;
            Ok(())
        });
        let (inbound, ended) = (deltas.clone(), deltas.tasks.token());
        deltas.tasks.spawn_essential("merge deltas", async move {
            ended.run_until_cancelled(inbound.merge_heard(waiting_heard)).await;
            Ok(())
        });
        deltas
    }

    /// Clients of this node wrote.
    pub(crate) fn written(&self, writes: store_proto::v1::LocalWrites) {
        let mut left_out = writes.missed;
        let traceparent: Arc<str> = writes.traceparent.into();
        let entries: Result<Vec<Entry>, Invalid> = writes.entries.into_iter().map(Entry::try_from).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "the store tells of writes what cannot be");
                return;
            }
        };
        for entry in entries {
            let bytes = codec::entry_bytes(&entry);
            if !self.writes.put(Write { entry, traceparent: Arc::clone(&traceparent) }, bytes) {
                left_out += 1;
            }
        }
        if left_out > 0 {
            self.metrics.delta(Delta::NotSent);
            debug!(writes = left_out, "local writes came too fast to be broadcast: pulls will bring them");
        }
    }

    /// A peer's delta was heard.
    pub(crate) fn heard(&self, writer: NodeId, bytes: Bytes) {
        let size = bytes.len();
        if !self.heard.put((writer, bytes), size) {
            self.metrics.delta(Delta::Dropped);
            debug!(peer = %writer, "too many deltas are waiting: one is dropped");
        }
    }

    async fn broadcast_writes(&self, mut waiting: mpsc::Receiver<Placed<Write>>) {
        let mut writes = Vec::new();
        while waiting.recv_many(&mut writes, DELTA_ENTRIES_MAX).await > 0 {
            let traceparent =
                writes.first().map_or_else(Arc::default, |first| Arc::clone(&first.item.traceparent));
            // Their places are given back when all of them are sent.
            let (entries, _places): (Vec<Entry>, Vec<OwnedSemaphorePermit>) =
                writes.drain(..).map(|Placed { item, place }| (item.entry, place)).unzip();
            let span = info_span!("delta.broadcast", entries = entries.len());
            trace::set_parent(&span, &traceparent);
            self.broadcast(&entries, &traceparent).instrument(span).await;
        }
    }

    async fn broadcast(&self, entries: &[Entry], traceparent: &str) {
        for delta in codec::split_deltas(&self.cluster, entries, traceparent) {
            match self.hands.sensor.broadcast(delta).await {
                Ok(true) => self.metrics.delta(Delta::Sent),
                Ok(false) => self.metrics.delta(Delta::NotSent),
                Err(status) => {
                    self.metrics.delta(Delta::NotSent);
                    debug!(reason = reason(&status), "cannot broadcast: pulls will bring it");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn merge_heard(&self, mut waiting: mpsc::Receiver<Placed<(NodeId, Bytes)>>) {
        let merging = Arc::new(Semaphore::new(MERGING_MAX));
        while let Some(Placed { item: (writer, bytes), place }) = waiting.recv().await {
            let Ok(permit) = merging.clone().acquire_owned().await else { return };
            let deltas = self.clone();
            spawn(&self.tasks, "merge delta", Span::current(), async move {
                deltas.merge(writer, bytes).await;
                drop((permit, place));
            });
        }
    }

    async fn merge(&self, writer: NodeId, bytes: Bytes) {
        if !self.hands.trust.keys().contains(&writer) {
            self.metrics.delta(Delta::Refused);
            debug!(peer = %writer, "delta of a key that is not trusted");
            return;
        }
        let delta = match codec::decode_delta(bytes, &writer, &self.cluster) {
            Ok(delta) => delta,
            Err(error) => {
                self.metrics.delta(Delta::Refused);
                warn!(%error, peer = %writer, "delta refused");
                return;
            }
        };
        let span = info_span!("delta.merge", peer = %writer, entries = delta.entries.len());
        trace::set_parent(&span, &delta.traceparent);
        let merge = self.hands.store.merge(&delta.entries, store_proto::v1::Origin::Delta);
        match merge.instrument(span).await {
            Ok(_) => self.metrics.delta(Delta::Merged),
            Err(error) => {
                self.metrics.delta(Delta::Dropped);
                debug!(%error, peer = %writer, "cannot merge a delta: a pull will bring it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_bytes_and_by_count() {
        let (queue, mut waiting) = Queue::new(4, 100);
        assert!(queue.put('a', 60) && !queue.put('b', 50) && queue.put('c', 40));
        assert_eq!(waiting.try_recv().unwrap().item, 'a');
        assert!(queue.put('d', 60), "what was taken made room");
        assert_eq!([waiting.try_recv().unwrap().item, waiting.try_recv().unwrap().item], ['c', 'd']);
        assert_eq!((0..5).map(|n| queue.put('e', n)).collect::<Vec<_>>(), [true, true, true, true, false]);
    }
}
