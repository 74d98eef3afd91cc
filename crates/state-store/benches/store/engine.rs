//! Our engine in this process, driven as the writer's thread drives it: writes, and sealing between them.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{Content, EpochLength, Incarnation, Key};
use lattice_core::proof::SealedProof;
use lattice_core::time::{Monotonic, WallTime};
use lattice_runtime::Clock;
use state_store::compact;
use state_store::engine::{Begun, Incarnations, Op, Prepared, Sealer, Step};
use state_store::opening::Opening;
use state_store::storage::Disk;
use state_store::{Engine, Now, Reader, Settings, Storage};

use crate::stores::Store;

/// How long an epoch is, in milliseconds, and how long after its end it is sealed: the defaults.
const EPOCH_MS: u32 = 1_000;
const SETTLE: Duration = Duration::from_secs(2);
/// For how many epochs sealed trees are kept: the default.
const RETAIN_EPOCHS: u64 = 30;
/// When everything that was written is due, and when no kept tree needs what it replaced.
const ALL_DUE: Duration = Duration::from_secs(4);
const ALL_GARBAGE: Duration = Duration::from_secs(40);

/// An engine, and what time it is for it.
pub(crate) struct InProcess {
    engine: Engine,
    sealer: Sealer,
    reader: Reader,
    clock: Clock,
    /// How far its time is ahead of ours; both of its clocks go by it.
    ahead: Duration,
    /// When its time stands still, what it is.
    stopped: Option<Now>,
}

impl InProcess {
    /// Opens the engine on a disk, so far ahead of our time: after all that was sealed there before.
    pub(crate) fn open(storage: Box<dyn Storage>, ahead: Duration) -> Result<Self> {
        let clock = Clock::system();
        let engine = Engine::open(storage, settings(), key(), incarnations(), now(&clock, ahead))?;
        let reader = engine.reader();
        let sealer = Sealer::start(|| {})?;
        Ok(Self { engine, sealer, reader, clock, ahead, stopped: None })
    }

    fn now(&self) -> Now {
        self.stopped.unwrap_or_else(|| now(&self.clock, self.ahead))
    }

    /// What the newest seal proves of a key.
    pub(crate) fn prove(&self, key: &Bytes) -> Result<SealedProof> {
        Ok(self.reader.prove(&Key::try_from(key.clone())?, None)?.sealed)
    }

    fn put(&mut self, entries: &[(Bytes, Bytes)]) -> Result<()> {
        let mut ops = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (key, value) = (Key::try_from(key.clone())?, value.clone());
            ops.push(Op::Put { key, value, ttl: None, condition: None });
        }
        let now = self.now();
        let mut group = self.engine.begin()?;
        self.engine.stage_write(&mut group, &ops, now)?;
        match self.sealer.ready() {
            Some(prepared) => {
                let (committed, step) = self.engine.commit_sealing(group, prepared);
                committed?;
                step?;
            }
            None => drop(self.engine.commit(group)?),
        }
        Ok(())
    }

    /// A half of a step of sealing; whether there may be more to do.
    fn seal_some(&mut self, prepared: fn(&mut Sealer) -> Option<Prepared>) -> Result<bool> {
        let step = match prepared(&mut self.sealer) {
            Some(prepared) => self.engine.end_step(prepared)?,
            None if self.sealer.is_busy() => return Ok(false),
            None => match self.engine.begin_step(self.now())? {
                Begun::Done(step) => step,
                Begun::Planned(plan) => {
                    self.sealer.prepare(plan);
                    return Ok(true);
                }
            },
        };
        Ok(step != Step::Idle)
    }

    /// Seals all that is due.
    fn seal(&mut self) -> Result<()> {
        while self.seal_some(Sealer::wait)? {}
        Ok(())
    }

    /// Lets time stand still but for [`Self::epoch`].
    pub(crate) fn stop_clock(&mut self) {
        self.stopped = Some(self.now());
    }

    /// Writes entries, lets an epoch pass, or as many as become one seal, and seals the one that is due by then, whose
    /// entries were written some calls ago. How long from its being due to the seal; `None` when none was due.
    pub(crate) fn epoch(&mut self, entries: &[(Bytes, Bytes)]) -> Result<Option<Duration>> {
        for batch in entries.chunks(state_store::engine::MAX_OPERATIONS) {
            self.put(batch)?;
        }
        let Now { wall, monotonic } = self.now();
        // Of so many as leave epochs out, one of four is sealed.
        let epochs = if entries.len() > 4_096 { 4 } else { 1 };
        let epoch = Duration::from_millis(u64::from(EPOCH_MS)) * epochs;
        let now = Now { wall: wall + epoch, monotonic: Monotonic(monotonic.0 + epoch) };
        self.stopped = Some(now);
        let due = Instant::now();
        let sealed = loop {
            match self.engine.seal_step(now)? {
                Step::Idle => break None,
                Step::Worked => {}
                Step::Sealed(_) => break Some(due.elapsed()),
            }
        };
        self.seal()?;
        Ok(sealed)
    }
}

impl Store for InProcess {
    fn write(&mut self, entries: &[(Bytes, Bytes)]) -> Result<()> {
        for _ in 0..self.engine.pressure(self.now()) {
            if !self.seal_some(Sealer::wait)? {
                break;
            }
        }
        let began = Instant::now();
        self.put(entries)?;
        let wrote = began.elapsed();
        // At most as long as the write took.
        let sealing = Instant::now();
        while !self.sealer.is_busy() && self.seal_some(Sealer::ready)? && sealing.elapsed() < wrote {}
        Ok(())
    }

    fn rest(&mut self) -> Result<()> {
        for idle in [ALL_DUE, ALL_GARBAGE] {
            self.ahead += idle;
            self.seal()?;
            self.engine.extend(self.now())?;
        }
        self.seal()
    }

    fn get(&self, key: &Bytes) -> Result<Option<usize>> {
        let entry = self.reader.get(&Key::try_from(key.clone())?, self.now())?;
        Ok(entry.and_then(|entry| match entry.content {
            Content::Value(value) => Some(value.len()),
            Content::Tombstone | Content::Dropped { .. } => None,
        }))
    }
}

fn settings() -> Settings {
    Settings {
        cluster: "bench".to_owned(),
        epoch_length: EpochLength(NonZeroU32::new(EPOCH_MS).unwrap_or(NonZeroU32::MIN)),
        settle: SETTLE,
        settle_max: Duration::from_secs(10),
        retain_epochs: RETAIN_EPOCHS,
        max_clock_drift: Duration::from_secs(10),
        confirm_after: Duration::from_secs(60),
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn incarnations() -> Incarnations {
    Box::new(|| Incarnation([7; 16]))
}

/// Compacts a store that came to rest, so far ahead of our time.
pub(crate) fn compact(disk: Disk, folder: &Path, cache_bytes: u64, ahead: Duration) -> Result<()> {
    let clock = Clock::system();
    let now = || now(&clock, ahead);
    let opening = Opening { folder, disk, cache_bytes, settings: settings(), key: key(), now: &now };
    compact::database(&opening, disk, incarnations, |_, _, _| {})?;
    Ok(())
}

fn now(clock: &Clock, ahead: Duration) -> Now {
    Now { wall: WallTime(clock.wall_ms()) + ahead, monotonic: Monotonic(clock.monotonic() + ahead) }
}
