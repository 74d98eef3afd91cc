//! The shell around the machine: one loop that selects an event, hands it over, and runs the effects.
//!
//! The loop itself waits for nothing else. Whatever takes time is a task of its own, that comes back as an
//! event; there are as many of these as the machine has questions open, and each ends by a deadline. What
//! happens is traced from its cause: an event carries the span that it happened in, so that a pull belongs to
//! the trace of the poll or the announcement that made it necessary.

mod effects;
mod pulls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lattice_core::coordinator::{Coordinator, Effect, Event, Status};
use lattice_core::failover::Mode;
use lattice_core::model::NodeId;
use lattice_core::pull;
use lattice_core::seal::Root;
use lattice_core::signed::SignedAnnouncement;
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::store::v1::Origin;
use lattice_runtime::{Clock, TaskGroup};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use crate::metrics::Sibling;
use crate::report::{Names, Report};
use crate::sensor::Sight;

pub(crate) use effects::{Hands, Parts, Told, spawn};

/// Events that wait for the loop; beyond them, whoever has another one waits.
const INBOX_MAX: usize = 1_024;

/// How often the gauges are brought up to date, at most.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// The way into the loop; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<(Span, Input)>,
}

/// What the loop takes in.
#[derive(Debug)]
pub(crate) enum Input {
    /// For the machine.
    Event(Box<Event>),
    /// What the sensor sees: for the machine, and for the status.
    Sight(Sight),
    /// Somebody wants to know.
    Status(oneshot::Sender<Snapshot>),
    /// An operator's choice of path.
    SwitchMode(Mode, oneshot::Sender<Snapshot>),
    /// An operator wants a pull now; `None`: from everybody.
    Reconcile(Option<NodeId>, oneshot::Sender<Vec<(NodeId, pull::Id)>>),
}

/// What is known at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    pub(crate) sight: Sight,
    pub(crate) names: Names,
    pub(crate) now: Monotonic,
    pub(crate) wall: WallTime,
}

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::Receiver<(Span, Input)>) {
        let (sender, receiver) = mpsc::channel(INBOX_MAX);
        (Self { sender }, receiver)
    }

    /// For the machine. Nothing happens when the loop has ended.
    pub(crate) async fn send(&self, event: Event) {
        self.put(Input::Event(Box::new(event))).await;
    }

    pub(crate) async fn put(&self, input: Input) {
        // Closed only when the service ends, and then nobody wants it.
        let _ = self.sender.send((Span::current(), input)).await;
    }
}

/// The loop's state.
pub(crate) struct Shell {
    machine: Coordinator,
    clock: Clock,
    hands: Arc<Hands>,
    report: Report,
    tasks: TaskGroup,
    sight: Sight,
    /// What the trusted peers call themselves.
    names: Names,
    trusted: BTreeSet<NodeId>,
    own_root: Option<Root>,
    running: BTreeMap<pull::Id, pulls::Running>,
    waiting: BTreeMap<u64, oneshot::Sender<Vec<(NodeId, pull::Id)>>>,
    next_token: u64,
    gauges_at: Option<Duration>,
}

impl Shell {
    pub(crate) fn new(
        machine: Coordinator,
        clock: Clock,
        hands: Arc<Hands>,
        report: Report,
        tasks: TaskGroup,
    ) -> Self {
        let trusted = hands.trust.keys().as_ref().clone();
        report.metrics().trust(&BTreeSet::new(), &trusted);
        Self {
            machine,
            clock,
            hands,
            report,
            tasks,
            sight: Sight::default(),
            names: Names::new(),
            trusted,
            own_root: None,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            gauges_at: None,
        }
    }

    /// The loop.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<(Span, Input)>, ended: CancellationToken) {
        // What the machine has to say at its very start.
        self.handle(Event::Tick);
        loop {
            let deadline = self.machine.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => self.clock.sleep_until(deadline.0).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                () = due => self.handle(Event::Tick),
                input = inbox.recv() => match input {
                    Some((span, input)) => span.in_scope(|| self.take(input)),
                    None => return,
                },
            }
            self.refresh_gauges();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                self.notice(&event);
                self.handle(*event);
            }
            Input::Sight(sight) => {
                self.report.metrics().up(Sibling::Sensor, true);
                let event = Event::Sensor {
                    enabled: sight.enabled,
                    started: sight.started,
                    error: sight.error.clone(),
                    peers: sight.peers.clone(),
                };
                self.see(sight);
                self.handle(event);
            }
            // Whoever asked may have gone away: then nobody takes the answer.
            Input::Status(reply) => drop(reply.send(self.snapshot())),
            Input::SwitchMode(mode, reply) => {
                self.handle(Event::SwitchMode(mode));
                drop(reply.send(self.snapshot()));
            }
            Input::Reconcile(peer, reply) => {
                let token = self.next_token;
                self.next_token += 1;
                self.waiting.insert(token, reply);
                self.handle(Event::Reconcile { token, peer });
                if self.waiting.remove(&token).is_some() {
                    warn!(token, "the machine did not answer an operator");
                }
            }
        }
    }

    /// Hands an event over, and runs what comes of it.
    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.machine.handle(Monotonic(self.clock.monotonic()), event, &mut effects);
        for effect in effects {
            self.run_effect(effect);
        }
    }

    /// What the shell itself keeps of what passes by.
    fn notice(&mut self, event: &Event) {
        match event {
            Event::Seals(seals) => {
                self.report.metrics().up(Sibling::Store, true);
                self.own_root = seals.runs.newest().and_then(|run| run.root);
            }
            Event::StoreGone { .. } => self.report.metrics().up(Sibling::Store, false),
            Event::SensorGone { .. } => self.report.metrics().up(Sibling::Sensor, false),
            Event::Heard { announcement, .. } => self.call(announcement),
            Event::Polled { announcement, .. } => {
                self.report.metrics().polled(true);
                self.call(announcement);
            }
            Event::PollFailed { .. } => self.report.metrics().polled(false),
            Event::Asked { announcement: Some(announcement), .. } => self.call(announcement),
            Event::TrustChanged { trusted } => {
                let trusted = trusted.iter().copied().collect();
                self.report.metrics().trust(&self.trusted, &trusted);
                self.names.retain(|node, _| trusted.contains(node));
                self.trusted = trusted;
            }
            Event::Asked { announcement: None, .. }
            | Event::Sequence { .. }
            | Event::Sensor { .. }
            | Event::Greeted { .. }
            | Event::GreetFailed { .. }
            | Event::Disowned { .. }
            | Event::Replaced { .. }
            | Event::Pull { .. }
            | Event::Damaged { .. }
            | Event::DamageUnknown
            | Event::SwitchMode(_)
            | Event::Reconcile { .. }
            | Event::UrlsChanged { .. }
            | Event::Tick => {}
        }
    }

    /// Learns what a member calls itself.
    fn call(&mut self, announcement: &SignedAnnouncement) {
        let announcement = &announcement.announcement;
        if self.trusted.contains(&announcement.node) {
            self.names.insert(announcement.node, announcement.name.clone());
        }
    }

    /// What libp2p calls a peer is kept when the peer goes.
    fn see(&mut self, mut sight: Sight) {
        self.hands.announcer.listens_at(sight.listen_addresses.clone());
        let seen: BTreeSet<_> = sight.details.iter().map(|detail| detail.node).collect();
        let before = std::mem::take(&mut self.sight.details);
        sight.details.extend(
            before
                .into_iter()
                .filter(|detail| !seen.contains(&detail.node) && self.trusted.contains(&detail.node)),
        );
        self.sight = sight;
    }

    fn snapshot(&self) -> Snapshot {
        let now = Monotonic(self.clock.monotonic());
        Snapshot {
            status: self.machine.status(now),
            sight: self.sight.clone(),
            names: self.names.clone(),
            now,
            wall: WallTime(self.clock.wall_ms()),
        }
    }

    fn refresh_gauges(&mut self) {
        let now = self.clock.monotonic();
        if self.gauges_at.is_none_or(|at| now.saturating_sub(at) >= GAUGES_EVERY) {
            self.gauges_at = Some(now);
            self.report.metrics().status(&self.machine.status(Monotonic(now)));
        }
    }

    /// Does what the machine wants, or starts a task that does.
    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::PullStarted { id, peer, cause, route, root_before } => {
                self.pull_started(id, peer, cause, &route, root_before);
            }
            Effect::PullEnded { ended, route, root_before } => {
                self.pull_ended(&ended, route.as_ref(), root_before.as_ref());
            }
            Effect::RootAfter { id, peer, path, root } => self.root_after(id, peer, path, root.as_ref()),
            Effect::Exchange { pull, number, peer, route, request, announce, last } => {
                let asking = pulls::Asking { pull, number, peer, route, request, announce, last };
                self.ask(asking);
            }
            Effect::ReadLocalNodes { pull, positions } => self.read_local_nodes(pull, positions),
            Effect::Compare { pull, heads } => self.compare(pull, heads),
            Effect::Merge { pull, entries, repair } => {
                self.merge(pull, entries, if repair { Origin::Repair } else { Origin::Pull });
            }
            Effect::ReconcileAccepted { token, pulls } => {
                if let Some(reply) = self.waiting.remove(&token) {
                    drop(reply.send(pulls));
                }
            }
            Effect::Remember => self.remember(),
            Effect::Notice(notice) => self.report.notice(&notice, &self.names),
            effect @ (Effect::Announce { .. }
            | Effect::ReadSeals
            | Effect::Poll { .. }
            | Effect::Hello { .. }
            | Effect::TellHeard { .. }
            | Effect::SetTrust { .. }
            | Effect::Reincarnate { .. }
            | Effect::Recovered { .. }
            | Effect::ListDamaged { .. }
            | Effect::JudgeClock(_)) => self.hands.start(&self.tasks, effect),
        }
    }
}
