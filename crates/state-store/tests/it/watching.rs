//! `KeyValue.Watch`: live, resumed, refused, and slow.

use std::time::Duration;

use lattice_proto::kv::v1 as kv;
use lattice_proto::store::v1 as store;
use lattice_proto::types::v1::{self as types, entry};
use tonic::{Code, Status, Streaming};

use crate::harness::{Store, bytes, config, folder, put};

const DEADLINE: Duration = Duration::from_secs(30);

async fn watch(store: &Store, prefix: &str, since: &str) -> Result<Streaming<kv::WatchResponse>, Status> {
    let request = kv::WatchRequest { prefix: bytes(prefix), since: since.to_owned() };
    Ok(store.kv.clone().watch(request).await?.into_inner())
}

/// The next change as key and value, and its id.
async fn next(watch: &mut Streaming<kv::WatchResponse>) -> (String, Option<String>, String) {
    let read = tokio::time::timeout(DEADLINE, async {
        loop {
            let message = watch.message().await.unwrap().unwrap();
            if let Some(entry) = message.entry {
                return (entry, message.id);
            }
        }
    });
    let (entry, id) = read.await.expect("a change in time");
    let value = match entry.content.unwrap() {
        entry::Content::Value(value) => Some(String::from_utf8_lossy(&value).into_owned()),
        entry::Content::Tombstone(_) | entry::Content::Dropped(_) => None,
    };
    (String::from_utf8_lossy(&entry.key).into_owned(), value, id)
}

/// The id that a watch begins with.
async fn begun(watch: &mut Streaming<kv::WatchResponse>) -> String {
    let message = watch.message().await.unwrap().unwrap();
    assert_eq!(message.entry, None);
    message.id
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_watched_in_order_and_resumed_after_any() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    store.put("before", "x").await;
    let mut all = watch(&store, "", "").await.unwrap();
    let mut some = watch(&store, "b", "").await.unwrap();
    let start = begun(&mut all).await;
    assert!(start.ends_with("-1"), "{start}");

    store.put("a", "1").await;
    store.put("a", "2").await;
    store.put("b", "1").await;
    store.kv.clone().delete(kv::DeleteRequest { key: bytes("a"), condition: None }).await.unwrap();
    let merged = types::Entry {
        key: bytes("b/merged"),
        version: Some(types::Version { hlc: 1 << 16, writer: vec![9; 32].into() }),
        expires_ms: None,
        content: Some(entry::Content::Value(bytes("late"))),
    };
    let merge = store::MergeRequest { entries: vec![merged], origin: store::Origin::Pull.into() };
    store.store.clone().merge(merge).await.unwrap();

    let expected =
        [("a", Some("1")), ("a", Some("2")), ("b", Some("1")), ("a", None), ("b/merged", Some("late"))];
    let mut ids = Vec::new();
    for (key, value) in expected {
        let (got, told, id) = next(&mut all).await;
        assert_eq!((got.as_str(), told.as_deref()), (key, value));
        ids.push(id);
    }
    for (key, value) in [("b", Some("1")), ("b/merged", Some("late"))] {
        let (got, told, _) = next(&mut some).await;
        assert_eq!((got.as_str(), told.as_deref()), (key, value));
    }
    // After the store was away, of what happened meanwhile the newest change of each key.
    drop((all, some));
    store.stop().await;
    let store = Store::start(&config(folder.path(), None)).await;
    let mut resumed = watch(&store, "", &start).await.unwrap();
    assert_eq!(begun(&mut resumed).await, start);
    assert_eq!(next(&mut resumed).await, ("b".into(), Some("1".into()), ids[2].clone()));
    assert_eq!(next(&mut resumed).await, ("a".into(), None, ids[3].clone()));
    assert_eq!(next(&mut resumed).await, ("b/merged".into(), Some("late".into()), ids[4].clone()));
    store.put("c", "live").await;
    assert_eq!(next(&mut resumed).await.0, "c");
    let mut last = watch(&store, "", &ids[4]).await.unwrap();
    assert_eq!(next(&mut last).await.0, "c");
    // A store that stops says so, and does not just end.
    let stopped = tokio::spawn(async move { resumed.message().await });
    store.stop().await;
    assert_eq!(stopped.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_cannot_be_resumed_is_refused_with_where_to_begin_anew() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    store.put("a", "1").await;
    let now = begun(&mut watch(&store, "", "").await.unwrap()).await;
    let (incarnation, _) = now.split_once('-').unwrap();
    for gone in [format!("{}-1", "ab".repeat(16)), format!("{incarnation}-2"), format!("{incarnation}-77")] {
        let status = watch(&store, "", &gone).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{gone}: {status}");
        let since = status.metadata().get(lattice_proto::metadata::WATCH_SINCE).unwrap();
        assert_eq!(since.to_str().unwrap(), now);
        assert!(status.message().contains("list the keys again"), "{status}");
    }
    for malformed in ["x", "-1", incarnation] {
        assert_eq!(watch(&store, "", malformed).await.unwrap_err().code(), Code::InvalidArgument);
    }
    watch(&store, "", &now).await.unwrap();
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_misses_no_key() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut slow = watch(&store, "", "").await.unwrap();
    // More than it has room for on the way, and more than stays in memory.
    let value = "x".repeat(40_000);
    for round in 0..20 {
        let operations = (0..50).map(|number| kv::Operation {
            operation: Some(kv::operation::Operation::Put(put(
                &format!("{number}"),
                &format!("{round} {value}"),
            ))),
        });
        let request = kv::BatchRequest { operations: operations.collect() };
        tokio::time::timeout(DEADLINE, store.kv.clone().batch(request)).await.unwrap().unwrap();
    }
    store.put("end", "x").await;
    let mut newest = std::collections::BTreeMap::new();
    loop {
        let (key, value, _) = next(&mut slow).await;
        if key == "end" {
            break;
        }
        newest.insert(key, value.unwrap());
    }
    assert_eq!(newest.len(), 50);
    assert!(newest.values().all(|value| value.starts_with("19 ")));
    store.stop().await;
}
