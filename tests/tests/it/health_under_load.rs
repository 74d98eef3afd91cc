//! A healthy cluster under load never looks diverged: the reason for sealed roots.

use std::time::{Duration, Instant};

use lattice_core::model::VALUE_BYTES_MAX;
use lattice_tests::client::{Client, common_root};
use lattice_tests::cluster::{Cluster, Member, P2p, current_epoch};
use lattice_tests::wait::eventually;

/// How a test writes: in which rhythm, to which keys, how much.
#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    pause: Duration,
    during: Duration,
    /// The key and the value of a client's next write.
    next: fn(writer: usize, count: usize) -> (String, String),
}

#[tokio::test]
async fn writes_on_all_nodes_raise_no_alarm_and_the_roots_agree() {
    raises_no_alarm(Load {
        clients: 10,
        pause: Duration::from_millis(20),
        during: Duration::from_secs(12),
        next: |writer, count| {
            // A few hot keys, and new ones.
            let key =
                if count % 2 == 0 { format!("hot/{}", count % 5) } else { format!("own/{writer}/{count}") };
            (key, format!("{writer}:{count}"))
        },
    })
    .await;
}

#[tokio::test]
async fn values_of_up_to_a_megabyte_raise_no_alarm_either() {
    raises_no_alarm(Load {
        clients: 3,
        pause: Duration::from_millis(500),
        during: Duration::from_secs(12),
        next: |writer, count| {
            let sizes = [300_000, VALUE_BYTES_MAX, 700_000, 1_000, VALUE_BYTES_MAX - 1];
            (format!("large/{writer}/{count}"), "v".repeat(sizes[count % sizes.len()]))
        },
    })
    .await;
}

async fn raises_no_alarm(load: Load) {
    let cluster = Cluster::new(&[P2p::Connected; 3]);
    cluster.members.iter().for_each(settle_patiently);
    let _nodes = cluster.start().await;
    for member in &cluster.members {
        member.wait_live(2).await;
    }
    // Before the load, the nodes' first seals may differ in what they had found of each other.
    let after = current_epoch();
    cluster.members[0].client.put("first", "write").await.expect("a healthy node takes writes");
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
    let pulls_before = pulls(&cluster).await;

    let writers: Vec<_> = (0..load.clients)
        .map(|writer| tokio::spawn(write(cluster.members[writer % 3].client.clone(), writer, load)))
        .collect();
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("a writer ends in order");
    }
    assert!(written > load.clients, "the load was real: {written} writes");
    let after = current_epoch();
    eventually("equal roots after the load", async || common_root(&cluster.clients(), after).await).await;

    assert_eq!(pulls(&cluster).await, pulls_before, "no pull was started");
    for member in &cluster.members {
        let counted = member.client.metric_sum("lattice_coordinator_divergences_total").await;
        assert_eq!(counted, Some(0.0), "no divergence was counted on {}", member.name);
    }
}

/// What is promised holds while commit and delivery take less than `settle_ms`. A loaded machine stops three nodes
/// for seconds at times, which is not what these tests are about.
fn settle_patiently(member: &Member) {
    let text = std::fs::read_to_string(&member.config).expect("its configuration");
    let patient = text.replace("settle_ms = 1500", "settle_ms = 6000");
    assert_ne!(text, patient, "the configuration of the other tests has changed");
    std::fs::write(&member.config, patient).expect("its configuration");
}

/// Writes one value after the other; how many.
async fn write(client: Client, writer: usize, load: Load) -> usize {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < load.during {
        let (key, value) = (load.next)(writer, count);
        client.put(&key, &value).await.expect("a healthy node takes writes");
        count += 1;
        tokio::time::sleep(load.pause).await;
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
