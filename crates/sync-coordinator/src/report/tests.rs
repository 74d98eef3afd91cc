use std::time::Duration;

use lattice_core::coordinator::{Clock, Route};
use lattice_core::hearing::Refused;
use lattice_core::model::{Digest, Epoch, Incarnation};
use lattice_core::pull::{Cause, Id, Outcome, Traffic};
use lattice_core::time::Monotonic;
use lattice_core::tree::Summary;

use super::line::bytes;
use super::*;

const PEER: NodeId = NodeId([0xab; 32]);

fn names() -> Names {
    Names::from([(PEER, "node-2".to_owned())])
}

fn http() -> Route {
    Route::Http { url: "http://node-2:8080".to_owned() }
}

/// As `text` prints it, without the time.
fn text(line: &Line) -> String {
    let tag = line.tag.map(|tag| format!(" [{tag}]")).unwrap_or_default();
    format!("[{}]{tag} {}", line.component, line.message)
}

fn noticed(notice: &Notice) -> String {
    text(&line_of(notice, &names()).unwrap())
}

fn diverged(route: Route, count: u32) -> Notice {
    Notice::Diverged { peer: PEER, route, count, epoch: Epoch(7), no_common_epoch: false, pull_in: None }
}

fn ended(outcome: Outcome, path: Path) -> Ended {
    Ended {
        id: Id(1),
        cause: Cause::Divergence,
        repaired: None,
        peer: PEER,
        incarnation: Some(Incarnation([1; 16])),
        outcome,
        detail: if outcome == Outcome::Healed { String::new() } else { "no answer within 5000 ms".into() },
        path,
        started: Monotonic::ZERO,
        ended: Monotonic(Duration::from_millis(80)),
        rounds: 2,
        traffic: Traffic { bytes_in: 1_126, bytes_out: 300 },
        entries_merged: 12,
        entries_ahead: 0,
        verified_new: true,
        dominated: None,
    }
}

fn repaired() -> Repaired {
    Repaired { sought: 4, repaired: 3, left: Vec::new() }
}

#[test]
fn lines_read_as_operators_know_them() {
    let root = Summary { digest: Digest([0xab; 32]), entries: 12, tombstones: 0 };
    let triggered = |route| Notice::PullTriggered { peer: PEER, route, cause: Cause::Divergence };
    for (line, expected) in [
        (noticed(&Notice::PeerCount { live: 5 }), "[P2P_SENSOR] Peer count: 5"),
        (noticed(&Notice::PeerCount { live: 0 }), "[P2P_SENSOR] Peer count: 0 (P2P down detected)"),
        (
            noticed(&Notice::SensorUnavailable { reason: "it does not answer".into() }),
            "[P2P_SENSOR] Unavailable: it does not answer",
        ),
        (noticed(&Notice::SensorAnswers), "[P2P_SENSOR] Available again"),
        (
            noticed(&Notice::StoreUnavailable { reason: "it does not answer".into() }),
            "[STATE_STORE] Unavailable: it does not answer",
        ),
        (noticed(&Notice::StoreAnswers), "[STATE_STORE] Available again"),
        (noticed(&Notice::Recovered), "[STATE_STORE] [RECOVERY] Recovered: what is absent is told again"),
        (
            text(&repaired_line(&ended(Outcome::Healed, Path::P2p), &repaired(), "node-2")),
            "[P2P_SYNC] [REPAIR] Repaired 3 of 4 damaged keys from node-2: 1.1 KiB, 2 rounds",
        ),
        (
            text(&repaired_line(&ended(Outcome::TimedOut, Path::Http), &repaired(), "http://node-2:8080")),
            "[HTTP_SYNC] [REPAIR] Repaired 3 of 4 damaged keys from http://node-2:8080: TimedOut (no answer \
             within 5000 ms)",
        ),
        (
            noticed(&Notice::UrlFailed { url: "http://b:1".into(), node: None, reason: "no answer".into() }),
            "[HTTP_SYNC] [PEER] http://b:1 does not work: no answer",
        ),
        (
            noticed(&Notice::UrlWorks { url: "http://b:1".into(), node: PEER }),
            "[HTTP_SYNC] [PEER] http://b:1 works again",
        ),
        (
            noticed(&Notice::TimerStarted { after: Duration::from_secs(60) }),
            "[P2P_HEARTBEAT] [TIMER] No live peers: HTTP fallback in 60s",
        ),
        (
            noticed(&Notice::TimerStarted { after: Duration::from_millis(1500) }),
            "[P2P_HEARTBEAT] [TIMER] No live peers: HTTP fallback in 1500ms",
        ),
        (noticed(&Notice::FallbackActivated), "[HTTP_SYNC] [LUNG] Activating HTTP fallback"),
        (noticed(&Notice::Returned), "[P2P_SYNC] [LUNG] Returning to P2P"),
        (
            noticed(&diverged(http(), 1)),
            "[HTTP_SYNC] [DIVERGENCE] Detected from http://node-2:8080 (count: 1)",
        ),
        (noticed(&diverged(Route::P2p, 3)), "[P2P_SYNC] [DIVERGENCE] Detected from node-2 (count: 3)"),
        (
            noticed(&triggered(http())),
            "[HTTP_SYNC] [SURGEON] Triggering state reconciliation with http://node-2:8080",
        ),
        (noticed(&triggered(Route::P2p)), "[P2P_SYNC] [SURGEON] Triggering state reconciliation with node-2"),
        (
            text(&ended_line(&ended(Outcome::Healed, Path::Http), "http://node-2:8080")),
            "[HTTP_SYNC] [RECONCILIATION] State synchronized: 12 entries in 1.1 KiB, 2 rounds",
        ),
        (
            text(&ended_line(&ended(Outcome::TimedOut, Path::P2p), "node-2")),
            "[P2P_SYNC] [RECONCILIATION] Not healed with node-2: TimedOut (no answer within 5000 ms)",
        ),
        (
            text(&root_line(PEER, Path::Http, Some(&root))),
            "[HTTP_SYNC] [RECONCILIATION] New Merkle Root: ababab...",
        ),
        (text(&root_line(PEER, Path::P2p, None)), "[P2P_SYNC] [RECONCILIATION] New Merkle Root: null"),
        (
            noticed(&Notice::NoTrust),
            "[HTTP_SYNC] [TRUST] No trusted keys: reconciling with nobody (node.trusted_keys)",
        ),
        (
            noticed(&Notice::OwnClock(Clock::Wrong { behind_ms: -15_000, peers: vec![PEER] })),
            "[COORDINATOR] [CLOCK] Our clock is 15000 ms ahead, say node-2",
        ),
    ] {
        assert_eq!(line, expected);
    }
}

#[test]
fn a_peer_without_a_name_is_called_by_its_key() {
    let nameless = Names::from([(PEER, String::new())]);
    for names in [Names::new(), nameless] {
        let line = line_of(&diverged(Route::P2p, 1), &names).unwrap();
        assert_eq!(line.message, "Detected from abababab (count: 1)");
    }
}

#[test]
fn sizes_are_for_people() {
    for (size, expected) in [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (3 << 20, "3.0 MiB")] {
        assert_eq!(bytes(size), expected);
    }
}

#[test]
fn a_refusal_that_goes_on_is_told_once() {
    let metrics = Metrics::register(&lattice_runtime::Metrics::new());
    let report = Report::new(lattice_runtime::Clock::system(), metrics);
    let mut reader = report.subscribe();
    let refused = |reason| Notice::AnnouncementRefused { node: PEER, route: Route::P2p, reason };
    let untrusted = refused(Refused::Untrusted { node: PEER });
    report.notice(&untrusted, &names());
    report.notice(&untrusted, &names());
    report.notice(&refused(Refused::EpochLength { theirs: 5, ours: 6 }), &names());
    report.notice(&untrusted, &names());
    let told: Vec<_> = std::iter::from_fn(|| reader.try_recv().ok()).map(|event| event.message).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_it_missed() {
    let metrics = Metrics::register(&lattice_runtime::Metrics::new());
    let report = Report::new(lattice_runtime::Clock::system(), metrics);
    let mut reader = report.subscribe();
    for live in 0..EVENTS_MAX + 3 {
        report.notice(&Notice::PeerCount { live }, &Names::new());
    }
    assert!(matches!(reader.recv().await, Err(broadcast::error::RecvError::Lagged(3))));
    let event = reader.recv().await.unwrap();
    assert_eq!((event.message.as_str(), event.kind.as_str()), ("Peer count: 3", "peer_count"));
}

#[test]
fn a_difference_that_waits_for_a_pause_says_how_long() {
    let Notice::Diverged { peer, route, epoch, .. } = diverged(http(), 4) else { panic!("it is one") };
    let pull_in = Some(Duration::from_millis(84_200));
    let notice = Notice::Diverged { peer, route, count: 4, epoch, no_common_epoch: false, pull_in };
    let expected = "[HTTP_SYNC] [DIVERGENCE] Detected from http://node-2:8080 (count: 4, next pull in 85s)";
    assert_eq!(noticed(&notice), expected);
}

#[test]
fn an_incarnation_that_is_given_up_is_an_alarm_that_says_why_and_when() {
    let (peer, incarnation) = (PEER, Incarnation([1; 16]));
    let disowned = |renewed_in| Notice::Disowned { peer, incarnation, renewed_in };
    let line = line_of(&disowned(Duration::ZERO), &names()).unwrap();
    assert!(line.alarm);
    assert_eq!(
        text(&line),
        "[COORDINATOR] [INCARNATION] node-2 knows a newer incarnation of this node: an older copy of the store was \
         put back, or another node uses this key; incarnation 01010101010101010101010101010101 is given up"
    );
    let later = noticed(&disowned(Duration::from_millis(299_500)));
    assert!(later.ends_with("is given up in 300s, as others were before it"), "{later}");
}
