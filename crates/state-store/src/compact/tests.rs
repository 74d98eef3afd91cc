use std::collections::BTreeMap;

use lattice_core::model::EntryHead;
use lattice_proto::convert::Seals;
use tempfile::TempDir;

use super::*;
use crate::engine::tests::fixture::{Store, entry, incarnations, key, settings, signing_key};
use crate::engine::{Finding, Incarnations, Now};
use crate::opening::Opened;

/// The engines to go through, each from the one before.
const WAYS: &[&[Disk]] = &[
    &[Disk::Sled, Disk::Sled],
    #[cfg(feature = "redb")]
    &[Disk::Redb, Disk::Redb],
    #[cfg(feature = "redb")]
    &[Disk::Sled, Disk::Redb, Disk::Sled, Disk::Sled],
];
const SEED: u8 = 1;

/// A store with all kinds of records, in a folder.
struct Filled {
    store: Store,
    folder: TempDir,
}

impl Filled {
    fn on(disk: Disk) -> Self {
        let mut store = Store::new(SEED);
        for round in 0..4u64 {
            for number in 0..300 {
                // Some are deleted, some expire, some are in pieces.
                let name = format!("key-{number:03}");
                match (number + round) % 29 {
                    0 => store.delete(&name),
                    1 => store.put_for(&name, "expires", 60_000),
                    2 => store.put(&name, &format!("{round}").repeat(9_000)),
                    _ => store.put(&name, &format!("value {number} of round {round}")),
                };
            }
            store.seal_through(round * 3 + 2);
        }
        // One that is held, some that await their seal, and one that is damaged.
        store.merge(vec![entry("held", store.wall + 15_000, Some("later"))]);
        for number in 0..20 {
            store.put(&format!("key-{number:03}"), "not sealed yet");
        }
        store.flip(&keys::current(&key("key-100")));

        let folder = tempfile::tempdir().unwrap();
        let filled = Self { store, folder };
        filled.opening(disk, |opening| opening.manifest().renew(opening.folder)).unwrap();
        let database = disk.open(filled.folder.path(), 1 << 20).unwrap();
        let database = Guarded::new(database, filled.folder.path()).unwrap();
        let mut batch = Batch::default();
        for (key, value) in records(&filled.store.storage) {
            batch.put(key, value);
        }
        // Several times: the room of the first ones is to be had again.
        for _ in 0..8 {
            database.commit(&batch).unwrap();
        }
        filled
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn opening<T>(&self, disk: Disk, work: impl FnOnce(&Opening<'_>) -> T) -> T {
        opening(self.path(), disk, self.store.now(), work)
    }

    fn compact(
        &self,
        from: Disk,
        to: Disk,
        progress: impl FnMut(Step, u64, Option<u64>),
    ) -> Result<Compacted, Error> {
        self.opening(from, |opening| database(opening, to, || ids(self.store.now()), progress))
    }

    /// What is in the database, without opening it as a store.
    fn records(&self, disk: Disk) -> BTreeMap<Bytes, Bytes> {
        records(&*disk.open(self.path(), 1 << 20).unwrap())
    }
}

fn opening<T>(folder: &Path, disk: Disk, now: Now, work: impl FnOnce(&Opening<'_>) -> T) -> T {
    let (settings, key) = (settings(), signing_key(SEED));
    work(&Opening { folder, disk, cache_bytes: 2 << 20, settings, key, now: &|| now })
}

fn ids(now: Now) -> Incarnations {
    incarnations(SEED, now)
}

fn records(storage: &dyn Storage) -> BTreeMap<Bytes, Bytes> {
    let mut records = BTreeMap::new();
    let mut visit = |key: &[u8], value: Bytes| {
        records.insert(Bytes::copy_from_slice(key), value);
        Ok(ControlFlow::Continue(()))
    };
    storage.range(&[], &[u8::MAX], &mut visit).unwrap();
    records
}

/// All that a store says when it is opened.
#[derive(Debug, PartialEq)]
struct Told {
    seals: Seals,
    heads: Vec<Option<EntryHead>>,
    held: u64,
    findings: Vec<Finding>,
}

/// Opens a store as a start does: nothing may be set aside.
fn told(folder: &Path, disk: Disk, now: Now) -> Told {
    let Opened { mut engine, .. } =
        opening(folder, disk, now, |opening| opening.open(|| ids(now))).expect("it opens");
    assert!(opening::set_aside(folder).unwrap().is_empty(), "it was found to be sound");
    let reader = engine.reader();
    let head =
        |number| reader.current(&key(&format!("key-{number:03}"))).ok().flatten().map(|entry| entry.head());
    let heads = (0..300).map(head).collect();
    let mut check = reader.check();
    while check.step().unwrap() {
        engine.look_into_suspicions(now).unwrap();
    }
    engine.look_into_suspicions(now).unwrap();
    let held = engine.view().stats.held;
    Told { seals: reader.seals(), heads, held, findings: engine.take_findings() }
}

/// What is in a store's folder, without what is beside databases.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| !["FORMAT", WATERMARK].contains(&name.as_str())).collect();
    names.sort();
    names
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

#[test]
fn a_compacted_store_holds_what_it_held_and_is_shorter() {
    for way in WAYS {
        let filled = Filled::on(way[0]);
        let before = filled.records(way[0]);
        let as_it_was = {
            let twin = tempfile::tempdir().unwrap();
            copy_folder(filled.path(), twin.path());
            told(twin.path(), way[0], filled.store.now())
        };
        assert_eq!(as_it_was.held, 1);
        assert_eq!(as_it_was.findings.len(), 1, "the damaged one: {:?}", as_it_was.findings);
        for hop in way.windows(2) {
            let (from, to) = (hop[0], hop[1]);
            let done = filled.compact(from, to, |_, _, _| {}).unwrap();
            assert_eq!((done.before.0, done.after.0), (from.name(), to.name()));
            println!("{done:?}");
            assert_eq!(names(filled.path()), [to.name()]);
            let after = filled.records(to);
            assert!(before == after, "{} records, and {} before", after.len(), before.len());
            assert_eq!(done.records, before.len() as u64);
        }
        let last = *way.last().unwrap();
        assert_eq!(told(filled.path(), last, filled.store.now()), as_it_was);
        // What was found is noted by now; no more is found.
        let Told { findings, .. } = told(filled.path(), last, filled.store.now());
        assert_eq!(findings, []);
    }
}
