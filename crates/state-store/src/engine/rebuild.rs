//! New incarnations, and the rebuilding of the tree under one.
//!
//! A store whose disk was rolled back signs as another from then on; its tree is as good as ever. One whose
//! seals ran ahead of time, or whose tree is damaged, needs another tree too: everything derived from the entries
//! begins anew in the next generation, as if all of them had just arrived, and the old generation is swept away.
//! Entries that are due go into the new tree at once, in the order of their keys; those ahead of it await their epochs.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::clock::Clock;
use lattice_core::model::{Epoch, Hlc, Incarnation, Key};
use lattice_core::time::WallTime;

use super::chunk::Taking;
use super::open::{put, take};
use super::pending::Added;
use super::records::parse_kept;
use super::sealing::{CHUNK, Work};
use super::{Engine, Error, Now, Step};
use crate::format::keys::{self, Generation};
use crate::format::record;
use crate::storage::Batch;

impl Engine {
    /// Starts a new incarnation in place of `replaced`; when another one is in place already, nothing happens.
    /// Returns the one that is in place now.
    ///
    /// The tree stays; seals of the old incarnation are forgotten, and the next one due is the first of the new.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn reincarnate(&mut self, replaced: Incarnation) -> Result<Incarnation, Error> {
        if replaced != self.incarnation {
            return Ok(self.incarnation);
        }
        let before = self.incarnation;
        self.incarnation = (self.incarnations)();
        let mut batch = Batch::default();
        put(&mut batch, "identity", &self.identity());
        for sealed in &self.runs {
            batch.remove(self.generation.seal(sealed.run.from));
        }
        if let Err(error) = self.commit_batch(&mut batch) {
            self.incarnation = before;
            return Err(error);
        }
        self.runs.clear();
        self.publish();
        Ok(self.incarnation)
    }

    /// Begins a new incarnation with a tree of its own, at `time`.
    pub(super) fn rebuild_begin(&mut self, time: WallTime) -> Result<Step, Error> {
        let rebuild = record::Rebuild::default();
        let next_epoch = self.due(time).map_or(Epoch(0), Epoch::next).0;
        let high =
            if self.clock.too_far_ahead(time, self.clock.last()) { Hlc::at(time) } else { self.clock.last() };
        let state = record::State {
            next_epoch,
            open_epoch: next_epoch,
            clock: high.0,
            commit: self.state.commit,
            change: self.state.change,
            change_from: self.state.change_from,
            change_bytes: self.state.change_bytes,
            ..record::State::default()
        };
        let before = (self.incarnation, self.generation);
        self.incarnation = (self.incarnations)();
        self.generation = Generation(self.generation.0 + 1);
        let mut batch = Batch::default();
        put(&mut batch, "identity", &self.identity());
        put(&mut batch, "state", &state);
        put(&mut batch, "rebuild", &rebuild);
        if let Err(error) = self.commit_batch(&mut batch) {
            (self.incarnation, self.generation) = before;
            return Err(error);
        }
        self.clock = Clock::new(self.settings().max_clock_drift, high);
        self.state = state;
        self.runs.clear();
        self.sealing = None;
        let waited = std::mem::take(&mut *self.shared.pending_mut());
        drop(waited);
        self.rebuild = Some(rebuild);
        self.sweep = true;
        self.publish();
        Ok(Step::Worked)
    }

    /// Takes some more entries into the tree that the first seal of this incarnation will be of.
    pub(super) fn rebuild_step(&mut self, now: Now) -> Result<Step, Error> {
        let Some(rebuild) = &self.rebuild else { return Ok(Step::Idle) };
        let mut from = vec![keys::CURRENT];
        from.extend_from_slice(&rebuild.done);
        if !rebuild.done.is_empty() {
            from.push(0);
        }
        let mut found = Vec::new();
        let mut broken = Vec::new();
        let mut done = None;
        take(self.storage(), &from, &[keys::CURRENT + 1], |at, framed| {
            let key = Bytes::copy_from_slice(&at[1..]);
            done = Some(key.clone());
            match parse_kept(at, framed) {
                Ok(kept) => found.push(kept),
                Err(damaged) => broken.push((key, damaged)),
            }
            let full = found.len() + broken.len() == CHUNK;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let epoch = self.state.next_epoch();
        let mut added = Added::default();
        let mut due = Vec::new();
        for kept in found {
            let head = kept.head();
            let sealed_in = self.sealing_epoch(&head);
            // Written since the rebuild began: it waits already.
            if self.shared.pending().get(sealed_in, &head.key_hash).is_some() {
                continue;
            }
            if sealed_in == epoch {
                due.push((epoch, (kept.entry.key, head)));
            } else {
                added.insert(sealed_in, &kept.entry.key, &head);
            }
        }
        let mut work = self.work();
        self.note_unreadable(&mut work.batch, &broken, now)?;
        if !due.is_empty() {
            let taking = Taking { storage: self.storage(), generation: self.generation, epoch };
            let taken = taking.take(due)?;
            self.settle(&mut work, taken)?;
        }
        let Work { mut batch, state } = work;
        added.write(&mut batch, self.generation, self.commits + 1);
        let rebuild = done.map(|key| record::Rebuild { done: key });
        match &rebuild {
            Some(rebuild) => put(&mut batch, "rebuild", rebuild),
            None => batch.remove(keys::meta("rebuild")),
        }
        put(&mut batch, "state", &state);
        self.commit_batch(&mut batch)?;
        self.state = state;
        self.rebuild = rebuild;
        self.let_wait(added);
        self.publish_stats();
        Ok(Step::Worked)
    }

    /// Whether a rebuild is under way that has not come to a key yet: its current entry is in no tree.
    pub(super) fn uncollected(&self, key: &Key) -> bool {
        let ahead = |done: &Bytes| done.is_empty() || key.as_bytes() > &done[..];
        self.rebuild.as_ref().is_some_and(|rebuild| ahead(&rebuild.done))
    }

    /// Reserves announcement sequence numbers, durably: none of them is ever handed out again. Returns the
    /// first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn reserve_sequence(&mut self, count: u32) -> Result<u64, Error> {
        let records = super::records::Records::of(self.storage());
        let first =
            records.get::<record::Sequence>(&keys::meta("sequence"))?.map_or(1, |sequence| sequence.next);
        let mut batch = Batch::default();
        put(&mut batch, "sequence", &record::Sequence { next: first + u64::from(count) });
        self.commit_batch(&mut batch)?;
        Ok(first)
    }
}
