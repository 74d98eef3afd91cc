//! The earlier system's scenarios on the primary path: real processes that meet over libp2p.

use lattice_tests::client::common_root;
use lattice_tests::cluster::{Cluster, P2p, current_epoch};
use lattice_tests::wait::eventually;

const CONNECTED: [P2p; 3] = [P2p::Connected; 3];

#[tokio::test]
async fn an_isolated_node_reads_0_and_tells_it_from_p2p_being_down() {
    let cluster = Cluster::new(&[P2p::Blocked, P2p::Disabled]);
    let _nodes = cluster.start().await;
    let [isolated, disabled] = &cluster.members[..] else { panic!("two nodes") };
    isolated.wait_live(0).await;
    let status = isolated.client.p2p_status().await.unwrap();
    assert_eq!(status["enabled"], true);
    assert_eq!(status["started"], true);
    assert_eq!(status["has_peers"], false);
    assert_eq!(status["peer_count"], 0);

    let status = eventually("a status", async || disabled.client.p2p_status().await).await;
    assert_eq!(status["enabled"], false);
    assert_eq!(status["started"], false);
    assert_eq!(status["sync_mode"], "HTTP", "HTTP is used at once when P2P is disabled");
}

#[tokio::test]
async fn peers_are_counted_as_they_come_freeze_and_go() {
    let cluster = Cluster::new(&CONNECTED);
    let mut nodes = cluster.start().await;
    let [first, second, third] = &cluster.members[..] else { panic!("three nodes") };
    for member in &cluster.members {
        member.wait_live(2).await;
    }
    let identity = third.client.json("/api/lattice/p2p/identity").await.unwrap();
    third.client.put("before", "the freeze").await.unwrap();

    nodes[2].signal("STOP");
    for member in [first, second] {
        member.wait_live(1).await;
        let frozen = member.client.peer(&third.public_key).await.unwrap();
        assert_eq!(frozen["state"], "zombie", "connected, but silent");
    }
    nodes[2].signal("CONT");
    for member in [first, second] {
        member.wait_live(2).await;
    }

    nodes[2].kill();
    for member in [first, second] {
        member.wait_live(1).await;
    }
    nodes[2] = third.start();
    third.wait_ready().await;
    for member in &cluster.members {
        member.wait_live(2).await;
    }
    assert_eq!(third.client.json("/api/lattice/p2p/identity").await.unwrap(), identity);
    third.wait_value("before", "the freeze").await;
    let metric = first.client.metric("lattice_sensor_peers{state=\"live\"}").await;
    assert_eq!(metric, Some(2.0), "the metric says what the API says");
}

#[tokio::test]
async fn a_write_reaches_every_node_and_the_roots_agree() {
    let cluster = Cluster::new(&CONNECTED);
    let _nodes = cluster.start().await;
    for member in &cluster.members {
        member.wait_live(2).await;
    }
    cluster.members[0].client.put("colour", "blue").await.unwrap();
    for member in &cluster.members {
        member.wait_value("colour", "blue").await;
    }
    assert!(cluster.members[1].client.delete("colour").await);
    for member in &cluster.members {
        eventually("the deletion", async || member.client.get("colour").await?.is_none().then_some(())).await;
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
}

#[tokio::test]
async fn divergence_over_p2p_is_counted_and_heals_by_itself_at_the_third() {
    // The second node was away while the first one was written to: no delta will ever bring it these entries.
    let cluster = Cluster::new(&[P2p::Connected; 2]);
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    let _first = first.start();
    first.wait_ready().await;
    for index in 0..40 {
        first.client.put(&format!("missed/{index}"), "while you were away").await.unwrap();
    }
    let _second = second.start();
    second.wait_ready().await;
    second.wait_live(1).await;

    for index in 0..40 {
        second.wait_value(&format!("missed/{index}"), "while you were away").await;
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
    let heal = eventually("the heal on record", async || {
        second.client.heals().await?.into_iter().find(|heal| heal["outcome"] == "Healed")
    })
    .await;
    assert_eq!(heal["path"], "P2P");
    assert_eq!(heal["entries_merged"], 40);
    assert!(heal["root_after"].as_str().is_some_and(|root| root.len() == 64), "{heal}");
    assert!(heal["trace_id"].as_str().is_some_and(|id| id.len() == 32), "{heal}");
    let counted = second.client.metric("lattice_coordinator_divergences_total{path=\"P2P\"}").await;
    assert!(counted >= Some(3.0), "three differences precede a pull: {counted:?}");
    let peer = eventually("a reset counter", async || {
        let peer = second.client.peer(&first.public_key).await?;
        (peer["divergence_count"] == 0).then_some(peer)
    })
    .await;
    assert_eq!(peer["path"], "P2P");
}
