//! What is kept of each peer, and where all of it is told.

use std::collections::BTreeSet;
use std::time::Duration;

use super::failures::Failures;
use super::{
    Coordinator, Effect, Notice, PeerStatus, Recipients, Route, SensorPeer, SensorStatus, Status, clip,
};
use crate::divergence;
use crate::failover;
use crate::liveness::State;
use crate::model::{Epoch, Incarnation, NodeId};
use crate::pull;
use crate::recovery;
use crate::signed::Announcement;
use crate::time::Monotonic;

/// A hello follows a new connection after so long: both sides announce at once, and should not overtake that.
const GREET_AFTER: Duration = Duration::from_secs(1);
/// A hello over P2P is tried again after so long, when it failed.
const GREET_AGAIN: Duration = Duration::from_secs(30);

/// Addresses kept of one peer's announcement.
const ADDRESSES_MAX: usize = 16;

/// A trusted key other than our own.
#[derive(Debug)]
pub(super) struct Peer {
    /// As the sensor sees it.
    pub(super) state: State,
    connected_at: Vec<String>,
    pub(super) name: String,
    announced_addresses: Vec<String>,
    pub(super) heard: Option<Monotonic>,
    /// Its store lost entries itself.
    pub(super) recovering: bool,
    /// Whether failover was told of a URL.
    url_known: bool,
    /// Heard over HTTP, at this URL, in an incarnation that a hello must confirm.
    pub(super) unconfirmed: Option<(String, Announcement)>,
    /// The announcement that was compared last.
    pub(super) compared: Option<(Incarnation, u64)>,
    /// When to greet it over P2P; `None` while it is not connected, and once it answered.
    pub(super) greet_at: Option<Monotonic>,
    /// A pull that should start.
    pub(super) wanted: Option<Wanted>,
    /// It pulls from us; when that has ended, or at the latest then, we pull from it.
    pub(super) asked_until: Option<Monotonic>,
    /// A healed pull whose `root_after` is still to come.
    pub(super) healed: Option<Healed>,
    /// What it did itself: errors of its URLs are kept with these.
    pub(super) failures: Failures,
}

/// A pull that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) id: pull::Id,
    pub(super) cause: pull::Cause,
    /// Of two with one cause, the earlier one comes first.
    pub(super) order: u64,
}

/// A healed pull, until our next seal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Healed {
    pub(super) id: pull::Id,
    pub(super) path: failover::Path,
    /// Our newest epoch at its end.
    pub(super) epoch: Option<Epoch>,
}

impl Peer {
    fn new() -> Self {
        Self {
            state: State::Down,
            connected_at: Vec::new(),
            name: String::new(),
            announced_addresses: Vec::new(),
            heard: None,
            recovering: false,
            url_known: false,
            unconfirmed: None,
            compared: None,
            greet_at: None,
            wanted: None,
            asked_until: None,
            healed: None,
            failures: Failures::default(),
        }
    }

    /// Notes what it said of itself.
    pub(super) fn described(&mut self, now: Monotonic, announcement: &Announcement) {
        self.heard = Some(now);
        self.recovering = announcement.recovering;
        self.name = clip(&announcement.name);
        self.announced_addresses =
            announcement.addresses.iter().take(ADDRESSES_MAX).map(|it| clip(it)).collect();
    }

    fn addresses(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.connected_at.iter().chain(&self.announced_addresses).collect();
        all.into_iter().cloned().collect()
    }
}

impl Coordinator {
    /// From now on these keys are trusted; our own may be among them.
    pub(super) fn set_trust(&mut self, now: Monotonic, trusted: Vec<NodeId>, effects: &mut Vec<Effect>) {
        let peers: BTreeSet<NodeId> =
            trusted.iter().copied().filter(|node| *node != self.config.node).collect();
        self.config.trusted = trusted.clone();
        effects.push(Effect::SetTrust { trusted });
        if peers.is_empty() {
            effects.push(Effect::Notice(Notice::NoTrust));
        }

        let gone: Vec<NodeId> = self.peers.keys().copied().filter(|peer| !peers.contains(peer)).collect();
        for peer in gone {
            self.cancel_pull(now, peer, "the peer is no longer trusted", effects);
            self.peers.remove(&peer);
            self.clocks.forget(&peer);
            self.diverge(now, divergence::Event::Forget { peer }, None, effects);
            self.fail_over(now, failover::Event::PeerRemoved { peer }, effects);
        }
        for &peer in &peers {
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.peers.entry(peer) {
                vacant.insert(Peer::new());
                self.fail_over(now, failover::Event::PeerAdded { peer }, effects);
            }
        }
        self.backoff.retain(&peers);
        self.recover(now, recovery::Event::Trusted(peers.clone()), effects);
        self.hearing.set_trusted(peers);
        self.urls_known(now, effects);
    }

    /// Tells failover which peers a URL leads to, where that changed.
    pub(super) fn urls_known(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let mut changed = Vec::new();
        for (&node, peer) in &mut self.peers {
            let known = self.book.of(&node).is_some();
            if peer.url_known != known {
                peer.url_known = known;
                changed.push((node, known));
            }
        }
        for (peer, known) in changed {
            self.fail_over(now, failover::Event::UrlKnown { peer, known }, effects);
            self.reroute(now, peer, effects);
        }
    }

    /// Takes in whom the sensor sees. One that has just connected is told our seals, and asked what it heard
    /// of us.
    pub(super) fn sensor_peers(&mut self, now: Monotonic, seen: &[SensorPeer], effects: &mut Vec<Effect>) {
        let can_speak = self.heartbeat_active();
        let mut changed = Vec::new();
        for (&node, peer) in &mut self.peers {
            let seen = seen.iter().find(|seen| seen.node == node);
            let before = std::mem::replace(&mut peer.state, seen.map_or(State::Down, |seen| seen.state));
            peer.connected_at = seen.map_or(Vec::new(), |seen| seen.addresses.clone());
            if before == State::Down && peer.state != State::Down {
                peer.greet_at = Some(now + GREET_AFTER);
                if can_speak {
                    effects.push(Effect::Announce { to: Recipients::Peer(node) });
                }
            }
            if peer.state == State::Down {
                peer.greet_at = None;
            }
            if before != peer.state {
                changed.push((node, before, peer.state));
            }
        }
        self.tell_count(now, effects);
        for (peer, before, state) in changed {
            match (before == State::Live, state == State::Live) {
                (false, true) => self.fail_over(now, failover::Event::PeerUp { peer }, effects),
                (true, false) => self.fail_over(now, failover::Event::PeerDown { peer }, effects),
                (true, true) | (false, false) => {}
            }
            self.reroute(now, peer, effects);
        }
    }

    /// Greets those who have connected: what they heard of us shows whether our disk was rolled back.
    pub(super) fn greet_over_p2p(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if !self.heartbeat_active() {
            return;
        }
        for (&node, peer) in &mut self.peers {
            if peer.state != State::Down && peer.greet_at.is_some_and(|at| at <= now) {
                peer.greet_at = Some(now + GREET_AGAIN);
                effects.push(Effect::Hello { peer: node, route: Route::P2p });
            }
        }
    }

    /// What is known at this moment.
    pub fn status(&self, now: Monotonic) -> Status {
        let live = self.peers.values().filter(|peer| peer.state == State::Live).count();
        let zombie = self.peers.values().filter(|peer| peer.state == State::Zombie).count();
        let connected = self.peers.values().filter(|peer| peer.state != State::Down).count();
        Status {
            mode: self.failover.mode(),
            sync_mode: self.failover.sync_mode(),
            health: self.failover.health(),
            sensor: SensorStatus {
                available: self.sensor.available == Some(true),
                enabled: self.sensor.enabled,
                started: self.sensor.started,
                error: self.sensor.error.clone(),
                live,
                zombie,
                connected,
            },
            peers: self.peers.iter().map(|(node, peer)| self.peer_status(now, node, peer)).collect(),
            urls: self.book.status(),
            fallback_in: self.failover.fallback_in(now),
            store_error: self.store_error.clone(),
            recovering: self.own.as_ref().is_some_and(|own| own.recovering),
            damaged: self.own.as_ref().map_or(0, |own| own.damaged),
            heartbeat_active: self.heartbeat_active(),
            clock: self.clocks.verdict().clone(),
            pulls_running: self.pulls.len(),
            pulls_waiting: self.peers.values().filter(|peer| peer.wanted.is_some()).count(),
        }
    }

    fn peer_status(&self, now: Monotonic, node: &NodeId, peer: &Peer) -> PeerStatus {
        let path = self.failover.path(node);
        let ours = self.own.as_ref().and_then(|own| own.runs.newest_epoch());
        let theirs = self.hearing.runs(node).and_then(|runs| runs.newest_epoch());
        let lag_epochs = match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours.0.saturating_sub(theirs.0),
            (None, _) | (_, None) => 0,
        };
        let url = self.book.of(node);
        let failed_there = url.and_then(|url| self.book.get(url)).map(|url| &url.failures);
        let (errors, last_error) = peer.failures.with(failed_there);
        PeerStatus {
            node: *node,
            name: peer.name.clone(),
            addresses: peer.addresses(),
            url: url.map(str::to_owned),
            state: peer.state,
            heard: peer.heard,
            incarnation: self.hearing.incarnation(node),
            path,
            failover: self.failover.state(node).unwrap_or(failover::State::PrimarySuspect { since: now }),
            divergence_count: self.divergence.count(node),
            backoff: self.backoff.until(now, node, path).map_or(Duration::ZERO, |until| until.since(now)),
            lag_epochs,
            pull: self.pulls.get(node).map(|running| running.pull.config().id),
            errors,
            last_error: last_error.to_owned(),
        }
    }
}
