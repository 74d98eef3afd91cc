//! Seals epochs, in ascending order, in steps that each commit once.
//!
//! An epoch with pending entries is taken into the tree chunk by chunk, each in two halves: what it changes is worked
//! out (`prepare`), and then committed, alone or with a group of writes. The seal goes to the disk with the last
//! one. Epochs without any are one run of equal roots, whose end moves only when somebody wants to know it
//! ([`Engine::extend`]), or the next epoch with entries is sealed. A seal is signed only after its commit.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use lattice_core::clock::Clock;
use lattice_core::model::{Epoch, Hlc, KeyHash};
use lattice_core::seal::{RUNS_MAX, Root, Run};
use lattice_core::time::WallTime;
use lattice_core::tree::root_of;

use super::open::{before_epoch, each, put, take};
use super::pending::PENDING_BYTES_MAX;
use super::prepare::{Chunk, Place, Plan, Prepared};
use super::shared::{Stats, View};
use super::tree::Tree;
use super::{Begun, Engine, Error, Now, SealedRun, Step};
use crate::format::{keys, record};
use crate::storage::Batch;

/// The most entries, or expiries, that one commit takes into account.
pub(super) const CHUNK: usize = 1_024;
/// With more entries than this due, epochs are left out: of so many that follow each other one is sealed, and waited
/// for unless too much is due by then.
const MANY: usize = 4_096;
const EPOCHS_MIN: u64 = 4;
const WAIT_MAX: usize = 32_768;
/// From half of what may await sealing on, each of these lets writes wait for half a step, up to what lets no more come in
/// than is sealed, well before any is refused. Less is left to the shares that writing and sealing have: writes would wait
/// for a seal that is put off.
const PRESSING_BYTES: usize = PENDING_BYTES_MAX / 24;
const PRESSURE_MAX: usize = 8;
/// At most so many epochs become one seal.
const EPOCHS_MAX: u64 = 8;

/// A step of sealing on its way to the disk.
pub(super) struct Work {
    pub(super) batch: Batch,
    pub(super) state: record::State,
}

/// A seal on its way to the disk.
pub(super) struct Seal {
    sealed: SealedRun,
    /// It makes the newest run longer, or the oldest one be forgotten.
    extends: bool,
    forgets: bool,
    /// Where the clock goes on.
    high: Hlc,
}

/// What a chunk on its way to the disk comes to.
pub(super) enum Ending {
    /// Nothing: more has expired by then than one commit counts.
    Expired,
    /// A part of the epoch, up to a key hash.
    Chunk { up_to: Option<KeyHash> },
    /// All of it.
    Seal(Seal),
}

impl Engine {
    /// Does what is due, one commit's worth. To be called until it is [`Step::Idle`], and again at
    /// [`Engine::next_due`].
    ///
    /// # Errors
    /// When the disk fails, or the tree on it is damaged.
    pub fn seal_step(&mut self, now: Now) -> Result<Step, Error> {
        match self.begin_step(now)? {
            Begun::Done(step) => Ok(step),
            Begun::Planned(plan) => self.end_step(plan.prepare()),
        }
    }

    /// Begins such a step: does it, unless its costly part may be done elsewhere. Until that is handed to
    /// [`Engine::end_step`], no other is begun.
    ///
    /// # Errors
    /// Those of [`Engine::seal_step`].
    pub fn begin_step(&mut self, now: Now) -> Result<Begun, Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        self.observe(now);
        if self.look_into_suspicions(now)? == Step::Worked {
            return Ok(Begun::Done(Step::Worked));
        }
        let begun = self.begin_some(now);
        self.told(begun)
    }

    /// Ends a step with what was prepared for it. What is out of date by now is dropped, to be planned again.
    ///
    /// # Errors
    /// Those of [`Engine::seal_step`].
    pub fn end_step(&mut self, prepared: Prepared) -> Result<Step, Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        if !self.expects(&prepared) {
            return Ok(Step::Worked);
        }
        let step = self.seal_chunk(prepared);
        self.told(step)
    }

    /// Whether the tree is still the one that something was prepared for.
    pub(super) fn expects(&self, prepared: &Prepared) -> bool {
        let epoch = self.state.open_epoch().previous();
        let place = Place { generation: self.generation, epoch, after: self.sealing };
        prepared.place == place && self.rebuild.is_none()
    }

    /// Leaves word of damage that was met: the next step looks into it.
    pub(super) fn told<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &done {
            self.shared.suspect_error(error);
        }
        done
    }

    fn begin_some(&mut self, now: Now) -> Result<Begun, Error> {
        if self.rebuild.is_some() {
            return self.rebuild_step(now).map(Begun::Done);
        }
        let Some(time) = self.seal_clock.time(now) else { return self.release_held(now).map(Begun::Done) };
        if self.seals_ahead(time) {
            return self.rebuild_begin(time).map(Begun::Done);
        }
        if self.release_held(now)? == Step::Worked {
            return Ok(Begun::Done(Step::Worked));
        }
        let due = self.due(time);
        self.waits_for = None;
        let Some((first, due)) = self.first_pending().zip(due).filter(|(first, due)| first <= due) else {
            return self.clean(time).map(Begun::Done);
        };
        match self.sealed_next(due) {
            epoch if epoch <= due => self.plan(first, epoch, due),
            epoch => {
                self.waits_for = Some(epoch);
                self.clean(time).map(Begun::Done)
            }
        }
    }

    /// Does everything that is due. Returns the newest epoch sealed by it.
    ///
    /// # Errors
    /// Those of [`Engine::seal_step`].
    pub fn seal(&mut self, now: Now) -> Result<Option<Epoch>, Error> {
        let mut newest = None;
        loop {
            match self.seal_step(now)? {
                Step::Idle => return Ok(newest),
                Step::Worked => {}
                Step::Sealed(epoch) => newest = Some(epoch),
            }
        }
    }

    /// How many halves of steps are to be done before more is written, at most: the more, the nearer what awaits sealing
    /// is to where no more is taken. None while nothing of it is due.
    pub fn pressure(&self, now: Now) -> usize {
        let due = self.seal_clock.time(now).and_then(|time| self.due(time));
        let pending = self.shared.pending();
        if due.and_then(|due| pending.due(due)).is_none() {
            return 0;
        }
        (pending.bytes().saturating_sub(PENDING_BYTES_MAX / 2) / PRESSING_BYTES).min(PRESSURE_MAX)
    }

    /// Extends the newest run over idle time up to now, durably, so that its new end may be told. Nothing
    /// happens while entries are due to be sealed, or sealing is halted.
    ///
    /// # Errors
    /// Those of [`Engine::seal_step`].
    pub fn extend(&mut self, now: Now) -> Result<Step, Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        self.observe(now);
        let due = self.seal_clock.time(now).and_then(|time| {
            let ahead = self.rebuild.is_some() || self.seals_ahead(time);
            self.due(time).filter(|due| !ahead && *due >= self.state.next_epoch())
        });
        let Some(due) = due else { return Ok(Step::Idle) };
        if self.first_pending().is_some_and(|epoch| epoch <= due) {
            return Ok(Step::Idle);
        }
        self.extend_to(due)
    }

    /// The wall clock is right: sealing may go on by it.
    pub fn confirm_clock(&mut self, now: Now) {
        self.seal_clock.confirm(now);
        self.publish_stats();
    }

    /// When something will be due, if nothing comes in meanwhile.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next_due(&self) -> Result<Option<WallTime>, Error> {
        if self.rebuild.is_some() {
            return Ok(Some(WallTime(0)));
        }
        let length = self.settings().epoch_length;
        // What is halted is due at no time: whoever waits looks again, and sees the halt end.
        let pending = match self.seal_clock.is_halted() {
            true => None,
            false => self.waits_for.or(self.first_pending()),
        };
        let seal = pending.map(|epoch| length.end_of(epoch) + self.settle.current());
        let held = match self.held.entries {
            0 => None,
            _ => self.storage().first(&[keys::HELD], &[keys::HELD + 1])?,
        };
        let held = held.and_then(|(key, _)| keys::held_hlc(&key));
        let held = held.map(|hlc| hlc.wall() - self.settings().max_clock_drift);
        Ok(seal.into_iter().chain(held).chain(self.next_drop()?).min())
    }

    fn observe(&mut self, now: Now) {
        self.observed = now.monotonic;
        let (halted, settle) = (self.seal_clock.halted(), self.settle.current());
        self.seal_clock.observe(now);
        self.settle.tick(now.monotonic);
        if self.seal_clock.halted().is_some() != halted.is_some() || self.settle.current() != settle {
            self.publish_stats();
        }
    }

    /// Entries came so late after their epochs' ends: seal later from now on, within limits.
    pub fn note_lateness(&mut self, late: &[std::time::Duration], now: Now) {
        for late in late {
            self.settle.late(*late, now.monotonic);
        }
        if !late.is_empty() {
            self.publish_stats();
        }
    }

    /// Whether the newest seal lies further ahead than a clock may be wrong.
    fn seals_ahead(&self, time: WallTime) -> bool {
        let end = |sealed: &SealedRun| self.settings().epoch_length.end_of(sealed.run.to);
        self.runs.back().is_some_and(|newest| end(newest) > time + self.settings().max_clock_drift)
    }

    /// The newest epoch that may be sealed.
    pub(super) fn due(&self, time: WallTime) -> Option<Epoch> {
        let settled = time - self.settle.current();
        self.settings().epoch_length.epoch_of(settled).0.checked_sub(1).map(Epoch)
    }

    fn first_pending(&self) -> Option<Epoch> {
        self.shared.pending().first_epoch()
    }

    pub(super) fn work(&self) -> Work {
        Work { batch: Batch::default(), state: self.state.clone() }
    }

    /// Plans the next chunk of `epoch`. `first` is the first that any entries await, `due` the newest that may be
    /// sealed.
    fn plan(&mut self, first: Epoch, epoch: Epoch, due: Epoch) -> Result<Begun, Error> {
        if self.state.next_epoch() < first {
            return self.extend_to(first.previous()).map(Begun::Done);
        }
        let mut work = self.work();
        if !self.expire(&mut work, epoch)? {
            return self.commit_work(work).map(Begun::Done);
        }
        // From here on the epoch takes no more: what comes meanwhile is the next one's. On the disk with the next
        // commit, which is the first that could bring such an entry.
        self.state.open_epoch = epoch.next().0;
        let place = Place { generation: self.generation, epoch, after: self.sealing };
        let entries = self.shared.pending().due(due).map_or(0, |due| due.entries);
        Ok(Begun::Planned(Plan::new(Arc::clone(&self.shared), place, entries)))
    }

    /// Commits a chunk of what an epoch seals.
    fn seal_chunk(&mut self, prepared: Prepared) -> Result<Step, Error> {
        let mut work = self.work();
        let ending = self.stage_chunk(&mut work, prepared)?;
        self.commit_staged(work)?;
        Ok(self.conclude_chunk(ending))
    }

    /// Adds such a chunk to a commit, and the seal to that of the last.
    pub(super) fn stage_chunk(&self, work: &mut Work, prepared: Prepared) -> Result<Ending, Error> {
        let Prepared { place: Place { epoch, .. }, chunk } = prepared;
        let Chunk { taken, up_to, last } = chunk?;
        if !self.expire(work, epoch)? {
            return Ok(Ending::Expired);
        }
        let root = self.settle(work, taken)?;
        if !last {
            return Ok(Ending::Chunk { up_to });
        }
        // The root of the epochs before was never there, unless nothing changed since.
        let from = self.shared.pending().due(epoch).map_or(epoch, |due| due.last);
        self.remove_lists(&mut work.batch, epoch)?;
        Ok(Ending::Seal(self.stage_seal(work, from, epoch, root)))
    }

    /// A chunk is on the disk.
    pub(super) fn conclude_chunk(&mut self, ending: Ending) -> Step {
        match ending {
            Ending::Expired => Step::Worked,
            Ending::Chunk { up_to } => {
                self.sealing = up_to;
                Step::Worked
            }
            Ending::Seal(seal) => {
                let epoch = seal.sealed.run.to;
                self.conclude_seal(seal);
                self.sealing = None;
                let sealed = self.shared.pending_mut().take(epoch);
                drop(sealed);
                self.publish_stats();
                Step::Sealed(epoch)
            }
        }
    }

    /// The next epoch to seal, which is the first that something awaits, or a later one: a store that has much to seal
    /// leaves epochs out, since a bucket that changed in eight of them is then written once. It seals those that four
    /// or eight divide, so that others that have much to seal do the same ones, and waits for one that is not due yet.
    fn sealed_next(&self, due: Epoch) -> Epoch {
        let (next, open) = (self.state.next_epoch(), self.state.open_epoch());
        if next < open {
            // Part of it is in the tree.
            return open.previous();
        }
        let entries = self.shared.pending().due(due).map_or(0, |due| due.entries);
        let epochs = (due.0.saturating_sub(next.0) + 1).min(EPOCHS_MAX);
        if entries <= MANY {
            return next;
        }
        let step = if entries > WAIT_MAX { 1 << epochs.ilog2() } else { EPOCHS_MIN.max(1 << epochs.ilog2()) };
        let newest = Epoch(due.0 / step * step);
        if newest < next { Epoch(next.0.next_multiple_of(step)) } else { newest }
    }

    /// Deletes the lists of what awaited the epochs up to `epoch`.
    fn remove_lists(&self, batch: &mut Batch, epoch: Epoch) -> Result<(), Error> {
        let (from, to) = self.generation.until(keys::PENDING, epoch);
        each(self.storage(), &from, &to, |at, _| {
            batch.remove(Bytes::copy_from_slice(at));
            Ok(())
        })
    }

    /// States that the tree stood as it is up to `epoch`.
    fn extend_to(&mut self, epoch: Epoch) -> Result<Step, Error> {
        let mut work = self.work();
        if !self.expire(&mut work, epoch)? {
            return self.commit_work(work);
        }
        let root = self.root()?;
        let seal = self.stage_seal(&mut work, self.state.next_epoch(), epoch, root);
        self.commit_staged(work)?;
        self.conclude_seal(seal);
        Ok(Step::Worked)
    }

    /// The root of the tree as it is, outside of a seal under way.
    fn root(&self) -> Result<Option<Root>, Error> {
        let top = Tree::newest(self.storage(), self.generation).node(&lattice_core::tree::Position::ROOT)?;
        Ok(top.and_then(|(top, _)| root_of(&top.node.summary())))
    }

    /// Counts the sealed entries that expire by the end of `epoch`; false when there are more of them than one
    /// commit takes.
    fn expire(&self, work: &mut Work, epoch: Epoch) -> Result<bool, Error> {
        let end = self.settings().epoch_length.end_of(epoch);
        let (from, _) = self.generation.all(keys::EXPIRY);
        let to = self.generation.expiry(WallTime(end.millis().saturating_add(1)), &super::chunk::NO_HASH);
        let mut all = true;
        let mut passed = Vec::new();
        take(self.storage(), &from, &to, |at, _| {
            if passed.len() == CHUNK {
                all = false;
                return Ok(ControlFlow::Break(()));
            }
            passed.push(Bytes::copy_from_slice(at));
            Ok(ControlFlow::Continue(()))
        })?;
        work.state.expired += passed.len() as u64;
        let mark = match all {
            true => Some(&to[..]),
            false => passed.last().map(|last| &last[..]),
        };
        if let Some(mark) = mark {
            work.state.expired_mark = Bytes::copy_from_slice(super::chunk::without_generation(mark));
        }
        passed.into_iter().for_each(|at| work.batch.remove(at));
        Ok(all)
    }

    fn commit_work(&mut self, work: Work) -> Result<Step, Error> {
        self.commit_staged(work)?;
        self.publish_stats();
        Ok(Step::Worked)
    }

    /// Commits a step, and deletes some of what is out of reach with it.
    pub(super) fn commit_staged(&mut self, mut work: Work) -> Result<(), Error> {
        self.collect(&mut work)?;
        put(&mut work.batch, "state", &work.state);
        self.commit_batch(&mut work.batch)?;
        self.state = work.state;
        Ok(())
    }

    /// Adds a seal of everything up to `epoch` to a commit. The root is that of the epochs from `from`.
    fn stage_seal(&self, work: &mut Work, from: Epoch, epoch: Epoch, root: Option<Root>) -> Seal {
        let state_size = root.map_or(0, |root| root.entries.saturating_sub(work.state.expired));
        debug_assert!(self.state.next_epoch() <= from && from <= epoch, "an epoch is sealed once");
        let extends = self
            .runs
            .back()
            .map(|newest| newest.run)
            .filter(|newest| newest.to.next() == from && newest.root == root);
        let from = extends.map_or(from, |newest| newest.from);
        let sealed = SealedRun { run: Run { from, to: epoch, root }, state_size };
        let at = self.generation.seal(from);
        let framed = record::encode(&at, &record::SealRun::new(&sealed.run, state_size));
        work.batch.put(at, framed);
        let kept = RUNS_MAX.max(usize::try_from(self.settings().retain_epochs).unwrap_or(usize::MAX));
        let forgotten = (extends.is_none() && self.runs.len() >= kept).then(|| self.runs[0].run.from);
        if let Some(from) = forgotten {
            work.batch.remove(self.generation.seal(from));
        }

        work.state.next_epoch = epoch.next().0;
        work.state.open_epoch = work.state.next_epoch;
        // Nothing is stamped into a sealed epoch, also when the clock goes back a little.
        let last = self.clock.last().max(Hlc(work.state.clock));
        let high = before_epoch(epoch.next(), self.settings().epoch_length).max(last);
        work.state.clock = high.0;
        Seal { sealed, extends: extends.is_some(), forgets: forgotten.is_some(), high }
    }

    /// A seal is on the disk: it may be told.
    fn conclude_seal(&mut self, seal: Seal) {
        self.clock = Clock::new(self.settings().max_clock_drift, seal.high);
        if seal.extends {
            self.runs.pop_back();
        }
        if seal.forgets {
            self.runs.pop_front();
        }
        self.runs.push_back(seal.sealed);
        self.publish();
    }

    /// Publishes the seals. Signs the newest one: it is on the disk.
    pub(super) fn publish(&mut self) {
        let newest = self.runs.back().map(|sealed| sealed.run);
        let signed = newest.map(|run| self.shared.sign(self.incarnation, run.to, run.root));
        let retained = self.settings().retain_epochs.max(1) - 1;
        let horizon = newest.map_or(Epoch(0), |run| Epoch(run.to.0.saturating_sub(retained)));
        self.shared.publish(View {
            incarnation: self.incarnation,
            damage_generation: self.damage_generation,
            runs: self.runs.iter().copied().collect(),
            newest: signed,
            halted: self.seal_clock.halted().unwrap_or_default(),
            horizon,
            stats: self.stats(),
            generation: self.generation,
        });
    }

    /// Publishes how the store is, beside the seals as they were.
    pub(super) fn publish_stats(&self) {
        let view = View::clone(&self.shared.view());
        let halted = self.seal_clock.halted().unwrap_or_default();
        self.shared.publish(View { halted, stats: self.stats(), ..view });
    }

    fn stats(&self) -> Stats {
        let newest = self.runs.back().map(|sealed| sealed.run);
        let root = newest.and_then(|run| run.root);
        Stats {
            entries: root.map_or(0, |root| root.entries),
            tombstones: root.map_or(0, |root| root.tombstones),
            sealed_epoch: newest.map_or(0, |run| run.to.0),
            pending: self.shared.pending().entries(),
            held: self.held.entries,
            held_bytes: self.held.bytes,
            settle: self.settle.current(),
            halted: self.seal_clock.is_halted(),
            damaged: self.damaged,
            damage_overflow: self.overflow,
            recovering: self.recovering.is_some(),
            change: self.state.change,
        }
    }

    /// The view that was last published.
    pub fn view(&self) -> Arc<View> {
        self.shared.view()
    }
}
