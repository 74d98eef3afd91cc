//! One simulated node: the store's engine, the coordinator's machine, and the sensor's, put together as the
//! shells of the real services put them together.
//!
//! Nothing here decides anything: a node takes in what arrives, what its own parts answer and what time it is,
//! hands it to the machine that it concerns, and puts what that wants into an [`Outbox`]. Its parts stop and
//! start one by one, as the four services do: the coordinator forgets everything but its memory, the sensor its
//! connections, the store nothing that was committed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::coordinator::{Clock, Event, Memory};
use lattice_core::liveness;
use lattice_core::model::{Content, Entry, Key, NodeId};
use lattice_core::pull;
use lattice_core::signed::Signed;
use lattice_core::time::Monotonic;
use lattice_proto::codec;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use state_store::Storage as _;
use state_store::storage::Batch;

use super::ledger::Map;
use super::message::{Message, Parcel, QuestionId};
use super::network::Way;
use super::replica::{Disk, Replica, Write};
use super::sensor::Sensor;
use super::settings::{CLUSTER, Directory, Settings};
use super::shell::Shell;
use super::step::{Input, Outbox, Seen};
use super::time::Skew;

/// The longest time that anything takes inside of a node.
const LOCAL_DELAY: Duration = Duration::from_millis(3);

/// One node.
pub struct Node {
    pub(super) index: usize,
    pub(super) id: NodeId,
    pub(super) settings: Rc<Settings>,
    pub(super) directory: Rc<Directory>,
    pub(super) random: Xoshiro256PlusPlus,
    pub(super) store: Option<Replica>,
    pub(super) shell: Option<Shell>,
    pub(super) sensor: Option<Sensor>,
    pub(super) memory: Memory,
    pub(super) trusted: Vec<NodeId>,
    /// Whose key was removed, and since when this coordinator refuses it.
    removed: BTreeMap<NodeId, Duration>,
    disk: Disk,
    /// The disk was damaged while no store ran.
    unchecked: bool,
    skew: Skew,
    lives: u64,
    questions: QuestionId,
    /// When the newest thing inside of the node happens: they happen in order.
    order: Duration,
}

impl Node {
    /// A node that was never started.
    pub fn new(index: usize, settings: Rc<Settings>, directory: Rc<Directory>, seed: u64) -> Self {
        Self {
            index,
            id: directory.id(index),
            trusted: directory.ids().to_vec(),
            settings,
            directory,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            store: None,
            shell: None,
            sensor: None,
            memory: Memory::default(),
            removed: BTreeMap::new(),
            disk: Disk::default(),
            unchecked: false,
            skew: Skew::default(),
            lives: 0,
            questions: 0,
            order: Duration::ZERO,
        }
    }

    /// Starts what does not run, in the order of the services.
    pub fn start(&mut self, now: Duration, out: &mut Outbox) {
        self.start_store(now, out);
        self.start_sensor(now, out);
        self.start_coordinator(now, out);
    }

    /// Stops everything at once, as a loss of power does.
    pub fn stop(&mut self, out: &mut Outbox) {
        self.stop_coordinator(out);
        self.sensor = None;
        self.store = None;
    }

    /// Opens the store on what is on the disk.
    pub fn start_store(&mut self, now: Duration, out: &mut Outbox) {
        if self.store.is_some() {
            return;
        }
        let key = self.directory.key(self.index).clone();
        let seed = self.random.random();
        match Replica::open(&self.disk, &self.settings, key, seed, now, self.skew.wall(now)) {
            Ok(mut store) => {
                store.set_trusted(&self.trusted);
                if let Some(shell) = &self.shell {
                    store.judge_clock(now, self.skew.wall(now), &shell.status(now).clock);
                }
                if std::mem::take(&mut self.unchecked)
                    && let Err(error) = store.check(now, self.skew.wall(now))
                {
                    out.seen.push(Seen::StoreFailed(error));
                }
                self.store = Some(store);
                self.tell_seals(now, out);
            }
            Err(error) => out.seen.push(Seen::StoreFailed(error)),
        }
    }

    /// Kills the store. What is on the disk stays.
    pub fn stop_store(&mut self, now: Duration, out: &mut Outbox) {
        self.store = None;
        self.tell(now, Event::StoreGone { reason: "killed".to_owned() }, out);
    }

    /// Starts the sensor; nobody is connected.
    pub fn start_sensor(&mut self, now: Duration, out: &mut Outbox) {
        if self.sensor.is_none() {
            let peers = self.trusted.iter().filter(|id| **id != self.id).copied().collect();
            self.sensor = Some(Sensor::new(now, &self.settings, peers));
            self.tell_sensor(now, out);
        }
    }

    /// Kills the sensor, and with it all connections: the world is to end them.
    pub fn stop_sensor(&mut self, now: Duration, out: &mut Outbox) {
        self.sensor = None;
        self.tell(now, Event::SensorGone { reason: "killed".to_owned() }, out);
    }

    /// Starts the coordinator, with nothing but what it kept on disk.
    pub fn start_coordinator(&mut self, now: Duration, out: &mut Outbox) {
        if self.shell.is_some() {
            return;
        }
        self.lives += 1;
        // It is the coordinator that tells the others whom to trust.
        self.removed.values_mut().for_each(|since| *since = now);
        let seed = self.random.random();
        self.shell = Some(Shell::new(self, self.lives, seed, now));
        // What its last life said of the clock is said no more.
        if let Some(store) = &mut self.store {
            store.judge_clock(now, self.skew.wall(now), &Clock::Unknown);
        }
        self.tell_seals(now, out);
        self.tell_sensor(now, out);
    }

    /// Kills the coordinator.
    pub fn stop_coordinator(&mut self, out: &mut Outbox) {
        self.shell = None;
        out.seen.push(Seen::CoordinatorStopped);
    }

    /// Replaces the disk of a stopped node with an empty one.
    pub fn wipe(&mut self) {
        debug_assert!(self.store.is_none(), "a disk in use is not replaced");
        self.disk = Disk::default();
        self.memory = Memory::default();
    }

    /// Replaces the disk of a stopped node with a new one that has these of its entries, as the store does with a
    /// database that does not open.
    ///
    /// # Errors
    /// What the engine says.
    pub fn salvage(&mut self, now: Duration, saved: Vec<Entry>) -> Result<(), String> {
        debug_assert!(self.store.is_none(), "a disk in use is not replaced");
        self.disk = Disk::default();
        let (key, wall) = (self.directory.key(self.index).clone(), self.skew.wall(now));
        let seed = self.random.random();
        Replica::open(&self.disk, &self.settings, key, seed, now, wall)?.salvage(now, wall, saved)
    }

    /// Flips a bit in each record of these entries, and lets the store's check find it, at once or when it starts.
    ///
    /// # Errors
    /// What the disk or the engine says.
    pub fn rot(&mut self, now: Duration, entries: &[Entry], out: &mut Outbox) -> Result<(), String> {
        let mut batch = Batch::default();
        let visited = self.disk.range(&[0], &[0xff], &mut |at, record| {
            let holds = |entry: &&Entry| match &entry.content {
                Content::Value(value) => record.windows(value.len()).any(|part| part == value),
                Content::Tombstone | Content::Dropped { .. } => false,
            };
            if entries.iter().any(|entry| holds(&entry)) {
                let mut record = record.to_vec();
                record.last_mut().into_iter().for_each(|last| *last ^= 1);
                batch.put(at.to_vec(), record);
            }
            Ok(ControlFlow::Continue(()))
        });
        visited.and_then(|()| self.disk.commit(&batch)).map_err(|error| error.to_string())?;
        let wall = self.skew.wall(now);
        match &mut self.store {
            Some(store) => store.check(now, wall)?,
            None => self.unchecked = true,
        }
        self.tell_seals(now, out);
        Ok(())
    }

    /// What the disk holds now.
    pub fn disk_snapshot(&self) -> Disk {
        self.disk.snapshot()
    }

    /// Puts an earlier state of the disk back into a stopped node.
    pub fn roll_back(&mut self, earlier: Disk) {
        debug_assert!(self.store.is_none(), "a disk in use is not replaced");
        self.disk = earlier;
    }

    /// What the disk of a stopped node holds, as far as it reads.
    ///
    /// # Errors
    /// What the engine says.
    pub fn stopped_map<'a>(&self, now: Duration, keys: impl Iterator<Item = &'a Key>) -> Result<Map, String> {
        let (key, wall) = (self.directory.key(self.index).clone(), self.skew.wall(now));
        // A copy: an engine that opens writes.
        let store = Replica::open(&self.disk.snapshot(), &self.settings, key, 0, now, wall)?;
        Ok(store.readable(keys))
    }

    /// Sets the wall clock.
    pub fn set_clock(&mut self, skew: Skew) {
        self.skew = skew;
    }

    /// Removes a peer's key from the trusted ones, or adds it again.
    pub fn trust(&mut self, now: Duration, peer: NodeId, trusted: bool, out: &mut Outbox) {
        self.trusted.retain(|id| *id != peer);
        match trusted {
            true => {
                self.trusted.push(peer);
                self.removed.remove(&peer);
            }
            false => drop(self.removed.insert(peer, now)),
        }
        self.tell(now, Event::TrustChanged { trusted: self.trusted.clone() }, out);
    }

    /// Whether a peer's key is trusted.
    pub fn trusts(&self, peer: &NodeId) -> bool {
        self.trusted.contains(peer)
    }

    /// Since when the running coordinator knows that a peer's key was removed.
    pub fn refuses_since(&self, peer: &NodeId) -> Option<Duration> {
        self.shell.as_ref()?;
        self.removed.get(peer).copied()
    }

    /// Tells the coordinator's machine what an operator wants.
    pub fn command(&mut self, now: Duration, event: Event, out: &mut Outbox) {
        self.tell(now, event, out);
    }

    /// Whether a connection to this node is possible: the process that makes them runs.
    pub fn listens(&self) -> bool {
        self.sensor.is_some()
    }

    /// The store, while it runs.
    pub fn store(&self) -> Option<&Replica> {
        self.store.as_ref()
    }

    /// The coordinator, while it runs.
    pub fn shell(&self) -> Option<&Shell> {
        self.shell.as_ref()
    }

    /// The node's wall clock.
    pub fn wall(&self, now: Duration) -> lattice_core::time::WallTime {
        self.skew.wall(now)
    }

    /// A client writes. Whether it was acknowledged.
    pub fn write(&mut self, now: Duration, write: Write, out: &mut Outbox) -> bool {
        let wall = self.skew.wall(now);
        let Some(store) = self.store.as_mut().filter(|store| store.takes_writes(now)) else { return false };
        match store.write(now, wall, write) {
            Ok((entry, read)) => {
                out.seen.push(Seen::ReadBack { written: entry.clone(), read });
                if self.shell.is_some() && self.sensor.is_some() {
                    let deltas = codec::split_deltas(CLUSTER, std::slice::from_ref(&entry), "");
                    out.deltas.extend(deltas.map(Bytes::from));
                }
                out.seen.push(Seen::Acknowledged(entry));
                true
            }
            Err(error) => {
                out.seen.push(Seen::StoreFailed(error));
                false
            }
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Duration, input: Input, out: &mut Outbox) {
        match input {
            Input::Effect { life, effect } => {
                if self.life() == Some(life) {
                    self.run(now, *effect, out);
                }
            }
            Input::Event { life, event } => {
                if self.life() == Some(life) {
                    self.hear(now, *event, out);
                }
            }
            Input::Arrived { from, way, message } => self.arrived(now, from, way, message, out),
            Input::Answer { to, way, message } => self.answer(now, to, way, message, out),
            Input::QuestionDue(id) => {
                let over =
                    self.shell.as_mut().and_then(|shell| shell.asker.gave_up(id, pull::Failure::TimedOut));
                if let Some(event) = over {
                    self.hear(now, event, out);
                }
            }
            Input::Connection { with, up } => self.connection(now, with, up, out),
            Input::Due => self.due(now, out),
        }
    }

    /// When the next deadline of any part comes.
    pub fn deadline(&self) -> Option<Duration> {
        let store = self.store.as_ref().map(Replica::deadline);
        let sensor = self.sensor.as_ref().and_then(Sensor::deadline);
        let shell = self.shell.as_ref().and_then(Shell::deadline);
        [store, sensor, shell].into_iter().flatten().min()
    }

    fn due(&mut self, now: Duration, out: &mut Outbox) {
        if let Some(sensor) = &mut self.sensor
            && sensor.deadline().is_some_and(|deadline| deadline <= now)
        {
            let changed = sensor.hear(now, liveness::Event::Tick);
            let stuck = sensor.deadline().is_some_and(|deadline| deadline <= now);
            out.seen.push(Seen::Ticked { machine: "liveness", stuck });
            if changed {
                self.tell_sensor(now, out);
            }
        }
        let wall = self.skew.wall(now);
        if let Some(store) = &mut self.store
            && store.deadline() <= now
        {
            match store.work(now, wall) {
                Ok(true) => self.tell_seals(now, out),
                Ok(false) => {}
                Err(error) => out.seen.push(Seen::StoreFailed(error)),
            }
        }
        if let Some(shell) = &self.shell
            && shell.deadline().is_some_and(|deadline| deadline <= now)
        {
            self.hear(now, Event::Tick, out);
            let stuck = self.shell.as_ref().and_then(Shell::deadline).is_some_and(|deadline| deadline <= now);
            out.seen.push(Seen::Ticked { machine: "coordinator", stuck });
        }
    }

    fn arrived(&mut self, now: Duration, from: usize, way: Way, message: Message, out: &mut Outbox) {
        match message {
            Message::Announcement(signed) => self.heard(now, from, &signed, out),
            Message::Delta { writer, bytes } => self.delta(now, writer, bytes, out),
            message @ (Message::Request { .. } | Message::GetState { .. }) => {
                self.soon(now, Input::Answer { to: from, way, message }, out);
            }
            Message::Answer { question, outcome } => {
                let wall = self.skew.wall(now);
                let Some(shell) = &mut self.shell else { return };
                if shell.asker.question(question).is_none_or(|asked| asked.way() != way) {
                    return;
                }
                match shell.asker.answered(question, outcome, self.id, wall) {
                    super::asker::Outcome::Over(events) => {
                        events.into_iter().for_each(|event| self.hear(now, event, out));
                    }
                    super::asker::Outcome::Again => self.send_request(question, out),
                }
            }
        }
    }

    /// An announcement came on a connection: the sensor checks it, counts it, and passes it on.
    fn heard(&mut self, now: Duration, from: usize, signed: &Signed, out: &mut Outbox) {
        let from = self.directory.id(from);
        let wall = self.skew.wall(now);
        let Some(sensor) = &mut self.sensor else { return };
        let Ok(announcement) = codec::open_announcement(signed) else { return };
        if announcement.announcement.node != from || !sensor.is_connected(&from) {
            return;
        }
        if sensor.hear(now, liveness::Event::Heard { peer: from }) {
            self.tell_sensor(now, out);
        }
        self.tell(now, Event::Heard { from, announcement, wall }, out);
    }

    /// A delta came: whoever signed it must be trusted, and have written all of it.
    fn delta(&mut self, now: Duration, writer: NodeId, bytes: Bytes, out: &mut Outbox) {
        let wall = self.skew.wall(now);
        let passed_on = self.sensor.is_some() && self.shell.is_some() && self.trusted.contains(&writer);
        let Some(store) = self.store.as_mut().filter(|_| passed_on) else { return };
        let Ok(delta) = codec::decode_delta(bytes, &writer, CLUSTER) else { return };
        if let Err(error) = store.merge_delta(now, wall, delta.entries) {
            out.seen.push(Seen::StoreFailed(error));
        }
    }

    /// Answers a peer's request, or says why nobody does.
    fn answer(&mut self, now: Duration, to: usize, way: Way, message: Message, out: &mut Outbox) {
        let (question, outcome) = match message {
            Message::Request { question, envelope } => (question, self.serve(now, way, &envelope, out)),
            Message::GetState { question } => {
                let announced = self.recent_announcement(now, out);
                (question, announced.map(|announcement| announcement.signed))
            }
            Message::Announcement(_) | Message::Delta { .. } | Message::Answer { .. } => return,
        };
        out.parcels.push(Parcel { to, way, message: Message::Answer { question, outcome } });
    }

    fn serve(
        &mut self,
        now: Duration,
        way: Way,
        envelope: &Signed,
        out: &mut Outbox,
    ) -> Result<Signed, String> {
        if way == Way::P2p && (self.sensor.is_none() || self.shell.is_none()) {
            return Err("nobody answers".to_owned());
        }
        let wall = self.skew.wall(now);
        let store = self.store.as_mut().ok_or("the store is away")?;
        let (answer, asked) = store.exchange(now, wall, envelope);
        if let Some(asked) = asked {
            out.seen.push(Seen::Served(asked.peer));
            let event = Event::Asked {
                peer: asked.peer,
                announcement: asked.announcement,
                pull: asked.pull,
                ended: asked.ended,
                wall,
            };
            self.tell(now, event, out);
        }
        answer.ok_or_else(|| "the request could not be read".to_owned())
    }

    fn connection(&mut self, now: Duration, with: usize, up: bool, out: &mut Outbox) {
        let peer = self.directory.id(with);
        let event =
            if up { liveness::Event::Connected { peer } } else { liveness::Event::Disconnected { peer } };
        if let Some(sensor) = &mut self.sensor
            && sensor.hear(now, event)
        {
            self.tell_sensor(now, out);
        }
        if !up {
            let over = self.shell.as_ref().map(|shell| shell.asker.over_p2p(&peer)).unwrap_or_default();
            for question in over {
                self.lose_question(now, question, "the connection was closed", out);
            }
        }
    }

    /// A question fails at once; the machine hears of it a little later.
    pub(super) fn lose_question(
        &mut self,
        now: Duration,
        question: QuestionId,
        reason: &str,
        out: &mut Outbox,
    ) {
        let failure = pull::Failure::Lost(reason.to_owned());
        let over = self.shell.as_mut().and_then(|shell| shell.asker.gave_up(question, failure));
        if let Some(event) = over {
            self.tell(now, event, out);
        }
    }

    /// What the store's stream of seals tells the coordinator.
    pub(super) fn tell_seals(&mut self, now: Duration, out: &mut Outbox) {
        if let Some(seals) = self.store.as_ref().map(Replica::published) {
            self.tell(now, Event::Seals(seals), out);
        }
    }

    /// What the sensor's stream of peers tells the coordinator.
    fn tell_sensor(&mut self, now: Duration, out: &mut Outbox) {
        if let Some(event) = self.sensor.as_ref().map(Sensor::state) {
            self.tell(now, event, out);
        }
    }

    /// The coordinator's machine hears of something a little later.
    pub(super) fn tell(&mut self, now: Duration, event: Event, out: &mut Outbox) {
        if let Some(life) = self.life() {
            self.soon(now, Input::Event { life, event: Box::new(event) }, out);
        }
    }

    /// Something happens in the node a little later, and after everything that was put off before.
    pub(super) fn soon(&mut self, now: Duration, input: Input, out: &mut Outbox) {
        let most = u64::try_from(LOCAL_DELAY.as_micros()).unwrap_or(u64::MAX);
        let delay = Duration::from_micros(self.random.random_range(20..=most));
        self.order = self.order.max(now + delay);
        out.later.push((self.order, input));
    }

    pub(super) fn next_question(&mut self) -> QuestionId {
        self.questions += 1;
        self.questions
    }

    fn life(&self) -> Option<u64> {
        self.shell.as_ref().map(|shell| shell.life)
    }
}

/// Monotonic time of a part that started at `started`.
pub(super) fn monotonic(started: Duration, now: Duration) -> Monotonic {
    Monotonic(now.saturating_sub(started))
}
