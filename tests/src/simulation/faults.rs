//! What can go wrong, and how each of it ends. When it does is for [`super::schedule`].

use std::time::Duration;

use super::liar::Lie;
use super::network::{HEALTHY, Line, Way};
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
    /// What is sent on some lines of one way no longer arrives: so partitions of every shape are made.
    Cut {
        /// Which way.
        way: Way,
        /// Who sends, and who receives.
        lines: Vec<(usize, usize)>,
    },
    /// It arrives again.
    Join {
        /// Which way.
        way: Way,
        /// Who sends, and who receives.
        lines: Vec<(usize, usize)>,
    },
    /// All lines of a way behave so.
    Lines {
        /// Which way.
        way: Way,
        /// How.
        line: Line,
    },
    /// One direction between two nodes behaves so.
    Line {
        /// Which way.
        way: Way,
        /// Who sends.
        from: usize,
        /// Who receives.
        to: usize,
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
    /// A node's operator removes the key of another one.
    Distrust(usize, usize),
    /// He adds it again.
    Trust(usize, usize),
    /// In the middle of a node's next pull, the key of the one it pulls from is removed; later it is added again.
    DistrustInPull(usize),
    /// A node lies from now on, so often; never if there are no lies.
    Lie(usize, Vec<Lie>, f64),
}

/// A fault, and when it happens.
pub type Planned = (Duration, Fault);

/// Some ways between two groups, in both directions.
pub fn partition(ways: &[Way], a: &[usize], b: &[usize]) -> Vec<Fault> {
    let between = a.iter().flat_map(|&a| b.iter().flat_map(move |&b| [(a, b), (b, a)]));
    let lines: Vec<(usize, usize)> = between.collect();
    ways.iter().map(|&way| Fault::Cut { way, lines: lines.clone() }).collect()
}

/// A clock that is off by more than this is days off, not seconds.
const DAYS_FROM_MS: u64 = 3_600_000;

impl Fault {
    /// What ends it, if anything does.
    pub fn ending(&self) -> Option<Fault> {
        match self {
            Self::Cut { way, lines } => Some(Self::Join { way: *way, lines: lines.clone() }),
            Self::Lines { way, .. } => Some(Self::Lines { way: *way, line: HEALTHY }),
            Self::Line { way, from, to, .. } => {
                Some(Self::Line { way: *way, from: *from, to: *to, line: HEALTHY })
            }
            Self::Stop(_, node) => Some(Self::Start(*node)),
            Self::Clock(node, _) => Some(Self::Clock(*node, Skew::default())),
            Self::Distrust(node, whom) => Some(Self::Trust(*node, *whom)),
            Self::Join { .. }
            | Self::Start(_)
            | Self::Wipe(_)
            | Self::RollBack(_)
            | Self::Salvage(_)
            | Self::Rot(..)
            | Self::Trust(..)
            | Self::DistrustInPull(_)
            | Self::Lie(..) => None,
        }
    }

    /// Whether it takes a disk away, or some of what is on it.
    pub fn loses_a_disk(&self) -> Option<usize> {
        match self {
            Self::Wipe(node) | Self::RollBack(node) | Self::Salvage(node) => Some(*node),
            _ => None,
        }
    }

    /// What it is called in a summary; `None` when it is the end of another one.
    pub fn kind(&self) -> Option<&'static str> {
        let healthy = |line: &Line| *line == HEALTHY;
        Some(match self {
            Self::Cut { way: Way::P2p, .. } => "partition of P2P",
            Self::Cut { way: Way::Http, .. } => "partition of HTTP",
            Self::Lines { line, .. } | Self::Line { line, .. } if healthy(line) => return None,
            Self::Lines { line, .. } if Line { deltas_lost: 0.0, ..*line } == HEALTHY => "loss of deltas",
            Self::Lines { .. } => "loss, delay and repetition, all lines",
            Self::Line { .. } => "loss, delay and repetition, one line",
            Self::Stop(Part::Store, _) => "restart of a store",
            Self::Stop(Part::Sensor, _) => "restart of a sensor",
            Self::Stop(Part::Coordinator, _) => "restart of a coordinator",
            Self::Stop(Part::All, _) => "loss of power",
            Self::Wipe(_) => "disk replaced by an empty one",
            Self::RollBack(_) => "disk rolled back",
            Self::Salvage(_) => "database salvaged in part",
            Self::Rot(..) => "entries damaged at rest",
            Self::Clock(_, skew) if *skew == Skew::default() => return None,
            Self::Clock(_, skew) if skew.ahead_ms.unsigned_abs() >= DAYS_FROM_MS => {
                if skew.ahead_ms > 0 {
                    "clock days ahead"
                } else {
                    "clock days behind"
                }
            }
            Self::Clock(_, skew) if skew.ahead_ms > 0 => "clock seconds ahead",
            Self::Clock(..) => "clock seconds behind",
            Self::Distrust(..) => "key removed",
            Self::DistrustInPull(_) => "key removed in the middle of a pull",
            Self::Lie(_, lies, _) if lies.is_empty() => return None,
            Self::Lie(..) => "member that lies",
            Self::Join { .. } | Self::Start(_) | Self::Trust(..) => return None,
        })
    }
}
