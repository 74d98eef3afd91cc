//! A store with a history, and what a peer has of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{Entry, EpochLength, Incarnation, Key};
use lattice_core::time::{Monotonic, WallTime};
use state_store::engine::{Incarnations, Op};
use state_store::opening::Opening;
use state_store::storage::Disk;
use state_store::{Engine, Now, Settings};
use tempfile::TempDir;

/// Where the clock begins, in milliseconds.
const BEGIN: u64 = 1_700_000_000_000;

/// A clock that the test moves.
pub(crate) struct Clock {
    passed: Cell<u64>,
    /// After how many looks it panics, as if the process were killed.
    looks: Cell<Option<u32>>,
}

impl Clock {
    fn new(passed: u64) -> Self {
        Self { passed: Cell::new(passed), looks: Cell::new(None) }
    }

    /// Panics once it was looked at so often.
    pub(crate) fn stop_after(&self, looks: u32) {
        self.looks.set(Some(looks));
    }

    /// Some time after the model was made.
    pub(crate) fn after(model: &Model) -> Self {
        Self::new(model.passed + 60_000)
    }

    pub(crate) fn pass(&self, millis: u64) {
        self.passed.set(self.passed.get() + millis);
    }

    pub(crate) fn now(&self) -> Now {
        if let Some(looks) = self.looks.get() {
            assert!(looks > 0, "interrupted");
            self.looks.set(Some(looks - 1));
        }
        let passed = self.passed.get();
        Now { wall: WallTime(BEGIN + passed), monotonic: Monotonic(Duration::from_millis(passed)) }
    }
}

pub(crate) fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(time.as_nanos() % 1_000_000_007).unwrap()
}

pub(crate) fn incarnations() -> Incarnations {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Box::new(|| Incarnation(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes()))
}

/// How the store in `folder` is opened.
pub(crate) fn opening<'a>(folder: &'a Path, clock: &'a Clock) -> Open<'a> {
    Open { folder, clock }
}

pub(crate) struct Open<'a> {
    folder: &'a Path,
    clock: &'a Clock,
}

impl Open<'_> {
    pub(crate) fn open(
        &self,
        incarnations: impl Fn() -> Incarnations,
    ) -> Result<state_store::opening::Opened, state_store::opening::Error> {
        let settings = Settings {
            cluster: "lattice".to_owned(),
            epoch_length: EpochLength(NonZeroU32::new(1_000).unwrap()),
            settle: Duration::from_secs(2),
            settle_max: Duration::from_secs(10),
            retain_epochs: 30,
            max_clock_drift: Duration::from_secs(10),
            confirm_after: Duration::from_secs(60),
        };
        let now = || self.clock.now();
        let key = SigningKey::from_bytes(&[7; 32]);
        Opening { folder: self.folder, disk: Disk::Sled, cache_bytes: 8 << 20, settings, key, now: &now }
            .open(incarnations)
    }
}

/// What was written, and the files that it left.
pub(crate) struct Model {
    /// All that was ever acknowledged of each key, oldest first.
    pub(crate) entries: BTreeMap<Key, Vec<Entry>>,
    pub(crate) never: Vec<Key>,
    passed: u64,
    closed: TempDir,
    killed: TempDir,
}

fn key(name: &str) -> Key {
    Key::try_from(name).unwrap()
}

/// A value that says which one it is, from a few bytes to several pieces.
fn value(name: &str, round: usize) -> Bytes {
    let length = match name.len() * 7 + round * 3 + name.bytes().map(usize::from).sum::<usize>() {
        sum if sum % 23 == 0 => 9_000 + sum * 20,
        sum => sum % 900,
    };
    let mut value = format!("{name} in round {round} ").into_bytes();
    value.extend(name.bytes().cycle().take(length));
    value.into()
}

impl Model {
    /// With so many long values from the first life of the store on: what lies before the last snapshot is not
    /// replayed when it opens, and only read when somebody asks for it.
    pub(crate) fn make(ballast: usize) -> Self {
        let (closed, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = Clock::new(0);
        let mut model = Self {
            entries: BTreeMap::new(),
            never: (0..20).map(|number| key(&format!("never/{number}"))).collect(),
            passed: 0,
            closed,
            killed,
        };
        let store = model.closed.path().join("store");
        std::fs::create_dir(&store).unwrap();
        // Three lives of the store: each leaves a snapshot behind, and goes on in the log.
        for life in 0..3 {
            let mut opened = opening(&store, &clock).open(incarnations).unwrap();
            let engine = &mut opened.engine;
            if life == 0 {
                for number in 0..ballast {
                    let op = Op::Put {
                        key: key(&format!("shared/ballast/{number:04}")),
                        value: format!("{number:08}").repeat(2_500).into_bytes().into(),
                        ttl: None,
                        condition: None,
                    };
                    model.done(engine, &clock, op);
                }
            }
            for round in 0..3 {
                let names = (0..160).filter(|number| (number * 7 + round + life) % (round + 2) == 0);
                for (index, number) in names.enumerate() {
                    let owner = if number % 5 == 0 { "only" } else { "shared" };
                    model.write(engine, &clock, &format!("{owner}/{life}/{number:03}"), life * 3 + round);
                    // Some of the first life are written again and again.
                    if index % 3 == 0 {
                        model.write(engine, &clock, &format!("{owner}/0/{number:03}"), life * 3 + round + 1);
                    }
                    if index % 11 == 0 {
                        model.delete(engine, &clock, &format!("{owner}/{life}/{number:03}"));
                    }
                }
                if round < 2 {
                    clock.pass(4_000);
                    engine.seal(clock.now()).unwrap();
                }
            }
            if life == 2 {
                let killed = model.killed.path().join("store");
                copy(&store, &killed);
            }
        }
        model.passed = clock.passed.get();
        model
    }

    fn write(&mut self, engine: &mut Engine, clock: &Clock, name: &str, round: usize) {
        let op = Op::Put { key: key(name), value: value(name, round), ttl: None, condition: None };
        self.done(engine, clock, op);
    }

    fn delete(&mut self, engine: &mut Engine, clock: &Clock, name: &str) {
        self.done(engine, clock, Op::Delete { key: key(name), condition: None });
    }

    fn done(&mut self, engine: &mut Engine, clock: &Clock, op: Op) {
        clock.pass(1);
        let key = op.key().clone();
        engine.write(&[op], clock.now()).unwrap();
        let entry = engine.reader().current(&key).unwrap().unwrap();
        self.entries.entry(key).or_default().push(entry);
    }

    /// What the peer has of a key: the newest, except of those that only this node has.
    pub(crate) fn peer(&self, key: &Key) -> Option<Entry> {
        self.peer_has(key).then(|| self.entries[key].last().unwrap().clone())
    }

    pub(crate) fn peer_has(&self, key: &Key) -> bool {
        self.entries.contains_key(key) && key.as_bytes().starts_with(b"shared/")
    }

    pub(crate) fn all_of_peer(&self) -> Vec<Entry> {
        self.entries.keys().filter_map(|key| self.peer(key)).collect()
    }

    /// The files of the store, as closed or as a killed process leaves them.
    pub(crate) fn copy_to(&self, folder: &Path, killed: bool) {
        let from = if killed { &self.killed } else { &self.closed };
        copy(&from.path().join("store"), folder);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}
