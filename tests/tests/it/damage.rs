//! Disks that forget: a damaged entry is mended, and a damaged database filled again, by peers alone.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lattice_tests::client::common_root;
use lattice_tests::cluster::{Cluster, Member, P2p, binary_path, current_epoch};
use lattice_tests::wait::eventually;
use reqwest::Method;
use state_store::storage::Batch;
use state_store::{SledStorage, Storage as _};

const TWO: [P2p; 2] = [P2p::Connected, P2p::Connected];

/// Found nowhere else in a node's files.
const MARKER: &str = "a value that is damaged at rest";

fn store_of(member: &Member) -> PathBuf {
    member.folder.join("data/store")
}

/// Flips a bit of each record that holds the marker, below sled's own checksums, as memory or a controller does.
fn damage_records(member: &Member) -> usize {
    let storage = SledStorage::open(&store_of(member), 16 << 20).expect("a stopped node's database");
    let mut batch = Batch::default();
    let mut count = 0;
    let visited = storage.range(&[0], &[0xff], &mut |at, record| {
        let marked = record.windows(MARKER.len()).position(|part| part == MARKER.as_bytes());
        if let Some(found) = marked {
            let mut record = record.to_vec();
            record[found] ^= 1;
            batch.put(at.to_vec(), record);
            count += 1;
        }
        Ok(ControlFlow::Continue(()))
    });
    visited.expect("it reads");
    storage.commit(&batch).expect("it is written");
    count
}

/// Flips a bit of each copy of the marker in a file.
fn damage_file(file: &Path) -> usize {
    let mut bytes = fs::read(file).expect("the file");
    let found: Vec<usize> = bytes
        .windows(MARKER.len())
        .enumerate()
        .filter(|(_, part)| *part == MARKER.as_bytes())
        .map(|(at, _)| at)
        .collect();
    found.iter().for_each(|at| bytes[*at] ^= 1);
    fs::write(file, bytes).expect("it is written");
    found.len()
}

async fn status_of(member: &Member, key: &str) -> Option<u16> {
    let answer = member.client.send(Method::GET, &format!("/v1/kv/{key}")).await.ok()?;
    Some(answer.status().as_u16())
}

/// The type of the problem document that reading a key answers.
async fn problem_of(member: &Member, key: &str) -> Option<String> {
    let answer = member.client.send(Method::GET, &format!("/v1/kv/{key}")).await.ok()?;
    let problem: serde_json::Value = answer.json().await.ok()?;
    Some(problem["type"].as_str()?.to_owned())
}

async fn recovering(member: &Member) -> Option<bool> {
    member.client.json("/api/lattice/state").await?["recovering"].as_bool()
}

/// Writes on the first node, and waits until both have sealed all of it.
async fn filled(cluster: &Cluster) {
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    first.client.put("marked", MARKER).await.expect("it is acknowledged");
    for number in 0..60 {
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        first.client.put(&key, &value).await.expect("it is acknowledged");
    }
    second.wait_value("marked", MARKER).await;
    second.wait_value("key-59", "value-59").await;
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
}

#[tokio::test]
async fn an_entry_damaged_at_rest_is_refused_and_then_mended_by_a_peer() {
    let cluster = Cluster::new(&TWO);
    let mut nodes = cluster.start().await;
    filled(&cluster).await;
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    for node in &mut nodes {
        node.terminate().await;
    }
    assert!(damage_records(second) > 0, "the entry is in the database");

    let alone = second.start();
    second.wait_ready().await;
    assert_eq!(status_of(second, "marked").await, Some(503), "never as an absence, nor as another value");
    assert_eq!(problem_of(second, "marked").await.as_deref(), Some("/problems/damaged"));
    second.wait_value("key-7", "value-7").await;

    nodes[0] = first.start();
    second.wait_value("marked", MARKER).await;
    eventually("a line on the repair", async || {
        alone.output().contains("[REPAIR] Repaired 1 of 1 damaged keys from").then_some(())
    })
    .await;
    let metrics = second.client.send(Method::GET, "/metrics").await.unwrap().text().await.unwrap();
    for line in ["lattice_coordinator_repairs_total{outcome=\"All\"} 1", "lattice_store_damaged_entries 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in:\n{metrics}");
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
}

#[tokio::test]
async fn a_database_that_does_not_open_is_salvaged_and_recovers_by_itself_once_a_peer_is_there() {
    let cluster = Cluster::new(&TWO);
    let mut nodes = cluster.start().await;
    filled(&cluster).await;
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    for node in &mut nodes {
        node.terminate().await;
    }
    let database = store_of(second).join("sled");
    fs::write(database.join("conf"), "nonsense").unwrap();
    assert!(damage_file(&database.join("db")) > 0, "the entry is in the file");

    let alone = second.start();
    second.wait_ready().await;
    assert_eq!(recovering(second).await, Some(true));
    second.wait_value("key-7", "value-7").await;
    assert_eq!(problem_of(second, "absent").await.as_deref(), Some("/problems/recovering"));
    assert_eq!(status_of(second, "marked").await, Some(503), "it may be there, for all it knows");
    eventually("the doctor says so", async || {
        let mut doctor = tokio::process::Command::new(binary_path("lattice"));
        let output = doctor.args(["--url", &second.client.url, "doctor"]).output().await.ok()?;
        let told = String::from_utf8_lossy(&output.stdout);
        let advice = told.contains("recovers") && told.contains("lattice check --accept-loss");
        (output.status.code() == Some(1) && advice).then_some(())
    })
    .await;

    nodes[0] = first.start();
    eventually("the end of recovery", async || (!recovering(second).await?).then_some(())).await;
    assert_eq!(status_of(second, "absent").await, Some(404), "an absence is told again");
    second.wait_value("marked", MARKER).await;
    for number in 0..60 {
        second.wait_value(&format!("key-{number}"), &format!("value-{number}")).await;
    }
    assert!(alone.output().contains("[RECOVERY] Recovered"), "{}", alone.output());
    assert_eq!(recovering(first).await, Some(false));
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
}
