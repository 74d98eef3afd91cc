//! Records that changed or vanished at rest: never served, found, noted, and mended.

use std::time::Duration;

use lattice_core::model::{Content, Entry};
use lattice_core::tree::Position;

use super::fixture::*;
use crate::engine::{Condition, Error, FindingKind, Op, Page, ProveError, Proved, WriteError};
use crate::format::keys;
use crate::storage::{Batch, Storage as _};

/// A store with sealed, replaced, deleted, pending and long values.
fn store() -> Store {
    let mut store = Store::new(1);
    for number in 0..200 {
        store.put(&format!("key-{number:03}"), &format!("value-{number}"));
    }
    store.put("large", &"x".repeat(10_000));
    store.delete("key-007");
    store.seal_through(0);
    store.put("key-001", "replaced");
    store.put("pending", "not yet sealed");
    store
}

fn current(name: &str) -> Vec<u8> {
    keys::current(&key(name))
}

fn get(store: &Store, name: &str) -> Result<Option<Entry>, Error> {
    store.engine.reader().get(&key(name), store.now())
}

fn is_damaged<T>(read: &Result<T, Error>) -> bool {
    matches!(read, Err(Error::Entry { .. }))
}

fn list(store: &Store, prefix: &'static str) -> Result<usize, Error> {
    let page = Page { prefix: prefix.into(), limit: 1_000, ..Page::default() };
    store.engine.reader().list(&page, store.now()).map(|listed| listed.entries.len())
}

fn kinds(store: &mut Store) -> Vec<FindingKind> {
    store.check().iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_whole_store_has_no_findings() {
    let mut store = store();
    assert_eq!(store.check(), []);
    store.seal_through(20);
    assert_eq!(store.check(), []);
    let mut store = store.restarted();
    assert_eq!(store.check(), []);
}

#[test]
fn an_entry_that_vanished_is_damage_and_never_an_absence() {
    for name in ["key-000", "key-001", "large", "pending"] {
        let mut store = store();
        store.lose(current(name));
        assert!(is_damaged(&get(&store, name)), "{name}");
        assert!(get(&store, "absent").unwrap().is_none());
        let before = store.engine.view().damage_generation;
        store.seal();
        assert_eq!(store.damaged(), [name]);
        assert_eq!(store.engine.view().damage_generation, before + 1);
        assert!(is_damaged(&get(&store, name)), "{name}");
        store.seal();
        assert_eq!(store.engine.view().damage_generation, before + 1, "it is found once");
        let store = store.restarted();
        assert_eq!(store.damaged(), [name]);
        assert!(is_damaged(&get(&store, name)), "{name}");
    }
}

#[test]
fn a_lost_deletion_reads_as_absent_and_is_noted() {
    let mut store = store();
    store.lose(current("key-007"));
    assert!(get(&store, "key-007").unwrap().is_none());
    store.seal();
    assert_eq!(store.damaged(), ["key-007"]);
}

#[test]
fn a_changed_entry_or_value_is_damage() {
    for name in ["key-000", "key-001", "large", "pending"] {
        let mut store = store();
        store.flip(&current(name));
        assert!(is_damaged(&get(&store, name)), "{name}");
        store.seal();
        assert_eq!(store.damaged(), [name]);
    }
    let mut store = store();
    store.flip(&[keys::PIECE]);
    assert!(is_damaged(&get(&store, "large")));
    store.seal();
    assert_eq!(store.damaged(), ["large"]);
    let head = store.engine.reader().damaged(&[], 1).unwrap()[0].head;
    assert!(head.is_some(), "its own record tells what it was");
}

#[test]
fn lists_name_the_damaged_key_they_cover_instead_of_being_short() {
    let mut store = store();
    store.lose(current("key-050"));
    assert_eq!(list(&store, "key-05").unwrap(), 9, "nothing has noticed yet");
    assert_eq!(kinds(&mut store), [FindingKind::Entry]);
    let refused = list(&store, "key-05").unwrap_err();
    assert!(refused.to_string().contains("key-050"), "{refused}");
    assert!(is_damaged(&list(&store, "")));
    assert_eq!(list(&store, "key-04").unwrap(), 10);
    assert_eq!(list(&store, "key-06").unwrap(), 10);
    // Pages that end before it are whole.
    let reader = store.engine.reader();
    let page = Page { prefix: "key-".into(), limit: 20, ..Page::default() };
    let first = reader.list(&page, store.now()).unwrap();
    let second = Page { cursor: first.next.unwrap(), ..page.clone() };
    let second = reader.list(&second, store.now()).unwrap();
    let third = Page { cursor: second.next.unwrap(), ..page };
    assert!(is_damaged(&reader.list(&third, store.now())));
    // A record that does not read is noticed by the list itself.
    store.flip(&current("key-060"));
    assert!(is_damaged(&list(&store, "key-06")));
    store.seal();
    assert_eq!(store.damaged(), ["key-050", "key-060"]);
}

#[test]
fn conditions_are_not_judged_where_nobody_knows_what_is_there() {
    let mut store = store();
    store.lose(current("key-000"));
    store.flip(&current("key-002"));
    for name in ["key-000", "key-002"] {
        for condition in [Condition::Absent, Condition::Present] {
            let refused = store.try_write(vec![put(name, "new", Some(condition))]);
            assert!(matches!(refused, Err(WriteError::Unknown { index: 0, source: Error::Entry { .. } })));
        }
        let delete = Op::Delete { key: key(name), condition: Some(Condition::Present) };
        assert!(store.try_write(vec![delete]).is_err());
    }
    store.try_write(vec![put("absent", "new", Some(Condition::Absent))]).unwrap();
}

#[test]
fn a_newer_write_takes_the_place_of_a_damaged_entry() {
    for name in ["key-000", "key-001", "large", "pending"] {
        for noted in [true, false] {
            let mut store = store();
            let before = store.current(name).version;
            store.flip(&current(name));
            if noted {
                assert!(is_damaged(&get(&store, name)));
                store.seal();
                assert_eq!(store.damaged(), [name]);
            }
            assert!(store.put(name, "new").version > before);
            assert_eq!(store.get(name).unwrap(), "new");
            store.seal_all_away(60);
            store.engine.take_findings();
            assert_eq!(store.damaged(), Vec::<String>::new());
            assert_eq!(store.check(), []);
            assert_eq!(store.count(keys::OLDER), 0, "{name}");
            assert!(name != "large" || store.count(keys::PIECE) == 0, "its pieces are gone");
            let all: Vec<Entry> = store
                .engine
                .reader()
                .list(&Page { limit: 1_000, ..Page::default() }, store.now())
                .unwrap()
                .entries;
            let deleted = store.current("key-007");
            let root = expected_root(all.iter().chain([&deleted]), 60);
            assert_eq!(store.root_at(60), Some(root), "{name}");
        }
    }
}

#[test]
fn an_equal_entry_of_a_peer_repairs_and_leaves_the_root() {
    for name in ["key-000", "key-001", "key-007", "large", "pending"] {
        for vanished in [true, false] {
            let mut store = store();
            let entry = store.current(name);
            if vanished {
                store.lose(current(name));
            } else {
                store.flip(&current(name));
            }
            assert_eq!(store.check().len(), 1);
            assert_eq!(store.damaged(), [name]);
            let other = Entry { content: Content::Value("not it".into()), ..entry.clone() };
            let older = super::fixture::entry(name, 0, Some("older"));
            let ahead = store.merge(vec![older.clone()]);
            assert_eq!((ahead.merged, ahead.repaired), (0, 0), "{name}: no pull turns back time");
            assert_eq!(store.repair(vec![older]).repaired, 0);
            if !other.head().dominates(&entry.head()) {
                assert_eq!(store.repair(vec![other]).repaired, 0);
            }
            assert_eq!(store.repair(vec![entry.clone()]).repaired, 1);
            assert_eq!(store.current(name), entry);
            assert_eq!(store.check(), []);
            assert_eq!(store.damaged(), Vec::<String>::new());
            let store = store.restarted();
            assert_eq!(store.current(name), entry);
        }
    }
}

#[test]
fn an_entry_of_unknown_version_is_repaired_by_what_peers_prove() {
    let mut store = store();
    let entry = store.current("key-000");
    // Both the entry and what the tree says of it.
    store.flip(&current("key-000"));
    let (at, to) = (vec![keys::NODE], vec![keys::NODE + 1]);
    let mut nodes = Vec::new();
    let mut visit = |at: &[u8], _: bytes::Bytes| {
        nodes.push(at.to_vec());
        Ok(std::ops::ControlFlow::Continue(()))
    };
    store.storage.range(&at, &to, &mut visit).unwrap();
    let mut batch = Batch::default();
    nodes.into_iter().for_each(|at| batch.remove(at));
    store.storage.commit(&batch).unwrap();
    assert!(is_damaged(&get(&store, "key-000")));
    let before = store.engine.view().incarnation;
    store.seal_through(10);
    assert_ne!(store.engine.view().incarnation, before, "the tree was built again");
    assert_eq!(store.damaged(), ["key-000"]);
    // A pull alone does not know whether it brings what was here.
    let older = Entry { content: Content::Value("who knows".into()), ..entry.clone() };
    assert_eq!(store.merge(vec![older]).merged, 1);
    assert!(is_damaged(&get(&store, "key-000")));
    let newest = if store.repair(vec![entry.clone()]).repaired == 1 { entry } else { panic!("not repaired") };
    assert!(get(&store, "key-000").unwrap().is_some());
    assert!(store.current("key-000").head().dominates(&newest.head()));
    store.seal_through(20);
    store.engine.take_findings();
    assert_eq!(store.check(), []);
}

#[test]
fn a_damaged_tree_is_rebuilt_from_its_entries_under_a_new_incarnation() {
    for vanished in [true, false] {
        for towards in ["key-000", "key-123"] {
            for depth in [0, 1] {
                let mut store = store();
                store.seal_through(4);
                let root = store.root_at(4);
                let before = store.engine.view().incarnation;
                let position = Position::towards(&key(towards).hash(), depth);
                let at = keys::Generation::default().node(&position);
                if vanished {
                    store.lose(at.to_vec());
                } else {
                    store.flip(&at);
                }
                let findings = store.check();
                assert!(!findings.is_empty());
                assert!(findings.iter().all(|finding| finding.kind == FindingKind::Node), "{findings:?}");
                store.seal_through(8);
                let view = store.engine.view();
                assert_ne!(view.incarnation, before);
                assert_eq!(view.stats.damaged, 0);
                assert_eq!(store.root_at(8), root, "the same entries make the same tree");
                assert_eq!(store.check(), []);
                assert_eq!(store.get("key-123").unwrap(), "value-123");
                assert!(get(&store, "absent").unwrap().is_none());
            }
        }
    }
}

#[test]
fn sealing_goes_on_after_damage_to_what_awaits_it() {
    for tag in [keys::PENDING, keys::EXPIRY, keys::HISTORY, keys::OLDER] {
        let mut store = store();
        store.put_for("short", "gone soon", 60_000);
        store.seal_through(8);
        for number in 0..50 {
            store.put(&format!("key-{number:03}"), "again");
        }
        store.put_for("short", "gone later", 90_000);
        store.flip(&[tag]);
        let now = {
            store.go(store.wall + 6_000);
            store.now()
        };
        let mut failures = 0;
        loop {
            match store.engine.seal_step(now) {
                Ok(crate::engine::Step::Idle) => break,
                Ok(_) => {}
                Err(_) => failures += 1,
            }
            assert!(failures < 5, "tag {tag}: it comes to an end");
        }
        store.seal_all_away(60);
        store.engine.take_findings();
        assert_eq!(store.check(), [], "tag {tag}");
        assert_eq!(store.get("key-003").unwrap(), "again");
        let entries = store.engine.view().stats.entries;
        assert_eq!(entries, 203, "tag {tag}");
    }
}

#[test]
fn an_entry_under_no_root_awaits_sealing_again() {
    let mut store = store();
    store.seal_through(1);
    store.put("forgotten", "by its epoch");
    let (from, to) = keys::Generation::default().all(keys::PENDING);
    let (at, _) = store.storage.first(&from, &to).unwrap().unwrap();
    store.lose(at.to_vec());
    let mut store = store.restarted();
    assert_eq!(kinds(&mut store), [FindingKind::Uncovered]);
    store.seal_through(10);
    assert_eq!(store.check(), []);
    assert_eq!(store.engine.view().stats.entries, 202);
    assert_eq!(store.get("forgotten").unwrap(), "by its epoch");
}

#[test]
fn an_entry_older_than_the_tree_says_is_damage() {
    let mut store = store();
    let old = store.storage.get(&current("key-001")).unwrap().unwrap();
    store.put("key-001", "newer");
    store.seal_through(1);
    let mut batch = Batch::default();
    batch.put(current("key-001"), old);
    store.storage.commit(&batch).unwrap();
    assert_eq!(kinds(&mut store), [FindingKind::Entry]);
    assert!(is_damaged(&get(&store, "key-001")));
}

#[test]
fn meta_records_that_are_damaged_at_rest_are_made_again() {
    for name in ["sequence", "state", "commit"] {
        let mut store = store();
        let before = store.engine.view().incarnation;
        let first = store.engine.reserve_sequence(10).unwrap();
        store.flip(&keys::meta(name));
        assert_eq!(kinds(&mut store), [FindingKind::Other], "{name}");
        assert_eq!(store.check(), []);
        let changed = store.engine.view().incarnation != before;
        assert_eq!(changed, name == "sequence", "numbers are handed out once an incarnation");
        let next = store.engine.reserve_sequence(10).unwrap();
        assert!(changed || next == first + 10);
        let _ = store.restarted();
    }
}

#[test]
fn a_recovering_store_answers_what_it_lacks_with_an_error() {
    let mut store = store();
    let now = store.now();
    store.engine.begin_recovering("a test", now).unwrap();
    let mut store = store.restarted();
    assert!(store.engine.reader().seals().recovering);
    assert!(matches!(get(&store, "absent"), Err(Error::Recovering)));
    assert!(matches!(list(&store, "key-00"), Err(Error::Recovering)));
    assert_eq!(store.get("key-003").unwrap(), "value-3");
    assert!(matches!(get(&store, "key-007"), Err(Error::Recovering)), "it may have been written since");
    let refused = store.try_write(vec![put("key-003", "new", Some(Condition::Present))]);
    assert!(matches!(refused, Err(WriteError::Unknown { source: Error::Recovering, .. })));
    assert!(matches!(prove(&store, "absent"), Err(ProveError::Store(Error::Recovering))));
    assert!(prove(&store, "key-003").unwrap().sealed.entry.is_some());
    assert!(matches!(export(&store), Err(Error::Recovering)), "what it lacks would be left out");
    assert!(matches!(sealed(&store), Err(Error::Recovering)));
    store.put("new", "unconditional");
    assert!(!store.engine.recovered(lattice_core::model::Incarnation([9; 16])).unwrap());
    let ours = store.engine.view().incarnation;
    assert!(store.engine.recovered(ours).unwrap());
    let store = store.restarted();
    assert!(get(&store, "absent").unwrap().is_none());
    assert!(prove(&store, "absent").unwrap().sealed.entry.is_none());
    assert_eq!(export(&store).unwrap().len(), 203, "with the deletion, and what awaits its seal");
    assert_eq!(sealed(&store).unwrap(), 200);
    assert!(!store.engine.reader().seals().recovering);
}

#[test]
fn what_is_damaged_is_neither_proved_nor_left_out_of_a_whole() {
    let mut store = store();
    store.flip(&current("key-002"));
    store.check();
    assert!(matches!(prove(&store, "key-002"), Err(ProveError::Store(Error::Entry { .. }))));
    assert!(is_damaged(&export(&store)));
    assert!(is_damaged(&sealed(&store)));
    assert!(prove(&store, "absent").unwrap().sealed.entry.is_none(), "the tree knows");
}

fn prove(store: &Store, name: &str) -> Result<Proved, ProveError> {
    store.engine.reader().prove(&key(name), None)
}

fn export(store: &Store) -> Result<Vec<Entry>, Error> {
    store.engine.reader().export(None, 1_000, 1 << 20)
}

/// How many entries the newest seal has.
fn sealed(store: &Store) -> Result<usize, Error> {
    let mut entries = store.engine.reader().sealed_entries(store.now(), Duration::from_secs(1)).unwrap();
    let mut count = 0;
    while let Some(bucket) = entries.next_bucket()? {
        count += bucket.len();
    }
    Ok(count)
}

#[test]
fn an_accepted_loss_leaves_a_whole_store_under_a_new_incarnation() {
    let mut store = store();
    store.lose(current("key-000"));
    store.flip(&current("key-002"));
    let now = store.now();
    store.engine.begin_recovering("a test", now).unwrap();
    store.check();
    let before = store.engine.view().incarnation;
    store.engine.accept_loss(now).unwrap();
    store.seal_through(10);
    assert_ne!(store.engine.view().incarnation, before);
    for name in ["key-000", "key-002"] {
        assert!(get(&store, name).unwrap().is_none());
    }
    assert_eq!(store.engine.view().stats.entries, 199);
    assert_eq!(store.check(), []);
}
