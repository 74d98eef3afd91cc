//! Decides who diverges: how many comparisons in a row differed, and when that is enough to pull.
//!
//! Sealed roots of honest replicas agree at a common epoch, so a difference means something; but one late
//! entry makes one difference, which the next seal ends by itself. So only `threshold` differences in a row
//! start a pull. Counts belong to the signed identity and its incarnation. A comparison counts only when its
//! epoch is greater than the last one compared, so that the same fact is never counted twice. Agreement resets
//! the count, and so does a root that our live map is known to dominate already (`ahead`); an error neither
//! counts nor resets, and is not even told here.
//!
//! The memory of what is `ahead` holds only for our own store as it was: it is all forgotten when the store's
//! incarnation or its damage generation changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::{Digest, Epoch, Incarnation, NodeId};
use crate::seal::{Comparison, Root, Runs, compare};
use crate::time::{Monotonic, WallTime};

/// Roots of one peer remembered as `ahead`.
const AHEAD_MAX: usize = 16;
/// A count is forgotten when nothing was compared for so many intervals.
const LAPSE_INTERVALS: u32 = 10;

/// What the machine hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Our own seals.
    OwnSeals {
        /// Our store's incarnation.
        incarnation: Incarnation,
        /// Raised whenever our store found, dropped or set aside anything.
        damage_generation: u64,
        /// The seals.
        runs: Runs,
    },
    /// A peer's announcement was believed, over the path in use.
    Announced {
        /// Who.
        peer: NodeId,
        /// Which of its stores.
        incarnation: Incarnation,
        /// Its seals.
        runs: Runs,
        /// How often we hear of it on this path: a heartbeat or a poll.
        interval: Duration,
        /// Our clock.
        wall: WallTime,
    },
    /// A pull from a peer begins: until it ends, nothing is counted.
    PullStarted {
        /// From whom.
        peer: NodeId,
    },
    /// A pull has ended.
    PullEnded {
        /// From whom it was.
        peer: NodeId,
        /// What was shown, if it healed.
        healed: Option<Healed>,
    },
    /// A peer is no longer trusted.
    Forget {
        /// Who.
        peer: NodeId,
    },
    /// The deadline has come.
    Tick,
}

/// A root that our live map was shown to dominate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Healed {
    /// In which incarnation the peer signed it.
    pub incarnation: Incarnation,
    /// The root; `None`: the peer had nothing.
    pub root: Option<Digest>,
    /// Only until then.
    pub until: Option<WallTime>,
}

/// What the machine decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A comparison differed and was counted.
    Counted {
        /// With whom.
        peer: NodeId,
        /// How many in a row.
        count: u32,
        /// The peer's epoch that was compared.
        epoch: Epoch,
        /// There was no common epoch.
        no_common_epoch: bool,
    },
    /// Differences had been counted, and are none any more.
    Agreed {
        /// With whom.
        peer: NodeId,
        /// The epoch compared.
        epoch: Epoch,
    },
    /// Enough differences in a row: pull.
    StartPull {
        /// From whom.
        peer: NodeId,
    },
    /// A count is too old to mean anything.
    Lapsed {
        /// Whose.
        peer: NodeId,
    },
}

#[derive(Clone, Debug)]
struct Own {
    incarnation: Incarnation,
    damage_generation: u64,
    runs: Runs,
}

#[derive(Clone, Copy, Debug)]
struct Ahead {
    root: Digest,
    until: Option<WallTime>,
}

#[derive(Clone, Debug)]
struct Peer {
    incarnation: Incarnation,
    count: u32,
    /// When the count lapses.
    lapses: Monotonic,
    /// The greatest epoch compared.
    compared: Option<Epoch>,
    /// When a difference was last counted.
    counted: Option<Monotonic>,
    /// Of this incarnation, the oldest first.
    ahead: VecDeque<Ahead>,
}

/// The machine: a count for each trusted peer that was heard.
#[derive(Clone, Debug)]
pub struct Divergence {
    threshold: u32,
    own: Option<Own>,
    peers: BTreeMap<NodeId, Peer>,
    /// A pull from these is running, and our store was this when it began.
    pulling: BTreeMap<NodeId, Option<(Incarnation, u64)>>,
}

impl Divergence {
    /// Nothing was compared; a pull starts at `threshold` (at least 1) differences in a row.
    pub fn new(threshold: u32) -> Self {
        Self { threshold: threshold.max(1), own: None, peers: BTreeMap::new(), pulling: BTreeMap::new() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        self.lapse(now, effects);
        match event {
            Event::OwnSeals { incarnation, damage_generation, runs } => {
                if self.own.as_ref().map(Own::store) != Some((incarnation, damage_generation)) {
                    self.peers.values_mut().for_each(|peer| peer.ahead.clear());
                }
                self.own = Some(Own { incarnation, damage_generation, runs });
            }
            Event::Announced { peer, incarnation, runs, interval, wall } => {
                self.announced(now, wall, peer, incarnation, &runs, interval, effects);
            }
            Event::PullStarted { peer } => {
                self.pulling.insert(peer, self.own.as_ref().map(Own::store));
            }
            Event::PullEnded { peer, healed } => self.pull_ended(peer, healed),
            Event::Forget { peer } => {
                self.peers.remove(&peer);
                self.pulling.remove(&peer);
            }
            Event::Tick => {}
        }
        debug_assert!(
            self.peers.values().all(|peer| peer.ahead.len() <= AHEAD_MAX),
            "the memory of what is ahead is bounded"
        );
    }

    /// When the next count lapses.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.peers.values().filter(|peer| peer.count > 0).map(|peer| peer.lapses).min()
    }

    /// How many comparisons in a row differed.
    pub fn count(&self, peer: &NodeId) -> u32 {
        self.peers.get(peer).map_or(0, |peer| peer.count)
    }

    /// Whether a peer's newest seal holds anything that our live map may lack, as far as is known: it has a
    /// root, which is not one of ours, and not known to be `ahead`.
    pub fn may_lack(&self, peer: &NodeId, runs: &Runs, wall: WallTime) -> bool {
        let Some(root) = runs.newest().and_then(|run| run.root) else { return false };
        let ours = self.own.as_ref().is_some_and(|own| own.has(&root));
        let ahead = self.peers.get(peer).is_some_and(|known| known.is_ahead(&root, wall));
        !ours && !ahead
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one event")]
    fn announced(
        &mut self,
        now: Monotonic,
        wall: WallTime,
        peer: NodeId,
        incarnation: Incarnation,
        runs: &Runs,
        interval: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(incarnation));
        if known.incarnation != incarnation {
            *known = Peer::new(incarnation);
        }
        let Some(own) = &self.own else { return };
        if self.pulling.contains_key(&peer) {
            return;
        }
        let (epoch, no_common_epoch) = match compare(&own.runs, runs) {
            Comparison::NothingOffered => return,
            Comparison::Agree { epoch } => {
                if known.rises(epoch) {
                    known.advance(epoch);
                    known.reset(peer, epoch, effects);
                }
                return;
            }
            Comparison::Differ { epoch, theirs, .. } => {
                if !known.rises(epoch) {
                    return;
                }
                if known.is_ahead(&theirs, wall) {
                    known.advance(epoch);
                    known.reset(peer, epoch, effects);
                    return;
                }
                (epoch, false)
            }
            Comparison::NoCommonEpoch { epoch, theirs, known: ours } => {
                if ours || known.is_ahead(&theirs, wall) {
                    known.reset(peer, epoch, effects);
                    return;
                }
                (epoch, true)
            }
        };
        // New seals are announced between heartbeats as well: those confirm or end a count, and do not add to
        // it. Three quarters of an interval, since heartbeats and polls come with jitter.
        if known.counted.is_some_and(|counted| now.since(counted) < interval * 3 / 4) {
            return;
        }
        known.counted = Some(now);
        if !no_common_epoch {
            known.advance(epoch);
        }
        known.count = known.count.saturating_add(1);
        known.lapses = now + interval * LAPSE_INTERVALS;
        let count = known.count;
        effects.push(Effect::Counted { peer, count, epoch, no_common_epoch });
        if count >= self.threshold {
            effects.push(Effect::StartPull { peer });
        }
    }

    fn pull_ended(&mut self, peer: NodeId, healed: Option<Healed>) {
        let began = self.pulling.remove(&peer).flatten();
        let Some(Healed { incarnation, root, until }) = healed else { return };
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(incarnation));
        if known.incarnation != incarnation {
            return;
        }
        known.count = 0;
        // A store that found damage, or was made anew, may have lost meanwhile what was proved before.
        let whole = self.own.as_ref().map(Own::store) == began;
        if let Some(root) = root.filter(|_| whole) {
            known.ahead.retain(|ahead| ahead.root != root);
            if known.ahead.len() == AHEAD_MAX {
                known.ahead.pop_front();
            }
            known.ahead.push_back(Ahead { root, until });
        }
    }

    fn lapse(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        for (&peer, known) in &mut self.peers {
            if known.count > 0 && known.lapses <= now {
                known.count = 0;
                effects.push(Effect::Lapsed { peer });
            }
        }
    }
}

impl Own {
    /// Which store it is, and how often it has lost anything.
    fn store(&self) -> (Incarnation, u64) {
        (self.incarnation, self.damage_generation)
    }

    fn has(&self, root: &Root) -> bool {
        self.runs.as_slice().iter().any(|run| run.root.as_ref() == Some(root))
    }
}

impl Peer {
    fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            count: 0,
            lapses: Monotonic::ZERO,
            compared: None,
            counted: None,
            ahead: VecDeque::new(),
        }
    }

    /// Whether a comparison at `epoch` says anything new.
    fn rises(&self, epoch: Epoch) -> bool {
        self.compared.is_none_or(|compared| epoch > compared)
    }

    fn advance(&mut self, epoch: Epoch) {
        self.compared = Some(epoch);
    }

    fn is_ahead(&self, root: &Root, wall: WallTime) -> bool {
        self.ahead
            .iter()
            .any(|ahead| ahead.root == root.digest && ahead.until.is_none_or(|until| wall < until))
    }

    fn reset(&mut self, peer: NodeId, epoch: Epoch, effects: &mut Vec<Effect>) {
        if self.count > 0 {
            self.count = 0;
            effects.push(Effect::Agreed { peer, epoch });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seal::Run;

    const PEER: NodeId = NodeId([1; 32]);
    const OURS: Incarnation = Incarnation([1; 16]);
    const FIRST: Incarnation = Incarnation([2; 16]);
    const SECOND: Incarnation = Incarnation([3; 16]);
    const INTERVAL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn root(byte: u8) -> Option<Root> {
        (byte > 0).then_some(Root { digest: Digest([byte; 32]), entries: 1, tombstones: 0 })
    }

    /// Runs of one root each; 0 is the empty tree.
    fn runs(all: &[(u64, u64, u8)]) -> Runs {
        let run =
            |&(from, to, byte): &(u64, u64, u8)| Run { from: Epoch(from), to: Epoch(to), root: root(byte) };
        Runs::parse(all.iter().map(run).collect()).unwrap()
    }

    struct Bench(Divergence);

    impl Bench {
        fn new() -> Self {
            Self(Divergence::new(3))
        }

        fn hear(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            let mut effects = Vec::new();
            self.0.handle(at(seconds), event, &mut effects);
            effects
        }

        fn own(&mut self, damage_generation: u64, all: &[(u64, u64, u8)]) {
            let event = Event::OwnSeals { incarnation: OURS, damage_generation, runs: runs(all) };
            self.hear(0, event);
        }

        fn theirs(&mut self, seconds: u64, incarnation: Incarnation, all: &[(u64, u64, u8)]) -> Vec<Effect> {
            let (runs, wall) = (runs(all), WallTime(seconds * 1000));
            self.hear(seconds, Event::Announced { peer: PEER, incarnation, runs, interval: INTERVAL, wall })
        }

        fn count(&self) -> u32 {
            self.0.count(&PEER)
        }
    }

    fn counted(count: u32, epoch: u64) -> Effect {
        Effect::Counted { peer: PEER, count, epoch: Epoch(epoch), no_common_epoch: false }
    }

    #[test]
    fn the_third_difference_in_a_row_starts_a_pull() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        assert_eq!(bench.theirs(0, FIRST, &[(1, 10, 2)]), [counted(1, 10)]);
        assert_eq!(bench.theirs(5, FIRST, &[(1, 15, 2)]), [counted(2, 15)]);
        let start = Effect::StartPull { peer: PEER };
        assert_eq!(bench.theirs(10, FIRST, &[(1, 20, 2)]), [counted(3, 20), start]);
        assert_eq!(bench.theirs(15, FIRST, &[(1, 25, 2)]), [counted(4, 25), start], "until one heals");
    }

    #[test]
    fn one_fact_is_counted_once() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        assert_eq!(bench.theirs(0, FIRST, &[(1, 10, 2)]), [counted(1, 10)]);
        assert_eq!(bench.theirs(5, FIRST, &[(1, 10, 2)]), [], "the epoch does not rise");
        assert_eq!(bench.theirs(6, FIRST, &[(1, 9, 2)]), []);
        assert_eq!(bench.theirs(7, FIRST, &[(1, 12, 2)]), [counted(2, 12)]);
        assert_eq!(bench.theirs(8, FIRST, &[(1, 13, 2)]), [], "more often than heartbeats come");
        assert_eq!(bench.theirs(12, FIRST, &[(1, 13, 2)]).len(), 2);
    }

    #[test]
    fn agreement_resets() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 10, 1), (11, 20, 2)]);
        bench.theirs(0, FIRST, &[(1, 5, 9)]);
        let agreed = Effect::Agreed { peer: PEER, epoch: Epoch(15) };
        assert_eq!(bench.theirs(1, FIRST, &[(6, 15, 2)]), [agreed], "between heartbeats too");
        assert_eq!(bench.count(), 0);
        assert_eq!(bench.theirs(5, FIRST, &[(6, 16, 2)]), []);
    }

    #[test]
    fn an_empty_tree_is_neither_agreement_nor_difference() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.theirs(0, FIRST, &[(1, 10, 2)]);
        assert_eq!(bench.theirs(5, FIRST, &[(11, 20, 0)]), []);
        assert_eq!(bench.count(), 1);
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 0)]);
        assert_eq!(bench.theirs(0, FIRST, &[(1, 10, 2)]), [counted(1, 10)], "our own against a root differs");
    }

    #[test]
    fn no_common_epoch_counts_once_an_interval() {
        let mut bench = Bench::new();
        bench.own(0, &[(100, 200, 1)]);
        let gap = |count| Effect::Counted { peer: PEER, count, epoch: Epoch(10), no_common_epoch: true };
        assert_eq!(bench.theirs(0, FIRST, &[(1, 10, 2)]), [gap(1)]);
        assert_eq!(bench.theirs(1, FIRST, &[(1, 10, 2)]), []);
        assert_eq!(bench.theirs(5, FIRST, &[(1, 10, 2)]), [gap(2)]);
        assert_eq!(bench.theirs(10, FIRST, &[(1, 10, 2)]), [gap(3), Effect::StartPull { peer: PEER }]);
        assert_eq!(bench.theirs(15, FIRST, &[(1, 10, 1)]).len(), 1, "one of our roots: it resets");
        assert_eq!(bench.count(), 0);
    }

    #[test]
    fn what_we_dominate_is_no_difference_while_our_store_is_whole() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.theirs(0, FIRST, &[(1, 10, 2)]);
        let healed = |until| {
            let root = Some(Digest([2; 32]));
            let healed = Some(Healed { incarnation: FIRST, root, until });
            Event::PullEnded { peer: PEER, healed }
        };
        bench.hear(1, Event::PullStarted { peer: PEER });
        bench.hear(1, healed(None));
        assert_eq!(bench.count(), 0, "healing resets");
        assert_eq!(bench.theirs(5, FIRST, &[(1, 15, 2)]), []);
        assert!(!bench.0.may_lack(&PEER, &runs(&[(1, 15, 2)]), WallTime(0)));
        assert!(bench.0.may_lack(&PEER, &runs(&[(1, 15, 3)]), WallTime(0)));
        assert!(!bench.0.may_lack(&PEER, &runs(&[(1, 15, 1)]), WallTime(0)), "one of ours");
        assert!(!bench.0.may_lack(&PEER, &runs(&[(1, 15, 0)]), WallTime(0)), "nothing to lack");

        bench.own(1, &[(1, 100, 1)]);
        assert_eq!(bench.theirs(10, FIRST, &[(1, 20, 2)]), [counted(1, 20)], "damage was found");
        bench.hear(11, Event::PullStarted { peer: PEER });
        bench.hear(11, healed(Some(WallTime(20_000))));
        assert_eq!(bench.theirs(16, FIRST, &[(1, 25, 2)]), []);
        assert_eq!(bench.theirs(21, FIRST, &[(1, 30, 2)]), [counted(1, 30)], "what was not due is due now");
    }

    #[test]
    fn damage_found_while_a_pull_runs_forgets_what_it_proves() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.hear(0, Event::PullStarted { peer: PEER });
        bench.own(1, &[(1, 100, 1)]);
        let healed = Some(Healed { incarnation: FIRST, root: Some(Digest([2; 32])), until: None });
        bench.hear(1, Event::PullEnded { peer: PEER, healed });
        assert_eq!(bench.theirs(5, FIRST, &[(1, 15, 2)]), [counted(1, 15)], "we may lack it again");
    }

    #[test]
    fn another_incarnation_starts_anew() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.theirs(0, FIRST, &[(1, 50, 2)]);
        bench.theirs(5, FIRST, &[(1, 51, 2)]);
        assert_eq!(bench.theirs(10, SECOND, &[(1, 10, 2)]), [counted(1, 10)]);
        let healed = Some(Healed { incarnation: FIRST, root: Some(Digest([2; 32])), until: None });
        bench.hear(10, Event::PullEnded { peer: PEER, healed });
        assert_eq!(bench.count(), 1, "a pull from the old one says nothing of the new one");
    }

    #[test]
    fn while_a_pull_runs_nothing_is_counted() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.theirs(0, FIRST, &[(1, 10, 2)]);
        bench.hear(1, Event::PullStarted { peer: PEER });
        assert_eq!(bench.theirs(5, FIRST, &[(1, 15, 2)]), []);
        bench.hear(6, Event::PullEnded { peer: PEER, healed: None });
        assert_eq!(bench.theirs(10, FIRST, &[(1, 20, 2)]), [counted(2, 20)], "a failed pull resets nothing");
    }

    #[test]
    fn an_old_count_lapses() {
        let mut bench = Bench::new();
        bench.own(0, &[(1, 100, 1)]);
        bench.theirs(0, FIRST, &[(1, 10, 2)]);
        assert_eq!(bench.0.deadline(), Some(at(50)));
        assert_eq!(bench.hear(49, Event::Tick), []);
        assert_eq!(bench.hear(50, Event::Tick), [Effect::Lapsed { peer: PEER }]);
        assert_eq!((bench.count(), bench.0.deadline()), (0, None));
        bench.theirs(60, FIRST, &[(1, 20, 2)]);
        bench.hear(60, Event::Forget { peer: PEER });
        assert_eq!(bench.count(), 0);
    }

    proptest! {
        /// However announcements come, each count has an epoch of its own, and a pull has `threshold` counts.
        #[test]
        fn counts_rise_by_one_and_epochs_rise(announced in prop::collection::vec((0..9_u64, 1..60_u64, 0..3_u8), 0..80)) {
            let mut bench = Bench::new();
            bench.own(0, &[(1, 100, 1)]);
            let (mut now, mut epochs, mut expected) = (0, Vec::new(), 0);
            for (seconds, epoch, byte) in announced {
                now += seconds;
                for effect in bench.theirs(now, FIRST, &[(epoch, epoch, byte)]) {
                    match effect {
                        Effect::Counted { count, epoch, .. } => {
                            expected += 1;
                            prop_assert_eq!(count, expected);
                            epochs.push(epoch);
                        }
                        Effect::StartPull { .. } => prop_assert!(expected >= 3),
                        Effect::Agreed { .. } | Effect::Lapsed { .. } => expected = 0,
                    }
                }
                prop_assert!(bench.0.deadline().is_none_or(|deadline| deadline > at(now)));
            }
            prop_assert!(epochs.is_sorted_by(|a, b| a < b));
        }
    }
}
