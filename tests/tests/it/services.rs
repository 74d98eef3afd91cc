//! The four services as processes of their own behave like the one process, and survive each other.

use lattice_tests::client::common_root;
use lattice_tests::cluster::{Cluster, Member, P2p, Process, binary_path, current_epoch};
use lattice_tests::wait::eventually;

const BINARIES: [&str; 4] = ["state-store", "p2p-sensor", "sync-coordinator", "gateway"];
const COORDINATOR: usize = 2;
const GATEWAY: usize = 3;

fn start_all(member: &Member) -> Vec<Process> {
    BINARIES.iter().map(|binary| member.start_service(binary)).collect()
}

/// The exit status of a command, and what it says.
async fn command(member: &Member, args: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(binary_path("lattice"));
    let output = command.args(["--url", &member.client.url]).args(args).output().await.expect("the binary");
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&told).into_owned())
}

#[tokio::test]
async fn four_processes_make_a_node_and_each_may_be_killed() {
    let cluster = Cluster::new(&[P2p::Connected; 2]);
    let [split, whole] = &cluster.members[..] else { panic!("two nodes") };
    let mut services = start_all(split);
    let _whole = whole.start();
    for member in &cluster.members {
        member.wait_ready().await;
        member.wait_live(1).await;
    }
    split.client.put("from", "four processes").await.unwrap();
    whole.wait_value("from", "four processes").await;
    whole.client.put("to", "four processes").await.unwrap();
    split.wait_value("to", "four processes").await;

    for (index, binary) in BINARIES.iter().enumerate() {
        services[index].kill();
        if *binary != "gateway" {
            eventually(&format!("readyz without {binary}"), async || {
                let answer = split.client.send(reqwest::Method::GET, "/readyz").await.ok()?;
                (answer.status() == 503).then_some(())
            })
            .await;
            let told = format!("{binary} is missing: ");
            eventually("the gateway says so", async || {
                services[GATEWAY].output().contains(&told).then_some(())
            })
            .await;
        }
        if *binary == "state-store" {
            eventually("the coordinator says so", async || {
                services[COORDINATOR].output().contains("[STATE_STORE] Unavailable: ").then_some(())
            })
            .await;
            let (status, told) = command(split, &["get", "from"]).await;
            assert_eq!(status, Some(3));
            assert!(told.contains("the state-store does not answer: "), "{told}");
            let (status, told) = command(split, &["doctor"]).await;
            assert_eq!(status, Some(1));
            assert!(told.contains("bad   the store does not answer: "), "{told}");
        }
        services[index] = split.start_service(binary);
        split.wait_ready().await;
        if *binary == "state-store" {
            eventually("the coordinator says that it is back", async || {
                services[COORDINATOR].output().contains("[STATE_STORE] Available again").then_some(())
            })
            .await;
        }
        for member in &cluster.members {
            member.wait_live(1).await;
        }
        split.client.put(&format!("after/{binary}"), "restarted").await.unwrap();
        whole.wait_value(&format!("after/{binary}"), "restarted").await;
        whole.client.put(&format!("and/{binary}"), "back").await.unwrap();
        split.wait_value(&format!("and/{binary}"), "back").await;
    }
    let after = current_epoch();
    eventually("equal roots", async || common_root(&cluster.clients(), after).await).await;
}

#[tokio::test]
async fn healthcheck_tells_probes_whether_a_service_serves() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let member = &cluster.members[0];
    let check = |binary: &str| {
        std::process::Command::new(binary_path(binary))
            .args(["--config", &member.config.display().to_string(), "healthcheck"])
            .output()
            .expect("the binary")
    };
    for binary in BINARIES {
        assert!(!check(binary).status.success(), "{binary} is not there yet");
    }
    let _services = start_all(member);
    member.wait_ready().await;
    for binary in BINARIES {
        let output = check(binary);
        assert!(output.status.success(), "{binary}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
