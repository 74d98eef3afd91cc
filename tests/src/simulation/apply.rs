//! Faults done to a world: nodes stopped and started, disks taken away, lines cut, members turned into liars.

use lattice_core::model::Entry;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::faults::{Fault, Part};
use super::ledger::Map;
use super::liar::{Liar, Lie};
use super::network::Way;
use super::step::Outbox;
use super::verdict::Broken;
use super::world::World;

impl World {
    /// Makes something go wrong, or right, now.
    ///
    /// # Errors
    /// What does not hold.
    pub fn apply(&mut self, fault: Fault) -> Result<(), Broken> {
        if let Some(kind) = fault.kind() {
            *self.faults.entry(kind).or_default() += 1;
        }
        self.trace.line(self.now, format_args!("{fault:?}"));
        match fault {
            Fault::Cut { way, lines } => {
                self.cut(way, &lines, true);
                Ok(())
            }
            Fault::Join { way, lines } => {
                self.cut(way, &lines, false);
                Ok(())
            }
            Fault::Line { way, from, to, line } => {
                self.network.set(way, from, to, line);
                Ok(())
            }
            Fault::Lines { way, line } => {
                self.network.set_all(way, line);
                Ok(())
            }
            Fault::Stop(part, node) => self.stop(part, node),
            Fault::Start(node) => self.start(node),
            Fault::Wipe(node) => self.wipe(node),
            Fault::RollBack(node) => self.roll_back(node),
            Fault::Salvage(node) => self.salvage(node),
            Fault::Rot(node, count) => self.rot(node, count),
            Fault::Clock(node, skew) => {
                self.nodes[node].set_clock(skew);
                self.after(node);
                Ok(())
            }
            Fault::Distrust(node, whom) => self.trust(node, whom, false),
            Fault::Trust(node, whom) => self.trust(node, whom, true),
            Fault::DistrustInPull(node) => {
                self.traps.insert(node);
                Ok(())
            }
            Fault::Lie(node, lies, often) => self.lie(node, &lies, often),
        }
    }

    /// Whether a cluster can come to rest after a planned fault. A store of which a part was salvaged recovers until
    /// somebody who was never empty meanwhile has shown it everything; where nobody has anything, only an operator ends that.
    pub(super) fn can_be_put_right(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Salvage(node) => {
                let newest = |other| self.own(other)?.runs.newest().map(|run| run.root.is_some());
                self.honest().any(|other| other != *node && newest(other) == Some(true))
            }
            _ => true,
        }
    }

    fn cut(&mut self, way: Way, lines: &[(usize, usize)], cut: bool) {
        for &(from, to) in lines {
            self.network.cut(way, from, to, cut);
        }
        self.look_at_connections();
    }

    /// A node's operator removes another one's key, or adds it: a connection to it ends at once.
    pub(super) fn trust(&mut self, node: usize, whom: usize, trusted: bool) -> Result<(), Broken> {
        self.checks.removals |= !trusted;
        let peer = self.directory.id(whom);
        if self.nodes[node].trusts(&peer) == trusted {
            return Ok(());
        }
        let mut out = Outbox::default();
        self.nodes[node].trust(self.now, peer, trusted, &mut out);
        self.take_out(node, out)?;
        if !trusted && self.network.connected(node, whom) {
            self.network.break_now(node, whom);
            self.connection(node.min(whom), node.max(whom), false)?;
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

    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        let mut out = Outbox::default();
        self.nodes[node].start(self.now, &mut out);
        self.take_out(node, out)?;
        self.look_at_connections();
        Ok(())
    }

    fn wipe(&mut self, node: usize) -> Result<(), Broken> {
        let lost = self.disk_map(node)?;
        // The other services may go on, and find another store than they knew.
        let part = if self.random.random_bool(0.5) { Part::All } else { Part::Store };
        self.stop(part, node)?;
        self.forget_promises(node);
        self.nodes[node].wipe();
        self.owe_less(node, &lost)?;
        self.start(node)
    }

    fn roll_back(&mut self, node: usize) -> Result<(), Broken> {
        let Some(earlier) = self.snapshots.as_ref().map(|disks| disks[node].snapshot()) else {
            return Ok(());
        };
        let lost = self.disk_map(node)?;
        let part = if self.random.random_bool(0.5) { Part::All } else { Part::Store };
        self.stop(part, node)?;
        self.forget_promises(node);
        self.nodes[node].roll_back(earlier);
        self.checks.rolled_back.insert(node);
        self.checks.doubtful.insert(self.directory.id(node));
        self.start(node)?;
        let left = self.disk_map(node)?;
        let lost = lost.into_iter().filter(|(key, entry)| left.get(key) != Some(entry)).collect();
        self.owe_less(node, &lost)
    }

    fn salvage(&mut self, node: usize) -> Result<(), Broken> {
        let held = self.disk_map(node)?;
        let (saved, lost): (Map, Map) = held.into_iter().partition(|_| self.random.random_bool(0.5));
        self.stop(Part::All, node)?;
        self.forget_promises(node);
        let salvaged = self.nodes[node].salvage(self.now, saved.into_values().collect());
        salvaged.map_err(|what| self.broken(Some(node), what))?;
        self.owe_less(node, &lost)?;
        self.start(node)
    }

    fn rot(&mut self, node: usize, count: usize) -> Result<(), Broken> {
        let mut common = self.disk_map(node)?;
        for other in self.honest().filter(|other| *other != node).collect::<Vec<_>>() {
            let held = self.disk_map(other)?;
            common.retain(|key, entry| held.get(key) == Some(entry));
        }
        let mut chosen: Vec<Entry> = common.into_values().collect();
        while chosen.len() > count {
            let index = self.random.random_range(0..chosen.len());
            chosen.swap_remove(index);
        }
        let mut out = Outbox::default();
        let rotten = self.nodes[node].rot(self.now, &chosen, &mut out);
        rotten.map_err(|what| self.broken(Some(node), what))?;
        self.take_out(node, out)
    }

    /// What only a lost disk held is owed no longer. A liar's disk is none to build on: it gives back what it
    /// likes.
    fn owe_less(&mut self, node: usize, lost: &Map) -> Result<(), Broken> {
        let mut others = Vec::new();
        for other in self.honest().collect::<Vec<_>>() {
            if other != node || self.nodes[node].store().is_some() {
                others.push(self.disk_map(other)?);
            }
        }
        self.ledger.disk_lost(lost, &others);
        Ok(())
    }

    /// What a node's disk holds, as far as it reads, whether its store runs or not.
    fn disk_map(&mut self, node: usize) -> Result<Map, Broken> {
        if let Some(store) = self.nodes[node].store() {
            return Ok(store.readable(self.ledger.keys()));
        }
        let map = self.nodes[node].stopped_map(self.now, self.ledger.keys());
        map.map_err(|what| self.broken(Some(node), what))
    }

    fn lie(&mut self, node: usize, lies: &[Lie], often: f64) -> Result<(), Broken> {
        if lies.is_empty() {
            self.liars.remove(&node);
            return Ok(());
        }
        self.checks.doubtful.insert(self.directory.id(node));
        let random = Xoshiro256PlusPlus::seed_from_u64(self.random.random());
        let liar = Liar::new(self.directory.key(node).clone(), lies, often, random);
        self.liars.insert(node, liar);
        // What it acknowledged while it was honest, and nobody else has, is lost with its honesty.
        let lost = self.disk_map(node)?;
        self.owe_less(node, &lost)
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
}
