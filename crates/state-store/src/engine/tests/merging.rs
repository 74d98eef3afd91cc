//! Entries that come from elsewhere: late, early, again, and ahead of time.

use bytes::Bytes;
use lattice_core::model::{Content, Epoch, Incarnation};

use super::fixture::*;
use crate::engine::held::ENTRIES_MAX;
use crate::engine::{Condition, Merged, WriteError};
use crate::format::keys;

fn merged(merged: u64, known: u64) -> Merged {
    Merged { merged, known, held: 0, dropped: 0, repaired: 0 }
}

#[test]
fn the_newest_of_each_unsealed_epoch_is_kept_whatever_the_order() {
    let entries = [
        entry("a", 100, Some("0.1")),
        entry("a", 200, Some("0.2")),
        entry("a", 1_100, Some("1.1")),
        entry("a", 1_200, None),
        entry("a", 2_100, Some("2.1")),
    ];
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1], [3, 0, 4, 1, 2]] {
        let mut store = Store::new(1);
        store.go(2_500);
        for index in order {
            store.merge(vec![entries[index].clone()]);
        }
        assert_eq!(store.merge(entries.to_vec()), merged(0, 5), "order {order:?}");
        let mut store = store.restarted();
        store.seal_through(2);
        for epoch in 0..3 {
            assert_eq!(
                store.root_at(epoch),
                Some(expected_root(&entries, epoch)),
                "epoch {epoch}, {order:?}"
            );
        }
        assert_eq!(store.get("a").as_deref(), Some(&b"2.1"[..]));
        store.seal_all_away(60);
        assert_eq!((store.count(keys::OLDER), store.count(keys::PENDING)), (0, 0));
    }
}

#[test]
fn a_late_entry_enters_at_the_next_seal_and_edits_none() {
    let mut store = Store::new(1);
    let on_time = entry("a", 100, Some("x"));
    let late = entry("b", 200, Some("late"));
    store.merge(vec![on_time.clone()]);
    store.seal_through(3);
    let sealed = store.runs();
    assert_eq!(store.merge(vec![late.clone()]), merged(1, 0));
    assert_eq!(store.runs(), sealed);
    store.seal_through(4);
    assert_eq!(store.root_at(0), Some(expected_root([&on_time], 0)));
    assert_eq!(store.root_at(3), store.root_at(0));
    assert_eq!(store.root_at(4), Some(expected_root([&on_time, &late], 4)));
}

#[test]
fn an_older_entry_than_the_sealed_one_is_known() {
    let mut store = Store::new(1);
    store.merge(vec![entry("a", 1_500, Some("sealed"))]);
    store.seal_through(3);
    store.go(6_500);
    store.merge(vec![entry("a", 6_200, Some("pending"))]);
    assert_eq!(store.merge(vec![entry("a", 1_400, Some("old"))]), merged(0, 1));
    assert_eq!(store.merge(vec![entry("a", 1_500, Some("sealed"))]), merged(0, 1));
    // Newer than the sealed one, older than the current one: the next seal needs it.
    assert_eq!(store.merge(vec![entry("a", 1_600, Some("late"))]), merged(1, 0));
    store.seal_through(4);
    let late = entry("a", 1_600, Some("late"));
    assert_eq!(store.root_at(4), Some(expected_root([&late], 4)));
    store.seal_through(6);
    assert_eq!(store.root_at(6), Some(expected_root([&store.current("a")], 6)));
    store.seal_all_away(50);
    assert_eq!(store.count(keys::OLDER), 0);
}

#[test]
fn equal_versions_are_settled_by_digest_and_counted() {
    let (one, other) = (entry("a", 100, Some("one")), entry("a", 100, Some("other")));
    let greater = if one.head().digest() > other.head().digest() { &one } else { &other };
    for order in [[&one, &other], [&other, &one]] {
        let mut store = Store::new(1);
        for entry in order {
            store.merge(vec![entry.clone()]);
        }
        assert_eq!(&store.current("a"), greater);
        store.seal_through(0);
        assert_eq!(store.root_at(0), Some(expected_root([greater], 0)));
        store.seal_all_away(40);
        assert_eq!(store.count(keys::OLDER), 0);
    }
}

#[test]
fn a_write_beats_what_it_overwrites_also_when_that_is_ahead() {
    let mut store = Store::new(1);
    let ahead = entry("a", 9_000, Some("ahead"));
    store.merge(vec![ahead.clone()]);
    let written = store.put("a", "mine");
    assert!(written.version > ahead.version);
    assert_eq!(store.get("a").as_deref(), Some(&b"mine"[..]));
}

#[test]
fn an_entry_too_far_ahead_is_held_until_it_is_due() {
    let mut store = Store::new(1);
    let ahead = entry("a", 10_001, Some(&"x".repeat(9_000)));
    assert_eq!(store.merge(vec![ahead.clone()]), Merged { held: 1, ..Merged::default() });
    assert_eq!(store.merge(vec![ahead.clone()]), merged(0, 1));
    assert_eq!(store.get("a"), None);
    let heads = [ahead.head(), entry("b", 1, None).head()];
    let compared = store.engine.reader().compare(&heads, store.now()).unwrap();
    assert_eq!((compared.ahead, compared.missing), (vec![0], vec![1]));
    let mut store = store.restarted();
    assert_eq!(store.engine.view().stats.held, 1);
    assert_eq!(store.engine.next_due().unwrap(), Some(at(1, 0).wall));
    store.go(1);
    store.seal();
    assert_eq!(store.engine.view().stats.held, 0);
    assert_eq!((store.count(keys::HELD), store.count(keys::PIECE)), (0, 3));
    assert_eq!(store.current("a"), ahead);
    store.seal_through(10);
    assert_eq!(store.root_at(10), Some(expected_root([&ahead], 10)));
}

#[test]
fn a_held_entry_that_came_once_more_keeps_its_value() {
    let long = "x".repeat(9_000);
    let entry = entry("a", 10_001, Some(&long));
    // Held, and then brought again once it is due, before it was released.
    let mut store = Store::new(1);
    assert_eq!(store.merge(vec![entry.clone()]).held, 1);
    store.go(1);
    assert_eq!(store.merge(vec![entry.clone()]), merged(1, 0));
    store.seal();
    assert_eq!((store.count(keys::HELD), store.count(keys::PIECE)), (0, 3));
    assert_eq!(store.current("a"), entry);

    // Merged, and then brought again after the clock went back a little.
    let mut store = Store::new(1);
    store.go(500);
    assert_eq!(store.merge(vec![entry.clone()]), merged(1, 0));
    store.wall = 0;
    assert_eq!(store.merge(vec![entry.clone()]), merged(0, 1));
    assert_eq!(store.count(keys::HELD), 0);

    // Held, and beaten before it is due: nothing is left of it.
    let mut store = Store::new(1);
    assert_eq!(store.merge(vec![entry.clone()]).held, 1);
    store.go(1);
    store.merge(vec![self::entry("a", 10_001 + 1, None)]);
    store.go(2);
    store.merge(vec![self::entry("a", 10_001 + 1, None)]);
    store.seal();
    assert_eq!((store.count(keys::HELD), store.count(keys::PIECE)), (0, 0));
}

#[test]
fn what_awaits_the_seal_under_way_is_not_taken_twice() {
    let mut store = Store::new(1);
    // All of it awaits epoch 5, save the newest of `a`.
    let crowd = (0..4_000).map(|number| entry(&format!("{number}"), 5_001, Some("x")));
    // A key that comes last, so that the first chunk does not take it.
    let last = crowd.clone().map(|entry| entry.key).max_by_key(|key| key.hash()).unwrap();
    let of_last =
        |millis, value| lattice_core::model::Entry { key: last.clone(), ..entry("any", millis, Some(value)) };
    store.go(5_500);
    store.merge(crowd.collect());
    let (sealed, late, newest) = (of_last(5_002, "sealed"), of_last(5_003, "late"), of_last(9_000, "newest"));
    store.merge(vec![sealed.clone(), newest]);
    store.go(8_100);
    let now = store.now();
    assert_eq!(store.engine.seal_step(now).unwrap(), crate::engine::Step::Worked);
    assert_eq!(store.engine.seal_step(now).unwrap(), crate::engine::Step::Worked);
    // What is under way has begun: both would go to the next epoch.
    assert_eq!(store.merge(vec![sealed.clone()]), merged(0, 1));
    assert_eq!(store.merge(vec![late]), merged(1, 0));
    store.seal();
    let mut found = None;
    let mut read = store.engine.reader().sealed_entries(now, std::time::Duration::from_secs(60)).unwrap();
    while let Some(bucket) = read.next_bucket().unwrap() {
        found = found.or(bucket.into_iter().find(|entry| entry.key == last));
    }
    assert_eq!(found, Some(sealed));
}

#[test]
fn held_entries_are_bounded_and_the_rest_is_dropped() {
    let mut store = Store::new(1);
    for from in (0..ENTRIES_MAX).step_by(1_000) {
        let entries = (from..from + 1_000).map(|number| entry(&format!("{number}"), 50_000, None));
        assert_eq!(store.merge(entries.collect()).held, 1_000);
    }
    let more = vec![entry("one more", 50_000, None)];
    assert_eq!(store.merge(more), Merged { dropped: 1, ..Merged::default() });
}

#[test]
fn conditions_are_judged_on_what_reads_see() {
    let mut store = Store::new(1);
    let refused = |outcome: Result<_, WriteError>| match outcome {
        Err(WriteError::Condition { index, .. }) => Some(index),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    let write = |store: &mut Store, condition| refused(store.try_write(vec![put("a", "x", Some(condition))]));
    assert_eq!(write(&mut store, Condition::Present), Some(0));
    assert_eq!(write(&mut store, Condition::Absent), None);
    assert_eq!(write(&mut store, Condition::Absent), Some(0));
    assert_eq!(write(&mut store, Condition::Present), None);
    let version = store.current("a").version;
    assert_eq!(write(&mut store, Condition::Version(version)), None);
    assert_eq!(write(&mut store, Condition::Version(version)), Some(0));
    store.delete("a");
    assert_eq!(write(&mut store, Condition::Absent), None);
    store.put_for("a", "x", 100);
    store.go(100);
    assert_eq!(write(&mut store, Condition::Present), Some(0));
    assert_eq!(write(&mut store, Condition::Absent), None);
}

#[test]
fn a_batch_is_all_or_nothing_and_sees_itself() {
    let mut store = Store::new(1);
    let ops = vec![put("a", "1", None), put("b", "1", None), put("a", "2", Some(Condition::Absent))];
    assert!(matches!(store.try_write(ops), Err(WriteError::Condition { index: 2, .. })));
    assert_eq!((store.get("a"), store.get("b")), (None, None));
    let ops = vec![put("a", "1", None), put("a", "2", Some(Condition::Present)), put("b", "1", None)];
    let written = store.try_write(ops).unwrap();
    assert!(written[0].version < written[1].version);
    assert_eq!(store.get("a").as_deref(), Some(&b"2"[..]));
    store.seal_through(0);
    assert_eq!(store.root_at(0).unwrap().unwrap().entries, 2);
}

#[test]
fn a_group_sees_what_was_staged_and_nobody_else_does() {
    let mut store = Store::new(1);
    let now = store.now();
    let mut group = store.engine.begin().unwrap();
    store.engine.stage_write(&mut group, &[put("a", "1", None)], now).unwrap();
    let again = store.engine.stage_write(&mut group, &[put("a", "2", Some(Condition::Absent))], now);
    assert!(matches!(again, Err(WriteError::Condition { .. })));
    store.engine.stage_write(&mut group, &[put("a", "3", Some(Condition::Present))], now).unwrap();
    assert_eq!(store.get("a"), None);
    let committed = store.engine.commit(group).unwrap();
    assert_eq!(committed.local.len(), 2);
    assert_eq!(store.get("a").as_deref(), Some(&b"3"[..]));
    assert_eq!(store.engine.view().stats.pending, 1);
}

#[test]
fn an_expired_value_reads_as_absent_and_any_later_write_beats_it() {
    let mut store = Store::new(1);
    let written = store.put_for("a", "x", 1_000);
    assert_eq!(written.expires, Some(at(1_000, 0).wall));
    store.go(999);
    assert!(store.get("a").is_some());
    store.go(1_000);
    assert_eq!(store.get("a"), None);
    let dropped = lattice_core::model::Entry {
        content: match entry("a", 0, Some("y")).head().content {
            lattice_core::model::HeadContent::Value(value_digest) => Content::Dropped { value_digest },
            lattice_core::model::HeadContent::Tombstone => panic!("it has a value"),
        },
        expires: Some(at(2_000, 0).wall),
        ..entry("b", 0, None)
    };
    store.merge(vec![dropped]);
    assert_eq!(store.get("b"), None);
    store.put("a", "y");
    assert_eq!(store.get("a"), Some(Bytes::from("y")));
}

#[test]
fn a_replaced_incarnation_is_never_believed_again() {
    let mut store = Store::new(1);
    let [old, new] = [Incarnation([1; 16]), Incarnation([2; 16])];
    store.engine.heard(node(2), old, 7, Epoch(3)).unwrap();
    store.engine.heard(node(2), old, 5, Epoch(9)).unwrap();
    store.engine.heard(node(2), new, 1, Epoch(1)).unwrap();
    store.engine.heard(node(2), old, 100, Epoch(100)).unwrap();
    for store in [&store, &store] {
        let reader = store.engine.reader();
        assert!(reader.incarnation_ok(&node(2), &new));
        assert!(!reader.incarnation_ok(&node(2), &old));
    }
    let store = store.restarted();
    assert!(!store.engine.reader().incarnation_ok(&node(2), &old));
    assert!(store.engine.reader().incarnation_ok(&node(2), &new));
    assert!(store.engine.reader().incarnation_ok(&node(3), &old));
}
