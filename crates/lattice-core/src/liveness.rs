//! Tells peers that are really there from connections that only look like it.
//!
//! A live peer is trusted, directly connected, *and* has sent a validly signed announcement on that
//! connection within `peer_timeout`. A connected but silent one is a zombie: reported, never counted. One that has
//! just connected is neither: it is given a grace to speak. Strangers are not peers. What was heard on a
//! connection is forgotten with it, so that a peer is live again only once it has spoken again.
//!
//! Run by the p2p-sensor, which knows the connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::NodeId;
use crate::time::Monotonic;

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Connected, and heard from within the timeout.
    Live,
    /// Connected a moment ago, and not heard yet.
    Fresh,
    /// Connected, and silent.
    Zombie,
    /// Not connected.
    Down,
}

/// What the machine hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first connection to a peer is up.
    Connected {
        /// Who.
        peer: NodeId,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A validly signed announcement came from its signer's own connection.
    Heard {
        /// Who.
        peer: NodeId,
    },
    /// The effective trusted keys are these from now on.
    TrustChanged {
        /// All of them, without our own.
        trusted: BTreeSet<NodeId>,
    },
    /// The deadline has come.
    Tick,
}

/// What the machine decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A peer became this.
    Changed {
        /// Who.
        peer: NodeId,
        /// What.
        state: State,
    },
}

/// How many peers are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connected and heard from.
    pub live: usize,
    /// Connected just now, and not heard yet.
    pub fresh: usize,
    /// Connected and silent.
    pub zombie: usize,
}

impl Counts {
    /// All that are connected.
    pub fn connected(self) -> usize {
        self.live + self.fresh + self.zombie
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    connected: Monotonic,
    /// When it was last heard on its present connections.
    heard: Option<Monotonic>,
    state: State,
}

/// The machine: one state for each trusted peer that is connected.
#[derive(Clone, Debug)]
pub struct Liveness {
    peer_timeout: Duration,
    grace: Duration,
    trusted: BTreeSet<NodeId>,
    /// The connected ones, all of them trusted.
    peers: BTreeMap<NodeId, Peer>,
}

impl Liveness {
    /// Nobody is connected; `trusted` without our own key. One that connects has `grace` to speak, usually a
    /// heartbeat.
    pub fn new(peer_timeout: Duration, grace: Duration, trusted: BTreeSet<NodeId>) -> Self {
        Self { peer_timeout, grace, trusted, peers: BTreeMap::new() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Connected { peer } => {
                if self.trusted.contains(&peer) && !self.peers.contains_key(&peer) {
                    self.peers.insert(peer, Peer { connected: now, heard: None, state: State::Fresh });
                    effects.push(Effect::Changed { peer, state: State::Fresh });
                }
            }
            Event::Disconnected { peer } => self.forget(peer, effects),
            Event::Heard { peer } => {
                // One that is not connected was heard on a connection that has closed since.
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.heard = Some(now);
                }
            }
            Event::TrustChanged { trusted } => {
                let gone: Vec<NodeId> =
                    self.peers.keys().filter(|peer| !trusted.contains(peer)).copied().collect();
                self.trusted = trusted;
                for peer in gone {
                    self.forget(peer, effects);
                }
            }
            Event::Tick => {}
        }
        for (&peer, known) in &mut self.peers {
            let state = match known.heard {
                Some(heard) if now.since(heard) < self.peer_timeout => State::Live,
                None if now.since(known.connected) < self.grace => State::Fresh,
                Some(_) | None => State::Zombie,
            };
            if known.state != state {
                known.state = state;
                effects.push(Effect::Changed { peer, state });
            }
        }
        debug_assert!(self.peers.keys().all(|peer| self.trusted.contains(peer)), "a stranger is not a peer");
    }

    /// When the next peer becomes a zombie, if nothing is heard.
    pub fn deadline(&self) -> Option<Monotonic> {
        let due = |peer: &Peer| match (peer.state, peer.heard) {
            (State::Live, Some(heard)) => Some(heard + self.peer_timeout),
            (State::Fresh, _) => Some(peer.connected + self.grace),
            (State::Live | State::Zombie | State::Down, _) => None,
        };
        self.peers.values().filter_map(due).min()
    }

    /// What a peer is.
    pub fn state(&self, peer: &NodeId) -> State {
        self.peers.get(peer).map_or(State::Down, |known| known.state)
    }

    /// The connected peers, live or not, and when each was last heard.
    pub fn connected(&self) -> impl Iterator<Item = (NodeId, State, Option<Monotonic>)> + '_ {
        self.peers.iter().map(|(&peer, known)| (peer, known.state, known.heard))
    }

    /// How many are what.
    pub fn counts(&self) -> Counts {
        let count = |state| self.peers.values().filter(|peer| peer.state == state).count();
        Counts { live: count(State::Live), fresh: count(State::Fresh), zombie: count(State::Zombie) }
    }

    fn forget(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        if self.peers.remove(&peer).is_some() {
            effects.push(Effect::Changed { peer, state: State::Down });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const GRACE: Duration = Duration::from_secs(5);
    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const STRANGER: NodeId = NodeId([9; 32]);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn machine() -> Liveness {
        Liveness::new(TIMEOUT, GRACE, BTreeSet::from([A, B]))
    }

    fn handle(machine: &mut Liveness, seconds: u64, event: Event) -> Vec<(NodeId, State)> {
        let mut effects = Vec::new();
        machine.handle(at(seconds), event, &mut effects);
        effects.into_iter().map(|Effect::Changed { peer, state }| (peer, state)).collect()
    }

    #[test]
    fn each_transition() {
        let mut machine = machine();
        assert_eq!(handle(&mut machine, 0, Event::Connected { peer: A }), [(A, State::Fresh)]);
        assert_eq!(handle(&mut machine, 0, Event::Connected { peer: A }), []);
        assert_eq!(machine.deadline(), Some(at(5)));
        assert_eq!(handle(&mut machine, 1, Event::Heard { peer: A }), [(A, State::Live)]);
        assert_eq!(machine.deadline(), Some(at(31)));
        assert_eq!(handle(&mut machine, 5, Event::Heard { peer: A }), []);
        assert_eq!(machine.deadline(), Some(at(35)));
        assert_eq!(handle(&mut machine, 34, Event::Tick), []);
        assert_eq!(handle(&mut machine, 35, Event::Tick), [(A, State::Zombie)]);
        assert_eq!(machine.deadline(), None);
        assert_eq!(handle(&mut machine, 40, Event::Heard { peer: A }), [(A, State::Live)]);
        assert_eq!(machine.counts(), Counts { live: 1, fresh: 0, zombie: 0 });
        assert_eq!(handle(&mut machine, 41, Event::Disconnected { peer: A }), [(A, State::Down)]);
        assert_eq!(handle(&mut machine, 41, Event::Disconnected { peer: A }), []);
        assert_eq!(machine.state(&A), State::Down);
    }

    #[test]
    fn what_was_heard_goes_with_its_connection() {
        let mut machine = machine();
        handle(&mut machine, 0, Event::Connected { peer: A });
        handle(&mut machine, 1, Event::Heard { peer: A });
        handle(&mut machine, 2, Event::Disconnected { peer: A });
        assert_eq!(handle(&mut machine, 2, Event::Heard { peer: A }), [], "heard on a closed connection");
        assert_eq!(handle(&mut machine, 3, Event::Connected { peer: A }), [(A, State::Fresh)]);
        assert_eq!(machine.state(&A), State::Fresh);
    }

    #[test]
    fn one_that_connects_and_never_speaks_is_a_zombie_after_its_grace() {
        let mut machine = machine();
        handle(&mut machine, 10, Event::Connected { peer: A });
        assert_eq!(machine.counts(), Counts { live: 0, fresh: 1, zombie: 0 });
        assert_eq!(
            handle(&mut machine, 12, Event::Connected { peer: A }),
            [],
            "the grace does not begin anew"
        );
        assert_eq!(handle(&mut machine, 14, Event::Tick), []);
        assert_eq!(handle(&mut machine, 15, Event::Tick), [(A, State::Zombie)]);
        assert_eq!((machine.counts().connected(), machine.deadline()), (1, None));
    }

    #[test]
    fn a_thousand_strangers_count_nothing() {
        let mut machine = machine();
        for i in 0..1000_u16 {
            let mut id = STRANGER;
            id.0[..2].copy_from_slice(&i.to_be_bytes());
            assert_eq!(handle(&mut machine, 0, Event::Connected { peer: id }), []);
            assert_eq!(handle(&mut machine, 0, Event::Heard { peer: id }), []);
        }
        assert_eq!(machine.counts().connected(), 0);
    }

    #[test]
    fn a_removed_key_is_down_at_once() {
        let mut machine = machine();
        handle(&mut machine, 0, Event::Connected { peer: A });
        handle(&mut machine, 0, Event::Connected { peer: B });
        handle(&mut machine, 0, Event::Heard { peer: B });
        let only_a = Event::TrustChanged { trusted: BTreeSet::from([A]) };
        assert_eq!(handle(&mut machine, 1, only_a), [(B, State::Down)]);
        assert_eq!(machine.counts(), Counts { live: 0, fresh: 1, zombie: 0 });
        assert_eq!(handle(&mut machine, 1, Event::Connected { peer: B }), []);
    }

    #[test]
    fn a_tick_at_the_deadline_moves_the_deadline() {
        let mut machine = machine();
        handle(&mut machine, 0, Event::Connected { peer: A });
        handle(&mut machine, 0, Event::Heard { peer: A });
        handle(&mut machine, 7, Event::Connected { peer: B });
        while let Some(deadline) = machine.deadline() {
            machine.handle(deadline, Event::Tick, &mut Vec::new());
            assert!(machine.deadline().is_none_or(|next| next > deadline));
        }
    }
}
