//! The coordinator, event by event, and at random.

mod incarnation;
mod recover;

use std::num::NonZeroU32;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::backoff::Stores;
use crate::exchange::{Answer, Ask, PullPart, Reason, Refusal, Response};
use crate::failover::{State, SyncMode};
use crate::hearing::Refused;
use crate::liveness;
use crate::model::{Digest, Epoch};
use crate::pull::{self, Cause, Failure, Outcome, Traffic};
use crate::seal::{Root, Run, Runs};
use crate::signed::{Announcement, Signed, SignedAnnouncement};

const US: NodeId = NodeId([100; 32]);
const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const C: NodeId = NodeId([3; 32]);
const STRANGER: NodeId = NodeId([9; 32]);
const OURS: Incarnation = Incarnation([100; 16]);
const URL_A: &str = "http://node-a:8080";
const URL_B: &str = "http://node-b:8080";
/// Our clock at the start.
const WALL: u64 = 1_000_000_000;

fn root(byte: u8) -> Option<Root> {
    (byte > 0).then_some(Root { digest: Digest([byte; 32]), entries: 1, tombstones: 0 })
}

fn runs(to: u64, byte: u8) -> Runs {
    Runs::parse(vec![Run { from: Epoch(1), to: Epoch(to), root: root(byte) }]).unwrap()
}

fn incarnation(node: NodeId) -> Incarnation {
    Incarnation([node.0[0]; 16])
}

/// What `node` announces: its tree has been `byte` up to epoch `to`.
fn announcement(node: NodeId, sequence: u64, to: u64, byte: u8, time: WallTime) -> SignedAnnouncement {
    let announcement = Announcement {
        cluster: "lattice".into(),
        node,
        incarnation: incarnation(node),
        sequence,
        time,
        epoch_length: EpochLength(NonZeroU32::new(1000).unwrap()),
        runs: runs(to, byte).into(),
        addresses: vec!["/ip4/10.0.0.1/tcp/9000".into()],
        name: format!("node-{}", node.0[0]),
        recovering: false,
    };
    let signed = Signed { body: Bytes::new(), signature: [0; 64] };
    SignedAnnouncement { announcement, signed }
}

fn config(trusted: &[NodeId], urls: &[&str]) -> Config {
    Config {
        node: US,
        cluster: "lattice".into(),
        epoch_length: EpochLength(NonZeroU32::new(1000).unwrap()),
        trusted: trusted.to_vec(),
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        heartbeat_interval: Duration::from_secs(5),
        peer_timeout: Duration::from_secs(30),
        poll_interval: Duration::from_secs(10),
        request_timeout: Duration::from_secs(5),
        peerless_timeout: Duration::from_secs(60),
        return_after: Duration::from_secs(10),
        divergence_threshold: 3,
        backoff_max: Duration::from_secs(300),
        pulls_max: 2,
        pull_bytes_per_s: None,
        mode: Mode::Auto,
        p2p_enabled: true,
        max_clock_drift: Duration::from_secs(10),
        seed: 42,
    }
}

struct Bench {
    coordinator: Coordinator,
    now: Monotonic,
    sequence: u64,
    epoch: u64,
    recovering: bool,
    damaged: u64,
}

impl Bench {
    /// A node whose store and sensor are there; nobody is connected.
    fn new(trusted: &[NodeId], urls: &[&str]) -> Self {
        let now = Monotonic(Duration::from_secs(1_000));
        let coordinator = Coordinator::new(config(trusted, urls), now, WallTime(WALL), &Memory::default());
        let mut bench = Self { coordinator, now, sequence: 0, epoch: 1_000, recovering: false, damaged: 0 };
        bench.seals(1);
        bench.sensor(&[]);
        bench
    }

    fn hear(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.coordinator.handle(self.now, event, &mut effects);
        effects
    }

    fn wall(&self) -> WallTime {
        WallTime(WALL) + self.now.since(Monotonic(Duration::from_secs(1_000)))
    }

    /// Lets time pass, with a tick at each deadline.
    fn pass(&mut self, seconds: u64) -> Vec<Effect> {
        let until = self.now + Duration::from_secs(seconds);
        let mut effects = Vec::new();
        while let Some(deadline) = self.coordinator.deadline().filter(|deadline| *deadline <= until) {
            self.now = deadline.max(self.now);
            self.coordinator.handle(self.now, Event::Tick, &mut effects);
            let next = self.coordinator.deadline().expect("heartbeats never end");
            assert!(next > self.now, "a tick at the deadline moves the deadline");
        }
        self.now = until;
        effects
    }

    /// Our own tree is `byte` now.
    fn seals(&mut self, byte: u8) -> Vec<Effect> {
        self.epoch += 10;
        let runs = runs(self.epoch, byte);
        let (recovering, damaged) = (self.recovering, self.damaged);
        let own = OwnSeals { incarnation: OURS, damage_generation: 0, runs, recovering, damaged };
        self.hear(Event::Seals(own))
    }

    fn sensor(&mut self, live: &[NodeId]) -> Vec<Effect> {
        let peer = |&node: &NodeId| SensorPeer { node, state: liveness::State::Live, addresses: Vec::new() };
        let peers = live.iter().map(peer).collect();
        self.hear(Event::Sensor { enabled: true, started: true, error: String::new(), peers })
    }

    fn next(&mut self, node: NodeId, byte: u8) -> SignedAnnouncement {
        self.sequence += 1;
        self.epoch += 5;
        announcement(node, self.sequence, self.epoch, byte, self.wall())
    }

    /// A heartbeat of `node` over P2P, whose tree is `byte`; our own is extended as far.
    fn heartbeat(&mut self, node: NodeId, byte: u8) -> Vec<Effect> {
        let mut effects = self.seals(1);
        let (announcement, wall) = (self.next(node, byte), self.wall());
        effects.extend(self.hear(Event::Heard { from: node, announcement, wall }));
        effects
    }

    fn polled(&mut self, url: &str, node: NodeId, byte: u8) -> Vec<Effect> {
        let mut effects = self.seals(1);
        let (announcement, wall) = (self.next(node, byte), self.wall());
        effects.extend(self.hear(Event::Polled { url: url.into(), announcement, wall }));
        effects
    }

    fn greeted(&mut self, node: NodeId, route: Route) -> Vec<Effect> {
        let (time, wall) = (self.wall(), self.wall());
        self.hear(Event::Greeted {
            peer: node,
            route,
            incarnation: incarnation(node),
            own_incarnation: OURS,
            heard_sequence: 0,
            heard_epoch: Epoch(0),
            time,
            wall,
        })
    }

    /// Differs three times over P2P, five seconds apart.
    fn differ(&mut self, node: NodeId) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..3 {
            effects.extend(self.heartbeat(node, 2));
            effects.extend(self.pass(5));
        }
        effects
    }

    fn pull_fails(&mut self, id: pull::Id, number: u64, failure: Failure) -> Vec<Effect> {
        self.hear(Event::Pull { id, event: pull::Event::Failed { number, failure } })
    }

    fn count(&self, node: NodeId) -> u32 {
        self.coordinator.divergence.count(&node)
    }
}

fn http(url: &str) -> Route {
    Route::Http { url: url.into() }
}

fn notices(effects: &[Effect]) -> Vec<&Notice> {
    let mut notices = Vec::new();
    for effect in effects {
        if let Effect::Notice(notice) = effect {
            notices.push(notice);
        }
    }
    notices
}

fn started(effects: &[Effect]) -> Vec<(NodeId, Cause, pull::Id)> {
    let start = |effect: &Effect| match effect {
        Effect::PullStarted { id, peer, cause, .. } => Some((*peer, *cause, *id)),
        _ => None,
    };
    effects.iter().filter_map(start).collect()
}

fn ended(effects: &[Effect]) -> Vec<(NodeId, Outcome)> {
    let end = |effect: &Effect| match effect {
        Effect::PullEnded { ended, .. } => Some((ended.peer, ended.outcome)),
        _ => None,
    };
    effects.iter().filter_map(end).collect()
}

/// The question that a pull asks last, after our own node at the root was read.
fn question(bench: &mut Bench, id: pull::Id) -> (u64, Route, crate::exchange::Request) {
    let effects = bench
        .hear(Event::Pull { id, event: pull::Event::LocalNodes(vec![crate::tree::Node::empty_bucket()]) });
    let ask = effects.into_iter().find_map(|effect| match effect {
        Effect::Exchange { number, route, request, .. } => Some((number, route, request)),
        _ => None,
    });
    ask.expect("a pull asks once it has read")
}

#[test]
fn nobody_trusted_is_said_loudly() {
    let mut coordinator =
        Coordinator::new(config(&[US], &[]), Monotonic::ZERO, WallTime(WALL), &Memory::default());
    let mut effects = Vec::new();
    coordinator.handle(Monotonic::ZERO, Event::Tick, &mut effects);
    assert!(effects.contains(&Effect::SetTrust { trusted: vec![US] }));
    assert!(notices(&effects).contains(&&Notice::NoTrust));
    assert!(coordinator.status(Monotonic::ZERO).peers.is_empty(), "we are no peer of ours");
}

#[test]
fn a_peer_that_connects_is_told_and_asked() {
    let mut bench = Bench::new(&[US, A, B], &[]);
    let effects = bench.sensor(&[A, STRANGER]);
    assert!(effects.contains(&Effect::Announce { to: Recipients::Peer(A) }));
    assert!(notices(&effects).contains(&&Notice::PeerCount { live: 1 }), "a stranger is not counted");
    assert_eq!(bench.sensor(&[A]), [], "nothing changed");
    assert!(bench.pass(1).contains(&Effect::Hello { peer: A, route: Route::P2p }));
    bench.greeted(A, Route::P2p);
    assert!(!bench.pass(100).contains(&Effect::Hello { peer: A, route: Route::P2p }), "once a connection");
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.sensor.live, status.sensor.connected, status.sync_mode), (1, 1, SyncMode::P2p));
}

#[test]
fn the_lung_tells_its_story_in_order() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.sensor(&[A]);
    bench.polled(URL_A, A, 1);
    bench.pass(20);
    let effects = bench.sensor(&[]);
    let told = notices(&effects);
    let count = told.iter().position(|notice| **notice == Notice::PeerCount { live: 0 }).unwrap();
    let timer = Notice::TimerStarted { after: Duration::from_secs(60) };
    assert!(told.iter().position(|notice| **notice == timer).unwrap() > count);
    let left = bench.coordinator.status(bench.now).fallback_in;
    assert_eq!(left, Some(Duration::from_secs(60)));
    assert!(!notices(&bench.pass(59)).contains(&&Notice::FallbackActivated));
    assert!(notices(&bench.pass(1)).contains(&&Notice::FallbackActivated));
    bench.sensor(&[A]);
    assert!(notices(&bench.pass(10)).contains(&&Notice::Returned));
}

#[test]
fn of_a_start_without_peers_nothing_is_told_before_they_could_be_found() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    let told = |effects: &[Effect]| -> Vec<Notice> {
        let of_count =
            |notice: &&Notice| matches!(notice, Notice::PeerCount { .. } | Notice::TimerStarted { .. });
        notices(effects).into_iter().filter(of_count).cloned().collect()
    };
    assert_eq!(told(&bench.sensor(&[])), []);
    assert_eq!(told(&bench.pass(4)), []);
    let timer = Notice::TimerStarted { after: Duration::from_secs(55) };
    assert_eq!(told(&bench.pass(1)), [Notice::PeerCount { live: 0 }, timer]);
    assert_eq!(told(&bench.pass(20)), [], "once");
    // Of a sensor that was away, too, peers get the time; the timer is told once.
    bench.hear(Event::SensorGone { reason: "restart".into() });
    assert_eq!(told(&bench.sensor(&[])), []);
    assert_eq!(told(&bench.pass(5)), [Notice::PeerCount { live: 0 }]);

    let mut bench = Bench::new(&[A], &[URL_A]);
    assert_eq!(told(&bench.sensor(&[])), []);
    assert_eq!(told(&bench.sensor(&[A])), [Notice::PeerCount { live: 1 }], "found in time");
    assert_eq!(told(&bench.pass(20)), []);
}

#[test]
fn a_sensor_that_is_gone_is_never_a_count() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.sensor(&[A]);
    let gone = || Event::SensorGone { reason: "connection refused".into() };
    let effects = bench.hear(gone());
    let told = notices(&effects);
    assert!(told.contains(&&Notice::SensorUnavailable { reason: "connection refused".into() }));
    assert!(!told.iter().any(|notice| matches!(notice, Notice::PeerCount { .. })));
    assert_eq!(notices(&bench.hear(gone())), Vec::<&Notice>::new(), "told once");
    let other = Event::SensorGone { reason: "no answer".into() };
    assert_eq!(notices(&bench.hear(other)), Vec::<&Notice>::new(), "it is gone still");
    assert!(!bench.coordinator.status(bench.now).heartbeat_active);
    let effects = bench.sensor(&[A]);
    let told = notices(&effects);
    assert_eq!(told[0], &Notice::SensorAnswers);
    assert!(told.contains(&&Notice::PeerCount { live: 1 }));
    assert!(!notices(&bench.sensor(&[A])).contains(&&Notice::SensorAnswers), "told once");
}

#[test]
fn a_store_that_is_gone_is_told_of_once_and_so_is_its_return() {
    let mut bench = Bench::new(&[A], &[]);
    let gone = |reason: &str| Event::StoreGone { reason: reason.into() };
    let effects = bench.hear(gone("connection refused"));
    let told = Notice::StoreUnavailable { reason: "connection refused".into() };
    assert_eq!(notices(&effects), [&told]);
    assert_eq!(notices(&bench.hear(gone("no answer"))), Vec::<&Notice>::new(), "it is gone still");
    assert_eq!(notices(&bench.seals(1)), [&Notice::StoreAnswers]);
    assert_eq!(notices(&bench.seals(1)), Vec::<&Notice>::new());
}

#[test]
fn heartbeats_and_new_seals_are_announced_within_bounds() {
    let mut bench = Bench::new(&[A], &[]);
    let announced = |effects: &[Effect]| {
        effects.iter().filter(|effect| **effect == Effect::Announce { to: Recipients::All }).count()
    };
    let beats = announced(&bench.pass(60));
    assert!((12..=15).contains(&beats), "{beats} heartbeats in a minute");
    let mut changes = 0;
    for byte in 10..110 {
        bench.now = bench.now + Duration::from_millis(100);
        changes += announced(&bench.seals(byte));
        changes += announced(&bench.pass(0));
    }
    assert!((8..=11).contains(&changes), "{changes} announcements in ten seconds of new seals");
    bench.hear(Event::StoreGone { reason: "away".into() });
    let effects = bench.pass(20);
    assert_eq!(announced(&effects), 0);
    assert!(effects.contains(&Effect::ReadSeals), "the store is tried again");
}

#[test]
fn the_third_difference_pulls_over_the_path_in_use() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    let effects = bench.differ(A);
    let counts: Vec<u32> = notices(&effects)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Diverged { peer: A, route: Route::P2p, count, .. } => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [1, 2, 3]);
    let [(A, Cause::Divergence, id)] = started(&effects)[..] else { panic!("{effects:?}") };
    let (_, route, request) = question(&mut bench, id);
    assert_eq!(route, Route::P2p);
    assert_eq!(request.pull, Some(PullPart { id: id.0, in_kind: false }));
    assert!(matches!(request.ask, Ask::Walk { epoch: None, .. }));
}

#[test]
fn equal_roots_and_errors_count_nothing() {
    let mut bench = Bench::new(&[A, B], &[URL_A]);
    bench.sensor(&[A]);
    for _ in 0..10 {
        bench.heartbeat(A, 1);
        bench.hear(Event::PollFailed { url: URL_A.into(), reason: "redirect".into() });
        bench.hear(Event::GreetFailed { peer: A, route: Route::P2p, reason: "timeout".into() });
        let mut forged = announcement(B, 1, 5, 2, bench.wall());
        forged.announcement.cluster = "elsewhere".into();
        let wall = bench.wall();
        bench.hear(Event::Heard { from: B, announcement: forged, wall });
        bench.pass(5);
    }
    assert_eq!((bench.count(A), bench.count(B)), (0, 0));
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.peers[0].errors, status.peers[0].last_error.as_str()), (10, "hello: timeout"));
    assert_eq!(status.peers[1].errors, 10);
    assert!(status.urls[0].errors >= 10);
    assert_eq!((status.peers[0].url.as_deref(), status.urls[0].state), (None, UrlState::Unknown));
}

#[test]
fn over_http_an_incarnation_counts_once_a_hello_confirmed_it() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    assert!(bench.pass(2).contains(&Effect::Poll { url: URL_A.into() }));
    let effects = bench.polled(URL_A, A, 2);
    assert!(effects.contains(&Effect::Hello { peer: A, route: http(URL_A) }));
    let identified = Notice::UrlIdentified { url: URL_A.into(), node: A };
    assert!(notices(&effects).contains(&&identified));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::TellHeard { .. })), "not believed yet");
    let effects = bench.greeted(A, http(URL_A));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::TellHeard { node: A, .. })));
    let new = Notice::NewIncarnation { peer: A, incarnation: incarnation(A), replaced: None };
    assert!(notices(&effects).contains(&&new));
    assert_eq!(bench.coordinator.status(bench.now).health, failover::Health::HttpOnly);
    assert_eq!(bench.count(A), 0, "a probe of the path not in use is not compared");

    bench.pass(60);
    assert_eq!(bench.coordinator.path(&A), Path::Http);
    for count in 1..=2 {
        let effects = bench.polled(URL_A, A, 2);
        assert!(notices(&effects).into_iter().any(
            |notice| matches!(notice, Notice::Diverged { route: Route::Http { url }, count: c, .. } if url == URL_A && *c == count)
        ));
        bench.pass(10);
    }
    let effects = bench.polled(URL_A, A, 2);
    let [(A, Cause::Divergence, id)] = started(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(question(&mut bench, id).1, http(URL_A));
}

#[test]
fn a_refused_hello_means_that_http_does_not_work() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.polled(URL_A, A, 1);
    bench.greeted(A, http(URL_A));
    bench.polled(URL_A, A, 1);
    assert_eq!(bench.coordinator.status(bench.now).health, failover::Health::HttpOnly);
    bench.hear(Event::GreetFailed { peer: A, route: http(URL_A), reason: "refused: untrusted".into() });
    assert_eq!(bench.coordinator.status(bench.now).health, failover::Health::Isolated);
    bench.polled(URL_A, A, 1);
    assert_eq!(
        bench.coordinator.status(bench.now).health,
        failover::Health::Isolated,
        "a poll alone proves little"
    );
}

/// What is said of URLs: whether each failed or works.
fn said(effects: &[Effect]) -> Vec<(&str, bool)> {
    let say = |notice: &&'_ Notice| matches!(notice, Notice::UrlFailed { .. } | Notice::UrlWorks { .. });
    let said = notices(effects).into_iter().filter(say).filter_map(|notice| match notice {
        Notice::UrlFailed { url, .. } => Some((url.as_str(), false)),
        Notice::UrlWorks { url, .. } => Some((url.as_str(), true)),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_url_that_answers_polls_and_refuses_hellos_is_told_of_once() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    let refuse = |bench: &mut Bench| {
        let reason = "refused: untrusted".into();
        bench.hear(Event::GreetFailed { peer: A, route: http(URL_A), reason })
    };
    assert_eq!(said(&bench.polled(URL_A, A, 1)), [], "at the first contact nothing works again");
    assert_eq!(said(&refuse(&mut bench)), [(URL_A, false)]);
    for _ in 0..5 {
        bench.pass(10);
        assert_eq!(said(&bench.polled(URL_A, A, 1)), [], "a state that answers is only half of it");
        assert_eq!(said(&refuse(&mut bench)), [], "told already");
    }
    assert_eq!(said(&bench.polled(URL_A, A, 1)), []);
    assert_eq!(said(&bench.greeted(A, http(URL_A))), [(URL_A, true)]);
    assert_eq!(said(&bench.polled(URL_A, A, 1)), []);
    assert_eq!(said(&bench.greeted(A, http(URL_A))), []);
}

#[test]
fn a_url_that_never_answered_is_told_of_and_so_is_its_first_answer() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    let fail = |bench: &mut Bench| bench.hear(Event::PollFailed { url: URL_A.into(), reason: "no".into() });
    assert_eq!(said(&fail(&mut bench)), [(URL_A, false)]);
    assert_eq!(said(&fail(&mut bench)), []);
    assert_eq!(said(&bench.polled(URL_A, A, 1)), [], "not before a hello is answered");
    assert_eq!(said(&bench.greeted(A, http(URL_A))), [(URL_A, true)]);
    assert_eq!(said(&fail(&mut bench)), [(URL_A, false)]);
    assert_eq!(said(&bench.polled(URL_A, US, 1)), [], "ours is skipped, and said to be");
}

#[test]
fn what_a_stranger_repeats_is_an_error_of_its_url_alone() {
    let mut bench = Bench::new(&[A], &[URL_B, URL_A]);
    bench.polled(URL_A, A, 1);
    bench.greeted(A, http(URL_A));
    // The stranger at the other URL serves what A says there, and cannot sign an answer.
    let (repeated, wall) = (bench.next(A, 1), bench.wall());
    for url in [URL_A, URL_B] {
        bench.hear(Event::Polled { url: url.into(), announcement: repeated.clone(), wall });
    }
    let reason = "answer is not signed by the peer".to_owned();
    let effects = bench.hear(Event::GreetFailed { peer: A, route: http(URL_B), reason });
    assert_eq!(said(&effects), [(URL_B, false)]);
    // Then it serves what is of another cluster and signed by A, too.
    let mut foreign = announcement(A, 1, 5, 1, wall);
    foreign.announcement.cluster = "elsewhere".into();
    bench.hear(Event::Polled { url: URL_B.into(), announcement: foreign, wall });

    let status = bench.coordinator.status(bench.now);
    let peer = &status.peers[0];
    assert_eq!((peer.url.as_deref(), peer.errors, peer.last_error.as_str()), (Some(URL_A), 0, ""));
    let [stranger, good] = &status.urls[..] else { panic!("{status:?}") };
    assert_eq!((good.errors, good.last_error.as_str()), (0, ""));
    assert_eq!(stranger.errors, 2);
    assert!(stranger.last_error.starts_with("announcement refused: "), "{}", stranger.last_error);
    assert_eq!(status.health, failover::Health::HttpOnly, "A still answers where it is");
}

#[test]
fn a_peer_is_shown_with_the_errors_of_its_own_url() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.polled(URL_A, A, 1);
    bench.hear(Event::PollFailed { url: URL_A.into(), reason: "redirect".into() });
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.peers[0].errors, status.peers[0].last_error.as_str()), (1, "redirect"));
    bench.now = bench.now + Duration::from_secs(1);
    bench.hear(Event::GreetFailed { peer: A, route: Route::P2p, reason: "timeout".into() });
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.peers[0].errors, status.peers[0].last_error.as_str()), (2, "hello: timeout"));
    assert_eq!(status.urls[0].errors, 1);
}

#[test]
fn an_error_that_a_success_has_followed_is_counted_and_told_no_more() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    let told = |bench: &Bench| {
        let status = bench.coordinator.status(bench.now);
        (status.peers[0].errors, status.peers[0].last_error.clone(), status.urls[0].last_error.clone())
    };
    let none = String::new;
    bench.hear(Event::PollFailed { url: URL_A.into(), reason: "refused".into() });
    bench.polled(URL_A, A, 1);
    assert_eq!(
        told(&bench),
        (1, "refused".into(), "refused".into()),
        "a state that answers is only half of it"
    );
    bench.greeted(A, http(URL_A));
    assert_eq!(told(&bench), (1, none(), none()));

    // Over P2P, a hello that is answered shows it, and an announcement while the roots agree.
    bench.sensor(&[A]);
    let fail = |bench: &mut Bench| {
        bench.hear(Event::GreetFailed { peer: A, route: Route::P2p, reason: "timeout".into() })
    };
    fail(&mut bench);
    assert_eq!(told(&bench), (2, "hello: timeout".into(), none()));
    bench.greeted(A, Route::P2p);
    assert_eq!(told(&bench), (2, none(), none()));
    fail(&mut bench);
    bench.heartbeat(A, 1);
    assert_eq!(told(&bench), (3, none(), none()));
    bench.heartbeat(A, 2);
    assert_eq!(bench.count(A), 1);
    fail(&mut bench);
    bench.heartbeat(A, 2);
    assert_eq!(told(&bench).1, "hello: timeout", "while they differ it is of use");
}

#[test]
fn urls_lead_to_us_to_strangers_and_to_others_than_before() {
    let mut bench = Bench::new(&[A, B], &[URL_A, URL_B]);
    let effects = bench.polled(URL_A, US, 1);
    assert!(notices(&effects).contains(&&Notice::UrlIsOurs { url: URL_A.into() }));
    assert!(notices(&bench.polled(URL_A, US, 1)).is_empty(), "told once");
    let effects = bench.polled(URL_B, STRANGER, 1);
    let refused = |notice: &Notice| match notice {
        Notice::AnnouncementRefused { reason: Refused::Untrusted { node }, .. } => *node == STRANGER,
        _ => false,
    };
    assert!(notices(&effects).into_iter().any(refused));
    assert_eq!(bench.coordinator.status(bench.now).urls[1].errors, 1);
    bench.polled(URL_B, A, 1);
    let of = |bench: &Bench, peer: usize| bench.coordinator.status(bench.now).peers[peer].url.clone();
    assert_eq!((of(&bench, 0).as_deref(), of(&bench, 1)), (Some(URL_B), None));
    bench.polled(URL_B, B, 1);
    assert_eq!((of(&bench, 0), of(&bench, 1).as_deref()), (None, Some(URL_B)));
    bench.hear(Event::UrlsChanged { urls: vec![URL_A.into()] });
    assert_eq!(of(&bench, 1), None);
    bench.hear(Event::PollFailed { url: URL_B.into(), reason: "late".into() });
}

#[test]
fn polls_come_at_their_interval_and_never_twice_at_once() {
    let mut bench = Bench::new(&[A], &[URL_A, URL_B]);
    let polls = |effects: &[Effect], url: &str| {
        effects.iter().filter(|effect| **effect == Effect::Poll { url: url.into() }).count()
    };
    let effects = bench.pass(25);
    assert_eq!((polls(&effects, URL_A), polls(&effects, URL_B)), (1, 1), "no answer yet");
    assert!(polls(&bench.pass(10), URL_A) == 1, "the shell owes an answer, and is not waited for for ever");
    let (mut a, mut b) = (0, 0);
    bench.pass(100);
    bench.polled(URL_A, A, 1);
    bench.greeted(A, http(URL_A));
    for _ in 0..200 {
        let effects = bench.pass(1);
        if polls(&effects, URL_A) > 0 {
            a += 1;
            bench.polled(URL_A, A, 1);
        }
        if polls(&effects, URL_B) > 0 {
            b += 1;
            bench.hear(Event::PollFailed { url: URL_B.into(), reason: "no".into() });
        }
    }
    assert!((17..=23).contains(&a), "{a} polls of the path in use in 200 s");
    assert!((17..=23).contains(&b), "{b} polls of a URL that never said who it is in 200 s");
}

#[test]
fn one_pull_a_peer_and_no_more_than_allowed() {
    let mut bench = Bench::new(&[A, B, C], &[]);
    bench.sensor(&[A, B, C]);
    let effects = bench.hear(Event::Reconcile { token: 5, peer: None });
    let Some(Effect::ReconcileAccepted { token: 5, pulls }) =
        effects.iter().find(|effect| matches!(effect, Effect::ReconcileAccepted { .. })).cloned()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(pulls.iter().map(|pull| pull.0).collect::<Vec<_>>(), [A, B, C]);
    assert_eq!(started(&effects).len(), 2);
    let effects = bench.hear(Event::Reconcile { token: 6, peer: Some(A) });
    assert!(
        effects.contains(&Effect::ReconcileAccepted { token: 6, pulls: vec![pulls[0]] }),
        "it is running"
    );
    assert_eq!(started(&effects), []);
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.pulls_running, status.pulls_waiting), (2, 1));
    let (number, ..) = question(&mut bench, pulls[0].1);
    let effects = bench.pull_fails(pulls[0].1, number, Failure::Lost("reset".into()));
    assert_eq!(ended(&effects), [(A, Outcome::Lost)]);
    assert_eq!(started(&effects), [(C, Cause::Operator, pulls[2].1)]);
    let effects = bench.hear(Event::Reconcile { token: 7, peer: Some(STRANGER) });
    assert!(effects.contains(&Effect::ReconcileAccepted { token: 7, pulls: Vec::new() }));
}

#[test]
fn questions_wait_until_what_pulls_cost_is_paid_off() {
    let asked = |effects: &[Effect]| {
        let ask = |effect: &Effect| match effect {
            Effect::Exchange { pull, number, .. } => Some((*pull, *number)),
            _ => None,
        };
        effects.iter().filter_map(ask).collect::<Vec<_>>()
    };
    let mut bench = Bench::new(&[A, B], &[]);
    bench.coordinator.budget = NonZeroU64::new(1_000_000).map(Budget::new);
    bench.sensor(&[A, B]);
    let effects = bench.hear(Event::Reconcile { token: 1, peer: None });
    let [(A, _, first), (B, _, second)] = started(&effects)[..] else { panic!("{effects:?}") };
    let (number, ..) = question(&mut bench, first);
    // Three megabytes for a refusal of the challenge: it is asked again, three seconds later.
    let refused = Refusal { reason: Reason::Challenge, detail: String::new() };
    let response =
        Response { next_challenge: Vec::new(), time: WallTime(0), answer: Answer::Refused(refused) };
    let traffic = Traffic { bytes_in: 2_900_000, bytes_out: 100_000 };
    let reply = pull::Event::Reply { number, incarnation: incarnation(A), response, traffic };
    assert_eq!(asked(&bench.hear(Event::Pull { id: first, event: reply })), [], "nothing is paid off");
    let read = pull::Event::LocalNodes(vec![crate::tree::Node::empty_bucket()]);
    assert_eq!(asked(&bench.hear(Event::Pull { id: second, event: read })), [], "one budget for all");
    assert_eq!(asked(&bench.pass(2)), []);
    assert_eq!(asked(&bench.pass(1)), [(first, number + 1), (second, 1)]);
    assert_eq!(ended(&bench.pass(4)), [], "an answer may still come");
    let (number, reset) = (number + 1, Failure::Lost("reset".into()));
    assert_eq!(ended(&bench.pull_fails(first, number, reset)), [(A, Outcome::Lost)]);
}

#[test]
fn backoff_holds_what_diverges_and_not_the_operator() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    let effects = bench.differ(A);
    let (_, _, id) = started(&effects)[0];
    let (number, ..) = question(&mut bench, id);
    let answer = Answer::Refused(Refusal { reason: Reason::Busy, detail: "later".into() });
    let response = Response { next_challenge: Vec::new(), time: WallTime(0), answer };
    let traffic = Traffic::default();
    let reply = pull::Event::Reply { number, incarnation: incarnation(A), response, traffic };
    let effects = bench.hear(Event::Pull { id, event: reply });
    assert_eq!(ended(&effects), [(A, Outcome::Refused)]);
    assert!(effects.contains(&Effect::Remember));
    assert_eq!(bench.coordinator.memory(bench.now, bench.wall()).pauses.len(), 1);
    let backoff = bench.coordinator.status(bench.now).peers[0].backoff;
    assert!(backoff >= Duration::from_millis(1500));

    bench.now = bench.now + Duration::from_millis(1);
    assert_eq!(started(&bench.heartbeat(A, 2)), [], "it differs still, and waits");
    assert_eq!(bench.coordinator.deadline().map(|next| next.since(bench.now) <= backoff), Some(true));
    assert_eq!(started(&bench.pass(3)).len(), 1, "it starts when the pause is over");

    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    let stores = Stores { ours: OURS, theirs: Some(incarnation(A)) };
    bench.coordinator.backoff.ended(bench.now, A, Path::P2p, Outcome::Lied, false, stores);
    assert_eq!(started(&bench.hear(Event::Reconcile { token: 1, peer: Some(A) })).len(), 1);
}

#[test]
fn a_difference_that_has_to_wait_says_until_when() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    let stores = Stores { ours: OURS, theirs: None };
    for _ in 0..5 {
        bench.coordinator.backoff.ended(bench.now, A, Path::P2p, Outcome::NoProgress, false, stores);
    }
    let pause = bench.coordinator.backoff.until(bench.now, &A, Path::P2p).unwrap().since(bench.now);
    let effects = bench.differ(A);
    let told: Vec<Option<Duration>> = notices(&effects)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Diverged { pull_in, .. } => Some(*pull_in),
            _ => None,
        })
        .collect();
    assert_eq!(told, [None, None, Some(pause - Duration::from_secs(10))], "once a pull is due");
    assert_eq!(started(&effects), []);
}

#[test]
fn a_new_incarnation_of_either_side_does_not_wait_for_what_the_old_one_did() {
    let waits = |bench: &mut Bench| {
        let stores = Stores { ours: OURS, theirs: Some(incarnation(A)) };
        for _ in 0..8 {
            bench.coordinator.backoff.ended(bench.now, A, Path::P2p, Outcome::NoProgress, false, stores);
        }
        bench.sensor(&[A]);
        assert_eq!(started(&bench.differ(A)), [], "it has to wait");
    };
    let mut bench = Bench::new(&[A], &[]);
    waits(&mut bench);
    let (own, runs) = (Incarnation([101; 16]), runs(bench.epoch, 1));
    let effects = bench.hear(Event::Seals(OwnSeals {
        incarnation: own,
        damage_generation: 0,
        runs,
        recovering: false,
        damaged: 0,
    }));
    assert_eq!(started(&effects).len(), 1, "our store is another one");
    assert!(effects.contains(&Effect::Remember));

    let mut bench = Bench::new(&[A], &[]);
    waits(&mut bench);
    let mut effects = Vec::new();
    for count in 1..=3 {
        bench.seals(1);
        let (mut announcement, wall) = (bench.next(A, 2), bench.wall());
        announcement.announcement.incarnation = Incarnation([5; 16]);
        let heard = bench.hear(Event::Heard { from: A, announcement, wall });
        assert_eq!(bench.count(A).max(count), count, "it is counted anew");
        effects.extend(heard);
        effects.extend(bench.pass(5));
    }
    assert_eq!(started(&effects).len(), 1, "the peer's store is another one");
}

#[test]
fn an_incarnation_that_the_store_knows_to_be_replaced_is_believed_no_more() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    let effects = bench.differ(A);
    assert_eq!((started(&effects).len(), bench.count(A)), (1, 3), "a restart has forgotten");
    let (replaced, present) = (incarnation(A), Incarnation([5; 16]));
    let event = || Event::Replaced { peer: A, incarnation: replaced, present };
    let effects = bench.hear(event());
    assert_eq!(ended(&effects), [(A, Outcome::Stale)], "nothing more is taken from it");
    assert_eq!(bench.count(A), 0);
    assert_eq!(bench.hear(event()), [], "once");
    let effects = bench.differ(A);
    assert_eq!((started(&effects), bench.count(A)), (vec![], 0));
    let refused = |notice: &&Notice| {
        matches!(notice, Notice::AnnouncementRefused { reason: Refused::Replaced { .. }, .. })
    };
    assert_eq!(notices(&effects).into_iter().filter(refused).count(), 3);
}

#[test]
fn a_pull_without_any_way_is_recorded_as_lost() {
    let mut bench = Bench::new(&[A], &[]);
    let effects = bench.hear(Event::Reconcile { token: 1, peer: Some(A) });
    assert_eq!(ended(&effects), [(A, Outcome::Lost)]);
    assert_eq!(
        bench.coordinator.status(bench.now).peers[0].last_error,
        "pull: Lost: no way to reach the peer"
    );
}

#[test]
fn who_pulls_from_us_is_pulled_from_in_turn() {
    let asked = |bench: &mut Bench, byte, in_kind, ended| {
        let announcement = Some(bench.next(A, byte));
        let (pull, wall) = (Some(PullPart { id: 77, in_kind }), bench.wall());
        bench.hear(Event::Asked { peer: A, announcement, pull, ended, wall })
    };
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    assert_eq!(started(&asked(&mut bench, 2, false, false)), [], "its pull is running");
    let effects = asked(&mut bench, 2, false, true);
    let [(A, Cause::InKind, id)] = started(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(question(&mut bench, id).2.pull, Some(PullPart { id: id.0, in_kind: true }));

    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    assert_eq!(started(&asked(&mut bench, 2, true, true)), [], "an answer in kind is not answered");
    assert_eq!(started(&asked(&mut bench, 1, false, true)), [], "it has what we have");
    assert_eq!(started(&asked(&mut bench, 0, false, true)), [], "it has nothing");
    assert_eq!(started(&asked(&mut bench, 2, false, false)), []);
    let effects = bench.pass(31);
    assert_eq!(started(&effects).len(), 1, "its bye was lost");
}

#[test]
fn a_pull_goes_on_over_the_other_path() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.polled(URL_A, A, 1);
    bench.sensor(&[A]);
    let effects = bench.hear(Event::Reconcile { token: 1, peer: Some(A) });
    let (_, _, id) = started(&effects)[0];
    let (first, route, _) = question(&mut bench, id);
    assert_eq!(route, Route::P2p);
    let effects = bench.sensor(&[]);
    let again = effects.iter().find_map(|effect| match effect {
        Effect::Exchange { number, route, .. } => Some((*number, route.clone())),
        _ => None,
    });
    let (number, route) = again.expect("asked again");
    assert!(number > first && route == http(URL_A));
    assert_eq!(ended(&bench.pull_fails(id, first, Failure::Lost("closed".into()))), [], "a late failure");
    let effects = bench.pull_fails(id, number, Failure::TimedOut);
    assert_eq!(ended(&effects), [(A, Outcome::TimedOut)]);
}

#[test]
fn a_healed_pull_is_proved_remembered_and_completed_by_our_next_seal() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[3; 32]);
    let peer = NodeId(key.verifying_key().to_bytes());
    let tree = crate::tree::fixture::Tree::of(crate::tree::fixture::golden(3));
    let mut bench = Bench::new(&[peer], &[]);
    bench.sensor(&[peer]);
    let effects = bench.hear(Event::Reconcile { token: 1, peer: Some(peer) });
    let (_, _, id) = started(&effects)[0];
    let (number, _, request) = question(&mut bench, id);
    assert!(matches!(request.ask, Ask::Walk { .. }));
    let seal = crate::seal::Seal {
        cluster: "lattice".into(),
        node: peer,
        incarnation: incarnation(peer),
        epoch: Epoch(1_000),
        root: tree.root,
    };
    let signed = Signed::sign(crate::signed::Context::Seal, Bytes::from_static(b"seal"), &key);
    let position = crate::tree::Position::ROOT;
    let seal = crate::signed::SignedSeal { seal, signed };
    let node = tree.node(&position);
    let shape = crate::exchange::Shape::of(&node, None);
    let nodes = vec![crate::exchange::WalkNode { position, chain: None, shape }];
    let traffic = Traffic { bytes_in: 700, bytes_out: 300 };
    let reply = |number, answer| {
        let response = Response { next_challenge: Vec::new(), time: WallTime(0), answer };
        let event = pull::Event::Reply { number, incarnation: incarnation(peer), response, traffic };
        Event::Pull { id, event }
    };
    let effects = bench.hear(reply(number, Answer::Walk { seal: seal.clone(), nodes }));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::ReadLocalNodes { .. })));
    // We have it all.
    let effects = bench.hear(Event::Pull { id, event: pull::Event::LocalNodes(vec![node]) });
    let number = effects.iter().find_map(|effect| match effect {
        Effect::Exchange { number, .. } => Some(*number),
        _ => None,
    });
    let bucket =
        crate::exchange::PageBucket::Entries { known: 0b111, entries: Vec::new(), heads: Vec::new() };
    let pages = vec![crate::exchange::Page { position, bucket }];
    let chains = crate::tree::Chains::default();
    let effects = bench.hear(reply(number.unwrap(), Answer::Fetch { seal, pages, chains }));
    assert_eq!(ended(&effects), [(peer, Outcome::Healed)]);
    let bye = |effect: &Effect| matches!(effect, Effect::Exchange { request, last: true, .. } if request.ask == Ask::Bye);
    assert!(effects.iter().any(bye));

    let effects = bench.seals(5);
    let after = Effect::RootAfter { id, peer, path: Path::P2p, root: root(5) };
    assert!(effects.contains(&after));
    // The peer still shows the root that we have gone beyond.
    let newest = bench.epoch;
    let mut said = announcement(peer, 9, newest, 1, bench.wall());
    said.announcement.runs[0].root = tree.root;
    let wall = bench.wall();
    bench.hear(Event::Heard { from: peer, announcement: said, wall });
    assert_eq!(bench.count(peer), 0);
    let said = announcement(peer, 10, newest + 1, 7, wall);
    bench.seals(5);
    bench.hear(Event::Heard { from: peer, announcement: said, wall });
    assert_eq!(bench.count(peer), 1, "another root differs");
}

#[test]
fn a_removed_key_loses_everything_at_once() {
    let mut bench = Bench::new(&[A, B], &[]);
    bench.sensor(&[A, B]);
    bench.heartbeat(A, 2);
    bench.hear(Event::Reconcile { token: 1, peer: Some(A) });
    let effects = bench.hear(Event::TrustChanged { trusted: vec![B] });
    assert_eq!(ended(&effects), [(A, Outcome::Stale)]);
    assert!(effects.contains(&Effect::SetTrust { trusted: vec![B] }));
    let status = bench.coordinator.status(bench.now);
    assert_eq!(status.peers.iter().map(|peer| peer.node).collect::<Vec<_>>(), [B]);
    assert_eq!(bench.count(A), 0);
    let effects = bench.heartbeat(A, 2);
    assert!(notices(&effects).into_iter().any(|notice| matches!(notice, Notice::AnnouncementRefused { .. })));
}

#[test]
fn a_pinned_path_rules_until_it_is_let_go() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.polled(URL_A, A, 1);
    bench.sensor(&[A]);
    let effects = bench.hear(Event::SwitchMode(Mode::Http));
    assert!(notices(&effects).contains(&&Notice::PathChanged { peer: A, path: Path::Http }));
    assert!(notices(&effects).contains(&&Notice::FallbackActivated));
    assert_eq!(bench.count(A), 0);
    bench.heartbeat(A, 2);
    assert_eq!(bench.count(A), 0, "P2P is not in use");
    bench.hear(Event::SwitchMode(Mode::Auto));
    bench.pass(5);
    bench.heartbeat(A, 2);
    assert_eq!(bench.count(A), 1);
    assert_eq!(bench.coordinator.status(bench.now).peers[0].failover, State::Primary);
}

#[test]
fn clocks_are_named() {
    let mut bench = Bench::new(&[A, B, C], &[]);
    bench.sensor(&[A, B, C]);
    let beat = |bench: &mut Bench, node, ahead: u64| {
        let mut announcement = bench.next(node, 1);
        announcement.announcement.time = bench.wall() + Duration::from_secs(ahead);
        let wall = bench.wall();
        bench.hear(Event::Heard { from: node, announcement, wall })
    };
    beat(&mut bench, A, 0);
    beat(&mut bench, B, 0);
    let effects = beat(&mut bench, C, 60);
    assert!(notices(&effects).contains(&&Notice::PeerClock { peer: C, ahead_ms: Some(60_000) }));
    let effects = beat(&mut bench, A, 60);
    let wrong = Clock::Wrong { behind_ms: 60_000, peers: vec![A, C] };
    assert!(effects.contains(&Effect::JudgeClock(wrong)), "two of three agree against us");
    assert!(
        notices(&effects).contains(&&Notice::PeerClock { peer: C, ahead_ms: None }),
        "and are not blamed"
    );
    beat(&mut bench, B, 60);
    assert!(matches!(bench.coordinator.status(bench.now).clock, Clock::Wrong { .. }));
}

#[test]
fn a_wrong_clock_is_told_again_before_it_lapses_and_no_longer_than_peers_say_so() {
    let mut bench = Bench::new(&[A, B], &[]);
    bench.sensor(&[A, B]);
    let mut told = Vec::new();
    let mut note = |bench: &Bench, effects: &[Effect]| {
        let wrong = |effect: &&Effect| matches!(effect, Effect::JudgeClock(Clock::Wrong { .. }));
        told.extend(effects.iter().filter(wrong).map(|_| bench.now));
    };
    for _ in 0..30 {
        for node in [A, B] {
            let mut announcement = bench.next(node, 1);
            announcement.announcement.time = bench.wall() + Duration::from_secs(60);
            let wall = bench.wall();
            let effects = bench.hear(Event::Heard { from: node, announcement, wall });
            note(&bench, &effects);
        }
        let effects = bench.pass(5);
        note(&bench, &effects);
    }
    // They fall silent, and what they said grows old.
    let silent = bench.now;
    for _ in 0..60 {
        let effects = bench.pass(5);
        note(&bench, &effects);
    }
    assert!(told.windows(2).all(|two| two[1].since(two[0]) <= WRONG_HOLDS / 2), "{told:?}");
    assert!((6..20).contains(&told.len()), "{told:?}");
    assert!(told.last().is_some_and(|last| last.since(silent) <= Duration::from_secs(35)), "{told:?}");
    assert_eq!(bench.coordinator.status(bench.now).clock, Clock::Unknown);
}

#[test]
fn over_http_a_time_that_may_be_held_back_says_nothing() {
    let mut bench = Bench::new(&[A, B], &[URL_A, URL_B]);
    for (url, node) in [(URL_A, A), (URL_B, B)] {
        bench.polled(url, node, 1);
        bench.greeted(node, http(url));
    }
    let poll = |bench: &mut Bench, url: &str, node, behind: u64, ahead: u64| {
        let mut said = bench.next(node, 1);
        let time = bench.wall() - Duration::from_secs(behind) + Duration::from_secs(ahead);
        said.announcement.time = time;
        let wall = bench.wall();
        bench.hear(Event::Polled { url: url.into(), announcement: said, wall })
    };
    for (url, node) in [(URL_A, A), (URL_B, B)] {
        let effects = poll(&mut bench, url, node, 60, 0);
        assert!(
            effects.contains(&Effect::Hello { peer: node, route: http(url) }),
            "it is asked for the time"
        );
    }
    assert_eq!(bench.coordinator.status(bench.now).clock, Clock::Confirmed);

    let (time, wall) = (bench.wall() - Duration::from_secs(60), bench.wall());
    for (url, node) in [(URL_A, A), (URL_B, B)] {
        bench.hear(Event::Greeted {
            peer: node,
            route: http(url),
            incarnation: incarnation(node),
            own_incarnation: OURS,
            heard_sequence: 0,
            heard_epoch: Epoch(0),
            time,
            wall,
        });
    }
    let wrong = Clock::Wrong { behind_ms: -60_000, peers: vec![A, B] };
    assert_eq!(bench.coordinator.status(bench.now).clock, wrong, "an answer to our challenge is of now");
    for (url, node) in [(URL_A, A), (URL_B, B)] {
        poll(&mut bench, url, node, 0, 60);
    }
    let wrong = Clock::Wrong { behind_ms: 60_000, peers: vec![A, B] };
    assert_eq!(
        bench.coordinator.status(bench.now).clock,
        wrong,
        "nobody can send on what is yet to be signed"
    );
}

#[test]
fn seals_that_were_overtaken_are_no_rollback() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    bench.hear(Event::Sequence { incarnation: OURS, last: 50 });
    let read = |bench: &mut Bench, to| {
        bench.hear(Event::Seals(OwnSeals {
            incarnation: OURS,
            damage_generation: 0,
            runs: runs(to, 1),
            recovering: false,
            damaged: 0,
        }))
    };
    let hello = |bench: &mut Bench| {
        let (time, wall) = (bench.wall(), bench.wall());
        bench.hear(Event::Greeted {
            peer: A,
            route: Route::P2p,
            incarnation: incarnation(A),
            own_incarnation: OURS,
            heard_sequence: 50,
            heard_epoch: Epoch(2_000),
            time,
            wall,
        })
    };
    let reincarnate = Effect::Reincarnate { incarnation: OURS };
    read(&mut bench, 2_000);
    read(&mut bench, 1_999);
    assert!(!hello(&mut bench).contains(&reincarnate), "it was read before, and came later");
    bench.hear(Event::StoreGone { reason: "restart".into() });
    read(&mut bench, 1_999);
    assert!(hello(&mut bench).contains(&reincarnate), "a store that was away may be an older one");
}

#[test]
fn an_announcement_is_compared_once_and_never_while_our_store_is_away() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    // Of long ago: no epoch in common, which counts although it does not rise.
    bench.hear(Event::Seals(OwnSeals {
        incarnation: OURS,
        damage_generation: 0,
        runs: Runs::parse(vec![Run { from: Epoch(5_000), to: Epoch(6_000), root: root(1) }]).unwrap(),
        recovering: false,
        damaged: 0,
    }));
    let said = bench.next(A, 2);
    for _ in 0..4 {
        let wall = bench.wall();
        bench.hear(Event::Heard { from: A, announcement: said.clone(), wall });
        bench.pass(5);
    }
    assert_eq!(bench.count(A), 1, "a repetition is no news");
    bench.hear(Event::StoreGone { reason: "away".into() });
    for _ in 0..4 {
        let (said, wall) = (bench.next(A, 2), bench.wall());
        bench.hear(Event::Heard { from: A, announcement: said, wall });
        bench.pass(5);
    }
    assert_eq!(bench.count(A), 1, "an absence is no difference");
}

#[test]
fn a_url_that_only_repeats_what_a_peer_said_is_not_used() {
    let mut bench = Bench::new(&[A], &[URL_A, URL_B]);
    bench.polled(URL_A, A, 1);
    bench.hear(Event::GreetFailed { peer: A, route: http(URL_A), reason: "no exchange here".into() });
    bench.polled(URL_B, A, 1);
    bench.greeted(A, http(URL_B));
    bench.polled(URL_A, A, 1);
    let of = |bench: &Bench| bench.coordinator.status(bench.now).peers[0].url.clone();
    assert_eq!(of(&bench).as_deref(), Some(URL_B));
    bench.greeted(A, http(URL_A));
    assert_eq!(of(&bench).as_deref(), Some(URL_A), "the first of those that work");
}

#[test]
fn a_hello_that_never_comes_is_no_end() {
    let mut bench = Bench::new(&[A], &[URL_A]);
    bench.pass(2);
    bench.polled(URL_A, A, 1);
    bench.pass(40);
    let status = bench.coordinator.status(bench.now);
    assert!(status.urls[0].errors > 0);
    assert!(bench.polled(URL_A, A, 1).contains(&Effect::Hello { peer: A, route: http(URL_A) }));
}

/// Something that may happen; many of them make no sense at their time.
fn event() -> impl Strategy<Value = (u8, u8, u8)> {
    (0..21_u8, 0..4_u8, 0..4_u8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens: no panic, at most `pulls_max` pulls and one a peer, every pull that started ends or
    /// runs, and time never stands still.
    #[test]
    fn what_must_always_hold(seed: u64, happened in prop::collection::vec((event(), 0..12_u64), 0..150)) {
        let mut bench = Bench::new(&[A, B, C], &[URL_A, URL_B]);
        bench.coordinator = Coordinator::new(
            Config { seed, ..config(&[A, B, C], &[URL_A, URL_B]) }, bench.now, bench.wall(), &Memory::default(),
        );
        let mut running: BTreeMap<NodeId, pull::Id> = BTreeMap::new();
        for ((kind, who, what), seconds) in happened {
            let mut effects = bench.pass(seconds);
            let node = [A, B, C, STRANGER][usize::from(who)];
            let url = [URL_A, URL_B][usize::from(who % 2)];
            let id = running.values().nth(usize::from(who)).copied().unwrap_or(pull::Id(1));
            let number = u64::from(what);
            effects.extend(match kind {
                0 => bench.seals(what),
                1 => bench.hear(Event::StoreGone { reason: "gone".into() }),
                2 => bench.sensor(&[A, B, C][..usize::from(who)]),
                3 => bench.hear(Event::SensorGone { reason: "gone".into() }),
                4 | 5 => bench.heartbeat(node, what),
                6 | 7 => bench.polled(url, node, what),
                8 => bench.hear(Event::PollFailed { url: url.into(), reason: "failed".into() }),
                9 => bench.greeted(node, if what > 1 { http(url) } else { Route::P2p }),
                10 => bench.hear(Event::GreetFailed { peer: node, route: http(url), reason: "no".into() }),
                11 => {
                    let (announcement, wall) = (Some(bench.next(node, what)), bench.wall());
                    let pull = Some(PullPart { id: 9, in_kind: who == 0 });
                    bench.hear(Event::Asked { peer: node, announcement, pull, ended: what > 1, wall })
                }
                12 => bench.hear(Event::Pull { id, event: pull::Event::LocalNodes(vec![crate::tree::Node::empty_bucket()]) }),
                13 => bench.pull_fails(id, number, Failure::TimedOut),
                14 => bench.hear(Event::Reconcile { token: 1, peer: (what > 1).then_some(node) }),
                15 => bench.hear(Event::SwitchMode([Mode::Auto, Mode::P2p, Mode::Http][usize::from(what % 3)])),
                16 => {
                    (bench.recovering, bench.damaged) = (who > 1, bench.damaged + u64::from(what / 2));
                    bench.seals(what)
                }
                17 => bench.hear(Event::DamageUnknown),
                18 => {
                    let key_hash = crate::model::KeyHash(Digest([what; 32]));
                    bench.hear(Event::Damaged { lost: vec![pull::Lost { key_hash, head: None }], more: None })
                }
                19 => bench.hear(Event::TrustChanged { trusted: [A, B, C][..usize::from(who)].to_vec() }),
                _ => bench.hear(Event::UrlsChanged { urls: [URL_A.to_owned(), URL_B.to_owned()][..usize::from(what % 3)].to_vec() }),
            });
            for effect in effects {
                match effect {
                    Effect::PullStarted { id, peer, .. } => prop_assert!(running.insert(peer, id).is_none()),
                    Effect::PullEnded { ended, route: Some(_), .. } => {
                        prop_assert_eq!(running.remove(&ended.peer), Some(ended.id));
                    }
                    _ => {}
                }
                prop_assert!(running.len() <= 2);
            }
            let status = bench.coordinator.status(bench.now);
            prop_assert_eq!(status.pulls_running, running.len());
        }
    }

    /// The same events, times and seed make the same effects.
    #[test]
    fn it_is_deterministic(seed: u64) {
        let run = || {
            let mut bench = Bench::new(&[A, B], &[URL_A, URL_B]);
            bench.coordinator = Coordinator::new(
                Config { seed, ..config(&[A, B], &[URL_A, URL_B]) }, bench.now, bench.wall(), &Memory::default(),
            );
            let mut effects = bench.sensor(&[A]);
            effects.extend(bench.differ(A));
            effects.extend(bench.pass(200));
            effects
        };
        prop_assert_eq!(run(), run());
    }
}
