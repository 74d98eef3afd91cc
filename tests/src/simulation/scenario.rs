//! Random histories: a cluster, its clients, and a schedule of faults, all from one seed.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::check::Tally;
use super::faults::{self, Fault, Mix};
use super::liar::Lie;
use super::{Broken, CONVERGES_WITHIN, Settings, Workload, World};

/// What a random history came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How much time passed.
    pub simulated: Duration,
    /// How many events happened, and faults among them.
    pub counts: (u64, u64),
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
    /// In one history of so many, one of the nodes lies; 0: never.
    pub liar_in: u64,
}

impl Scenario {
    /// So many nodes with the usual faults.
    pub fn usual(nodes: usize) -> Self {
        Self {
            settings: Settings::of(nodes),
            mix: Mix::USUAL,
            faults_for: Duration::from_secs(200),
            workload: Workload { every: Duration::from_secs(12), burst: 8, keys: 150, deletes: 0.2 },
            liar_in: 3,
        }
    }

    /// Runs one history to its end.
    ///
    /// # Errors
    /// What did not hold.
    pub fn run(&self, seed: u64) -> Result<Report, Broken> {
        let mut world = World::started(self.settings.clone(), seed);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5eed);
        let mut planned = faults::random(&self.settings, &self.mix, self.faults_for, &mut random);
        if self.liar_in > 0 && random.random_ratio(1, u32::try_from(self.liar_in).unwrap_or(u32::MAX)) {
            let liar = random.random_range(0..self.settings.nodes);
            let lies: Vec<Lie> = Lie::ALL.into_iter().filter(|_| random.random_bool(0.4)).collect();
            planned.push((Duration::from_secs(5), Fault::Lie(liar, lies, random.random_range(0.2..1.0))));
        }
        world.set_workload(Some(self.workload));
        world.plan(planned);
        world.run_for(self.faults_for)?;
        let converged_after = world.quiet(CONVERGES_WITHIN)?;
        Ok(Report {
            seed,
            simulated: world.now(),
            counts: world.counts(),
            acknowledged: world.acknowledged(),
            converged_after,
            hash: world.hash(),
            tally: world.take_tally(),
        })
    }
}
