//! `StateStore`, as the other services of the node use it.

use std::time::Duration;

use lattice_core::model::{Content, Entry, Hlc, Key, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_proto::store::v1 as wire;
use lattice_proto::types::v1 as types;
use lattice_runtime::identity::NodeKey;
use tokio::time::timeout;
use tonic::Code;

use crate::harness::{Store, bytes, config, folder, put, root_position, until};

fn entry(store: &Store, key: &str, value: &str) -> Entry {
    let hlc = Hlc::at(WallTime(store.runtime.clock.wall_ms()));
    Entry {
        key: Key::try_from(key).unwrap(),
        version: Version { hlc, writer: NodeId([9; 32]) },
        expires: None,
        content: Content::Value(bytes(value)),
    }
}

async fn merge(
    store: &Store,
    entries: &[Entry],
    origin: wire::Origin,
) -> Result<wire::MergeResponse, tonic::Status> {
    let entries = entries.iter().map(types::Entry::from).collect();
    let request = wire::MergeRequest { entries, origin: origin.into() };
    store.store.clone().merge(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_entries_are_read_compared_and_sealed() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let entries = [entry(&store, "a", "1"), entry(&store, "b", "2")];
    let merged = merge(&store, &entries, wire::Origin::Pull).await.unwrap();
    assert_eq!((merged.merged, merged.known), (2, 0));
    let again = merge(&store, &entries, wire::Origin::Delta).await.unwrap();
    assert_eq!((again.merged, again.known), (0, 2));
    assert_eq!(store.get("a").await, Some(bytes("1")));

    let lacking = entry(&store, "c", "3");
    let heads = entries.iter().chain([&lacking]).map(|entry| (&entry.head()).into()).collect();
    let compared = store.store.clone().compare(wire::CompareRequest { heads }).await.unwrap().into_inner();
    assert_eq!((compared.missing, compared.ahead), (vec![2], vec![]));

    let seals = store.sealed(2).await;
    assert_eq!(seals.state_size, 2);
    let newest = seals.newest.unwrap();
    newest.verify().unwrap();
    assert_eq!((newest.seal.node, newest.seal.epoch), (store.node, seals.runs.last().unwrap().to));
    let positions = vec![(&root_position()).into()];
    let own = store.store.clone().nodes(wire::NodesRequest { positions }).await.unwrap().into_inner();
    assert!(own.epoch > 0 && own.nodes[0].children.is_empty(), "two entries are one bucket");

    let refused = merge(&store, &entries, wire::Origin::Unspecified).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seals_are_watched_at_once_and_after_every_new_root() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut seals = store.store.clone().watch_seals(wire::WatchSealsRequest {}).await.unwrap().into_inner();
    let first = seals.message().await.unwrap().unwrap();
    assert_eq!((first.epoch_ms, first.node), (100, store.node.as_bytes().to_vec().into()));
    store.put("a", "1").await;
    let sealed = timeout(Duration::from_secs(30), async {
        loop {
            let seen = seals.message().await.unwrap().unwrap();
            if seen.runs.last().is_some_and(|run| run.root.is_some()) {
                return seen;
            }
        }
    });
    assert_eq!(sealed.await.unwrap().state_size, 1);
    store.stop().await;
    assert!(seals.message().await.is_ok_and(|message| message.is_none()), "the stream ends with the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_writes_are_watched_and_merged_ones_are_not() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let request = wire::WatchLocalWritesRequest {};
    let mut local = store.store.clone().watch_local_writes(request).await.unwrap().into_inner();
    merge(&store, &[entry(&store, "merged", "x")], wire::Origin::Delta).await.unwrap();
    store.put("a", "1").await;
    let message = local.message().await.unwrap().unwrap();
    assert_eq!((message.entries.len(), message.missed), (1, 0));
    assert_eq!(message.entries[0].key, bytes("a"));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_local_writes_goes_on_where_the_last_one_stopped() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    for key in ["before anybody watched", "while nobody did"] {
        store.put(key, "1").await;
        // That the last watcher is gone reaches the store a little later.
        let message = until("the write is told", async || {
            let request = wire::WatchLocalWritesRequest {};
            let mut local = store.store.clone().watch_local_writes(request).await.unwrap().into_inner();
            timeout(Duration::from_millis(500), local.message()).await.ok()?.unwrap()
        })
        .await;
        assert_eq!((message.entries.len(), message.missed), (1, 0));
        assert_eq!(message.entries[0].key, bytes(key));
    }
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_told_what_it_missed() {
    let folder = folder();
    let mut config = config(folder.path(), None);
    config.store.engine = lattice_runtime::config::Engine::Memory;
    let store = Store::start(&config).await;
    let request = wire::WatchLocalWritesRequest {};
    let mut local = store.store.clone().watch_local_writes(request).await.unwrap().into_inner();
    let mut writes = 0;
    for _ in 0..400 {
        store.put("a", "x").await;
        writes += 1;
    }
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < writes {
        let message = timeout(Duration::from_secs(30), local.message()).await.unwrap().unwrap().unwrap();
        seen += message.entries.len() as u64;
        missed += message.missed;
    }
    assert_eq!(seen + missed, writes);
    assert!(missed > 0, "400 messages do not fit");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequence_numbers_are_reserved_over_restarts() {
    let folder = folder();
    let config = config(folder.path(), None);
    let mut expected = 1;
    let mut incarnation = None;
    for count in [1, 100, 10_000] {
        let store = Store::start(&config).await;
        let request = wire::ReserveSequenceRequest { count };
        let reserved = store.store.clone().reserve_sequence(request).await.unwrap().into_inner();
        assert_eq!((reserved.first, reserved.count), (expected, count));
        let known = incarnation.get_or_insert(reserved.incarnation.clone());
        assert_eq!(*known, reserved.incarnation);
        expected += u64::from(count);
        for count in [0, 10_001] {
            let refused = store.store.clone().reserve_sequence(wire::ReserveSequenceRequest { count }).await;
            assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        }
        store.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_incarnation_is_started_once() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let before = bytes::Bytes::copy_from_slice(&store.seals().await.incarnation.0);
    let replace = async || {
        let request = wire::ReincarnateRequest { incarnation: before.clone() };
        store.store.clone().reincarnate(request).await.unwrap().into_inner().incarnation
    };
    let after = replace().await;
    assert_ne!(after, before);
    assert_eq!(replace().await, after);
    assert_eq!(store.seals().await.incarnation.0[..], after[..]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_entries_are_streamed_in_order_of_key_hash() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let entries: Vec<Entry> = (0..200).map(|number| entry(&store, &format!("{number}"), "x")).collect();
    merge(&store, &entries, wire::Origin::Pull).await.unwrap();
    store.sealed(200).await;
    let mut stream =
        store.store.clone().sealed_entries(wire::SealedEntriesRequest {}).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.seal.unwrap().root.is_some());
    let mut hashes = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        for entry in message.entries {
            hashes.push(Entry::try_from(entry).unwrap().key.hash());
        }
    }
    assert_eq!(hashes.len(), 200);
    assert!(hashes.is_sorted());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_of_strangers_is_refused() {
    let folder = folder();
    let peer = NodeKey::from_seed(&[2; 32]);
    let store = Store::start(&config(folder.path(), Some(&peer))).await;
    let heard = async |node: [u8; 32]| {
        let node = node.to_vec().into();
        let request = wire::HeardRequest { node, incarnation: vec![1; 16].into(), sequence: 1, epoch: 1 };
        store.store.clone().heard(request).await.map_err(|status| status.code())
    };
    assert!(heard(peer.public()).await.is_ok());
    assert_eq!(heard([7; 32]).await.unwrap_err(), Code::InvalidArgument);
    let nodes = vec![vec![7; 32].into()];
    store.store.clone().set_trust(wire::SetTrustRequest { nodes }).await.unwrap();
    assert!(heard([7; 32]).await.is_ok());
    assert!(heard(peer.public()).await.is_err());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_exist_from_the_start_and_follow() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let value = |name: &str| {
        let text = store.runtime.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned()
    };
    for name in [
        "lattice_store_entries ",
        "lattice_store_sealed_epoch ",
        "lattice_store_pending ",
        "lattice_store_held ",
        "lattice_store_commit_duration_seconds_count ",
        "lattice_store_lateness_seconds_count ",
        "lattice_store_merged_entries_total{outcome=\"dropped\"} ",
        "lattice_store_exchanges_total{outcome=\"challenge\"} ",
    ] {
        assert_eq!(value(name), "0", "{name}");
    }
    store.put("a", "1").await;
    store.kv.clone().put(put("b", "1")).await.unwrap();
    until("both are sealed", async || (value("lattice_store_entries ") == "2").then_some(())).await;
    assert_ne!(value("lattice_store_sealed_epoch "), "0");
    assert_ne!(value("lattice_store_commit_duration_seconds_count "), "0");
    store.stop().await;
}
