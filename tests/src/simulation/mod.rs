//! A cluster in one thread and in no time: the code that ships, with everything around it simulated.
//!
//! Each node runs the coordinator's and the sensor's machines of `lattice-core`, and the store's engine over a
//! disk in memory; its shells are played by [`node`]. Around them: a [`network`] of two ways that loses, delays,
//! repeats, and is cut in any shape; [`faults`] that stop and start parts of nodes, take their disks away and
//! set their clocks wrong; members that [lie](liar); clients that write. What is signed is signed and checked
//! for real. [`check`] says what must hold after every event, [`ledger`] what must be there in the end.
//!
//! One seed makes one history. A test that fails prints its seed; `SIMULATION_SEED=<seed>` makes every test run
//! that one only, `SIMULATION_TRACE=1` prints what happens, and `SIMULATION_SEEDS=<count>` asks for more of
//! them. A seed that has failed stays as a named test.

pub mod asker;
pub mod check;
pub mod faults;
pub mod ledger;
pub mod liar;
pub mod message;
pub mod network;
pub mod node;
pub mod replica;
pub mod sensor;
pub mod settings;
pub mod shell;
pub mod time;
pub mod trace;
pub mod world;

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use check::Tally;
use faults::{Fault, Mix};
use liar::Lie;
pub use settings::Settings;
pub use world::{Broken, Workload, World};

/// After its faults have ended, a cluster converges within so long. A pause after failed pulls alone may take
/// five minutes, and a path that is lost is left after one.
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(900);

/// The seeds that a test runs: `count` of them, unless the environment names one, or another number.
///
/// # Panics
/// When it names something else.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name}: must be a number, not {value:?}")))
    };
    match (number("SIMULATION_SEED"), number("SIMULATION_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, more) => (1..=more.unwrap_or(count)).collect(),
    }
}

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
            faults_for: Duration::from_secs(300),
            workload: Workload { every: Duration::from_secs(10), burst: 8, keys: 300, deletes: 0.2 },
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
