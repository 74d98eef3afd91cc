//! Random histories: a cluster, its clients, and a schedule of faults, all from one seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::check::Tally;
use super::liar::Lie;
use super::schedule::{self, Mix};
use super::{Broken, CONVERGES_WITHIN, Settings, Workload, World};

/// How large the cluster of a random history is: one of these. Of two, neither has anybody to ask.
const NODES: [usize; 8] = [2, 3, 3, 4, 5, 5, 6, 8];

/// What a random history came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How much time passed while nodes were switched on.
    pub simulated: Duration,
    /// How many events happened.
    pub events: u64,
    /// How often what went wrong.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often which lies were told.
    pub lies: BTreeMap<Lie, u64>,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How long it took from the end of the faults until all nodes had converged.
    pub converged_after: Duration,
    /// What was seen.
    pub tally: Tally,
    /// One number for all of it.
    pub hash: u64,
}

/// What a random history is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The cluster.
    pub settings: Settings,
    /// What goes wrong.
    pub mix: Mix,
    /// For how long.
    pub faults_for: Duration,
    /// What clients do meanwhile.
    pub workload: Workload,
}

impl Scenario {
    /// The one of a seed: clusters of several sizes.
    pub fn of(seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x005c_a1e5);
        Self::usual(NODES[random.random_range(0..NODES.len())])
    }

    /// So many nodes with the usual faults.
    pub fn usual(nodes: usize) -> Self {
        Self {
            settings: Settings::of(nodes),
            mix: Mix::USUAL,
            faults_for: Duration::from_secs(200),
            workload: Workload {
                every: Duration::from_secs(12),
                burst: 8,
                keys: 150,
                deletes: 0.2,
                expire: 0.2,
            },
        }
    }

    /// Runs one history to its end.
    ///
    /// # Errors
    /// What did not hold.
    pub fn run(&self, seed: u64) -> Result<Report, Broken> {
        let mut world = World::started(self.settings.clone(), seed);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5eed);
        world.set_workload(Some(self.workload));
        world.plan(schedule::random(&self.settings, &self.mix, self.faults_for, &mut random));
        world.run_for(self.faults_for)?;
        let converged_after = world.quiet(CONVERGES_WITHIN)?;
        Ok(Report {
            seed,
            simulated: world.awake(),
            events: world.events(),
            faults: world.faults().clone(),
            lies: world.lies(),
            acknowledged: world.acknowledged(),
            converged_after,
            hash: world.hash(),
            tally: world.take_tally(),
        })
    }
}
