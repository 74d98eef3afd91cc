//! Polls and hellos over HTTP: who is asked when, and what their answers say of URLs and of HTTP itself.

use super::urls::{Asked, Book, Url};
use super::{Coordinator, Effect, Notice, Route, UrlState, clip};
use crate::failover::{self, Path};
use crate::hearing::{Refused, Via};
use crate::model::{Incarnation, NodeId};
use crate::signed::Announcement;
use crate::time::{Monotonic, WallTime};

/// The path not in use is probed once in so many poll intervals.
pub(super) const PROBE_INTERVALS: u32 = 3;
/// A URL of our own is asked once in so many poll intervals, in case it leads elsewhere by now.
const OURS_INTERVALS: u32 = 30;
/// A hello over HTTP is repeated once in so many poll intervals, since HTTP only works if exchanges do.
const GREET_INTERVALS: u32 = 6;

impl Coordinator {
    /// Polls the URLs that are due. What they answer is compared with our seals, so those are read again too.
    pub(super) fn poll(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let (failover, peers, config) = (&self.failover, &self.peers, &self.config);
        let in_use = |book: &Book, url: &str, node: &NodeId| {
            peers.contains_key(node) && failover.path(node) == Path::Http && book.of(node) == Some(url)
        };
        let interval = |book: &Book, index: usize| {
            let (url, state) = book.at(index);
            let intervals = match state {
                UrlState::Of(node) if in_use(book, url, &node) => 1,
                UrlState::Unknown => 1,
                UrlState::Of(_) => PROBE_INTERVALS,
                UrlState::Ours => OURS_INTERVALS,
            };
            config.poll_interval * intervals
        };
        let due = self.book.due(now, &mut self.random, interval);
        let compares = |url: &String| match self.book.get(url).map(|known| known.state) {
            Some(UrlState::Of(node)) => in_use(&self.book, url, &node),
            Some(UrlState::Unknown | UrlState::Ours) | None => false,
        };
        if due.iter().any(compares) {
            effects.push(Effect::ReadSeals);
        }
        effects.extend(due.into_iter().map(|url| Effect::Poll { url }));
    }

    pub(super) fn urls_configured(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let configured = !self.book.is_empty();
        self.fail_over(now, failover::Event::UrlsConfigured(configured), effects);
    }

    /// A poll was answered.
    pub(super) fn polled(
        &mut self,
        now: Monotonic,
        url: String,
        announcement: Announcement,
        wall: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let node = announcement.node;
        let ours = node == self.config.node;
        let Some(known) = self.book.get_mut(&url) else { return };
        known.polled();
        let state = if ours { UrlState::Ours } else { UrlState::Of(node) };
        if known.state != state {
            known.state = state;
            let url = url.clone();
            effects.push(Effect::Notice(match ours {
                true => Notice::UrlIsOurs { url },
                false => Notice::UrlIdentified { url, node },
            }));
            self.urls_known(now, effects);
        }
        if ours {
            self.book.get_mut(&url).into_iter().for_each(Url::ours);
            return;
        }

        let route = Route::Http { url: url.clone() };
        // Then a hello tells the time.
        let held_back = self.may_be_held_back(announcement.time, wall);
        let refused = self.hear(now, &announcement, Via::Http, &route, wall, effects);
        let unconfirmed = match refused {
            None | Some(Refused::Repeated { .. } | Refused::Overtaken { .. }) => false,
            Some(Refused::Unconfirmed { .. }) => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.unconfirmed = Some((url.clone(), announcement));
                }
                true
            }
            // Counted where it was refused.
            Some(
                Refused::Untrusted { .. }
                | Refused::Cluster { .. }
                | Refused::EpochLength { .. }
                | Refused::Sequence { .. }
                | Refused::Replaced { .. }
                | Refused::Runs(_),
            ) => return,
        };
        let can_speak = self.can_speak();
        let (patience, age) = (self.config.request_timeout * 6, self.config.poll_interval * GREET_INTERVALS);
        let Some(known) = self.book.get_mut(&url) else { return };
        known.works = true;
        let exchanges = known.exchanges();
        if can_speak && known.greet(now, patience, age, unconfirmed || held_back) {
            effects.push(Effect::Hello { peer: node, route });
        }
        if exchanges {
            self.fail_over(now, failover::Event::HttpOk { peer: node }, effects);
        }
    }

    /// A hello was answered: the incarnation that answered is the present one.
    pub(super) fn greeted(
        &mut self,
        now: Monotonic,
        node: NodeId,
        route: &Route,
        incarnation: Incarnation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let unconfirmed = peer.unconfirmed.take();
        match route {
            Route::P2p => {
                peer.greet_at = None;
                peer.failures.over();
            }
            Route::Http { url } => {
                // It may lead elsewhere by now.
                let known = self.book.get_mut(url).filter(|known| known.state == UrlState::Of(node));
                if let Some(known) = known {
                    known.greeted(now);
                    if known.recovered() {
                        effects.push(Effect::Notice(Notice::UrlWorks { url: url.clone(), node }));
                    }
                    self.fail_over(now, failover::Event::HttpOk { peer: node }, effects);
                }
            }
        }
        match self.hearing.confirm(node, incarnation) {
            Ok(()) => {
                let confirmed = unconfirmed.filter(|(_, said)| said.incarnation == incarnation);
                if let Some((url, announcement)) = confirmed {
                    let (route, wall) = (Route::Http { url }, self.wall(now));
                    self.hear(now, &announcement, Via::Http, &route, wall, effects);
                }
            }
            Err(reason) => self.refused(now, node, route, reason, effects),
        }
    }

    /// A hello has no good answer.
    pub(super) fn greet_failed(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        route: &Route,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let reason = format!("hello: {reason}");
        match route {
            Route::P2p => self.peer_failed(now, peer, &reason),
            Route::Http { url } => self.url_failed(now, url, Asked::Hello, &reason, effects),
        }
    }

    /// A poll or a hello over HTTP failed: an error of the URL, whoever it leads to.
    pub(super) fn url_failed(
        &mut self,
        now: Monotonic,
        url: &str,
        asked: Asked,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(known) = self.book.get_mut(url) else { return };
        let news = known.failed(now, asked, reason);
        let node = match known.state {
            UrlState::Of(node) => Some(node),
            UrlState::Unknown | UrlState::Ours => None,
        };
        if news {
            let (url, reason) = (url.to_owned(), clip(reason));
            effects.push(Effect::Notice(Notice::UrlFailed { url, node, reason }));
        }
        if let Some(peer) = node {
            // Another URL of the same peer may still work.
            let other_works = self
                .book
                .of(&peer)
                .and_then(|url| self.book.get(url))
                .is_some_and(|other| other.works && other.exchanges());
            if !other_works {
                self.fail_over(now, failover::Event::HttpFailed { peer }, effects);
            }
        }
    }
}
