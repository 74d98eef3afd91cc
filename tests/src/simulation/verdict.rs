//! Whether a cluster has come to rest where it must: one root on all honest nodes, over what clients wrote.
//!
//! And if it has not: all that is needed to see why, and to see it again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use lattice_core::coordinator::OwnSeals;
use lattice_core::model::{Content, Entry, Epoch, HeadContent, Hlc};
use lattice_core::pull::Outcome;
use lattice_core::seal::{Root, Runs};

use super::faults::{Fault, Part};
use super::invariant::{Invariant, Violation};
use super::ledger::Map;
use super::time::{Skew, true_time};
use super::world::World;

/// Something that does not hold, with all that is needed to see it again.
#[derive(Debug)]
pub struct Broken {
    /// The seed of the world.
    pub seed: u64,
    /// When.
    pub at: Duration,
    /// Which node, if it is one node's fault.
    pub node: Option<usize>,
    /// Which invariant; `None` for what one scenario expected.
    pub invariant: Option<Invariant>,
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
        if let Some(invariant) = self.invariant {
            write!(f, ": it does not hold that {invariant}")?;
        }
        write!(f, ": {}\nreplay with SIMULATION_SEED={}", self.what, self.seed)
    }
}

impl std::error::Error for Broken {}

impl World {
    /// Ends every fault, and all writing; then waits until the honest nodes have converged, and checks that
    /// what they have is what was written. How long it took.
    ///
    /// What a clock that was days ahead has stamped is due in days. Until then all else is the same everywhere;
    /// the nodes are switched off meanwhile, which costs no time.
    ///
    /// # Errors
    /// What does not hold.
    pub fn quiet(&mut self, limit: Duration) -> Result<Duration, Broken> {
        self.set_workload(None);
        self.forget_plan();
        self.trace.line(self.now, "quiet");
        self.network.mend();
        for node in 0..self.nodes.len() {
            self.nodes[node].set_clock(Skew::default());
            (0..self.nodes.len()).try_for_each(|whom| self.trust(node, whom, true))?;
            self.start(node)?;
        }
        self.look_at_connections();
        let mut took = Duration::ZERO;
        let due = self.due_in();
        if due > limit {
            let same = "all but what was stamped ahead is the same";
            took = self.come_to(same, limit, |world| world.is_whole() && world.same_maps_so_far())?;
            (0..self.nodes.len()).try_for_each(|node| self.apply(Fault::Stop(Part::All, node)))?;
            let slept = self.due_in();
            self.run_for(slept)?;
            self.slept += slept;
            (0..self.nodes.len()).try_for_each(|node| self.start(node))?;
        }
        let limit = limit + self.due_in();
        took += self.come_to("all honest nodes have come to rest", limit, Self::at_rest)?;
        self.trace.line(self.now, format_args!("at rest after {took:?}"));
        self.check_maps()?;
        Ok(took)
    }

    /// How long it takes until everything that was ever written is due by a clock that is right.
    fn due_in(&self) -> Duration {
        let newest = self.ledger.newest().map(Hlc::wall);
        newest.map_or(Duration::ZERO, |newest| newest.since(true_time(self.now)))
    }

    fn come_to(
        &mut self,
        what: &str,
        limit: Duration,
        holds: impl FnMut(&Self) -> bool,
    ) -> Result<Duration, Broken> {
        self.checks.tally.checked.count(Invariant::OneRootInTheEnd, 1);
        let came = self.run_until(what, limit, holds);
        came.map_err(|broken| match broken.invariant {
            None => Broken { invariant: Some(Invariant::OneRootInTheEnd), ..broken },
            Some(_) => broken,
        })
    }

    /// What a node's store says of itself, while it runs.
    pub fn own(&self, node: usize) -> Option<OwnSeals> {
        Some(self.nodes[node].store()?.published())
    }

    /// Whether all honest nodes have converged and are whole, and none of them has merged anything since.
    ///
    /// An entry may come late, when its epoch is sealed already (a liar was the only one to have it): then one
    /// node has it in its live map before any of them has it under a root.
    pub fn at_rest(&self) -> bool {
        let maps = || self.honest().map(|node| self.map(node)).collect::<Result<Vec<Map>, _>>();
        self.is_whole()
            && self.converged()
            && maps().is_ok_and(|maps| maps.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// Whether no honest node lacks anything that it knows of.
    fn is_whole(&self) -> bool {
        let whole = |node| self.own(node).is_some_and(|own| !own.recovering && own.damaged == 0);
        self.honest().all(whole)
    }

    /// Whether all honest nodes hold the same of every key that nobody has stamped ahead of a right clock.
    fn same_maps_so_far(&self) -> bool {
        let soon = true_time(self.now) + self.settings.max_clock_drift;
        let maps = self.honest().map(|node| self.map(node)).collect::<Result<Vec<Map>, _>>();
        let Ok(maps) = maps else { return false };
        self.ledger.keys().all(|key| {
            let held: Vec<Option<&Entry>> = maps.iter().map(|map| map.get(key)).collect();
            let ahead = held.iter().flatten().any(|entry| entry.version.hlc.wall() > soon);
            ahead || held.windows(2).all(|pair| pair[0] == pair[1])
        })
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

    /// What a node's store holds: values only of what has not expired.
    ///
    /// # Errors
    /// When it does not run, or fails.
    pub fn map(&self, node: usize) -> Result<Map, String> {
        let wall = self.nodes[node].wall(self.now);
        let store = self.nodes[node].store().ok_or("the store does not run")?;
        let mut map = store.map(self.now, wall, self.ledger.keys())?;
        for entry in map.values_mut().filter(|entry| entry.expires.is_some_and(|expires| expires <= wall)) {
            if let HeadContent::Value(value_digest) = entry.head().content {
                entry.content = Content::Dropped { value_digest };
            }
        }
        Ok(map)
    }

    /// The nodes that do not lie.
    pub fn honest(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| !self.liars.contains_key(node))
    }

    fn check_maps(&mut self) -> Result<(), Broken> {
        let mut sealed: Vec<(Option<Root>, Map)> = Vec::new();
        for node in self.honest().collect::<Vec<_>>() {
            let wall = self.nodes[node].wall(self.now);
            let map = self.must(node, Invariant::StoresWork, |world| world.map(node))?;
            self.must(node, Invariant::OnlyWhatWasWritten, |world| world.ledger.check_written(map.values()))?;
            self.must(node, Invariant::AcknowledgedIsNotLost, |world| world.ledger.check_held(&map))?;
            self.must(node, Invariant::DeletedStaysDeleted, |world| world.ledger.check_deleted(&map))?;
            let read = self.must(node, Invariant::StoresWork, |world| world.read(node))?;
            self.must(node, Invariant::ExpiredIsNotRead, |world| world.ledger.check_fresh(wall, &read))?;
            let (root, mut entries) = self.must(node, Invariant::StoresWork, |world| {
                world.nodes[node].store().ok_or("the store does not run")?.sealed(world.now, wall)
            })?;
            // One root may be of several epochs, and what expires between them is in some of these maps.
            entries.retain(|_, entry| entry.expires.is_none());
            match sealed.iter().find(|other| other.0 == root) {
                Some(other) => {
                    let equal = if other.1 == entries { Ok(()) } else { Err("they do not".to_owned()) };
                    self.must(node, Invariant::EqualRootsAreEqualMaps, |_| equal)?;
                }
                None => sealed.push((root, entries)),
            }
        }
        Ok(())
    }

    /// Everything that clients can read of a node.
    fn read(&self, node: usize) -> Result<Vec<Entry>, String> {
        let (store, wall) =
            (self.nodes[node].store().ok_or("the store does not run")?, self.nodes[node].wall(self.now));
        self.ledger.keys().filter_map(|key| store.get(self.now, wall, key).transpose()).collect()
    }

    /// Looks at an invariant that concerns one node.
    fn must<T>(
        &mut self,
        node: usize,
        invariant: Invariant,
        judge: impl FnOnce(&Self) -> Result<T, String>,
    ) -> Result<T, Broken> {
        self.checks.tally.checked.count(invariant, 1);
        let judged = judge(self);
        judged.map_err(|what| self.violated(Some(node), Violation { invariant, what }))
    }

    /// The greatest epoch of what honest nodes hold.
    fn newest_write(&self) -> Option<Epoch> {
        self.ledger.newest().map(|hlc| hlc.epoch(self.settings.epoch_length))
    }

    /// The end of a run that does not hold.
    pub fn broken(&self, node: Option<usize>, what: String) -> Broken {
        let lines = self.trace.lines().map(str::to_owned).collect();
        Broken { seed: self.seed, at: self.now, node, invariant: None, what, lines }
    }

    /// The end of a run in which an invariant does not hold.
    pub(super) fn violated(&self, node: Option<usize>, violation: Violation) -> Broken {
        Broken { invariant: Some(violation.invariant), ..self.broken(node, violation.what) }
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

    /// Nodes that an honest node has named as liars: pulls from them ended so, or they contradicted themselves.
    pub fn named(&self) -> BTreeSet<usize> {
        let tally = &self.checks.tally;
        let lied = tally.outcomes(Outcome::Lied).map(|ended| ended.pull.peer);
        let contradicted = tally.contradictions.iter().map(|(_, peer)| *peer);
        lied.chain(contradicted).filter_map(|peer| self.directory.index(&peer)).collect()
    }
}
