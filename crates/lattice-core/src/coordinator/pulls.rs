//! Pulls: which are wanted, which may start, how each peer is reached, and what comes of them.

use std::time::Duration;

use super::peers::{Healed, Peer, Wanted};
use super::urls::Url;
use super::{Coordinator, Effect, Notice, Route};
use crate::backoff::Stores;
use crate::divergence;
use crate::exchange::ENVELOPE_BYTES_MAX;
use crate::failover::{self, Mode, Path};
use crate::liveness::State;
use crate::model::{Incarnation, NodeId};
use crate::pull::{self, Cause, Ended, Lost, Outcome, Pull, Repaired};
use crate::recovery;
use crate::repair;
use crate::seal::Root;
use crate::time::Monotonic;

use rand::RngExt as _;

/// A pull is given up after so many request timeouts without anything new.
const STALL_TIMEOUTS: u32 = 12;
/// And when it has waited for so many of them for answers that bring little.
const PATIENCE_TIMEOUTS: u32 = 12;

/// A pull under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pull: Pull,
    route: Route,
    began: Began,
    /// A question that waits until what pulls cost is paid off.
    waiting: Option<Effect>,
}

/// Our store when a pull began.
#[derive(Clone, Copy, Debug)]
struct Began {
    root: Option<Root>,
    incarnation: Option<Incarnation>,
}

impl Running {
    fn is_repair(&self) -> bool {
        self.pull.config().cause == Cause::Repair
    }
}

impl Coordinator {
    /// A pull from `peer` should start. Of two reasons the stronger one stays.
    pub(super) fn want(&mut self, peer: NodeId, cause: Cause) {
        if self.pulls.get(&peer).is_some_and(|running| !running.is_repair()) {
            return;
        }
        let id = pull::Id(self.random.random_range(1..=u64::MAX));
        let Some(known) = self.peers.get_mut(&peer) else { return };
        match &mut known.wanted {
            Some(wanted) => wanted.cause = wanted.cause.min(cause),
            None => {
                self.wants += 1;
                known.wanted = Some(Wanted { id, cause, order: self.wants });
            }
        }
    }

    /// A pull from `peer` is not wanted any more, if it was for this reason alone.
    pub(super) fn unwant(&mut self, peer: NodeId, cause: Cause) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.wanted.take_if(|wanted| wanted.cause == cause);
        }
    }

    /// An operator wants a pull now.
    pub(super) fn reconcile(
        &mut self,
        now: Monotonic,
        token: u64,
        peer: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        let peers: Vec<NodeId> = match peer {
            Some(peer) => self.peers.contains_key(&peer).then_some(peer).into_iter().collect(),
            None => self.peers.keys().copied().collect(),
        };
        let mut pulls = Vec::new();
        for peer in peers {
            self.want(peer, Cause::Operator);
            let wanted = self.peers.get(&peer).and_then(|known| known.wanted);
            let running = self.pulls.get(&peer).filter(|running| !running.is_repair());
            let running = running.map(|running| running.pull.config().id);
            pulls.extend(running.or(wanted.map(|wanted| wanted.id)).map(|id| (peer, id)));
        }
        effects.push(Effect::ReconcileAccepted { token, pulls });
        self.start_pulls(now, effects);
    }

    /// Starts what is wanted, as far as there is room: what an operator asked for first, then answers in kind,
    /// then what a store that recovers waits for, then what diverges.
    pub(super) fn start_pulls(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        while self.pulls.len() < self.config.pulls_max && self.can_speak() {
            let ready = self.peers.iter().filter_map(|(&peer, known)| {
                // A repair from it ends first.
                let wanted = known.wanted.filter(|_| !self.pulls.contains_key(&peer))?;
                let may_start = match wanted.cause {
                    Cause::Operator => true,
                    Cause::InKind | Cause::Recovery | Cause::Divergence | Cause::Repair => {
                        let path = self.route(&peer)?.path();
                        self.backoff.until(now, &peer, path).is_none()
                    }
                };
                may_start.then_some((wanted.cause, wanted.order, peer, wanted))
            });
            let Some((_, _, peer, wanted)) = ready.min_by_key(|ready| (ready.0, ready.1)) else { return };
            if let Some(known) = self.peers.get_mut(&peer) {
                known.wanted = None;
            }
            // What it had may have come here meanwhile.
            if wanted.cause == Cause::InKind && !self.may_lack(now, &peer) {
                continue;
            }
            self.start_pull(now, peer, wanted, &[], effects);
        }
    }

    /// When a pull that waits for its backoff may start.
    pub(super) fn next_start(&self) -> Option<Monotonic> {
        if self.pulls.len() >= self.config.pulls_max || !self.can_speak() {
            return None;
        }
        // Everything wanted that is not paused was started already.
        let wanted =
            |(peer, known): &(&NodeId, &Peer)| known.wanted.is_some() && !self.pulls.contains_key(*peer);
        let paused = self.peers.iter().filter(wanted).filter_map(|(peer, _)| {
            let path = self.route(peer)?.path();
            self.backoff.until(Monotonic::ZERO, peer, path)
        });
        paused.min()
    }

    /// Our store or a peer's may be another one than before: what pulls between the old ones came to is no reason
    /// to wait.
    pub(super) fn meet(&mut self, now: Monotonic, peer: NodeId, effects: &mut Vec<Effect>) {
        let Some(own) = &self.own else { return };
        let stores = Stores { ours: own.incarnation, theirs: self.hearing.incarnation(&peer) };
        if self.backoff.meet(now, peer, stores) {
            effects.push(Effect::Remember);
        }
    }

    /// How long a pull from a peer that is due has to wait; `None`: not at all.
    pub(super) fn held_back(&self, now: Monotonic, peer: &NodeId) -> Option<Duration> {
        let path = self.route(peer)?.path();
        self.backoff.until(now, peer, path).map(|until| until.since(now))
    }

    /// How a peer is reached: by the path in use if that leads anywhere now, else by the other one, unless the
    /// operator has pinned it.
    pub(super) fn route(&self, peer: &NodeId) -> Option<Route> {
        let over = |path: Path| match path {
            Path::P2p => {
                let connected = self.peers.get(peer).is_some_and(|known| known.state != State::Down);
                (self.p2p_up() && connected).then_some(Route::P2p)
            }
            Path::Http => self.book.of(peer).map(|url| Route::Http { url: url.to_owned() }),
        };
        let preferred = self.failover.path(peer);
        let other = match preferred {
            Path::P2p => Path::Http,
            Path::Http => Path::P2p,
        };
        over(preferred).or_else(|| match self.failover.mode() {
            Mode::Auto => over(other),
            Mode::P2p | Mode::Http => None,
        })
    }

    /// The way to a peer may be another one: a pull under way goes on there.
    pub(super) fn reroute(&mut self, now: Monotonic, peer: NodeId, effects: &mut Vec<Effect>) {
        let Some(route) = self.route(&peer) else { return };
        let Some(running) = self.pulls.get_mut(&peer) else { return };
        if running.route != route {
            let path = route.path();
            running.route = route;
            self.drive(now, peer, pull::Event::PathChanged(path), effects);
        }
    }

    /// Something that a pull asked for has come.
    pub(super) fn pull_event(
        &mut self,
        now: Monotonic,
        id: pull::Id,
        event: pull::Event,
        effects: &mut Vec<Effect>,
    ) {
        if let (Some(budget), pull::Event::Reply { traffic, .. }) = (&mut self.budget, &event) {
            budget.spend(now, traffic.bytes_in + traffic.bytes_out);
        }
        let found = self.pulls.iter().find(|(_, running)| running.pull.config().id == id);
        if let Some(peer) = found.map(|(&peer, _)| peer) {
            self.drive(now, peer, event, effects);
        }
    }

    /// When questions that wait for the budget may be asked.
    pub(super) fn next_question(&self) -> Option<Monotonic> {
        let waits = self.pulls.values().any(|running| running.waiting.is_some());
        self.budget.filter(|_| waits).map(|budget| budget.paid())
    }

    /// Asks what was kept back, once everything is paid off.
    pub(super) fn ask_what_waits(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.budget.is_some_and(|budget| budget.paid() > now) {
            return;
        }
        for running in self.pulls.values_mut() {
            let Some(mut question) = running.waiting.take() else { continue };
            if let Effect::Exchange { route, .. } = &mut question {
                route.clone_from(&running.route);
            }
            effects.push(question);
        }
    }

    /// How long a question waits for the budget at most: until every pull's answer that was under way is paid off.
    fn pause_max(&self) -> Duration {
        let all = 2 * ENVELOPE_BYTES_MAX as u64 * self.config.pulls_max as u64;
        self.budget.map_or(Duration::ZERO, |budget| budget.price(all))
    }

    /// Ends a pull that nobody wants any more.
    pub(super) fn cancel_pull(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        self.drive(now, peer, pull::Event::Cancel(reason.to_owned()), effects);
    }

    pub(super) fn tick_pulls(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let due = |running: &Running| running.pull.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<NodeId> =
            self.pulls.iter().filter(|(_, running)| due(running)).map(|(&peer, _)| peer).collect();
        for peer in due {
            self.drive(now, peer, pull::Event::Tick, effects);
        }
    }

    /// After a healed pull, our next seal tells what became of it.
    pub(super) fn tell_roots_after(&mut self, effects: &mut Vec<Effect>) {
        let Some(newest) = self.own.as_ref().and_then(|own| own.runs.newest()) else { return };
        for (&peer, known) in &mut self.peers {
            let sealed = |healed: &mut Healed| healed.epoch.is_none_or(|epoch| newest.to > epoch);
            if let Some(Healed { id, path, .. }) = known.healed.take_if(sealed) {
                effects.push(Effect::RootAfter { id, peer, path, root: newest.root });
            }
        }
    }

    /// Starts a pull, or a repair that looks for what is `lost`.
    pub(super) fn start_pull(
        &mut self,
        now: Monotonic,
        peer: NodeId,
        wanted: Wanted,
        lost: &[Lost],
        effects: &mut Vec<Effect>,
    ) {
        let Wanted { id, cause, .. } = wanted;
        let began = Began {
            root: self.own.as_ref().and_then(|own| own.runs.newest()).and_then(|run| run.root),
            incarnation: self.own.as_ref().map(|own| own.incarnation),
        };
        let route = self.route(&peer);
        let pause_max = self.pause_max();
        let repair = cause == Cause::Repair;
        let config = pull::Config {
            id,
            cause,
            peer,
            cluster: self.config.cluster.clone(),
            incarnation: self.hearing.incarnation(&peer),
            announced: self.hearing.runs(&peer).cloned().unwrap_or_default(),
            path: route.as_ref().map_or(self.failover.path(&peer), Route::path),
            request_timeout: self.config.request_timeout,
            pause_max,
            stall_timeout: pause_max.saturating_add(self.config.request_timeout) * STALL_TIMEOUTS,
            patience: self.config.request_timeout * PATIENCE_TIMEOUTS,
            max_clock_drift: self.config.max_clock_drift,
        };
        let pull = if repair { Pull::repair(now, config, lost) } else { Pull::new(now, config) };
        let Some(route) = route else {
            // Only an operator's pull comes this far without a way. It is recorded as any other.
            let ended = pull.give_up(now, "no way to reach the peer");
            self.pull_ended(now, ended, None, began, effects);
            return;
        };
        if !repair {
            effects.push(Effect::Notice(Notice::PullTriggered { peer, route: route.clone(), cause }));
        }
        let root_before = began.root;
        effects.push(Effect::PullStarted { id, peer, cause, route: route.clone(), root_before });
        self.pulls.insert(peer, Running { pull, route, began, waiting: None });
        if !repair {
            self.diverge(now, divergence::Event::PullStarted { peer }, None, effects);
            self.recover(now, recovery::Event::PullStarted { peer }, effects);
        }
        self.drive(now, peer, pull::Event::Start, effects);
    }

    /// Hands an event to the pull from `peer`, if one is running, and does what it decides.
    fn drive(&mut self, now: Monotonic, peer: NodeId, event: pull::Event, effects: &mut Vec<Effect>) {
        let Some(running) = self.pulls.get_mut(&peer) else { return };
        let mut decided = Vec::new();
        running.pull.handle(now, event, &mut decided);
        let repair = running.is_repair();
        let (pull, route) = (running.pull.config().id, running.route.clone());
        let in_debt = self.budget.is_some_and(|budget| budget.paid() > now);
        for effect in decided {
            effects.push(match effect {
                pull::Effect::Ask { number, request, announce, path: _, last } => {
                    let route = route.clone();
                    let question = Effect::Exchange { pull, number, peer, route, request, announce, last };
                    let Some(running) = self.pulls.get_mut(&peer).filter(|_| in_debt && !last) else {
                        effects.push(question);
                        continue;
                    };
                    running.waiting = Some(question);
                    continue;
                }
                pull::Effect::ReadLocalNodes(positions) => Effect::ReadLocalNodes { pull, positions },
                pull::Effect::Compare(heads) => Effect::Compare { pull, heads },
                pull::Effect::Merge(entries) => Effect::Merge { pull, entries, repair },
                pull::Effect::Ended(ended) => {
                    if let Some(running) = self.pulls.remove(&peer) {
                        self.pull_ended(now, *ended, Some(running.route), running.began, effects);
                    }
                    continue;
                }
            });
        }
    }

    fn pull_ended(
        &mut self,
        now: Monotonic,
        ended: Ended,
        route: Option<Route>,
        began: Began,
        effects: &mut Vec<Effect>,
    ) {
        let Ended { peer, outcome, path, .. } = ended;
        let healed = match (outcome, ended.incarnation, ended.dominated) {
            (Outcome::Healed, Some(incarnation), Some(dominated)) => {
                let root = dominated.root.map(|root| root.digest);
                Some(divergence::Healed { incarnation, root, until: dominated.until })
            }
            _ => None,
        };
        // A repair proves nothing of what it did not look for, and ends no pause.
        let repaired = ended.repaired.clone();
        if repaired.is_none() {
            let healed_by = healed.map(|healed| healed.incarnation);
            self.diverge(now, divergence::Event::PullEnded { peer, healed }, None, effects);
            self.recover(now, recovery::Event::PullEnded { peer, healed: healed_by }, effects);
        }
        let counts = repaired.is_none() || outcome != Outcome::Healed;
        if let (Some(_), Some(ours), true) = (&route, began.incarnation, counts) {
            let theirs = ended.incarnation.or_else(|| self.hearing.incarnation(&peer));
            let stores = Stores { ours, theirs };
            if self.backoff.ended(now, peer, path, outcome, ended.verified_new, stores) {
                effects.push(Effect::Remember);
            }
            // Either store may be another one by now.
            self.meet(now, peer, effects);
        }
        let epoch = self.own.as_ref().and_then(|own| own.runs.newest_epoch());
        if let Some(known) = self.peers.get_mut(&peer) {
            match outcome {
                Outcome::Healed if repaired.is_some() => {}
                Outcome::Healed => {
                    known.healed = Some(Healed { id: ended.id, path, epoch });
                    let url = route.as_ref().and_then(Route::url);
                    url.and_then(|url| self.book.get_mut(url))
                        .into_iter()
                        .for_each(|url| url.failures.over());
                    known.failures.over();
                }
                Outcome::Stale => {}
                Outcome::Refused
                | Outcome::Lied
                | Outcome::TimedOut
                | Outcome::Lost
                | Outcome::NoProgress => {
                    let what = if repaired.is_some() { "repair" } else { "pull" };
                    let reason = format!("{what}: {outcome}: {}", ended.detail);
                    // Without an answer nobody has signed anything: who knows who is there.
                    let nobody = matches!(outcome, Outcome::TimedOut | Outcome::Lost);
                    let url = route.as_ref().and_then(Route::url).filter(|_| nobody);
                    match url.and_then(|url| self.book.get_mut(url)) {
                        Some(url) => url.failures.add(now, &reason),
                        None => known.failures.add(now, &reason),
                    }
                }
            }
        }
        if path == Path::Http && route.is_some() {
            match outcome {
                Outcome::Healed | Outcome::NoProgress => {
                    self.fail_over(now, failover::Event::HttpOk { peer }, effects);
                }
                Outcome::Refused | Outcome::TimedOut | Outcome::Lost => {
                    let url = route.as_ref().and_then(Route::url);
                    url.and_then(|url| self.book.get_mut(url)).into_iter().for_each(Url::unproved);
                    self.fail_over(now, failover::Event::HttpFailed { peer }, effects);
                }
                Outcome::Stale | Outcome::Lied => {}
            }
        }
        effects.push(Effect::PullEnded { ended, route, root_before: began.root });
        if let Some(Repaired { repaired, left, .. }) = repaired {
            self.mend(now, repair::Event::Ended { repaired, left }, effects);
        }
    }
}
