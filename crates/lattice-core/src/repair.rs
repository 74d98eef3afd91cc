//! Decides when damaged entries are looked for, and at whom.
//!
//! While our store knows of damaged keys, they are listed page by page, and each page is taken from one peer to
//! the next until nothing of it is left or nobody is left to ask; one repair runs at a time. A round that has come
//! through the list begins again: soon when it mended anything, else after pauses that double, since what nobody
//! has today may come with a peer tomorrow. New damage ends the pause.
//!
//! A repair itself is a pull of single keys ([`crate::pull`]); which peers can be asked is for the caller.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::model::{Incarnation, Key, NodeId};
use crate::pull::{LOST_MAX, Lost};
use crate::time::Monotonic;

/// The shortest pause between two rounds, and between two looks for somebody to ask.
const PAUSE: Duration = Duration::from_secs(5);
/// After so many pages a round pauses where it is.
const PAGES_MAX: u32 = 16;

/// What the machine hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// How our own store is.
    Own {
        /// Which store.
        incarnation: Incarnation,
        /// How often it has found damage.
        damage_generation: u64,
        /// How many keys it knows to be damaged.
        damaged: u64,
    },
    /// The store listed damaged keys. Answers [`Effect::List`].
    Listed {
        /// At most as many as were asked for.
        lost: Vec<Lost>,
        /// The last of them, when there may be more; `None` at the end.
        more: Option<Key>,
    },
    /// It did not. Answers [`Effect::List`].
    NotListed,
    /// Whom a repair could be made from now. Of use while [`Repair::looks_for_peers`].
    Peers(Vec<Candidate>),
    /// The repair has ended, or could not be started. Answers [`Effect::Seek`].
    Ended {
        /// Keys that are damaged no more.
        repaired: u64,
        /// Keys that are still to be mended.
        left: Vec<Lost>,
    },
    /// The deadline has come.
    Tick,
}

/// A peer that may have what is damaged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: NodeId,
    /// A repair from it may start at once: no pull from it runs, and there is room for one more.
    pub free: bool,
}

/// What the machine wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// List damaged keys of our own store: answered by [`Event::Listed`] or [`Event::NotListed`].
    List {
        /// The keys after this one.
        after: Option<Key>,
        /// How many at most.
        limit: usize,
    },
    /// Look for these at a peer: answered by [`Event::Ended`].
    Seek {
        /// At whom.
        peer: NodeId,
        /// What: at most [`LOST_MAX`].
        lost: Vec<Lost>,
    },
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Repair {
    pause_max: Duration,
    random: Xoshiro256PlusPlus,
    store: Option<Store>,
    state: State,
    /// The keys after this one come next.
    after: Option<Key>,
    /// What this round has done so far.
    round: Round,
    /// Rounds in a row that mended nothing.
    failures: u32,
    /// What is due is done up to here.
    looked: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Store {
    incarnation: Incarnation,
    damage_generation: u64,
    damaged: u64,
}

#[derive(Clone, Debug)]
enum State {
    /// The next page is listed then, if anybody could be asked.
    Pausing { until: Monotonic },
    /// The store was asked.
    Listing,
    /// A page waits for a peer that is free.
    Waiting(Page),
    /// A page is looked for at a peer.
    Seeking(Page),
}

#[derive(Clone, Debug)]
struct Page {
    lost: Vec<Lost>,
    more: Option<Key>,
    asked: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    pages: u32,
    repaired: bool,
}

impl Repair {
    /// Nothing is damaged; no pause is ever longer than `pause_max`. `seed` for the jitter.
    pub fn new(pause_max: Duration, seed: u64) -> Self {
        Self {
            pause_max,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            store: None,
            state: State::Pausing { until: Monotonic::ZERO },
            after: None,
            round: Round::default(),
            failures: 0,
            looked: Monotonic::ZERO,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        self.looked = now;
        match event {
            Event::Own { incarnation, damage_generation, damaged } => {
                self.own(now, Store { incarnation, damage_generation, damaged });
            }
            Event::Listed { lost, more } => {
                if matches!(self.state, State::Listing) {
                    self.listed(now, lost, more);
                }
            }
            Event::NotListed => {
                if matches!(self.state, State::Listing) {
                    self.state = State::Pausing { until: now + PAUSE };
                }
            }
            Event::Peers(peers) => self.find_peer(now, &peers, effects),
            Event::Ended { repaired, left } => {
                if let State::Seeking(page) = &mut self.state {
                    self.round.repaired |= repaired > 0;
                    let page =
                        Page { lost: left, more: page.more.take(), asked: std::mem::take(&mut page.asked) };
                    match page.lost.is_empty() {
                        true => self.page_over(now, page.more),
                        false => self.state = State::Waiting(page),
                    }
                }
            }
            Event::Tick => {}
        }
    }

    /// When to send [`Event::Peers`] again, or [`Event::Tick`].
    pub fn deadline(&self) -> Option<Monotonic> {
        match self.state {
            State::Pausing { until } if self.is_damaged() => Some(until).filter(|until| *until > self.looked),
            State::Pausing { .. } | State::Listing | State::Waiting(_) | State::Seeking(_) => None,
        }
    }

    /// Whether anything waits for [`Event::Peers`].
    pub fn looks_for_peers(&self, now: Monotonic) -> bool {
        match self.state {
            State::Pausing { until } => self.is_damaged() && until <= now,
            State::Waiting(_) => true,
            State::Listing | State::Seeking(_) => false,
        }
    }

    fn is_damaged(&self) -> bool {
        self.store.is_some_and(|store| store.damaged > 0)
    }

    fn own(&mut self, now: Monotonic, store: Store) {
        let known = self.store.replace(store);
        let same = |known: Store| (known.incarnation, known.damage_generation);
        let more = known.is_none_or(|known| same(known) != same(store) || known.damaged < store.damaged);
        if store.damaged == 0 && matches!(self.state, State::Waiting(_)) {
            self.state = State::Pausing { until: now };
        }
        if store.damaged > 0
            && more
            && let State::Pausing { until } = &mut self.state
        {
            (self.failures, self.after, self.round) = (0, None, Round::default());
            *until = (*until).min(now);
        }
    }

    fn listed(&mut self, now: Monotonic, lost: Vec<Lost>, more: Option<Key>) {
        if lost.is_empty() {
            self.page_over(now, None);
            return;
        }
        self.round.pages += 1;
        self.state = State::Waiting(Page { lost, more, asked: BTreeSet::new() });
    }

    fn find_peer(&mut self, now: Monotonic, peers: &[Candidate], effects: &mut Vec<Effect>) {
        let damaged = self.is_damaged();
        match &mut self.state {
            State::Pausing { until } if damaged && *until <= now => {
                // Without anybody to ask, there is no use in a list.
                if peers.is_empty() {
                    *until = now + PAUSE;
                    return;
                }
                self.state = State::Listing;
                effects.push(Effect::List { after: self.after.clone(), limit: LOST_MAX });
            }
            State::Waiting(page) => {
                let mut left =
                    peers.iter().filter(|candidate| !page.asked.contains(&candidate.peer)).peekable();
                if left.peek().is_none() {
                    let more = page.more.take();
                    self.page_over(now, more);
                    return;
                }
                let Some(&Candidate { peer, .. }) = left.find(|candidate| candidate.free) else { return };
                page.asked.insert(peer);
                let lost = page.lost.clone();
                if let State::Waiting(page) =
                    std::mem::replace(&mut self.state, State::Pausing { until: now + PAUSE })
                {
                    self.state = State::Seeking(page);
                }
                effects.push(Effect::Seek { peer, lost });
            }
            State::Pausing { .. } | State::Listing | State::Seeking(_) => {}
        }
    }

    /// A page is through: the next one, or a pause.
    fn page_over(&mut self, now: Monotonic, more: Option<Key>) {
        let ended = more.is_none();
        self.after = more;
        let until = if ended || self.round.pages >= PAGES_MAX {
            let Round { repaired, .. } = std::mem::take(&mut self.round);
            self.failures = if repaired { 0 } else { self.failures.saturating_add(1) };
            now + self.pause()
        } else {
            now
        };
        self.state = State::Pausing { until };
    }

    /// Doubling, with jitter of a quarter each way.
    fn pause(&mut self) -> Duration {
        let doubled = PAUSE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let base = doubled.min(self.pause_max);
        base.mul_f64(self.random.random_range(0.75..1.25)).min(self.pause_max).max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Digest, KeyHash};

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const MAX: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn lost(numbers: &[u8]) -> Vec<Lost> {
        numbers.iter().map(|&byte| Lost { key_hash: KeyHash(Digest([byte; 32])), head: None }).collect()
    }

    fn key(text: &str) -> Key {
        Key::try_from(text).unwrap()
    }

    struct Bench(Repair);

    impl Bench {
        fn new() -> Self {
            Self(Repair::new(MAX, 7))
        }

        fn hear(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            let mut effects = Vec::new();
            self.0.handle(at(seconds), event, &mut effects);
            assert!(self.0.deadline().is_none_or(|deadline| deadline > at(seconds)), "it moves on");
            effects
        }

        fn own(&mut self, seconds: u64, damage_generation: u64, damaged: u64) {
            let own = Event::Own { incarnation: Incarnation([1; 16]), damage_generation, damaged };
            assert_eq!(self.hear(seconds, own), []);
        }

        fn peers(&mut self, seconds: u64, free: &[(NodeId, bool)]) -> Vec<Effect> {
            assert!(self.0.looks_for_peers(at(seconds)), "it has a use for them");
            let candidate = |&(peer, free): &(NodeId, bool)| Candidate { peer, free };
            self.hear(seconds, Event::Peers(free.iter().map(candidate).collect()))
        }

        fn listed(&mut self, seconds: u64, numbers: &[u8], more: Option<&str>) {
            let event = Event::Listed { lost: lost(numbers), more: more.map(key) };
            assert_eq!(self.hear(seconds, event), []);
        }

        fn ended(&mut self, seconds: u64, repaired: u64, left: &[u8]) {
            assert_eq!(self.hear(seconds, Event::Ended { repaired, left: lost(left) }), []);
        }

        /// How long it pauses from now.
        fn pause(&self, seconds: u64) -> Duration {
            self.0.deadline().map_or(Duration::ZERO, |deadline| deadline.since(at(seconds)))
        }
    }

    fn list(after: Option<&str>) -> [Effect; 1] {
        [Effect::List { after: after.map(key), limit: LOST_MAX }]
    }

    fn seek(peer: NodeId, numbers: &[u8]) -> [Effect; 1] {
        [Effect::Seek { peer, lost: lost(numbers) }]
    }

    #[test]
    fn a_page_goes_from_peer_to_peer_until_nothing_is_left() {
        let mut bench = Bench::new();
        assert!(!bench.0.looks_for_peers(at(9)), "nothing is damaged");
        bench.own(10, 1, 3);
        let both = [(A, true), (B, true)];
        assert_eq!(bench.peers(10, &both), list(None));
        assert!(!bench.0.looks_for_peers(at(10)), "the store was asked");
        bench.listed(11, &[1, 2, 3], None);
        assert_eq!(bench.peers(11, &both), seek(A, &[1, 2, 3]));
        bench.ended(12, 2, &[2]);
        assert_eq!(bench.peers(12, &both), seek(B, &[2]), "what is left of it, at the next one");
        bench.ended(13, 1, &[]);
        bench.own(14, 1, 0);
        bench.own(14, 1, 1);
        bench.peers(14, &both);
        bench.listed(14, &[4], None);
        bench.own(15, 1, 0);
        assert!(!bench.0.looks_for_peers(at(15)), "a newer write was first");
        assert_eq!(bench.0.deadline(), None);
        assert!(!bench.0.looks_for_peers(at(1_000)), "all is mended");
    }

    #[test]
    fn a_peer_that_is_busy_is_waited_for_and_one_that_is_gone_is_not() {
        let mut bench = Bench::new();
        bench.own(10, 1, 1);
        bench.peers(10, &[(A, true)]);
        bench.listed(10, &[1], None);
        assert_eq!(bench.peers(10, &[(A, false), (B, false)]), []);
        assert_eq!(bench.peers(20, &[(A, false), (B, true)]), seek(B, &[1]));
        bench.ended(21, 0, &[1]);
        assert_eq!(bench.peers(21, &[(A, false), (B, true)]), [], "each is asked once");
        assert_eq!(bench.peers(22, &[(B, true)]), []);
        assert!(bench.pause(22) > Duration::from_secs(5), "nobody is left: the round is over");
    }

    #[test]
    fn rounds_that_mend_nothing_come_ever_more_rarely_and_new_damage_ends_the_pause() {
        let mut bench = Bench::new();
        bench.own(0, 1, 1);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            assert_eq!(bench.peers(now, &[(A, true)]), list(None));
            bench.listed(now, &[1], None);
            assert_eq!(bench.peers(now, &[(A, true)]), seek(A, &[1]));
            bench.ended(now, 0, &[1]);
            assert_eq!(bench.peers(now, &[(A, true)]), []);
            pauses.push(bench.pause(now).as_secs());
            now += bench.pause(now).as_secs() + 1;
        }
        for (index, pause) in pauses.iter().enumerate() {
            let base = (PAUSE.as_secs() << (index + 1)).min(MAX.as_secs());
            assert!(*pause >= base * 3 / 4 - 1 && *pause <= base * 5 / 4, "{pauses:?}");
        }
        bench.own(now, 1, 1);
        bench.peers(now, &[(A, true)]);
        bench.listed(now, &[1], None);
        bench.peers(now, &[(A, true)]);
        bench.ended(now, 0, &[1]);
        bench.peers(now, &[(A, true)]);
        bench.own(now + 1, 1, 1);
        assert!(!bench.0.looks_for_peers(at(now + 1)), "it is the same damage");
        bench.own(now + 2, 2, 2);
        assert_eq!(bench.peers(now + 2, &[(A, true)]), list(None), "that is new");
    }

    #[test]
    fn a_long_list_is_gone_through_page_by_page_within_bounds() {
        let mut bench = Bench::new();
        bench.own(0, 1, 100_000);
        assert_eq!(bench.peers(0, &[(A, true)]), list(None));
        for page in 1..=PAGES_MAX {
            let last = format!("key-{page}");
            bench.listed(0, &[1], Some(&last));
            assert_eq!(bench.peers(0, &[(A, true)]), seek(A, &[1]));
            bench.ended(0, 1, &[]);
            if page < PAGES_MAX {
                assert_eq!(bench.peers(0, &[(A, true)]), list(Some(&last)));
            }
        }
        let pause = bench.pause(0);
        assert!(pause >= PAUSE / 2 && pause <= PAUSE * 2, "{pause:?}");
        let later = pause.as_secs() + 1;
        assert_eq!(bench.peers(later, &[(A, true)]), list(Some("key-16")), "it goes on where it was");
        bench.listed(later, &[], None);
        assert!(bench.pause(later) > Duration::ZERO, "the end of the list: it begins again");
    }

    #[test]
    fn without_anybody_to_ask_or_with_a_store_that_is_away_it_looks_again_soon() {
        let mut bench = Bench::new();
        bench.own(0, 1, 1);
        assert_eq!(bench.peers(0, &[]), []);
        assert_eq!(bench.pause(0), PAUSE);
        assert_eq!(bench.peers(5, &[(A, true)]), list(None));
        assert_eq!(bench.hear(6, Event::NotListed), []);
        assert_eq!(bench.pause(6), PAUSE);
    }

    proptest! {
        /// Whatever is answered when: one thing is under way at a time, no peer is asked twice for a page, and
        /// time never stands still.
        #[test]
        fn one_at_a_time(events in prop::collection::vec((0..7_u8, 0..4_u8, 0..40_u64), 0..150)) {
            let mut bench = Bench::new();
            let (mut now, mut listing, mut seeking) = (0, false, false);
            let mut asked: BTreeSet<NodeId> = BTreeSet::new();
            for (kind, what, seconds) in events {
                now += seconds;
                let event = match kind {
                    0 => Event::Own {
                        incarnation: Incarnation([what / 2; 16]), damage_generation: 1, damaged: what.into(),
                    },
                    1 if listing => Event::Listed { lost: lost(&[1, 2]), more: (what > 2).then(|| key("k")) },
                    2 if listing && what == 0 => Event::NotListed,
                    3 if seeking => Event::Ended { repaired: 0, left: lost(&[1, 2][..usize::from(what % 3)]) },
                    4..=6 => {
                        let free = |peer, bit: u8| Candidate { peer, free: what & bit > 0 };
                        Event::Peers(vec![free(A, 1), free(B, 2)])
                    }
                    _ => Event::Tick,
                };
                match event {
                    Event::Listed { .. } | Event::NotListed => (listing, asked) = (false, BTreeSet::new()),
                    Event::Ended { .. } => seeking = false,
                    _ => {}
                }
                for effect in bench.hear(now, event) {
                    prop_assert!(!listing && !seeking);
                    match effect {
                        Effect::List { .. } => listing = true,
                        Effect::Seek { peer, lost } => {
                            prop_assert!(asked.insert(peer) && !lost.is_empty());
                            seeking = true;
                        }
                    }
                }
            }
        }
    }
}
