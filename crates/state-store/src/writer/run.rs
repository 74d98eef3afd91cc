//! What the writer's thread does: groups, seals, and telling those who wait.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lattice_core::model::Entry;
use lattice_proto::metadata;
use lattice_runtime::Clock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::shares::Shares;
use super::space::Room;
use super::{Command, LocalWrites, Published, Queued, Reply, Space, Writable, now, status};
use crate::engine::{
    Begun, Committed, Engine, Error, Finding, FindingKind, Group, Merged, Prepared, Sealer, Step, WriteError,
};
use crate::metrics::Metrics;

/// The most commands, and about the most bytes, of one group.
const GROUP_MAX: usize = 512;
const GROUP_BYTES: usize = 4 << 20;
/// How long the writer sleeps at most: it looks at the clocks that often.
const TICK: Duration = Duration::from_millis(250);
/// How long after it failed sealing is tried again.
const SEAL_RETRY: Duration = Duration::from_secs(5);
/// About the bytes, and the most entries, of a message of local writes.
const LOCAL_BYTES: usize = 1 << 20;
const LOCAL_ENTRIES: usize = 1_024;

/// A writer that was not started yet.
pub(crate) struct Idle {
    engine: Engine,
    space: Space,
    queue: Receiver<Queued>,
    /// To wake the writer when something was prepared; it does not keep it from ending.
    nudge: Weak<SyncSender<Queued>>,
    /// Where those who wait are.
    runtime: Handle,
    clock: Clock,
    metrics: Metrics,
    published: Published,
    local_writes: u64,
    /// After sealing failed, it is not tried again before.
    seal_after: Duration,
    shares: Shares,
}

fn write_status(error: &WriteError) -> Status {
    match error {
        WriteError::Condition { current, .. } => {
            let mut also = MetadataMap::new();
            if let Some(Ok(version)) = current.map(|version| MetadataValue::try_from(version.to_string())) {
                also.insert(metadata::VERSION, version);
            }
            Status::with_metadata(Code::FailedPrecondition, error.to_string(), also)
        }
        WriteError::Count { .. } | WriteError::Value { .. } => Status::invalid_argument(error.to_string()),
        // Which operation it is matters less than the message, by which callers know why.
        WriteError::Unknown { source, .. } => status(source),
        WriteError::Store(error) => status(error),
    }
}

/// Tells somebody after the commit: what was done, or that it failed.
type Told = Box<dyn FnOnce(Result<(), Status>) + Send>;

fn tell<T: Send + 'static>(reply: Reply<T>, outcome: Result<T, Status>) -> Told {
    // Whoever stopped waiting does not need to be told.
    Box::new(move |committed| drop(reply.send(committed.and(outcome))))
}

impl Idle {
    pub(super) fn new(
        engine: Engine,
        space: Space,
        queue: (Receiver<Queued>, Weak<SyncSender<Queued>>),
        clock: Clock,
        metrics: Metrics,
        published: Published,
    ) -> Self {
        let (local_writes, seal_after, shares) = (0, Duration::ZERO, Shares::default());
        let runtime = Handle::current();
        let (queue, nudge) = queue;
        Self {
            engine,
            space,
            queue,
            nudge,
            runtime,
            clock,
            metrics,
            published,
            local_writes,
            seal_after,
            shares,
        }
    }

    /// Starts the thread. The receiver hears when it ends: a sender that was dropped says that it panicked.
    pub(crate) fn start(self) -> std::io::Result<(JoinHandle<()>, oneshot::Receiver<()>)> {
        let (ended, end) = oneshot::channel();
        let nudge = self.nudge.clone();
        let sealer = Sealer::start(move || {
            let Some(queue) = nudge.upgrade() else { return };
            // When it is full, the writer is awake.
            let _ = queue.try_send(Queued { command: Command::Prepared, _place: None });
        })?;
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || {
            self.run(sealer);
            let _ = ended.send(());
        })?;
        Ok((thread, end))
    }

    fn run(mut self, mut sealer: Sealer) {
        let mut next = None;
        loop {
            // More is written than is sealed: writes wait a little, rather than be refused some time later.
            for _ in 0..self.engine.pressure(now(&self.clock)) {
                if !self.seal(&mut sealer, Sealer::wait) {
                    break;
                }
            }
            let began = self.clock.monotonic();
            let received = match next.take() {
                Some(queued) => Ok(queued),
                None => self.queue.recv_timeout(self.wait(&mut sealer).max(self.shares.patience())),
            };
            self.look_at_the_disk();
            match received {
                Ok(Queued { command: Command::Stop, .. }) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Queued { command: Command::Prepared, .. }) => {}
                Ok(queued) => {
                    next = self.handle(queued, &mut sealer).or_else(|| self.queue.try_recv().ok());
                    self.shares.wrote(self.clock.monotonic().saturating_sub(began));
                }
                Err(RecvTimeoutError::Timeout) => self.shares.waited(),
            }
            // What is prepared goes to the disk with the next write, if there is one.
            let joins = next.as_ref().is_some_and(|next| next.command.joins());
            while self.shares.may_seal() && !(joins && sealer.is_ready()) {
                let began = self.clock.monotonic();
                let more = self.seal(&mut sealer, Sealer::ready);
                self.shares.sealed(self.clock.monotonic().saturating_sub(began));
                if !more {
                    break;
                }
            }
        }
    }

    /// Asks how much room there is, and says so when that is too little, or enough again.
    fn look_at_the_disk(&mut self) {
        let Some(free) = self.space.look() else { return };
        let problem = self.space.room().problem();
        self.metrics.disk(free, problem.is_some());
        self.published.writable.send_if_modified(|writable| match (&*writable, problem) {
            (Writable::Yes, Some(problem)) => {
                tracing::error!(free, "{problem}");
                *writable = Writable::Full(problem);
                true
            }
            (Writable::Full(_), None) => {
                tracing::info!(free, "the disk has room again: writes go on");
                *writable = Writable::Yes;
                true
            }
            (Writable::Yes, None) | (Writable::Full(_), Some(_)) | (Writable::Failed(_), _) => false,
        });
    }

    /// Why a command has to wait for more room, if it has to.
    fn no_room_for(&self, command: &Command) -> Option<Status> {
        let fits = match (command, self.space.room()) {
            (_, Room::Enough) => true,
            (Command::Write { .. } | Command::Merge { .. }, Room::Little(_) | Room::No(_)) => false,
            (
                Command::Reserve { .. }
                | Command::Heard { .. }
                | Command::Reincarnate { .. }
                | Command::Recovered { .. },
                room,
            ) => matches!(room, Room::Little(_)),
            // They write nothing then.
            (
                Command::Extend { .. } | Command::ConfirmClock { .. } | Command::Prepared | Command::Stop,
                _,
            ) => true,
        };
        if fits { None } else { self.published.writable.borrow().refusal() }
    }

    fn may_seal(&self) -> bool {
        let has_room = self.space.room() == Room::Enough;
        has_room && !self.engine.failed() && self.clock.monotonic() >= self.seal_after
    }

    /// How long nothing will be due.
    fn wait(&self, sealer: &mut Sealer) -> Duration {
        // Whoever is waited for wakes us.
        if !self.may_seal() || (sealer.is_busy() && !sealer.is_ready()) {
            return TICK;
        }
        match self.engine.next_due() {
            Ok(Some(due)) => due.since(now(&self.clock).wall).min(TICK),
            Ok(None) => TICK,
            Err(error) => {
                tracing::error!(%error, "look for what is due");
                TICK
            }
        }
    }

    /// One step of sealing, or one half of a step that the sealer prepares; whether there may be more to do.
    fn seal(&mut self, sealer: &mut Sealer, prepared: fn(&mut Sealer) -> Option<Prepared>) -> bool {
        self.look_at_the_disk();
        if !self.may_seal() {
            return false;
        }
        let now = now(&self.clock);
        let halted = self.engine.view().stats.halted;
        self.engine.doubt_clock(self.published.verdict.borrow().refusal(now.monotonic).is_some());
        let stepped = match prepared(sealer) {
            Some(prepared) => self.engine.end_step(prepared),
            None if sealer.is_busy() => return false,
            None => match self.engine.begin_step(now) {
                Ok(Begun::Done(step)) => Ok(step),
                Ok(Begun::Planned(plan)) => {
                    sealer.prepare(plan);
                    return true;
                }
                Err(error) => Err(error),
            },
        };
        let more = self.stepped(stepped);
        let view = self.engine.view();
        if view.stats.halted != halted {
            match view.stats.halted {
                true => tracing::warn!(reason = view.halted, "sealing is halted"),
                false => tracing::info!("sealing goes on"),
            }
            self.publish();
        }
        more
    }

    /// Tells what a step came to; whether there may be more to do.
    fn stepped(&mut self, stepped: Result<Step, Error>) -> bool {
        self.tell_findings();
        match stepped {
            Ok(Step::Idle) => false,
            Ok(Step::Worked) => {
                self.publish();
                true
            }
            Ok(Step::Sealed(epoch)) => {
                tracing::debug!(%epoch, "sealed");
                self.metrics.sealed();
                self.publish();
                true
            }
            Err(error) => {
                self.failed(&error, "seal");
                self.seal_after = self.clock.monotonic() + SEAL_RETRY;
                false
            }
        }
    }

    /// Says what was found damaged, once.
    fn tell_findings(&mut self) {
        let findings = self.engine.take_findings();
        for Finding { kind, what } in &findings {
            match kind {
                FindingKind::Entry => tracing::error!(finding = what, "an entry is damaged"),
                FindingKind::Node => tracing::error!(finding = what, "the tree is damaged"),
                FindingKind::Uncovered => tracing::warn!(finding = what, "an entry awaits sealing again"),
                FindingKind::Other => tracing::warn!(finding = what, "a record is damaged"),
                FindingKind::Mended => tracing::info!(finding = what, "an entry is whole again"),
            }
            self.metrics.found(*kind);
        }
        self.published.checking.found(&findings);
    }

    /// Handles a command, and with it as many changes that wait as one commit takes. Returns a command that was
    /// taken from the queue and has to wait its turn.
    fn handle(&mut self, first: Queued, sealer: &mut Sealer) -> Option<Queued> {
        if let Some(refusal) = self.no_room_for(&first.command) {
            self.single(first.command, Some(refusal));
            return None;
        }
        let mut told: Vec<Told> = Vec::new();
        let mut trace = None;
        let mut rest = None;
        let mut group = match self.engine.begin() {
            Ok(group) => group,
            Err(error) => {
                // A commit that was queued earlier failed: those behind it hear why.
                let refusal = self.published.writable.borrow().refusal();
                self.single(first.command, Some(refusal.unwrap_or_else(|| status(&error))));
                return None;
            }
        };
        let started = self.clock.monotonic();
        let mut next = Some(first);
        while let Some(queued) = next.take() {
            match queued.command {
                Command::Prepared => {}
                Command::Write { ops, traceparent, reply } => {
                    trace = trace.or(traceparent);
                    let before = group.savepoint();
                    let staged = self.engine.stage_write(&mut group, &ops, now(&self.clock));
                    if let Err(WriteError::Store(error)) = &staged {
                        tracing::error!(%error, "stage a write");
                        group.roll_back(before);
                    }
                    told.push(tell(reply, staged.map_err(|error| write_status(&error))));
                }
                Command::Merge { entries, origin, reply } => {
                    let before = group.savepoint();
                    let staged = self.engine.stage_merge(&mut group, entries, origin, now(&self.clock));
                    match &staged {
                        Ok(merged) => self.metrics.merged(merged),
                        Err(error) => {
                            tracing::error!(%error, "stage a merge");
                            group.roll_back(before);
                        }
                    }
                    told.push(tell(reply, staged.map_err(|error| status(&error))));
                }
                command if told.is_empty() => {
                    self.single(command, None);
                    return None;
                }
                command => {
                    rest = Some(Queued { command, _place: queued._place });
                    break;
                }
            }
            if told.len() == GROUP_MAX || group.bytes() > GROUP_BYTES {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        let prepared = if self.may_seal() { sealer.ready() } else { None };
        let outcome = self.commit(group, prepared, trace, started);
        self.tell_all(told, outcome);
        rest
    }

    /// Tells those who waited for a commit: from within their runtime, where to wake many is one wake-up.
    fn tell_all(&self, told: Vec<Told>, outcome: Result<(), Status>) {
        if told.is_empty() {
            return;
        }
        self.runtime.spawn(async move {
            for told in told {
                told(outcome.clone());
            }
        });
    }

    fn commit(
        &mut self,
        group: Group,
        prepared: Option<Prepared>,
        trace: Option<String>,
        started: Duration,
    ) -> Result<(), Status> {
        let empty = group.is_empty();
        let (committed, stepped) = match prepared {
            Some(prepared) => {
                let (committed, stepped) = self.engine.commit_sealing(group, prepared);
                (committed, Some(stepped))
            }
            None => (self.engine.commit(group), None),
        };
        let outcome = match committed {
            Ok(committed) => {
                if !empty {
                    self.metrics.committed(self.clock.monotonic().saturating_sub(started));
                }
                self.committed(committed, trace.unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(self.failed(&error, "commit")),
        };
        if let (Ok(()), Some(stepped)) = (&outcome, stepped) {
            self.stepped(stepped);
        }
        outcome
    }

    fn committed(&mut self, committed: Committed, traceparent: String) {
        let Committed { local, late, conflicts, dropped } = committed;
        self.metrics.late(&late);
        self.metrics.conflicts(conflicts);
        if dropped > 0 {
            tracing::warn!(dropped, "entries too far ahead of the clock were dropped: no room to hold them");
        }
        if conflicts > 0 {
            tracing::error!(conflicts, "equal versions with different content: is a disk or a key cloned?");
        }
        self.engine.note_lateness(&late, now(&self.clock));
        let stats = self.engine.view().stats;
        self.metrics.stats(&stats);
        self.published.changes.send_replace(stats.change);
        self.tell_local(local, &traceparent);
    }

    /// Tells those who watch, in messages of bounded size.
    fn tell_local(&mut self, local: Vec<Entry>, traceparent: &str) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut left = local.len();
        for entry in local {
            bytes += lattice_proto::codec::entry_bytes(&entry);
            entries.push(entry);
            left -= 1;
            if left == 0 || bytes >= LOCAL_BYTES || entries.len() == LOCAL_ENTRIES {
                let before = self.local_writes;
                self.local_writes += entries.len() as u64;
                let entries = std::mem::take(&mut entries);
                let message = LocalWrites { before, entries, traceparent: traceparent.to_owned() };
                // Nobody may be watching.
                let _ = self.published.local.send(Arc::new(message));
                bytes = 0;
            }
        }
    }

    /// Handles a command that is a commit of its own; `refused` is what it is told instead.
    fn single(&mut self, command: Command, refused: Option<Status>) {
        let now = now(&self.clock);
        let refused = refused.map_or(Ok(()), Err);
        match command {
            Command::Write { reply, .. } => tell(reply, Ok(Vec::new()))(refused),
            Command::Merge { reply, .. } => tell(reply, Ok(Merged::default()))(refused),
            Command::Extend { reply } => {
                let done = refused.and_then(|()| match self.space.room() {
                    Room::Enough => self.engine.extend(now).map_err(|error| self.failed(&error, "extend")),
                    // What was told stays true: the newest run just ends earlier than it could.
                    Room::Little(_) | Room::No(_) => Ok(Step::Idle),
                });
                if matches!(done, Ok(Step::Worked)) {
                    self.publish();
                }
                tell(reply, Ok(()))(done.map(|_| ()));
            }
            Command::Reserve { count, reply } => {
                let incarnation = self.engine.view().incarnation;
                let done = refused.and_then(|()| {
                    let first = self.engine.reserve_sequence(count);
                    first.map_err(|error| self.failed(&error, "reserve sequence numbers"))
                });
                let _ = reply.send(done.map(|first| (first, incarnation)));
            }
            Command::Heard { node, incarnation, sequence, epoch, reply } => {
                let done = refused.and_then(|()| {
                    let heard = self.engine.heard(node, incarnation, sequence, epoch);
                    heard.map_err(|error| self.failed(&error, "note what was heard"))
                });
                let _ = reply.send(done);
            }
            Command::Reincarnate { replaced, reply } => {
                let done = refused.and_then(|()| {
                    let incarnation = self.engine.reincarnate(replaced);
                    incarnation.map_err(|error| self.failed(&error, "start a new incarnation"))
                });
                if let Ok(incarnation) = &done {
                    if *incarnation != replaced {
                        tracing::warn!(%replaced, %incarnation, "started a new incarnation");
                    }
                    self.publish();
                }
                let _ = reply.send(done);
            }
            Command::ConfirmClock { reply } => {
                if refused.is_ok() {
                    self.engine.confirm_clock(now);
                }
                let _ = reply.send(refused);
            }
            Command::Recovered { incarnation, reply } => {
                let done = refused.and_then(|()| {
                    let recovered = self.engine.recovered(incarnation);
                    recovered.map_err(|error| self.failed(&error, "end recovering"))
                });
                if matches!(done, Ok(true)) {
                    tracing::info!("recovered: peers have filled the store again");
                    self.publish();
                }
                tell(reply, Ok(()))(done.map(|_| ()));
            }
            Command::Prepared | Command::Stop => {}
        }
    }

    /// Says that something failed, and turns readiness off when that was a commit. Returns what those are told
    /// who wait for it.
    fn failed(&mut self, error: &Error, doing: &str) -> Status {
        tracing::error!(%error, "{doing}");
        if !self.engine.failed() {
            return status(error);
        }
        self.metrics.failed();
        self.published.writable.send_if_modified(|writable| {
            let is_news = !matches!(writable, Writable::Failed(_));
            if is_news {
                *writable = Writable::Failed(format!(
                    "the store has failed: a commit did not reach the disk ({error}); restart the node"
                ));
            }
            is_news
        });
        Status::unavailable(self.published.writable.borrow().problem())
    }

    fn publish(&self) {
        let stats = self.engine.view().stats;
        self.metrics.stats(&stats);
        self.published.changes.send_replace(stats.change);
        let seals = self.engine.reader().seals();
        self.published.seals.send_if_modified(|published| {
            let changed = *published != seals;
            *published = seals;
            changed
        });
    }
}
