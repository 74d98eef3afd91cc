//! Epochs, runs, restarts, clocks, and what is left on the disk.

use lattice_core::model::Epoch;
use lattice_core::seal::Run;
use lattice_core::time::WallTime;

use super::fixture::*;
use crate::engine::{Begun, Origin, Step};
use crate::format::keys;
use crate::storage::MemoryStorage;

#[test]
fn an_epoch_is_sealed_once_it_has_settled() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.go(2_999);
    store.seal();
    assert_eq!(store.runs(), []);
    store.go(3_000);
    store.seal();
    let root = expected_root([&store.current("a")], 0);
    assert_eq!(store.runs(), [Run { from: Epoch(FIRST), to: Epoch(FIRST), root }]);
    let newest = store.engine.view().newest.clone().unwrap();
    newest.verify().unwrap();
    assert_eq!((newest.seal.epoch, newest.seal.root), (Epoch(FIRST), root));
}

#[test]
fn a_seal_covers_the_newest_version_of_its_epoch_not_of_all() {
    let mut store = Store::new(1);
    let mut entries = Vec::new();
    for epoch in 0..4 {
        store.go(epoch * 1_000);
        for round in ["first", "second"] {
            store.put("a", &format!("{round} of {epoch}"));
            entries.push(store.current("a"));
        }
    }
    store.seal_through(3);
    for epoch in 0..4 {
        assert_eq!(store.root_at(epoch), Some(expected_root(&entries, epoch)), "epoch {epoch}");
    }
}

#[test]
fn idle_time_is_one_run_told_only_when_asked() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.seal_through(0);
    store.go(50_000);
    store.seal();
    assert_eq!(store.runs()[0].to, Epoch(FIRST));
    let now = store.now();
    assert_eq!(store.engine.extend(now).unwrap(), Step::Worked);
    assert_eq!(store.engine.extend(now).unwrap(), Step::Idle);
    assert_eq!(store.runs().len(), 1);
    assert_eq!(store.runs()[0].to, Epoch(FIRST + 47));
    // Also without being asked, once something is sealed after it.
    store.put("b", "2");
    store.go(80_000);
    store.seal();
    let runs = store.runs();
    assert_eq!(
        (runs[0].to, runs[1].from, runs[1].to),
        (Epoch(FIRST + 49), Epoch(FIRST + 50), Epoch(FIRST + 50))
    );
}

#[test]
fn an_empty_store_seals_runs_without_a_root() {
    let mut store = Store::new(1);
    store.seal_through(5);
    assert_eq!(store.runs(), [Run { from: Epoch(FIRST), to: Epoch(FIRST + 5), root: None }]);
    store.put("a", "1");
    store.seal_through(20);
    assert!(store.root_at(20).unwrap().is_some());
    assert_eq!(store.root_at(3), Some(None));
}

#[test]
fn a_restart_seals_what_was_pending_with_the_same_roots() {
    let write = |store: &mut Store| {
        for epoch in 0..6 {
            store.go(epoch * 1_000 + 10);
            store.put("a", &format!("{epoch}"));
            store.put(&format!("key {epoch}"), "x");
        }
    };
    let mut straight = Store::new(1);
    write(&mut straight);
    straight.seal_through(8);
    let mut restarted = Store::new(1);
    write(&mut restarted);
    let mut restarted = restarted.restarted();
    restarted.go(5_500);
    restarted.seal();
    let mut restarted = restarted.restarted();
    restarted.seal_through(8);
    assert_eq!(restarted.runs(), straight.runs());
    assert_eq!(restarted.engine.view().newest, straight.engine.view().newest);
}

#[test]
fn a_kill_between_any_two_commits_leaves_the_same_seals() {
    let settings = settings();
    let storage = MemoryStorage::new();
    let mut engine = open(storage.clone(), 1, &settings, at(0, 0));
    for number in 0..3_000u32 {
        let ops = [put(&format!("key {number}"), "x", None)];
        engine.write(&ops, at(u64::from(number / 2), 0)).unwrap();
    }
    let now = at(20_000, 20_000);
    let mut left = Vec::new();
    while engine.seal_step(now).unwrap() != Step::Idle {
        left.push(storage.snapshot());
    }
    assert!(left.len() >= 3, "several commits");
    let runs = engine.view().runs.clone();
    for storage in left {
        let mut engine = open(storage, 1, &settings, now);
        engine.seal(now).unwrap();
        assert_eq!(engine.view().runs, runs);
    }
}

#[test]
fn what_is_written_while_a_chunk_is_prepared_waits_for_the_next_epoch() {
    let mut store = Store::new(1);
    store.merge(vec![entry("a", 10, Some("1")), entry("b", 10, Some("1"))]);
    store.go(3_000);
    let Begun::Planned(plan) = store.engine.begin_step(store.now()).unwrap() else { panic!("it is due") };
    let late = vec![entry("a", 20, Some("2")), entry("c", 20, Some("1"))];
    store.merge(late.clone());
    let prepared = plan.prepare();
    assert_eq!(store.engine.end_step(prepared).unwrap(), Step::Sealed(Epoch(FIRST)));
    let sealed = [entry("a", 10, Some("1")), entry("b", 10, Some("1"))];
    assert_eq!(store.root_at(0), Some(expected_root(&sealed, 0)));
    // Also when the process ends before the next seal.
    let mut store = store.restarted();
    store.seal_through(5);
    assert_eq!(store.root_at(5), Some(expected_root(sealed.iter().chain(&late), 5)));
}

#[test]
fn what_was_prepared_for_another_state_of_the_tree_is_dropped() {
    let mut store = Store::new(1);
    let entries: Vec<_> = (0..1_000).map(|number| entry(&format!("{number}"), 10, Some("x"))).collect();
    store.merge(entries.clone());
    store.go(3_000);
    let plan = |store: &mut Store| match store.engine.begin_step(store.now()).unwrap() {
        Begun::Planned(plan) => plan.prepare(),
        Begun::Done(step) => panic!("{step:?}"),
    };
    let (first, again) = (plan(&mut store), plan(&mut store));
    assert_eq!(store.engine.end_step(first).unwrap(), Step::Worked);
    assert_eq!(store.engine.end_step(again).unwrap(), Step::Worked);
    let old = plan(&mut store);
    store.seal();
    assert_eq!(store.engine.end_step(old).unwrap(), Step::Worked);
    assert_eq!(store.root_at(0), Some(expected_root(&entries, 0)));
}

#[test]
fn the_nearer_the_bound_is_the_more_is_sealed_before_the_next_write() {
    let mut store = Store::new(1);
    let mut entries = (0..).map(|number| entry(&format!("{number}"), 10, Some("x")));
    // 64 MiB are more than 200,000 of these.
    let mut fill = |store: &mut Store, pages| {
        for _ in 0..pages {
            store.merge(entries.by_ref().take(1_000).collect());
        }
    };
    fill(&mut store, 60);
    store.go(3_000);
    assert_eq!(store.engine.pressure(store.now()), 0, "far from it");
    fill(&mut store, 90);
    let some = store.engine.pressure(store.now());
    fill(&mut store, 40);
    let more = store.engine.pressure(store.now());
    assert!(0 < some && some < more && more <= 8, "{some}, {more}");
    store.seal();
    assert_eq!(store.engine.pressure(store.now()), 0);
    fill(&mut store, 150);
    assert_eq!(store.engine.pressure(store.now()), 0, "nothing of it is due");
}

#[test]
fn a_large_epoch_is_sealed_in_several_commits() {
    let mut store = Store::new(1);
    for batch in 0..5 {
        let entries: Vec<_> =
            (0..1_000).map(|number| entry(&format!("{batch}/{number}"), 10, Some("x"))).collect();
        store.merge(entries);
    }
    store.go(3_000);
    let now = store.now();
    let mut steps = 0;
    while store.engine.seal_step(now).unwrap() == Step::Worked {
        steps += 1;
        assert_eq!(store.runs(), [], "nothing is published before the last");
    }
    assert!(steps >= 4, "{steps} commits before the last");
    let root = store.root_at(0).unwrap().unwrap();
    assert_eq!((root.entries, root.tombstones), (5_000, 0));
}

#[test]
fn writes_and_deletes_are_counted_by_what_they_leave() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.put("b", "1");
    store.put("a", "2");
    store.delete("b");
    store.delete("never there");
    store.seal_through(0);
    let root = store.root_at(0).unwrap().unwrap();
    assert_eq!((root.entries, root.tombstones), (1, 2));
    store.put("b", "again");
    store.seal_through(5);
    let root = store.root_at(5).unwrap().unwrap();
    assert_eq!((root.entries, root.tombstones), (2, 1));
}

#[test]
fn state_size_leaves_out_what_has_expired_by_the_end_of_the_epoch() {
    let mut store = Store::new(1);
    store.put("stays", "x");
    store.put_for("short", "x", 500);
    store.put_for("long", "x", 20_000);
    store.seal_through(0);
    assert_eq!(store.state_size(), 2);
    let root = store.root_at(0).unwrap().unwrap();
    assert_eq!(root.entries, 3);
    store.seal_through(18);
    assert_eq!(store.state_size(), 2);
    store.seal_through(19);
    assert_eq!(store.state_size(), 1);
    assert_eq!(store.root_at(19).unwrap(), Some(root));
    // What comes back, and what is overwritten while it has still to expire.
    store.put("short", "again");
    store.put_for("long", "again", 5_000);
    store.seal_through(24);
    assert_eq!(store.state_size(), 3);
    store.put("long", "for ever");
    let mut store = store.restarted();
    store.seal_through(60);
    assert_eq!(store.state_size(), 3);
    assert_eq!(store.count(keys::EXPIRY), 0);
}

#[test]
fn many_that_expire_at_once_are_counted_in_steps() {
    let mut store = Store::new(1);
    for number in 0..3_000 {
        store.put_for(&format!("{number}"), "x", 30_000);
    }
    store.seal_through(10);
    assert_eq!(store.state_size(), 3_000);
    store.go(60_000);
    let now = store.now();
    while store.engine.extend(now).unwrap() == Step::Worked {}
    assert_eq!(store.state_size(), 0);
}

#[test]
fn nothing_is_left_of_what_no_seal_needs() {
    let mut store = Store::new(1);
    let long = "x".repeat(10_000);
    for epoch in 0..50 {
        store.go(epoch * 1_000);
        for number in 0..60 {
            store.put(
                &format!("key {}", (epoch * 7 + number) % 80),
                if number % 9 == 0 { &long } else { "x" },
            );
        }
        store.delete(&format!("key {}", epoch % 80));
        store.seal();
    }
    assert!(store.count(keys::OLDER) > 0);
    store.seal_through(60);
    for _ in 0..10 {
        let epoch = store.wall / 1_000 + 40;
        store.seal_through(epoch);
    }
    assert_eq!(store.count(keys::PENDING), 0);
    assert_eq!(store.count(keys::OLDER), 0);
    assert_eq!(store.count(keys::HISTORY), 0);
    assert_eq!(store.count(keys::CURRENT), 80);
    // 80 entries hang below one inner node.
    assert_eq!(store.count(keys::NODE), 17);
    let apart: usize = (0..80)
        .filter(|number| store.get(&format!("key {number}")).is_some_and(|value| value.len() == 10_000))
        .count();
    assert_eq!(store.count(keys::PIECE), apart * 3);
}

#[test]
fn runs_are_kept_within_bounds() {
    let mut store = Store::new(1);
    for epoch in 0..90 {
        store.go(epoch * 1_000);
        store.put("a", &format!("{epoch}"));
        store.seal();
    }
    store.seal_through(90);
    assert_eq!(store.runs().len(), 64);
    assert_eq!(store.count(keys::SEAL), 64);
    assert_eq!(store.engine.reader().seals().runs.len(), 64);
}

#[test]
fn a_step_of_the_clock_halts_sealing_until_it_stood() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.seal_through(0);
    store.put("b", "2");
    store.wall += 3_600_000;
    store.seal();
    let seals = store.engine.reader().seals();
    assert!(seals.halted.starts_with("wall clock stepped forward by 3600000 ms"), "{}", seals.halted);
    // Entries wait, and still nothing is due: the writer would look for it without a pause.
    assert_eq!(store.engine.next_due().unwrap(), None);
    let now = store.now();
    assert_eq!(store.engine.extend(now).unwrap(), Step::Idle);
    assert_eq!(store.runs().len(), 1);
    store.go(store.wall + 60_000);
    store.seal();
    assert_eq!(store.engine.reader().seals().halted, "");
    assert_eq!(store.runs().len(), 2);
}

#[test]
fn a_confirmed_clock_ends_the_halt_at_once() {
    let mut store = Store::new(1);
    store.seal_through(0);
    store.wall += 3_600_000;
    store.seal();
    let now = store.now();
    store.engine.confirm_clock(now);
    assert_eq!(store.engine.extend(now).unwrap(), Step::Worked);
}

#[test]
fn a_small_step_back_waits_and_stamps_into_no_sealed_epoch() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.seal_through(20);
    store.wall -= 8_000;
    let written = store.put("b", "2");
    let epoch = written.version.hlc.epoch(settings().epoch_length);
    assert_eq!(epoch, Epoch(FIRST + 21));
    let runs = store.runs();
    store.seal();
    assert_eq!(store.runs(), runs);
    store.seal_through(21);
    assert!(store.root_at(21).is_some());
}

#[test]
fn seals_far_ahead_begin_a_new_incarnation_once_the_clock_is_confirmed() {
    let mut store = Store::new(1);
    store.put("early", "x");
    store.seal_through(5);
    // The clock runs an hour ahead, and is believed.
    store.wall += 3_600_000;
    let now = store.now();
    store.engine.confirm_clock(now);
    store.put("ahead", "x");
    store.put("early", "ahead, too");
    store.seal_through(3_700);
    let ahead = store.engine.view().incarnation;
    // It is put right.
    store.wall = 30_000;
    store.seal();
    assert!(store.engine.reader().seals().halted.starts_with("wall clock stepped back"));
    assert_eq!(store.engine.view().incarnation, ahead);
    let mut store = store.restarted();
    assert!(store.engine.reader().seals().halted.starts_with("newest seal lies ahead"));
    store.put("after", "x");
    let now = store.now();
    store.engine.confirm_clock(now);
    store.seal();
    assert_ne!(store.engine.view().incarnation, ahead);
    store.seal_through(31);
    // What lies ahead waits for its time; all of it is readable.
    assert_eq!(store.root_at(31), Some(expected_root([&store.current("after")], 31)));
    assert_eq!(store.get("ahead").as_deref(), Some(&b"x"[..]));
    let entries = ["early", "ahead", "after"].map(|name| store.current(name));
    store.seal_through(3_700);
    assert_eq!(store.root_at(3_700), Some(expected_root(&entries, 3_700)));
    for tag in keys::DERIVED {
        let (from, to) = keys::Generation(1).before(tag);
        assert_eq!(crate::storage::Storage::first(&store.storage, &from, &to).unwrap(), None, "swept");
    }
}

#[test]
fn late_entries_lengthen_the_wait() {
    let mut store = Store::new(1);
    store.seal_through(10);
    store.go(13_500);
    let now = store.now();
    let late = entry("a", 9_500, Some("x"));
    let (_, committed) = store.engine.merge(vec![late.clone()], Origin::Delta, now).unwrap();
    assert_eq!(committed.late, [std::time::Duration::from_millis(3_500)]);
    store.engine.note_lateness(&committed.late, now);
    assert_eq!(store.engine.view().stats.settle.as_millis(), 4_375);
    // What comes again, or by a pull, is not late.
    let (merged, committed) = store.engine.merge(vec![late], Origin::Delta, now).unwrap();
    assert_eq!((merged.known, committed.late.len()), (1, 0));
    let (_, committed) = store.engine.merge(vec![entry("b", 1, None)], Origin::Pull, now).unwrap();
    assert_eq!(committed.late.len(), 0);
}

#[test]
fn a_new_incarnation_forgets_the_seals_and_keeps_the_tree() {
    let mut store = Store::new(1);
    store.put("a", "1");
    store.seal_through(3);
    let root = store.root_at(3).unwrap();
    let before = store.engine.view().incarnation;
    let after = store.engine.reincarnate(before).unwrap();
    assert_ne!(after, before);
    assert_eq!(store.engine.reincarnate(before).unwrap(), after, "only once");
    assert_eq!(store.runs(), []);
    let mut store = store.restarted();
    assert_eq!(store.engine.view().incarnation, after);
    store.seal_through(8);
    assert_eq!(store.runs(), [Run { from: Epoch(FIRST + 4), to: Epoch(FIRST + 8), root }]);
}

#[test]
fn reserved_numbers_are_never_handed_out_again() {
    let mut store = Store::new(1);
    assert_eq!(store.engine.reserve_sequence(100).unwrap(), 1);
    assert_eq!(store.engine.reserve_sequence(1).unwrap(), 101);
    let mut store = store.restarted();
    assert_eq!(store.engine.reserve_sequence(10_000).unwrap(), 102);
    assert_eq!(store.restarted().engine.reserve_sequence(1).unwrap(), 10_102);
}

#[test]
fn a_seal_has_an_end_also_while_much_arrives_late() {
    let mut store = Store::new(1);
    store.seal_through(2);
    let page = |number: u64| {
        (0..1_000).map(|at| entry(&format!("{number}/{at}"), 10, Some("x"))).collect::<Vec<_>>()
    };
    for number in 0..4 {
        store.merge(page(number));
    }
    store.go(8_000);
    let now = store.now();
    let mut pages = 4;
    while !matches!(store.engine.seal_step(now).unwrap(), Step::Sealed(_)) {
        // Two come for each that is taken in.
        store.merge(page(pages));
        store.merge(page(pages + 1));
        pages += 2;
        assert!(pages < 100, "the seal has no end");
    }
    assert_eq!(store.root_at(3).unwrap().unwrap().entries, 4_000);
    store.seal_through(8);
    assert_eq!(store.root_at(8).unwrap().unwrap().entries, pages * 1_000);
}

#[test]
fn much_that_is_due_waits_for_an_epoch_that_four_divides() {
    let mut store = Store::new(1);
    let mut entries = Vec::new();
    for epoch in [5, 6] {
        store.go(epoch * 1_000 + 500);
        for page in 0..3 {
            let page = (0..1_000).map(|at| entry(&format!("{page}/{at}"), epoch * 1_000 + 10, Some("x")));
            let page: Vec<_> = page.collect();
            store.merge(page.clone());
            entries.extend(page);
        }
    }
    // 5 and 6 are due, and FIRST is a multiple of four.
    store.go(9_500);
    store.seal();
    assert!(store.runs().iter().all(|run| run.to.0 < FIRST + 5), "{:?}", store.runs());
    assert_eq!(store.engine.next_due().unwrap(), Some(WallTime((FIRST + 9) * 1_000) + settings().settle));
    store.go(11_500);
    store.seal();
    let newest = *store.runs().last().unwrap();
    assert_eq!((newest.from.0, newest.to.0), (FIRST + 6, FIRST + 8), "nothing changed since");
    assert_eq!(newest.root, expected_root(entries.iter(), 8));
}

#[test]
fn a_store_that_is_behind_leaves_epochs_out_and_says_nothing_of_them() {
    let mut store = Store::new(1);
    let before = entry("0/3", 10, Some("sealed before"));
    store.merge(vec![before.clone()]);
    store.seal_through(0);
    let mut entries = Vec::new();
    for epoch in 4..=12 {
        // Of each key in every other epoch another version.
        let page = (0..1_000).map(|at| entry(&format!("{}/{at}", epoch % 2), epoch * 1_000 + 10, Some("x")));
        let page: Vec<_> = page.collect();
        store.go(epoch * 1_000 + 500);
        store.merge(page.clone());
        entries.extend(page);
    }
    store.go(15_000);
    let now = store.now();
    let (snapshot, settings) = (store.storage.clone(), settings());
    for _ in 0..3 {
        store.engine.seal_step(now).unwrap();
    }
    let begun = snapshot.snapshot();
    store.seal();
    let first = (FIRST + 12) / 8 * 8;
    let sealed: Vec<u64> = store.runs().iter().map(|run| run.to.0).collect();
    assert!(sealed.starts_with(&[FIRST + 3, first]) && sealed.ends_with(&[FIRST + 12]), "{sealed:?}");
    assert!(!(4..8).any(|epoch| sealed.contains(&(FIRST + epoch))), "{sealed:?}");
    for run in store.runs() {
        let epoch = run.to.0 - FIRST;
        let all = entries.iter().chain([&before]);
        assert_eq!(run.root, expected_root(all, epoch), "epoch {epoch}");
        assert!(epoch == 3 || run.from == run.to, "nothing is said of the epochs before");
    }
    // What was begun ends as the same epoch, also after a restart.
    let mut again = open(begun, 1, &settings, now);
    again.seal(now).unwrap();
    assert_eq!(again.view().runs, store.engine.view().runs);
    // What the older seal held is there still.
    let proved = store.engine.reader().prove(&before.key, Some(Epoch(FIRST + 2))).unwrap();
    assert_eq!(proved.sealed.entry, Some(before));
}
