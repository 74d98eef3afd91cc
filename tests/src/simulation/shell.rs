//! The coordinator's part of a node: the machine that ships, and its effects run as the real shell runs them.

use std::time::Duration;

use lattice_core::coordinator::{Config, Coordinator, Effect, Event, Recipients, Route};
use lattice_core::exchange::Request;
use lattice_core::failover::Mode;
use lattice_core::liveness;
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::pull;
use lattice_core::signed::{Announcement, SignedAnnouncement};
use lattice_proto::codec;
use rand::RngExt as _;

use super::asker::{self, Asker, Purpose};
use super::message::{Message, Parcel, QuestionId};
use super::network::Way;
use super::node::{Node, monotonic};
use super::settings::CLUSTER;
use super::step::{Input, Outbox, Seen};

/// An announcement younger than this answers everybody who does not insist on a new one.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// A running coordinator.
pub struct Shell {
    pub(super) life: u64,
    pub(super) asker: Asker,
    machine: Coordinator,
    started: Duration,
    newest: Option<(Duration, SignedAnnouncement)>,
    given_up: Option<Incarnation>,
    /// In which incarnation the store spoke last.
    own_store: Option<Incarnation>,
}

impl Shell {
    pub(super) fn new(node: &Node, life: u64, seed: u64, now: Duration) -> Self {
        let settings = &node.settings;
        let config = Config {
            node: node.id,
            cluster: CLUSTER.to_owned(),
            epoch_length: settings.epoch_length,
            trusted: node.trusted.clone(),
            urls: node.directory.urls(),
            heartbeat_interval: settings.heartbeat_interval,
            peer_timeout: settings.peer_timeout,
            poll_interval: settings.poll_interval,
            request_timeout: settings.request_timeout,
            peerless_timeout: settings.peerless_timeout,
            return_after: settings.return_after,
            divergence_threshold: settings.divergence_threshold,
            backoff_max: settings.backoff_max,
            pulls_max: settings.pulls_max,
            pull_bytes_per_s: None,
            mode: Mode::Auto,
            p2p_enabled: true,
            max_clock_drift: settings.max_clock_drift,
            seed,
        };
        Self {
            life,
            asker: Asker::default(),
            machine: Coordinator::new(config, monotonic(now, now), node.wall(now), &node.memory),
            started: now,
            newest: None,
            given_up: None,
            own_store: None,
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Coordinator {
        &self.machine
    }

    /// What the machine knows.
    pub fn status(&self, now: Duration) -> lattice_core::coordinator::Status {
        self.machine.status(monotonic(self.started, now))
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.machine.deadline().map(|deadline| self.started + deadline.0)
    }

    fn counted(&self, now: Duration) -> u32 {
        self.status(now).peers.iter().map(|peer| peer.divergence_count).sum()
    }
}

/// Whether an event is an error of somebody else's, which never counts as a difference.
fn is_error(event: &Event) -> bool {
    match event {
        Event::PollFailed { .. }
        | Event::GreetFailed { .. }
        | Event::Disowned { .. }
        | Event::Replaced { .. }
        | Event::SensorGone { .. }
        | Event::StoreGone { .. }
        | Event::Pull { event: pull::Event::Failed { .. } | pull::Event::LocalFailed(_), .. } => true,
        Event::Seals(_)
        | Event::Sequence { .. }
        | Event::Sensor { .. }
        | Event::Heard { .. }
        | Event::Asked { .. }
        | Event::Polled { .. }
        | Event::Greeted { .. }
        | Event::Damaged { .. }
        | Event::DamageUnknown
        | Event::Pull { .. }
        | Event::SwitchMode(_)
        | Event::Reconcile { .. }
        | Event::TrustChanged { .. }
        | Event::UrlsChanged { .. }
        | Event::Tick => false,
    }
}

impl Node {
    /// The machine hears of something now; what it wants is begun.
    pub(super) fn hear(&mut self, now: Duration, event: Event, out: &mut Outbox) {
        let Some(shell) = &mut self.shell else { return };
        if let Event::Seals(own) = &event
            && shell.own_store.replace(own.incarnation) != Some(own.incarnation)
        {
            out.seen.push(Seen::OwnStore);
        }
        let error = is_error(&event);
        let before = if error { shell.counted(now) } else { 0 };
        let mut effects = Vec::new();
        shell.machine.handle(monotonic(shell.started, now), event, &mut effects);
        let after = if error { shell.counted(now) } else { 0 };
        out.seen.push(Seen::Handled { error, counted: (before, after) });
        let life = shell.life;
        for effect in effects {
            match effect {
                Effect::PullStarted { id, peer, cause, .. } => {
                    out.seen.push(Seen::PullStarted(id, peer, cause));
                }
                Effect::PullEnded { ended, .. } => out.seen.push(Seen::PullEnded(Box::new(ended))),
                Effect::Notice(notice) => out.seen.push(Seen::Notice(notice)),
                Effect::Remember => {
                    if let Some(shell) = &self.shell {
                        self.memory = shell.machine.memory(monotonic(shell.started, now), self.wall(now));
                    }
                }
                Effect::ReconcileAccepted { .. } | Effect::RootAfter { .. } => {}
                // Nothing is announced from here on, whatever is on its way.
                Effect::Reincarnate { incarnation } => {
                    if let Some(shell) = &mut self.shell {
                        shell.given_up = Some(incarnation);
                    }
                    out.seen.push(Seen::Renewed);
                    let effect = Box::new(Effect::Reincarnate { incarnation });
                    self.soon(now, Input::Effect { life, effect }, out);
                }
                effect @ (Effect::Announce { .. }
                | Effect::ReadSeals
                | Effect::Poll { .. }
                | Effect::Hello { .. }
                | Effect::Exchange { .. }
                | Effect::ReadLocalNodes { .. }
                | Effect::Compare { .. }
                | Effect::Merge { .. }
                | Effect::TellHeard { .. }
                | Effect::SetTrust { .. }
                | Effect::Recovered { .. }
                | Effect::ListDamaged { .. }
                | Effect::JudgeClock(_)) => {
                    self.soon(now, Input::Effect { life, effect: Box::new(effect) }, out);
                }
            }
        }
    }

    /// Runs an effect whose time has come.
    pub(super) fn run(&mut self, now: Duration, effect: Effect, out: &mut Outbox) {
        match effect {
            Effect::Announce { to } => self.announce(now, to, out),
            Effect::ReadSeals => {
                if let Err(reason) = self.read_seals(now, out) {
                    self.tell(now, Event::StoreGone { reason }, out);
                }
            }
            Effect::Poll { url } => self.poll(now, url, out),
            Effect::Hello { peer, route } => self.hello(now, peer, route, out),
            Effect::Exchange { pull, number, peer, route, mut request, announce, last } => {
                let purpose = Purpose::Pull { pull, number, last };
                match self.signed_request(now, announce, &mut request, out) {
                    Ok(own) => self.ask(now, purpose, peer, route, own, request, out),
                    Err(reason) => {
                        let failure = pull::Failure::Lost(reason);
                        let event = pull::Event::Failed { number, failure };
                        self.tell(now, Event::Pull { id: pull, event }, out);
                    }
                }
            }
            Effect::ReadLocalNodes { pull, positions } => {
                let read = self.store_now(|store| store.own_nodes(&positions));
                self.tell_pull(now, pull, read.map(pull::Event::LocalNodes), out);
            }
            Effect::Compare { pull, heads } => {
                let wall = self.wall(now);
                let compared = self.store_now(|store| store.compare(now, wall, &heads));
                let event = compared.map(|(missing, ahead)| pull::Event::Compared { missing, ahead });
                self.tell_pull(now, pull, event, out);
            }
            Effect::ListDamaged { after, limit } => {
                let event = match self.store_now(|store| store.damaged(after.as_ref(), limit)) {
                    Ok(entries) => Event::Damaged {
                        more: entries.last().filter(|_| entries.len() >= limit).map(|last| last.key.clone()),
                        lost: entries
                            .iter()
                            .map(|entry| pull::Lost { key_hash: entry.key.hash(), head: entry.head })
                            .collect(),
                    },
                    Err(_) => Event::DamageUnknown,
                };
                self.tell(now, event, out);
            }
            Effect::Merge { pull, entries, repair } => {
                let wall = self.wall(now);
                out.seen.push(Seen::Proved(pull, entries.clone()));
                let merged = self.store_now(|store| store.merge_pulled(now, wall, entries, repair));
                self.tell_pull(now, pull, merged.map(pull::Event::Merged), out);
            }
            Effect::TellHeard { node, incarnation, sequence, epoch } => {
                // A store that is away is told again with the next announcement.
                let heard = self.store_now(|store| store.heard(node, incarnation, sequence, epoch));
                if let Ok(Some(present)) = heard {
                    self.tell(now, Event::Replaced { peer: node, incarnation, present }, out);
                }
            }
            Effect::SetTrust { trusted } => self.tell_trust(now, &trusted, out),
            Effect::Reincarnate { incarnation } => {
                let wall = self.wall(now);
                match self.store_now(|store| store.reincarnate(now, wall, incarnation)) {
                    Ok(()) => self.tell_seals(now, out),
                    // Tried again until it is done: without it, nothing can be announced.
                    Err(_) => {
                        let Some(life) = self.shell.as_ref().map(|shell| shell.life) else { return };
                        let effect = Box::new(Effect::Reincarnate { incarnation });
                        out.later.push((now + SHARED_FOR, Input::Effect { life, effect }));
                    }
                }
            }
            Effect::Recovered { incarnation } => {
                // A store that is away is told again.
                if self.store_now(|store| store.recovered(incarnation)).is_ok() {
                    out.seen.push(Seen::Recovered);
                }
                self.tell_seals(now, out);
            }
            // A store that is away is told when it comes back.
            Effect::JudgeClock(clock) => {
                let wall = self.wall(now);
                if let Some(store) = &mut self.store {
                    store.judge_clock(now, wall, &clock);
                }
            }
            Effect::ReconcileAccepted { .. }
            | Effect::PullStarted { .. }
            | Effect::PullEnded { .. }
            | Effect::RootAfter { .. }
            | Effect::Remember
            | Effect::Notice(_) => debug_assert!(false, "these are run when they are heard of"),
        }
    }

    /// One that is younger than a second, or else a new one.
    pub(super) fn recent_announcement(
        &mut self,
        now: Duration,
        out: &mut Outbox,
    ) -> Result<SignedAnnouncement, String> {
        let shell = self.shell.as_ref().ok_or("the coordinator is away")?;
        match &shell.newest {
            Some((at, announced)) if now.saturating_sub(*at) < SHARED_FOR => {
                shell.refuse_given_up(announced.announcement.incarnation)?;
                Ok(announced.clone())
            }
            Some(_) | None => self.fresh_announcement(now, out),
        }
    }

    /// A new one, with a number that was never used. The machine hears of seals and number first.
    fn fresh_announcement(&mut self, now: Duration, out: &mut Outbox) -> Result<SignedAnnouncement, String> {
        let incarnation = self.read_seals(now, out)?;
        let wall = self.wall(now);
        let shell = self.shell.as_mut().ok_or("the coordinator is away")?;
        shell.refuse_given_up(incarnation)?;
        let store = self.store.as_mut().ok_or("the store is away")?;
        let sequence = store.reserve(1)?;
        let announcement = Announcement {
            cluster: CLUSTER.to_owned(),
            node: self.id,
            incarnation,
            sequence,
            time: wall,
            epoch_length: self.settings.epoch_length,
            runs: store.published().runs.into(),
            addresses: Vec::new(),
            name: format!("node-{}", self.index),
            recovering: store.published().recovering,
        };
        let announced = codec::sign_announcement(&announcement, self.directory.key(self.index));
        shell.newest = Some((now, announced.clone()));
        out.seen.push(Seen::Announced(announced.clone()));
        self.hear(now, Event::Sequence { incarnation, last: sequence }, out);
        Ok(announced)
    }

    fn announce(&mut self, now: Duration, to: Recipients, out: &mut Outbox) {
        let announced = match self.fresh_announcement(now, out) {
            Ok(announced) => announced,
            Err(reason) => {
                if self.store.is_none() {
                    self.tell(now, Event::StoreGone { reason }, out);
                }
                return;
            }
        };
        let connected = self.sensor.as_ref().map(super::sensor::Sensor::connected).unwrap_or_default();
        for peer in connected {
            let meant = match to {
                Recipients::All => true,
                Recipients::Peer(only) => only == peer,
            };
            if let Some(to) = self.directory.index(&peer).filter(|_| meant) {
                let message = Message::Announcement(announced.signed.clone());
                out.parcels.push(Parcel { to, way: Way::P2p, message });
            }
        }
    }

    /// Reads our seals, idle time extended, and tells the machine.
    fn read_seals(&mut self, now: Duration, out: &mut Outbox) -> Result<Incarnation, String> {
        let wall = self.wall(now);
        let seals = self.store.as_mut().ok_or("the store is away")?.seals(now, wall)?;
        let incarnation = seals.incarnation;
        self.hear(now, Event::Seals(seals), out);
        Ok(incarnation)
    }

    fn poll(&mut self, now: Duration, url: String, out: &mut Outbox) {
        let Some(to) = self.directory.at_url(&url) else { return };
        let question = self.next_question();
        if let Some(shell) = &mut self.shell {
            shell.asker.poll(question, url);
            out.parcels.push(Parcel { to, way: Way::Http, message: Message::GetState { question } });
            out.later.push((now + self.settings.request_timeout, Input::QuestionDue(question)));
        }
    }

    fn hello(&mut self, now: Duration, peer: NodeId, route: Route, out: &mut Outbox) {
        let mut request = asker::hello();
        match self.signed_request(now, true, &mut request, out) {
            Ok(own) => self.ask(now, Purpose::Hello { own }, peer, route, own, request, out),
            Err(reason) => self.tell(now, Event::GreetFailed { peer, route, reason }, out),
        }
    }

    /// Completes a request with our announcement, if it takes one; in which incarnation we ask.
    fn signed_request(
        &mut self,
        now: Duration,
        announce: bool,
        request: &mut Request,
        out: &mut Outbox,
    ) -> Result<Incarnation, String> {
        if announce {
            let announced = self.recent_announcement(now, out)?;
            let own = announced.announcement.incarnation;
            request.announcement = Some(announced);
            return Ok(own);
        }
        Ok(self.store.as_ref().ok_or("the store is away")?.published().incarnation)
    }

    #[allow(clippy::too_many_arguments, reason = "all that makes a question")]
    fn ask(
        &mut self,
        now: Duration,
        purpose: Purpose,
        peer: NodeId,
        route: Route,
        own: Incarnation,
        request: Request,
        out: &mut Outbox,
    ) {
        let question = self.next_question();
        let p2p = route == Route::P2p;
        if let Some(shell) = &mut self.shell {
            shell.asker.ask(question, purpose, peer, route, own, request);
        }
        if p2p && !self.sensor.as_ref().is_some_and(|sensor| sensor.is_connected(&peer)) {
            self.lose_question(now, question, "not connected", out);
            return;
        }
        self.send_request(question, out);
        out.later.push((now + self.settings.request_timeout, Input::QuestionDue(question)));
    }

    /// Signs and sends a question, also once more after its challenge was refused.
    pub(super) fn send_request(&mut self, question: QuestionId, out: &mut Outbox) {
        let nonce = self.random.random();
        let Some(shell) = &mut self.shell else { return };
        let Some(envelope) = shell.asker.envelope(question, self.directory.key(self.index), nonce) else {
            return;
        };
        let Some(asked) = shell.asker.question(question) else { return };
        let to = match (&asked.route, &asked.peer) {
            (Route::Http { url }, _) => self.directory.at_url(url),
            (Route::P2p, Some(peer)) => self.directory.index(peer),
            (Route::P2p, None) => None,
        };
        if let Some(to) = to {
            let way = asked.way();
            out.parcels.push(Parcel { to, way, message: Message::Request { question, envelope } });
        }
    }

    fn tell_pull(
        &mut self,
        now: Duration,
        id: pull::Id,
        event: Result<pull::Event, String>,
        out: &mut Outbox,
    ) {
        let event = event.unwrap_or_else(pull::Event::LocalFailed);
        self.tell(now, Event::Pull { id, event }, out);
    }

    fn tell_trust(&mut self, now: Duration, trusted: &[NodeId], out: &mut Outbox) {
        if let Some(store) = &mut self.store {
            store.set_trusted(trusted);
        }
        let peers = trusted.iter().filter(|id| **id != self.id).copied().collect();
        if let Some(sensor) = &mut self.sensor
            && sensor.hear(now, liveness::Event::TrustChanged { trusted: peers })
        {
            let state = sensor.state();
            self.tell(now, state, out);
        }
    }

    fn store_now<T>(
        &mut self,
        work: impl FnOnce(&mut super::replica::Replica) -> Result<T, String>,
    ) -> Result<T, String> {
        work(self.store.as_mut().ok_or("the store is away")?)
    }
}

impl Shell {
    fn refuse_given_up(&self, incarnation: Incarnation) -> Result<(), String> {
        if self.given_up == Some(incarnation) {
            return Err(format!("incarnation {incarnation} is given up"));
        }
        Ok(())
    }
}
