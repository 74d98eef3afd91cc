//! Random schedules: what goes wrong in one history, and when, made of a seed.
//!
//! What goes on for a while ends by itself. Some things are kept out, since no cluster could be held to its promise
//! then: one that loses its disk over and over is only believed after ever longer pauses; where disks are damaged or
//! salvaged, somebody must have kept his, or what is gone is gone; and a member that lies may keep a store recovering
//! for as long as it likes.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom as _;

use super::faults::{Fault, Part, Planned, partition};
use super::liar::Lie;
use super::network::{HEALTHY, Line, Way};
use super::settings::Settings;
use super::time::Skew;

/// How often one node may lose its disk.
const DISKS_LOST_MAX: u32 = 2;
/// The most entries that are damaged at once.
const ROT_MAX: usize = 20;
const DAY_MS: i64 = 86_400_000;

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
    /// The most that a clock is off for a while, beside those that are off by days.
    pub skew_max: Duration,
    /// In one history of so many, one clock is off by days for a while; 0: never.
    pub days_in: u32,
    /// In one history of so many, one of the nodes lies; 0: never.
    pub liar_in: u32,
    /// Disks may be lost, rolled back or damaged.
    pub disks: bool,
}

impl Mix {
    /// What a cluster is built to live with.
    pub const USUAL: Self = Self {
        every: Duration::from_secs(22),
        lasts: Duration::from_secs(100),
        loss_max: 0.5,
        delay_max: Duration::from_secs(3),
        skew_max: Duration::from_secs(30),
        days_in: 8,
        liar_in: 3,
        disks: true,
    };
}

/// What one history is not to do.
#[derive(Clone, Copy, Debug)]
struct Spared {
    /// Keeps his disk while others are damaged or recover, and never lies.
    witness: usize,
    /// Disks may be damaged.
    damage: bool,
    /// A member lies.
    lies: bool,
}

impl Spared {
    /// Whether a fault is left out.
    fn spares(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Salvage(node) => !self.damage || self.lies || *node == self.witness,
            Fault::Rot(node, _) => !self.damage || *node == self.witness,
            Fault::Wipe(node) | Fault::RollBack(node) => self.damage && *node == self.witness,
            _ => false,
        }
    }
}

/// A schedule of faults from now to `until`.
pub fn random(
    settings: &Settings,
    mix: &Mix,
    until: Duration,
    random: &mut Xoshiro256PlusPlus,
) -> Vec<Planned> {
    let nodes = settings.nodes;
    let lies = nodes > 2 && one_in(mix.liar_in, random);
    let spared = Spared { witness: random.random_range(0..nodes), damage: random.random_bool(0.5), lies };
    let mut planned = Vec::new();
    if lies {
        let liar = (spared.witness + random.random_range(1..nodes)) % nodes;
        let lies: Vec<Lie> = Lie::ALL.into_iter().filter(|_| random.random_bool(0.4)).collect();
        planned.push((Duration::from_secs(5), Fault::Lie(liar, lies, random.random_range(0.2..1.0))));
    }
    if one_in(mix.days_in, random) {
        let far = random.random_range(DAY_MS / 2..3 * DAY_MS);
        let ahead_ms = if random.random_bool(0.5) { far } else { -far };
        let fault = Fault::Clock(random.random_range(0..nodes), Skew { ahead_ms, parts_per_million: 0 });
        let at = up_to(until / 2, random);
        begin(&mut planned, at, fault, Duration::from_secs(20) + up_to(mix.lasts, random));
    }
    let mut disks_lost = BTreeMap::new();
    let mut at = Duration::ZERO;
    loop {
        at += up_to(mix.every * 2, random);
        if at >= until {
            break;
        }
        let lasts = up_to(mix.lasts, random);
        for fault in one(settings, mix, random) {
            if spared.spares(&fault) {
                continue;
            }
            if let Some(node) = fault.loses_a_disk() {
                let lost = disks_lost.entry(node).or_insert(0);
                *lost += 1;
                if *lost > DISKS_LOST_MAX {
                    continue;
                }
            }
            begin(&mut planned, at, fault, lasts);
        }
    }
    planned.sort_by_key(|(at, _)| *at);
    planned
}

fn begin(planned: &mut Vec<Planned>, at: Duration, fault: Fault, lasts: Duration) {
    planned.extend(fault.ending().map(|end| (at + lasts, end)));
    planned.push((at, fault));
}

/// One thing that goes wrong, of as many faults as it takes.
fn one(settings: &Settings, mix: &Mix, random: &mut Xoshiro256PlusPlus) -> Vec<Fault> {
    let nodes = settings.nodes;
    let node = random.random_range(0..nodes);
    let ways: &[Way] = match random.random_range(0..3) {
        0 => &[Way::P2p],
        1 => &[Way::Http],
        _ => &[Way::P2p, Way::Http],
    };
    match random.random_range(0..if mix.disks { 21 } else { 16 }) {
        0..=3 => shape(nodes, ways, random),
        4 | 5 => {
            let line = bad_line(mix, random);
            ways.iter().map(|way| Fault::Lines { way: *way, line }).collect()
        }
        6 => {
            let (line, to) = (bad_line(mix, random), random.random_range(0..nodes));
            ways.iter().map(|way| Fault::Line { way: *way, from: node, to, line }).collect()
        }
        7 => vec![Fault::Lines { way: Way::P2p, line: Line { deltas_lost: 1.0, ..HEALTHY } }],
        8 | 9 => vec![Fault::Stop(Part::Coordinator, node)],
        10 => vec![Fault::Stop(if random.random_bool(0.5) { Part::Sensor } else { Part::Store }, node)],
        11 => vec![Fault::Stop(Part::All, node)],
        12 => some(nodes, random).into_iter().map(|node| Fault::Stop(Part::All, node)).collect(),
        13 => {
            // Within what is allowed as often as not.
            let most = if random.random_bool(0.5) { 4_000 } else { mix.skew_max.as_millis() as i64 };
            let ahead_ms = random.random_range(-most..=most);
            vec![Fault::Clock(node, Skew { ahead_ms, parts_per_million: random.random_range(-200..=200) })]
        }
        14 => vec![Fault::Distrust(node, (node + random.random_range(1..nodes)) % nodes)],
        15 => vec![Fault::DistrustInPull(node)],
        16 => vec![Fault::Wipe(node)],
        17 => vec![Fault::RollBack(node)],
        18 | 19 => vec![Fault::Salvage(node)],
        _ => vec![Fault::Rot(node, random.random_range(1..=ROT_MAX))],
    }
}

/// A partition of some shape, one-way ones among them.
fn shape(nodes: usize, ways: &[Way], random: &mut Xoshiro256PlusPlus) -> Vec<Fault> {
    let mut order: Vec<usize> = (0..nodes).collect();
    order.shuffle(random);
    let pairs = || (0..nodes).flat_map(move |a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let cut: Vec<(usize, usize)> = match random.random_range(0..8) {
        // One is alone.
        0 | 1 => return partition(ways, &order[..1], &order[1..]),
        // Two or three islands.
        2 | 3 => {
            let islands = random.random_range(2..=3);
            let island: Vec<usize> = (0..nodes).map(|_| random.random_range(0..islands)).collect();
            pairs().filter(|&(a, b)| island[a] != island[b]).collect()
        }
        // A chain: each sees the one before and the one after.
        4 => {
            let place = |node: usize| order.iter().position(|at| *at == node).unwrap_or_default();
            pairs().filter(|&(a, b)| place(a).abs_diff(place(b)) > 1).collect()
        }
        // A star: all see one, and nobody else.
        5 => pairs().filter(|&(a, b)| a != order[0] && b != order[0]).collect(),
        // Some do not hear one whom they reach, or the other way round.
        6 => {
            let others = some(nodes, random);
            let heard = pairs().filter(|(from, to)| *from == order[0] && others.contains(to));
            match random.random_bool(0.5) {
                true => heard.collect(),
                false => heard.map(|(from, to)| (to, from)).collect(),
            }
        }
        // No shape at all: each direction by itself.
        _ => {
            let often = random.random_range(0.1..0.9);
            pairs().filter(|_| random.random_bool(often)).collect()
        }
    };
    ways.iter().map(|&way| Fault::Cut { way, lines: cut.clone() }).collect()
}

fn bad_line(mix: &Mix, random: &mut Xoshiro256PlusPlus) -> Line {
    Line {
        delay: (Duration::from_millis(1), Duration::from_millis(2) + up_to(mix.delay_max, random)),
        loss: random.random_range(0.0..=mix.loss_max),
        repeats: random.random_range(0.0..0.5),
        deltas_lost: random.random_range(0.0..1.0),
    }
}

/// Each node as likely as not.
fn some(nodes: usize, random: &mut Xoshiro256PlusPlus) -> Vec<usize> {
    (0..nodes).filter(|_| random.random_bool(0.5)).collect()
}

fn one_in(many: u32, random: &mut Xoshiro256PlusPlus) -> bool {
    many > 0 && random.random_ratio(1, many)
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
