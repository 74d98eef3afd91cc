//! Whether a cluster has come to rest where it must: one root on all honest nodes, over what clients wrote.
//!
//! And if it has not: all that is needed to see why, and to see it again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use lattice_core::coordinator::OwnSeals;
use lattice_core::model::Epoch;
use lattice_core::pull::Outcome;
use lattice_core::seal::{Root, Runs};

use super::ledger::Map;
use super::time::Skew;
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

impl World {
    /// Ends every fault, and all writing; then waits until the honest nodes have converged, and checks that
    /// what they have is what was written. How long it took.
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
            self.start(node)?;
        }
        self.look_at_connections();
        let took = self.run_until("all honest nodes have come to rest", limit, Self::at_rest)?;
        self.trace.line(self.now, format_args!("at rest after {took:?}"));
        self.check_maps()?;
        Ok(took)
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
        let whole = |node| self.own(node).is_some_and(|own| !own.recovering && own.damaged == 0);
        if !self.honest().all(whole) {
            return false;
        }
        let maps = || self.honest().map(|node| self.map(node)).collect::<Result<Vec<Map>, _>>();
        self.converged() && maps().is_ok_and(|maps| maps.windows(2).all(|pair| pair[0] == pair[1]))
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
        let mut sealed: Vec<(Option<Root>, Map)> = Vec::new();
        for node in self.honest() {
            let broken = |what: String| self.broken(Some(node), what);
            let map = self.map(node).map_err(broken)?;
            self.ledger.check_written(map.values()).map_err(broken)?;
            self.ledger.check_held(&map).map_err(broken)?;
            let store =
                self.nodes[node].store().ok_or_else(|| broken("the store does not run".to_owned()))?;
            let (root, entries) = store.sealed(self.now, self.nodes[node].wall(self.now)).map_err(broken)?;
            match sealed.iter().find(|other| other.0 == root) {
                Some(other) if other.1 != entries => {
                    return Err(broken("equal roots over different entries".to_owned()));
                }
                Some(_) => {}
                None => sealed.push((root, entries)),
            }
        }
        Ok(())
    }

    /// The greatest epoch of what honest nodes hold.
    fn newest_write(&self) -> Option<Epoch> {
        self.ledger.newest().map(|hlc| hlc.epoch(self.settings.epoch_length))
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

    /// Nodes that an honest node has named as liars: pulls from them ended so, or they contradicted themselves.
    pub fn named(&self) -> BTreeSet<usize> {
        let tally = &self.checks.tally;
        let lied = tally.outcomes(Outcome::Lied).map(|ended| ended.pull.peer);
        let contradicted = tally.contradictions.iter().map(|(_, peer)| *peer);
        lied.chain(contradicted).filter_map(|peer| self.directory.index(&peer)).collect()
    }
}
