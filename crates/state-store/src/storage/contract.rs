//! What every storage must do, run against each of them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{Batch, MemoryStorage, SledStorage, Storage};

/// Opens, and opens again, what keeps its records in a folder.
type Open = fn(&Path) -> Box<dyn Storage>;

/// The storages on disk.
const ON_DISK: &[Open] = &[
    |folder| Box::new(SledStorage::open(folder, 1 << 20).unwrap()),
    #[cfg(feature = "redb")]
    |folder| Box::new(super::RedbStorage::open(folder, 1 << 20).unwrap()),
];

/// Runs `check` on every storage, each without records.
fn on_each(check: impl Fn(&dyn Storage)) {
    check(&MemoryStorage::new());
    for open in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        check(&*open(folder.path()));
    }
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
    for open in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path());
        storage.commit(&batch(&[("a", "1"), ("b", "2")], &[])).unwrap();
        storage.commit(&batch(&[], &["a"])).unwrap();
        drop(storage);
        let storage = open(folder.path());
        assert_eq!(keys(&*storage, "a", "z", 9), ["b"]);
    }
}

#[test]
fn a_folder_tells_whether_it_holds_a_database() {
    for open in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        assert!(!super::exists(folder.path()));
        drop(open(folder.path()));
        assert!(super::exists(folder.path()));
    }
}

/// The records of a batch, all of them equal: what is read of it must never mix two.
const TOGETHER: u32 = 64;

fn generation(number: u32) -> Batch {
    let mut batch = Batch::default();
    for key in 0..TOGETHER {
        batch.put(key.to_be_bytes().to_vec(), number.to_be_bytes().to_vec());
    }
    batch
}

#[test]
fn readers_go_on_during_commits_and_never_go_back() {
    on_each(|storage| {
        storage.commit(&generation(0)).unwrap();
        let done = AtomicBool::new(false);
        let read = |key: u32| {
            u32::from_be_bytes(storage.get(&key.to_be_bytes()).unwrap().unwrap()[..].try_into().unwrap())
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|reader| {
                    let (done, read) = (&done, &read);
                    scope.spawn(move || {
                        let mut newest = 0;
                        for key in (reader..TOGETHER).cycle() {
                            let found = read(key);
                            assert!(found >= newest, "{found} was read after {newest}");
                            newest = found;
                            if done.load(Ordering::Acquire) {
                                return;
                            }
                        }
                    })
                })
                .collect();
            for number in 1..=100 {
                storage.commit(&generation(number)).unwrap();
                assert_eq!(read(number % TOGETHER), number);
            }
            done.store(true, Ordering::Release);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    });
}

#[test]
fn an_iterator_survives_commits_that_change_what_it_visits() {
    on_each(|storage| {
        let mut changes = Batch::default();
        (0..1_000u32).for_each(|key| changes.put(key.to_be_bytes().to_vec(), vec![1; 100]));
        storage.commit(&changes).unwrap();
        let mut visited = Vec::new();
        let end = 1_500u32.to_be_bytes();
        storage
            .range(&[], &end, &mut |key, _| {
                let key = u32::from_be_bytes(key.try_into().unwrap());
                visited.push(key);
                if key % 100 == 0 {
                    // What lies behind comes and goes, and so does what lies ahead.
                    let mut changes = Batch::default();
                    (0..50).for_each(|offset| {
                        changes.remove((key.saturating_sub(offset)).to_be_bytes().to_vec())
                    });
                    (1..5).for_each(|offset| changes.remove((key + offset * 7).to_be_bytes().to_vec()));
                    changes.put((1_000 + key / 2).to_be_bytes().to_vec(), vec![2; 100]);
                    storage.commit(&changes).unwrap();
                }
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        assert!(visited.is_sorted_by(|one, next| one < next), "in order, and each once");
        let untouched = |key: &u32| key % 100 > 28 && key % 100 < 50;
        let missed: Vec<u32> = (0..1_000).filter(untouched).filter(|key| !visited.contains(key)).collect();
        assert!(missed.is_empty(), "{missed:?} were there all the time");
    });
}

#[test]
fn a_huge_batch_is_there_as_a_whole() {
    on_each(|storage| {
        let mut changes = Batch::default();
        (0..20_000u32).for_each(|key| changes.put(key.to_be_bytes().to_vec(), vec![3; 1_000]));
        storage.commit(&changes).unwrap();
        for key in [0u32, 7, 9_999, 19_999] {
            assert_eq!(storage.get(&key.to_be_bytes()).unwrap().unwrap().len(), 1_000);
        }
        assert_eq!(storage.last(&[], &[0xff]).unwrap().unwrap().0[..], 19_999u32.to_be_bytes());
    });
}
