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

mod apply;
pub mod asker;
pub mod campaign;
pub mod check;
pub mod faults;
pub mod invariant;
pub mod ledger;
pub mod liar;
pub mod message;
pub mod network;
pub mod node;
mod promise;
pub mod replica;
pub mod scenario;
pub mod schedule;
pub mod sensor;
pub mod settings;
pub mod shell;
pub mod step;
pub mod time;
pub mod trace;
pub mod verdict;
pub mod world;

use std::time::Duration;

pub use invariant::Invariant;
pub use scenario::{Report, Scenario};
pub use settings::Settings;
pub use verdict::Broken;
pub use world::{Workload, World};

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
