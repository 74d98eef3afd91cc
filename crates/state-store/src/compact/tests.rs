use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::EntryHead;
use lattice_proto::convert::Seals;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::tests::fixture::{self, Store, entry, incarnations, key, settings, signing_key};
use crate::engine::{Finding, Incarnations, Now};
use crate::format::{keys, manifest};
use crate::opening::Opened;
use crate::storage::{Batch, Guarded, Storage, WATERMARK};

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
        // What is gone leaves room that could be had again.
        for round in 0..6u8 {
            for number in 0..300u16 {
                let key = [&[keys::SALVAGED, round][..], &number.to_be_bytes()].concat();
                match round {
                    5 => (0..5).for_each(|round| {
                        batch.remove([&[keys::SALVAGED, round][..], &number.to_be_bytes()].concat());
                    }),
                    _ => batch.put(key, vec![round; 8_000]),
                }
            }
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

    /// What a store on these files says; they stay as they are.
    fn told(&self, disk: Disk) -> Told {
        let twin = tempfile::tempdir().unwrap();
        copy_folder(self.path(), twin.path());
        told(twin.path(), disk, self.store.now())
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
        let long = on_disk(filled.path()).unwrap();
        let as_it_was = filled.told(way[0]);
        assert_eq!(as_it_was.held, 1);
        assert_eq!(as_it_was.findings.len(), 1, "the damaged one: {:?}", as_it_was.findings);
        for hop in way.windows(2) {
            let (from, to) = (hop[0], hop[1]);
            let done = filled.compact(from, to, |_, _, _| {}).unwrap();
            assert_eq!((done.before.0, done.after.0), (from.name(), to.name()));
            println!("{done:?}");
            assert!(done.after.1 <= done.before.1 || from != to);
            assert_eq!(names(filled.path()), [to.name()]);
            let after = filled.records(to);
            assert!(before == after, "{} records, and {} before", after.len(), before.len());
            assert_eq!(done.records, before.len() as u64);
        }
        let last = *way.last().unwrap();
        assert_eq!(told(filled.path(), last, filled.store.now()), as_it_was);
        let shorter = on_disk(filled.path()).unwrap();
        assert!(shorter < long * 2 / 3, "{shorter} bytes, and {long} before");
        // What was found is noted by now; no more is found.
        let Told { findings, .. } = told(filled.path(), last, filled.store.now());
        assert_eq!(findings, []);
    }
}

#[test]
fn an_interruption_at_any_moment_leaves_one_whole_database() {
    for way in WAYS {
        let (from, to) = (way[0], way[1]);
        let filled = Filled::on(from);
        let before = filled.records(from);
        let as_it_was = filled.told(from);
        let moments = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let done = filled.compact(from, to, |step, done, _| {
            // As a kill would leave the files. Of the long steps, one moment is like another.
            let (begun, half_way) =
                (step != Step::Counting && done == 0, step == Step::Copying && done == copy::TELL_EVERY);
            if step == Step::Replacing || begun || half_way {
                copy_folder(filled.path(), &moments.path().join(seen.len().to_string()));
                seen.push((step, done));
            }
        });
        done.unwrap();
        let last = if from == to { 2 } else { 3 };
        assert_eq!(seen.last(), Some(&(Step::Replacing, last)));
        println!("{from:?} to {to:?}, interrupted at {seen:?}");
        for (moment, (step, done)) in seen.into_iter().enumerate() {
            let left = moments.path().join(moment.to_string());
            let engine = Manifest::engine_of(&left).expect("FORMAT is whole");
            let disk = if engine == from.name() { from } else { to };
            let moved = step == Step::Replacing && done > last - 2;
            assert_eq!(disk, if moved { to } else { from }, "{step:?} {done}");
            for half_removed in [false, true] {
                if half_removed && !left.join(FOLDER).exists() {
                    continue;
                }
                if half_removed {
                    // Deleting was interrupted, too.
                    let old = left.join(FOLDER).join(from.name());
                    for path in others(&left, disk).chain([old]) {
                        let _ = fs::remove_file(path.join("db"));
                    }
                }
                for again in [false, true] {
                    let twin = tempfile::tempdir().unwrap();
                    copy_folder(&left, twin.path());
                    let now = filled.store.now();
                    if again {
                        let compact =
                            |opening: &Opening<'_>| database(opening, disk, || ids(now), |_, _, _| {});
                        opening(twin.path(), disk, now, compact).unwrap();
                        let found = records(&*disk.open(twin.path(), 1 << 20).unwrap());
                        assert!(found == before, "{} records, and {} before", found.len(), before.len());
                    }
                    let found = told(twin.path(), disk, now);
                    assert_eq!(found, as_it_was, "{step:?} {done}, {half_removed}, {again}");
                    assert_eq!(names(twin.path()), [disk.name()]);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_compacted_is_refused_and_left_as_it_is() {
    let disk = Disk::Sled;
    let filled = Filled::on(disk);
    let refused = |expected: &str| {
        let error = filled.compact(disk, disk, |_, _, _| {}).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        assert!(!filled.path().join(FOLDER).exists());
    };
    // Of another engine, or somebody else's: nobody knows.
    let beside = filled.path().join("redb");
    fs::write(&beside, "somebody's").unwrap();
    refused("redb: is beside the store's database");
    told(filled.path(), disk, filled.store.now());
    assert_eq!(fs::read_to_string(&beside).unwrap(), "somebody's", "opening leaves it, too");
    fs::remove_file(beside).unwrap();

    let format = filled.path().join(manifest::FILE);
    let ours = fs::read(&format).unwrap();
    filled.opening(disk, |opening| {
        let other = Manifest { cluster: "other".to_owned(), ..opening.manifest() };
        other.renew(opening.folder).unwrap();
    });
    refused("is of cluster \"other\"");
    filled.opening(disk, |opening| {
        let other = Manifest { engine: "redb".to_owned(), ..opening.manifest() };
        other.renew(opening.folder).unwrap();
    });
    refused("was made by \"redb\"");
    fs::write(&format, ours).unwrap();

    fs::write(filled.path().join("sled/conf"), "nonsense").unwrap();
    refused("start the node, which salvages it");
    fs::remove_dir_all(filled.path().join("sled")).unwrap();
    refused("sled: there is no store");
    assert!(names(filled.path()).is_empty(), "nothing is made");
}

#[test]
fn what_is_left_is_salvaged_where_the_database_itself_is_gone() {
    let disk = Disk::Sled;
    let filled = Filled::on(disk);
    let work = filled.path().join(FOLDER);
    fs::create_dir(&work).unwrap();
    fs::rename(filled.path().join("sled"), work.join("sled")).unwrap();
    let now = filled.store.now();
    let Opened { engine, .. } = filled.opening(disk, |opening| opening.open(|| ids(now))).unwrap();
    let found = engine.reader().current(&key("key-150")).unwrap();
    assert_eq!(found, Some(filled.store.current("key-150")));
    assert!(engine.recovering().is_some() && !work.exists());
}

#[test]
fn what_does_not_read_is_refused_and_salvaged_by_the_next_start() {
    let disk = Disk::Sled;
    let filled = Filled::on(disk);
    let now = filled.store.now();
    // What is older than the last opening is looked at only when it is read.
    (0..2).for_each(|_| drop(told(filled.path(), disk, now)));
    let file = filled.path().join("sled/db");
    let mut bytes = fs::read(&file).unwrap();
    let marked = memchr::memmem::find_iter(&bytes, "value 150 of round 3").collect::<Vec<_>>();
    assert!(!marked.is_empty());
    marked.iter().for_each(|at| bytes[*at] ^= 1);
    fs::write(&file, bytes).unwrap();

    let error = filled.compact(disk, disk, |_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(!names(filled.path()).contains(&FOLDER.to_owned()));
    let opened = filled.opening(disk, |opening| opening.open(|| ids(now))).unwrap();
    assert!(opened.engine.recovering().is_some(), "a start finds it, too");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_records_are_copied_as_they_are(
        given in proptest::collection::btree_map(
            proptest::collection::vec(0..u8::MAX, 1..40),
            prop_oneof![
                8 => proptest::collection::vec(any::<u8>(), 0..300),
                1 => (any::<u8>(), 4_000..600_000usize).prop_map(|(byte, length)| vec![byte; length]),
            ],
            0..200,
        ),
        way in 0..WAYS.len(),
    ) {
        let (from, to) = (WAYS[way][0], WAYS[way][1]);
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join(FOLDER);
        fs::create_dir(&work).unwrap();
        let mut batch = Batch::default();
        given.iter().for_each(|(key, value)| batch.put(key.clone(), value.clone()));
        from.open(folder.path(), 1 << 20).unwrap().commit(&batch).unwrap();
        opening(folder.path(), from, fixture::at(0, 0), |opening| {
            let tally = Copy { opening, to, work: work.clone() }.fill(&mut |_, _, _| {}).unwrap();
            assert_eq!(tally.records, given.len() as u64);
        });
        let copied = records(&*to.open(&work, 1 << 20).unwrap());
        let given = given.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
        prop_assert!(copied == given.collect());
    }
}
