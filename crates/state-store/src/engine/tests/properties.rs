//! What must hold whatever comes, in whatever order.

use lattice_core::model::{Entry, NodeId};
use proptest::prelude::*;
use proptest::sample::Index;

use super::fixture::*;
use crate::engine::{Engine, Origin};
use crate::storage::{SledStorage, Storage};

/// Entries of a few keys in the first four epochs.
fn arb_entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (0..12u8, 0..4_000u64, 0..3u8, 0..4u8, proptest::option::of(1_000..9_000u64));
    let one = one.prop_map(|(name, millis, writer, value, expires)| {
        let value = (value > 0).then(|| "v".repeat(usize::from(value) * 1_500));
        let mut entry = entry(&format!("key {name}"), millis, value.as_deref());
        entry.version.writer = NodeId([writer; 32]);
        if value.is_some() {
            entry.expires = expires.map(|expires| at(expires, 0).wall);
        }
        entry
    });
    proptest::collection::vec(one, 1..60)
}

/// Another order.
fn shuffled(entries: &[Entry], order: &[Index]) -> Vec<Entry> {
    let mut left = entries.to_vec();
    let mut shuffled = Vec::new();
    for index in order {
        if !left.is_empty() {
            shuffled.push(left.swap_remove(index.index(left.len())));
        }
    }
    shuffled.append(&mut left);
    shuffled
}

fn fill(engine: &mut Engine, entries: &[Entry], page: usize) {
    for page in entries.chunks(page.max(1)) {
        engine.merge(page.to_vec(), Origin::Delta, at(4_000, 4_000)).unwrap();
    }
}

fn seal(engine: &mut Engine, millis: u64) {
    engine.seal(at(millis, millis)).unwrap();
    engine.extend(at(millis, millis)).unwrap();
}

fn records(storage: &dyn Storage) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    let mut visit = |key: &[u8], value: bytes::Bytes| {
        records.push((key.to_vec(), value.to_vec()));
        Ok(std::ops::ControlFlow::Continue(()))
    };
    storage.range(&[0], &[0xff], &mut visit).unwrap();
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_and_batching_gives_the_root_of_a_computation_from_nothing(
        entries in arb_entries(),
        order in proptest::collection::vec(any::<Index>(), 60),
        pages in (1..20usize, 1..20usize),
    ) {
        let (mut one, mut other) = (Store::new(1), Store::new(2));
        for (store, entries, page) in
            [(&mut one, entries.clone(), pages.0), (&mut other, shuffled(&entries, &order), pages.1)]
        {
            store.go(4_000);
            fill(&mut store.engine, &entries, page);
            store.seal_through(5);
        }
        for epoch in 0..=5 {
            let root = expected_root(&entries, epoch);
            prop_assert_eq!(one.root_at(epoch), Some(root), "epoch {}", epoch);
            prop_assert_eq!(other.root_at(epoch), Some(root), "epoch {}", epoch);
        }
    }

    #[test]
    fn late_and_repeated_delivery_ends_in_the_same_root_and_leaves_nothing_behind(
        entries in arb_entries(),
        order in proptest::collection::vec(any::<Index>(), 60),
        waits in proptest::collection::vec(0..3_000u64, 6),
        restart in any::<bool>(),
        beside in proptest::option::of(any::<bool>()),
    ) {
        let mut store = Store::new(1);
        store.go(4_000);
        let entries = shuffled(&entries, &order);
        let part = entries.len().div_ceil(waits.len());
        for (part, wait) in entries.chunks(part).zip(&waits) {
            store.merge(part.to_vec());
            store.go(store.wall + wait);
            match beside {
                Some(together) => store.seal_beside(&entries, together),
                None => store.seal(),
            }
            if restart {
                store = store.restarted();
            }
            store.merge(part.to_vec());
        }
        let last = store.wall / 1_000 + 10;
        store.seal_through(last);
        prop_assert_eq!(store.root_at(last), Some(expected_root(&entries, last)));
        let visible = (0..12).filter(|name| store.get(&format!("key {name}")).is_some()).count();
        prop_assert_eq!(store.state_size(), visible as u64);
        store.seal_through(last + 40);
        store.seal();
        prop_assert_eq!(store.count(crate::format::keys::OLDER), 0);
        prop_assert_eq!(store.count(crate::format::keys::HISTORY), 0);
        prop_assert_eq!(store.engine.view().stats.pending, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn memory_and_sled_hold_the_same_records(
        entries in arb_entries(),
        order in proptest::collection::vec(any::<Index>(), 60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = Store::new(1);
        let sled = SledStorage::open(folder.path(), 1 << 20).unwrap();
        let mut engine = open(sled, 1, &settings(), at(0, 0));
        for (millis, entries) in [(4_500, entries.clone()), (20_000, shuffled(&entries, &order))] {
            fill(&mut memory.engine, &entries, 7);
            fill(&mut engine, &entries, 7);
            seal(&mut memory.engine, millis);
            seal(&mut engine, millis);
            prop_assert_eq!(&memory.engine.view().runs, &engine.view().runs);
        }
        drop(engine);
        let sled = SledStorage::open(folder.path(), 1 << 20).unwrap();
        prop_assert_eq!(records(&memory.storage), records(&sled));
        let reopened = open(sled, 1, &settings(), at(20_000, 0));
        prop_assert_eq!(&memory.engine.view().newest, &reopened.view().newest);
    }
}
