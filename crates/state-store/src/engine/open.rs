//! Opens a store: reads what it was, or makes it. Nothing here scans the entries.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::clock::Clock;
use lattice_core::model::{Epoch, Hlc, Incarnation, NodeId};

use super::damage::{Finding, FindingKind, count_notes};
use super::heard::{Heard, HeardMap};
use super::held::Held;
use super::pending::Pending;
use super::records::Records;
use super::shared::Shared;
use super::{Engine, Error, Incarnations, Now, SealClock, SealedRun, Settings, Settle};
use crate::format::keys::{self, Generation};
use crate::format::{Damaged, VERSION, record};
use crate::storage::{self, Batch, Storage};

/// Why a store does not open. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Store(#[from] Error),
    /// The database has another format.
    #[error("the database has format {found}, this release reads {VERSION}")]
    Format {
        /// Its format.
        found: u32,
    },
    /// The database is of another cluster.
    #[error("node.cluster: {expected:?}, but the database is of cluster {found:?}")]
    Cluster {
        /// What is configured.
        expected: String,
        /// Its cluster.
        found: String,
    },
    /// The database is another node's.
    #[error("node.key_file: is of node {expected}, but the database is of node {found}")]
    Node {
        /// Us.
        expected: NodeId,
        /// Whose it is.
        found: String,
    },
    /// The database was made with epochs of another length.
    #[error("store.epoch_ms: {expected}, but the database was made with {found}")]
    EpochLength {
        /// What is configured.
        expected: u32,
        /// What it was made with.
        found: u32,
    },
}

impl From<storage::Error> for OpenError {
    fn from(error: storage::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Engine {
    /// Opens the store on `storage`, or makes one where there is none. `key` is the node's.
    ///
    /// What is damaged and can be done without, or made again, is: see [`Engine::take_findings`]. A damaged
    /// `identity` or `state` cannot.
    ///
    /// # Errors
    /// [`OpenError`], with nothing written.
    pub fn open(
        storage: impl Storage,
        settings: Settings,
        key: SigningKey,
        mut incarnations: Incarnations,
        now: Now,
    ) -> Result<Self, OpenError> {
        let node = NodeId(key.verifying_key().to_bytes());
        let records = Records::of(&storage);
        let identity: record::Identity = match records.get(&keys::meta("identity"))? {
            Some(identity) => identity,
            None if storage.first(&[], &[u8::MAX])?.is_some() => return Err(missing("identity").into()),
            None => make(&storage, &settings, &node, incarnations(), now)?,
        };
        check(&identity, &settings, &node)?;

        let at = keys::meta("identity");
        let incarnation = record::incarnation(&at, &identity.incarnation).map_err(Error::from)?;
        let generation = Generation(identity.generation);
        let state: Option<record::State> = records.get(&keys::meta("state"))?;
        let state = state.ok_or_else(|| missing("state"))?;
        let commit: record::Commit = records.get(&keys::meta("commit"))?.ok_or_else(|| missing("commit"))?;
        let held = Held::count(&storage)?;
        let sweep = has_earlier(&storage, generation)?;
        let damaged = count_notes(&storage)?;
        // What the store can do without, or make again.
        let mut findings = Vec::new();
        let mut lenient = |kind, damaged: Damaged| findings.push(Finding { kind, what: damaged.to_string() });
        let rebuild = match records.get(&keys::meta("rebuild")) {
            Err(Error::Damaged(damaged)) => {
                lenient(FindingKind::Other, damaged);
                Some(record::Rebuild::default())
            }
            rebuild => rebuild?,
        };
        let recovering = match records.get(&keys::meta("recovering")) {
            Err(Error::Damaged(damaged)) => {
                lenient(FindingKind::Other, damaged);
                Some(record::Recovering::default())
            }
            recovering => recovering?,
        };
        let mut broken = false;
        let runs = read_runs(&storage, generation, |damaged| {
            broken = true;
            lenient(FindingKind::Node, damaged);
        })?;
        let pending = Pending::read(&storage, generation, |damaged| {
            broken = true;
            lenient(FindingKind::Node, damaged);
        })?;
        let heard = read_heard(&storage, |damaged| lenient(FindingKind::Other, damaged))?;
        let sequence = match records.get::<record::Sequence>(&keys::meta("sequence")) {
            Ok(sequence) => sequence.is_some(),
            Err(Error::Damaged(damaged)) => {
                lenient(FindingKind::Other, damaged);
                false
            }
            Err(error) => return Err(error.into()),
        };

        let sealed = runs.back().map(|newest| settings.epoch_length.end_of(newest.run.to));
        let seal_clock = SealClock::new(settings.max_clock_drift, settings.confirm_after, now, sealed);
        let mut engine = Self {
            clock: Clock::new(settings.max_clock_drift, Hlc(state.clock)),
            seal_clock,
            settle: Settle::new(settings.settle, settings.settle_max),
            shared: Arc::new(Shared::new(Box::new(storage), settings, key, heard, pending, state.change)),
            state,
            incarnation,
            generation,
            damage_generation: identity.damage_generation,
            runs,
            sealing: None,
            waits_for: None,
            held,
            rebuild,
            sweep,
            incarnations,
            damaged,
            overflow: identity.damage_overflow,
            recovering,
            findings,
            rebuilt: None,
            commits: commit.number,
            observed: now.monotonic,
            clock_wrong: false,
            failed: false,
        };
        engine.publish();
        if broken {
            engine.rebuild_begin(now.wall)?;
        }
        if !sequence {
            engine.begin_sequence()?;
        }
        Ok(engine)
    }

    /// Hands out sequence numbers from the first on: as another incarnation, they are new.
    pub(super) fn begin_sequence(&mut self) -> Result<(), Error> {
        self.reincarnate(self.incarnation)?;
        let mut batch = Batch::default();
        put(&mut batch, "sequence", &record::Sequence { next: 1 });
        self.commit_batch(&mut batch)
    }

    /// The identity as it is written.
    pub(super) fn identity(&self) -> record::Identity {
        record::Identity {
            format: VERSION,
            cluster: self.settings().cluster.clone(),
            node: Bytes::copy_from_slice(self.shared.node.as_bytes()),
            incarnation: Bytes::copy_from_slice(&self.incarnation.0),
            generation: self.generation.0,
            damage_generation: self.damage_generation,
            epoch_ms: self.settings().epoch_length.0.get(),
            damage_overflow: self.overflow,
        }
    }
}

fn missing(name: &str) -> Error {
    Damaged::new(&keys::meta(name), "is missing").into()
}

/// Makes a new store, beginning with the epoch that is under way.
fn make(
    storage: &dyn Storage,
    settings: &Settings,
    node: &NodeId,
    incarnation: Incarnation,
    now: Now,
) -> Result<record::Identity, OpenError> {
    let identity = record::Identity {
        format: VERSION,
        cluster: settings.cluster.clone(),
        node: Bytes::copy_from_slice(node.as_bytes()),
        incarnation: Bytes::copy_from_slice(&incarnation.0),
        generation: 0,
        damage_generation: 0,
        epoch_ms: settings.epoch_length.0.get(),
        damage_overflow: false,
    };
    let next_epoch = settings.epoch_length.epoch_of(now.wall).0;
    let state = record::State { next_epoch, open_epoch: next_epoch, ..record::State::default() };
    let mut batch = Batch::default();
    put(&mut batch, "identity", &identity);
    put(&mut batch, "state", &state);
    put(&mut batch, "sequence", &record::Sequence { next: 1 });
    put(&mut batch, "commit", &record::Commit { number: 1 });
    storage.commit(&batch)?;
    Ok(identity)
}

/// Writes a record of the whole store.
pub(super) fn put(batch: &mut Batch, name: &str, record: &impl prost::Message) {
    let at = keys::meta(name);
    let framed = record::encode(&at, record);
    batch.put(at, framed);
}

fn check(identity: &record::Identity, settings: &Settings, node: &NodeId) -> Result<(), OpenError> {
    if identity.format != VERSION {
        return Err(OpenError::Format { found: identity.format });
    }
    if identity.cluster != settings.cluster {
        let (expected, found) = (settings.cluster.clone(), identity.cluster.clone());
        return Err(OpenError::Cluster { expected, found });
    }
    if identity.node.as_ref() != node.as_bytes() {
        return Err(OpenError::Node { expected: *node, found: hex::encode(&identity.node) });
    }
    let expected = settings.epoch_length.0.get();
    if identity.epoch_ms != expected {
        return Err(OpenError::EpochLength { expected, found: identity.epoch_ms });
    }
    Ok(())
}

/// The kept runs; what does not read is told.
fn read_runs(
    storage: &dyn Storage,
    generation: Generation,
    mut broken: impl FnMut(Damaged),
) -> Result<VecDeque<SealedRun>, Error> {
    let (from, to) = generation.all(keys::SEAL);
    let mut runs = VecDeque::new();
    each(storage, &from, &to, |at, framed| {
        match record::decode::<record::SealRun>(at, &framed).and_then(|run| run.parse(at)) {
            Ok((run, state_size)) => runs.push_back(SealedRun { run, state_size }),
            Err(damaged) => broken(damaged),
        }
        Ok(())
    })?;
    Ok(runs)
}

/// What was heard of peers; what does not read is told, and forgotten.
fn read_heard(storage: &dyn Storage, mut broken: impl FnMut(Damaged)) -> Result<HeardMap, Error> {
    let mut heard = HeardMap::new();
    each(storage, &[keys::HEARD], &[keys::HEARD + 1], |at, framed| {
        let Some(node) = keys::heard_node(at) else { return Ok(()) };
        match record::decode(at, &framed).and_then(|record| Heard::parse(at, record)) {
            Ok(of_node) => drop(heard.insert(node, of_node)),
            Err(damaged) => broken(damaged),
        }
        Ok(())
    })?;
    Ok(heard)
}

fn has_earlier(storage: &dyn Storage, generation: Generation) -> Result<bool, Error> {
    for tag in keys::DERIVED {
        let (from, to) = generation.before(tag);
        if storage.first(&from, &to)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Visits a range whose size is known to be small.
pub(super) fn each(
    storage: &dyn Storage,
    from: &[u8],
    to: &[u8],
    mut visit: impl FnMut(&[u8], Bytes) -> Result<(), Error>,
) -> Result<(), Error> {
    take(storage, from, to, |at, framed| visit(at, framed).map(|()| ControlFlow::Continue(())))
}

/// Visits a range until `visit` breaks off.
pub(super) fn take(
    storage: &dyn Storage,
    from: &[u8],
    to: &[u8],
    mut visit: impl FnMut(&[u8], Bytes) -> Result<ControlFlow<()>, Error>,
) -> Result<(), Error> {
    let mut failed = None;
    storage.range(from, to, &mut |at, framed| {
        Ok(visit(at, framed).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        }))
    })?;
    failed.map_or(Ok(()), Err)
}

/// The epoch that the clock's readings may no longer fall before, as a reading.
pub(super) fn before_epoch(epoch: Epoch, length: lattice_core::model::EpochLength) -> Hlc {
    Hlc(Hlc::at(length.end_of(epoch.previous())).0.saturating_sub(1))
}
