//! The simulated world: one queue of what will happen, one time, and everything between the nodes.
//!
//! Events happen in order of their time, and those of one time in the order in which they were put off; every
//! choice comes from generators that one seed has made. So a seed is a whole history, and the same one each
//! time: what was found once is found again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::coordinator::Event;
use lattice_core::exchange::INLINE_BYTES_MAX;
use lattice_core::model::Key;
use lattice_core::pull;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::check::{Checks, Tally};
use super::faults::{Fault, Planned};
use super::ledger::Ledger;
use super::liar::{Liar, Lie};
use super::message::{Message, Parcel};
use super::network::{Class, Flip, Network, Way};
use super::node::Node;
use super::promise::Promise;
use super::replica::{Disk, Write};
use super::settings::{Directory, Settings};
use super::step::{Input, Outbox, Seen};
use super::trace::Trace;
use super::verdict::Broken;

/// How often a disk is copied, so that it can be rolled back to what it was.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(40);
/// How often the world looks whether its nodes have converged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Clients that write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Each node's client writes about so often.
    pub every: Duration,
    /// Then it writes at most so much at once.
    pub burst: u32,
    /// Keys that all clients share.
    pub keys: u32,
    /// Of the writes, the part that deletes.
    pub deletes: f64,
    /// Of those that do not, the part that expires.
    pub expire: f64,
}

/// One value of so many is so long that a pull asks for it by its key.
const LONG_IN: u32 = 12;
/// The longest that a value lives which expires.
const TTL_MAX: Duration = Duration::from_secs(240);

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    Node {
        node: usize,
        input: Input,
        /// It came over this connection, and is lost with it.
        serial: Option<u64>,
    },
    Flip(Flip),
    Write(usize),
    Fault(Fault),
    Snapshot,
}

#[derive(Debug)]
struct Scheduled {
    at: Duration,
    order: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A cluster, its network, its clients, and the time.
pub struct World {
    pub(super) seed: u64,
    pub(super) settings: Rc<Settings>,
    pub(super) directory: Rc<Directory>,
    pub(super) now: Duration,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(super) nodes: Vec<Node>,
    /// When each node's next deadline is known to come.
    due: Vec<Option<Duration>>,
    /// The network, to be changed by scenarios through [`World::apply`].
    pub(super) network: Network,
    pub(super) liars: BTreeMap<usize, Liar>,
    workload: Option<Workload>,
    pub(super) ledger: Ledger,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) random: Xoshiro256PlusPlus,
    /// Earlier states of the disks, while somebody may want them.
    pub(super) snapshots: Option<Vec<Disk>>,
    events: u64,
    /// For how long all nodes were switched off.
    pub(super) slept: Duration,
    /// How often what went wrong.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Nodes in whose next pull a key is removed.
    pub(super) traps: BTreeSet<usize>,
    /// What pulls that run will have brought when they have healed.
    pub(super) promises: BTreeMap<(usize, pull::Id), Promise>,
}

/// A key that is removed in the middle of a pull is removed within so long.
const TRAP_WITHIN: Duration = Duration::from_millis(150);
/// And added again within so long.
const TRUSTED_WITHIN: Duration = Duration::from_secs(60);

impl World {
    /// A cluster that has never run.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let settings = Rc::new(settings);
        let directory = Rc::new(Directory::new(settings.nodes, seed));
        let count = settings.nodes;
        let node = |index| Node::new(index, Rc::clone(&settings), Rc::clone(&directory), random.random());
        let nodes = (0..count).map(node).collect();
        Self {
            seed,
            now: Duration::ZERO,
            order: 0,
            queue: BinaryHeap::new(),
            nodes,
            due: vec![None; count],
            network: Network::new(count, Xoshiro256PlusPlus::seed_from_u64(random.random())),
            liars: BTreeMap::new(),
            workload: None,
            ledger: Ledger::default(),
            checks: Checks::new(count, settings.pulls_max),
            trace: Trace::new(std::env::var_os("SIMULATION_TRACE").is_some()),
            random,
            snapshots: None,
            events: 0,
            slept: Duration::ZERO,
            faults: BTreeMap::new(),
            traps: BTreeSet::new(),
            promises: BTreeMap::new(),
            settings,
            directory,
        }
    }

    /// A cluster whose nodes have all started, within two seconds.
    pub fn started(settings: Settings, seed: u64) -> Self {
        let mut world = Self::new(settings, seed);
        for node in 0..world.nodes.len() {
            let after = Duration::from_millis(world.random.random_range(0..2_000));
            world.put_off(after, Happening::Fault(Fault::Start(node)));
        }
        world
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// For how long any node was switched on.
    pub fn awake(&self) -> Duration {
        self.now - self.slept
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Who is who.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A node.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// What was seen since the beginning, or since [`Self::take_tally`].
    pub fn tally(&self) -> &Tally {
        &self.checks.tally
    }

    /// Begins another tally, and returns the one before.
    pub fn take_tally(&mut self) -> Tally {
        self.checks.take_tally()
    }

    /// How many writes honest nodes acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged()
    }

    /// How many events happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How often what went wrong.
    pub fn faults(&self) -> &BTreeMap<&'static str, u64> {
        &self.faults
    }

    /// How often which lies were told.
    pub fn lies(&self) -> BTreeMap<Lie, u64> {
        let mut lies = BTreeMap::new();
        for (&lie, told) in self.liars.values().flat_map(|liar| &liar.told) {
            *lies.entry(lie).or_default() += told;
        }
        lies
    }

    /// How often a liar lied.
    pub fn lies_told(&self, node: usize) -> u64 {
        self.liars.get(&node).map_or(0, |liar| liar.told.values().sum())
    }

    /// One number for all that happened.
    pub fn hash(&self) -> u64 {
        self.trace.hash()
    }

    /// Plans faults, from now on.
    pub fn plan(&mut self, planned: Vec<Planned>) {
        for (after, fault) in planned {
            if matches!(fault, Fault::RollBack(_)) && self.snapshots.is_none() {
                self.snapshots = Some(self.nodes.iter().map(Node::disk_snapshot).collect());
                self.put_off(SNAPSHOT_EVERY, Happening::Snapshot);
            }
            self.put_off(after, Happening::Fault(fault));
        }
    }

    /// Nothing planned happens any more.
    pub(super) fn forget_plan(&mut self) {
        let planned = |next: &Scheduled| matches!(next.happening, Happening::Fault(_) | Happening::Snapshot);
        self.queue.retain(|Reverse(next)| !planned(next));
        self.snapshots = None;
        self.traps.clear();
    }

    /// Clients write like this from now on; `None`: not at all.
    pub fn set_workload(&mut self, workload: Option<Workload>) {
        let before = std::mem::replace(&mut self.workload, workload);
        if let (None, Some(workload)) = (before, workload) {
            for node in 0..self.nodes.len() {
                let after = self.up_to(workload.every * 2);
                self.put_off(after, Happening::Write(node));
            }
        }
    }

    /// A client writes to a node, or deletes. Whether it was acknowledged.
    ///
    /// # Errors
    /// What does not hold.
    pub fn write(&mut self, node: usize, key: &str, value: Option<&str>) -> Result<bool, Broken> {
        self.write_for(node, key, value, None)
    }

    /// A client writes a value that expires.
    ///
    /// # Errors
    /// What does not hold.
    pub fn write_for(
        &mut self,
        node: usize,
        key: &str,
        value: Option<&str>,
        ttl: Option<Duration>,
    ) -> Result<bool, Broken> {
        let key = Key::try_from(key).expect("a key of 1 to 1,024 bytes");
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        let mut out = Outbox::default();
        let written = self.nodes[node].write(self.now, Write { key, value, ttl }, &mut out);
        self.take_out(node, out)?;
        Ok(written)
    }

    /// An operator wants something of a node's coordinator.
    ///
    /// # Errors
    /// What does not hold.
    pub fn command(&mut self, node: usize, event: Event) -> Result<(), Broken> {
        let mut out = Outbox::default();
        self.nodes[node].command(self.now, event, &mut out);
        self.take_out(node, out)
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// What does not hold.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Broken> {
        let until = self.now + time;
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > until {
                break;
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            self.events += 1;
            self.happen(next.happening)?;
        }
        self.now = until;
        Ok(())
    }

    /// Lets time pass until something holds; how long that took.
    ///
    /// # Errors
    /// What does not hold; also when `limit` is over.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<Duration, Broken> {
        let began = self.now;
        while !holds(self) {
            if self.now - began >= limit {
                let state = self.describe();
                return Err(self.broken(None, format!("not within {limit:?}: {what}\n{state}")));
            }
            self.run_for(LOOK_EVERY)?;
        }
        Ok(self.now - began)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Node { node, input, serial } => self.node_input(node, input, serial),
            Happening::Flip(flip) => {
                if let Some(up) = self.network.flip(flip) {
                    self.trace.line(self.now, format_args!("{} and {} connected: {up}", flip.a, flip.b));
                    self.connection(flip.a, flip.b, up)?;
                }
                Ok(())
            }
            Happening::Write(node) => self.client(node),
            Happening::Fault(fault) if self.can_be_put_right(&fault) => self.apply(fault),
            Happening::Fault(_) => Ok(()),
            Happening::Snapshot => {
                self.snapshots = Some(self.nodes.iter().map(Node::disk_snapshot).collect());
                self.put_off(SNAPSHOT_EVERY, Happening::Snapshot);
                Ok(())
            }
        }
    }

    fn node_input(&mut self, node: usize, input: Input, serial: Option<u64>) -> Result<(), Broken> {
        match &input {
            Input::Due => {
                if self.due[node] != Some(self.now) {
                    return Ok(());
                }
                self.due[node] = None;
            }
            Input::Arrived { from, message, .. } => {
                if serial.is_some_and(|serial| serial != self.network.serial(*from, node)) {
                    return Ok(());
                }
                let (kind, mark) = message.mark();
                self.trace.step(self.now, node, kind, mark);
            }
            Input::Effect { .. }
            | Input::Event { .. }
            | Input::Answer { .. }
            | Input::QuestionDue(_)
            | Input::Connection { .. } => {}
        }
        let mut out = Outbox::default();
        self.nodes[node].handle(self.now, input, &mut out);
        self.take_out(node, out)
    }

    /// Does what a node wants, and judges what it was seen to do.
    pub(super) fn take_out(&mut self, node: usize, out: Outbox) -> Result<(), Broken> {
        for (at, input) in out.later {
            self.put_off(at.saturating_sub(self.now), Happening::Node { node, input, serial: None });
        }
        for parcel in out.parcels {
            self.carry(node, parcel);
        }
        for delta in out.deltas {
            self.gossip(node, &delta);
        }
        for seen in out.seen {
            self.see(node, &seen)?;
        }
        self.after(node);
        Ok(())
    }

    fn see(&mut self, node: usize, seen: &Seen) -> Result<(), Broken> {
        let lies = self.liars.contains_key(&node);
        match seen {
            Seen::Acknowledged(entry) if lies => self.ledger.write(entry),
            Seen::Acknowledged(entry) => self.ledger.acknowledge(entry),
            Seen::Notice(notice) => self.trace.line(self.now, format_args!("{node}: {notice:?}")),
            Seen::PullStarted(id, peer, cause) => {
                let peer = self.directory.index(peer);
                self.trace.line(self.now, format_args!("{node}: pull {id} from {peer:?} ({cause:?})"));
                if let Some(peer) = peer {
                    self.pull_started(node, *id, peer);
                }
            }
            Seen::PullEnded(ended) => {
                let (outcome, merged, detail) = (ended.outcome, ended.entries_merged, &ended.detail);
                self.trace.line(
                    self.now,
                    format_args!("{node}: pull {} ended: {outcome}, {merged} merged {detail}", ended.id),
                );
                self.pull_ended(node, ended)?;
            }
            Seen::Handled { .. }
            | Seen::Ticked { .. }
            | Seen::ReadBack { .. }
            | Seen::Served(_)
            | Seen::OwnStore
            | Seen::Renewed
            | Seen::Recovered
            | Seen::Announced(_)
            | Seen::Proved(..)
            | Seen::CoordinatorStopped
            | Seen::StoreFailed(_) => {}
        }
        if lies {
            return Ok(());
        }
        let judged = self.checks.judge(self.now, node, &self.nodes[node], seen, &self.ledger);
        judged.map_err(|violation| self.violated(Some(node), violation))
    }

    fn pull_started(&mut self, node: usize, id: pull::Id, peer: usize) {
        self.promise(node, id, peer);
        if self.traps.remove(&node) {
            let removed = self.up_to(TRAP_WITHIN);
            let added = removed + self.up_to(TRUSTED_WITHIN);
            self.put_off(removed, Happening::Fault(Fault::Distrust(node, peer)));
            self.put_off(added, Happening::Fault(Fault::Trust(node, peer)));
        }
    }

    /// After anything happened to a node: its next deadline may be another one.
    pub(super) fn after(&mut self, node: usize) {
        if let Some(deadline) = self.nodes[node].deadline() {
            let at = deadline.max(self.now);
            if self.due[node].is_none_or(|due| at < due || due < self.now) {
                self.due[node] = Some(at);
                self.put_off(at - self.now, Happening::Node { node, input: Input::Due, serial: None });
            }
        }
    }

    fn carry(&mut self, from: usize, parcel: Parcel) {
        let parcel = match self.liars.get_mut(&from) {
            Some(liar) => match liar.twist(parcel) {
                Some(parcel) => parcel,
                None => return,
            },
            None => parcel,
        };
        let Parcel { to, way, message } = parcel;
        let serial = match way {
            Way::P2p if !self.network.connected(from, to) => return,
            Way::P2p => Some(self.network.serial(from, to)),
            Way::Http => None,
        };
        for at in self.network.send(self.now, way, from, to, message.class()) {
            let input = Input::Arrived { from, way, message: message.clone() };
            self.put_off(at - self.now, Happening::Node { node: to, input, serial });
        }
    }

    fn gossip(&mut self, from: usize, delta: &Bytes) {
        let writer = self.directory.id(from);
        let said = self.liars.get_mut(&from).map(|liar| liar.twist_delta(delta));
        let delta = said.as_ref().unwrap_or(delta);
        for to in self.network.reached_by_gossip(from) {
            for at in self.network.send(self.now, Way::P2p, from, to, Class::Delta) {
                let message = Message::Delta { writer, bytes: delta.clone() };
                let input = Input::Arrived { from, way: Way::P2p, message };
                self.put_off(at - self.now, Happening::Node { node: to, input, serial: None });
            }
        }
    }

    fn client(&mut self, node: usize) -> Result<(), Broken> {
        let Some(workload) = self.workload else { return Ok(()) };
        for _ in 0..self.random.random_range(1..=workload.burst) {
            let key = format!("key-{}", self.random.random_range(0..workload.keys));
            let mut value = format!("{}-{}", node, self.random.random::<u32>());
            if self.random.random_ratio(1, LONG_IN) {
                value.push_str(&"-".repeat(INLINE_BYTES_MAX));
            }
            let deletes = self.random.random_bool(workload.deletes);
            let ttl = self.random.random_bool(workload.expire).then(|| self.up_to(TTL_MAX));
            self.write_for(node, &key, (!deletes).then_some(value.as_str()), ttl)?;
        }
        let after = self.up_to(workload.every * 2);
        self.put_off(after, Happening::Write(node));
        Ok(())
    }

    /// Both ends of a connection learn that it is up or gone.
    pub(super) fn connection(&mut self, a: usize, b: usize, up: bool) -> Result<(), Broken> {
        for (node, with) in [(a, b), (b, a)] {
            let mut out = Outbox::default();
            self.nodes[node].handle(self.now, Input::Connection { with, up }, &mut out);
            self.take_out(node, out)?;
        }
        self.look(a, b);
        Ok(())
    }

    pub(super) fn look_at_connections(&mut self) {
        for b in 0..self.nodes.len() {
            for a in 0..b {
                self.look(a, b);
            }
        }
    }

    fn look(&mut self, a: usize, b: usize) {
        let trusts = |a: usize, b: usize| self.nodes[a].trusts(&self.directory.id(b));
        let able = self.nodes[a].listens() && self.nodes[b].listens() && trusts(a, b) && trusts(b, a);
        if let Some(flip) = self.network.look(a, b, able) {
            self.put_off(flip.after, Happening::Flip(flip));
        }
    }

    fn put_off(&mut self, after: Duration, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + after, order: self.order, happening }));
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.random_range(0..=micros))
    }
}
