//! Deletes what no retained tree needs any more, a bounded amount with each seal.
//!
//! Whatever a seal leaves behind is listed under its epoch: it stays until the trees before that epoch are out
//! of reach. The reach is the one that was published *before*: a reader that began under an older view notices
//! on finishing that its seal is gone.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::{Digest, Epoch};
use lattice_core::time::WallTime;

use super::open::{put, take};
use super::records::{Records, parse_kept};
use super::repair::remove_entry;
use super::sealing::{CHUNK, Work};
use super::{Engine, Error, Step};
use crate::format::{keys, record};
use crate::storage::Batch;

/// How many records a list of garbage names.
const LIST: usize = 512;
/// How many lists are deleted with one commit: more than one chunk adds, so that they never pile up.
const LISTS: usize = 16;

impl Engine {
    /// Lists what the step at hand leaves without use, under the epoch that is being sealed.
    pub(super) fn write_garbage(&self, work: &mut Work) {
        let epoch = self.state.next_epoch();
        let record::Garbage { nodes, entries } = std::mem::take(&mut work.garbage);
        let lists =
            nodes.chunks(LIST).map(|nodes| record::Garbage { nodes: nodes.to_vec(), entries: Vec::new() });
        let lists = lists.chain(
            entries
                .chunks(LIST)
                .map(|entries| record::Garbage { nodes: Vec::new(), entries: entries.to_vec() }),
        );
        for list in lists {
            let at = self.generation.garbage(epoch, work.state.garbage_index);
            work.state.garbage_index = work.state.garbage_index.wrapping_add(1);
            let framed = record::encode(&at, &list);
            work.batch.put(at, framed);
        }
    }

    /// Deletes what is out of reach by now.
    pub(super) fn collect(&self, work: &mut Work) -> Result<(), Error> {
        for (at, list) in self.unreachable(LISTS)? {
            for node in list.nodes {
                work.batch.remove(node);
            }
            for entry in list.entries {
                let Ok(digest) = Digest::try_from(entry.as_ref()) else { continue };
                remove_entry(self.storage(), &mut work.batch, self.generation.older(&digest), &digest)?;
            }
            work.batch.remove(at);
        }
        Ok(())
    }

    fn unreachable(&self, max: usize) -> Result<Vec<(Bytes, record::Garbage)>, Error> {
        let horizon = self.shared.view().horizon;
        let reach = self.shared.pinned(self.observed).map_or(horizon, |pinned| pinned.min(horizon));
        let (from, _) = self.generation.all(keys::GARBAGE);
        let to = self.generation.garbage(Epoch(reach.0.saturating_add(1)), 0);
        let mut lists = Vec::new();
        take(self.storage(), &from, &to, |at, framed| {
            if lists.len() == max {
                return Ok(ControlFlow::Break(()));
            }
            // What a damaged list names stays on the disk for good: a waste of room, and no loss.
            let list = record::decode(at, &framed).unwrap_or_default();
            lists.push((Bytes::copy_from_slice(at), list));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(lists)
    }

    /// Cleans up while nothing else is to be done, at `time` by the clock that sealing follows.
    pub(super) fn clean(&mut self, time: WallTime) -> Result<Step, Error> {
        if self.sweep {
            return self.sweep_step();
        }
        if self.unreachable(1)?.is_empty() {
            return self.drop_expired(time);
        }
        let mut work = self.work();
        self.collect(&mut work)?;
        put(&mut work.batch, "state", &work.state);
        self.commit_batch(&mut work.batch)?;
        Ok(Step::Worked)
    }

    /// Deletes some records of earlier generations.
    fn sweep_step(&mut self) -> Result<Step, Error> {
        let mut batch = Batch::default();
        for tag in keys::DERIVED {
            let (from, to) = self.generation.before(tag);
            let mut found = Vec::new();
            take(self.storage(), &from, &to, |at, framed| {
                found.push((at.to_vec(), framed));
                let full = found.len() == CHUNK;
                Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            for (at, framed) in found {
                if tag == keys::OLDER {
                    self.sweep_value(&mut batch, &at, framed)?;
                }
                batch.remove(at);
            }
            if !batch.is_empty() {
                break;
            }
        }
        if batch.is_empty() {
            self.sweep = false;
            return Ok(Step::Worked);
        }
        self.commit_batch(&mut batch)?;
        Ok(Step::Worked)
    }

    /// Removes the value of an older entry, unless the same entry is in use today.
    fn sweep_value(&self, batch: &mut Batch, at: &[u8], framed: Bytes) -> Result<(), Error> {
        let Ok(kept) = parse_kept(at, framed) else { return Ok(()) };
        let head = kept.head();
        let records = Records::of(self.storage());
        let older = records.has(&self.generation.older(&head.digest()))?;
        // A damaged current entry may be this one.
        let current = records.current(&kept.entry.key);
        let current =
            current.is_err() || current.is_ok_and(|kept| kept.is_some_and(|kept| kept.head() == head));
        if !older && !current {
            kept.remove_value(batch);
        }
        Ok(())
    }
}
