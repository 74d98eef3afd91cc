//! The simulated world: one queue of what will happen, one time, and everything between the nodes.
//!
//! Events happen in order of their time, and those of one time in the order in which they were put off; every
//! choice comes from generators that one seed has made. So a seed is a whole history, and the same one each
//! time: what was found once is found again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::coordinator::Event;
use lattice_core::model::{Entry, Epoch, Key};
use lattice_core::seal::{Root, Runs};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::check::{Checks, Tally};
use super::faults::{Fault, Part, Planned};
use super::ledger::{Ledger, Map};
use super::liar::{Lie, Liar};
use super::message::{Message, Parcel};
use super::network::{Class, Flip, Network, Way};
use super::node::{Input, Node, Outbox, Seen};
use super::replica::Disk;
use super::settings::{Directory, Settings};
use super::time::Skew;
use super::trace::Trace;

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
}

/// Something that does not hold, with all that is needed to see it again.
#[derive(Debug)]
pub struct Broken {
    /// The seed of the world.
    pub seed: u64,
    /// When.
    pub at: Duration,
    /// Which node, if it is one node's fault.
    pub node: Option<usize>,
    /// What does not hold.
    pub what: String,
    /// The last lines of the trace.
    pub lines: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "at {:.3} s", self.at.as_secs_f64())?;
        if let Some(node) = self.node {
            write!(f, ", node {node}")?;
        }
        write!(f, ": {}\nreplay with SIMULATION_SEED={}", self.what, self.seed)
    }
}

impl std::error::Error for Broken {}

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
    seed: u64,
    settings: Rc<Settings>,
    directory: Rc<Directory>,
    now: Duration,
    order: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    nodes: Vec<Node>,
    /// When each node's next deadline is known to come.
    due: Vec<Option<Duration>>,
    /// The network, to be changed by scenarios through [`World::apply`].
    network: Network,
    liars: BTreeMap<usize, Liar>,
    workload: Option<Workload>,
    ledger: Ledger,
    checks: Checks,
    trace: Trace,
    random: Xoshiro256PlusPlus,
    /// Earlier states of the disks, while somebody may want them.
    snapshots: Option<Vec<Disk>>,
    events: u64,
    faults: u64,
}

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
            faults: 0,
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

    /// How many events happened, and faults among them.
    pub fn counts(&self) -> (u64, u64) {
        (self.events, self.faults)
    }

    /// How often a liar lied.
    pub fn lies_told(&self, node: usize) -> u64 {
        self.liars.get(&node).map_or(0, |liar| liar.told)
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
        let key = Key::try_from(key).expect("a key of 1 to 1,024 bytes");
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        let mut out = Outbox::default();
        let written = self.nodes[node].write(self.now, key, value, &mut out);
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

    /// Makes something go wrong, or right, now.
    ///
    /// # Errors
    /// What does not hold.
    pub fn apply(&mut self, fault: Fault) -> Result<(), Broken> {
        self.faults += 1;
        self.trace.line(self.now, format_args!("{fault:?}"));
        match fault {
            Fault::Cut { way, from, to } => self.cut(way, &from, &to, true),
            Fault::Join { way, from, to } => self.cut(way, &from, &to, false),
            Fault::Lines { way, line } => {
                self.network.set_all(way, line);
                Ok(())
            }
            Fault::Stop(part, node) => self.stop(part, node),
            Fault::Start(node) => self.start(node),
            Fault::Wipe(node) => self.wipe(node),
            Fault::RollBack(node) => self.roll_back(node),
            Fault::Clock(node, skew) => {
                self.nodes[node].set_clock(skew);
                self.after(node)
            }
            Fault::Lie(node, lies, often) => {
                self.lie(node, &lies, often);
                Ok(())
            }
        }
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

    /// Ends every fault, and all writing; then waits until the honest nodes have converged, and checks that
    /// what they have is what was written. How long it took.
    ///
    /// # Errors
    /// What does not hold.
    pub fn quiet(&mut self, limit: Duration) -> Result<Duration, Broken> {
        self.set_workload(None);
        let planned = std::mem::take(&mut self.queue);
        self.queue = planned
            .into_iter()
            .filter(|Reverse(next)| !matches!(next.happening, Happening::Fault(_) | Happening::Snapshot))
            .collect();
        self.trace.line(self.now, "quiet");
        self.network.mend();
        for node in 0..self.nodes.len() {
            self.nodes[node].set_clock(Skew::default());
            self.start(node)?;
        }
        self.look_at_connections();
        let took = self.run_until("all honest nodes have converged", limit, Self::converged)?;
        self.trace.line(self.now, format_args!("converged after {took:?}"));
        self.check_maps()?;
        Ok(took)
    }

    /// Whether all honest nodes have one root at a common epoch that is newer than the last write.
    pub fn converged(&self) -> bool {
        self.common_root().is_some_and(|(epoch, _)| self.newest_write().is_none_or(|newest| epoch >= newest))
    }

    /// The newest epoch that all honest nodes have sealed with one root, and the root.
    pub fn common_root(&self) -> Option<(Epoch, Option<Root>)> {
        let runs: Vec<Runs> = self
            .honest()
            .map(|node| Some(self.nodes[node].store()?.published().runs))
            .collect::<Option<_>>()?;
        let epoch = runs.iter().map(Runs::newest_epoch).collect::<Option<Vec<_>>>()?.into_iter().min()?;
        let roots: Vec<Option<Root>> =
            runs.iter().map(|runs| Some(runs.at(epoch)?.copied())).collect::<Option<_>>()?;
        roots.windows(2).all(|pair| pair[0] == pair[1]).then(|| (epoch, roots[0]))
    }

    /// What a node's store holds.
    ///
    /// # Errors
    /// When it does not run, or fails.
    pub fn map(&self, node: usize) -> Result<Map, String> {
        let wall = self.nodes[node].wall(self.now);
        let store = self.nodes[node].store().ok_or("the store does not run")?;
        store.map(self.now, wall, self.ledger.keys())
    }

    /// The nodes that do not lie.
    pub fn honest(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| !self.liars.contains_key(node))
    }

    fn check_maps(&self) -> Result<(), Broken> {
        let mut first: Option<Map> = None;
        for node in self.honest() {
            let broken = |what: String| self.broken(Some(node), what);
            let map = self.map(node).map_err(broken)?;
            self.ledger.check_written(map.values()).map_err(broken)?;
            self.ledger.check_held(&map).map_err(broken)?;
            match &first {
                Some(first) if *first != map => {
                    return Err(broken("equal roots over different maps".to_owned()));
                }
                Some(_) => {}
                None => first = Some(map),
            }
        }
        Ok(())
    }

    /// The greatest epoch of what honest nodes hold.
    fn newest_write(&self) -> Option<Epoch> {
        self.ledger.newest().map(|hlc| hlc.epoch(self.settings.epoch_length))
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
            Happening::Fault(fault) => self.apply(fault),
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
    fn take_out(&mut self, node: usize, out: Outbox) -> Result<(), Broken> {
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
        self.after(node)
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
            }
            Seen::PullEnded(ended) => {
                let (outcome, merged, detail) = (ended.outcome, ended.entries_merged, &ended.detail);
                self.trace.line(
                    self.now,
                    format_args!("{node}: pull {} ended: {outcome}, {merged} merged {detail}", ended.id),
                );
            }
            Seen::Handled { .. }
            | Seen::Stuck(_)
            | Seen::Announced(_)
            | Seen::Proved(_)
            | Seen::CoordinatorStopped
            | Seen::StoreFailed(_) => {}
        }
        if lies {
            return Ok(());
        }
        let judged = self.checks.judge(self.now, node, seen, &self.ledger);
        judged.map_err(|what| self.broken(Some(node), what))
    }

    /// After anything happened to a node: its next deadline may be another one.
    fn after(&mut self, node: usize) -> Result<(), Broken> {
        if let Some(deadline) = self.nodes[node].deadline() {
            let at = deadline.max(self.now);
            if self.due[node].is_none_or(|due| at < due || due < self.now) {
                self.due[node] = Some(at);
                self.put_off(at - self.now, Happening::Node { node, input: Input::Due, serial: None });
            }
        }
        Ok(())
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
            let value = format!("{}-{}", node, self.random.random::<u32>());
            let deletes = self.random.random_bool(workload.deletes);
            self.write(node, &key, (!deletes).then_some(value.as_str()))?;
        }
        let after = self.up_to(workload.every * 2);
        self.put_off(after, Happening::Write(node));
        Ok(())
    }

    fn cut(&mut self, way: Way, from: &[usize], to: &[usize], cut: bool) -> Result<(), Broken> {
        for &a in from {
            for &b in to.iter().filter(|b| **b != a) {
                self.network.cut(way, a, b, cut);
            }
        }
        self.look_at_connections();
        Ok(())
    }

    fn stop(&mut self, part: Part, node: usize) -> Result<(), Broken> {
        let mut out = Outbox::default();
        let (now, stopped) = (self.now, &mut self.nodes[node]);
        match part {
            Part::Store => stopped.stop_store(now, &mut out),
            Part::Sensor => stopped.stop_sensor(now, &mut out),
            Part::Coordinator => stopped.stop_coordinator(&mut out),
            Part::All => stopped.stop(&mut out),
        }
        self.take_out(node, out)?;
        match part {
            Part::Sensor | Part::All => self.drop_connections(node),
            Part::Store | Part::Coordinator => Ok(()),
        }
    }

    fn start(&mut self, node: usize) -> Result<(), Broken> {
        let mut out = Outbox::default();
        self.nodes[node].start(self.now, &mut out);
        self.take_out(node, out)?;
        self.look_at_connections();
        Ok(())
    }

    fn wipe(&mut self, node: usize) -> Result<(), Broken> {
        let lost = self.disk_map(node)?;
        self.stop(Part::All, node)?;
        self.nodes[node].wipe();
        self.owe_less(node, &lost)?;
        self.start(node)
    }

    fn roll_back(&mut self, node: usize) -> Result<(), Broken> {
        let Some(earlier) = self.snapshots.as_ref().map(|disks| disks[node].snapshot()) else { return Ok(()) };
        let lost = self.disk_map(node)?;
        self.stop(Part::All, node)?;
        self.nodes[node].roll_back(earlier);
        self.checks.rolled_back.insert(node);
        self.checks.doubtful.insert(self.directory.id(node));
        self.start(node)?;
        let left = self.disk_map(node)?;
        let lost = lost.into_iter().filter(|(key, entry)| left.get(key) != Some(entry)).collect();
        self.owe_less(node, &lost)
    }

    /// What only a lost disk held is owed no longer.
    fn owe_less(&mut self, node: usize, lost: &Map) -> Result<(), Broken> {
        let mut others = Vec::new();
        for other in 0..self.nodes.len() {
            if other != node || self.nodes[node].store().is_some() {
                others.push(self.disk_map(other)?);
            }
        }
        self.ledger.disk_lost(lost, &others);
        Ok(())
    }

    /// What a node's disk holds, whether its store runs or not.
    fn disk_map(&mut self, node: usize) -> Result<Map, Broken> {
        if self.nodes[node].store().is_some() {
            return self.map(node).map_err(|what| self.broken(Some(node), what));
        }
        let map = self.nodes[node].stopped_map(self.now, self.ledger.keys());
        map.map_err(|what| self.broken(Some(node), what))
    }

    fn lie(&mut self, node: usize, lies: &[Lie], often: f64) {
        if lies.is_empty() {
            self.liars.remove(&node);
            return;
        }
        self.checks.doubtful.insert(self.directory.id(node));
        let random = Xoshiro256PlusPlus::seed_from_u64(self.random.random());
        let liar = Liar::new(self.directory.key(node).clone(), lies, often, random);
        self.liars.insert(node, liar);
    }

    /// Ends a node's connections at once, as its operating system does.
    fn drop_connections(&mut self, node: usize) -> Result<(), Broken> {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if self.network.connected(node, other) {
                self.network.break_now(node, other);
                self.connection(node.min(other), node.max(other), false)?;
            }
        }
        Ok(())
    }

    /// Both ends of a connection learn that it is up or gone.
    fn connection(&mut self, a: usize, b: usize, up: bool) -> Result<(), Broken> {
        for (node, with) in [(a, b), (b, a)] {
            let mut out = Outbox::default();
            self.nodes[node].handle(self.now, Input::Connection { with, up }, &mut out);
            self.take_out(node, out)?;
        }
        self.look(a, b);
        Ok(())
    }

    fn look_at_connections(&mut self) {
        for b in 0..self.nodes.len() {
            for a in 0..b {
                self.look(a, b);
            }
        }
    }

    fn look(&mut self, a: usize, b: usize) {
        let able = self.nodes[a].listens() && self.nodes[b].listens();
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

    /// The end of a run that does not hold.
    pub fn broken(&self, node: Option<usize>, what: String) -> Broken {
        let lines = self.trace.lines().map(str::to_owned).collect();
        Broken { seed: self.seed, at: self.now, node, what, lines }
    }

    /// Every node in a few lines, for the report of a failure.
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let newest = node.store().and_then(|store| store.published().runs.newest().copied());
            let lies = if self.liars.contains_key(&index) { " (lies)" } else { "" };
            lines.push(format!("node {index}{lies} {}: {newest:?}", self.directory.id(index).short()));
            for peer in node.shell().map(|shell| shell.status(self.now).peers).unwrap_or_default() {
                lines.push(format!(
                    "  peer {:?}: {:?} {:?} count {} backoff {:?} pull {:?} errors {} {}",
                    self.directory.index(&peer.node),
                    peer.state,
                    peer.failover,
                    peer.divergence_count,
                    peer.backoff,
                    peer.pull,
                    peer.errors,
                    peer.last_error,
                ));
            }
        }
        let newest = self.newest_write();
        lines.push(format!("newest write: epoch {newest:?}; common root: {:?}", self.common_root()));
        lines.join("\n")
    }

    /// The entries of a key on all honest nodes, for the report of a failure.
    pub fn everywhere(&self, key: &Key) -> Vec<(usize, Option<Entry>)> {
        let held = |node| (node, self.map(node).ok().and_then(|map| map.get(key).cloned()));
        self.honest().map(held).collect()
    }

    /// Nodes that an honest node has named as liars: pulls from them ended so, or they contradicted themselves.
    pub fn named(&self) -> BTreeSet<usize> {
        let tally = &self.checks.tally;
        let lied = tally.outcomes(lattice_core::pull::Outcome::Lied).map(|ended| ended.pull.peer);
        let contradicted = tally.contradictions.iter().map(|(_, peer)| *peer);
        lied.chain(contradicted).filter_map(|peer| self.directory.index(&peer)).collect()
    }
}
