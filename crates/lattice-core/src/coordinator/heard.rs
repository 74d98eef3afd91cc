//! What comes in from peers: announcements on either path, and requests that they sent us.

use super::urls::Asked;
use super::{Coordinator, Effect, Notice, Route};
use crate::divergence;
use crate::exchange::PullPart;
use crate::failover::Path;
use crate::hearing::{Refused, Via};
use crate::model::{Incarnation, NodeId};
use crate::pull::Cause;
use crate::recovery;
use crate::signed::Announcement;
use crate::time::{Monotonic, WallTime};

/// A peer that pulls from us and never says that it ended is answered after so many request timeouts.
const ASKED_TIMEOUTS: u32 = 6;

impl Coordinator {
    /// An announcement came over a noise connection.
    pub(super) fn heard(
        &mut self,
        now: Monotonic,
        from: NodeId,
        announcement: &Announcement,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        if from != announcement.node {
            let reason = format!("sent an announcement of {}: only its own count", announcement.node);
            self.peer_failed(now, from, &reason);
            return;
        }
        self.hear(now, announcement, Via::Noise, &Route::P2p, wall, effects);
    }

    /// A peer's request was accepted by our store.
    #[allow(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn asked(
        &mut self,
        now: Monotonic,
        node: NodeId,
        announcement: Option<Announcement>,
        pull: Option<PullPart>,
        ended: bool,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        if !self.peers.contains_key(&node) {
            return;
        }
        if let Some(announcement) = announcement.filter(|announcement| announcement.node == node) {
            // It proves the incarnation, and says what is to be pulled. The requests of a pull are no heartbeat:
            // nothing is compared.
            match self.hearing.hear(&announcement, Via::Challenged) {
                Ok(heard) => self.believed(now, &announcement, Via::Challenged, heard, wall, effects),
                Err(reason) if reason.is_harmless() => {}
                Err(reason) => self.refused(now, node, &Route::P2p, reason, effects),
            }
        }
        let patience = self.config.request_timeout * ASKED_TIMEOUTS;
        if pull.is_some_and(|pull| !pull.in_kind)
            && let Some(peer) = self.peers.get_mut(&node)
        {
            peer.asked_until = Some(now + patience);
            if ended {
                self.answer_in_kind(now, node);
            }
        }
    }

    /// A peer's pull from us has ended, or seems to have: now we pull from it, if it may hold what we lack.
    pub(super) fn answer_in_kind(&mut self, now: Monotonic, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.asked_until = None;
        }
        if self.may_lack(now, &node) {
            self.want(node, Cause::InKind);
        }
    }

    /// Whether a peer's newest seal may hold anything that we lack.
    pub(super) fn may_lack(&self, now: Monotonic, node: &NodeId) -> bool {
        let wall = self.wall(now);
        self.hearing.runs(node).is_some_and(|runs| self.divergence.may_lack(node, runs, wall))
    }

    /// Judges an announcement, and compares it if it came over the path in use. Returns why it was refused.
    pub(super) fn hear(
        &mut self,
        now: Monotonic,
        announcement: &Announcement,
        via: Via,
        route: &Route,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) -> Option<Refused> {
        let node = announcement.node;
        match self.hearing.hear(announcement, via) {
            Ok(heard) => {
                // While roots differ, why the last pull failed is still of use.
                let agrees = *route == Route::P2p && self.divergence.count(&node) == 0;
                if let Some(peer) = self.peers.get_mut(&node).filter(|_| agrees) {
                    peer.failures.over();
                }
                self.believed(now, announcement, via, heard, wall, effects);
                self.compare(now, node, route, wall, effects);
                None
            }
            // It may have come over the other path first, where it was not compared.
            Err(known @ (Refused::Repeated { .. } | Refused::Overtaken { .. })) => {
                self.compare(now, node, route, wall, effects);
                Some(known)
            }
            Err(unconfirmed @ Refused::Unconfirmed { .. }) => Some(unconfirmed),
            Err(reason) => {
                self.refused(now, node, route, reason.clone(), effects);
                Some(reason)
            }
        }
    }

    /// Takes in what an announcement that is believed says, but for its roots.
    fn believed(
        &mut self,
        now: Monotonic,
        announcement: &Announcement,
        via: Via,
        heard: crate::hearing::Heard,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let &Announcement { node, incarnation, time, .. } = announcement;
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.described(now, announcement);
        }
        if heard.new_incarnation {
            let replaced = heard.replaced;
            effects.push(Effect::Notice(Notice::NewIncarnation { peer: node, incarnation, replaced }));
            // What was wanted was another store's.
            if replaced.is_some() {
                self.unwant(node, Cause::Divergence);
            }
            self.meet(now, node, effects);
        }
        let said = recovery::Event::Announced {
            peer: node,
            incarnation,
            offer: self.offer(&node),
            recovering: announcement.recovering,
        };
        self.recover(now, said, effects);
        if let Some(epoch) = heard.contradiction {
            effects.push(Effect::Notice(Notice::Contradiction { peer: node, incarnation, epoch }));
            self.peer_failed(now, node, &format!("signed two roots for epoch {epoch}"));
        }
        if let Some((sequence, epoch)) = self.hearing.greatest(&node) {
            effects.push(Effect::TellHeard { node, incarnation, sequence, epoch });
        }
        let says_now = match via {
            Via::Noise | Via::Challenged => true,
            Via::Http => !self.may_be_held_back(time, wall),
        };
        if says_now {
            self.sample_clock(now, node, time, wall, effects);
        }
    }

    /// An incarnation that we believe was replaced by another one, before a restart of ours: what we took from it
    /// since is forgotten.
    pub(super) fn replaced(
        &mut self,
        now: Monotonic,
        node: NodeId,
        incarnation: Incarnation,
        present: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        if !self.hearing.replaced(&node, incarnation, present) {
            return;
        }
        self.cancel_pull(now, node, "the peer's incarnation was replaced", effects);
        self.diverge(now, divergence::Event::Forget { peer: node }, None, effects);
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.wanted, peer.compared, peer.asked_until) = (None, None, None);
        }
        self.refused(now, node, &Route::P2p, Refused::Replaced { incarnation, present }, effects);
    }

    /// Whether a time that nothing proves to be signed just now lies so far back that it may be an old one:
    /// whoever sits between two nodes could else make a clock look wrong that is right.
    pub(super) fn may_be_held_back(&self, time: WallTime, wall: WallTime) -> bool {
        time + self.config.max_clock_drift < wall
    }

    /// Compares a peer's newest seals with ours, if they were heard over the path in use; what one announcement
    /// says once. While our store is away, ours are of the past, and the difference would be its absence.
    fn compare(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        route: &Route,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let path = self.failover.path(&peer);
        let in_use = path == route.path()
            && match route {
                Route::P2p => true,
                Route::Http { url } => self.book.of(&peer) == Some(url),
            };
        let incarnation = self.hearing.incarnation(&peer);
        let (true, Some(incarnation), Some(runs)) = (in_use, incarnation, self.hearing.runs(&peer)) else {
            return;
        };
        let said = self.hearing.greatest(&peer).map(|(sequence, _)| (incarnation, sequence));
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.compared != said) else { return };
        if self.store_error.is_some() {
            return;
        }
        known.compared = said;
        let interval = match path {
            Path::P2p => self.config.heartbeat_interval,
            Path::Http => self.config.poll_interval,
        };
        let runs = runs.clone();
        let event = divergence::Event::Announced { peer, incarnation, runs, interval, wall };
        self.diverge(now, event, Some(route), effects);
    }

    /// Hands an event to the divergence machine, and does what it decides.
    pub(super) fn diverge(
        &mut self,
        now: Monotonic,
        event: divergence::Event,
        route: Option<&Route>,
        effects: &mut Vec<Effect>,
    ) {
        let mut decided = Vec::new();
        self.divergence.handle(now, event, &mut decided);
        for effect in decided {
            match effect {
                divergence::Effect::Counted { peer, count, epoch, no_common_epoch } => {
                    if let Some(route) = route.cloned() {
                        let due = count >= self.config.divergence_threshold;
                        let pull_in = due.then(|| self.held_back(now, &peer)).flatten();
                        let notice = Notice::Diverged { peer, route, count, epoch, no_common_epoch, pull_in };
                        effects.push(Effect::Notice(notice));
                    }
                }
                divergence::Effect::Agreed { peer, epoch } => {
                    effects.push(Effect::Notice(Notice::Agreed { peer, epoch }));
                    self.unwant(peer, Cause::Divergence);
                }
                divergence::Effect::StartPull { peer } => self.want(peer, Cause::Divergence),
                divergence::Effect::Lapsed { peer } => self.unwant(peer, Cause::Divergence),
            }
        }
    }

    /// What a node announced is refused. That is held against the node where it came from itself; what is served
    /// at a URL, anybody may repeat.
    pub(super) fn refused(
        &mut self,
        now: Monotonic,
        node: NodeId,
        route: &Route,
        reason: Refused,
        effects: &mut Vec<Effect>,
    ) {
        match route {
            Route::P2p => self.peer_failed(now, node, &reason.to_string()),
            Route::Http { url } => {
                let reason = format!("announcement refused: {reason}");
                self.url_failed(now, url, Asked::Poll, &reason, effects);
            }
        }
        let route = route.clone();
        effects.push(Effect::Notice(Notice::AnnouncementRefused { node, route, reason }));
    }

    /// Counts something that went wrong with a peer.
    pub(super) fn peer_failed(&mut self, now: Monotonic, node: NodeId, reason: &str) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.failures.add(now, reason);
        }
    }

    /// A peer has signed a time.
    pub(super) fn sample_clock(
        &mut self,
        now: Monotonic,
        node: NodeId,
        time: WallTime,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        if self.peers.contains_key(&node) {
            let changes = self.clocks.sample(now, node, time, wall);
            self.tell_clocks(now, changes, effects);
        }
    }
}
