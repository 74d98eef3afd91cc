//! What every storage must do, run against each of them.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Batch, MemoryStorage, SledStorage, Storage};

/// Runs `check` on every storage, each without records.
fn on_each(check: impl Fn(&dyn Storage)) {
    check(&MemoryStorage::new());
    let folder = tempfile::tempdir().unwrap();
    check(&SledStorage::open(folder.path(), 1 << 20).unwrap());
}

fn batch(puts: &[(&str, &str)], removes: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in puts {
        batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    for key in removes {
        batch.remove(key.as_bytes().to_vec());
    }
    batch
}

fn keys(storage: &dyn Storage, from: &str, to: &str, limit: usize) -> Vec<String> {
    let mut keys = Vec::new();
    storage
        .range(from.as_bytes(), to.as_bytes(), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            Ok(if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
    keys
}

#[test]
fn a_batch_is_read_back() {
    on_each(|storage| {
        storage.commit(&batch(&[("a", "1"), ("b", "2")], &[])).unwrap();
        assert_eq!(storage.get(b"a").unwrap(), Some(Bytes::from("1")));
        storage.commit(&batch(&[("b", "3")], &["a", "never"])).unwrap();
        assert_eq!(storage.get(b"a").unwrap(), None);
        assert_eq!(storage.get(b"b").unwrap(), Some(Bytes::from("3")));
    });
}

#[test]
fn a_later_change_in_a_batch_replaces_an_earlier_one() {
    on_each(|storage| {
        let mut changes = batch(&[("a", "1")], &["a"]);
        assert_eq!(changes.get(b"a"), Some(None));
        changes.append(batch(&[("a", "2")], &[]));
        storage.commit(&changes).unwrap();
        assert_eq!(storage.get(b"a").unwrap(), Some(Bytes::from("2")));
    });
}

#[test]
fn ranges_are_ordered_half_open_and_end_when_told() {
    on_each(|storage| {
        storage.commit(&batch(&[("b", ""), ("d", ""), ("a", ""), ("c", "")], &[])).unwrap();
        assert_eq!(keys(storage, "a", "d", 9), ["a", "b", "c"]);
        assert_eq!(keys(storage, "aa", "z", 9), ["b", "c", "d"]);
        assert_eq!(keys(storage, "a", "z", 2), ["a", "b"]);
        assert!(keys(storage, "b", "b", 9).is_empty());
        assert!(keys(storage, "d", "a", 9).is_empty());
    });
}

#[test]
fn first_and_last_are_the_ends_of_a_range() {
    on_each(|storage| {
        storage.commit(&batch(&[("b", "1"), ("c", "2"), ("d", "3")], &[])).unwrap();
        let found = |found: Option<(Bytes, Bytes)>| found.map(|(key, _)| key);
        assert_eq!(found(storage.first(b"a", b"d").unwrap()), Some(Bytes::from("b")));
        assert_eq!(found(storage.last(b"a", b"d").unwrap()), Some(Bytes::from("c")));
        assert_eq!(found(storage.last(b"e", b"f").unwrap()), None);
        assert_eq!(found(storage.last(b"f", b"a").unwrap()), None);
    });
}

#[test]
fn long_ranges_and_large_values_pass() {
    on_each(|storage| {
        let mut changes = Batch::default();
        for n in 0..2_000u32 {
            changes.put(n.to_be_bytes().to_vec(), vec![0; 16]);
        }
        changes.put(b"large".to_vec(), vec![7; 1 << 20]);
        storage.commit(&changes).unwrap();
        let mut seen = 0u32;
        let end = 2_000u32.to_be_bytes();
        storage
            .range(&[], &end, &mut |key, _| {
                assert_eq!(key, seen.to_be_bytes());
                seen += 1;
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        assert_eq!(seen, 2_000);
        assert_eq!(storage.get(b"large").unwrap().unwrap().len(), 1 << 20);
    });
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let storage = SledStorage::open(folder.path(), 1 << 20).unwrap();
    storage.commit(&batch(&[("a", "1"), ("b", "2")], &[])).unwrap();
    storage.commit(&batch(&[], &["a"])).unwrap();
    drop(storage);
    let storage = SledStorage::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(keys(&storage, "a", "z", 9), ["b"]);
}
