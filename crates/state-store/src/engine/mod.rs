//! The store without threads, sockets or clocks: entries, the tree over them, its seals, and answers to peers.
//!
//! An [`Engine`] is the one writer; it hands out [`Reader`]s, which read the disk directly and never wait for
//! it. Every method takes the time. The same engine therefore runs in a node on sled, and by the hundred in a
//! simulation in memory.
//!
//! How an entry lives: a write replaces the key's *current* record, and its head is *pending* for its epoch.
//! What it replaced stays as an *older* record while the sealed tree, or the sealing of an earlier epoch, still
//! needs it. A seal takes the pending entries of one epoch into the tree, in chunks that are committed one by
//! one, so that no seal holds up writes for long; the last chunk carries the seal itself and the next epoch. What arrives in
//! between waits for the epoch after, so that a seal has an end also while much arrives late.
//! Of the tree, the newest is kept, and beside it by epoch what was changed in it: a retained seal is read backwards
//! from there. What no retained seal needs any more is deleted with the seals that follow, a range of epochs.
//!
//! - `write`, `merge`: what clients write, what peers bring; `held`: what is ahead of time; `group`: commits.
//! - `pending`: what awaits sealing; `older`: what was replaced, and is needed still.
//! - `changes`: the order of commits, for those who watch.
//! - `expiry`: gives back the space of values that expired.
//! - `sealing`, `chunk`, `garbage`, `rebuild`: the tree and its seals; `prepare`: the part of it that runs beside the
//!   writer; `clock`, `settle`: when.
//! - `read`, `serve`, `prove`, `sealed`, `export`: the readers; `shared`: what they share with the writer.
//! - `damage`, `inquiry`, `repair`, `recovery`, `check`, `salvage`: what on the disk is not as it was written, and
//!   what becomes of it.
//! - `records`, `tree`: the disk by meaning.

mod changes;
mod check;
mod chunk;
mod clock;
mod damage;
mod expiry;
mod export;
mod garbage;
mod group;
mod heard;
mod held;
mod inquiry;
mod merge;
mod older;
mod open;
mod pending;
mod prepare;
mod prove;
mod read;
mod rebuild;
mod records;
mod recovery;
mod repair;
mod salvage;
mod sealed;
mod sealing;
mod serve;
mod settle;
mod shared;
mod tree;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::clock::Clock;
use lattice_core::model::{Epoch, EpochLength, Incarnation, Key, KeyHash};
use lattice_core::seal::Run;
use lattice_core::time::{Monotonic, WallTime};

use crate::format::Damaged;
use crate::format::keys::Generation;
use crate::format::record;
use crate::storage;

pub use changes::{Change, Changes, ChangesError, NOTED_BYTES, NOTED_CHANGES, Watching};
pub use check::{Check, Read};
pub use damage::{DAMAGED_MAX, DamagedEntry, Finding, FindingKind};
pub use group::{Committed, Group, Savepoint};
pub use merge::{Merged, Origin};
pub use open::OpenError;
pub use prepare::{Plan, Prepared, Sealer};
pub use prove::{ProveError, Proved};
pub use read::{Comparison, Listed, OwnNodes, Page};
pub(crate) use salvage::{Lost, stored};
pub use sealed::SealedEntries;
pub use serve::Question;
pub use shared::{Reader, Stats, View};
pub use write::{Condition, MAX_OPERATIONS, Op, WriteError, Written};

use clock::SealClock;
use held::Held;
use settle::Settle;
use shared::Shared;

/// What time it is, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For versions and epochs.
    pub wall: WallTime,
    /// To notice when the wall clock steps.
    pub monotonic: Monotonic,
}

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster, part of everything signed.
    pub cluster: String,
    /// How long an epoch is; fixed with the first opening.
    pub epoch_length: EpochLength,
    /// How long after its end an epoch is sealed.
    pub settle: Duration,
    /// How long that may become when entries arrive late.
    pub settle_max: Duration,
    /// For how many epochs sealed trees are kept.
    pub retain_epochs: u64,
    /// How far ahead a received version may be.
    pub max_clock_drift: Duration,
    /// How long a wall clock that stepped must stand before sealing goes on by it.
    pub confirm_after: Duration,
}

/// Makes the names of new incarnations: random ones, or repeatable ones in a simulation.
pub type Incarnations = Box<dyn FnMut() -> Incarnation + Send>;

/// What goes wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed. After a commit that did, the engine takes no more writes.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A record is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A key's entry is damaged. What a client reads of it would be wrong, and so would be an absence.
    #[error("key \"{}\": its entry is damaged here, and waits for repair by a peer or for a newer write", key.as_bytes().escape_ascii())]
    Entry {
        /// The key.
        key: Key,
    },
    /// So many entries are damaged that they are no longer known one by one.
    #[error("more than {} entries are damaged here: the store as a whole is suspect", damage::DAMAGED_MAX)]
    Suspect,
    /// The store lost entries, and cannot tell what it lacks from what never was.
    #[error("recovering: the store lost entries, and waits for its peers to fill it again")]
    Recovering,
    /// So much awaits sealing that no more is taken.
    #[error(
        "busy: {entries} entries await sealing, and more are taken once some of them are sealed: try again"
    )]
    Busy {
        /// How many.
        entries: u64,
    },
    /// The store began a new incarnation, and what was being read is no more.
    #[error("the store began a new incarnation meanwhile")]
    Gone,
    /// A commit failed before.
    #[error("the store has failed: a commit did not reach the disk")]
    Failed,
}

/// What a step of sealing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is due.
    Idle,
    /// A part of the work was committed; there may be more.
    Worked,
    /// An epoch was sealed.
    Sealed(Epoch),
}

/// How a step of sealing begins.
#[derive(Debug)]
pub enum Begun {
    /// It is done.
    Done(Step),
    /// Its costly part is to be done, here or elsewhere ([`Plan::prepare`], [`Sealer`]), and handed to
    /// [`Engine::end_step`].
    Planned(Plan),
}

/// A run of seals, and how many of its entries had not expired at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRun {
    /// The run.
    pub run: Run,
    /// Of the root's entries, those that had not expired at the end of the run's last epoch.
    pub state_size: u64,
}

/// The one writer of a store.
pub struct Engine {
    shared: Arc<Shared>,
    state: record::State,
    clock: Clock,
    seal_clock: SealClock,
    settle: Settle,
    incarnation: Incarnation,
    generation: Generation,
    damage_generation: u64,
    runs: VecDeque<SealedRun>,
    /// Of the epoch that is being sealed, the last key hash that is in the tree.
    sealing: Option<KeyHash>,
    /// The epoch that is sealed next, when much is due and that is not.
    waits_for: Option<Epoch>,
    held: Held,
    rebuild: Option<record::Rebuild>,
    /// Records of earlier generations are left.
    sweep: bool,
    incarnations: Incarnations,
    /// Keys noted as damaged; and whether there are more than are noted.
    damaged: u64,
    overflow: bool,
    recovering: Option<record::Recovering>,
    /// What was found, and not yet told.
    findings: Vec<Finding>,
    /// When the tree was last rebuilt for damage.
    rebuilt: Option<Monotonic>,
    /// The number of the last commit.
    commits: u64,
    /// When the clocks were last looked at.
    observed: Monotonic,
    /// Peers say that our clock is wrong: nothing expires by it.
    clock_wrong: bool,
    failed: bool,
}

impl Engine {
    /// A reader; readers outlive the engine, and see what it has committed.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Whether a commit failed: nothing is written any more, since nobody knows what is on the disk.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// The epoch in which an entry is sealed: its own, or the next one that takes any.
    fn effective(&self, own: Epoch) -> Epoch {
        own.max(self.state.open_epoch())
    }

    fn storage(&self) -> &dyn storage::Storage {
        &*self.shared.storage
    }

    fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

#[cfg(test)]
pub(crate) mod tests;
