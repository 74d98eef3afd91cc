//! What both paths promise, on lines that lose, delay and cut: real nodes in network namespaces, the same contracts over
//! P2P alone and over HTTP alone.
//!
//! `make network` runs them, as root. Each says how many packets its line has caught, so that a line without faults is
//! no success.

#![allow(clippy::unwrap_used, reason = "contracts are tests, with a path as argument")]

use std::time::Duration;

use futures::future::try_join_all;
use lattice_core::exchange::ANSWER_BYTES_MAX;
use lattice_core::failover::Path;
use lattice_tests::client::{Client, common_root};
use lattice_tests::cluster::current_epoch;
use lattice_tests::network::Network;
use lattice_tests::network::nodes::Nodes;
use lattice_tests::wait::eventually;

/// Timers short enough for a test, and long enough for a bad line. The epochs are those of [`current_epoch`].
const SETTINGS: &[&str] = &[
    "store.epoch_ms=500",
    "store.settle_ms=1000",
    "sensor.heartbeat_interval=500ms",
    "sensor.peer_timeout=4s",
    "coordinator.poll_interval=500ms",
    "coordinator.request_timeout=3s",
    "coordinator.backoff_max=4s",
];

macro_rules! on_both_paths {
    ($($contract:ident),+ $(,)?) => {
        mod p2p {
            on_both_paths!(P2p: $($contract),+);
        }
        mod http {
            on_both_paths!(Http: $($contract),+);
        }
    };
    ($path:ident: $($contract:ident),+) => {
        $(
            #[tokio::test]
            #[ignore = "takes root, iproute2 and iptables: make network"]
            async fn $contract() {
                super::$contract(lattice_core::failover::Path::$path).await;
            }
        )+
    };
}

on_both_paths!(
    a_newcomer_catches_up_while_three_of_ten_packets_are_lost,
    a_newcomer_catches_up_over_a_line_of_100_ms,
    all_converge_around_a_line_that_is_cut_one_way,
    a_pair_heals_after_its_line_was_cut_one_way,
    a_pull_that_is_cut_in_the_middle_goes_on,
);

async fn a_newcomer_catches_up_while_three_of_ten_packets_are_lost(path: Path) {
    newcomer_catches_up(path, |network| network.lose(30).unwrap()).await;
}

async fn a_newcomer_catches_up_over_a_line_of_100_ms(path: Path) {
    newcomer_catches_up(path, |network| network.delay(Duration::from_millis(100)).unwrap()).await;
}

/// The third node starts when the others were written to, so that no delta brings it anything, and on a bad line, so
/// that it has to find them on that.
async fn newcomer_catches_up(path: Path, spoil: impl FnOnce(&mut Network)) {
    let mut nodes = Nodes::new(path, 3, SETTINGS).unwrap();
    nodes.start(0..2).await;
    write(&nodes.clients[0], "before", 100, 1_000).await;
    spoil(&mut nodes.network);
    nodes.start([2]).await;
    write(&nodes.clients[2], "after", 1, 1_000).await;
    converged(&nodes, current_epoch()).await;
    has(&nodes.clients[2], "before", 100).await;
    has(&nodes.clients[0], "after", 1).await;

    let heal = eventually("the newcomer's heal on record", async || {
        let merged = |heal: &serde_json::Value| heal["entries_merged"].as_u64() > Some(0);
        nodes.clients[2].heals().await?.into_iter().find(merged)
    })
    .await;
    assert_eq!(heal["path"], path.name());
    caught(&nodes);
}

/// Two of three nodes cannot talk, since what one of them says does not arrive; first one, then the other.
async fn all_converge_around_a_line_that_is_cut_one_way(path: Path) {
    let mut nodes = Nodes::new(path, 3, SETTINGS).unwrap();
    nodes.start(0..3).await;
    meet(path, &nodes, &[0, 1, 2], 2).await;
    for (from, to) in [(0, 1), (1, 0)] {
        nodes.network.block(from, to, true).unwrap();
        // The third one is live all the time.
        meet(path, &nodes, &[to], 1).await;
        for index in [0, 1] {
            write(&nodes.clients[index], &format!("cut-{from}-{to}/by-{index}"), 5, 100).await;
        }
        converged(&nodes, current_epoch()).await;
        caught(&nodes);
        nodes.network.block(from, to, false).unwrap();
        meet(path, &nodes, &[0, 1, 2], 2).await;
    }
}

/// There is no way around, and each side is written to.
async fn a_pair_heals_after_its_line_was_cut_one_way(path: Path) {
    let mut nodes = Nodes::new(path, 2, SETTINGS).unwrap();
    nodes.start(0..2).await;
    meet(path, &nodes, &[0, 1], 1).await;
    for (from, to) in [(0, 1), (1, 0)] {
        nodes.network.block(from, to, true).unwrap();
        meet(path, &nodes, &[to], 0).await;
        for index in [0, 1] {
            write(&nodes.clients[index], &format!("cut-{from}-{to}/by-{index}"), 5, 100).await;
        }
        let written = current_epoch();
        apart(&nodes, written).await;
        caught(&nodes);
        nodes.network.block(from, to, false).unwrap();
        converged(&nodes, written).await;
    }
}

/// What was merged before the cut is neither merged nor fetched again, but for the answer that was on its way.
async fn a_pull_that_is_cut_in_the_middle_goes_on(path: Path) {
    const KEYS: usize = 160;
    const VALUE: usize = 64 << 10;
    let settings = [SETTINGS, &["coordinator.pull_bytes_per_s=2097152"]].concat();
    let mut nodes = Nodes::new(path, 2, &settings).unwrap();
    nodes.start([0]).await;
    write(&nodes.clients[0], "state", KEYS, VALUE).await;
    let written = current_epoch();
    // By then the deltas of these writes are gone, so that a pull has to bring all of it.
    sealed(&nodes.clients[0], written).await;
    nodes.start([1]).await;
    let second = nodes.clients[1].clone();
    eventually("a part of the state", async || (keys(&second, "state").await? > 0).then_some(())).await;
    nodes.network.cut(true).unwrap();
    let cut = eventually("the end of the pull that was cut", async || {
        let merged = |heal: &serde_json::Value| heal["entries_merged"].as_u64() > Some(0);
        second.heals().await?.into_iter().find(merged)
    })
    .await;
    assert_ne!(cut["outcome"], "Healed", "it was to be cut before its end");
    nodes.network.cut(false).unwrap();
    converged(&nodes, written).await;
    has(&second, "state", KEYS).await;

    let heals = eventually("the heal on record", async || {
        let heals = second.heals().await?;
        heals.iter().any(|heal| heal["outcome"] == "Healed").then_some(heals)
    })
    .await;
    let sum = |field: &str| heals.iter().filter_map(|heal| heal[field].as_u64()).sum::<u64>();
    assert_eq!(sum("entries_merged"), KEYS as u64, "{heals:?}");
    let (state, page) = ((KEYS * VALUE) as u64, ANSWER_BYTES_MAX as u64);
    assert!(sum("bytes_in") < state + page + state / 20, "{heals:?}");
    assert!(heals.iter().all(|heal| heal["path"] == path.name()), "{heals:?}");
}

/// Writes so many keys below `prefix`, several at a time.
async fn write(client: &Client, prefix: &str, keys: usize, bytes: usize) {
    let value = "v".repeat(bytes);
    for keys in (0..keys).collect::<Vec<_>>().chunks(16) {
        let put = |key: &usize| {
            let key = format!("{prefix}/{key}");
            let value = &value;
            async move { client.put(&key, value).await }
        };
        try_join_all(keys.iter().map(put)).await.unwrap();
    }
}

/// How many keys a node has below `prefix`.
async fn keys(client: &Client, prefix: &str) -> Option<usize> {
    let mut keys = 0;
    let mut page = client.json(&format!("/v1/kv?prefix={prefix}/")).await?;
    loop {
        keys += page["entries"].as_array()?.len();
        let Some(cursor) = page["next"].as_str() else { return Some(keys) };
        page = client.json(&format!("/v1/kv?prefix={prefix}/&cursor={cursor}")).await?;
    }
}

async fn has(client: &Client, prefix: &str, expected: usize) {
    assert_eq!(keys(client, prefix).await, Some(expected), "below {prefix} at {}", client.url);
}

/// Waits until these nodes see so many live peers, where the path tells.
async fn meet(path: Path, nodes: &Nodes, indexes: &[usize], peers: u64) {
    for &index in indexes.iter().filter(|_| path == Path::P2p) {
        let client = &nodes.clients[index];
        eventually(&format!("{peers} live peers on node {index}"), async || {
            (client.live_peers().await? == peers).then_some(())
        })
        .await;
    }
}

/// Waits until the nodes have one root that stands for what was written before an epoch ended.
async fn converged(nodes: &Nodes, written: u64) {
    let clients: Vec<&Client> = nodes.clients.iter().collect();
    eventually("one root everywhere", async || common_root(&clients, written).await).await;
}

/// Waits until a node has a root that stands for what was written before an epoch ended.
async fn sealed(client: &Client, written: u64) {
    eventually("the seal of what was written", async || common_root(&[client], written).await).await;
}

/// Waits until each node has a root of its own that stands for what was written before an epoch ended.
async fn apart(nodes: &Nodes, written: u64) {
    eventually("a root of its own on each node", async || {
        let (_, first) = common_root(&[&nodes.clients[0]], written).await?;
        let (_, second) = common_root(&[&nodes.clients[1]], written).await?;
        (first != second).then_some(())
    })
    .await;
}

fn caught(nodes: &Nodes) {
    assert!(nodes.network.packets_caught().unwrap() > 0, "nothing went wrong on this line");
}
