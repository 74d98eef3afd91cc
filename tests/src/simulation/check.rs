//! What must hold after every event, on every honest node.
//!
//! These are the cheap ones, judged from what nodes are seen to do; what must hold after a quiet period needs
//! the whole cluster, and is judged in [`super::world`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lattice_core::coordinator::Notice;
use lattice_core::hearing::contradiction;
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::pull::{self, Cause, Outcome};
use lattice_core::seal::Runs;
use lattice_core::signed::SignedAnnouncement;

use super::ledger::Ledger;
use super::step::Seen;

/// What a coordinator hears is counted over so long.
const BUSY_WINDOW: Duration = Duration::from_secs(10);
/// In that time, a node by itself, and for each of its peers, hears at most so much.
const BUSY_MAX: (usize, usize) = (2_000, 300);

/// Reasons for which an honest node refuses an honest one.
const MAY_REFUSE: [&str; 4] = ["Challenge", "Empty", "Incarnation", "Unavailable"];

/// What a run has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Differences that honest nodes counted.
    pub diverged: u64,
    /// Pulls that honest nodes began.
    pub pulls: u64,
    /// How their pulls ended: by whom, from whom, and how.
    pub ended: Vec<Ended>,
    /// What honest coordinators heard.
    pub heard: u64,
    /// How often an honest node signed an announcement.
    pub announced: u64,
    /// Announcements that honest nodes refused.
    pub refused: u64,
    /// Contradictions that honest nodes saw: who, and of whom.
    pub contradictions: BTreeSet<(usize, NodeId)>,
    /// New incarnations of peers that honest nodes believed, the first ones not counted.
    pub replaced: u64,
    /// Rolled-back disks that honest nodes noticed of themselves.
    pub rolled_back: u64,
    /// New incarnations that honest nodes started on a peer's word: who did.
    pub renewed: Vec<usize>,
    /// Whose stores were told that their peers have filled them again.
    pub recovered: Vec<usize>,
}

/// A pull that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Duration,
    /// Whose it was.
    pub by: usize,
    /// How.
    pub pull: pull::Ended,
}

impl Tally {
    /// The pulls by one node from one peer that ended so.
    pub fn outcomes(&self, outcome: Outcome) -> impl Iterator<Item = &Ended> {
        self.ended.iter().filter(move |ended| ended.pull.outcome == outcome)
    }
}

#[derive(Debug, Default)]
struct Watched {
    pulls: BTreeMap<NodeId, pull::Id>,
    window: (Duration, usize),
    /// Of each peer, how many pulls in a row were its own fault, and when the last one ended.
    failed: BTreeMap<NodeId, (u32, Duration)>,
    announced: BTreeMap<Incarnation, (u64, Runs)>,
}

/// Watches all nodes.
#[derive(Debug)]
pub struct Checks {
    pulls_max: usize,
    nodes: Vec<Watched>,
    /// Nodes whose disk was rolled back: they contradict themselves, and are to notice.
    pub rolled_back: BTreeSet<usize>,
    /// Nodes that have lied, or whose disk was rolled back: others may say so.
    pub doubtful: BTreeSet<NodeId>,
    /// What was seen so far.
    pub tally: Tally,
}

impl Checks {
    /// For so many nodes.
    pub fn new(nodes: usize, pulls_max: usize) -> Self {
        Self {
            pulls_max,
            nodes: (0..nodes).map(|_| Watched::default()).collect(),
            rolled_back: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// Judges what an honest node was seen to do.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(&mut self, now: Duration, node: usize, seen: &Seen, ledger: &Ledger) -> Result<(), String> {
        match seen {
            Seen::Handled { error, counted: (before, after) } => {
                self.tally.heard += 1;
                if *error && after > before {
                    return Err("an error was counted as a difference".to_owned());
                }
                self.busy(now, node)
            }
            Seen::Stuck(machine) => Err(format!("a tick left the deadline of {machine} where it was")),
            Seen::PullStarted(id, peer, cause) => {
                self.tally.pulls += 1;
                self.paused(now, node, peer, *cause)?;
                let pulls = &mut self.nodes[node].pulls;
                if let Some(other) = pulls.insert(*peer, *id) {
                    return Err(format!("pulls {other} and {id} from one peer run at once"));
                }
                match pulls.len() <= self.pulls_max {
                    true => Ok(()),
                    false => Err(format!("{} pulls run at once", pulls.len())),
                }
            }
            Seen::PullEnded(ended) => {
                self.nodes[node].pulls.remove(&ended.peer);
                self.tally.ended.push(Ended { at: now, by: node, pull: (**ended).clone() });
                self.pause(now, node, ended);
                self.blamed(ended)
            }
            Seen::CoordinatorStopped => {
                self.nodes[node].pulls.clear();
                // Pauses survive as times of a wall clock, which may be another one by then.
                self.nodes[node].failed.clear();
                Ok(())
            }
            Seen::Notice(notice) => {
                self.notice(node, notice);
                match notice {
                    Notice::Contradiction { peer, epoch, .. } if !self.doubtful.contains(peer) => {
                        Err(format!("{peer}, who is honest, is said to have two roots for epoch {epoch}"))
                    }
                    _ => Ok(()),
                }
            }
            Seen::Announced(announcement) => self.announced(node, announcement),
            Seen::Proved(entries) => ledger.check_written(entries),
            Seen::OwnStore => {
                self.nodes[node].failed.clear();
                Ok(())
            }
            Seen::Renewed => {
                self.tally.renewed.push(node);
                Ok(())
            }
            Seen::Recovered => {
                self.tally.recovered.push(node);
                Ok(())
            }
            Seen::Acknowledged(_) => Ok(()),
            Seen::StoreFailed(error) => Err(format!("the store failed: {error}")),
        }
    }

    /// Starts a new tally.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn notice(&mut self, node: usize, notice: &Notice) {
        match notice {
            Notice::Diverged { .. } => self.tally.diverged += 1,
            Notice::AnnouncementRefused { .. } => self.tally.refused += 1,
            Notice::Contradiction { peer, .. } => {
                self.tally.contradictions.insert((node, *peer));
            }
            Notice::NewIncarnation { peer, replaced, .. } => {
                // Another store, another beginning.
                self.nodes[node].failed.remove(peer);
                self.tally.replaced += u64::from(replaced.is_some());
            }
            Notice::RolledBack { .. } => self.tally.rolled_back += 1,
            _ => {}
        }
    }

    /// A pull ended: the next one may have to wait.
    fn pause(&mut self, now: Duration, node: usize, ended: &pull::Ended) {
        let failed = &mut self.nodes[node].failed;
        match ended.outcome {
            Outcome::Healed => drop(failed.remove(&ended.peer)),
            Outcome::Refused | Outcome::Lied | Outcome::NoProgress => {
                let (count, at) = failed.entry(ended.peer).or_default();
                *count = if ended.verified_new { 0 } else { *count + 1 };
                *at = now;
            }
            Outcome::TimedOut | Outcome::Lost if ended.verified_new => drop(failed.remove(&ended.peer)),
            Outcome::Stale | Outcome::TimedOut | Outcome::Lost => {}
        }
    }

    /// Nobody is asked again before its pause is over: 2^n seconds, of which jitter takes at most a quarter.
    fn paused(&self, now: Duration, node: usize, peer: &NodeId, cause: Cause) -> Result<(), String> {
        let Some((count, at)) = self.nodes[node].failed.get(peer) else { return Ok(()) };
        let pause = Duration::from_secs(1 << (*count).min(8)).mul_f64(0.74);
        match cause == Cause::Operator || now.saturating_sub(*at) >= pause {
            true => Ok(()),
            false => Err(format!("{peer} is asked {:?} after pull {count} that failed", now - *at)),
        }
    }

    /// Whoever is honest is never blamed: not for a lie, nor for an answer that is none.
    fn blamed(&self, ended: &pull::Ended) -> Result<(), String> {
        let pull::Ended { peer, outcome, detail, .. } = ended;
        let blamed = match outcome {
            Outcome::Lied | Outcome::NoProgress => true,
            // What an honest store says when it cannot answer now. Anything else was asked wrongly, or is no
            // answer.
            Outcome::Refused => !MAY_REFUSE.iter().any(|reason| detail.starts_with(reason)),
            Outcome::Healed | Outcome::Stale | Outcome::TimedOut | Outcome::Lost => false,
        };
        match blamed && !self.doubtful.contains(peer) {
            true => Err(format!("{peer}, who is honest, is blamed: {outcome}: {detail}")),
            false => Ok(()),
        }
    }

    /// A coordinator that hears of something over and over has nobody but itself to blame.
    fn busy(&mut self, now: Duration, node: usize) -> Result<(), String> {
        let (alone, each) = BUSY_MAX;
        let most = alone + each * self.nodes.len();
        let (since, count) = &mut self.nodes[node].window;
        if now.saturating_sub(*since) >= BUSY_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        match *count <= most {
            true => Ok(()),
            false => Err(format!("the coordinator heard {count} events within {BUSY_WINDOW:?}")),
        }
    }

    /// A node's numbers rise, and it never signs two roots for one epoch of one incarnation.
    fn announced(&mut self, node: usize, signed: &SignedAnnouncement) -> Result<(), String> {
        self.tally.announced += 1;
        let announcement = &signed.announcement;
        let runs = Runs::parse(announcement.runs.clone()).map_err(|error| error.to_string())?;
        let announced = &mut self.nodes[node].announced;
        let before = announced.insert(announcement.incarnation, (announcement.sequence, runs.clone()));
        let Some((sequence, before)) = before else { return Ok(()) };
        if self.rolled_back.contains(&node) {
            return Ok(());
        }
        if announcement.sequence <= sequence {
            return Err(format!("announced number {} after {sequence}", announcement.sequence));
        }
        match contradiction(&before, &runs) {
            Some(epoch) => Err(format!("announced two roots for epoch {epoch}")),
            None => Ok(()),
        }
    }
}
