//! Values that expire: when they go, what stays, and that no clock makes replicas differ.

use std::time::Duration;

use bytes::Bytes;
use lattice_core::exchange::{Answer, Ask, FetchAsk, Known, PageBucket, Reason};
use lattice_core::model::{Content, Entry, Epoch};
use lattice_core::time::WallTime;
use lattice_core::tree::{Node, Position};

use super::fixture::*;
use super::serving::serve;
use crate::engine::{Settings, Step};
use crate::format::keys;

/// How long after its expiry a value is dropped.
const DRIFT: u64 = 10_000;

fn is_dropped(entry: &Entry) -> bool {
    matches!(entry.content, Content::Dropped { .. })
}

/// An entry of another writer that expires.
fn expiring(name: &str, millis: u64, value: &str, expires: u64) -> Entry {
    Entry { expires: Some(at(expires, 0).wall), ..entry(name, millis, Some(value)) }
}

fn without_value(entry: &Entry) -> Entry {
    let lattice_core::model::HeadContent::Value(value_digest) = entry.head().content else {
        panic!("it has a value")
    };
    Entry { content: Content::Dropped { value_digest }, ..entry.clone() }
}

/// What a peer gets of a key, who knows all heads.
fn fetched(store: &Store, name: &str) -> Answer {
    let own = store.engine.reader().nodes(&[Position::ROOT]).unwrap();
    let [Node::Bucket(heads)] = &own.nodes[..] else { panic!("a small store is one bucket") };
    let known = Known::truncate(heads, 32);
    let ask = FetchAsk { position: Position::ROOT, known, keys: vec![key(name).hash()] };
    serve(store, &Ask::Fetch { epoch: None, buckets: vec![ask] })
}

fn entry_in(answer: Answer) -> Entry {
    let Answer::Fetch { mut pages, .. } = answer else { panic!("{answer:?}") };
    let PageBucket::Entries { entries, .. } = pages.remove(0).bucket else { panic!("a bucket") };
    entries.into_iter().next().expect("it was brought")
}

#[test]
fn replicas_whose_clocks_differ_have_equal_roots_before_during_and_after_an_expiry() {
    // One clock is nine seconds ahead of the other, which is within the drift; sealing waits for longer.
    let settings = || Settings { settle: Duration::from_secs(11), ..settings() };
    let (mut early, mut late) = (Store::with(1, settings()), Store::with(2, settings()));
    early.go(9_000);
    let entries = [
        expiring("a", 100, "x", 20_000),
        expiring("b", 200, &"y".repeat(9_000), 25_000),
        entry("c", 300, Some("z")),
    ];
    let overwritten = expiring("a", 15_500, "later", 72_000);
    let mut roots = 0;
    for step in 0..70 {
        for (store, ahead) in [(&mut early, 9_000), (&mut late, 0)] {
            store.go((step * 1_000 + ahead).max(store.wall));
            match step {
                0 => drop(store.merge(entries.to_vec())),
                16 => drop(store.merge(vec![overwritten.clone()])),
                _ => {}
            }
            store.seal();
            let now = store.now();
            store.engine.extend(now).unwrap();
        }
        let newest = late.engine.view().newest_run().map(|newest| newest.run.to);
        let Some(epoch) = newest.map(|epoch| epoch.0 - FIRST) else { continue };
        assert_eq!(early.root_at(epoch), late.root_at(epoch), "step {step}, epoch {epoch}");
        assert_eq!(late.root_at(epoch).unwrap().unwrap().entries, 3, "step {step}");
        roots += 1;
    }
    assert!(roots > 50);
    // `b` expired at 25 s: the one has dropped its value by now, and so has the other.
    for store in [&early, &late] {
        assert!(is_dropped(&store.current("b")));
        assert_eq!(store.current("b").head(), entries[1].head());
        assert_eq!(store.count(keys::PIECE), 0);
    }
    assert_eq!(early.get("a"), None, "72 s have passed by this clock");
    assert_eq!(late.get("a"), Some(Bytes::from("later")));
    assert_eq!(late.get("c"), early.get("c"));
}

#[test]
fn a_value_is_dropped_no_earlier_than_the_drift_allows_and_only_its_space_is_missed() {
    let mut store = Store::new(1);
    let long = "x".repeat(100_000);
    store.put_for("a", &long, 5_000);
    store.put_for("b", "short", 5_000);
    store.put("kept", &long);
    store.seal_through(6);
    assert_eq!(store.state_size(), 1);
    let (root, entry) = (store.root_at(6), store.current("a"));
    assert_eq!(store.count(keys::PIECE), 50);
    store.go(5_000 + DRIFT - 1);
    store.seal();
    assert_eq!(store.get("a"), None);
    assert_eq!(store.current("a"), entry, "a peer may still ask for it");
    assert_eq!(store.engine.next_due().unwrap(), Some(at(5_000 + DRIFT, 0).wall));

    store.go(5_000 + DRIFT);
    store.seal();
    assert!(is_dropped(&store.current("a")) && is_dropped(&store.current("b")));
    assert_eq!(store.current("a").head(), entry.head());
    assert_eq!((store.count(keys::PIECE), store.count(keys::TERM)), (25, 0));
    assert_eq!(store.engine.next_due().unwrap(), None);
    store.seal_through(20);
    assert_eq!(store.root_at(20), root);
    assert_eq!(store.state_size(), 1);
    // It stays so over a restart, and any later write beats it.
    let mut store = store.restarted();
    assert!(is_dropped(&store.current("a")));
    let written = store.put("a", "again");
    assert!(written.version > entry.version);
    assert_eq!(store.get("a"), Some(Bytes::from("again")));
}

#[test]
fn a_key_that_was_written_again_keeps_its_value_when_the_old_one_expires() {
    let mut store = Store::new(1);
    store.put_for("longer", "1", 1_000);
    store.put_for("longer", "2", 60_000);
    store.put_for("for ever", "1", 1_000);
    store.put("for ever", "2");
    store.put_for("deleted", "1", 1_000);
    store.delete("deleted");
    assert_eq!(store.count(keys::TERM), 1);
    store.go(1_000 + DRIFT);
    store.seal();
    assert_eq!(store.get("longer"), Some(Bytes::from("2")));
    assert_eq!(store.get("for ever"), Some(Bytes::from("2")));
    store.go(60_000 + DRIFT);
    store.seal();
    assert!(is_dropped(&store.current("longer")));
    assert_eq!(store.get("for ever"), Some(Bytes::from("2")));
}

#[test]
fn many_values_go_in_steps_between_which_others_have_their_turn() {
    let mut store = Store::new(1);
    let names: Vec<String> = (0..3_000).map(|number| format!("{number}")).collect();
    let entries = names.iter().map(|name| expiring(name, 1, "x", 2_000)).collect();
    store.merge(entries);
    store.merge(
        (0..40).map(|number| expiring(&format!("l{number}"), 1, &"x".repeat(1 << 20), 2_000)).collect(),
    );
    store.seal_through(3);
    store.go(2_000 + DRIFT);
    let mut steps = 0;
    loop {
        let before = (store.count(keys::TERM), store.count(keys::PIECE));
        let now = store.now();
        if store.engine.seal_step(now).unwrap() == Step::Idle {
            break;
        }
        let after = (store.count(keys::TERM), store.count(keys::PIECE));
        assert!(before.0 - after.0 <= 1_024 && before.1 - after.1 <= 4_096 + 256);
        steps += 1;
    }
    assert!(steps >= 5, "{steps} steps");
    assert_eq!((store.count(keys::TERM), store.count(keys::PIECE)), (0, 0));
}

#[test]
fn a_clock_that_is_not_believed_drops_nothing() {
    let mut store = Store::new(1);
    store.put_for("a", "x", 1_000);
    store.seal_through(2);
    // It steps: sealing is halted, and so is this.
    store.wall += 3_600_000;
    store.seal();
    assert!(!is_dropped(&store.current("a")));
    assert_eq!(store.engine.next_due().unwrap(), None);
    // Peers say that it is wrong, although it stood for long.
    store.engine.doubt_clock(true);
    store.go(store.wall + 60_000);
    store.seal();
    assert!(!is_dropped(&store.current("a")));
    store.engine.doubt_clock(false);
    store.seal();
    assert!(is_dropped(&store.current("a")));
}

#[test]
fn an_entry_that_came_without_its_value_reads_as_absent_and_nobody_is_made_a_liar() {
    let mut store = Store::new(1);
    let whole = expiring("a", 100, "x", 50_000);
    let dropped = without_value(&whole);
    // Of a node whose clock is an hour ahead.
    assert_eq!(store.merge(vec![dropped.clone()]).merged, 1);
    store.seal_through(1);
    assert_eq!(store.root_at(1), Some(expected_root([&whole], 1)));
    assert_eq!((store.get("a"), store.current("a")), (None, dropped.clone()));
    // Passed on now, it would seem that this node dropped it before its time.
    let Answer::Refused(refusal) = fetched(&store, "a") else { panic!("it is not to be served") };
    assert_eq!(refusal.reason, Reason::Unavailable);
    store.go(50_000);
    store.seal();
    assert_eq!(entry_in(fetched(&store, "a")), dropped);
}

#[test]
fn a_value_that_went_too_early_is_taken_back_from_whoever_has_it() {
    let whole = expiring("a", 100, &"x".repeat(9_000), 20_000);
    let dropped = without_value(&whole);
    for (time, back) in [(1_000, true), (20_000 + DRIFT - 1, true), (20_000 + DRIFT, false)] {
        let mut store = Store::new(1);
        store.merge(vec![dropped.clone()]);
        store.seal_through(1);
        let root = store.root_at(1);
        store.go(time.max(store.wall));
        let merged = store.merge(vec![whole.clone()]);
        assert_eq!((merged.merged, merged.known), (u64::from(back), u64::from(!back)), "at {time}");
        assert_eq!(store.get("a").is_some(), back && time < 20_000);
        assert_eq!(store.merge(vec![dropped.clone()]).known, 1, "and is not lost again by that");
        store.seal_through(60);
        assert_eq!(store.root_at(60), root);
        assert_eq!((store.count(keys::PIECE), store.count(keys::TERM)), (0, 0));
    }
}

#[test]
fn what_is_being_read_whole_does_not_expire_under_the_reader() {
    let mut store = Store::new(1);
    store.put_for("a", "x", 4_500);
    store.seal_through(2);
    let reader = store.engine.reader();
    let mut read = reader.sealed_entries(store.now(), Duration::from_secs(60)).unwrap();
    assert_eq!(read.seal().epoch, Epoch(FIRST + 2));
    store.go(4_500 + DRIFT);
    store.seal();
    assert!(matches!(read.next_bucket().unwrap().unwrap()[0].content, Content::Value(_)));
    drop(read);
    store.seal();
    assert!(is_dropped(&store.current("a")));
    assert_eq!(store.current("a").expires, Some(WallTime(FIRST * 1_000 + 4_500)));
}
