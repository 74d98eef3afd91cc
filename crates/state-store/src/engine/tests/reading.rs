//! Reads: values of all sizes, pages, comparison with a peer's heads, own nodes, sealed entries.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use lattice_core::model::{Entry, Epoch};
use lattice_core::tree::{Node, Position};

use super::fixture::*;
use crate::engine::{Error, Page};
use crate::format::keys;
use crate::storage::{Batch, SledStorage, Storage};

#[test]
fn values_of_all_sizes_read_back_and_leave_nothing_behind() {
    let mut store = Store::new(1);
    for length in [0, 1, 4_096, 4_097, 8_192, 100_000, 1 << 20] {
        let value = "v".repeat(length);
        store.put("a", &value);
        assert_eq!(store.get("a").map(|value| value.len()), Some(length));
        let restarted = store.restarted();
        assert_eq!(restarted.get("a"), Some(Bytes::from(value)));
        store = restarted;
    }
    assert_eq!(store.count(keys::PIECE), 256);
    store.put("a", "small");
    assert_eq!(store.count(keys::PIECE), 0);
}

fn list(
    store: &Store,
    prefix: &str,
    start: &str,
    cursor: &[u8],
    limit: usize,
) -> (Vec<String>, Option<Bytes>) {
    let page = Page {
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        start: Bytes::copy_from_slice(start.as_bytes()),
        cursor: Bytes::copy_from_slice(cursor),
        limit,
    };
    let listed = store.engine.reader().list(&page, store.now()).unwrap();
    (listed.entries.iter().map(|entry| entry.key.to_string()).collect(), listed.next)
}

#[test]
fn lists_are_in_key_order_and_pages_follow_each_other() {
    let mut store = Store::new(1);
    for name in ["b/2", "a", "b/1", "c", "b/3", "b"] {
        store.put(name, "x");
    }
    store.delete("b/2");
    store.put_for("b/0", "x", 0);
    assert_eq!(
        list(&store, "", "", b"", 100),
        (["a", "b", "b/1", "b/3", "c"].map(String::from).to_vec(), None)
    );
    assert_eq!(list(&store, "b/", "", b"", 100).0, ["b/1", "b/3"]);
    assert_eq!(list(&store, "", "b/2", b"", 100).0, ["b/3", "c"]);
    assert_eq!(list(&store, "b", "a", b"", 100).0, ["b", "b/1", "b/3"]);
    assert_eq!(list(&store, "b", "c", b"", 100).0, [""; 0]);
    let (mut all, mut cursor) = (Vec::new(), Bytes::new());
    loop {
        let (names, next) = list(&store, "", "", &cursor, 2);
        assert!(names.len() <= 2);
        all.extend(names);
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(all, ["a", "b", "b/1", "b/3", "c"]);
}

#[test]
fn a_page_ends_before_it_grows_too_large() {
    let mut store = Store::new(1);
    for number in 0..8 {
        store.put(&format!("{number}"), &"x".repeat(1 << 20));
    }
    let (names, next) = list(&store, "", "", b"", 100);
    assert_eq!((names.len(), next), (4, Some(Bytes::from("3"))));
}

#[test]
fn a_comparison_tells_what_the_live_map_lacks() {
    let mut store = Store::new(1);
    let mut known: Vec<Entry> = Vec::new();
    for number in 0..100 {
        known.push(entry(&format!("{number}"), 500, Some("x")));
    }
    store.merge(known.clone());
    store.seal_through(2);
    store.go(6_000);
    // Pending ones count, too.
    known.push(entry("pending", 5_500, Some("x")));
    known.push(entry("7", 5_600, Some("newer")));
    store.merge(known[100..].to_vec());
    let mut heads: Vec<_> = known.iter().map(Entry::head).collect();
    let all = store.engine.reader().compare(&heads, store.now()).unwrap();
    assert_eq!(all, Default::default());
    heads.push(entry("8", 600, Some("newer")).head());
    heads.push(entry("never", 1, None).head());
    heads.push(entry("9", 499, Some("older")).head());
    let compared = store.engine.reader().compare(&heads, store.now()).unwrap();
    assert_eq!((compared.missing, compared.ahead), (vec![102, 103], vec![]));
}

#[test]
fn own_nodes_are_the_sealed_ones() {
    let mut store = Store::new(1);
    let empty = store.engine.reader().nodes(&[Position::ROOT]).unwrap();
    assert_eq!((empty.epoch, empty.nodes), (Epoch(0), vec![Node::empty_bucket()]));
    store.merge((0..100).map(|number| entry(&format!("{number}"), 1, Some("x"))).collect());
    store.seal_through(0);
    let child = Position::ROOT.child(3).unwrap();
    let below = child.child(7).unwrap();
    let own = store.engine.reader().nodes(&[Position::ROOT, child, below]).unwrap();
    assert_eq!(own.epoch, Epoch(FIRST));
    let [Node::Inner(children), Node::Bucket(heads), Node::Bucket(few)] = &own.nodes[..] else {
        panic!("100 entries are an inner node over buckets: {own:?}")
    };
    assert_eq!(children.iter().map(|child| child.entries).sum::<u64>(), 100);
    assert_eq!(own.nodes[1].summary(), children[3]);
    // Below our bucket we have those of its entries that belong there.
    let expected: Vec<_> = heads.iter().filter(|head| below.covers(&head.key_hash)).copied().collect();
    assert_eq!(*few, expected);
}

#[test]
fn sealed_entries_stay_readable_while_seals_go_on() {
    let mut store = Store::new(1);
    let entries: Vec<Entry> = (0..500).map(|number| entry(&format!("{number}"), 1, Some("sealed"))).collect();
    store.merge(entries.clone());
    store.delete("0");
    store.put_for("expired", "x", 1);
    store.seal_through(0);
    let time = std::time::Duration::from_secs(1_000);
    let mut sealed = store.engine.reader().sealed_entries(store.now(), time).unwrap();
    assert_eq!(sealed.seal().epoch, Epoch(FIRST));
    for epoch in 10..60 {
        store.go(epoch * 1_000);
        store.put(&format!("{epoch}"), "newer");
        store.seal();
    }
    store.seal_through(200);
    let mut read = Vec::new();
    while let Some(bucket) = sealed.next_bucket().unwrap() {
        read.extend(bucket);
    }
    let mut expected: Vec<Entry> = entries[1..].to_vec();
    expected.sort_by_key(|entry| entry.key.hash());
    assert_eq!(read, expected);
    assert!(store.count(keys::HISTORY) > 0);
    drop(sealed);
    store.seal_through(300);
    store.seal();
    assert_eq!((store.count(keys::HISTORY), store.count(keys::OLDER)), (0, 0));
    let reader = store.engine.reader();
    let begin = |store: &Store| {
        std::iter::from_fn(|| reader.sealed_entries(store.now(), time)).take(9).collect::<Vec<_>>()
    };
    let reads = begin(&store);
    assert_eq!(reads.len(), 4);
    // Nobody reads on: their time is up, and what they kept is let go.
    store.put("1", "newer");
    store.seal_through(400);
    store.seal();
    assert!(store.count(keys::HISTORY) > 0);
    assert_eq!(begin(&store).len(), 0);
    store.go(store.wall + 1_000_000);
    store.seal();
    assert_eq!((store.count(keys::HISTORY), store.count(keys::OLDER)), (0, 0));
    assert_eq!(begin(&store).len(), 4);
    drop(reads);
}

#[test]
fn a_damaged_record_is_an_error_and_never_an_absence() {
    let mut store = Store::new(1);
    store.put("small", "x");
    store.put("large", &"x".repeat(10_000));
    store.seal_through(0);
    let damage = |store: &Store, tag: u8| {
        let (at, framed) = store.storage.first(&[tag], &[tag + 1]).unwrap().unwrap();
        let mut bytes = framed.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut batch = Batch::default();
        batch.put(at, bytes);
        store.storage.commit(&batch).unwrap();
    };
    damage(&store, keys::PIECE);
    let reader = store.engine.reader();
    let get = |name| reader.get(&key(name), store.now());
    assert!(matches!(get("large"), Err(Error::Entry { .. })));
    assert!(get("small").unwrap().is_some());
    damage(&store, keys::NODE);
    let heads = [entry("small", 1, None).head()];
    assert!(matches!(reader.compare(&heads, store.now()), Err(Error::Damaged(_))));
    assert!(matches!(reader.nodes(&[Position::ROOT]), Err(Error::Damaged(_))));
}

#[test]
fn no_record_grows_so_large_that_sled_puts_it_aside() {
    let folder = tempfile::tempdir().unwrap();
    let sled = SledStorage::open(folder.path(), 1 << 20).unwrap();
    let mut engine = open(sled, 1, &settings(), at(0, 0));
    for number in 0..40 {
        let name = format!("{number}/{}", "k".repeat(100));
        engine.write(&[put(&name, &"v".repeat(40_000 * (number % 3)), None)], at(number as u64, 0)).unwrap();
    }
    engine.seal(at(10_000, 10_000)).unwrap();
    let aside = std::fs::read_dir(folder.path().join("sled/blobs")).unwrap();
    assert_eq!(aside.count(), 0);
}

/// Readers that look for what is not there go down the tree while steps of sealing change it.
#[test]
fn no_absence_is_taken_for_damage_while_the_tree_changes() {
    let mut store = Store::new(1);
    let stop = AtomicBool::new(false);
    let readers: Vec<_> = (0..2).map(|_| store.engine.reader()).collect();
    std::thread::scope(|scope| {
        let asking: Vec<_> = readers
            .iter()
            .map(|reader| {
                scope.spawn(|| {
                    let mut asked = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let absent = key(&format!("absent-{}", asked % 1_000));
                        let found = reader.current(&absent);
                        assert!(matches!(found, Ok(None)), "after {asked}: {found:?}");
                        asked += 1;
                    }
                })
            })
            .collect();
        for epoch in 0..60 {
            for number in 0..40 {
                store.put(&format!("key-{epoch}-{number}"), "x");
            }
            store.seal_through(epoch);
        }
        stop.store(true, Ordering::Relaxed);
        asking.into_iter().for_each(|asking| asking.join().unwrap());
    });
}
