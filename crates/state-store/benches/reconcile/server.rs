//! The one who serves: the engine that ships, over a disk in memory, and its answers to signed requests.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::SigningKey;
use lattice_core::model::{EpochLength, Incarnation, NodeId};
use lattice_core::pull::MERGE_MAX;
use lattice_core::seal::Runs;
use lattice_core::signed::Signed;
use lattice_core::time::{Monotonic, WallTime};
use state_store::engine::Origin;
use state_store::peers::{Peers, Random};
use state_store::{Engine, MemoryStorage, Now, Settings};

use crate::puller;
use crate::sets::{FIRST, SPAN_MS, Sets};
use crate::usage::cpu;

/// The cluster of both.
pub(crate) const CLUSTER: &str = "bench";
/// Which store answers.
pub(crate) const INCARNATION: Incarnation = Incarnation([7; 16]);
/// When all entries are older than any clock drift, and when they are sealed.
const FILLED: u64 = FIRST + SPAN_MS + 60_000;
const SEALED: u64 = FILLED + 600_000;
/// So many are sealed at a time, this many milliseconds after those before: a store takes no more than it can seal.
const PART: u64 = 50_000;
const PART_MS: u64 = 5_000;

/// The one who serves.
pub(crate) struct Server {
    peers: Peers,
    runs: Runs,
    /// Numbers the answers.
    answered: u64,
    /// The CPU time that answers took.
    pub(crate) cpu: Duration,
    // What is read from it lives no longer.
    _engine: Engine,
}

impl Server {
    /// Fills and seals a store.
    pub(crate) fn of(sets: &Sets) -> Result<Self> {
        let settings = Settings {
            cluster: CLUSTER.to_owned(),
            epoch_length: EpochLength(NonZeroU32::new(1_000).context("an epoch has a length")?),
            settle: Duration::from_secs(2),
            settle_max: Duration::from_secs(10),
            retain_epochs: 30,
            max_clock_drift: Duration::from_secs(10),
            confirm_after: Duration::from_secs(60),
        };
        let incarnations = Box::new(|| INCARNATION);
        let mut engine = Engine::open(MemoryStorage::new(), settings, key(), incarnations, at(FILLED))?;
        for (part, first) in (0..sets.keys()).step_by(PART as usize).enumerate() {
            let now = at(FILLED + part as u64 * PART_MS);
            engine.seal(now)?;
            let mut indexes = (first..sets.keys().min(first + PART)).peekable();
            while indexes.peek().is_some() {
                let batch = indexes.by_ref().take(MERGE_MAX).map(|index| sets.entry(index)).collect();
                engine.merge(batch, Origin::Pull, now)?;
            }
        }
        engine.seal(at(SEALED))?;
        let seals = engine.reader().seals();
        let sealed = seals.runs.last().and_then(|run| run.root).map_or(0, |root| root.total());
        ensure!(sealed == sets.keys(), "sealed {sealed} entries, not {}", sets.keys());
        Ok(Self {
            peers: Peers::new(engine.reader(), BTreeSet::from([puller::id()])),
            runs: Runs::parse(seals.runs)?,
            answered: 0,
            cpu: Duration::ZERO,
            _engine: engine,
        })
    }

    /// What it has announced.
    pub(crate) fn runs(&self) -> Runs {
        self.runs.clone()
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, request: &Signed) -> Result<Signed> {
        let began = cpu()?;
        self.answered += 1;
        let mut random = Random { nonce: [0; 16], challenge: [0; 16] };
        random.nonce[..8].copy_from_slice(&self.answered.to_be_bytes());
        random.challenge[..8].copy_from_slice(&self.answered.to_be_bytes());
        let exchanged = self.peers.exchange(request, at(SEALED), random);
        self.cpu += cpu()?.saturating_sub(began);
        exchanged.response.context("a request was not even refused")
    }
}

/// Its name.
pub(crate) fn id() -> NodeId {
    NodeId(key().verifying_key().to_bytes())
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn at(millis: u64) -> Now {
    Now { wall: WallTime(millis), monotonic: Monotonic(Duration::from_millis(millis - FIRST)) }
}
