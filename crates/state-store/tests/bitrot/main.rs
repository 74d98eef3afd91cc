//! Flips single bits and tears writes in every file of a store at rest, and accounts for each case.
//!
//! `LATTICE_BITROT_CASES` says how many (`make bitrot` asks for many more), `LATTICE_BITROT_SEED` repeats a run.
//! Whatever happened to the files: nothing panics, nothing is opened again and again, no wrong value is served,
//! and no acknowledged write is lost without being listed.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod model;
mod rot;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lattice_core::model::{Content, Entry, Key};
use state_store::engine::{Error, Origin, Page};
use state_store::opening::set_aside;
use state_store::{Engine, Reader};

use model::{Clock, Model, opening};
use rot::Random;

/// After so many openings it would be a loop.
const OPENINGS_MAX: u32 = 4;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything was there, and nobody had to do anything.
    Harmless,
    /// Detected; this node mended it alone.
    HealedHere,
    /// Detected; a peer had what was lost.
    HealedByPeer,
    /// Detected; the only copy was hit, and is listed.
    Listed,
}

/// Enough long values for several segments of sled's log.
const BALLAST: usize = 700;

/// What was read of all keys.
#[derive(Debug, Default)]
struct ReadAll {
    right: usize,
    /// Keys that read as an error.
    refused: Vec<Key>,
    /// Keys that read as an older value of theirs: their newest is lost.
    older: Vec<Key>,
    /// Keys that read as absent, and are not.
    absent: Vec<Key>,
}

fn read_all(reader: &Reader, model: &Model, clock: &Clock) -> ReadAll {
    let mut read = ReadAll::default();
    for (key, history) in &model.entries {
        let newest = history.last().unwrap();
        match reader.get(key, clock.now()) {
            Ok(Some(entry)) if entry == *newest => read.right += 1,
            Ok(Some(entry)) if history.contains(&entry) => read.older.push(key.clone()),
            Ok(Some(entry)) => panic!("{key:?} reads as what was never written: {entry:?}"),
            Ok(None) if newest.content == Content::Tombstone => read.right += 1,
            Ok(None) => read.absent.push(key.clone()),
            Err(_) => read.refused.push(key.clone()),
        }
    }
    for absent in &model.never {
        match reader.get(absent, clock.now()) {
            Ok(None) | Err(_) => {}
            Ok(Some(entry)) => panic!("{absent:?} was never written: {entry:?}"),
        }
    }
    read
}

/// A list is whole, or refused.
fn list_all(reader: &Reader, model: &Model, clock: &Clock) {
    let visible = |entry: &&Entry| matches!(entry.content, Content::Value(_));
    let expected: Vec<&Entry> =
        model.entries.values().map(|history| history.last().unwrap()).filter(visible).collect();
    let mut listed = Vec::new();
    let mut page = Page { limit: 100, ..Page::default() };
    loop {
        match reader.list(&page, clock.now()) {
            Err(_) => return,
            Ok(more) => {
                listed.extend(more.entries);
                match more.next {
                    Some(next) => page.cursor = next,
                    None => break,
                }
            }
        }
    }
    // Older values are accounted for by the reads one by one.
    let keys = |entries: &[&Entry]| entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    assert_eq!(
        keys(&listed.iter().collect::<Vec<_>>()),
        keys(&expected),
        "a list is short, and says nothing"
    );
}

/// Checks everything; what was found.
fn check(engine: &mut Engine, clock: &Clock) -> Result<usize, Error> {
    let mut check = engine.reader().check();
    loop {
        let more = check.step()?;
        engine.look_into_suspicions(clock.now())?;
        if !more {
            // What was looked into last may have led on.
            engine.look_into_suspicions(clock.now())?;
            return Ok(engine.take_findings().len());
        }
    }
}

/// Everything that says what was lost.
fn reports(folder: &Path) -> String {
    let folders = set_aside(folder).unwrap();
    let read = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    folders.iter().map(|(path, _)| read(path, "REASON") + &read(path, "REPORT")).collect()
}

/// Whether nothing that has a value was lost before a peer helped. Deletions are not told while a store recovers.
fn is_whole(read: &ReadAll, model: &Model, recovering: bool) -> bool {
    let deleted = |key: &Key| model.entries[key].last().unwrap().content == Content::Tombstone;
    read.older.is_empty() && read.refused.iter().all(|key| recovering && deleted(key))
}

/// The outcome, and how often it was opened.
fn case(folder: &Path, model: &Model) -> (Outcome, u32) {
    let clock = Clock::after(model);
    let mut detected = false;
    let mut openings = 0;
    let mut engine = loop {
        openings += 1;
        assert!(openings <= OPENINGS_MAX, "it is opened again and again");
        let opened = catch_unwind(AssertUnwindSafe(|| opening(folder, &clock).open(model::incarnations)));
        let opened = opened.unwrap_or_else(|_| panic!("opening panicked"));
        let mut opened = opened.unwrap_or_else(|error| panic!("it does not open: {error}"));
        let reader = opened.engine.reader();
        detected |= opened.engine.recovering().is_some() || !opened.engine.take_findings().is_empty();
        let read = read_all(&reader, model, &clock);
        assert!(read.absent.is_empty(), "absent, and nobody says why: {:?}", read.absent);
        assert!(
            read.older.is_empty() || opened.engine.recovering().is_some(),
            "older values are served as if nothing were wrong: {:?}",
            read.older
        );
        list_all(&reader, model, &clock);
        let found = check(&mut opened.engine, &clock);
        detected |= found.is_err() || found.is_ok_and(|found| found > 0);
        if opened.damaged.borrow().is_none() {
            break opened.engine;
        }
        // As the service does: it ends, and is started again.
        detected = true;
        drop(opened);
    };
    seal(&mut engine, &clock);
    let alone = read_all(&engine.reader(), model, &clock);
    assert!(alone.absent.is_empty(), "absent, and nobody says why: {:?}", alone.absent);
    let whole = is_whole(&alone, model, engine.recovering().is_some());
    heal(&mut engine, model, &clock);
    let after = read_all(&engine.reader(), model, &clock);
    let listed = reports(folder);
    let lost = after.refused.iter().chain(&after.older).chain(&after.absent);
    let mut only = 0_u32;
    for key in lost {
        assert!(!model.peer_has(key), "{key:?} is still lost, and a peer has it");
        let noted = engine.reader().damaged(&[], 1_000).unwrap().iter().any(|entry| entry.key == *key);
        let by_key = listed.contains(&format!("key {}:", key.as_bytes().escape_ascii()));
        let by_place = listed.lines().any(|line| line.starts_with("db: ") || line.starts_with("place "));
        assert!(
            noted || by_key || by_place || listed.contains("were acknowledged"),
            "{key:?} is lost silently:\n{listed}"
        );
        only += 1;
    }
    // It stays whole over a restart.
    drop(engine);
    let opened = opening(folder, &clock).open(model::incarnations).unwrap();
    let again = read_all(&opened.engine.reader(), model, &clock);
    assert_eq!(again.right, after.right);
    let outcome = match (detected, whole, only) {
        (_, _, 1..) => Outcome::Listed,
        (true, true, 0) => Outcome::HealedHere,
        (_, false, 0) => Outcome::HealedByPeer,
        (false, true, 0) => Outcome::Harmless,
    };
    (outcome, openings)
}

fn seal(engine: &mut Engine, clock: &Clock) {
    clock.pass(10_000);
    for _ in 0..100 {
        // What is damaged may fail a step, and is looked into by the next.
        if let Ok(None) = engine.seal(clock.now()) {
            return;
        }
    }
    panic!("sealing does not come to an end");
}

/// What the coordinator does: repairs what is listed, pulls the rest, and says when that is done.
fn heal(engine: &mut Engine, model: &Model, clock: &Clock) {
    let damaged = engine.reader().damaged(&[], 1_000).unwrap();
    let peers: Vec<Entry> = damaged.iter().filter_map(|entry| model.peer(&entry.key)).collect();
    engine.merge(peers, Origin::Repair, clock.now()).unwrap();
    for entries in model.all_of_peer().chunks(100) {
        engine.merge(entries.to_vec(), Origin::Pull, clock.now()).unwrap();
    }
    seal(engine, clock);
    let incarnation = engine.view().incarnation;
    engine.recovered(incarnation).unwrap();
    check(engine, clock).unwrap();
    seal(engine, clock);
    assert_eq!(check(engine, clock).unwrap(), 0, "once healed, it is sound");
}

#[test]
fn every_flip_and_tear_is_accounted_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let cases = number("LATTICE_BITROT_CASES").unwrap_or(12);
    let seed = number("LATTICE_BITROT_SEED").unwrap_or_else(model::seed);
    println!("LATTICE_BITROT_SEED={seed} LATTICE_BITROT_CASES={cases}");
    let (small, large) = (Model::make(0), Model::make(BALLAST));
    let mut reopened = 0;
    let mut tally: BTreeMap<(String, &'static str, Outcome), u64> = BTreeMap::new();
    for number in 0..cases {
        let model = if number % 4 == 2 { &large } else { &small };
        let mut random = Random::new(seed, number);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        model.copy_to(&store, number % 2 == 1);
        let rot = rot::rot(&store, &mut random, number);
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&store, model)));
        let (outcome, openings) = outcome.unwrap_or_else(|_| panic!("seed {seed}, case {number}: {rot:?}"));
        reopened += u64::from(openings > 1);
        *tally.entry((rot.kind_of_file(), rot.kind(), outcome)).or_default() += 1;
    }
    println!("{:<10} {:<6} {:<14} cases", "file", "damage", "outcome");
    for ((file, damage, outcome), count) in &tally {
        println!("{file:<10} {damage:<6} {:<14} {count}", format!("{outcome:?}"));
    }
    let total =
        |outcome| tally.iter().filter(|((_, _, of), _)| *of == outcome).map(|(_, count)| count).sum::<u64>();
    println!(
        "{cases} cases: {} harmless, {} healed here, {} healed by a peer, {} listed (the only copy was hit); \
         {reopened} found only once the store ran; 0 wrong values, 0 silent losses, 0 panics, 0 loops",
        total(Outcome::Harmless),
        total(Outcome::HealedHere),
        total(Outcome::HealedByPeer),
        total(Outcome::Listed)
    );
}

#[test]
fn an_interrupted_salvage_goes_on_where_it_was() {
    let model = Model::make(0);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    model.copy_to(&store, false);
    // Nothing is lost of it, and nothing of it opens.
    let conf = store.join("sled/conf");
    let mut bytes = std::fs::read(&conf).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&conf, bytes).unwrap();
    let mut interrupted = 0;
    let opened = loop {
        let clock = Clock::after(&model);
        clock.stop_after(4 + interrupted / 2);
        let attempt = catch_unwind(AssertUnwindSafe(|| opening(&store, &clock).open(model::incarnations)));
        match attempt {
            Ok(opened) => break opened.unwrap(),
            Err(_) => interrupted += 1,
        }
        assert!(interrupted < 200, "it never comes to an end");
    };
    assert!(interrupted > 5, "it was interrupted {interrupted} times");
    assert_eq!(set_aside(&store).unwrap().len(), 1, "it is set aside once");
    assert!(opened.engine.recovering().is_some());
    let read = read_all(&opened.engine.reader(), &model, &Clock::after(&model));
    assert!(is_whole(&read, &model, true), "{read:?}");
    assert_eq!(opened.engine.view().stats.damaged, 0);
}

#[test]
fn no_more_than_three_databases_are_set_aside_within_a_day() {
    let model = Model::make(0);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    model.copy_to(&store, false);
    let clock = Clock::after(&model);
    for round in 0..4 {
        let conf = store.join("sled/conf");
        std::fs::write(&conf, "nonsense").unwrap();
        let opened = opening(&store, &clock).open(model::incarnations);
        if round < 3 {
            let read = read_all(&opened.unwrap().engine.reader(), &model, &clock);
            assert!(is_whole(&read, &model, true), "{read:?}");
        } else {
            let refused = opened.map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("were set aside within 24 hours: check the disk"), "{refused}");
            assert!(conf.exists(), "it is left where it is");
        }
    }
    assert_eq!(set_aside(&store).unwrap().len(), 3);
    clock.pass(25 * 3_600_000);
    opening(&store, &clock).open(model::incarnations).unwrap();
    assert_eq!(set_aside(&store).unwrap().len(), 4);
}

#[test]
fn a_suspect_database_that_reads_is_trusted_again() {
    let model = Model::make(0);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    model.copy_to(&store, true);
    std::fs::write(store.join("SUSPECT"), "it panicked once\n").unwrap();
    let clock = Clock::after(&model);
    let opened = opening(&store, &clock).open(model::incarnations).unwrap();
    assert!(opened.engine.recovering().is_none());
    assert!(!store.join("SUSPECT").exists());
    assert!(read_all(&opened.engine.reader(), &model, &clock).refused.is_empty());
}

#[test]
fn a_database_that_is_gone_or_rolled_back_is_a_loss() {
    let model = Model::make(0);
    for gone in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        model.copy_to(&store, false);
        if gone {
            std::fs::remove_dir_all(store.join("sled")).unwrap();
        } else {
            // As if the database alone were from a backup.
            let clock = Clock::after(&model);
            let older = folder.path().join("older");
            model.copy_to(&older, false);
            let mut opened = opening(&store, &clock).open(model::incarnations).unwrap();
            seal(&mut opened.engine, &clock);
            drop(opened);
            std::fs::remove_dir_all(store.join("sled")).unwrap();
            std::fs::rename(older.join("sled"), store.join("sled")).unwrap();
        }
        let clock = Clock::after(&model);
        let mut opened = opening(&store, &clock).open(model::incarnations).unwrap();
        assert!(opened.engine.recovering().is_some(), "gone: {gone}");
        assert!(read_all(&opened.engine.reader(), &model, &clock).absent.is_empty());
        assert!(reports(&store).contains("were acknowledged"));
        heal(&mut opened.engine, &model, &clock);
    }
}
