//! Deletes what no retained tree needs any more, a bounded amount with each step of sealing.
//!
//! What an epoch replaced (entries, and nodes of the tree) stands under that epoch until the trees before it are out
//! of reach. The reach is the one that was published *before*: a reader that began under an older view notices on
//! finishing that its seal is gone.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::Epoch;
use lattice_core::time::WallTime;

use super::older;
use super::open::{put, take};
use super::prepare::CHUNK_MIN;
use super::records::{Records, parse_kept};
use super::sealing::{CHUNK, Work};
use super::{Engine, Error, Step};
use crate::format::keys;
use crate::storage::Batch;

/// How many records are deleted with one commit, or as many as it writes, if those are more: so that they never pile
/// up. No more than that, since writes wait meanwhile.
const RECORDS: usize = 4 * CHUNK_MIN;

impl Engine {
    /// Deletes what is out of reach by now.
    pub(super) fn collect(&self, work: &mut Work) -> Result<(), Error> {
        for (at, framed) in self.unreachable(RECORDS.max(work.batch.len()))? {
            if at.first() == Some(&keys::OLDER)
                && let Ok(kept) = parse_kept(&at, framed)
            {
                // Of what does not read, pieces may stay behind: a waste of room, and no loss.
                kept.remove_value(&mut work.batch);
            }
            work.batch.remove(at);
        }
        Ok(())
    }

    fn unreachable(&self, max: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let horizon = self.shared.view().horizon;
        let reach = self.shared.pinned(self.observed).map_or(horizon, |pinned| pinned.min(horizon));
        let mut records = Vec::new();
        for tag in [keys::OLDER, keys::HISTORY] {
            let (from, to) = self.generation.until(tag, reach);
            take(self.storage(), &from, &to, |at, framed| {
                if records.len() == max {
                    return Ok(ControlFlow::Break(()));
                }
                records.push((Bytes::copy_from_slice(at), framed));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(records)
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
        let older = older::find(&records, self.storage(), self.generation, Epoch(0), &head)?.is_some();
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
