//! Damage, checks and recovery as siblings see them, and the check of a stopped store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt as _;
use lattice_proto::kv::v1 as kv;
use lattice_proto::store::v1 as store;
use state_store::offline;
use tonic::{Code, Status};

use crate::harness::{Store, bytes, config, folder, put, until};

/// Starts a pass, and waits for its end.
async fn pass(store: &Store) -> store::CheckResponse {
    let before = newest(store).await.pass;
    let mut progress =
        store.store.clone().check(store::CheckRequest { start: true }).await.unwrap().into_inner();
    loop {
        let message = progress.next().await.unwrap().unwrap();
        if message.idle && message.pass > before {
            return message;
        }
    }
}

async fn newest(store: &Store) -> store::CheckResponse {
    let mut progress =
        store.store.clone().check(store::CheckRequest { start: false }).await.unwrap().into_inner();
    progress.next().await.unwrap().unwrap()
}

async fn get(store: &Store, key: &str) -> Result<kv::GetResponse, Status> {
    let request = kv::GetRequest { key: bytes(key), version_min: None };
    store.kv.clone().get(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_under_load_has_no_false_findings() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..6u64 {
        let (mut kv, stop, written) = (store.kv.clone(), Arc::clone(&stop), Arc::clone(&written));
        clients.spawn(async move {
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // New keys, keys that many write, values in pieces, and deletions.
                let key = match number % 4 {
                    0 => format!("new/{client}/{number}"),
                    _ => format!("hot/{}", number % 13),
                };
                if number % 11 == 5 {
                    kv.delete(kv::DeleteRequest { key: bytes(&key), condition: None }).await.unwrap();
                } else {
                    let value = format!("{number}").repeat(1 + (number % 5) as usize * 1_500);
                    kv.put(put(&key, &value)).await.unwrap();
                }
                let absent =
                    kv::GetRequest { key: bytes(&format!("new/{client}/{}", number + 4)), version_min: None };
                let absent = kv.get(absent).await;
                assert!(matches!(&absent, Err(status) if status.code() == Code::NotFound), "{absent:?}");
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (mut read, mut passes) = (0, 0);
    while passes < 8 || written.load(Ordering::Relaxed) < 600 {
        passes += 1;
        let checked = pass(&store).await;
        assert_eq!((checked.damaged_entries, checked.damaged_nodes), (0, 0), "{:?}", checked.findings);
        assert_eq!((checked.uncovered, checked.damaged_others), (0, 0), "{:?}", checked.findings);
        assert_eq!(checked.permille, 1_000);
        read += checked.records;
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    assert!(read > 1_000, "{read} records read");
    let seals = store.seals().await;
    assert_eq!((seals.damage_generation, seals.damaged), (0, 0));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_open_is_replaced_and_recovers() {
    let folder = folder();
    let config = config(folder.path(), None);
    let store = Store::start(&config).await;
    for number in 0..50 {
        store.put(&format!("key-{number}"), &"v".repeat(number * 200)).await;
    }
    let before = store.sealed(50).await;
    store.stop().await;
    let conf = folder.path().join("store/sled/conf");
    std::fs::write(&conf, "nonsense").unwrap();

    let report = offline::check(&config, |_, _| {}).unwrap();
    assert_eq!(report.places, ["conf: fails its checksum"]);
    assert!(!report.is_clean());

    let store = Store::start(&config).await;
    let seals = store.seals().await;
    assert!(seals.recovering && seals.damaged == 0);
    assert_ne!(seals.incarnation, before.incarnation);
    assert_eq!(store.get("key-49").await, Some(bytes(&"v".repeat(49 * 200))));
    let absent = get(&store, "absent").await.unwrap_err();
    assert_eq!(absent.code(), Code::Unavailable);
    assert!(absent.message().starts_with("recovering: "), "{absent}");
    let list = store.kv.clone().list(kv::ListRequest::default()).await.unwrap_err();
    assert!(list.message().starts_with("recovering: "), "{list}");
    let condition = kv::Condition { condition: Some(kv::condition::Condition::Present(true)) };
    let conditional = kv::PutRequest { condition: Some(condition), ..put("key-1", "new") };
    let refused = store.kv.clone().put(conditional).await.unwrap_err();
    assert!(
        refused.code() == Code::Unavailable && refused.message().starts_with("recovering: "),
        "{refused}"
    );
    store.put("key-1", "new").await;

    let recovered = |incarnation| store::RecoveredRequest { incarnation };
    store.store.clone().recovered(recovered(vec![1; 16].into())).await.unwrap();
    assert!(store.seals().await.recovering, "that was another store");
    let ours = bytes::Bytes::copy_from_slice(&seals.incarnation.0);
    store.store.clone().recovered(recovered(ours)).await.unwrap();
    assert!(!store.seals().await.recovering);
    assert_eq!(get(&store, "absent").await.unwrap_err().code(), Code::NotFound);
    let root = before.runs.last().unwrap().root;
    assert_eq!(
        store.sealed(50).await.runs.last().unwrap().root.map(|root| root.entries),
        root.map(|root| root.entries)
    );
    store.stop().await;
    let report = offline::check(&config, |_, _| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.set_aside.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_gone_is_written_again_from_what_the_database_says() {
    let folder = folder();
    let config = config(folder.path(), None);
    let store = Store::start(&config).await;
    store.put("key", "value").await;
    let before = store.sealed(1).await;
    store.stop().await;
    let format = folder.path().join("store/FORMAT");
    let described = std::fs::read(&format).unwrap();
    std::fs::remove_file(&format).unwrap();

    let store = Store::start(&config).await;
    assert_eq!(store.get("key").await, Some(bytes("value")));
    let seals = store.seals().await;
    assert!(!seals.recovering && seals.incarnation == before.incarnation);
    store.stop().await;
    assert_eq!(std::fs::read(&format).unwrap(), described);

    // When the database does not open either, nothing says that it is ours.
    std::fs::remove_file(&format).unwrap();
    std::fs::write(folder.path().join("store/sled/conf"), "nonsense").unwrap();
    let refused = offline::check(&config, |_, _| {}).unwrap_err().to_string();
    assert!(
        refused.contains("conf: fails its checksum") && refused.contains("move the folder aside"),
        "{refused}"
    );
    assert!(offline::accept_loss(&config).is_err(), "it is not set aside");
    assert!(folder.path().join("store/sled").exists() && !format.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_is_checked_and_a_running_one_is_not() {
    let folder = folder();
    let config = config(folder.path(), None);
    let nothing = offline::check(&config, |_, _| {}).unwrap_err();
    assert!(nothing.to_string().contains("there is no store"), "{nothing}");
    let store = Store::start(&config).await;
    for number in 0..200 {
        store.put(&format!("key-{number}"), "value").await;
    }
    store.sealed(200).await;
    let in_use = offline::check(&config, |_, _| {}).unwrap_err();
    assert!(in_use.to_string().contains("in use by another process"), "{in_use}");
    store.stop().await;
    let mut told = Vec::new();
    let report = offline::check(&config, |permille, _| told.push(permille)).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(report.read.records > 200);
    assert!(told.is_sorted() && told.last() == Some(&1_000), "{told:?}");
    offline::accept_loss(&config).unwrap();
    let store = Store::start(&config).await;
    assert_eq!(store.get("key-7").await, Some(bytes("value")));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_keys_are_listed_page_by_page_within_bounds() {
    let folder = folder();
    let store = Store::start(&config(folder.path(), None)).await;
    let mut client = store.store.clone();
    let damaged = client.damaged(store::DamagedRequest::default()).await.unwrap().into_inner();
    assert!(damaged.entries.is_empty() && !damaged.overflow);
    for (request, field) in [
        (store::DamagedRequest { limit: 1_001, ..Default::default() }, "limit"),
        (store::DamagedRequest { after: vec![0; 1_025].into(), ..Default::default() }, "after"),
    ] {
        let refused = client.damaged(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    until("the first message of a check comes at once", async || Some(newest(&store).await)).await;
    store.stop().await;
}
