//! Composes the machines: the only place where hearing, divergence, failover, backoff and pulls meet.
//!
//! Peers are identities (trusted keys other than our own); URLs are hints that lead to them, and each is asked
//! who it is. What is heard over the path in use is compared with our own seals; the third difference starts a
//! pull; a peer that pulled from us is pulled from in its turn. Everything that could grow is bounded by the
//! number of trusted keys and of configured URLs.
//!
//! The shell (`sync-coordinator`) runs the effects and hands back what came of them: each effect says by which
//! event it is answered. Time comes with every event; wall-clock time only where signed times are judged.

mod clocks;
mod count;
mod effect;
mod event;
mod failures;
mod heard;
mod incarnation;
mod mend;
mod peers;
mod polls;
mod pulls;
mod recover;
mod status;
mod urls;

#[cfg(test)]
mod tests;

pub use effect::{Clock, Effect, Notice, Recipients, Route};
pub use event::{Event, OwnSeals, SensorPeer};
pub use status::{PeerStatus, SensorStatus, Status, UrlState, UrlStatus};

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::backoff::{Backoff, Pause};
use crate::budget::Budget;
use crate::clock::WRONG_HOLDS;
use crate::divergence::{self, Divergence};
use crate::failover::{self, Failover, Mode, Path};
use crate::hearing::Register;
use crate::model::{EpochLength, Incarnation, NodeId};
use crate::recovery::{self, Recovery};
use crate::renewal::{self, Renewals};
use crate::repair::{self, Repair};
use crate::time::{Monotonic, WallTime};

use clocks::{Changes, Clocks};
use count::Count;
use peers::Peer;
use polls::PROBE_INTERVALS;
use pulls::Running;
use urls::{Asked, Book};

/// What the coordinator is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// The cluster's epoch length.
    pub epoch_length: EpochLength,
    /// The effective trusted keys at first; this node's own may be among them.
    pub trusted: Vec<NodeId>,
    /// The base URLs of peers' gateways at first, at most [`URLS_MAX`].
    pub urls: Vec<String>,
    /// Time between announcements.
    pub heartbeat_interval: Duration,
    /// How long a peer that was not heard of is still taken for live in questions of clocks.
    pub peer_timeout: Duration,
    /// Time between polls of one peer.
    pub poll_interval: Duration,
    /// The longest wait for one answer of a peer.
    pub request_timeout: Duration,
    /// How long a peer is gone before HTTP takes over.
    pub peerless_timeout: Duration,
    /// How long a peer is back before P2P takes over again.
    pub return_after: Duration,
    /// Consecutive differences that start a pull.
    pub divergence_threshold: u32,
    /// The longest pause after failed pulls.
    pub backoff_max: Duration,
    /// Concurrent pulls.
    pub pulls_max: usize,
    /// What all pulls together may cost; `None`: no limit.
    pub pull_bytes_per_s: Option<NonZeroU64>,
    /// The path that the operator wants at first.
    pub mode: Mode,
    /// Whether P2P is enabled in the configuration, until the sensor says so itself.
    pub p2p_enabled: bool,
    /// How far a peer's clock may be off.
    pub max_clock_drift: Duration,
    /// Seeds jitter and pull ids; different at every start.
    pub seed: u64,
}

impl Config {
    /// How long a peer is taken for live after it was heard, on either path.
    fn fresh_for(&self) -> Duration {
        self.peer_timeout.max(self.poll_interval * PROBE_INTERVALS)
    }
}

/// What survives a restart of the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The pauses after failed pulls: at most three for each trusted key.
    pub pauses: Vec<Pause>,
    /// The new incarnations that were started on peers' words; `None`: none.
    pub renewals: Option<renewal::Kept>,
}

/// The most URLs; more are ignored.
pub const URLS_MAX: usize = 4_096;

/// After a new seal, announcements are at least this far apart.
const ANNOUNCE_SPACING: Duration = Duration::from_secs(1);
/// Errors kept for people are cut after this many characters.
const REASON_CHARS_MAX: usize = 256;

/// The machine.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    random: Xoshiro256PlusPlus,
    /// Our clock at some moment, so that it can be told without being handed in.
    wall: (Monotonic, WallTime),
    /// What concerns the start was told.
    started: bool,
    hearing: Register,
    divergence: Divergence,
    failover: Failover,
    backoff: Backoff,
    recovery: Recovery,
    repair: Repair,
    clocks: Clocks,
    /// When the store was last told of our clock.
    clock_told: Monotonic,
    /// The trusted keys but our own.
    peers: BTreeMap<NodeId, Peer>,
    book: Book,
    /// At most one for each peer, and `pulls_max` in all.
    pulls: BTreeMap<NodeId, Running>,
    /// What pulls cost, where that is limited.
    budget: Option<Budget>,
    sensor: Sensor,
    own: Option<OwnSeals>,
    store_error: Option<String>,
    /// The greatest announcement sequence that may have been used.
    sequence: Option<(Incarnation, u64)>,
    /// The last one that was given up: nothing is announced in its name.
    given_up: Option<Incarnation>,
    /// A peer's word stands against it: it is given up as soon as a new one may be started.
    doubted: Option<Incarnation>,
    renewals: Renewals,
    next_heartbeat: Monotonic,
    /// A new seal is to be announced then.
    announce_at: Option<Monotonic>,
    announced: Option<Monotonic>,
    /// Orders the pulls that wait.
    wants: u64,
}

#[derive(Debug)]
struct Sensor {
    /// `None`: nothing was heard of it yet.
    available: Option<bool>,
    enabled: bool,
    started: bool,
    error: String,
    count: Count,
}

impl Coordinator {
    /// Begins, with what was kept of the last run.
    pub fn new(config: Config, now: Monotonic, wall: WallTime, memory: &Memory) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        let mut backoff = Backoff::new(config.backoff_max, random.random());
        backoff.import(now, wall, &memory.pauses);
        let fresh_for = config.fresh_for();
        let late_max = config.heartbeat_interval * 2;
        let mut coordinator = Self {
            hearing: Register::new(config.cluster.clone(), config.epoch_length, late_max),
            divergence: Divergence::new(config.divergence_threshold),
            failover: Failover::new(failover::Config {
                peerless_timeout: config.peerless_timeout,
                return_after: config.return_after,
                mode: config.mode,
            }),
            backoff,
            recovery: Recovery::new(fresh_for),
            repair: Repair::new(config.backoff_max, random.random()),
            clocks: Clocks::new(config.max_clock_drift, fresh_for),
            clock_told: now,
            peers: BTreeMap::new(),
            book: Book::new(config.request_timeout * 6),
            pulls: BTreeMap::new(),
            budget: config.pull_bytes_per_s.map(Budget::new),
            sensor: Sensor {
                available: None,
                enabled: config.p2p_enabled,
                started: false,
                error: String::new(),
                count: Count::default(),
            },
            own: None,
            store_error: None,
            sequence: None,
            given_up: None,
            doubted: None,
            renewals: memory.renewals.map_or_else(Renewals::new, |kept| Renewals::import(now, wall, kept)),
            next_heartbeat: now,
            announce_at: None,
            announced: None,
            wants: 0,
            wall: (now, wall),
            started: false,
            random,
            config,
        };
        let spread = coordinator.config.poll_interval / 10;
        let urls = coordinator.config.urls.clone();
        coordinator.book.set(now, urls, spread, &mut coordinator.random);
        coordinator
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        if !self.started {
            self.started = true;
            let trusted = self.config.trusted.clone();
            self.fail_over(now, failover::Event::P2pEnabled(self.config.p2p_enabled), effects);
            self.urls_configured(now, effects);
            self.set_trust(now, trusted, effects);
        }
        match event {
            Event::Seals(own) => self.seals(now, own, effects),
            Event::StoreGone { reason } => self.store_gone(&reason, effects),
            Event::Sequence { incarnation, last } => self.numbered(now, incarnation, last, effects),
            Event::Sensor { enabled, started, error, peers } => {
                if self.sensor.available.replace(true) == Some(false) {
                    effects.push(Effect::Notice(Notice::SensorAnswers));
                }
                self.sensor.started = started;
                self.sensor.error = error;
                if self.sensor.enabled != enabled {
                    self.sensor.enabled = enabled;
                    self.fail_over(now, failover::Event::P2pEnabled(enabled), effects);
                }
                self.sensor_peers(now, &peers, effects);
            }
            Event::SensorGone { reason } => {
                if self.sensor.available.replace(false) != Some(false) {
                    effects.push(Effect::Notice(Notice::SensorUnavailable { reason: reason.clone() }));
                }
                self.sensor.started = false;
                self.sensor.error = reason;
                self.sensor_peers(now, &[], effects);
            }
            Event::Heard { from, announcement, wall } => {
                self.wall = (now, wall);
                self.heard(now, from, &announcement.announcement, wall, effects);
            }
            Event::Asked { peer, announcement, pull, ended, wall } => {
                self.wall = (now, wall);
                let announcement = announcement.map(|signed| signed.announcement);
                self.asked(now, peer, announcement, pull, ended, wall, effects);
            }
            Event::Polled { url, announcement, wall } => {
                self.wall = (now, wall);
                self.polled(now, url, announcement.announcement, wall, effects);
            }
            Event::PollFailed { url, reason } => self.url_failed(now, &url, Asked::Poll, &reason, effects),
            Event::Greeted {
                peer,
                route,
                incarnation,
                own_incarnation,
                heard_sequence,
                heard_epoch,
                time,
                wall,
            } => {
                self.wall = (now, wall);
                self.greeted(now, peer, &route, incarnation, effects);
                self.sample_clock(now, peer, time, wall, effects);
                self.detect_rollback(now, peer, own_incarnation, heard_sequence, heard_epoch, effects);
            }
            Event::GreetFailed { peer, route, reason } => {
                self.greet_failed(now, peer, &route, &reason, effects)
            }
            Event::Disowned { peer, incarnation } => self.disowned(now, peer, incarnation, effects),
            Event::Replaced { peer, incarnation, present } => {
                self.replaced(now, peer, incarnation, present, effects);
            }
            Event::Pull { id, event } => self.pull_event(now, id, event, effects),
            Event::Damaged { lost, more } => self.mend(now, repair::Event::Listed { lost, more }, effects),
            Event::DamageUnknown => self.mend(now, repair::Event::NotListed, effects),
            Event::SwitchMode(mode) => {
                effects.push(Effect::Notice(Notice::ModeSwitched { mode }));
                self.fail_over(now, failover::Event::Mode(mode), effects);
            }
            Event::Reconcile { token, peer } => self.reconcile(now, token, peer, effects),
            Event::TrustChanged { trusted } => self.set_trust(now, trusted, effects),
            Event::UrlsChanged { urls } => {
                let spread = self.config.poll_interval / 10;
                self.book.set(now, urls, spread, &mut self.random);
                self.urls_configured(now, effects);
                self.urls_known(now, effects);
            }
            Event::Tick => {}
        }
        self.on_time(now, effects);
        self.start_pulls(now, effects);
        self.start_repairs(now, effects);
        self.check();
    }

    /// When to send [`Event::Tick`].
    pub fn deadline(&self) -> Option<Monotonic> {
        let asked = self.peers.values().filter_map(|peer| peer.asked_until);
        let greet = self.peers.values().filter_map(|peer| peer.greet_at).filter(|_| self.heartbeat_active());
        let pulls = self.pulls.values().filter_map(|running| running.pull.deadline());
        [
            Some(self.next_heartbeat),
            self.announce_at,
            self.count_deadline(),
            self.book.deadline(),
            self.failover.deadline(),
            self.divergence.deadline(),
            self.recovery.deadline(),
            self.repair.deadline(),
            self.next_start(),
            self.next_question(),
            self.next_renewal(),
            self.next_verdict(),
        ]
        .into_iter()
        .flatten()
        .chain(asked)
        .chain(greet)
        .chain(pulls)
        .min()
    }

    /// What is to be kept, for [`Self::new`] at the next start.
    pub fn memory(&self, now: Monotonic, wall: WallTime) -> Memory {
        Memory { pauses: self.backoff.export(now, wall), renewals: self.renewals.export(now, wall) }
    }

    /// The path in use for a peer.
    pub fn path(&self, peer: &NodeId) -> Path {
        self.failover.path(peer)
    }

    /// Does what is due.
    fn on_time(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let due = |deadline: Option<Monotonic>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.failover.deadline()) {
            self.fail_over(now, failover::Event::Tick, effects);
        }
        if due(self.divergence.deadline()) {
            self.diverge(now, divergence::Event::Tick, None, effects);
        }
        if due(self.recovery.deadline()) {
            self.recover(now, recovery::Event::Tick, effects);
        }
        if due(self.repair.deadline()) {
            self.mend(now, repair::Event::Tick, effects);
        }
        if self.next_heartbeat <= now || due(self.announce_at) {
            self.announce(now, effects);
        }
        if due(self.count_deadline()) {
            self.tell_count(now, effects);
        }
        for (url, asked) in self.book.overdue(now) {
            self.url_failed(now, &url, asked, "no answer at all", effects);
        }
        self.poll(now, effects);
        self.greet_over_p2p(now, effects);
        self.ask_what_waits(now, effects);
        self.renew(now, effects);
        self.repeat_verdict(now, effects);
        self.tick_pulls(now, effects);
        let ended: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| due(peer.asked_until)).map(|(&id, _)| id).collect();
        for peer in ended {
            self.answer_in_kind(now, peer);
        }
    }

    /// Announces, if anybody can be told, and reads our seals in any case: comparisons need their end.
    fn announce(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.announce_at = None;
        self.announced = Some(now);
        let jitter = self.random.random_range(0.9..1.0);
        self.next_heartbeat = now + self.config.heartbeat_interval.mul_f64(jitter);
        effects.push(match self.heartbeat_active() {
            true => Effect::Announce { to: Recipients::All },
            false => Effect::ReadSeals,
        });
        let changes = self.clocks.judge(now);
        self.tell_clocks(now, changes, effects);
    }

    fn heartbeat_active(&self) -> bool {
        self.can_speak() && self.p2p_up()
    }

    /// The store is there, and its incarnation is not given up.
    fn can_speak(&self) -> bool {
        let given_up = self.own.as_ref().is_none_or(|own| self.given_up == Some(own.incarnation));
        self.store_error.is_none() && !given_up
    }

    fn p2p_up(&self) -> bool {
        self.sensor.available == Some(true) && self.sensor.enabled && self.sensor.started
    }

    /// Our clock, as far as we were told.
    fn wall(&self, now: Monotonic) -> WallTime {
        self.wall.1 + now.since(self.wall.0)
    }

    fn store_gone(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        let reason = clip(reason);
        if self.store_error.replace(reason.clone()).is_none() {
            effects.push(Effect::Notice(Notice::StoreUnavailable { reason }));
        }
    }

    fn seals(&mut self, now: Monotonic, own: OwnSeals, effects: &mut Vec<Effect>) {
        if self.is_overtaken(&own) {
            return;
        }
        if self.store_error.take().is_some() {
            effects.push(Effect::Notice(Notice::StoreAnswers));
        }
        let newest =
            |own: &OwnSeals| (own.incarnation, own.recovering, own.runs.newest().map(|run| run.root));
        if self.own.as_ref().is_none_or(|before| newest(before) != newest(&own)) {
            let spaced = self.announced.map_or(now, |announced| announced + ANNOUNCE_SPACING);
            self.announce_at = Some(spaced.max(now));
        }
        self.reappeared(&own, effects);
        let OwnSeals { incarnation, damage_generation, ref runs, recovering, damaged } = own;
        let event = divergence::Event::OwnSeals { incarnation, damage_generation, runs: runs.clone() };
        let before = self.own.replace(own);
        match (before.as_ref().is_some_and(|before| before.recovering), recovering) {
            (false, true) => effects.push(Effect::Notice(Notice::Recovering)),
            (true, false) => effects.push(Effect::Notice(Notice::Recovered)),
            (false, false) | (true, true) => {}
        }
        let before = before.map(|before| before.incarnation);
        self.diverge(now, event, None, effects);
        self.recover(now, recovery::Event::Own { incarnation, damage_generation, recovering }, effects);
        self.mend(now, repair::Event::Own { incarnation, damage_generation, damaged }, effects);
        if before != Some(incarnation) {
            let peers: Vec<NodeId> = self.peers.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.meet(now, peer, effects));
        }
        self.tell_roots_after(effects);
    }

    /// Whether newer seals of the same store are known: they are read by several ways, and some overtake others.
    /// What has been announced must not look like news of ours from a peer, as after a rollback. A store that
    /// was away may have been rolled back: then what it says counts.
    fn is_overtaken(&self, own: &OwnSeals) -> bool {
        let age = |own: &OwnSeals| (own.damage_generation, own.runs.newest_epoch());
        self.store_error.is_none()
            && self
                .own
                .as_ref()
                .is_some_and(|known| known.incarnation == own.incarnation && age(own) < age(known))
    }

    fn fail_over(&mut self, now: Monotonic, event: failover::Event, effects: &mut Vec<Effect>) {
        let mut decided = Vec::new();
        self.failover.handle(now, event, &mut decided);
        for effect in decided {
            let notice = match effect {
                failover::Effect::StateChanged { peer, state } => Notice::FailoverChanged { peer, state },
                failover::Effect::PathChanged { peer, path } => {
                    self.path_changed(now, peer, path, effects);
                    Notice::PathChanged { peer, path }
                }
                failover::Effect::TimerStarted { after } => Notice::TimerStarted { after },
                failover::Effect::FallbackActivated => Notice::FallbackActivated,
                failover::Effect::Returned => Notice::Returned,
                failover::Effect::SyncModeChanged(mode) => Notice::SyncModeChanged(mode),
                failover::Effect::HealthChanged(health) => Notice::HealthChanged(health),
            };
            effects.push(Effect::Notice(notice));
        }
    }

    fn path_changed(&mut self, now: Monotonic, peer: NodeId, path: Path, effects: &mut Vec<Effect>) {
        if path == Path::Http
            && let Some(url) = self.book.of(&peer).map(str::to_owned)
        {
            let soon = self.config.poll_interval.mul_f64(self.random.random_range(0.0..0.1));
            self.book.get_mut(&url).into_iter().for_each(|url| url.hurry(now + soon));
        }
        self.reroute(now, peer, effects);
    }

    fn tell_clocks(&mut self, now: Monotonic, changes: Changes, effects: &mut Vec<Effect>) {
        if let Some(clock) = changes.own {
            self.clock_told = now;
            effects.push(Effect::JudgeClock(clock.clone()));
            // That a clock is right, or that nobody can say, is no news unless it was wrong.
            if changes.was_wrong || matches!(clock, Clock::Wrong { .. }) {
                effects.push(Effect::Notice(Notice::OwnClock(clock)));
            }
        }
        for (peer, ahead_ms) in changes.peers {
            effects.push(Effect::Notice(Notice::PeerClock { peer, ahead_ms }));
        }
    }

    /// Says again that our clock is wrong, as long as peers still say so: the store forgets what is not repeated.
    fn repeat_verdict(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.next_verdict().is_none_or(|at| at > now) {
            return;
        }
        let changes = self.clocks.judge(now);
        self.tell_clocks(now, changes, effects);
        if matches!(self.clocks.verdict(), Clock::Wrong { .. }) {
            self.clock_told = now;
            effects.push(Effect::JudgeClock(self.clocks.verdict().clone()));
        }
    }

    /// When [`Self::repeat_verdict`] has something to do.
    fn next_verdict(&self) -> Option<Monotonic> {
        let wrong = matches!(self.clocks.verdict(), Clock::Wrong { .. });
        wrong.then(|| self.clock_told + WRONG_HOLDS / 3)
    }

    /// What must always hold.
    fn check(&self) {
        debug_assert!(self.pulls.len() <= self.config.pulls_max, "no more pulls than allowed");
        debug_assert!(
            self.pulls.keys().all(|peer| self.peers.contains_key(peer)),
            "only trusted peers are pulled from"
        );
        debug_assert!(!self.peers.contains_key(&self.config.node), "we are not a peer of ours");
    }
}

/// A reason for people, cut where it is long: peers have a say in it.
fn clip(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}
