//! The command line against a running node, and what bad input gets.

use std::process::{Command, Output, Stdio};

use lattice_tests::cluster::{Cluster, P2p, Process, binary_path};
use lattice_tests::wait::eventually;
use serde_json::Value;

fn lattice(args: &[&str]) -> Output {
    Command::new(binary_path("lattice")).args(args).stdin(Stdio::null()).output().expect("the binary")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[tokio::test]
async fn every_command_answers_people_and_programs() {
    let cluster = Cluster::new(&[P2p::Connected; 2]);
    let _nodes = cluster.start().await;
    cluster.members[0].wait_live(1).await;
    let url = cluster.members[0].client.url.clone();
    let ask = async |args: &[&str]| {
        let args: Vec<String> = ["--url", &url].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        tokio::task::spawn_blocking(move || lattice(&args.iter().map(String::as_str).collect::<Vec<_>>()))
            .await
            .unwrap()
    };
    assert_eq!(ask(&["put", "greeting", "hello"]).await.status.code(), Some(0));
    assert_eq!(text(&ask(&["get", "greeting"]).await.stdout), "hello");
    let missing = ask(&["get", "nothing"]).await;
    assert_eq!((missing.status.code(), text(&missing.stdout).as_str()), (Some(1), ""));
    let missing = ask(&["--output", "json", "get", "nothing"]).await;
    assert_eq!(missing.status.code(), Some(1));
    let problem: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!((&problem["type"], &problem["exit_status"]), (&"/problems/key-not-found".into(), &1.into()));
    let json = async |args: &[&str]| {
        let answer = ask(&[&["--output", "json"], args].concat()).await;
        serde_json::from_slice::<Value>(&answer.stdout).expect("one document")
    };
    assert_eq!(json(&["put", "greeting-2", "hello"]).await["key"], "greeting-2");
    let first = json(&["list", "greet", "--limit", "1"]).await;
    assert_eq!(first["entries"][0]["key"], "greeting");
    let next = first["next"].as_str().expect("there is one more");
    let rest = json(&["list", "greet", "--cursor", next]).await;
    assert_eq!((&rest["entries"][0]["key"], &rest["next"]), (&"greeting-2".into(), &Value::Null));
    // The same documents as over HTTP.
    let peers = cluster.members[0].client.json("/api/lattice/peers").await.expect("an answer");
    assert_eq!(json(&["peers"]).await["peers"][0]["public_key"], peers["peers"][0]["public_key"]);
    for (wrong, named) in [
        (&["frobnicate"][..], "'frobnicate'"),
        (&["get"], "<KEY>"),
        (&["put", "a", "b", "--ttl", "1d"], "'1d'"),
        (&["list", "--cursor", "?"], "--cursor"),
        (&[], "requires a subcommand"),
        (&["trust"], "a command is missing"),
    ] {
        let problem = json(wrong).await;
        assert!(problem["detail"].as_str().unwrap().contains(named), "{wrong:?}: {problem}");
        assert_eq!(
            (&problem["type"], &problem["exit_status"]),
            (&"/problems/usage".into(), &2.into()),
            "{wrong:?}"
        );
    }
    assert_eq!(ask(&["delete", "greeting"]).await.status.code(), Some(0));
    assert_eq!(ask(&["get", "greeting"]).await.status.code(), Some(1));

    for command in [&["status"][..], &["peers"], &["heals"], &["trust", "list"]] {
        let table = ask(command).await;
        assert_eq!(table.status.code(), Some(0), "{command:?}: {}", text(&table.stderr));
        let json = ask(&[&["--output", "json"], command].concat()).await;
        assert!(serde_json::from_slice::<Value>(&json.stdout).is_ok(), "{command:?}: {}", text(&json.stdout));
    }
    assert_eq!(ask(&["switch", "http"]).await.status.code(), Some(0));
    cluster.members[0].wait_mode("HTTP").await;
    assert_eq!(ask(&["switch", "auto"]).await.status.code(), Some(0));
    cluster.members[0].wait_mode("P2P").await;
    let reconcile = ask(&["reconcile", &cluster.members[1].public_key]).await;
    assert_eq!(reconcile.status.code(), Some(0), "{}", text(&reconcile.stderr));
    eventually("the pull on record", async || {
        (!cluster.members[0].client.heals().await?.is_empty()).then_some(())
    })
    .await;
    // Two nodes that see each other: what there is to say is no more than a warning.
    let doctor = eventually("a node that is well", async || {
        let doctor = ask(&["--output", "json", "doctor"]).await;
        (doctor.status.code() == Some(0)).then_some(doctor)
    })
    .await;
    let doctor: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(doctor["findings"].is_array(), "{doctor}");
    let top = ask(&["top"]).await;
    assert_eq!(top.status.code(), Some(2), "{}", text(&top.stdout));
    assert!(text(&top.stderr).contains("needs a terminal"), "{}", text(&top.stderr));
    let script = ask(&["completions", "bash"]).await;
    assert!(script.status.success() && text(&script.stdout).contains("verify-proof"));
    assert_eq!(ask(&["reconcile", "nobody"]).await.status.code(), Some(2));
    assert_eq!(ask(&["reconcile", &"00".repeat(32)]).await.status.code(), Some(1));
    assert_eq!(ask(&["frobnicate"]).await.status.code(), Some(2));
    let away = lattice(&["--url", "http://127.0.0.1:1", "--output", "json", "doctor"]);
    let problem: Value = serde_json::from_slice(&away.stdout).unwrap();
    assert_eq!((&problem["type"], &problem["exit_status"]), (&"/problems/unavailable".into(), &3.into()));
    assert!(text(&away.stderr).contains("whether a node runs there"), "{}", text(&away.stderr));
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure_but_half_a_backup_is() {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let url = cluster.members[0].client.url.clone();
    cluster.members[0].client.put("greeting", "hello").await.unwrap();
    for (args, status) in [(&["list"][..], 0), (&["--output", "json", "status"], 0), (&["backup", "-"], 3)] {
        let mut command = Command::new(binary_path("lattice"));
        command.args(["--url", &url]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn().expect("the binary");
            drop(child.stdout.take());
            child.wait_with_output().expect("it ends")
        };
        let ended = tokio::task::spawn_blocking(run).await.expect("no panic");
        assert_eq!(ended.status.code(), Some(status), "{args:?}: {}", text(&ended.stderr));
        assert_eq!(ended.stderr.is_empty(), status == 0, "{args:?}: {}", text(&ended.stderr));
    }
}

#[test]
fn variables_matter_to_the_commands_that_ask_a_node_and_empty_ones_to_nobody() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str], variables: &[(&str, &[u8])]| {
        let variables = variables.iter().map(|(name, value)| (name, OsStr::from_bytes(value)));
        let mut command = Command::new(binary_path("lattice"));
        command.args(args).envs(variables).stdin(Stdio::null()).current_dir(folder.path());
        command.output().expect("the binary")
    };
    let (garbage, empty) = (&b"\xff"[..], &b""[..]);
    for value in [garbage, empty] {
        let variables = [("LATTICE_URL", value), ("LATTICE_TOKEN", value), ("LATTICE_CA", value)];
        let made = run(&["keygen"], &variables);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    }
    for (args, variables, status, said) in [
        (&["get", "a"][..], &[("LATTICE_URL", garbage)][..], 2, "the variable LATTICE_URL"),
        (&["get", "a"], &[("LATTICE_TOKEN", garbage)], 2, "the variable LATTICE_TOKEN"),
        (
            &["--url", "http://127.0.0.1:1", "get", "a"],
            &[("LATTICE_CA", empty)],
            3,
            "whether a node runs there",
        ),
        (&["--url", "", "get", "a"], &[], 2, "is not a base URL"),
        (&["--url", "http://127.0.0.1:65536", "get", "a"], &[], 2, "is not a base URL"),
        (&["watch", "--since", ""], &[], 2, "--since"),
    ] {
        let refused = run(args, variables);
        assert_eq!(refused.status.code(), Some(status), "{args:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(said), "{args:?}: {}", text(&refused.stderr));
    }
}

#[tokio::test]
async fn whoever_follows_events_is_told_when_the_node_goes() {
    let cluster = Cluster::new(&[P2p::Connected]);
    for graceful in [true, false] {
        let mut node = cluster.members[0].start();
        cluster.members[0].wait_ready().await;
        let args = ["--url", &cluster.members[0].client.url, "events"];
        let folder = tempfile::tempdir().unwrap();
        let mut events = Process::start("lattice", &args, folder.path());
        eventually("it follows", async || events.output().contains("Following").then_some(())).await;
        if graceful {
            node.terminate().await;
        } else {
            node.kill();
        }
        assert_eq!(events.wait().await.code(), Some(3), "{}", events.output());
        let output = events.output();
        let last = output.lines().last().unwrap_or_default();
        assert!(last.starts_with("lattice: ") && last.contains(": the events ended: "), "{output}");
    }
}

#[tokio::test]
async fn a_url_may_have_a_path() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let _node = cluster.members[0].start();
    cluster.members[0].wait_ready().await;
    let url = &cluster.members[0].client.url;
    let ask = async |url: String| {
        tokio::task::spawn_blocking(move || lattice(&["--url", &url, "status"])).await.unwrap()
    };
    assert_eq!(ask(format!("{url}/")).await.status.code(), Some(0));
    // Nothing is served below it here: were it left out, the node would answer.
    assert_eq!(ask(format!("{url}/prefix")).await.status.code(), Some(3));
    assert_eq!(ask(format!("{url}/?a=b")).await.status.code(), Some(2));
}

#[tokio::test]
async fn the_store_of_a_stopped_node_is_compacted_and_that_of_a_running_one_is_not() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let member = &cluster.members[0];
    let config = member.config.display().to_string();
    let mut node = member.start();
    member.wait_ready().await;
    member.client.put("greeting", "hello").await.expect("it is acknowledged");
    let refused = lattice(&["compact", "--config", &config]);
    let error = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("in use by another process") && error.lines().count() == 1, "{error}");
    node.terminate().await;

    let done = lattice(&["--output", "json", "compact", "--config", &config]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(done["records"].as_u64() > Some(0) && done["after"]["bytes"].as_u64() > Some(0), "{done}");
    assert_eq!((&done["before"]["engine"], &done["configured"]), (&"sled".into(), &"sled".into()));
    let done = lattice(&["compact", "--config", &config]);
    let told = text(&done.stdout);
    assert!(told.starts_with("Copied ") && told.contains("before (sled)"), "{told}");
    assert_eq!(lattice(&["compact", "--config", &config, "--engine", "memory"]).status.code(), Some(2));
    let nothing = format!("node.data_dir={}", member.folder.join("nothing").display());
    assert_eq!(lattice(&["compact", "--config", &config, "--set", &nothing]).status.code(), Some(3));

    let _node = member.start();
    member.wait_value("greeting", "hello").await;
}

#[test]
fn a_garbage_list_of_trusted_keys_stops_every_service_that_reads_it_before_it_writes() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let member = &cluster.members[0];
    let config = member.config.display().to_string();
    let data = member.folder.join("data");
    let names = || {
        let files = std::fs::read_dir(&data).unwrap();
        files.map(|file| file.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("trust.json"), "garbage").unwrap();
    let before = names();
    for (binary, args) in [
        ("lattice", &["node", "--config", &config][..]),
        ("state-store", &["--config", &config]),
        ("p2p-sensor", &["--config", &config]),
        ("sync-coordinator", &["--config", &config]),
    ] {
        let output = Command::new(binary_path(binary)).args(args).output().expect("the binary");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{binary}: {error}");
        assert!(error.contains("trust.json") && error.contains("node.data_dir"), "{binary}: {error}");
        assert!(error.contains("mend it") && error.lines().count() == 1, "{binary}: {error}");
        assert_eq!(names(), before, "{binary} wrote something");
    }
}

#[test]
fn bad_configuration_gets_one_line_that_names_the_field() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let member = &cluster.members[0];
    let config = member.config.display().to_string();
    let bad_key = member.folder.join("bad.key").display().to_string();
    std::fs::write(&bad_key, "not hex").unwrap();
    for (set, named, code) in [
        ("node.colour=blue", "node.colour", 2),
        ("sensor.bootstap=x", "sensor.bootstrap", 2),
        ("sensor.bootstrap=127.0.0.1:9000", "sensor.bootstrap", 2),
        ("sensor.p2p_listen=nowhere", "sensor.p2p_listen", 2),
        ("node.trusted_keys=abc", "node.trusted_keys", 2),
        ("store.epoch_ms=0", "store.epoch_ms", 2),
        ("coordinator.poll_interval=10", "coordinator.poll_interval", 2),
        ("coordinator.http_peers=ftp://x", "coordinator.http_peers", 2),
        ("gateway.listen=0.0.0.0:8080", "gateway.token_file", 2),
        ("store.listen=0.0.0.0:7601", "store.listen", 2),
        (&format!("node.key_file={bad_key}"), "bad.key", 2),
        (&format!("node.key_file={}", member.folder.display()), "is a folder", 2),
    ] {
        let output = lattice(&["node", "--config", &config, "--set", set]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{set}: {error}");
        assert!(error.contains(named), "{set}: {error:?} names {named:?}");
        assert_eq!(error.lines().count(), 1, "{set}: one line: {error}");
        // What a file says of the key is found out later: the rest is refused before anything else is said or done.
        if !set.starts_with("node.key_file") {
            assert_eq!(text(&output.stdout), "", "{set}: nothing was begun");
            let printed = lattice(&["node", "--config", &config, "--set", set, "--print-config"]);
            assert_eq!((printed.status.code(), text(&printed.stderr)), (Some(code), error), "{set}");
        }
    }
    assert!(!member.folder.join("data/store").exists(), "nothing was written");
}

#[tokio::test]
async fn what_is_taken_or_of_another_cluster_is_refused() {
    let cluster = Cluster::new(&[P2p::Connected; 2]);
    let first = &cluster.members[0];
    let second = &cluster.members[1];
    let _node = first.start();
    first.wait_ready().await;
    let config = first.config.display().to_string();
    let gateway = format!("gateway.listen={}", second.client.url.trim_start_matches("http://"));
    let p2p = format!("sensor.p2p_listen={}", second.p2p_address);
    let own_gateway = format!("gateway.listen={}", first.client.url.trim_start_matches("http://"));
    let own_p2p = format!("sensor.p2p_listen={}", first.p2p_address);
    let other_config = second.config.display().to_string();
    for (args, named) in [
        (vec!["--config", &config, "--set", &gateway, "--set", &p2p], "in use"),
        (vec!["--config", &other_config, "--set", &own_gateway], "gateway.listen"),
        (vec!["--config", &other_config, "--set", &own_p2p], "sensor.p2p_listen"),
    ] {
        let output = lattice(&[&["node"], &args[..]].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {error}");
        assert!(error.contains(named) && error.lines().count() == 1, "{args:?}: {error:?}");
    }
    let set_cluster = "node.cluster=other";
    let other_cluster = ["--config", &config, "--set", &gateway, "--set", &p2p, "--set", set_cluster];
    let other_cluster = lattice(&[&["node"], &other_cluster[..]].concat());
    let error = text(&other_cluster.stderr);
    assert!(matches!(other_cluster.status.code(), Some(2 | 3)), "{error}");
    assert!(error.contains("test") && error.contains("other"), "both clusters are named: {error}");
}

#[test]
fn the_effective_configuration_loads_back() {
    let cluster = Cluster::new(&[P2p::Connected]);
    let config = cluster.members[0].config.display().to_string();
    let printed = lattice(&["node", "--config", &config, "--print-config"]);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    let again = cluster.members[0].folder.join("again.toml");
    std::fs::write(&again, &printed.stdout).unwrap();
    let reprinted = lattice(&["node", "--config", &again.display().to_string(), "--print-config"]);
    assert_eq!(text(&reprinted.stdout), text(&printed.stdout));
}

#[test]
fn keygen_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys/node.key").display().to_string();
    let first = lattice(&["keygen", "--file", &file]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout).len(), 64);
    let again = lattice(&["keygen", "--file", &file]);
    assert_eq!(text(&again.stdout), text(&first.stdout));
}
