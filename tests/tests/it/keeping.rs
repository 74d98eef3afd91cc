//! What leaves a node to be kept or shown elsewhere, on the command line and over REST: changes, proofs, backups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use lattice_tests::cluster::{Cluster, P2p, Process, binary_path};
use lattice_tests::wait::eventually;
use reqwest::Method;
use serde_json::Value;

async fn lattice(args: &[&str]) -> Output {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || {
        Command::new(binary_path("lattice")).args(args).stdin(Stdio::null()).output().expect("the binary")
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[tokio::test]
async fn a_proof_is_true_for_its_signer_only_and_as_it_was_given() {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let member = &cluster.members[0];
    let url = member.client.url.as_str();
    member.client.put("greeting", "hello").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();

    let sealed = eventually("a proof that covers the write", async || {
        let proof = lattice(&["--url", url, "proof", "greeting"]).await;
        let document: Value = serde_json::from_slice(&proof.stdout).ok()?;
        (document["included"] == true && document["unsealed"].is_null()).then_some(proof.stdout)
    })
    .await;
    fs::write(file("present"), &sealed).unwrap();
    let rest = member.client.send(Method::GET, "/v1/proof/greeting").await.unwrap();
    fs::write(file("rest"), rest.bytes().await.unwrap()).unwrap();
    let absent = lattice(&["--url", url, "proof", "nothing"]).await;
    assert_eq!(absent.status.code(), Some(0));
    fs::write(file("absent"), &absent.stdout).unwrap();

    let key = member.public_key.as_str();
    let mut piped = Command::new(binary_path("lattice"));
    piped.args(["verify-proof", "-", "--key", key]).stdin(fs::File::open(file("present")).unwrap());
    let piped = tokio::task::spawn_blocking(move || piped.output().expect("the binary")).await.unwrap();
    assert_eq!(piped.status.code(), Some(0), "{}", text(&piped.stderr));
    for name in ["present", "rest", "absent"] {
        let verified = lattice(&["verify-proof", &file(name), "--key", key, "--cluster", "test"]).await;
        assert_eq!(verified.status.code(), Some(0), "{name}: {}", text(&verified.stderr));
        assert!(text(&verified.stdout).starts_with("true: "), "{}", text(&verified.stdout));
    }
    let epoch = serde_json::from_str::<Value>(&text(&sealed)).unwrap()["epoch"].to_string();
    for (args, why) in [
        (&["--of", "greeting", "--epoch", &epoch][..], ""),
        (&["--of", "nothing"], "proof is of key greeting, not nothing"),
        (&["--epoch", "7"], "not 7"),
        (&["--cluster", "other"], "not \"other\""),
    ] {
        let path = file("present");
        let verified = lattice(&[&["verify-proof", &path, "--key", key], args].concat()).await;
        let complaint = text(&verified.stderr);
        assert_eq!(verified.status.code(), Some(i32::from(!why.is_empty())), "{args:?}: {complaint}");
        assert!(complaint.contains(why), "{args:?}: {complaint}");
    }
    let verified = lattice(&["verify-proof", &file("present"), "--key", &"07".repeat(32)]).await;
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stdout));
    // Whatever is changed in it, in the proof or in what is there to read.
    let good = text(&sealed);
    let mut other: Value = serde_json::from_str(&good).unwrap();
    other["seal"]["entries"] = 7.into();
    for (name, changed) in [
        ("value", good.replace("aGVsbG8=", "aGVsbGA=")),
        ("key", good.replace("\"greeting\"", "\"greetings\"")),
        ("counts", other.to_string()),
        ("proof", good.replacen("\"proof\":\"C", "\"proof\":\"D", 1)),
        ("nothing", "{}".to_owned()),
    ] {
        assert_ne!(changed, good, "{name}");
        fs::write(file(name), changed).unwrap();
        let verified = lattice(&["verify-proof", &file(name), "--key", key]).await;
        assert_eq!(verified.status.code(), Some(1), "{name}: {}", text(&verified.stdout));
    }
    assert_eq!(lattice(&["verify-proof", &file("present"), "--key", "ab"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_backup_of_one_cluster_is_restored_in_another_and_a_broken_one_is_not() {
    let (from, to) = (Cluster::new(&[P2p::Disabled]), Cluster::new(&[P2p::Disabled]));
    let (_from_nodes, _to_nodes) = (from.start().await, to.start().await);
    let (source, target) = (&from.members[0].client, &to.members[0].client);
    for number in 0..50 {
        source.put(&format!("key/{number}"), &"x".repeat(number * 500)).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup").display().to_string();
    let saved = lattice(&["--url", &source.url, "--output", "json", "backup", &file]).await;
    assert_eq!(saved.status.code(), Some(0), "{}", text(&saved.stderr));
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert_eq!((&saved["entries"], &saved["cluster"]), (&50.into(), &"test".into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the file is left");
    let over_rest = source.send(Method::GET, "/v1/backup").await.unwrap().bytes().await.unwrap();
    assert_eq!(over_rest.len() as u64, fs::metadata(&file).unwrap().len());

    let broken = folder.path().join("broken").display().to_string();
    let bytes = fs::read(&file).unwrap();
    fs::write(&broken, &bytes[..bytes.len() - 10]).unwrap();
    let refused = lattice(&["--url", &target.url, "restore", &broken]).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("the file ends early"), "{}", text(&refused.stderr));
    assert_eq!(
        lattice(&["--url", &target.url, "get", "key/1"]).await.status.code(),
        Some(1),
        "nothing was sent"
    );

    for expected in ["50 entries: 50 restored", "50 entries: 0 restored"] {
        let restored = lattice(&["--url", &target.url, "restore", &file]).await;
        assert_eq!(restored.status.code(), Some(0), "{}", text(&restored.stderr));
        assert!(text(&restored.stdout).starts_with(expected), "{}", text(&restored.stdout));
    }
    let read = lattice(&["--url", &target.url, "get", "key/3"]).await;
    assert_eq!(text(&read.stdout).len(), 1_500);
}

#[tokio::test]
async fn a_backup_goes_where_it_is_told_to_and_takes_the_place_of_nothing_but_files() {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let client = &cluster.members[0].client;
    for number in 0..5 {
        client.put(&format!("key/{number}"), "value").await.unwrap();
    }
    let url = client.url.as_str();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let over_rest = client.send(Method::GET, "/v1/backup").await.unwrap().bytes().await.unwrap();

    let streamed = lattice(&["--url", url, "--output", "json", "backup", "-"]).await;
    assert_eq!(streamed.status.code(), Some(0), "{}", text(&streamed.stderr));
    assert_eq!(streamed.stdout.len(), over_rest.len(), "nothing but the backup");
    assert!(text(&streamed.stderr).starts_with("5 entries in "), "{}", text(&streamed.stderr));

    fs::write(path("there"), "before").unwrap();
    std::os::unix::fs::symlink("there", path("link")).unwrap();
    let saved = lattice(&["--url", url, "backup", &path("link")]).await;
    assert_eq!(saved.status.code(), Some(0), "{}", text(&saved.stderr));
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(path("there")).unwrap().len(), over_rest.len());

    fs::write(path("new.part"), "notes").unwrap();
    let saved = lattice(&["--url", url, "backup", &path("new")]).await;
    assert_eq!(saved.status.code(), Some(0), "{}", text(&saved.stderr));
    assert_eq!(fs::read(path("new.part")).unwrap(), b"notes", "a backup touches no other file");
    assert_eq!(
        fs::metadata(path("new")).unwrap().permissions().mode() & 0o777,
        0o600,
        "it holds every value"
    );
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["link", "new", "new.part", "there"], "no draft is left");

    let full = lattice(&["--url", url, "backup", "/dev/full"]).await;
    assert_eq!(full.status.code(), Some(3), "{}", text(&full.stderr));
    assert!(text(&full.stderr).contains("/dev/full: No space left on device"), "{}", text(&full.stderr));
    assert!(!fs::metadata("/dev/full").unwrap().is_file());
    let nowhere = lattice(&["--url", url, "backup", &path("no/where")]).await;
    assert!(text(&nowhere.stderr).contains("no: there is no such folder"), "{}", text(&nowhere.stderr));
    assert!(!folder.path().join("no").exists());

    let file = path("there");
    let restore_from = async |bytes: usize| {
        let (url, file) = (url.to_owned(), file.clone());
        let run = move || {
            let piped =
                Command::new("head").args(["-c", &bytes.to_string(), &file]).stdout(Stdio::piped()).spawn();
            let mut piped = piped.expect("head");
            let mut restore = Command::new(binary_path("lattice"));
            restore.args(["--url", &url, "restore", "-"]).stdin(piped.stdout.take().expect("its output"));
            let restored = restore.output().expect("the binary");
            piped.wait().expect("it ends");
            restored
        };
        tokio::task::spawn_blocking(run).await.expect("no panic")
    };
    let restored = restore_from(over_rest.len()).await;
    assert_eq!(restored.status.code(), Some(0), "{}", text(&restored.stderr));
    assert!(text(&restored.stdout).starts_with("5 entries: 0 restored"), "{}", text(&restored.stdout));
    let refused = restore_from(over_rest.len() - 1).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("standard input: "), "{}", text(&refused.stderr));

    for command in ["backup", "restore"] {
        let gone = lattice(&["--url", "http://127.0.0.1:1", command, &file]).await;
        assert_eq!(gone.status.code(), Some(3));
        assert!(text(&gone.stderr).contains("http://127.0.0.1:1: "), "{command}: {}", text(&gone.stderr));
    }
    assert_eq!(fs::read(&file).unwrap().len(), over_rest.len(), "a backup that fails leaves what was there");
}

#[tokio::test]
async fn changes_are_followed_on_the_command_line_and_over_rest() {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let client = &cluster.members[0].client;
    let folder = tempfile::tempdir().unwrap();
    let args = ["--url", &client.url, "--output", "json", "watch", "gre"];
    let watching = Process::start("lattice", &args, folder.path());
    // It follows from when it has begun: until then, writes go by.
    let line = eventually("a change", async || {
        client.put("other", "x").await.ok()?;
        client.put("greeting", "hello").await.ok()?;
        watching.output().lines().find(|line| line.starts_with('{')).map(ToOwned::to_owned)
    })
    .await;
    let change: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&change["op"], &change["key"], &change["value"]),
        (&"put".into(), &"greeting".into(), &"aGVsbG8=".into())
    );
    let since = change["id"].as_str().unwrap();
    client.send(Method::DELETE, "/v1/kv/greeting").await.unwrap();
    let path = format!("/v1/watch?prefix=greeting&since={since}");
    let mut events = client.send(Method::GET, &path).await.unwrap();
    let mut received = String::new();
    while !received.contains("\"op\":\"delete\"") {
        let piece = events.chunk().await.unwrap().expect("the stream goes on");
        received.push_str(&String::from_utf8_lossy(&piece));
    }
    let gone = client.send(Method::GET, "/v1/watch?since=00000000000000000000000000000000-1").await.unwrap();
    assert_eq!(gone.status().as_u16(), 410);
}

#[tokio::test]
async fn of_many_who_create_or_change_one_key_over_rest_one_does() {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let url = format!("{}/v1/kv/one", cluster.members[0].client.url);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut header = ("if-none-match", "*".to_owned());
    for _ in 0..5 {
        let mut writes = tokio::task::JoinSet::new();
        for number in 0..20 {
            let put = client.put(&url).header(header.0, &header.1).body(format!("{number}"));
            writes.spawn(async move {
                let answer = put.send().await.unwrap();
                let etag = answer.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
                (answer.status().as_u16(), etag)
            });
        }
        let answers = writes.join_all().await;
        let won: Vec<_> = answers.iter().filter(|(status, _)| *status == 200).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let lost = answers.iter().filter(|(status, _)| *status == 412).collect::<Vec<_>>();
        assert_eq!(lost.len(), 19, "{answers:?}");
        // Each of them is told what is there instead: what the one made.
        assert!(lost.iter().all(|(_, etag)| *etag == won[0].1), "{answers:?}");
        header = ("if-match", won[0].1.clone().unwrap());
    }
    let read = client.get(&url).header("if-none-match", &header.1).send().await.unwrap();
    assert_eq!(read.status().as_u16(), 304);
    let later = header.1.trim_matches('"').replacen('0', "f", 1);
    let read = client.get(&url).header("lattice-min-version", later).send().await.unwrap();
    assert_eq!((read.status().as_u16(), read.headers().contains_key("retry-after")), (503, true));
}
