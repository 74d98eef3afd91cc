//! A healthy cluster under load never looks diverged: the reason for sealed roots.

use std::time::{Duration, Instant};

use lattice_tests::client::{Client, common_root};
use lattice_tests::cluster::{Cluster, P2p, current_epoch};
use lattice_tests::wait::eventually;

const CLIENTS: usize = 10;
const LOAD_FOR: Duration = Duration::from_secs(12);

#[tokio::test]
async fn writes_on_all_nodes_raise_no_alarm_and_the_roots_agree() {
    let cluster = Cluster::new(&[P2p::Connected; 3]);
    let _nodes = cluster.start().await;
    for member in &cluster.members {
        member.wait_live(2).await;
    }
    // Before the load, the nodes' first seals may differ in what they had found of each other.
    let after = current_epoch();
    cluster.members[0].client.put("first", "write").await.unwrap();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
    let pulls_before = pulls(&cluster).await;

    let writers: Vec<_> = (0..CLIENTS)
        .map(|writer| {
            let client = cluster.members[writer % 3].client.clone();
            tokio::spawn(write_for(client, writer, LOAD_FOR))
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert!(written > CLIENTS, "the load was real: {written} writes");
    let after = current_epoch();
    eventually("equal roots after the load", async || common_root(&cluster.clients(), after).await).await;

    assert_eq!(pulls(&cluster).await, pulls_before, "no pull was started");
    for member in &cluster.members {
        let counted = member.client.metric_sum("lattice_coordinator_divergences_total").await;
        assert_eq!(counted, Some(0.0), "no divergence was counted on {}", member.name);
    }
}

/// Writes one value after the other to a few hot keys and to new ones; how many.
async fn write_for(client: Client, writer: usize, during: Duration) -> usize {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < during {
        let key = if count % 2 == 0 { format!("hot/{}", count % 5) } else { format!("own/{writer}/{count}") };
        client.put(&key, &format!("{writer}:{count}")).await.expect("a healthy node takes writes");
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    count
}

async fn pulls(cluster: &Cluster) -> usize {
    let mut pulls = 0;
    for member in &cluster.members {
        pulls += eventually("the heals", async || member.client.heals().await).await.len();
    }
    pulls
}
