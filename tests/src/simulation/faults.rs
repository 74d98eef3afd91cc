//! What goes wrong, and when: one fault after the other, or a schedule made of a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::liar::Lie;
use super::network::{HEALTHY, Line, Way};
use super::settings::Settings;
use super::time::Skew;

/// A service of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The state store; the disk stays.
    Store,
    /// The sensor, and all connections.
    Sensor,
    /// The coordinator.
    Coordinator,
    /// The whole node, as by a loss of power.
    All,
}

/// One thing that goes wrong, or right again.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// What some nodes send to others no longer arrives by one way.
    Cut {
        /// Which way.
        way: Way,
        /// Who sends.
        from: Vec<usize>,
        /// Who receives.
        to: Vec<usize>,
    },
    /// It arrives again.
    Join {
        /// Which way.
        way: Way,
        /// Who sends.
        from: Vec<usize>,
        /// Who receives.
        to: Vec<usize>,
    },
    /// All lines of a way behave so.
    Lines {
        /// Which way.
        way: Way,
        /// How.
        line: Line,
    },
    /// A part of a node stops.
    Stop(Part, usize),
    /// What of a node does not run starts.
    Start(usize),
    /// A node is stopped, and starts with an empty disk.
    Wipe(usize),
    /// A node is stopped, and starts with the disk as it was so long ago as this, or as near to it as is kept.
    RollBack(usize),
    /// A node is stopped, and starts with a new database, into which half of its entries were salvaged; it does not
    /// know which it lost.
    Salvage(usize),
    /// Of a node's entries, so many are damaged that others hold as well, and its check finds them.
    Rot(usize, usize),
    /// A node's wall clock is set.
    Clock(usize, Skew),
    /// A node lies from now on, so often; never if there are no lies.
    Lie(usize, Vec<Lie>, f64),
}

/// A fault, and when it happens.
pub type Planned = (Duration, Fault);

/// Both ways between two groups, in both directions.
pub fn partition(ways: &[Way], a: &[usize], b: &[usize]) -> Vec<Fault> {
    let cut = |way: &Way, from: &[usize], to: &[usize]| Fault::Cut {
        way: *way,
        from: from.to_vec(),
        to: to.to_vec(),
    };
    ways.iter().flat_map(|way| [cut(way, a, b), cut(way, b, a)]).collect()
}

/// What ends a fault, if anything does.
fn ending(fault: &Fault) -> Option<Fault> {
    match fault {
        Fault::Cut { way, from, to } => Some(Fault::Join { way: *way, from: from.clone(), to: to.clone() }),
        Fault::Lines { way, .. } => Some(Fault::Lines { way: *way, line: HEALTHY }),
        Fault::Stop(_, node) => Some(Fault::Start(*node)),
        Fault::Clock(node, _) => Some(Fault::Clock(*node, Skew::default())),
        Fault::Join { .. }
        | Fault::Start(_)
        | Fault::Wipe(_)
        | Fault::RollBack(_)
        | Fault::Salvage(_)
        | Fault::Rot(..)
        | Fault::Lie(..) => None,
    }
}

/// How often one node may lose its disk in a random schedule.
const DISKS_LOST_MAX: u32 = 2;

/// What may go wrong in a random schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// One fault begins about so often.
    pub every: Duration,
    /// It lasts at most so long.
    pub lasts: Duration,
    /// The greatest chance that a segment is lost.
    pub loss_max: f64,
    /// The longest delay.
    pub delay_max: Duration,
    /// The most that a clock is off, in milliseconds.
    pub skew_max_ms: i64,
    /// Disks may be lost or rolled back.
    pub disks: bool,
}

impl Mix {
    /// What a cluster is built to live with.
    pub const USUAL: Self = Self {
        every: Duration::from_secs(25),
        lasts: Duration::from_secs(100),
        loss_max: 0.5,
        delay_max: Duration::from_millis(1_500),
        skew_max_ms: 4_000,
        disks: true,
    };
}

/// A schedule of faults from now to `until`. Those that end, end some time after they began.
pub fn random(
    settings: &Settings,
    mix: &Mix,
    until: Duration,
    random: &mut Xoshiro256PlusPlus,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut disks_lost = BTreeMap::new();
    let mut at = Duration::ZERO;
    loop {
        at += up_to(mix.every * 2, random);
        if at >= until {
            break;
        }
        let lasts = up_to(mix.lasts, random);
        for fault in one(settings, mix, random) {
            // One that loses its disk over and over is only believed again after ever longer pauses, which take
            // longer than any history.
            if let Fault::Wipe(node) | Fault::RollBack(node) = fault {
                let lost = disks_lost.entry(node).or_insert(0);
                *lost += 1;
                if *lost > DISKS_LOST_MAX {
                    continue;
                }
            }
            planned.extend(ending(&fault).map(|end| (at + lasts, end)));
            planned.push((at, fault));
        }
    }
    planned.sort_by_key(|(at, _)| *at);
    planned
}

fn one(settings: &Settings, mix: &Mix, random: &mut Xoshiro256PlusPlus) -> Vec<Fault> {
    let nodes = settings.nodes;
    let node = random.random_range(0..nodes);
    let ways: &[Way] = match random.random_range(0..3) {
        0 => &[Way::P2p],
        1 => &[Way::Http],
        _ => &[Way::P2p, Way::Http],
    };
    match random.random_range(0..if mix.disks { 14 } else { 12 }) {
        0 | 1 => {
            let others: Vec<usize> = (0..nodes).filter(|other| *other != node).collect();
            partition(ways, &[node], &others)
        }
        2 => {
            let (a, b): (Vec<usize>, Vec<usize>) = (0..nodes).partition(|_| random.random_bool(0.5));
            partition(ways, &a, &b)
        }
        3 => {
            let to: Vec<usize> = (0..nodes).filter(|_| random.random_bool(0.5)).collect();
            ways.iter().map(|way| Fault::Cut { way: *way, from: vec![node], to: to.clone() }).collect()
        }
        4 | 5 => {
            let line = Line {
                delay: (Duration::from_millis(1), Duration::from_millis(2) + up_to(mix.delay_max, random)),
                loss: random.random_range(0.0..mix.loss_max),
                repeats: random.random_range(0.0..0.3),
                deltas_lost: random.random_range(0.0..1.0),
            };
            ways.iter().map(|way| Fault::Lines { way: *way, line }).collect()
        }
        6 => vec![Fault::Lines { way: Way::P2p, line: Line { deltas_lost: 1.0, ..HEALTHY } }],
        7 | 8 => vec![Fault::Stop(Part::Coordinator, node)],
        9 => vec![Fault::Stop(if random.random_bool(0.5) { Part::Sensor } else { Part::Store }, node)],
        10 => vec![Fault::Stop(Part::All, node)],
        11 => {
            let ahead_ms = random.random_range(-mix.skew_max_ms..=mix.skew_max_ms);
            vec![Fault::Clock(node, Skew { ahead_ms, parts_per_million: random.random_range(-200..=200) })]
        }
        12 => vec![Fault::Wipe(node)],
        _ => vec![Fault::RollBack(node)],
    }
}

fn up_to(most: Duration, random: &mut Xoshiro256PlusPlus) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.random_range(0..=millis))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_seed_makes_one_schedule_and_every_fault_that_ends_does() {
        let schedule = |seed| {
            let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
            random(&Settings::of(5), &Mix::USUAL, Duration::from_secs(1_000), &mut generator)
        };
        assert_eq!(schedule(1), schedule(1));
        assert_ne!(schedule(1), schedule(2));
        let planned = schedule(3);
        assert!(planned.is_sorted_by_key(|(at, _)| *at));
        let cuts = planned.iter().filter(|(_, fault)| matches!(fault, Fault::Cut { .. })).count();
        let joins = planned.iter().filter(|(_, fault)| matches!(fault, Fault::Join { .. })).count();
        assert_eq!(cuts, joins);
    }
}
