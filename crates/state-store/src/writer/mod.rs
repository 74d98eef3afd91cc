//! The one writer: a thread that owns the engine, commits changes in groups, and seals between them.
//!
//! Whoever wants something changed leaves a command and waits. The writer takes what is there, stages it,
//! commits once, and only then tells those who waited. A commit that fails is told to all of them; nothing is
//! written after it. While the disk is nearly full (`space`), writes are refused instead, and sealing waits.

mod run;
mod shares;
mod space;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use lattice_core::model::{Entry, Epoch, Incarnation, NodeId};
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::convert::Seals;
use lattice_proto::reason;
use lattice_runtime::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot, watch};
use tonic::Status;

use crate::checking::Checking;
use crate::engine::{Engine, Error, Merged, Now, Op, Origin, Written};
use crate::metrics::Metrics;
use crate::verdict::Verdict;

pub(crate) use run::Idle;
pub(crate) use space::{RESERVE_BYTES, Space};

/// The most commands that wait.
const QUEUE_MAX: usize = 1_024;
/// The most bytes of keys and values that wait, in KiB.
const QUEUE_KIB_MAX: usize = 64 << 10;
/// Messages of local writes that a slow reader may fall behind.
const LOCAL_MESSAGES: usize = 64;

/// Local writes, as they were committed.
#[derive(Debug)]
pub(crate) struct LocalWrites {
    /// How many were committed before the first of them.
    pub(crate) before: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) traceparent: String,
}

type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// What the writer is asked for.
enum Command {
    Write {
        ops: Vec<Op>,
        traceparent: Option<String>,
        reply: Reply<Vec<Written>>,
    },
    Merge {
        entries: Vec<Entry>,
        origin: Origin,
        reply: Reply<Merged>,
    },
    Extend {
        reply: Reply<()>,
    },
    Reserve {
        count: u32,
        reply: Reply<(u64, Incarnation)>,
    },
    Heard {
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
        reply: Reply<Option<Incarnation>>,
    },
    Reincarnate {
        replaced: Incarnation,
        reply: Reply<Incarnation>,
    },
    ConfirmClock {
        reply: Reply<()>,
    },
    Recovered {
        incarnation: Incarnation,
        reply: Reply<()>,
    },
    /// Something was prepared for the next seal.
    Prepared,
    Stop,
}

impl Command {
    /// Whether it is committed in a group, which may take along what was prepared for a seal.
    fn joins(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Merge { .. })
    }
}

/// A command, and its share of the queue.
struct Queued {
    command: Command,
    _place: Option<Place>,
}

/// A place in the queue; given back when the command was handled, whoever still waits for it.
struct Place {
    metrics: Metrics,
    _room: OwnedSemaphorePermit,
}

impl Place {
    fn new(metrics: &Metrics, room: OwnedSemaphorePermit) -> Self {
        metrics.queued(1);
        Self { metrics: metrics.clone(), _room: room }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.queued(-1);
    }
}

/// Leaves commands for the writer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: Arc<SyncSender<Queued>>,
    room: Arc<Semaphore>,
    clock: Clock,
    metrics: Metrics,
    pub(crate) published: Published,
}

/// What the writer tells everybody.
#[derive(Clone)]
pub(crate) struct Published {
    /// The seals, after every change.
    pub(crate) seals: watch::Sender<Seals>,
    pub(crate) local: broadcast::Sender<Arc<LocalWrites>>,
    /// The number of the last change of what reads see, after every commit.
    pub(crate) changes: watch::Sender<u64>,
    /// What was found damaged.
    pub(crate) checking: Checking,
    /// Whether the store takes writes.
    pub(crate) writable: watch::Sender<Writable>,
    /// What peers say of our clock.
    pub(crate) verdict: watch::Sender<Verdict>,
}

/// Whether the store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    Yes,
    /// Not while the disk is full; why, in words.
    Full(String),
    /// Never again before a restart, since a commit failed; why, in words.
    Failed(String),
}

impl Writable {
    /// Why not, in words for operators; empty when it does.
    pub(crate) fn problem(&self) -> &str {
        match self {
            Self::Yes => "",
            Self::Full(problem) | Self::Failed(problem) => problem,
        }
    }

    /// What writers are told; `None` when they may write.
    fn refusal(&self) -> Option<Status> {
        match self {
            Self::Yes => None,
            Self::Full(problem) => Some(reason::with(Status::resource_exhausted(problem), reason::DISK_FULL)),
            Self::Failed(problem) => Some(Status::unavailable(problem)),
        }
    }
}

/// The time by the process's clock.
pub(crate) fn now(clock: &Clock) -> Now {
    Now { wall: WallTime(clock.wall_ms()), monotonic: Monotonic(clock.monotonic()) }
}

/// Sets a writer up around an engine. Within a runtime, which is the one of those who will wait for it.
pub(crate) fn writer(engine: Engine, space: Space, clock: Clock, metrics: Metrics) -> (Writer, Idle) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let sender = Arc::new(sender);
    let queue = (receiver, Arc::downgrade(&sender));
    let published = Published {
        seals: watch::Sender::new(engine.reader().seals()),
        local: broadcast::Sender::new(LOCAL_MESSAGES),
        changes: watch::Sender::new(engine.view().stats.change),
        checking: Checking::new(),
        writable: watch::Sender::new(Writable::Yes),
        verdict: watch::Sender::new(Verdict::right()),
    };
    metrics.stats(&engine.view().stats);
    let room = Arc::new(Semaphore::new(QUEUE_KIB_MAX));
    let writer = Writer {
        queue: sender,
        room,
        clock: clock.clone(),
        metrics: metrics.clone(),
        published: published.clone(),
    };
    (writer, Idle::new(engine, space, queue, clock, metrics, published))
}

impl Writer {
    pub(crate) async fn write(
        &self,
        ops: Vec<Op>,
        traceparent: Option<String>,
    ) -> Result<Vec<Written>, Status> {
        // A version stamped by a wrong clock would win, or lose, for as long as the clock is off.
        if let Some(why) = self.published.verdict.borrow().refusal(now(&self.clock).monotonic) {
            return Err(Status::unavailable(why));
        }
        self.may_write()?;
        let bytes = ops.iter().map(Op::bytes).sum();
        self.ask(bytes, |reply| Command::Write { ops, traceparent, reply }).await
    }

    pub(crate) async fn merge(&self, entries: Vec<Entry>, origin: Origin) -> Result<Merged, Status> {
        self.may_write()?;
        let bytes = entries.iter().map(lattice_proto::codec::entry_bytes).sum();
        self.ask(bytes, |reply| Command::Merge { entries, origin, reply }).await
    }

    /// Extends the newest run over idle time; its new end is published when this returns.
    pub(crate) async fn extend(&self) -> Result<(), Status> {
        self.ask(0, |reply| Command::Extend { reply }).await
    }

    pub(crate) async fn reserve(&self, count: u32) -> Result<(u64, Incarnation), Status> {
        self.ask(0, |reply| Command::Reserve { count, reply }).await
    }

    /// Notes what was heard of a peer; the incarnation that is believed, when this one was replaced by it.
    pub(crate) async fn heard(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
    ) -> Result<Option<Incarnation>, Status> {
        self.ask(0, |reply| Command::Heard { node, incarnation, sequence, epoch, reply }).await
    }

    pub(crate) async fn reincarnate(&self, replaced: Incarnation) -> Result<Incarnation, Status> {
        self.ask(0, |reply| Command::Reincarnate { replaced, reply }).await
    }

    /// The wall clock is right: sealing may go on by it.
    pub(crate) async fn confirm_clock(&self) -> Result<(), Status> {
        self.ask(0, |reply| Command::ConfirmClock { reply }).await
    }

    /// Peers have filled a recovering store again.
    pub(crate) async fn recovered(&self, incarnation: Incarnation) -> Result<(), Status> {
        self.ask(0, |reply| Command::Recovered { incarnation, reply }).await
    }

    /// Ends the writer once it has done what waits. Waits for a place in the queue: call it where that may be.
    pub(crate) fn stop(&self) {
        let _ = self.queue.send(Queued { command: Command::Stop, _place: None });
    }

    /// Refuses at once what the writer would refuse in its turn.
    fn may_write(&self) -> Result<(), Status> {
        self.published.writable.borrow().refusal().map_or(Ok(()), Err)
    }

    async fn ask<T>(&self, bytes: usize, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Status> {
        if let Writable::Failed(problem) = &*self.published.writable.borrow() {
            return Err(Status::unavailable(problem));
        }
        let full = || Status::resource_exhausted("the writer's queue is full: try again later");
        let kib = u32::try_from(bytes.div_ceil(1_024).clamp(1, QUEUE_KIB_MAX)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).map_err(|_| full())?;
        let (reply, answer) = oneshot::channel();
        let queued = Queued { command: command(reply), _place: Some(Place::new(&self.metrics, room)) };
        self.queue.try_send(queued).map_err(|error| match error {
            TrySendError::Full(_) => full(),
            TrySendError::Disconnected(_) => stopping(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn stopping() -> Status {
    Status::unavailable("the store is stopping")
}

/// What the engine's errors are to callers.
pub(crate) fn status(error: &Error) -> Status {
    match error {
        Error::Storage(error) => Status::unavailable(format!("store: {error}")),
        Error::Damaged(error) => Status::data_loss(error.to_string()),
        Error::Entry { .. } | Error::Suspect => Status::data_loss(error.to_string()),
        Error::Recovering => reason::with(Status::unavailable(error.to_string()), reason::RECOVERING),
        Error::Gone => Status::aborted(error.to_string()),
        Error::Failed | Error::Busy { .. } => Status::unavailable(error.to_string()),
    }
}
