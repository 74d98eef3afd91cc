//! `lattice doctor`: asks a node how it does, and says what is wrong and what to do about it.
//!
//! What is wrong is decided by [`diagnose`] from what the node says; docs/operations.md has the long answers.

use gateway::json;
use lattice_proto::coordinator::v1::{
    Heal, HealsRequest, Health, PeerState, StateRequest, StatusRequest, StatusResponse,
};

use super::client::Connection;
use super::output::{Failure, Output};

/// So many differences in a row are more than entries in flight (`coordinator.divergence_threshold`'s default).
const DIVERGED_FROM: u32 = 3;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The node does not do what it is for.
    Bad,
    /// It does, and something should be looked at.
    Warn,
    /// Worth knowing.
    Note,
}

/// One thing that was found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    what: String,
    /// What a person can do.
    advice: &'static str,
}

/// Asks, and tells. Exit status 1 when something is bad.
pub(crate) async fn run(node: Connection, out: Output) -> Result<(), Failure> {
    let mut coordinator = node.coordinator();
    let failed = |status: tonic::Status| node.failure(&status);
    let status = coordinator.status(node.request(StatusRequest {})).await.map_err(failed)?.into_inner();
    let heals =
        coordinator.heals(node.request(HealsRequest { limit: 1 })).await.map_err(failed)?.into_inner();
    let state = coordinator.state(node.request(StateRequest {})).await;
    let unsealed = state.err().map(|status| status.message().to_owned());
    let findings = diagnose(&status, unsealed.as_deref(), heals.heals.first());
    tell(out, &status.name, &findings)?;
    match findings.iter().any(|finding| finding.level == Level::Bad) {
        true => Err(Failure::untrue(format!("{} is not well", status.name)).told()),
        false => Ok(()),
    }
}

fn tell(out: Output, name: &str, findings: &[Finding]) -> Result<(), Failure> {
    if out.is_json() {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| serde_json::json!({ "level": text(finding.level), "what": finding.what, "advice": finding.advice }))
            .collect();
        return out.json(&serde_json::json!({ "node": name, "findings": findings }));
    }
    if findings.is_empty() {
        return out.line(&format!("{name} is well"));
    }
    findings.iter().try_for_each(|Finding { level, what, advice }| {
        out.line(&format!("{:<4}  {what}", text(*level)))?;
        out.line(&format!("      {advice}"))
    })
}

fn text(level: Level) -> &'static str {
    match level {
        Level::Bad => "bad",
        Level::Warn => "warn",
        Level::Note => "note",
    }
}

/// What is wrong with a node that says `status`, has no seal because of `unsealed`, and reconciled last as in `heal`;
/// the worst first.
fn diagnose(status: &StatusResponse, unsealed: Option<&str>, heal: Option<&Heal>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |level, what: String, advice| findings.push(Finding { level, what, advice });
    if !status.store_error.is_empty() {
        let advice = "see whether state-store runs, and its log for what stopped it; as long as it is away nothing is read, \
                      written or healed here";
        find(Level::Bad, format!("the store does not answer: {}", status.store_error), advice);
    }
    for missing in &status.missing {
        let said = match missing.service.as_str() {
            "state-store" => !status.store_error.is_empty(),
            "p2p-sensor" => !status.sensor.as_ref().is_some_and(|sensor| sensor.available),
            _ => false,
        };
        if !said {
            let advice = match missing.service.as_str() {
                "state-store" => "see \"When it does not write\" in docs/operations.md, and the store's log",
                _ => "see whether that service runs, and its log",
            };
            find(Level::Bad, format!("{}: {}", missing.service, missing.reason), advice);
        }
    }
    store(status, &mut find);
    if let Some(why) = unsealed.filter(|_| status.store_error.is_empty()) {
        let advice = "wait a few seconds after a start; else see the store's log for why it does not seal";
        find(Level::Bad, format!("there is no seal to show: {why}"), advice);
    }
    if !status.clock_error.is_empty() {
        let advice = "set the clock of this host (chrony, systemd-timesyncd); the node goes on by itself";
        find(Level::Bad, format!("the clock: {}", status.clock_error), advice);
    }
    paths(status, &mut find);
    peers(status, &mut find);
    if let Some(heal) = heal.filter(|heal| heal.outcome != "Healed") {
        let what =
            format!("the last reconciliation, with {}, ended {}: {}", heal.peer, heal.outcome, heal.detail);
        find(Level::Warn, what, "it is tried again by itself; lattice heals has the ones before");
    }
    if let Some(path) = json::pinned(status.mode()) {
        let what = format!("the path is pinned to {path}");
        find(Level::Note, what, "lattice switch auto leaves the choice to the node");
    }
    findings.sort_by_key(|finding| match finding.level {
        Level::Bad => 0,
        Level::Warn => 1,
        Level::Note => 2,
    });
    findings
}

/// What the store lacks. It serves the rest meanwhile, and says that it is ready.
fn store(status: &StatusResponse, find: &mut impl FnMut(Level, String, &'static str)) {
    let live = status.peers.iter().any(|peer| peer.state() == PeerState::Live);
    let reached = !status.peers.is_empty() && status.health() != Health::Isolated;
    if status.recovering {
        let what = "the store lost entries and recovers: it tells no absence, and gives no lists".to_owned();
        let advice = match live || reached {
            true => {
                "it ends by itself, when each live peer was pulled from: see lattice peers and lattice heals for what holds \
                 it up"
            }
            false => {
                "no peer is there to fill it: bring one back, or stop the node and accept the loss with lattice check \
                 --accept-loss (see \"When the disk damages what it holds\" in docs/operations.md)"
            }
        };
        find(Level::Bad, what, advice);
    }
    if status.damaged > 0 {
        let keys = if status.damaged == 1 { "key is" } else { "keys are" };
        let advice = "live peers mend them, and so do newer writes; what no peer has: stop the node, and see lattice check \
                      and lattice check --accept-loss";
        find(Level::Bad, format!("{} {keys} damaged, and not served", status.damaged), advice);
    }
}

fn paths(status: &StatusResponse, find: &mut impl FnMut(Level, String, &'static str)) {
    let sensor = status.sensor.clone().unwrap_or_default();
    match (sensor.available, sensor.enabled, sensor.started) {
        (false, _, _) => {
            let what = format!("the sensor does not answer: {}", sensor.error);
            find(Level::Bad, what, "start p2p-sensor, or see its log; until then the node has HTTP alone");
        }
        (true, false, _) => {
            find(Level::Note, "P2P is disabled".to_owned(), "sensor.enabled = true turns it on");
        }
        (true, true, false) => {
            let what = format!("P2P does not run: {}", sensor.error);
            find(Level::Bad, what, "see the sensor's log, and sensor.p2p_listen");
        }
        (true, true, true) => {}
    }
    if status.peers.is_empty() {
        let what = "it has no peers: it reconciles with nobody".to_owned();
        find(
            Level::Warn,
            what,
            "lattice trust add, or node.trusted_keys, with the other members' public keys",
        );
        return;
    }
    match status.health() {
        Health::Isolated => {
            let advice = "see lattice peers for the errors; check addresses, ports, and that both sides trust each other";
            find(Level::Bad, "no peer is reached, over neither path".to_owned(), advice);
        }
        Health::HttpOnly if sensor.enabled => {
            let advice = "check sensor.bootstrap and the P2P port; writes are replicated over HTTP meanwhile";
            find(Level::Warn, "peers are reached over HTTP alone".to_owned(), advice);
        }
        Health::P2pOnly if !status.urls.is_empty() => {
            let advice = "check coordinator.http_peers: were P2P lost, there would be no second path";
            find(Level::Warn, "peers are reached over P2P alone".to_owned(), advice);
        }
        Health::HttpOnly | Health::P2pOnly | Health::Optimal | Health::Unspecified => {}
    }
}

fn peers(status: &StatusResponse, find: &mut impl FnMut(Level, String, &'static str)) {
    for peer in &status.peers {
        let key: String = hex::encode(&peer.node).chars().take(8).collect();
        let name = if peer.name.is_empty() { key } else { peer.name.clone() };
        // An error that a success has followed is told no more.
        let last = if peer.last_error.is_empty() { String::new() } else { format!(" ({})", peer.last_error) };
        match peer.state() {
            PeerState::Down => {
                find(
                    Level::Warn,
                    format!("peer {name} is down{last}"),
                    "see whether it runs, and from where it is reached",
                );
            }
            PeerState::Zombie => {
                let advice = "it is connected and says nothing: see its log, and whether it trusts this node";
                find(Level::Warn, format!("peer {name} is a zombie{last}"), advice);
            }
            PeerState::Live | PeerState::Unspecified => {}
        }
        if peer.divergence_count >= DIVERGED_FROM {
            let what = format!("the roots of {name} differed {} times in a row{last}", peer.divergence_count);
            find(Level::Warn, what, "see \"When roots stay different\" in docs/operations.md");
        }
    }
    // What has worked since has no last error.
    for failed in status.url_errors.iter().filter(|failed| !failed.last_error.is_empty()) {
        let times = if failed.errors == 1 { "once".to_owned() } else { format!("{} times", failed.errors) };
        let advice = match failed.url.starts_with("https:") {
            true => {
                "see whether coordinator.http_peers is right, that node runs, and its certificate is trusted \
                 (coordinator.http_ca)"
            }
            false => "see whether coordinator.http_peers is right, and that node runs and trusts this one",
        };
        find(Level::Warn, format!("{} failed {times}: {}", failed.url, failed.last_error), advice);
    }
}

#[cfg(test)]
mod tests {
    use lattice_proto::coordinator::v1::{Missing, Mode, Peer, Sensor, UrlError};

    use super::*;

    fn well() -> StatusResponse {
        StatusResponse {
            health: Health::Optimal.into(),
            mode: Mode::Auto.into(),
            sensor: Some(Sensor { available: true, enabled: true, started: true, ..Sensor::default() }),
            peers: vec![Peer { name: "node-2".into(), state: PeerState::Live.into(), ..Peer::default() }],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn nothing_is_found_with_a_node_that_is_well() {
        let healed = Heal { outcome: "Healed".into(), ..Heal::default() };
        assert_eq!(diagnose(&well(), None, None), []);
        assert_eq!(diagnose(&well(), None, Some(&healed)), []);
    }

    #[test]
    fn each_trouble_is_found_with_its_level() {
        type Break = fn(&mut StatusResponse);
        let cases: &[(Break, Level, &str)] = &[
            (
                |status| status.store_error = "is away".into(),
                Level::Bad,
                "the store does not answer: is away",
            ),
            (
                |status| {
                    status
                        .missing
                        .push(Missing { service: "state-store".into(), reason: "the disk is full".into() })
                },
                Level::Bad,
                "state-store: the disk is full",
            ),
            (|status| status.recovering = true, Level::Bad, "lost entries and recovers"),
            (|status| status.damaged = 1, Level::Bad, "1 key is damaged"),
            (|status| status.damaged = 7, Level::Bad, "7 keys are damaged"),
            (|status| status.clock_error = "12 s ahead".into(), Level::Bad, "the clock: 12 s ahead"),
            (|status| status.sensor = None, Level::Bad, "the sensor does not answer"),
            (|status| status.sensor.as_mut().unwrap().started = false, Level::Bad, "P2P does not run"),
            (|status| status.sensor.as_mut().unwrap().enabled = false, Level::Note, "P2P is disabled"),
            (|status| status.peers.clear(), Level::Warn, "no peers"),
            (|status| status.set_health(Health::Isolated), Level::Bad, "no peer is reached"),
            (|status| status.set_health(Health::HttpOnly), Level::Warn, "over HTTP alone"),
            (|status| status.peers[0].set_state(PeerState::Down), Level::Warn, "peer node-2 is down"),
            (|status| status.peers[0].set_state(PeerState::Zombie), Level::Warn, "node-2 is a zombie"),
            (|status| status.peers[0].divergence_count = 3, Level::Warn, "node-2 differed 3 times"),
            (
                |status| {
                    status.url_errors.push(UrlError {
                        url: "http://x".into(),
                        errors: 2,
                        last_error: "refused".into(),
                    })
                },
                Level::Warn,
                "http://x failed 2 times",
            ),
            (|status| status.set_mode(Mode::Http), Level::Note, "pinned to HTTP"),
        ];
        for (broken, level, what) in cases {
            let mut status = well();
            broken(&mut status);
            let findings = diagnose(&status, None, None);
            assert_eq!(findings.len(), 1, "{what}: {findings:?}");
            assert!(findings[0].level == *level && findings[0].what.contains(what), "{what}: {findings:?}");
        }
    }

    #[test]
    fn a_store_that_nobody_can_fill_is_told_how_it_ends() {
        let mut status = well();
        status.recovering = true;
        let advice = |status: &StatusResponse| {
            let findings = diagnose(status, None, None);
            findings.iter().find(|finding| finding.what.contains("recovers")).unwrap().advice
        };
        assert!(advice(&status).contains("by itself"));
        status.set_health(Health::Isolated);
        status.peers[0].set_state(PeerState::Down);
        assert!(advice(&status).contains("--accept-loss"));
        status.peers.clear();
        status.set_health(Health::Optimal);
        assert!(advice(&status).contains("--accept-loss"));
    }

    #[test]
    fn what_has_worked_since_it_failed_is_no_finding() {
        let failed = |url: &str, last_error: &str| UrlError {
            url: url.into(),
            errors: 4,
            last_error: last_error.into(),
        };
        let mut status = well();
        status.peers[0].errors = 3;
        status.url_errors.push(failed("http://x", ""));
        assert_eq!(diagnose(&status, None, None), []);
        status.url_errors = vec![failed("http://x", "refused"), failed("https://y", "refused")];
        let findings = diagnose(&status, None, None);
        let of_certificates: Vec<bool> =
            findings.iter().map(|finding| finding.advice.contains("certificate")).collect();
        assert_eq!(of_certificates, [false, true], "{findings:?}");
    }

    #[test]
    fn the_worst_comes_first_and_one_cause_is_told_once() {
        let mut status = well();
        status.set_mode(Mode::Http);
        status.store_error = "is away".into();
        // The gateway says it, too.
        status.missing.push(Missing { service: "state-store".into(), reason: "is away".into() });
        let stale = Heal { outcome: "Stale".into(), peer: "node-2".into(), ..Heal::default() };
        let findings = diagnose(&status, Some("the store is away"), Some(&stale));
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Bad, Level::Warn, Level::Note], "{findings:?}");
        assert_eq!(diagnose(&well(), Some("nothing is sealed"), None)[0].level, Level::Bad);
    }
}
