//! The real binary on a real disk: killed, refused, and stopped in order.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lattice_runtime::config::Listen;
use lattice_runtime::grpc::Channel;
use tokio::sync::Mutex;

use crate::harness::{bytes, clients, folder, put, until};

/// A store process, killed when dropped.
struct Process {
    child: Child,
    channel: Channel,
}

fn binary(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_state-store"));
    let set = |key: &str, value: &Path| format!("{key}={}", value.display());
    let socket = format!("store.listen=unix:{}", socket(folder).display());
    command
        .current_dir(folder)
        .args(["--set", &set("node.data_dir", &folder.join("data"))])
        .args(["--set", &set("node.key_file", &folder.join("node.key"))])
        .args(["--set", &socket])
        .args([
            "--set",
            "store.epoch_ms=200",
            "--set",
            "store.settle_ms=50",
            "--set",
            "store.settle_max_ms=200",
        ]);
    for set in more {
        command.args(["--set", set]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("store.sock")
}

impl Process {
    async fn start(folder: &Path) -> Self {
        let child = binary(folder, &[]).spawn().unwrap();
        let channel = Channel::connect(&Listen::Unix(socket(folder)));
        let process = Self { child, channel };
        let (_, store) = clients(&process.channel);
        until("the store answers", async || {
            store.clone().seals(lattice_proto::store::v1::SealsRequest {}).await.ok()
        })
        .await;
        process
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end; its status and its one line on stderr.
fn run(folder: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut child = binary(folder, more).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
    }
    let status = child.wait().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    (status.code(), lines.remove(0))
}

/// What every file below a folder holds.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
        } else {
            let mut bytes = Vec::new();
            std::fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            contents.insert(path, bytes);
        }
    }
    contents
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_survives_a_kill() {
    let folder = folder();
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let mut incarnations = Vec::new();
    for round in 0..6u32 {
        let mut process = Process::start(folder.path()).await;
        let (kv, store) = clients(&process.channel);
        let seals =
            store.clone().seals(lattice_proto::store::v1::SealsRequest {}).await.unwrap().into_inner();
        incarnations.push(seals.incarnation);
        for (key, value) in acknowledged.lock().await.iter() {
            let key: &String = key;
            let request = lattice_proto::kv::v1::GetRequest { key: bytes(key), version_min: None };
            let entry = kv.clone().get(request).await.unwrap().into_inner().entry.unwrap();
            let at_least: &u64 = value;
            let lattice_proto::types::v1::entry::Content::Value(found) = entry.content.unwrap() else {
                panic!("not a value")
            };
            let found: u64 = std::str::from_utf8(&found).unwrap().trim_end_matches('x').parse().unwrap();
            assert!(found >= *at_least, "{key}: {found} is older than the acknowledged {at_least}");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8u64 {
            let (mut kv, stop, acknowledged) = (kv.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
            writers.spawn(async move {
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{writer}/{}", number % 17);
                    let value = u64::from(round) << 32 | number;
                    let filler = "x".repeat((number % 7) as usize * 1_000);
                    if kv.put(put(&key, &format!("{value}{filler}"))).await.is_err() {
                        return;
                    }
                    acknowledged.lock().await.insert(key, value);
                }
            });
        }
        let before = acknowledged.lock().await.len();
        let wanted = before.max(50) + usize::from(round % 2 == 0) * 20;
        until("some writes are acknowledged", async || {
            (acknowledged.lock().await.len() >= wanted.min(8 * 17)).then_some(())
        })
        .await;
        process.kill();
        stop.store(true, Ordering::Relaxed);
        writers.join_all().await;
    }
    incarnations.dedup();
    assert_eq!(incarnations.len(), 1, "a kill makes no new incarnation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_ours_is_refused_by_name_and_left_alone() {
    let folder = folder();
    let mut process = Process::start(folder.path()).await;
    let (status, line) = run(folder.path(), &["store.listen=127.0.0.1:0"]);
    assert_eq!(status, Some(3), "{line}");
    assert!(line.contains("in use by another process"), "{line}");
    process.kill();
    let before = contents(&folder.path().join("data"));
    for (set, expected) in
        [("node.cluster=other", "cluster"), ("store.epoch_ms=300", "store.epoch_ms: 300, but ")]
    {
        let (status, line) = run(folder.path(), &[set, "store.settle_max_ms=200"]);
        assert!(matches!(status, Some(2 | 3)), "{line}");
        assert!(line.contains(expected), "{line}");
    }
    let other = format!("node.key_file={}", folder.path().join("other.key").display());
    let (status, line) = run(folder.path(), &[&other]);
    assert_eq!(status, Some(3), "{line}");
    assert!(line.contains("node.key_file: is of node"), "{line}");
    let named = |change: &str| {
        let format = folder.path().join("data/store/FORMAT");
        let text = std::fs::read_to_string(&format).unwrap();
        std::fs::write(&format, text.replace("format 1", change)).unwrap();
        let (status, line) = run(folder.path(), &[]);
        std::fs::write(&format, text).unwrap();
        assert_eq!(status, Some(3), "{line}");
        line
    };
    assert!(named("format 2").ends_with("has format 2, this release reads 1"));
    let after = contents(&folder.path().join("data"));
    assert!(before == after, "a refusal changed a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_memory_writes_no_entries_to_the_disk() {
    let folder = folder();
    let mut config = crate::harness::config(folder.path(), None);
    config.store.engine = lattice_runtime::config::Engine::Memory;
    let store = crate::harness::Store::start(&config).await;
    store.put("a", "1").await;
    store.sealed(1).await;
    store.stop().await;
    assert!(!folder.path().join("store").exists());
}
