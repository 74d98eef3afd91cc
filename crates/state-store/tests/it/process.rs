//! The real binary on a real disk: what it refuses, and what it leaves alone.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lattice_core::model::Digest;
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::Channel;

#[cfg(feature = "redb")]
use crate::harness::{bytes, put};
use crate::harness::{clients, folder, until};

/// How long its epochs are.
pub(crate) const EPOCH_MS: u32 = 200;

/// A store process, killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) channel: Channel,
}

/// The binary, with its files in `folder`.
pub(crate) fn binary(folder: &Path, more: &[&str]) -> Command {
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
            &format!("store.epoch_ms={EPOCH_MS}"),
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
    /// Starts one, and waits for nothing.
    pub(crate) fn spawn(folder: &Path, more: &[&str]) -> Self {
        let child = binary(folder, more).stderr(Stdio::inherit()).spawn().unwrap();
        let channel = Channel::connect(&Listen::Unix(socket(folder)));
        Self { child, channel }
    }

    /// Starts one, and waits until it answers.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[]).await
    }

    pub(crate) async fn start_with(folder: &Path, more: &[&str]) -> Self {
        let process = Self::spawn(folder, more);
        let (_, store) = clients(&process.channel);
        until("the store answers", async || {
            store.clone().seals(lattice_proto::store::v1::SealsRequest {}).await.ok()
        })
        .await;
        process
    }

    pub(crate) fn kill(&mut self) {
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
    let other_key = folder.path().join("other.key");
    let other = format!("node.key_file={}", other_key.display());
    let (status, line) = run(folder.path(), &[&other]);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("other.key: is missing, but ") && !other_key.exists(), "{line}");
    lattice_runtime::identity::NodeKey::load_or_create(&other_key).unwrap();
    let (status, line) = run(folder.path(), &[&other]);
    assert_eq!(status, Some(3), "{line}");
    assert!(line.contains("node.key_file: is of node"), "{line}");
    let (status, line) = run(folder.path(), &["store.engine=memory"]);
    assert_eq!(status, Some(3), "{line}");
    assert!(line.contains("store.engine: \"memory\", but "), "{line}");
    let named = |change: &str| {
        let format = folder.path().join("data/store/FORMAT");
        let text = std::fs::read_to_string(&format).unwrap();
        let body = text[..text.rfind("check ").unwrap()].replace("format 1", change);
        let digest = Digest::of(&[b"lattice/v1/manifest\0", body.as_bytes()]).to_string();
        std::fs::write(&format, format!("{body}check {}\n", &digest[..16])).unwrap();
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

#[cfg(feature = "redb")]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_redb_survives_a_kill_and_its_folder_is_refused_to_sled() {
    let folder = folder();
    for round in 0..3 {
        let mut process = Process::start_with(folder.path(), &["store.engine=redb"]).await;
        let (mut kv, _) = clients(&process.channel);
        for earlier in 0..round * 20 {
            let request =
                lattice_proto::kv::v1::GetRequest { key: bytes(&format!("{earlier}")), version_min: None };
            kv.get(request).await.unwrap();
        }
        for number in round * 20..(round + 1) * 20 {
            kv.put(put(&format!("{number}"), "value")).await.unwrap();
        }
        process.kill();
    }
    let (status, line) = run(folder.path(), &["store.engine=sled"]);
    assert_eq!(status, Some(3), "{line}");
    assert!(
        line.contains("store.engine: \"sled\"") && line.contains("was made by \"redb\": set it to that"),
        "{line}"
    );
    assert!(!folder.path().join("data/store/sled").exists());
}

#[cfg(not(feature = "redb"))]
#[test]
fn an_engine_that_was_left_out_is_refused_with_those_that_are_here() {
    let folder = folder();
    let (status, line) = run(folder.path(), &["store.engine=redb"]);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.ends_with("redb is not built into this binary, which has sled, memory"), "{line}");
    assert!(!folder.path().join("data").exists(), "nothing is written");
}

#[test]
fn an_engine_that_nobody_knows_is_refused_with_those_that_there_are() {
    let folder = folder();
    let (status, line) = run(folder.path(), &["store.engine=rocksdb"]);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("sled, redb or memory"), "{line}");
}
