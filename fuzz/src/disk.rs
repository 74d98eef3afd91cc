//! What a store finds on its disk.

use std::fs;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::exchange::{Ask, FetchAsk, Known, WalkAsk};
use lattice_core::model::{EpochLength, Incarnation, Key};
use lattice_core::time::{Monotonic, WallTime};
use lattice_core::tree::Position;
use state_store::engine::{Op, Page, Question};
use state_store::storage::{Batch, Storage as _, sled_log};
use state_store::{Engine, MemoryStorage, Now, Settings};
use tempfile::TempDir;

use crate::fixtures;
use crate::records::{content, framed, joined, parts};

/// Steps after which it would not end.
const STEPS_MAX: usize = 10_000;
const BEGAN: u64 = 1_000_000_000;

fn now(millis: u64) -> Now {
    Now { wall: WallTime(BEGAN + millis), monotonic: Monotonic(Duration::from_millis(millis)) }
}

fn settings() -> Settings {
    Settings {
        cluster: "lattice".to_owned(),
        epoch_length: EpochLength(NonZeroU32::new(1_000).expect("not zero")),
        settle: Duration::from_secs(1),
        settle_max: Duration::from_secs(1),
        retain_epochs: 5,
        max_clock_drift: Duration::from_secs(10),
        confirm_after: Duration::from_secs(60),
    }
}

fn open(storage: MemoryStorage, millis: u64) -> Option<Engine> {
    let mut next = millis;
    let incarnations = move || {
        next += 1;
        Incarnation(u128::from(next).to_be_bytes())
    };
    Engine::open(storage, settings(), fixtures::asker_key(), Box::new(incarnations), now(millis)).ok()
}

/// A store that has written, sealed, deleted and written again.
fn used() -> MemoryStorage {
    static USED: OnceLock<MemoryStorage> = OnceLock::new();
    USED.get_or_init(fill).snapshot()
}

fn fill() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let mut engine = open(storage.clone(), 0).expect("an empty store opens");
    for round in 0..4_u64 {
        let at = now(round * 1_500);
        let key = |number: u64| Key::try_from(format!("key-{number}").as_str()).expect("a key");
        let mut ops: Vec<Op> = (0..40)
            .map(|number| Op::Put {
                key: key(number * (round + 1)),
                value: Bytes::from(format!("value {round}")),
                ttl: (number % 7 == 0).then_some(Duration::from_millis(800)),
                condition: None,
            })
            .collect();
        ops.push(Op::Delete { key: key(round), condition: None });
        engine.write(&ops, at).expect("memory does not fail");
        engine.seal(at).expect("memory does not fail");
    }
    storage
}

/// All records of a store: keys and framed contents.
fn all(storage: &MemoryStorage) -> Vec<(Vec<u8>, Bytes)> {
    let mut records = Vec::new();
    let mut visit = |key: &[u8], value: Bytes| {
        records.push((key.to_vec(), value));
        Ok(ControlFlow::Continue(()))
    };
    storage.range(&[], &[0xff; 8], &mut visit).expect("memory does not fail");
    records
}

/// The records of a store, of which some were changed: where and how is what is made up. Their checksums are right, or
/// all would end there.
pub(crate) fn store(bytes: &[u8]) {
    let storage = used();
    let records = all(&storage);
    let mut batch = Batch::default();
    for part in parts(bytes) {
        let Some((which, part)) = part.split_first_chunk::<2>() else { continue };
        let Some((how, part)) = part.split_first() else { continue };
        let (key, old) = &records[usize::from(u16::from_le_bytes(*which)) % records.len()];
        match how % 4 {
            0 => batch.remove(key.clone()),
            1 => batch.put(key.clone(), framed(key, part)),
            2 => {
                let mut changed = content(old).to_vec();
                for change in part.chunks_exact(3) {
                    let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
                    if let Some(byte) = changed.get_mut(at) {
                        *byte = change[2];
                    }
                }
                batch.put(key.clone(), framed(key, &changed));
            }
            // Another record's content in its place.
            _ => {
                let other = part.split_first_chunk::<2>().map_or(0, |(other, _)| u16::from_le_bytes(*other));
                let (_, other) = &records[usize::from(other) % records.len()];
                batch.put(key.clone(), framed(key, content(other)));
            }
        }
    }
    storage.commit(&batch).expect("memory does not fail");
    if let Some(mut engine) = open(storage, 10_000) {
        look(&mut engine);
    }
}

/// Reads everything, checks it, serves it and goes on.
fn look(engine: &mut Engine) {
    let reader = engine.reader();
    let mut page = Page { limit: 50, ..Page::default() };
    while let Ok(listed) = reader.list(&page, now(10_000)) {
        match listed.next {
            Some(next) => page.cursor = next,
            None => break,
        }
    }
    let root = Position::ROOT;
    let _ = reader.nodes(&[root]);
    let walk = Ask::Walk { epoch: None, nodes: vec![WalkAsk { position: root, mine: None }] };
    let buckets = (0..16).filter_map(|child| root.child(child));
    let buckets = buckets.map(|position| FetchAsk { position, known: Known::default(), keys: Vec::new() });
    let fetch = Ask::Fetch { epoch: None, buckets: buckets.collect() };
    for ask in [walk, fetch] {
        let (asker, incarnation) = (fixtures::server(), fixtures::SERVER_INCARNATION);
        let _ = reader.serve(Question { asker, incarnation, ask: &ask, time: now(10_000).wall });
    }
    let _ = reader.prove(&Key::try_from("key-1").expect("a key"), None);
    let mut check = reader.check();
    let mut steps = 0;
    while check.step().unwrap_or(false) {
        let _ = engine.look_into_suspicions(now(10_000));
        steps += 1;
        assert!(steps < STEPS_MAX, "the check does not end");
    }
    let op = Op::Put {
        key: Key::try_from("after").expect("a key"),
        value: Bytes::from_static(b"all"),
        ttl: None,
        condition: None,
    };
    let _ = engine.write(&[op], now(11_000));
    for step in 0.. {
        match engine.seal_step(now(20_000)) {
            Ok(state_store::engine::Step::Idle) | Err(_) => break,
            Ok(_) => assert!(step < STEPS_MAX, "sealing does not end"),
        }
    }
}

/// A file that no database opens any more, with records in it: parts that begin with an odd byte are framed.
pub(crate) fn salvage(bytes: &[u8]) {
    let mut file = Vec::new();
    for part in parts(bytes) {
        match part.split_first() {
            Some((first, rest)) if first % 2 == 1 && !rest.is_empty() => {
                file.extend_from_slice(&framed(&rest[..1], &rest[1..]));
            }
            Some((_, rest)) => file.extend_from_slice(rest),
            None => {}
        }
    }
    let folder = folder();
    fs::write(folder.path().join("db"), file).expect("a file");
    let mut engine = open(MemoryStorage::new(), 0).expect("an empty store opens");
    state_store::salvage::run(&mut engine, folder.path(), &|| now(0)).expect("what is broken is left out");
    look(&mut engine);
}

/// The files of a sled database, before sled reads them: their names are the first byte of each part.
pub(crate) fn log(bytes: &[u8]) {
    let folder = folder();
    for part in parts(bytes) {
        if let Some((name, content)) = part.split_first() {
            let name =
                ["db", "conf", "snap.0000000000000000", "snap.0000000000000100"][usize::from(name % 4)];
            fs::write(folder.path().join(name), content).expect("a file");
        }
    }
    sled_log::inspect(folder.path()).expect("what is broken is no failure");
}

/// In memory, where the system has that.
fn folder() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.expect("a folder")
}

/// A few changes to begin with.
pub(crate) fn changes() -> Vec<Vec<u8>> {
    let change = |which: u16, how: u8, what: &[u8]| [&which.to_le_bytes()[..], &[how], what].concat();
    let count = u16::try_from(all(&used()).len()).expect("a small store");
    let spread = (0..count).step_by(7);
    spread
        .flat_map(|which| {
            [
                joined([change(which, 0, &[])]),
                joined([change(which, 1, b"something else")]),
                joined([change(which, 2, &[2, 0, 0xff]), change(which + 1, 2, &[0, 0, 7])]),
                joined([change(which, 3, &(which / 2).to_le_bytes())]),
            ]
        })
        .collect()
}

/// The records of a store as they stand in a file.
pub(crate) fn in_a_file() -> Vec<Vec<u8>> {
    let records = all(&used());
    let as_part = |(key, value): &(Vec<u8>, Bytes)| [&[1, key[0]], content(value)].concat();
    let parts: Vec<Vec<u8>> = records.iter().map(as_part).collect();
    parts.chunks(20).map(joined).collect()
}

/// The files of a database.
pub(crate) fn database() -> Vec<Vec<u8>> {
    let folder = folder();
    let store = state_store::SledStorage::open(folder.path(), 1 << 20).expect("a database");
    for (key, value) in all(&used()).into_iter().take(60) {
        let mut batch = Batch::default();
        batch.put(key, value);
        store.commit(&batch).expect("a commit");
    }
    drop(store);
    let database =
        fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok).map(|entry| entry.path());
    let mut seeds = Vec::new();
    for path in database.filter(|path| path.is_dir()) {
        let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let snapshot = fs::read_dir(&path).expect("a folder").filter_map(Result::ok);
        let snapshot = snapshot.map(|file| file.path()).find(|file| file.to_string_lossy().contains("snap."));
        let snapshot = snapshot.map(|file| fs::read(file).unwrap_or_default()).unwrap_or_default();
        let mut log = read("db");
        log.truncate(30_000);
        let part = |name: u8, content: Vec<u8>| [vec![name], content].concat();
        seeds.push(joined([part(0, log.clone()), part(1, read("conf")), part(2, snapshot)]));
        seeds.push(joined([part(0, log), part(1, read("conf"))]));
    }
    seeds
}
