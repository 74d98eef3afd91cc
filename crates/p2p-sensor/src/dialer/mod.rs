//! Decides whom to dial, where, and when.
//!
//! There are two kinds of targets. An *address* is configured without an identity: whoever answers there is
//! looked at, and the address is dialled again whenever whom we found there is gone. A *peer* is a trusted
//! key with addresses, configured or learned from the peer itself; it is dialled while it is not connected.
//! Both are tried for ever, each with a delay of its own that doubles up to a bound, with jitter, so that a
//! cluster that starts together does not dial together.
//!
//! A name is resolved anew in every round, and stands for all of its addresses. One's own address is
//! recognized by the key found there; it is not dialled again.
//!
//! A connection that ends soon after it began (the other side does not trust us, say) counts as a failure:
//! the delay goes on growing instead of starting over.
//!
//! This is pure: the network loop dials, resolves and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lattice_core::model::NodeId;
use lattice_core::time::Monotonic;
use libp2p::Multiaddr;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::address::{self, Bootstrap};

/// Rounds in progress at a time; a round is one resolution and its dials.
const ROUNDS_MAX: usize = 32;
/// Addresses remembered of what a peer says about itself.
const LEARNED_MAX: usize = 8;
/// Doublings of the delay, beyond which it is at its bound for any sensible one.
const DOUBLINGS_MAX: u32 = 16;

/// The delays between two rounds of one target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// After the first failure.
    pub(crate) min: Duration,
    /// The longest. Also how old what is known of a name gets, and how long a connection must last to count
    /// as a success.
    pub(crate) max: Duration,
}

/// Something to dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A configured address, whoever is there.
    Address(Multiaddr),
    /// A trusted key, wherever it is.
    Peer(NodeId),
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// These keys are trusted, and no others.
    Trust(BTreeSet<NodeId>),
    /// A peer says where it listens.
    Learned { node: NodeId, addresses: Vec<Multiaddr> },
    /// The answer to [`Effect::Resolve`]; empty when there was none.
    Resolved { target: Target, addresses: Vec<Multiaddr> },
    /// The answer to [`Effect::Dial`].
    Dialled { target: Target, address: Option<Multiaddr>, outcome: Outcome },
    /// The first connection to a node, in either direction.
    Connected { node: NodeId },
    /// The last connection to a node is gone.
    Disconnected { node: NodeId },
    /// Whether all connections to a node seem dead: it is then dialled in spite of them.
    Suspect { node: NodeId, suspect: bool },
    /// Forget all delays.
    Reset,
    /// The deadline was reached.
    Tick,
}

/// How a dial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This node is there, trusted or not.
    Found(NodeId),
    /// We are there.
    Own,
    /// Nobody is, or not the one that was expected.
    Failed,
}

/// What to do. Each is answered by exactly one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Find the IP addresses of all of these.
    Resolve { target: Target, addresses: Vec<Multiaddr> },
    /// Dial these until one works; `node` must be there, if it is given.
    Dial { target: Target, node: Option<NodeId>, addresses: Vec<Multiaddr> },
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Dialer {
    me: NodeId,
    bounds: Bounds,
    rng: StdRng,
    trusted: BTreeSet<NodeId>,
    /// Since when.
    connected: BTreeMap<NodeId, Monotonic>,
    suspect: BTreeSet<NodeId>,
    targets: BTreeMap<Target, Entry>,
}

#[derive(Debug)]
struct Entry {
    fixed: Vec<Multiaddr>,
    learned: Vec<Multiaddr>,
    /// Who was found at each IP address, the last time that anybody was.
    found: BTreeMap<Multiaddr, Outcome>,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        due: Monotonic,
    },
    Resolving,
    /// Dials that have not ended, and whether one of those that did failed.
    Dialling {
        open: usize,
        failed: bool,
    },
}

impl Dialer {
    /// `seed` is for the jitter alone. Nobody is trusted yet.
    pub(crate) fn new(
        now: Monotonic,
        me: NodeId,
        bootstrap: &[Bootstrap],
        bounds: Bounds,
        seed: u64,
    ) -> Self {
        let mut targets = BTreeMap::new();
        for Bootstrap { address, node } in bootstrap {
            let target = node.map_or_else(|| Target::Address(address.clone()), Target::Peer);
            let entry = targets.entry(target).or_insert_with(|| Entry::new(now));
            if !entry.fixed.contains(address) {
                entry.fixed.push(address.clone());
            }
        }
        Self {
            me,
            bounds,
            rng: StdRng::seed_from_u64(seed),
            trusted: BTreeSet::new(),
            connected: BTreeMap::new(),
            suspect: BTreeSet::new(),
            targets,
        }
    }

    /// Takes in one event, and adds what to do.
    pub(crate) fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Trust(trusted) => self.trust(now, trusted),
            Event::Learned { node, addresses } => self.learn(now, node, addresses),
            Event::Resolved { target, addresses } => self.resolved(now, target, addresses, effects),
            Event::Dialled { target, address, outcome } => self.dialled(now, &target, address, outcome),
            Event::Connected { node } => {
                self.connected.insert(node, now);
                self.suspect.remove(&node);
            }
            Event::Disconnected { node } => self.disconnected(now, node),
            Event::Suspect { node, suspect } => self.set_suspect(now, node, suspect),
            Event::Reset => self.reset(now),
            Event::Tick => {}
        }
        self.start_due(now, effects);
        debug_assert!(self.rounds() <= ROUNDS_MAX, "rounds in progress are bounded");
    }

    /// When to send [`Event::Tick`].
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        if self.rounds() >= ROUNDS_MAX {
            // The end of one of them is an event by itself.
            return None;
        }
        let waiting = self.targets.iter().filter(|(target, entry)| self.wanted(target, entry));
        waiting.filter_map(|(_, entry)| entry.due()).min()
    }

    fn rounds(&self) -> usize {
        self.targets.values().filter(|entry| entry.due().is_none()).count()
    }

    fn trust(&mut self, now: Monotonic, trusted: BTreeSet<NodeId>) {
        let grows = trusted.iter().any(|node| !self.trusted.contains(node));
        self.trusted = trusted;
        let trusted = &self.trusted;
        self.targets.retain(|target, entry| {
            if matches!(target, Target::Peer(node) if !trusted.contains(node)) {
                entry.learned.clear();
            }
            // A round in progress is answered, and needs its entry.
            !entry.addresses().is_empty() || entry.due().is_none()
        });
        if grows {
            // Who was a stranger at some address may now be a member.
            self.reset(now);
        }
    }

    fn learn(&mut self, now: Monotonic, node: NodeId, addresses: Vec<Multiaddr>) {
        if node == self.me || !self.trusted.contains(&node) {
            return;
        }
        let entry = self.targets.entry(Target::Peer(node)).or_insert_with(|| Entry::new(now));
        // Newest first: what a peer said last is where it is.
        for address in addresses.into_iter().take(LEARNED_MAX).rev() {
            entry.learned.retain(|known| *known != address);
            if !entry.fixed.contains(&address) {
                entry.learned.insert(0, address);
            }
        }
        entry.learned.truncate(LEARNED_MAX);
    }

    fn resolved(
        &mut self,
        now: Monotonic,
        target: Target,
        addresses: Vec<Multiaddr>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.targets.get_mut(&target) else { return };
        if entry.state != State::Resolving {
            return;
        }
        entry.found.retain(|address, _| addresses.contains(address));
        if addresses.is_empty() {
            self.end_round(now, &target, false);
        } else {
            self.dial(now, target, addresses, effects);
        }
    }

    fn dialled(&mut self, now: Monotonic, target: &Target, address: Option<Multiaddr>, outcome: Outcome) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        let State::Dialling { open, failed } = &mut entry.state else { return };
        *open = open.saturating_sub(1);
        *failed |= match (target, outcome) {
            (Target::Address(_), Outcome::Found(node)) => !self.trusted.contains(&node),
            (Target::Peer(expected), Outcome::Found(node)) => *expected != node,
            (Target::Address(_), Outcome::Own) => false,
            (Target::Peer(_), Outcome::Own) | (_, Outcome::Failed) => true,
        };
        let end = (*open == 0).then_some(!*failed);
        if let (Target::Address(_), Some(address)) = (target, address)
            && outcome != Outcome::Failed
        {
            entry.found.insert(address, outcome);
        }
        if let Some(ok) = end {
            self.end_round(now, target, ok);
        }
    }

    fn disconnected(&mut self, now: Monotonic, node: NodeId) {
        self.suspect.remove(&node);
        let Some(since) = self.connected.remove(&node) else { return };
        let lasted = now.since(since) >= self.bounds.max;
        let there = |entry: &Entry| entry.found.values().any(|found| *found == Outcome::Found(node));
        let bounds = self.bounds;
        for (target, entry) in &mut self.targets {
            if *target != Target::Peer(node) && !there(entry) {
                continue;
            }
            entry.attempts = if lasted { 0 } else { (entry.attempts + 1).min(DOUBLINGS_MAX) };
            if let State::Waiting { due } = &mut entry.state {
                *due = now + bounds.delay(entry.attempts, &mut self.rng);
            }
        }
    }

    fn set_suspect(&mut self, now: Monotonic, node: NodeId, suspect: bool) {
        if !suspect {
            self.suspect.remove(&node);
        } else if self.connected.contains_key(&node) && self.suspect.insert(node) {
            let delay = self.bounds.delay(0, &mut self.rng);
            if let Some(entry) = self.targets.get_mut(&Target::Peer(node))
                && let State::Waiting { due } = &mut entry.state
            {
                entry.attempts = 0;
                *due = now + delay;
            }
        }
    }

    fn reset(&mut self, now: Monotonic) {
        for entry in self.targets.values_mut() {
            entry.attempts = 0;
            if let State::Waiting { due } = &mut entry.state {
                *due = now;
            }
        }
    }

    /// Whether a round is worth while.
    fn wanted(&self, target: &Target, entry: &Entry) -> bool {
        if !self.trusted.iter().any(|node| *node != self.me) {
            return false;
        }
        match target {
            Target::Peer(node) => {
                let missing = !self.connected.contains_key(node) || self.suspect.contains(node);
                *node != self.me && missing && self.trusted.contains(node) && !entry.addresses().is_empty()
            }
            // What a name stands for may change at any time.
            Target::Address(address) => address::is_named(address) || !self.satisfied(entry, address),
        }
    }

    /// Whether whom we found at `address` is connected, or is us.
    fn satisfied(&self, entry: &Entry, address: &Multiaddr) -> bool {
        match entry.found.get(address) {
            Some(Outcome::Own) => true,
            Some(Outcome::Found(node)) => self.connected.contains_key(node),
            Some(Outcome::Failed) | None => false,
        }
    }

    /// Whether someone is just being dialled under another target.
    fn in_progress(&self, node: &NodeId) -> bool {
        self.targets.iter().any(|(target, entry)| {
            matches!(entry.state, State::Dialling { .. })
                && (*target == Target::Peer(*node)
                    || entry.found.values().any(|found| *found == Outcome::Found(*node)))
        })
    }

    fn start_due(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let mut room = ROUNDS_MAX.saturating_sub(self.rounds());
        let due = |entry: &Entry| entry.due().is_some_and(|due| due <= now);
        let targets: Vec<Target> = self
            .targets
            .iter()
            .filter(|(target, entry)| due(entry) && self.wanted(target, entry))
            .map(|(target, _)| target.clone())
            .collect();
        for target in targets {
            if room == 0 {
                return;
            }
            if let Target::Peer(node) = &target
                && self.in_progress(node)
            {
                self.wait(now, &target);
                continue;
            }
            room -= 1;
            let Some(entry) = self.targets.get_mut(&target) else { continue };
            let addresses = entry.addresses();
            if addresses.iter().any(address::is_named) {
                entry.state = State::Resolving;
                effects.push(Effect::Resolve { target, addresses });
            } else {
                self.dial(now, target, addresses, effects);
            }
        }
    }

    fn dial(&mut self, now: Monotonic, target: Target, addresses: Vec<Multiaddr>, effects: &mut Vec<Effect>) {
        let dials = match &target {
            Target::Peer(node) => vec![(Some(*node), addresses)],
            Target::Address(_) => {
                let Some(entry) = self.targets.get(&target) else { return };
                let missing = addresses.into_iter().filter(|address| !self.satisfied(entry, address));
                missing.map(|address| (None, vec![address])).collect()
            }
        };
        let Some(entry) = self.targets.get_mut(&target) else { return };
        entry.state = State::Dialling { open: dials.len(), failed: false };
        if dials.is_empty() {
            self.end_round(now, &target, true);
            return;
        }
        for (node, addresses) in dials {
            effects.push(Effect::Dial { target: target.clone(), node, addresses });
        }
    }

    fn end_round(&mut self, now: Monotonic, target: &Target, ok: bool) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        if !ok {
            entry.attempts = (entry.attempts + 1).min(DOUBLINGS_MAX);
        }
        let named = matches!(target, Target::Address(address) if address::is_named(address));
        let delay = if ok && named {
            entry.attempts = 0;
            self.bounds.max
        } else {
            self.bounds.delay(entry.attempts, &mut self.rng)
        };
        entry.state = State::Waiting { due: now + delay };
        if entry.addresses().is_empty() {
            self.targets.remove(target);
        }
    }

    fn wait(&mut self, now: Monotonic, target: &Target) {
        let delay = self.bounds.delay(0, &mut self.rng);
        if let Some(entry) = self.targets.get_mut(target) {
            entry.state = State::Waiting { due: now + delay };
        }
    }
}

impl Entry {
    fn new(now: Monotonic) -> Self {
        Self {
            fixed: Vec::new(),
            learned: Vec::new(),
            found: BTreeMap::new(),
            attempts: 0,
            state: State::Waiting { due: now },
        }
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.fixed.iter().chain(&self.learned).cloned().collect()
    }

    /// `None` while a round is in progress.
    fn due(&self) -> Option<Monotonic> {
        match self.state {
            State::Waiting { due } => Some(due),
            State::Resolving | State::Dialling { .. } => None,
        }
    }
}

impl Bounds {
    /// `min` doubled `attempts - 1` times, at most `max`, less up to a half of it.
    fn delay(self, attempts: u32, rng: &mut StdRng) -> Duration {
        let doublings = attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        let longest = self.min.saturating_mul(1 << doublings).min(self.max);
        longest.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests;
