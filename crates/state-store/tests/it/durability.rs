//! What is acknowledged is on the disk: seen in the system calls of the real binary, and with each of them failing.
//!
//! These tests need strace, and say so where it is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lattice_proto::kv::v1 as kv;
use lattice_proto::store::v1::{SealsRequest, WritableRequest};
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{Channel, healthcheck};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{bytes, clients, folder, put, until};
use crate::process::{Process, binary};
use crate::strace::{self, Call, Strace, hex};

const EIO: (&str, &str) = ("EIO", "Input/output error");
const ENOSPC: (&str, &str) = ("ENOSPC", "No space left on device");
/// The longest that a client waits for an answer: a commit that fails has to say so.
const ANSWER_MAX: Duration = Duration::from_secs(20);

async fn read(process: &Process, key: &str) -> Option<String> {
    try_read(process, key).await.unwrap_or_else(|status| panic!("{key}: {status}"))
}

async fn try_read(process: &Process, key: &str) -> Result<Option<String>, tonic::Status> {
    let request = kv::GetRequest { key: bytes(key), version_min: None };
    let answer = tokio::time::timeout(ANSWER_MAX, clients(&process.channel).0.get(request)).await;
    match answer.expect("an answer in time") {
        Ok(answer) => match answer.into_inner().entry.unwrap().content.unwrap() {
            lattice_proto::types::v1::entry::Content::Value(value) => {
                Ok(Some(String::from_utf8(value.to_vec()).unwrap()))
            }
            other => panic!("{other:?}"),
        },
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Writes many keys at once; what the client was told of each.
async fn write(process: &Process, prefix: &str, count: usize) -> BTreeMap<String, Result<(), tonic::Status>> {
    let mut writes = JoinSet::new();
    for number in 0..count {
        let (mut client, key) = (clients(&process.channel).0, format!("{prefix}{number}"));
        writes.spawn(async move {
            let answer = tokio::time::timeout(ANSWER_MAX, client.put(put(&key, &key))).await;
            (key, answer.expect("an answer in time").map(drop))
        });
    }
    writes.join_all().await.into_iter().collect()
}

async fn expect_all(process: &Process, acknowledged: &[String]) {
    for key in acknowledged {
        assert_eq!(read(process, key).await.as_deref(), Some(key.as_str()), "{key} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_leaves_only_after_the_write_is_on_the_disk() {
    if !strace::is_here() {
        return;
    }
    let folder = folder();
    let process = Process::start(folder.path()).await;
    write(&process, "warm", 4).await;
    let trace = "trace=pwrite64,sync_file_range,fdatasync,write,writev,sendto,sendmsg,recvfrom,recvmsg,read";
    let strace = Strace::attach(&process.child, &folder.path().join("trace"), &["-e", trace]);
    let key = "on the disk first";
    let answer = clients(&process.channel).0.put(put(key, "value")).await.unwrap().into_inner();
    let writer = answer.version.unwrap().writer;
    let calls = strace.calls();

    let find = |names: &[&str], what: &[u8], from: usize| -> Call {
        let what = hex(what);
        let fits =
            |call: &&Call| names.contains(&&*call.name) && call.begin >= from && call.text.contains(&what);
        calls.iter().find(fits).cloned().unwrap_or_else(|| panic!("no {names:?} of {what} after {from}"))
    };
    let asked = find(&["recvfrom", "recvmsg", "read"], key.as_bytes(), 0);
    let written = find(&["pwrite64"], key.as_bytes(), 0);
    let flushed = find(&["sync_file_range"], b"", written.end);
    let synced = find(&["fdatasync"], b"", flushed.end);
    // The answer carries the version, and that the node's key.
    let answered = find(&["write", "writev", "sendto", "sendmsg"], &writer, 0);
    for (what, call) in [
        ("the request comes", &asked),
        ("the log is written", &written),
        ("and handed to the device", &flushed),
        ("and made durable", &synced),
        ("the answer leaves", &answered),
    ] {
        let result = call.text.rsplit_once(" = ").map_or("", |(_, result)| result);
        println!("{:>6}-{:<6} {:<16} = {result:<8} {what}", call.begin, call.end, call.name);
        assert!(!result.starts_with('-'), "{what}: {result}");
    }
    assert!(asked.begin < written.begin && synced.end < answered.begin, "the order is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_told_to_all_and_loses_nothing_acknowledged() {
    if !strace::is_here() {
        return;
    }
    for call in ["pwrite64", "sync_file_range", "fdatasync"] {
        for (error, words) in [EIO, ENOSPC] {
            println!("-- {call} fails with {error}");
            fail_while_running(call, error, words).await;
        }
    }
}

async fn fail_while_running(call: &str, error: &str, words: &str) {
    let folder = folder();
    let mut process = Process::start(folder.path()).await;
    let acknowledged: Vec<String> = write(&process, "before", 400).await.into_keys().collect();
    expect_all(&process, &acknowledged).await;

    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}"));
    let output = folder.path().join("trace");
    let mut strace = Strace::attach(&process.child, &output, &["-e", &trace, "-e", &inject]);
    let waiting = write(&process, "waiting", 8).await;
    for outcome in waiting.values() {
        let status = outcome.as_ref().expect_err("nothing can have been written");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        assert!(status.message().contains(words), "the reason is named: {status}");
    }
    let told = waiting["waiting0"].clone().unwrap_err();
    println!("   a waiting write: {:?} {}", told.code(), told.message());
    strace.detach();

    // The disk works again. The store does not pretend that nothing happened.
    let later = write(&process, "later", 1).await.remove("later0").unwrap().unwrap_err();
    println!("   a later write:   {:?} {}", later.code(), later.message());
    assert!(
        later.message().starts_with("the store has failed") && later.message().contains(words),
        "{later}"
    );
    let problem =
        clients(&process.channel).1.writable(WritableRequest {}).await.unwrap().into_inner().problem;
    println!("   readiness:       {problem}");
    assert_eq!(problem, later.message());
    let listen: Listen = format!("unix:{}", folder.path().join("store.sock").display()).parse().unwrap();
    healthcheck(&listen, "lattice.kv.v1.KeyValue", ANSWER_MAX).await.expect_err("it is not well");
    // Reads go on, but for what lies beside what the failed commit was about: that may be an error, never another
    // answer. What failed is not read.
    let mut refused = 0;
    for key in &acknowledged {
        match try_read(&process, key).await {
            Ok(value) => assert_eq!(value.as_deref(), Some(key.as_str())),
            Err(status) => {
                assert!(status.message().contains(words), "{status}");
                refused += 1;
            }
        }
    }
    // That something is absent is only said once the tree has been asked, which may lie beside it, too.
    for key in waiting.keys() {
        match try_read(&process, key).await {
            Ok(value) => assert_eq!(value, None, "what failed is not read"),
            Err(status) => assert!(status.message().contains(words), "{status}"),
        }
    }
    println!("   reads:           {refused} of {} refused", acknowledged.len());
    assert!(refused * 10 <= acknowledged.len(), "most pages were not touched");

    process.kill();
    let process = Process::start(folder.path()).await;
    expect_all(&process, &acknowledged).await;
    let mut there = 0;
    for key in waiting.keys() {
        there += usize::from(read(&process, key).await.is_some());
    }
    println!(
        "   after a restart: {} acknowledged are there, {there} of {} failed ones",
        acknowledged.len(),
        waiting.len()
    );
    assert!(write(&process, "again", 1).await["again0"].is_ok());
}

/// A folder as a kill left it, whose next opening writes a snapshot.
async fn killed(folder: &TempDir) -> Vec<String> {
    let mut process = Process::start(folder.path()).await;
    let acknowledged: Vec<String> = write(&process, "before", 50).await.into_keys().collect();
    process.kill();
    acknowledged
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Runs the binary to its end under strace; its status and what it said. `None` when it came up instead: then it
/// is killed.
async fn open_under_strace(folder: &Path, args: &[&str]) -> Option<(Option<i32>, String)> {
    let store = binary(folder, &[]);
    let mut command = Command::new("strace");
    command.current_dir(folder).args(["-D", "-f", "-qq", "-o"]).arg(folder.join("trace")).args(args);
    command.arg(store.get_program()).args(store.get_args());
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let channel = Channel::connect(&Listen::Unix(folder.join("store.sock")));
    let ended = until("the store is up, or ended", || {
        let (ended, mut store) = (child.try_wait().unwrap(), clients(&channel).1);
        async move {
            match ended {
                Some(status) => Some(Some(status.code())),
                None => store.seals(SealsRequest {}).await.ok().map(|_| None),
            }
        }
    })
    .await;
    // With `-D` the child is the store, and strace one of its own.
    let _ = child.kill();
    child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    ended.map(|status| (status, said))
}

/// The snapshot that the next opening writes, by looking at one.
async fn snapshot_of(folder: &Path) -> Vec<PathBuf> {
    open_under_strace(folder, &["-e", "trace=rename"]).await;
    let trace = std::fs::read_to_string(folder.join("trace")).unwrap();
    let line = trace.lines().find(|line| line.contains("snap.")).expect("opening writes a snapshot");
    line.split('"').filter(|part| part.contains("snap.")).map(PathBuf::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_fails_says_why_and_the_next_one_finds_everything() {
    if !strace::is_here() {
        return;
    }
    let folder = folder();
    let acknowledged = killed(&folder).await;
    let (data, origin) = (folder.path().join("data"), folder.path().join("origin"));
    copy(&data, &origin);
    let snapshot = snapshot_of(folder.path()).await;
    let draft = snapshot[0].display().to_string();
    let log = data.join("store/sled/db").display().to_string();
    for (path, call) in [
        (&draft, "openat"),
        (&draft, "write"),
        (&draft, "fsync"),
        (&draft, "rename"),
        (&log, "fsync"),
        (&log, "pwrite64"),
    ] {
        for (error, words) in [EIO, ENOSPC] {
            copy(&origin, &data);
            let inject = format!("inject={call}:error={error}");
            let trace = format!("trace={call}");
            let ended = open_under_strace(folder.path(), &["-P", path, "-e", &trace, "-e", &inject]).await;
            let name = Path::new(path).file_name().unwrap().display();
            let (status, said) = ended.unwrap_or_else(|| panic!("{call} of {name} failed, and it came up"));
            println!("{call} of {name} fails with {error}: {status:?} {}", said.trim());
            assert_eq!((status, said.lines().count()), (Some(3), 1), "{said}");
            assert!(said.contains(words), "{said}");
            let mut process = Process::start(folder.path()).await;
            expect_all(&process, &acknowledged).await;
            process.kill();
        }
    }
}
