//! `KeyValue.Backup`, `Restore` and `Prove`: what leaves a store to be kept, or shown, elsewhere.

use bytes::Bytes;
use lattice_core::proof::SealedProof;
use lattice_core::seal::Root;
use lattice_proto::kv::v1 as kv;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::harness::{Store, bytes, config, folder, put, until};

async fn backup(store: &Store) -> Vec<u8> {
    let mut pieces = store.kv.clone().backup(kv::BackupRequest {}).await.unwrap().into_inner();
    let mut file = Vec::new();
    while let Some(piece) = pieces.next().await {
        file.extend_from_slice(&piece.unwrap().data);
    }
    file
}

async fn restore(store: &Store, file: &[u8], any_cluster: bool) -> Result<kv::RestoreResponse, Status> {
    let pieces: Vec<_> = file
        .chunks(10_000)
        .map(|data| kv::RestoreRequest { any_cluster, data: Bytes::copy_from_slice(data) })
        .collect();
    Ok(store.kv.clone().restore(tokio_stream::iter(pieces)).await?.into_inner())
}

/// A store with all kinds of entries, 203 of them.
async fn filled(store: &Store) {
    for number in 0..200 {
        store.put(&format!("{number}"), &"x".repeat(number * 20)).await;
    }
    store.put("large", &"y".repeat(1 << 20)).await;
    store.kv.clone().delete(kv::DeleteRequest { key: bytes("7"), condition: None }).await.unwrap();
    let request = kv::PutRequest { ttl_ms: Some(3_600_000), ..put("expires", "z") };
    store.kv.clone().put(request).await.unwrap();
    store.kv.clone().delete(kv::DeleteRequest { key: bytes("never"), condition: None }).await.unwrap();
}

/// The root once it holds as much.
async fn sealed(store: &Store, entries: u64, tombstones: u64) -> Root {
    until("all of it is sealed", async || {
        let root = store.seals().await.runs.last()?.root?;
        ((root.entries, root.tombstones) == (entries, tombstones)).then_some(root)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restores_to_the_same_tree_and_may_be_repeated() {
    let (here, there) = (folder(), folder());
    let store = Store::start(&config(here.path(), None)).await;
    filled(&store).await;
    let file = backup(&store).await;
    let root = sealed(&store, 201, 2).await;

    let other = Store::start(&config(there.path(), None)).await;
    other.put("11", "newer than the backup").await;
    other.sealed(1).await;
    let done = restore(&other, &file, false).await.unwrap();
    assert_eq!((done.entries, done.merged, done.known), (203, 202, 1));
    assert_eq!((done.held, done.dropped, done.cluster.as_str()), (0, 0, "lattice"));
    let again = restore(&other, &file, false).await.unwrap();
    assert_eq!((again.merged, again.known), (0, 203));
    assert_eq!(other.get("11").await, Some(bytes("newer than the backup")));
    assert_eq!(other.get("large").await.map(|value| value.len()), Some(1 << 20));
    assert_eq!((other.get("7").await, other.get("expires").await), (None, Some(bytes("z"))));
    other.stop().await;

    let fresh = folder();
    let fresh_store = Store::start(&config(fresh.path(), None)).await;
    restore(&fresh_store, &file, false).await.unwrap();
    assert_eq!(sealed(&fresh_store, 201, 2).await, root);
    // What was restored is as good a source.
    let second = backup(&fresh_store).await;
    let back = restore(&store, &second, false).await.unwrap();
    assert_eq!((back.entries, back.merged, back.known), (203, 0, 203));
    fresh_store.stop().await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_expired_is_given_up_while_nothing_else_is_to_be_done() {
    let folder = folder();
    let mut config = config(folder.path(), None);
    config.node.max_clock_drift = std::time::Duration::from_millis(100);
    let store = Store::start(&config).await;
    let request = kv::PutRequest { ttl_ms: Some(500), ..put("expires", &"x".repeat(100_000)) };
    store.kv.clone().put(request).await.unwrap();
    store.put("stays", "x").await;
    assert!(backup(&store).await.len() > 100_000);
    let file = until("the value is gone", async || {
        let file = backup(&store).await;
        (file.len() < 10_000).then_some(file)
    })
    .await;
    // The entry is not: it counts, and it travels.
    store.sealed(2).await;
    assert_eq!(restore(&store, &file, false).await.unwrap().known, 2);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_is_refused_with_the_place() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    filled(&store).await;
    let file = backup(&store).await;
    let refused = async |file: &[u8], expected: &str| {
        let status = restore(&store, file, false).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    };
    refused(&file[..file.len() - 1], "the file ends early").await;
    refused(&file[..file.len() / 2], "the file ends early").await;
    refused(&file[..9], "at byte 8 (frame 0): the file ends early").await;
    refused(b"", "data: is missing").await;
    refused(b"something else", "at byte 0 (frame 0): is no backup").await;
    let mut flipped = file.clone();
    flipped[20_000] ^= 1;
    refused(&flipped, "(frame 1): the frame is damaged").await;
    let mut longer = file.clone();
    longer.push(0);
    refused(&longer, "bytes follow the end").await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_cluster_is_restored_only_when_told() {
    let (here, there) = (folder(), folder());
    let store = Store::start(&config(here.path(), None)).await;
    store.put("a", "1").await;
    let file = backup(&store).await;
    let mut elsewhere = config(there.path(), None);
    elsewhere.node.cluster = "elsewhere".to_owned();
    let other = Store::start(&elsewhere).await;
    let status = restore(&other, &file, false).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("any_cluster: the backup is of cluster \"lattice\""), "{status}");
    assert_eq!(other.get("a").await, None);
    assert_eq!(restore(&other, &file, true).await.unwrap().cluster, "lattice");
    assert_eq!(other.get("a").await, Some(bytes("1")));
    other.stop().await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_of_presence_and_of_absence_verify_against_the_nodes_key() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let prove = async |key: &str, epoch| {
        let request = kv::ProveRequest { key: bytes(key), epoch };
        store.kv.clone().prove(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(prove("", None).await.unwrap_err().code(), Code::InvalidArgument);
    for number in 0..100 {
        store.put(&format!("{number}"), "x").await;
    }
    let seals = store.sealed(100).await;
    for (key, there) in [("5", true), ("99", true), ("100", false)] {
        let answer = prove(key, None).await.unwrap();
        assert_eq!(answer.unsealed, None);
        let sealed = SealedProof::try_from(answer).unwrap();
        assert_eq!(sealed.verify(&store.node, Some("lattice")), Ok(()));
        assert_eq!(sealed.entry.is_some(), there);
    }
    let newest = seals.runs.last().unwrap().to.0;
    let at = SealedProof::try_from(prove("5", Some(newest)).await.unwrap()).unwrap();
    assert_eq!(at.seal.seal.epoch.0, newest);
    assert_eq!(prove("5", Some(1)).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(prove("5", Some(newest + 1_000_000)).await.unwrap_err().code(), Code::OutOfRange);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_while_others_write() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let stays: Vec<String> = (0..300).map(|number| format!("stays/{number:03}")).collect();
    for key in &stays {
        store.put(key, "x").await;
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let (mut kv, stop) = (store.kv.clone(), stop.clone());
        writers.spawn(async move {
            let mut written = 0;
            while !stop.is_cancelled() {
                let number = written % 300;
                let request = kv::DeleteRequest { key: bytes(&format!("comes/{number}")), condition: None };
                kv.put(put(&format!("comes/{number}"), "x")).await.unwrap();
                kv.put(put(&format!("stays/{number:03}"), &"y".repeat(5_000 * (written % 2)))).await.unwrap();
                kv.put(put(&format!("stays/{number:03}/{writer}"), "x")).await.unwrap();
                kv.delete(request).await.unwrap();
                written += 1;
            }
            written
        });
    }
    for limit in [1, 7, 100, 1_000] {
        let mut seen = Vec::new();
        let mut cursor = Bytes::new();
        loop {
            let request = kv::ListRequest { cursor, limit, ..Default::default() };
            let page = store.kv.clone().list(request).await.unwrap().into_inner();
            assert!(page.entries.len() <= limit as usize);
            seen.extend(page.entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()));
            cursor = page.next;
            if cursor.is_empty() {
                break;
            }
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
        assert!(stays.iter().all(|key| seen.binary_search(key).is_ok()), "what is there throughout is seen");
    }
    stop.cancel();
    assert!(writers.join_all().await.into_iter().all(|written| written > 0));
    store.stop().await;
}
