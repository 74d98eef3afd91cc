//! Decides when a store that lost entries, and does not know which, is whole again.
//!
//! Such a store must not tell an absence until nobody can know better: pulls from every live trusted peer have
//! ended `Healed`, and at least one of those peers was itself whole. Three things keep that from being said too
//! early. A peer that was not heard yet is waited for as long as one that falls silent, so that whoever connects
//! first does not decide alone. A peer that recovers, or was empty at any time since we look, knows no more than
//! we do, however much it pulls from us meanwhile: it is no witness. And what was proved counts for one pair of
//! stores: when either becomes another one, or ours finds more damage, it is pulled from again.
//!
//! This module asks for pulls without waiting for differences; when they start, and what they come to, is for
//! others. The store keeps over restarts that it recovers; what was proved is forgotten by a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{Incarnation, NodeId};
use crate::time::Monotonic;

/// A pull that is wanted and did not start, or came to nothing, is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A store that was told and recovers still is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What the machine hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// How our own store is.
    Own {
        /// Which store.
        incarnation: Incarnation,
        /// How often it has found damage.
        damage_generation: u64,
        /// It lost entries, and does not know which.
        recovering: bool,
    },
    /// These are the trusted peers, without ourselves.
    Trusted(BTreeSet<NodeId>),
    /// A peer's announcement is believed.
    Announced {
        /// Whose.
        peer: NodeId,
        /// Of which of its stores.
        incarnation: Incarnation,
        /// What it has to give.
        offer: Offer,
        /// Its store lost entries itself.
        recovering: bool,
    },
    /// A pull from a peer has begun, for whatever reason.
    PullStarted {
        /// From whom.
        peer: NodeId,
    },
    /// It has ended.
    PullEnded {
        /// From whom.
        peer: NodeId,
        /// The peer's store, of which ours holds everything now; `None` for any other outcome.
        healed: Option<Incarnation>,
    },
    /// The deadline has come.
    Tick,
}

/// What a peer's newest seal has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It has sealed nothing yet.
    Unsealed,
    /// A tree without anything: there is nothing to pull.
    Nothing,
    /// A root.
    Root,
}

/// What the machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Pull from this peer, unless a pull from it is running or wanted already.
    Pull {
        /// From whom.
        peer: NodeId,
    },
    /// Tell our store that its peers have filled it again.
    Recovered {
        /// Which store.
        incarnation: Incarnation,
    },
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// A peer that was not heard for so long is not live.
    quiet_after: Duration,
    peers: BTreeMap<NodeId, Peer>,
    /// `None` while our store recovers from nothing.
    lost: Option<Lost>,
}

/// Our own store while it recovers.
#[derive(Clone, Copy, Debug)]
struct Lost {
    incarnation: Incarnation,
    damage_generation: u64,
    since: Monotonic,
    /// What is due is done up to here.
    looked: Monotonic,
    told: Option<Monotonic>,
}

/// A trusted peer.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// What it announced last, and when.
    said: Option<Said>,
    /// It was empty since we began to look.
    was_empty: bool,
    /// A pull from it runs that began since then; whether it was whole at that time.
    pulling: Option<bool>,
    /// A pull since then has healed.
    pulled: Option<Pulled>,
    /// No pull from it is asked for before.
    ask_at: Option<Monotonic>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    at: Monotonic,
    incarnation: Incarnation,
    offer: Offer,
    recovering: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pulled {
    /// The peer was whole when the pull began.
    whole: bool,
}

impl Recovery {
    /// Nothing recovers; a peer is live until it was silent for `quiet_after`.
    pub fn new(quiet_after: Duration) -> Self {
        Self { quiet_after, peers: BTreeMap::new(), lost: None }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Own { incarnation, damage_generation, recovering } => {
                self.own(now, incarnation, damage_generation, recovering);
            }
            Event::Trusted(trusted) => {
                self.peers.retain(|peer, _| trusted.contains(peer));
                for peer in trusted {
                    self.peers.entry(peer).or_default();
                }
            }
            Event::Announced { peer, incarnation, offer, recovering } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.announced(Said { at: now, incarnation, offer, recovering });
                }
            }
            Event::PullStarted { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer).filter(|_| self.lost.is_some()) {
                    peer.pulling = Some(peer.is_whole());
                }
            }
            Event::PullEnded { peer, healed } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.pull_ended(now, healed);
                }
            }
            Event::Tick => {}
        }
        self.go_on(now, effects);
        debug_assert!(
            self.lost.is_some() || self.peers.values().all(|peer| peer.pulled.is_none()),
            "what was proved is kept only while it is of use"
        );
    }

    /// When to send [`Event::Tick`].
    pub fn deadline(&self) -> Option<Monotonic> {
        let lost = self.lost?;
        let tell = lost.told.map(|told| told + TELL_AGAIN);
        let silent = self
            .peers
            .values()
            .filter(|peer| !peer.is_done())
            .map(|peer| live_until(peer, &lost, self.quiet_after));
        let ask = self.peers.values().filter_map(|peer| peer.ask_at);
        // What was due has been done, or waits for something else.
        silent.chain(ask).chain(tell).filter(|at| *at > lost.looked).min()
    }

    fn own(&mut self, now: Monotonic, incarnation: Incarnation, damage_generation: u64, recovering: bool) {
        let known = self.lost.map(|lost| (lost.incarnation, lost.damage_generation));
        if recovering && known == Some((incarnation, damage_generation)) {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.forget(self.lost.is_none());
        }
        let since = self.lost.map_or(now, |lost| lost.since);
        self.lost =
            recovering.then_some(Lost { incarnation, damage_generation, since, looked: now, told: None });
    }

    fn go_on(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(mut lost) = self.lost else { return };
        lost.looked = now;
        let witnessed = self.peers.values().any(|peer| peer.pulled.is_some_and(|pulled| pulled.whole));
        let mut all_done = true;
        for (&id, peer) in &mut self.peers {
            if live_until(peer, &lost, self.quiet_after) <= now {
                continue;
            }
            all_done &= peer.is_done();
            let wanted = peer.pulling.is_none() && peer.gives_more(witnessed);
            if wanted && peer.ask_at.is_none_or(|at| at <= now) {
                peer.ask_at = Some(now + ASK_AGAIN);
                effects.push(Effect::Pull { peer: id });
            }
        }
        if all_done && witnessed && lost.told.is_none_or(|told| told + TELL_AGAIN <= now) {
            lost.told = Some(now);
            effects.push(Effect::Recovered { incarnation: lost.incarnation });
        }
        self.lost = Some(lost);
    }
}

/// Until when a peer is live, if nothing more is heard of it.
fn live_until(peer: &Peer, lost: &Lost, quiet_after: Duration) -> Monotonic {
    peer.said.map_or(lost.since, |said| said.at.max(lost.since)) + quiet_after
}

impl Peer {
    fn announced(&mut self, said: Said) {
        let another = self.said.is_some_and(|before| before.incarnation != said.incarnation);
        if another {
            (self.was_empty, self.pulled, self.ask_at) = (false, None, None);
            // It is of the one before.
            self.pulling = self.pulling.map(|_| false);
        }
        self.was_empty |= said.offer == Offer::Nothing;
        self.said = Some(said);
    }

    fn pull_ended(&mut self, now: Monotonic, healed: Option<Incarnation>) {
        let Some(whole) = self.pulling.take() else { return };
        self.ask_at = Some(now + ASK_AGAIN);
        let present = self.said.map(|said| said.incarnation);
        if healed.is_some() && healed == present {
            let before = self.pulled.is_some_and(|pulled| pulled.whole);
            self.pulled = Some(Pulled { whole: whole || before });
        }
    }

    /// Our own store is another one, or recovers no more. `at_first`: it did not recover before.
    fn forget(&mut self, at_first: bool) {
        (self.pulling, self.pulled, self.ask_at) = (None, None, None);
        if at_first {
            self.was_empty = self.said.is_some_and(|said| said.offer == Offer::Nothing);
        }
    }

    /// It knows what there is, as far as it says: it lost nothing, and did not fill itself from us.
    fn is_whole(&self) -> bool {
        !self.was_empty && self.said.is_some_and(|said| said.offer == Offer::Root && !said.recovering)
    }

    /// Nothing more is waited for from it.
    fn is_done(&self) -> bool {
        self.pulled.is_some() || self.said.is_some_and(|said| said.offer == Offer::Nothing)
    }

    /// Whether a pull from it brings us further; `witnessed`: one from a whole peer has healed.
    fn gives_more(&self, witnessed: bool) -> bool {
        let offers = self.said.is_some_and(|said| said.offer == Offer::Root);
        match self.pulled {
            None => offers,
            Some(pulled) => offers && !witnessed && !pulled.whole && self.is_whole(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);
    const OURS: Incarnation = Incarnation([9; 16]);
    const FIRST: Incarnation = Incarnation([1; 16]);
    const SECOND: Incarnation = Incarnation([2; 16]);
    const QUIET: Duration = Duration::from_secs(30);
    const DONE: [Effect; 1] = [Effect::Recovered { incarnation: OURS }];

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    struct Bench(Recovery);

    impl Bench {
        /// At second 0, with these peers trusted, the store recovers.
        fn of(trusted: &[NodeId]) -> Self {
            let mut bench = Self(Recovery::new(QUIET));
            bench.hear(0, Event::Trusted(trusted.iter().copied().collect()));
            assert_eq!(bench.own(0, 1, true), []);
            bench
        }

        fn hear(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            let mut effects = Vec::new();
            self.0.handle(at(seconds), event, &mut effects);
            assert!(self.0.deadline().is_none_or(|deadline| deadline > at(seconds)), "it moves on");
            effects
        }

        fn own(&mut self, seconds: u64, damage_generation: u64, recovering: bool) -> Vec<Effect> {
            self.hear(seconds, Event::Own { incarnation: OURS, damage_generation, recovering })
        }

        fn says(&mut self, seconds: u64, peer: NodeId, offer: Offer, recovering: bool) -> Vec<Effect> {
            self.hear(seconds, Event::Announced { peer, incarnation: FIRST, offer, recovering })
        }

        /// A pull that takes no time.
        fn pull(&mut self, seconds: u64, peer: NodeId, healed: Option<Incarnation>) -> Vec<Effect> {
            let mut effects = self.hear(seconds, Event::PullStarted { peer });
            effects.extend(self.hear(seconds, Event::PullEnded { peer, healed }));
            effects
        }
    }

    fn pull(peer: NodeId) -> [Effect; 1] {
        [Effect::Pull { peer }]
    }

    #[test]
    fn every_peer_is_pulled_from_at_once_and_then_it_is_over() {
        let mut bench = Bench::of(&[A, B]);
        assert_eq!(bench.says(1, A, Offer::Root, false), pull(A));
        assert_eq!(bench.says(2, B, Offer::Root, false), pull(B));
        assert_eq!(bench.pull(2, A, Some(FIRST)), []);
        assert_eq!(bench.pull(3, B, Some(FIRST)), DONE);
        assert_eq!(bench.says(4, A, Offer::Root, false), [], "once");
        assert_eq!(bench.own(5, 1, false), []);
        assert_eq!(bench.0.deadline(), None);
        assert_eq!(bench.says(60, A, Offer::Root, false), []);
    }

    #[test]
    fn who_was_not_heard_yet_is_waited_for_as_long_as_one_that_falls_silent() {
        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Root, false);
        assert_eq!(bench.pull(2, A, Some(FIRST)), []);
        assert_eq!(bench.0.deadline(), Some(at(7)));
        assert_eq!(bench.hear(29, Event::Tick), []);
        assert_eq!(bench.0.deadline(), Some(at(30)));
        assert_eq!(bench.hear(30, Event::Tick), DONE);

        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Root, false);
        bench.pull(2, A, Some(FIRST));
        assert_eq!(bench.says(20, B, Offer::Root, false), pull(B));
        assert_eq!(bench.hear(49, Event::Tick), pull(B), "again, as long as it does not come to anything");
        assert_eq!(bench.hear(50, Event::Tick), DONE, "the witness is silent by now, and was one");
    }

    #[test]
    fn without_a_peer_it_is_never_over() {
        let mut alone = Bench::of(&[]);
        assert_eq!(alone.hear(1_000, Event::Tick), []);
        let mut silent = Bench::of(&[A]);
        assert_eq!(silent.hear(1_000, Event::Tick), []);
        assert_eq!(silent.0.deadline(), None, "nothing to wait for");
    }

    #[test]
    fn one_that_recovers_itself_is_no_witness_until_it_has_recovered() {
        let mut bench = Bench::of(&[A]);
        assert_eq!(bench.says(1, A, Offer::Root, true), pull(A));
        assert_eq!(bench.pull(2, A, Some(FIRST)), []);
        assert_eq!(bench.says(10, A, Offer::Root, true), []);
        assert_eq!(bench.says(20, A, Offer::Root, false), pull(A), "what it has now, it has from others");
        assert_eq!(bench.pull(21, A, Some(FIRST)), DONE);

        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Root, true);
        bench.says(1, B, Offer::Root, false);
        bench.pull(2, B, Some(FIRST));
        assert_eq!(bench.pull(3, A, Some(FIRST)), DONE, "one witness is enough, and all are pulled from");
    }

    #[test]
    fn one_that_was_empty_is_no_witness_whatever_it_has_now() {
        let mut bench = Bench::of(&[A]);
        assert_eq!(bench.says(1, A, Offer::Nothing, false), [], "nothing to pull, and nothing known");
        assert_eq!(bench.says(10, A, Offer::Root, false), pull(A));
        assert_eq!(bench.pull(11, A, Some(FIRST)), [], "that may be our own echo");

        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Nothing, false);
        bench.says(1, B, Offer::Root, false);
        assert_eq!(bench.pull(2, B, Some(FIRST)), DONE, "an empty one has nothing that we lack");
    }

    #[test]
    fn one_that_has_sealed_nothing_yet_is_waited_for() {
        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Root, false);
        assert_eq!(bench.says(1, B, Offer::Unsealed, false), []);
        assert_eq!(bench.pull(2, A, Some(FIRST)), []);
        assert_eq!(bench.says(6, B, Offer::Nothing, false), DONE);
    }

    #[test]
    fn a_pull_that_comes_to_nothing_is_wanted_again_a_little_later() {
        let mut bench = Bench::of(&[A]);
        bench.says(1, A, Offer::Root, false);
        assert_eq!(bench.pull(2, A, None), []);
        assert_eq!(bench.0.deadline(), Some(at(7)));
        assert_eq!(bench.hear(6, Event::Tick), []);
        assert_eq!(bench.hear(7, Event::Tick), pull(A));
        assert_eq!(bench.hear(12, Event::Tick), pull(A), "it did not start");
        bench.hear(13, Event::PullStarted { peer: A });
        assert_eq!(bench.hear(25, Event::Tick), [], "it runs");
        assert_eq!(bench.hear(25, Event::PullEnded { peer: A, healed: Some(FIRST) }), DONE);
    }

    #[test]
    fn only_pulls_between_the_present_stores_count() {
        // One that began before the store recovered.
        let mut bench = Bench(Recovery::new(QUIET));
        bench.hear(0, Event::Trusted(BTreeSet::from([A])));
        bench.says(0, A, Offer::Root, false);
        bench.hear(0, Event::PullStarted { peer: A });
        assert_eq!(bench.own(1, 1, true), pull(A));
        assert_eq!(bench.hear(2, Event::PullEnded { peer: A, healed: Some(FIRST) }), []);
        // One during which more damage was found.
        bench.hear(3, Event::PullStarted { peer: A });
        assert_eq!(bench.own(4, 2, true), pull(A));
        assert_eq!(bench.hear(5, Event::PullEnded { peer: A, healed: Some(FIRST) }), []);
        // One from a store that was replaced meanwhile.
        bench.hear(10, Event::PullStarted { peer: A });
        let other = Event::Announced { peer: A, incarnation: SECOND, offer: Offer::Root, recovering: false };
        bench.hear(11, other);
        assert_eq!(bench.hear(12, Event::PullEnded { peer: A, healed: Some(FIRST) }), []);
        assert_eq!(bench.hear(17, Event::Tick), pull(A));
        assert_eq!(bench.pull(18, A, Some(SECOND)), DONE);
        // What was proved of it counts no more when it is replaced again.
        assert_eq!(bench.own(19, 3, true), pull(A));
    }

    #[test]
    fn a_store_that_recovers_still_is_told_again() {
        let mut bench = Bench::of(&[A]);
        bench.says(1, A, Offer::Root, false);
        assert_eq!(bench.pull(2, A, Some(FIRST)), DONE);
        assert_eq!(bench.own(3, 1, true), []);
        assert_eq!(bench.hear(31, Event::Tick), []);
        assert_eq!(bench.hear(32, Event::Tick), DONE);
    }

    #[test]
    fn one_that_is_no_longer_trusted_is_waited_for_no_more() {
        let mut bench = Bench::of(&[A, B]);
        bench.says(1, A, Offer::Root, false);
        bench.says(1, B, Offer::Root, false);
        bench.pull(2, A, Some(FIRST));
        assert_eq!(bench.hear(3, Event::Trusted(BTreeSet::from([A]))), DONE);
    }

    fn event() -> impl Strategy<Value = Event> {
        let peer = || prop::sample::select(vec![A, B, C]);
        let incarnation = || prop::sample::select(vec![FIRST, SECOND]);
        let offer = prop::sample::select(vec![Offer::Unsealed, Offer::Nothing, Offer::Root, Offer::Root]);
        prop_oneof![
            1 => (0..2_u64, prop::bool::weighted(0.8)).prop_map(|(damage_generation, recovering)| {
                Event::Own { incarnation: OURS, damage_generation, recovering }
            }),
            4 => (peer(), incarnation(), offer, any::<bool>()).prop_map(
                |(peer, incarnation, offer, recovering)| {
                    Event::Announced { peer, incarnation, offer, recovering }
                }
            ),
            3 => peer().prop_map(|peer| Event::PullStarted { peer }),
            3 => (peer(), prop::option::weighted(0.8, incarnation()))
                .prop_map(|(peer, healed)| Event::PullEnded { peer, healed }),
            2 => Just(Event::Tick),
        ]
    }

    proptest! {
        /// Whatever happens: nothing is said to be whole before a pull from a whole peer has healed, and no peer
        /// that was heard within the time is left out.
        #[test]
        fn it_is_never_over_too_early(events in prop::collection::vec((0..12_u64, event()), 0..120)) {
            let mut bench = Bench::of(&[A, B, C]);
            let (mut now, mut generation, mut recovers) = (0, 1, true);
            let mut heard: BTreeMap<NodeId, (u64, Incarnation, Offer, bool)> = BTreeMap::new();
            let mut pulling: BTreeMap<NodeId, bool> = BTreeMap::new();
            let mut healed: BTreeMap<NodeId, (Incarnation, bool)> = BTreeMap::new();
            for (seconds, event) in events {
                now += seconds;
                match event.clone() {
                    Event::Own { damage_generation, recovering, .. } => {
                        if (damage_generation, recovering) != (generation, recovers) {
                            pulling.clear();
                            healed.clear();
                        }
                        (generation, recovers) = (damage_generation, recovering);
                    }
                    Event::Announced { peer, incarnation, offer, recovering } => {
                        if heard.get(&peer).is_some_and(|said| said.1 != incarnation) {
                            healed.remove(&peer);
                        }
                        heard.insert(peer, (now, incarnation, offer, recovering));
                    }
                    Event::PullStarted { peer } => {
                        if recovers {
                            let whole = heard.get(&peer).is_some_and(|said| said.2 == Offer::Root && !said.3);
                            pulling.insert(peer, whole);
                        }
                    }
                    Event::PullEnded { peer, healed: by } => {
                        let (began, said) = (pulling.remove(&peer), heard.get(&peer));
                        if let (Some(whole), Some(by), Some(said)) = (began, by, said)
                            && said.1 == by
                        {
                            let before = healed.get(&peer).is_some_and(|before| before.1);
                            healed.insert(peer, (by, whole || before));
                        }
                    }
                    Event::Trusted(_) | Event::Tick => {}
                }
                for effect in bench.hear(now, event) {
                    prop_assert!(recovers);
                    if let Effect::Recovered { .. } = effect {
                        prop_assert!(healed.values().any(|healed| healed.1), "nobody was whole");
                        for (peer, said) in heard.iter().filter(|(_, said)| now < said.0 + QUIET.as_secs()) {
                            let done = healed.contains_key(peer) || said.2 == Offer::Nothing;
                            prop_assert!(done, "{peer} was left out");
                        }
                        prop_assert!(heard.len() == 3 || now >= QUIET.as_secs(), "somebody may still come");
                    }
                }
            }
        }
    }
}
