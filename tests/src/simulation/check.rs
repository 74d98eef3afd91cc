//! What must hold after every event, on every honest node.
//!
//! These are the cheap ones, judged from what nodes are seen to do; what must hold after a quiet period needs
//! the whole cluster, and is judged in [`super::world`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lattice_core::coordinator::{Clock, Notice};
use lattice_core::hearing::contradiction;
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::pull::{self, Cause, Outcome};
use lattice_core::seal::Runs;
use lattice_core::signed::SignedAnnouncement;

use super::invariant::{Checked, Invariant, Violation};
use super::ledger::Ledger;
use super::node::Node;
use super::step::Seen;

/// What a coordinator hears is counted over so long.
const BUSY_WINDOW: Duration = Duration::from_secs(10);
/// In that time, a node by itself, and for each of its peers, hears at most so much.
const BUSY_MAX: (usize, usize) = (2_000, 300);

/// Reasons for which an honest node refuses an honest one; the last one, when it has removed its key.
const MAY_REFUSE: [&str; 5] = ["Challenge", "Empty", "Incarnation", "Unavailable", "Untrusted"];

/// What a node does with one whose key was removed is over within so long: its parts hear of it one by one.
const REFUSED_WITHIN: Duration = Duration::from_millis(20);

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
    /// Whose clock was said to be days or seconds off: by whom, and whose; one's own when peers said so.
    pub clocks_off: BTreeSet<(usize, NodeId)>,
    /// How often each invariant was looked at.
    pub checked: Checked,
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
    /// Pulls that began with another own store: how they end says nothing of this one.
    outlived: BTreeSet<pull::Id>,
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
    /// Somebody's key was removed: whoever did it refuses him, and others may say so.
    pub removals: bool,
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
            removals: false,
            tally: Tally::default(),
        }
    }

    /// Judges what an honest node was seen to do.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(
        &mut self,
        now: Duration,
        index: usize,
        node: &Node,
        seen: &Seen,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        let refused = |peer: &NodeId| node.refuses_since(peer).is_some_and(|at| now > at + REFUSED_WITHIN);
        match seen {
            Seen::Handled { error, counted: (before, after) } => {
                self.tally.heard += 1;
                let what = || "an error was counted as a difference".to_owned();
                self.check(Invariant::ErrorsDoNotCount, !*error || after <= before, what)?;
                self.busy(now, index)
            }
            Seen::Ticked { machine, stuck } => self.check(Invariant::DeadlinesMove, !*stuck, || {
                format!("a tick left the deadline of {machine} where it was")
            }),
            Seen::PullStarted(id, peer, cause) => {
                self.tally.pulls += 1;
                let removed = refused(peer);
                self.check(Invariant::RemovedKeysAreRefused, !removed, || {
                    format!("a pull from {peer} began, whose key was removed")
                })?;
                self.paused(now, index, peer, *cause)?;
                let pulls = &mut self.nodes[index].pulls;
                let other = pulls.insert(*peer, *id);
                let running = pulls.len();
                let bounded = other.is_none() && running <= self.pulls_max;
                self.check(Invariant::PullsAreBounded, bounded, || match other {
                    Some(other) => format!("pulls {other} and {id} from one peer run at once"),
                    None => format!("{running} pulls run at once"),
                })
            }
            Seen::PullEnded(ended) => {
                self.nodes[index].pulls.remove(&ended.peer);
                self.tally.ended.push(Ended { at: now, by: index, pull: (**ended).clone() });
                if !self.nodes[index].outlived.remove(&ended.id) {
                    self.pause(now, index, ended);
                }
                let blamed = self.blamed(ended);
                self.check(Invariant::HonestAreNotBlamed, !blamed, || {
                    format!("{}, who is honest, is blamed: {}: {}", ended.peer, ended.outcome, ended.detail)
                })
            }
            Seen::CoordinatorStopped => {
                self.nodes[index].pulls.clear();
                self.nodes[index].outlived.clear();
                // Pauses survive as times of a wall clock, which may be another one by then.
                self.nodes[index].failed.clear();
                Ok(())
            }
            Seen::Notice(notice) => {
                if let Notice::OwnClock(Clock::Wrong { .. }) = notice {
                    self.tally.clocks_off.insert((index, node.id));
                }
                self.notice(index, notice);
                let Notice::Contradiction { peer, epoch, .. } = notice else { return Ok(()) };
                let doubtful = self.doubtful.contains(peer);
                self.check(Invariant::HonestAreNotBlamed, doubtful, || {
                    format!("{peer}, who is honest, is said to have two roots for epoch {epoch}")
                })
            }
            Seen::Announced(announcement) => self.announced(index, announcement),
            Seen::Proved(id, entries) => {
                let pulls = &self.nodes[index].pulls;
                let peer = pulls.iter().find(|(_, running)| *running == id).map(|(peer, _)| *peer);
                if let Some(peer) = peer {
                    self.check(Invariant::RemovedKeysAreRefused, !refused(&peer), || {
                        format!("entries of {peer} are merged, whose key was removed")
                    })?;
                }
                self.result(Invariant::NothingUnprovedIsApplied, ledger.check_written(entries))
            }
            Seen::Served(peer) => self.check(Invariant::RemovedKeysAreRefused, !refused(peer), || {
                format!("{peer} was answered, whose key was removed")
            }),
            Seen::OwnStore => {
                let node = &mut self.nodes[index];
                node.failed.clear();
                node.outlived = node.pulls.values().copied().collect();
                Ok(())
            }
            Seen::Renewed => {
                self.tally.renewed.push(index);
                Ok(())
            }
            Seen::Recovered => {
                self.tally.recovered.push(index);
                Ok(())
            }
            Seen::Acknowledged(_) => Ok(()),
            Seen::ReadBack { written, read } => {
                self.check(Invariant::WritesAreRead, read.as_ref() == Some(written), || {
                    format!("{written:?} was acknowledged, {read:?} is read")
                })
            }
            Seen::StoreFailed(error) => {
                self.check(Invariant::StoresWork, false, || format!("the store failed: {error}"))
            }
        }
    }

    fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        self.tally.checked.check(invariant, holds, what)
    }

    /// Looks at an invariant that somebody else has judged.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn result(&mut self, invariant: Invariant, held: Result<(), String>) -> Result<(), Violation> {
        self.tally.checked.result(invariant, held)
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
            Notice::PeerClock { peer, ahead_ms: Some(_) } => {
                self.tally.clocks_off.insert((node, *peer));
            }
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
    fn paused(&mut self, now: Duration, node: usize, peer: &NodeId, cause: Cause) -> Result<(), Violation> {
        let Some(&(count, at)) = self.nodes[node].failed.get(peer) else { return Ok(()) };
        let pause = Duration::from_secs(1 << count.min(8)).mul_f64(0.74);
        let waited = now.saturating_sub(at);
        self.check(Invariant::PausesAreKept, cause == Cause::Operator || waited >= pause, || {
            format!("{peer} is asked {waited:?} after pull {count} that failed")
        })
    }

    /// Whoever is honest is never blamed: not for a lie, nor for an answer that is none.
    fn blamed(&self, ended: &pull::Ended) -> bool {
        let blamed = match ended.outcome {
            Outcome::Lied | Outcome::NoProgress => true,
            // What an honest store says when it cannot answer now. Anything else was asked wrongly, or is no
            // answer.
            Outcome::Refused => {
                let may = &MAY_REFUSE[..MAY_REFUSE.len() - usize::from(!self.removals)];
                !may.iter().any(|reason| ended.detail.starts_with(reason))
            }
            Outcome::Healed | Outcome::Stale | Outcome::TimedOut | Outcome::Lost => false,
        };
        blamed && !self.doubtful.contains(&ended.peer)
    }

    /// A coordinator that hears of something over and over has nobody but itself to blame.
    fn busy(&mut self, now: Duration, node: usize) -> Result<(), Violation> {
        let (alone, each) = BUSY_MAX;
        let most = alone + each * self.nodes.len();
        let (since, count) = &mut self.nodes[node].window;
        if now.saturating_sub(*since) >= BUSY_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        let count = *count;
        self.check(Invariant::NotBusy, count <= most, || {
            format!("the coordinator heard {count} events within {BUSY_WINDOW:?}")
        })
    }

    /// A node's numbers rise, and it never signs two roots for one epoch of one incarnation.
    fn announced(&mut self, node: usize, signed: &SignedAnnouncement) -> Result<(), Violation> {
        self.tally.announced += 1;
        let announcement = &signed.announcement;
        let runs = Runs::parse(announcement.runs.clone());
        let runs = runs.map_err(|error| Violation {
            invariant: Invariant::OneRootPerEpoch,
            what: format!("announced {error}"),
        })?;
        let announced = &mut self.nodes[node].announced;
        let before = announced.insert(announcement.incarnation, (announcement.sequence, runs.clone()));
        let Some((sequence, before)) = before else { return Ok(()) };
        if self.rolled_back.contains(&node) {
            return Ok(());
        }
        self.check(Invariant::NumbersRise, announcement.sequence > sequence, || {
            format!("announced number {} after {sequence}", announcement.sequence)
        })?;
        let contradicted = contradiction(&before, &runs);
        self.check(Invariant::OneRootPerEpoch, contradicted.is_none(), || {
            format!("announced two roots for epoch {contradicted:?}")
        })
    }
}
