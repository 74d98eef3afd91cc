//! The earlier system's scenarios on the secondary path: one node whose P2P is blocked heals, and is healed,
//! over HTTP.

use lattice_tests::client::common_root;
use lattice_tests::cluster::{Cluster, P2p, Process, current_epoch};
use lattice_tests::wait::eventually;

const ONE_BLOCKED: [P2p; 3] = [P2p::Connected, P2p::Connected, P2p::Blocked];

#[tokio::test]
async fn a_node_without_p2p_falls_back_heals_both_ways_and_returns() {
    let cluster = Cluster::new(&ONE_BLOCKED);
    let mut nodes = cluster.start().await;
    let [first, second, blocked] = &cluster.members[..] else { panic!("three nodes") };
    first.wait_live(1).await;
    second.wait_live(1).await;
    blocked.wait_live(0).await;

    first.client.put("mainland", "many").await.unwrap();
    blocked.client.put("island", "one").await.unwrap();
    blocked.wait_mode("HTTP").await;
    assert_eq!(first.client.sync_mode().await.as_deref(), Some("P2P"), "the others still see each other");

    for member in &cluster.members {
        member.wait_value("mainland", "many").await;
        member.wait_value("island", "one").await;
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;

    let heals = eventually("heals on record", async || {
        let mut heals = blocked.client.heals().await?;
        for member in [first, second] {
            heals.extend(member.client.heals().await?.into_iter());
        }
        heals.retain(|heal| heal["outcome"] == "Healed" && heal["path"] == "HTTP");
        (heals.iter().any(|heal| heal["entries_merged"].as_u64() > Some(0))).then_some(heals)
    })
    .await;
    assert!(heals.iter().all(|heal| heal["rounds"].as_u64() > Some(0)), "{heals:?}");
    log_tells_the_story(&nodes[2]).await;

    // Let it back in: the same node, restarted with its peers' addresses.
    nodes[2].terminate().await;
    for index in 0..3 {
        cluster.configure(index, &[P2p::Connected; 3]);
    }
    nodes[2] = blocked.start();
    blocked.wait_ready().await;
    for member in &cluster.members {
        member.wait_live(2).await;
        member.wait_mode("P2P").await;
    }
}

#[tokio::test]
async fn nodes_with_p2p_disabled_sync_over_http_alone() {
    let cluster = Cluster::new(&[P2p::Disabled; 2]);
    let _nodes = cluster.start().await;
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    first.client.put("a", "1").await.unwrap();
    second.client.put("b", "2").await.unwrap();
    for member in &cluster.members {
        member.wait_value("a", "1").await;
        member.wait_value("b", "2").await;
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
    let status = first.client.p2p_status().await.unwrap();
    assert_eq!(status["sync_mode"], "HTTP");
    assert_eq!(status["health"], "HTTP_ONLY");
}

/// What operators of the earlier system look for, in the order it happened; it is told once the new root is sealed.
async fn log_tells_the_story(node: &Process) {
    let mut awaited = None;
    eventually("the story in the log", async || {
        let log = node.output();
        let Some(expected) = missing(&log) else { return Some(()) };
        if awaited.replace(expected) != Some(expected) {
            eprintln!("{expected:?} is not in the log yet, or not in order:\n{log}");
        }
        None
    })
    .await;
}

/// The first line of the story that a log lacks.
fn missing(log: &str) -> Option<&'static str> {
    let mut rest = log;
    for expected in [
        "[P2P_SENSOR] Peer count: 0",
        "[HTTP_SYNC] [LUNG] Activating HTTP fallback",
        "[HTTP_SYNC] [DIVERGENCE] Detected from http://127.0.0.1:",
        "(count: 3)",
        "[HTTP_SYNC] [SURGEON] Triggering state reconciliation with http://127.0.0.1:",
        "[HTTP_SYNC] [RECONCILIATION] State synchronized:",
        "[HTTP_SYNC] [RECONCILIATION] New Merkle Root:",
    ] {
        match rest.find(expected) {
            Some(at) => rest = &rest[at..],
            // The other side of a pair may have counted to three first; then this side answered in kind.
            None if expected.contains("count") || expected.contains("DIVERGENCE") => {}
            None => return Some(expected),
        }
    }
    None
}
