//! How long to leave a peer alone after pulls that came to nothing.
//!
//! 2^n seconds with jitter, at most `backoff_max`, where n grows only for a pull that verified nothing new:
//! a peer that is slow but gives something is never punished for it. What only says that a path is bad
//! (`TimedOut`, `Lost`) counts for that path, so that the other one may be tried at once; the rest counts for
//! the identity, and only between the two stores that met: a new incarnation of either is another beginning.
//! `Stale` says nothing of the peer and never counts.
//!
//! Pauses are kept across restarts by the shell, as wall-clock times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::failover::Path;
use crate::model::{Incarnation, NodeId};
use crate::pull::Outcome;
use crate::time::{Monotonic, WallTime};

/// Between which stores a pull was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stores {
    /// Ours.
    pub ours: Incarnation,
    /// The peer's; `None` when it is not known.
    pub theirs: Option<Incarnation>,
}

/// A pause as it survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Whom it concerns.
    pub peer: NodeId,
    /// The path that it concerns; `None` for both.
    pub path: Option<Path>,
    /// How many pulls in a row came to nothing.
    pub failures: u32,
    /// When the next pull may start.
    pub until: WallTime,
    /// The stores that it is for; `None` when it is for a path, whatever the stores.
    pub stores: Option<Stores>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    failures: u32,
    until: Monotonic,
    stores: Option<Stores>,
}

/// The pauses of all peers: at most three for each.
#[derive(Clone, Debug)]
pub struct Backoff {
    max: Duration,
    random: Xoshiro256PlusPlus,
    waits: BTreeMap<(NodeId, Option<Path>), Wait>,
    /// When a peer's new incarnation last ended its pause.
    excused: BTreeMap<NodeId, Monotonic>,
}

impl Backoff {
    /// No pauses, none ever longer than `max`; `seed` for the jitter.
    pub fn new(max: Duration, seed: u64) -> Self {
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { max, random, waits: BTreeMap::new(), excused: BTreeMap::new() }
    }

    /// Takes in how a pull between two stores ended. Returns whether any pause changed.
    pub fn ended(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        path: Path,
        outcome: Outcome,
        verified_new: bool,
        stores: Stores,
    ) -> bool {
        let slot = match outcome {
            Outcome::Healed => return self.forget(&peer),
            Outcome::Stale => return false,
            Outcome::TimedOut | Outcome::Lost => (peer, Some(path)),
            Outcome::Refused | Outcome::Lied | Outcome::NoProgress => (peer, None),
        };
        if verified_new {
            self.forget(&peer);
        }
        let before = self.waits.get(&slot).map_or(0, |wait| wait.failures);
        let failures = if verified_new { 0 } else { before.saturating_add(1) };
        let until = now + self.pause(failures);
        let stores = slot.1.is_none().then_some(stores);
        self.waits.insert(slot, Wait { failures, until, stores });
        true
    }

    /// The stores are these from now on: what pulls between others came to is forgotten. Returns whether a pause
    /// ended.
    ///
    /// Our own incarnations are our own; a peer's are its own to make, and end a pause once in the longest pause
    /// at most: a liar must not come to be asked at once again by calling itself another.
    pub fn meet(&mut self, now: Monotonic, peer: NodeId, present: Stores) -> bool {
        let Some(stores) = self.waits.get(&(peer, None)).and_then(|wait| wait.stores) else { return false };
        if stores.ours == present.ours {
            let both = stores.theirs.zip(present.theirs);
            let max = self.max;
            let excused = self.excused.get(&peer).is_some_and(|&at| now.since(at) < max);
            if both.is_none_or(|(before, now)| before == now) || excused {
                return false;
            }
            self.excused.insert(peer, now);
        }
        self.waits.remove(&(peer, None));
        true
    }

    /// When a pull from `peer` over `path` may start; `None`: now.
    pub fn until(&self, now: Monotonic, peer: &NodeId, path: Path) -> Option<Monotonic> {
        [None, Some(path)]
            .into_iter()
            .filter_map(|path| self.waits.get(&(*peer, path)))
            .map(|wait| wait.until)
            .max()
            .filter(|until| *until > now)
    }

    /// Drops the pauses of everybody who is not in `peers`.
    pub fn retain(&mut self, peers: &BTreeSet<NodeId>) {
        self.waits.retain(|(peer, _), _| peers.contains(peer));
        self.excused.retain(|peer, _| peers.contains(peer));
    }

    /// All pauses, to be kept. One that is over still tells how many pulls came to nothing before.
    pub fn export(&self, now: Monotonic, wall: WallTime) -> Vec<Pause> {
        let pause = |(&(peer, path), wait): (&(NodeId, Option<Path>), &Wait)| {
            let elapsed = now.since(wait.until);
            let until = if elapsed.is_zero() { wall + wait.until.since(now) } else { wall - elapsed };
            Pause { peer, path, failures: wait.failures, until, stores: wait.stores }
        };
        self.waits.iter().map(pause).collect()
    }

    /// Takes back what was kept. None lasts longer than `max` from now, whatever the clock did.
    pub fn import(&mut self, now: Monotonic, wall: WallTime, pauses: &[Pause]) {
        for pause in pauses {
            let until = now + pause.until.since(wall).min(self.max);
            let wait = Wait { failures: pause.failures, until, stores: pause.stores };
            self.waits.insert((pause.peer, pause.path), wait);
        }
    }

    /// Ends all pauses of one peer. Returns whether there were any.
    fn forget(&mut self, peer: &NodeId) -> bool {
        let before = self.waits.len();
        self.waits.retain(|(other, _), _| other != peer);
        self.waits.len() < before
    }

    /// 2^n seconds, three quarters to five quarters of it, so that peers that failed together do not return
    /// together.
    fn pause(&mut self, failures: u32) -> Duration {
        let base = 1_u64.checked_shl(failures).map_or(self.max, Duration::from_secs).min(self.max);
        base.mul_f64(self.random.random_range(0.75..1.25)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: Duration = Duration::from_secs(300);
    const PEER: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    const OURS: Incarnation = Incarnation([1; 16]);
    const THEIRS: Incarnation = Incarnation([2; 16]);
    const STORES: Stores = Stores { ours: OURS, theirs: Some(THEIRS) };

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn wait(backoff: &Backoff, now: Monotonic, path: Path) -> Duration {
        backoff.until(now, &PEER, path).map_or(Duration::ZERO, |until| until.since(now))
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        let mut backoff = Backoff::new(MAX, 7);
        for n in 1..20_u32 {
            assert!(backoff.ended(at(0), PEER, Path::P2p, Outcome::Refused, false, STORES));
            let pause = wait(&backoff, at(0), Path::P2p);
            let base = Duration::from_secs(1 << n).min(MAX);
            assert!(pause >= base.mul_f64(0.75) && pause <= base.mul_f64(1.25).min(MAX), "n={n}: {pause:?}");
        }
    }

    #[test]
    fn each_outcome_counts_where_it_should() {
        for outcome in Outcome::ALL {
            let mut backoff = Backoff::new(MAX, 7);
            backoff.ended(at(0), PEER, Path::P2p, outcome, false, STORES);
            let (same, other) = (wait(&backoff, at(0), Path::P2p), wait(&backoff, at(0), Path::Http));
            let (same, other) = (!same.is_zero(), !other.is_zero());
            let expected = match outcome {
                Outcome::Healed | Outcome::Stale => (false, false),
                Outcome::TimedOut | Outcome::Lost => (true, false),
                Outcome::Refused | Outcome::Lied | Outcome::NoProgress => (true, true),
            };
            assert_eq!((same, other), expected, "{outcome}");
        }
    }

    #[test]
    fn progress_resets_and_healing_ends_the_pause() {
        let mut backoff = Backoff::new(MAX, 7);
        for _ in 0..5 {
            backoff.ended(at(0), PEER, Path::P2p, Outcome::TimedOut, false, STORES);
        }
        backoff.ended(at(0), PEER, Path::P2p, Outcome::TimedOut, true, STORES);
        assert!(wait(&backoff, at(0), Path::P2p) <= Duration::from_millis(1250));
        assert!(backoff.ended(at(0), PEER, Path::Http, Outcome::Healed, true, STORES));
        assert_eq!(wait(&backoff, at(0), Path::P2p), Duration::ZERO);
        assert!(!backoff.ended(at(0), PEER, Path::Http, Outcome::Healed, true, STORES), "nothing to forget");
    }

    #[test]
    fn pauses_survive_a_restart_and_are_bounded_after_it() {
        let mut backoff = Backoff::new(MAX, 7);
        backoff.ended(at(100), PEER, Path::P2p, Outcome::Lied, false, STORES);
        backoff.ended(at(100), OTHER, Path::Http, Outcome::Lost, false, STORES);
        let kept = backoff.export(at(100), WallTime(1_000_000));

        let mut restarted = Backoff::new(MAX, 8);
        restarted.import(at(0), WallTime(1_000_000), &kept);
        assert_eq!(
            wait(&restarted, at(0), Path::Http).as_millis(),
            wait(&backoff, at(100), Path::Http).as_millis()
        );
        restarted.ended(at(10), PEER, Path::P2p, Outcome::Lied, false, STORES);
        assert!(wait(&restarted, at(10), Path::P2p) >= Duration::from_secs(3), "the count went on");

        let mut clock_stepped_back = Backoff::new(MAX, 8);
        clock_stepped_back.import(at(0), WallTime(0), &kept);
        assert!(wait(&clock_stepped_back, at(0), Path::P2p) <= MAX);

        restarted.retain(&BTreeSet::from([OTHER]));
        assert_eq!(wait(&restarted, at(10), Path::P2p), Duration::ZERO);
    }

    #[test]
    fn a_new_incarnation_of_either_side_is_another_beginning() {
        let other = Incarnation([3; 16]);
        for outcome in [Outcome::Refused, Outcome::Lied, Outcome::NoProgress] {
            let mut backoff = Backoff::new(MAX, 7);
            for _ in 0..5 {
                backoff.ended(at(0), PEER, Path::P2p, outcome, false, STORES);
            }
            assert!(!backoff.meet(at(1), PEER, STORES), "nothing is new");
            assert!(!backoff.meet(at(1), PEER, Stores { theirs: None, ..STORES }), "nothing is known");
            assert!(!wait(&backoff, at(1), Path::P2p).is_zero());
            for stores in [Stores { theirs: Some(other), ..STORES }, Stores { ours: other, ..STORES }] {
                // Also when it became new while nobody was there to see it.
                let mut restarted = Backoff::new(MAX, 8);
                restarted.import(at(0), WallTime(0), &backoff.export(at(0), WallTime(0)));
                assert!(restarted.meet(at(1), PEER, stores));
                assert_eq!(wait(&restarted, at(1), Path::P2p), Duration::ZERO);
                restarted.ended(at(2), PEER, Path::P2p, outcome, false, stores);
                assert!(wait(&restarted, at(2), Path::P2p) <= Duration::from_millis(2_500), "from the first");
            }
        }
    }

    #[test]
    fn a_path_is_as_bad_to_a_new_incarnation() {
        let mut backoff = Backoff::new(MAX, 7);
        backoff.ended(at(0), PEER, Path::P2p, Outcome::TimedOut, false, STORES);
        assert!(!backoff.meet(at(0), PEER, Stores { ours: THEIRS, theirs: Some(OURS) }));
        assert!(!wait(&backoff, at(0), Path::P2p).is_zero());
    }

    #[test]
    fn a_liar_is_not_asked_again_at_once_by_calling_itself_another() {
        let mut backoff = Backoff::new(MAX, 7);
        let mut asked = Vec::new();
        for second in 0..3_000_u64 {
            let mut name = [9; 16];
            name[..8].copy_from_slice(&second.to_be_bytes());
            let stores = Stores { ours: OURS, theirs: Some(Incarnation(name)) };
            backoff.meet(at(second), PEER, stores);
            if wait(&backoff, at(second), Path::P2p).is_zero() {
                backoff.ended(at(second), PEER, Path::P2p, Outcome::Lied, false, stores);
                asked.push(second);
            }
        }
        assert!((10..100).contains(&asked.len()), "{asked:?}");
    }

    proptest! {
        #[test]
        fn no_pause_is_ever_longer_than_the_cap(seed: u64, outcomes in prop::collection::vec((0..7_usize, any::<bool>()), 0..60)) {
            let mut backoff = Backoff::new(MAX, seed);
            for (outcome, verified_new) in outcomes {
                backoff.ended(at(0), PEER, Path::P2p, Outcome::ALL[outcome], verified_new, STORES);
                prop_assert!(wait(&backoff, at(0), Path::P2p) <= MAX);
                prop_assert!(backoff.export(at(0), WallTime(0)).len() <= 3);
            }
        }
    }
}
