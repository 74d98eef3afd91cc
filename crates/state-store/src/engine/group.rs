//! Groups of changes that are committed together: the cost of one flush is shared by all that wait for it.
//!
//! What is staged into a group is seen by what is staged after it, and by nobody else until the commit.

use std::time::Duration;

use lattice_core::clock::Clock;
use lattice_core::model::Entry;

use super::held::Held;
use super::pending::Added;
use super::prepare::Prepared;
use super::records::Records;
use super::sealing::Work;
use super::{Engine, Error, Step};
use crate::format::record;
use crate::storage::Batch;

/// Changes on their way to the disk.
pub struct Group {
    pub(super) batch: Batch,
    pub(super) state: record::State,
    pub(super) clock: Clock,
    pub(super) held: Held,
    pub(super) pending: Added,
    /// Keys noted as damaged.
    pub(super) damaged: u64,
    /// What reads will see of it, in order.
    pub(super) changed: Vec<Entry>,
    pub(super) committed: Committed,
}

/// What a commit brought.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// What local clients wrote, in order.
    pub local: Vec<Entry>,
    /// How long after their epoch's end entries came whose epoch was sealed already.
    pub late: Vec<Duration>,
    /// Entries that were dropped, being too far ahead of the clock with no room to hold them.
    pub dropped: u64,
    /// Equal versions with different content, which only a cloned disk or key makes.
    pub conflicts: u64,
}

/// How a group was before something was staged into it.
pub struct Savepoint {
    state: record::State,
    clock: Clock,
    held: Held,
    damaged: u64,
    changed: usize,
    local: usize,
    late: usize,
    dropped: u64,
    conflicts: u64,
}

impl Group {
    /// Notes how the group is now: what is staged next can be taken back with [`Group::roll_back`].
    pub fn savepoint(&mut self) -> Savepoint {
        self.batch.savepoint();
        self.pending.savepoint();
        let Committed { local, late, dropped, conflicts } = &self.committed;
        Savepoint {
            state: self.state.clone(),
            clock: self.clock.clone(),
            held: self.held,
            damaged: self.damaged,
            changed: self.changed.len(),
            local: local.len(),
            late: late.len(),
            dropped: *dropped,
            conflicts: *conflicts,
        }
    }

    /// Takes back what was staged since the newest savepoint, which is `to`.
    pub fn roll_back(&mut self, to: Savepoint) {
        self.batch.roll_back();
        self.pending.roll_back();
        (self.state, self.clock, self.held, self.damaged) = (to.state, to.clock, to.held, to.damaged);
        self.changed.truncate(to.changed);
        self.committed.local.truncate(to.local);
        self.committed.late.truncate(to.late);
        (self.committed.dropped, self.committed.conflicts) = (to.dropped, to.conflicts);
    }

    /// Bytes on their way to the disk.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Whether there is anything to commit.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

impl Engine {
    /// Begins a group.
    ///
    /// # Errors
    /// [`Error::Failed`] once a commit has failed.
    pub fn begin(&self) -> Result<Group, Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        Ok(Group {
            batch: Batch::default(),
            state: self.state.clone(),
            clock: self.clock.clone(),
            held: self.held,
            pending: Added::default(),
            damaged: self.damaged,
            changed: Vec::new(),
            committed: Committed::default(),
        })
    }

    /// Commits a group: when this returns, all of it would survive a loss of power.
    ///
    /// # Errors
    /// When the disk fails: then nothing in the group is acknowledged, and the engine writes nothing more.
    pub fn commit(&mut self, mut group: Group) -> Result<Committed, Error> {
        if group.batch.is_empty() {
            return Ok(group.committed);
        }
        self.complete(&mut group)?;
        super::open::put(&mut group.batch, "state", &group.state);
        self.commit_batch(&mut group.batch)?;
        self.state = group.state.clone();
        Ok(self.conclude(group))
    }

    /// Commits a group, and what was prepared for a seal with it where that can be: one flush for both. The second
    /// result is that of [`Engine::end_step`].
    pub fn commit_sealing(
        &mut self,
        mut group: Group,
        prepared: Prepared,
    ) -> (Result<Committed, Error>, Result<Step, Error>) {
        if group.is_empty() || !self.expects(&prepared) || !prepared.stands_alone() {
            return (self.commit(group), self.end_step(prepared));
        }
        if let Err(error) = self.complete(&mut group) {
            return (Err(error), Ok(Step::Worked));
        }
        let mut work = Work { batch: std::mem::take(&mut group.batch), state: group.state.clone() };
        work.batch.savepoint();
        let ending = self.stage_chunk(&mut work, prepared);
        if ending.is_err() {
            work.batch.roll_back();
            work.state = group.state.clone();
        }
        if let Err(error) = self.commit_staged(work) {
            return (Err(error), Err(Error::Failed));
        }
        let committed = self.conclude(group);
        let step = ending.map(|ending| self.conclude_chunk(ending));
        (Ok(committed), self.told(step))
    }

    /// Writes down what a group as a whole needs noted.
    fn complete(&self, group: &mut Group) -> Result<(), Error> {
        self.note_changes(group)?;
        group.pending.write(&mut group.batch, self.generation, self.commits + 1);
        group.state.commit += 1;
        group.state.clock = group.clock.last().0;
        Ok(())
    }

    /// A group is on the disk.
    fn conclude(&mut self, group: Group) -> Committed {
        self.clock = group.clock;
        self.held = group.held;
        self.damaged = group.damaged;
        self.let_wait(group.pending);
        self.tell_changes(&group.changed);
        self.publish_stats();
        group.committed
    }

    /// The one way to the disk. Commits are numbered, so that a database which lost some shows it.
    pub(super) fn commit_batch(&mut self, batch: &mut Batch) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        super::open::put(batch, "commit", &record::Commit { number: self.commits + 1 });
        if let Err(error) = self.shared.storage.commit(batch) {
            self.failed = true;
            return Err(error.into());
        }
        self.commits += 1;
        Ok(())
    }

    /// The records as a group will leave them.
    pub(super) fn records<'a>(&'a self, group: &'a Group) -> Records<'a> {
        Records::with(self.storage(), &group.batch)
    }
}
