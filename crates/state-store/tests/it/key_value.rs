//! `KeyValue`: the same over a socket and in memory.

use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::condition::Condition;
use lattice_proto::kv::v1::operation::Operation;
use lattice_proto::types::v1 as types;
use tonic::{Code, Status};

use crate::harness::{Store, bytes, config, folder, put, until};

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_written_read_listed_and_deleted_in_memory() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    the_whole_life_of_an_entry(&store).await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_written_read_listed_and_deleted_over_a_socket() {
    let folder = folder();
    let store = Store::start_on_a_socket(&config(folder.path(), None)).await;
    the_whole_life_of_an_entry(&store).await;
    store.stop().await;
}

async fn the_whole_life_of_an_entry(store: &Store) {
    let mut kv = store.kv.clone();
    assert_eq!(store.get("a").await, None);
    let first = store.put("a", "1").await;
    assert_eq!(store.get("a").await, Some(bytes("1")));
    let large = "x".repeat(1 << 20);
    store.put("large", &large).await;
    assert_eq!(store.get("large").await, Some(bytes(&large)));

    let mut request = put("ttl", "x");
    request.ttl_ms = Some(1);
    let expires = kv.put(request).await.unwrap().into_inner().expires_ms.unwrap();
    until("it expires", async || (store.runtime.clock.wall_ms() >= expires).then_some(())).await;
    assert_eq!(store.get("ttl").await, None);

    let request = kv::ListRequest { limit: 1, ..Default::default() };
    let page = kv.list(request).await.unwrap().into_inner();
    assert_eq!((page.entries.len(), page.entries[0].key.as_ref()), (1, &b"a"[..]));
    let request = kv::ListRequest { cursor: page.next, ..Default::default() };
    let page = kv.list(request).await.unwrap().into_inner();
    assert_eq!((page.entries[0].key.as_ref(), page.next.len()), (&b"large"[..], 0));

    let deleted =
        kv.delete(kv::DeleteRequest { key: bytes("a"), condition: None }).await.unwrap().into_inner();
    assert!(deleted.version.unwrap().hlc > first.version.unwrap().hlc);
    assert_eq!(store.get("a").await, None);
    kv.delete(kv::DeleteRequest { key: bytes("never"), condition: None }).await.unwrap();
}

fn operation(operation: Operation) -> kv::Operation {
    kv::Operation { operation: Some(operation) }
}

fn condition(condition: Condition) -> Option<kv::Condition> {
    Some(kv::Condition { condition: Some(condition) })
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_all_or_nothing() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut kv = store.kv.clone();
    let delete = Operation::Delete(kv::DeleteRequest {
        key: bytes("b"),
        condition: condition(Condition::Present(true)),
    });
    let operations = vec![operation(Operation::Put(put("a", "1"))), operation(delete)];
    let refused = kv.batch(kv::BatchRequest { operations: operations.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "operations[1].condition: key is absent");
    assert_eq!(store.get("a").await, None);
    store.put("b", "1").await;
    let versions = kv.batch(kv::BatchRequest { operations }).await.unwrap().into_inner().versions;
    assert_eq!(versions.len(), 2);
    assert_eq!((store.get("a").await, store.get("b").await), (Some(bytes("1")), None));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_one_key_one_does() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..100 {
        let mut kv = store.kv.clone();
        let mut request = put("one", &format!("{number}"));
        request.condition = condition(Condition::Absent(true));
        writes.spawn(async move { kv.put(request).await.map_err(|status| status.code()) });
    }
    let outcomes = writes.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let refused = outcomes.into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|code| code == Code::FailedPrecondition));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut kv = store.kv.clone();
    let named = |status: Status, code: Code, begin: &str| {
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with(begin), "{status}");
    };
    let invalid = Code::InvalidArgument;
    named(kv.put(put("", "x")).await.unwrap_err(), invalid, "key");
    named(kv.put(put(&"k".repeat(1_025), "x")).await.unwrap_err(), invalid, "key");
    named(kv.put(put("k", &"x".repeat((1 << 20) + 1))).await.unwrap_err(), invalid, "value");
    let ten_years = 87_600 * 3_600_000;
    for ttl_ms in [0, ten_years + 1, u64::MAX] {
        let request = kv::PutRequest { ttl_ms: Some(ttl_ms), ..put("k", "x") };
        let expected = format!("ttl_ms: takes 1 to 315360000000 (87600h), got {ttl_ms}");
        named(kv.put(request).await.unwrap_err(), invalid, &expected);
        let within = Operation::Put(kv::PutRequest { ttl_ms: Some(ttl_ms), ..put("k", "x") });
        let batch = kv::BatchRequest { operations: vec![operation(within)] };
        named(kv.batch(batch).await.unwrap_err(), invalid, "operations[0].put.ttl_ms: takes 1 to ");
    }
    let longest = kv::PutRequest { ttl_ms: Some(ten_years), ..put("ten years", "x") };
    assert!(kv.put(longest).await.unwrap().into_inner().expires_ms.is_some());
    let request = kv::PutRequest { condition: Some(kv::Condition { condition: None }), ..put("k", "x") };
    named(kv.put(request).await.unwrap_err(), invalid, "condition");
    let request = kv::ListRequest { limit: 1_001, ..Default::default() };
    named(kv.list(request).await.unwrap_err(), invalid, "limit: takes 1 to 1000, got 1001");
    let request = kv::BatchRequest { operations: Vec::new() };
    named(kv.batch(request).await.unwrap_err(), invalid, "operations: takes 1 to 1000, got 0");
    let operations = vec![operation(Operation::Put(put("a", "x"))), operation(Operation::Put(put("", "x")))];
    named(kv.batch(kv::BatchRequest { operations }).await.unwrap_err(), invalid, "operations[1].put.key");
    let large = operation(Operation::Put(put("a", &"x".repeat(1 << 20))));
    let request = kv::BatchRequest { operations: vec![large; 9] };
    named(kv.batch(request).await.unwrap_err(), invalid, "operations: take at most 8388608 bytes together");

    let version = store.put("a", "1").await.version.unwrap();
    let newer = types::Version { hlc: version.hlc + 1, ..version.clone() };
    let get = |version| kv::GetRequest { key: bytes("a"), version_min: Some(version) };
    kv.get(get(version.clone())).await.unwrap();
    named(kv.get(get(newer)).await.unwrap_err(), Code::Unavailable, "version_min");
    let request =
        kv::PutRequest { condition: condition(Condition::Version(version.clone())), ..put("a", "2") };
    kv.put(request.clone()).await.unwrap();
    let refused = kv.put(request).await.unwrap_err();
    let current =
        refused.metadata().get(lattice_proto::metadata::VERSION).unwrap().to_str().unwrap().to_owned();
    named(refused, Code::FailedPrecondition, "condition: key is at version");
    let get = kv::GetRequest { key: bytes("a"), version_min: None };
    let entry = kv.get(get).await.unwrap().into_inner().entry.unwrap();
    let version = lattice_core::model::Version::try_from(entry.version.unwrap()).unwrap();
    assert_eq!(current, version.to_string());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_without_a_call_is_what_the_call_answers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(&config(folder.path(), None)).await;
    store.put("short", "value").await;
    let long = "x".repeat(100_000);
    store.put("long", &long).await;
    let later = store.put("later", "value").await.version;
    let question = |key: &str, version_min| kv::GetRequest { key: bytes(key), version_min };
    for (question, at_once) in [
        (question("short", None), true),
        (question("short", later.clone()), true),
        (question("later", later.clone()), true),
        (question("absent", None), true),
        // Of many records, and one that the call refuses.
        (question("long", None), false),
        (question("", None), false),
    ] {
        let called = store.kv.clone().get(question.clone()).await.map(tonic::Response::into_inner);
        let called = called.map_err(|status| (status.code(), status.message().to_owned()));
        let read = || store.reads.get(&question);
        if !at_once {
            assert!(read().is_none(), "{:?}", question.key);
            continue;
        }
        // Not while another read took long.
        let read = until("it is read at once", async || read()).await;
        let read = read.map_err(|status| (status.code(), status.message().to_owned()));
        assert_eq!(read, called, "{:?}", question.key);
    }
    let reads = store.reads.clone();
    store.stop().await;
    assert!(
        reads.get(&question("short", None)).is_none(),
        "a store that has stopped is asked by a call, and says so"
    );
}
