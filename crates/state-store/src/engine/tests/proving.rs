//! Proofs of what a sealed tree holds, checked as a stranger would.

use lattice_core::model::{Content, Epoch};

use super::fixture::*;
use crate::engine::{ProveError, Proved};

fn prove(store: &Store, name: &str, epoch: Option<u64>) -> Result<Proved, ProveError> {
    store.engine.reader().prove(&key(name), epoch.map(|epoch| Epoch(FIRST + epoch)))
}

#[test]
fn every_key_is_proved_and_so_is_every_absence() {
    let mut store = Store::new(1);
    assert!(matches!(prove(&store, "a", None), Err(ProveError::NoSeal)));
    store.merge((0..500).map(|number| entry(&format!("{number}"), number, Some("x"))).collect());
    store.put("large", &"x".repeat(100_000));
    store.put_for("brief", "x", 500);
    store.delete("deleted");
    store.seal_through(1);
    for name in ["0", "77", "499", "large", "brief", "deleted", "never", "nor this"] {
        let Proved { sealed, unsealed } = prove(&store, name, None).unwrap();
        assert_eq!(sealed.verify(&node(1), Some("lattice")), Ok(()), "{name}");
        assert_eq!(sealed.entry, store.engine.reader().current(&key(name)).unwrap(), "{name}");
        assert_eq!((sealed.seal.seal.epoch, unsealed), (Epoch(FIRST + 1), None));
        assert!(sealed.verify(&node(2), None).is_err());
        assert!(sealed.verify(&node(1), Some("other")).is_err());
    }
}

#[test]
fn what_is_not_sealed_yet_is_told_beside_the_proof() {
    let mut store = Store::new(1);
    store.put("a", "sealed");
    store.seal_through(1);
    store.go(7_500);
    let written = store.put("a", "newer");
    let new = store.put("b", "new");
    let Proved { sealed, unsealed } = prove(&store, "a", None).unwrap();
    sealed.verify(&node(1), None).unwrap();
    assert_eq!(sealed.entry.map(|entry| entry.content), Some(Content::Value("sealed".into())));
    assert_eq!(unsealed, Some((written.version, Epoch(FIRST + 7))));
    let Proved { sealed, unsealed } = prove(&store, "b", None).unwrap();
    sealed.verify(&node(1), None).unwrap();
    assert_eq!((sealed.entry, unsealed), (None, Some((new.version, Epoch(FIRST + 7)))));
}

#[test]
fn any_kept_epoch_can_be_stood_on_and_others_are_refused_by_name() {
    let mut store = Store::new(1);
    for epoch in 0..50 {
        store.go(epoch * 1_000 + 100);
        store.put("a", &format!("{epoch}"));
        store.seal();
    }
    store.seal_all_away(49);
    for epoch in [20, 35, 49] {
        let Proved { sealed, unsealed } = prove(&store, "a", Some(epoch)).unwrap();
        sealed.verify(&node(1), None).unwrap();
        assert_eq!(sealed.seal.seal.epoch, Epoch(FIRST + epoch));
        let value = sealed.entry.map(|entry| entry.content);
        assert_eq!(value, Some(Content::Value(format!("{epoch}").into())));
        assert_eq!(unsealed.is_some(), epoch != 49);
    }
    for (epoch, expected) in [(19, "got 1000019"), (50, "epochs 1000020 to 1000049")] {
        let error = prove(&store, "a", Some(epoch)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn of_a_tree_that_holds_nothing_every_absence_is_proved() {
    let mut store = Store::new(1);
    store.seal_through(3);
    let proved = prove(&store, "a", None).unwrap();
    assert_eq!((proved.sealed.verify(&node(1), None), &proved.sealed.entry), (Ok(()), &None));
    assert_eq!(proved.sealed.seal.seal.root, None);
}

#[test]
fn all_entries_are_exported_once_in_order_also_while_they_change() {
    let mut store = Store::new(1);
    for number in 0..100 {
        store.put(&format!("{number:02}"), &"x".repeat(number * 100));
    }
    store.delete("50");
    store.put_for("99", "expires", 1);
    store.go(20_000);
    store.seal();
    let reader = store.engine.reader();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = reader.export(after.as_ref(), 7, 10_000).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 7);
        after = Some(last.key.clone());
        names.extend(page.iter().map(|entry| entry.key.to_string()));
        store.put("98", &"y".repeat(9_000));
        store.put("00", "behind");
    }
    let expected: Vec<String> = (0..100).map(|number| format!("{number:02}")).collect();
    assert_eq!(names, expected);
    let last = reader.export(Some(&key("97")), 9, 1 << 20).unwrap();
    assert_eq!(last[0].content, Content::Value("y".repeat(9_000).into()));
    assert!(matches!(last[1].content, Content::Dropped { .. }));
}
