//! Changes in the order of their commits: as they happen, and after a gap.

use super::fixture::*;
use crate::engine::changes::{Changes, ChangesError, NOTED_CHANGES};
use crate::format::keys;
use crate::storage::{Batch, Storage as _};

/// What is told from a number on, page by page: number, key and value.
fn noted(store: &Store, from: u64, prefix: &str) -> Vec<(u64, String, String)> {
    let reader = store.engine.reader();
    let mut told = Vec::new();
    let mut next = from;
    while next <= reader.last_change() {
        let page = reader.noted_changes(next, prefix.as_bytes()).unwrap();
        assert!(page.next > next, "each page gets on");
        next = page.next;
        told.extend(rows(page));
    }
    told
}

fn rows(page: Changes) -> Vec<(u64, String, String)> {
    let value = |entry: &lattice_core::model::Entry| match &entry.content {
        lattice_core::model::Content::Value(value) => String::from_utf8_lossy(value).into_owned(),
        lattice_core::model::Content::Tombstone => "deleted".to_owned(),
        lattice_core::model::Content::Dropped { .. } => "dropped".to_owned(),
    };
    let changes = page.changes.into_iter();
    changes.map(|change| (change.sequence, change.entry.key.to_string(), value(&change.entry))).collect()
}

fn row(sequence: u64, key: &str, value: &str) -> (u64, String, String) {
    (sequence, key.to_owned(), value.to_owned())
}

#[test]
fn every_change_is_told_in_the_order_of_commits_while_somebody_watches() {
    let mut store = Store::new(1);
    let reader = store.engine.reader();
    store.put("before", "x");
    let watching = reader.watch();
    let from = reader.last_change() + 1;
    store.put("a", "1");
    store.put("a", "2");
    store.try_write(vec![put("b", "1", None), put("c/1", "1", None)]).unwrap();
    store.delete("a");
    // Late, and known already, and of an older version than what is read.
    store.go(1_000);
    store.merge(vec![entry("late", 1, Some("x"))]);
    store.merge(vec![entry("late", 1, Some("x"))]);
    store.merge(vec![entry("late", 0, Some("older"))]);
    store.seal_through(3);
    let told = reader.recent_changes(from, b"").unwrap();
    assert_eq!(told.next, 8);
    let expected = [
        row(2, "a", "1"),
        row(3, "a", "2"),
        row(4, "b", "1"),
        row(5, "c/1", "1"),
        row(6, "a", "deleted"),
        row(7, "late", "x"),
    ];
    assert_eq!(rows(told), expected);
    let told = reader.recent_changes(from, b"c/").unwrap();
    assert_eq!((told.next, rows(told)), (8, vec![row(5, "c/1", "1")]));
    assert_eq!(reader.recent_changes(1, b""), None, "nobody watched then");
    drop(watching);
    assert_eq!(reader.recent_changes(from, b""), None, "nobody watches now");
    assert_eq!(reader.recent_changes(8, b"").map(rows), Some(Vec::new()));
}

#[test]
fn after_a_gap_the_newest_change_of_each_key_is_told_at_its_place() {
    let mut store = Store::new(1);
    for (name, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2")] {
        store.put(name, value);
    }
    store.delete("c");
    store.merge(vec![entry("long", 7, Some(&"x".repeat(9_000)))]);
    let expected =
        [row(3, "a", "2"), row(5, "b", "2"), row(6, "c", "deleted"), row(7, "long", &"x".repeat(9_000))];
    assert_eq!(noted(&store, 1, ""), expected);
    assert_eq!(noted(&store, 6, ""), expected[2..]);
    assert_eq!(noted(&store, 1, "b"), expected[1..2]);
    assert_eq!(noted(&store, 8, ""), []);
    // And over a restart and a new incarnation, which change no entry.
    let mut store = store.restarted();
    assert_eq!(noted(&store, 1, ""), expected);
    store.put("d", "1");
    assert_eq!(noted(&store, 8, ""), [row(8, "d", "1")]);
    let incarnation = store.engine.view().incarnation;
    store.engine.reincarnate(incarnation).unwrap();
    store.seal_through(5);
    assert_eq!(noted(&store, 8, ""), [row(8, "d", "1")]);
    store.put("e", "1");
    assert_eq!(noted(&store, 9, ""), [row(9, "e", "1")]);
}

#[test]
fn a_value_that_expires_is_no_change_and_one_that_is_taken_back_is() {
    let mut store = Store::new(1);
    store.put_for("a", "x", 1_000);
    store.seal_through(20);
    store.seal();
    assert_eq!(noted(&store, 1, ""), [row(1, "a", "dropped")]);
    assert_eq!(store.engine.reader().last_change(), 1);
    let mut back = store.current("a");
    (back.key, back.expires) = (key("b"), Some(at(90_000, 0).wall));
    store.merge(vec![back.clone()]);
    assert_eq!(noted(&store, 2, ""), [row(2, "b", "dropped")]);
    back.content = lattice_core::model::Content::Value("x".into());
    store.merge(vec![back]);
    assert_eq!(noted(&store, 2, ""), [row(2, "b", "x"), row(3, "b", "x")], "it is the same entry");
}

#[test]
fn what_is_held_is_told_when_it_is_due() {
    let mut store = Store::new(1);
    store.merge(vec![entry("ahead", 15_000, Some("x"))]);
    assert_eq!(store.engine.reader().last_change(), 0);
    store.go(6_000);
    store.seal();
    assert_eq!(noted(&store, 1, ""), [row(1, "ahead", "x")]);
}

#[test]
fn a_watcher_that_falls_behind_goes_on_from_the_disk() {
    let mut store = Store::new(1);
    let reader = store.engine.reader();
    let _watching = reader.watch();
    for round in 0..5 {
        let ops: Vec<_> =
            (0..1_000).map(|number| put(&format!("{number}"), &format!("{round}"), None)).collect();
        store.try_write(ops).unwrap();
    }
    assert_eq!(reader.recent_changes(1, b""), None, "there is a bound");
    let told = noted(&store, 1, "");
    assert_eq!(told.len(), 1_000, "each key once");
    assert!(told.iter().all(|(sequence, _, value)| *sequence > 4_000 && value == "4"));
    // Large values as well.
    for number in 0..20 {
        store.put(&format!("{number}"), &"x".repeat(1 << 20));
    }
    assert_eq!(reader.recent_changes(5_001, b""), None);
    assert!(reader.recent_changes(5_015, b"").is_some());
    assert!(reader.noted_changes(5_001, b"").unwrap().changes.len() < 20, "a page has a bound");
    assert_eq!(noted(&store, 5_001, "").len(), 20);
}

#[test]
fn only_so_much_is_noted_and_who_comes_too_late_is_told() {
    let mut store = Store::new(1);
    // Single changes first, each a record of its own, and then many at once.
    for number in 0..2_000 {
        store.put(&format!("{}", number % 100), "x");
    }
    let batch =
        |round: u64| (0..1_000).map(|key| put(&format!("{key}"), &format!("{round}"), None)).collect();
    for round in 0..110 {
        store.try_write(batch(round)).unwrap();
    }
    let reader = store.engine.reader();
    let last = reader.last_change();
    assert_eq!(last, 112_000);
    let records = store.count(keys::CHANGE);
    assert!(records < 3_000, "{records} records");
    assert!(matches!(reader.noted_changes(1, b""), Err(ChangesError::Forgotten { from: 1 })));
    let oldest = last - NOTED_CHANGES + 1;
    assert!(reader.noted_changes(oldest, b"").is_ok());
    assert!(reader.noted_changes(oldest - 1_000, b"").is_err());
    assert_eq!(noted(&store, oldest, "").len(), 1_000);
    let store = store.restarted();
    assert_eq!(noted(&store, oldest, "").len(), 1_000);
}

#[test]
fn a_note_that_is_damaged_ends_the_watch_rather_than_hide_a_change() {
    let mut store = Store::new(1);
    for number in 0..5 {
        store.put(&format!("{number}"), "x");
    }
    let mut batch = Batch::default();
    batch.put(keys::change(3), "noise");
    store.storage.commit(&batch).unwrap();
    let reader = store.engine.reader();
    let page = reader.noted_changes(1, b"").unwrap();
    assert_eq!((page.next, page.changes.len()), (3, 2));
    assert!(matches!(reader.noted_changes(3, b""), Err(ChangesError::Forgotten { from: 3 })));
    assert_eq!(noted(&store, 4, "").len(), 2);
    store.put("goes on", "x");
}
