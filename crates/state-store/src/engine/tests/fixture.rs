//! An engine with a clock that the test moves.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{
    Content, Entry, EntryHead, Epoch, EpochLength, Hlc, Incarnation, Key, KeyHash, NodeId, Version,
};
use lattice_core::seal::{Root, Run};
use lattice_core::time::{Monotonic, WallTime};
use lattice_core::tree::apply;

use crate::engine::{
    Begun, Condition, Engine, Finding, Incarnations, Merged, Now, Op, Origin, Settings, Step, WriteError,
    Written,
};
use crate::storage::{Batch, MemoryStorage, Storage};

/// The epoch in which tests begin.
pub(crate) const FIRST: u64 = 1_000_000;

pub(crate) fn settings() -> Settings {
    Settings {
        cluster: "lattice".to_owned(),
        epoch_length: EpochLength(NonZeroU32::new(1_000).unwrap()),
        settle: Duration::from_secs(2),
        settle_max: Duration::from_secs(10),
        retain_epochs: 30,
        max_clock_drift: Duration::from_secs(10),
        confirm_after: Duration::from_secs(60),
    }
}

pub(crate) fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn node(seed: u8) -> NodeId {
    NodeId(signing_key(seed).verifying_key().to_bytes())
}

/// Incarnations that count up from the time of the opening.
pub(crate) fn incarnations(seed: u8, now: Now) -> Incarnations {
    let mut next = now.wall.millis() << 8;
    Box::new(move || {
        next += 1;
        let mut bytes = [seed; 16];
        bytes[8..].copy_from_slice(&next.to_be_bytes());
        Incarnation(bytes)
    })
}

pub(crate) fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

/// An entry of some other writer, `millis` after the first epoch began.
pub(crate) fn entry(name: &str, millis: u64, value: Option<&str>) -> Entry {
    Entry {
        key: key(name),
        version: Version { hlc: Hlc::at(WallTime(FIRST * 1_000 + millis)), writer: NodeId([9; 32]) },
        expires: None,
        content: match value {
            Some(value) => Content::Value(Bytes::copy_from_slice(value.as_bytes())),
            None => Content::Tombstone,
        },
    }
}

/// An engine, and what time it is for it, in milliseconds after the first epoch began.
pub(crate) struct Store {
    pub(crate) engine: Engine,
    pub(crate) storage: MemoryStorage,
    pub(crate) wall: u64,
    pub(crate) monotonic: u64,
    seed: u8,
    settings: Settings,
}

impl Store {
    pub(crate) fn new(seed: u8) -> Self {
        Self::with(seed, settings())
    }

    pub(crate) fn with(seed: u8, settings: Settings) -> Self {
        Self::on(seed, settings, MemoryStorage::new(), 0)
    }

    fn on(seed: u8, settings: Settings, storage: MemoryStorage, wall: u64) -> Self {
        let engine = open(storage.clone(), seed, &settings, at(wall, wall));
        Self { engine, storage, wall, monotonic: wall, seed, settings }
    }

    /// As if the process had been killed now, and started again.
    pub(crate) fn restarted(self) -> Self {
        let Self { storage, wall, seed, settings, .. } = self;
        Self::on(seed, settings, storage.snapshot(), wall)
    }

    pub(crate) fn now(&self) -> Now {
        at(self.wall, self.monotonic)
    }

    /// Moves both clocks to `millis`.
    pub(crate) fn go(&mut self, millis: u64) {
        assert!(millis >= self.wall, "clocks go forward");
        self.monotonic += millis - self.wall;
        self.wall = millis;
    }

    pub(crate) fn put(&mut self, name: &str, value: &str) -> Written {
        self.try_write(vec![put(name, value, None)]).unwrap()[0]
    }

    pub(crate) fn put_for(&mut self, name: &str, value: &str, ttl: u64) -> Written {
        let op = Op::Put {
            key: key(name),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ttl: Some(Duration::from_millis(ttl)),
            condition: None,
        };
        self.try_write(vec![op]).unwrap()[0]
    }

    pub(crate) fn delete(&mut self, name: &str) -> Written {
        self.try_write(vec![Op::Delete { key: key(name), condition: None }]).unwrap()[0]
    }

    pub(crate) fn try_write(&mut self, ops: Vec<Op>) -> Result<Vec<Written>, WriteError> {
        let now = self.now();
        self.engine.write(&ops, now).map(|(written, _)| written)
    }

    pub(crate) fn merge(&mut self, entries: Vec<Entry>) -> Merged {
        let now = self.now();
        self.engine.merge(entries, Origin::Delta, now).unwrap().0
    }

    /// Seals what is due.
    pub(crate) fn seal(&mut self) {
        let now = self.now();
        self.engine.seal(now).unwrap();
    }

    /// Seals what is due, each step in halves, with something merged before and after what another thread does, or
    /// committed together with that.
    pub(crate) fn seal_beside(&mut self, entries: &[Entry], together: bool) {
        let now = self.now();
        loop {
            match self.engine.begin_step(now).unwrap() {
                Begun::Done(Step::Idle) => return,
                Begun::Done(Step::Worked | Step::Sealed(_)) => {}
                Begun::Planned(plan) => {
                    let (before, after) = entries.split_at(entries.len() / 2);
                    self.merge(before.to_vec());
                    let prepared = plan.prepare();
                    if together {
                        let mut group = self.engine.begin().unwrap();
                        self.engine.stage_merge(&mut group, after.to_vec(), Origin::Delta, now).unwrap();
                        let (committed, step) = self.engine.commit_sealing(group, prepared);
                        committed.unwrap();
                        step.unwrap();
                    } else {
                        self.merge(after.to_vec());
                        self.engine.end_step(prepared).unwrap();
                    }
                }
            }
        }
    }

    /// Goes to where epoch `FIRST + epoch` is due, seals, and extends.
    pub(crate) fn seal_through(&mut self, epoch: u64) {
        self.go(self.wall.max((epoch + 1) * 1_000 + 2_000));
        self.seal();
        let now = self.now();
        self.engine.extend(now).unwrap();
    }

    /// The same, and lets the engine delete what is out of reach then.
    pub(crate) fn seal_all_away(&mut self, epoch: u64) {
        self.seal_through(epoch);
        self.seal();
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.engine.view().runs.iter().map(|sealed| sealed.run).collect()
    }

    /// What was sealed at `FIRST + epoch`; `None` when it was not.
    pub(crate) fn root_at(&self, epoch: u64) -> Option<Option<Root>> {
        let epoch = Epoch(FIRST + epoch);
        self.runs().iter().find(|run| run.from <= epoch && epoch <= run.to).map(|run| run.root)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Bytes> {
        let entry = self.engine.reader().get(&key(name), self.now()).unwrap()?;
        let Content::Value(value) = entry.content else { panic!("what is visible has a value") };
        Some(value)
    }

    pub(crate) fn current(&self, name: &str) -> Entry {
        self.engine.reader().current(&key(name)).unwrap().unwrap()
    }

    pub(crate) fn state_size(&self) -> u64 {
        self.engine.reader().seals().state_size
    }

    /// Merges what a peer has of damaged keys.
    pub(crate) fn repair(&mut self, entries: Vec<Entry>) -> Merged {
        let now = self.now();
        self.engine.merge(entries, Origin::Repair, now).unwrap().0
    }

    /// Flips a bit in the middle of the first record at or after `at`.
    pub(crate) fn flip(&self, at: &[u8]) {
        let (at, framed) = self.storage.first(at, &[at[0] + 1]).unwrap().unwrap();
        let mut bytes = framed.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut batch = Batch::default();
        batch.put(at, bytes);
        self.storage.commit(&batch).unwrap();
    }

    /// Lets a record vanish.
    pub(crate) fn lose(&self, at: Vec<u8>) {
        let mut batch = Batch::default();
        batch.remove(at);
        self.storage.commit(&batch).unwrap();
    }

    /// Checks everything; what was found by then.
    pub(crate) fn check(&mut self) -> Vec<Finding> {
        let now = self.now();
        let mut check = self.engine.reader().check();
        while check.step().unwrap() {
            self.engine.look_into_suspicions(now).unwrap();
        }
        self.engine.look_into_suspicions(now).unwrap();
        self.engine.take_findings()
    }

    /// The keys that are noted as damaged.
    pub(crate) fn damaged(&self) -> Vec<String> {
        let entries = self.engine.reader().damaged(&[], 1_000).unwrap();
        assert_eq!(entries.len() as u64, self.engine.view().stats.damaged);
        entries.iter().map(|entry| String::from_utf8(entry.key.as_bytes().to_vec()).unwrap()).collect()
    }

    /// How many records of a kind there are.
    pub(crate) fn count(&self, tag: u8) -> usize {
        let mut count = 0;
        let mut visit = |_: &[u8], _: Bytes| {
            count += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        };
        self.storage.range(&[tag], &[tag + 1], &mut visit).unwrap();
        count
    }
}

pub(crate) fn at(wall: u64, monotonic: u64) -> Now {
    Now { wall: WallTime(FIRST * 1_000 + wall), monotonic: Monotonic(Duration::from_millis(monotonic)) }
}

pub(crate) fn open(storage: impl Storage, seed: u8, settings: &Settings, now: Now) -> Engine {
    Engine::open(storage, settings.clone(), signing_key(seed), incarnations(seed, now), now).unwrap()
}

pub(crate) fn put(name: &str, value: &str, condition: Option<Condition>) -> Op {
    Op::Put { key: key(name), value: Bytes::copy_from_slice(value.as_bytes()), ttl: None, condition }
}

/// The root over the newest of each key with an epoch of at most `FIRST + epoch`, computed from nothing.
pub(crate) fn expected_root<'a>(entries: impl IntoIterator<Item = &'a Entry>, epoch: u64) -> Option<Root> {
    let mut newest: BTreeMap<KeyHash, EntryHead> = BTreeMap::new();
    for entry in entries {
        if entry.version.hlc.epoch(settings().epoch_length) > Epoch(FIRST + epoch) {
            continue;
        }
        let head = entry.head();
        let present = newest.entry(head.key_hash).or_insert(head);
        if !present.dominates(&head) {
            *present = head;
        }
    }
    apply(newest.into_values(), |_| Ok::<_, std::convert::Infallible>(None)).unwrap().root
}
