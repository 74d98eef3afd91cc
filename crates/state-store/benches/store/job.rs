//! What is measured in a process of its own, so that its memory is its own: this program starts itself again,
//! says what to do in one argument, and reads what came of it from its output.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lattice_bench::keys::{self, VALUE_BYTES};
use lattice_bench::sample::Sample;
use lattice_bench::usage::{self, Usage};
use lattice_core::model::{Content, Digest};
use lattice_core::proof::SealedProof;
use lattice_proto::kv::v1 as wire;
use prost::Message as _;
use rs_merkle::MerkleTree;
use rs_merkle::algorithms::Sha256;
use serde::{Deserialize, Serialize};

use crate::stores;

/// How many entries a batch has.
pub(crate) const BATCH: u64 = 1_000;
/// How often memory is looked at while all keys are written once.
const RSS_SAMPLES: u64 = 20;
/// Where writing begins moves by so many keys from pass to pass.
const SHIFT: u64 = 7_919;
/// What is written between seals has versions from here on.
const FIRST_CHANGE: u64 = 1_000;
/// Epochs that pass before seals are measured: what is written is sealed so much later.
const EPOCHS_BEFORE: u32 = 4;
/// A store that came to rest let time pass, and whoever opens it again has to be later than that.
const AHEAD: Duration = Duration::from_secs(60);
/// Overwriting comes after sealing, and after all the epochs that pass there.
const OVERWRITING_AHEAD: Duration = Duration::from_secs(600);
/// Compacting comes after that.
const COMPACTING_AHEAD: Duration = Duration::from_secs(1_200);

/// A part to measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Write every key once, in batches; once more for each of `versions` after the first.
    Write { store: String, folder: PathBuf, keys: u64, versions: Vec<u64> },
    /// Open a store, and read one key.
    Open { store: String, folder: PathBuf },
    /// Prove so many keys, and the absence of as many, and verify each: outcomes in that order.
    Prove { store: String, folder: PathBuf, keys: u64, proofs: u64 },
    /// Seal epochs, in each of which some of the keys changed: how many, and how often.
    Seal { store: String, folder: PathBuf, keys: u64, changes: Vec<(u64, u32)> },
    /// Compact a store of so many keys that was overwritten.
    Compact { store: String, folder: PathBuf, keys: u64 },
    /// Compute the root of one flat tree of so many leaves.
    FlatRoot { keys: u64, roots: u32 },
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// How fast it was.
    pub(crate) sample: Sample,
    /// What it took.
    pub(crate) usage: Usage,
    /// Memory on the way.
    pub(crate) rss: Vec<RssAt>,
    /// The largest proof that was made, without value and seal.
    pub(crate) proof_bytes: Option<usize>,
}

/// The memory of a process at some time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RssAt {
    /// Since the beginning.
    seconds: f64,
    /// `VmRSS`.
    bytes: u64,
}

impl Job {
    /// Does it in a process of its own. One outcome for each part of the job.
    pub(crate) fn run(&self) -> Result<Vec<Done>> {
        let program = std::env::current_exe().context("find this program")?;
        let ran = Command::new(program)
            .args(["--job", &serde_json::to_string(self)?])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(ran.status.success(), "{self:?} ended: {}", ran.status);
        serde_json::from_slice(&ran.stdout).with_context(|| format!("{self:?} tells nothing"))
    }

    /// Does it here, where somebody else reads what came of it.
    pub(crate) fn work(text: &str) -> Result<()> {
        let job: Self = serde_json::from_str(text).context("--job")?;
        let done = match &job {
            Self::Write { store, folder, keys, versions } => write(store, folder, *keys, versions)?,
            Self::Open { store, folder } => vec![open(store, folder)?],
            Self::Prove { store, folder, keys, proofs } => prove(store, folder, *keys, *proofs)?,
            Self::Seal { store, folder, keys, changes } => seal(store, folder, *keys, changes)?,
            Self::Compact { store, folder, keys } => vec![compact(store, folder, *keys)?],
            Self::FlatRoot { keys, roots } => vec![flat_root(*keys, *roots)?],
        };
        println!("{}", serde_json::to_string(&done)?);
        Ok(())
    }
}

fn write(name: &str, folder: &Path, keys: u64, versions: &[u64]) -> Result<Vec<Done>> {
    std::fs::create_dir_all(folder)?;
    let ahead = if versions.contains(&0) { Duration::ZERO } else { OVERWRITING_AHEAD };
    let mut store = stores::open(name, folder, ahead)?;
    let mut done = Vec::new();
    for version in versions {
        let (mut times, mut rss) = (Vec::new(), Vec::new());
        let mut time = Duration::ZERO;
        for first in (0..keys).step_by(BATCH as usize) {
            let entries: Vec<(Bytes, Bytes)> = (first..keys.min(first + BATCH))
                .map(|number| (number + version * SHIFT) % keys)
                .map(|index| (keys::key(index), keys::value(index, *version)))
                .collect();
            let started = Instant::now();
            store.write(&entries)?;
            times.push(started.elapsed());
            time += started.elapsed();
            if first % (keys / RSS_SAMPLES).max(BATCH) < BATCH {
                rss.push(RssAt { seconds: time.as_secs_f64(), bytes: usage::rss()? });
            }
        }
        let started = Instant::now();
        store.rest()?;
        time += started.elapsed();
        rss.push(RssAt { seconds: time.as_secs_f64(), bytes: usage::rss()? });
        let sample = Sample::of(keys, time, times);
        done.push(Done { sample, usage: Usage::own(Some(folder))?, rss, proof_bytes: None });
    }
    Ok(done)
}

fn open(name: &str, folder: &Path) -> Result<Done> {
    let key = keys::key(0);
    let started = Instant::now();
    let store = stores::open(name, folder, AHEAD)?;
    let found = store.get(&key)?;
    let time = started.elapsed();
    ensure!(found == Some(VALUE_BYTES), "key {key:?} has a value of {found:?} bytes after opening");
    Ok(Done {
        sample: Sample::one_by_one(vec![time]),
        usage: Usage::own(Some(folder))?,
        rss: Vec::new(),
        proof_bytes: None,
    })
}

fn prove(name: &str, folder: &Path, keys: u64, proofs: u64) -> Result<Vec<Done>> {
    let engine = stores::engine(name, folder, AHEAD)?;
    let mut done = Vec::new();
    for first in [0, keys] {
        let (mut proving, mut verifying, mut largest) = (Vec::new(), Vec::new(), 0);
        for step in 0..proofs {
            let key = keys::key(first + keys::pick(first, step, keys));
            let started = Instant::now();
            let proved = engine.prove(&key)?;
            proving.push(started.elapsed());
            ensure!(proved.entry.is_some() == (first == 0), "key {key:?} is proved to be what it is not");
            let started = Instant::now();
            proved.verify(&proved.seal.seal.node, None)?;
            verifying.push(started.elapsed());
            largest = largest.max(bytes_of(&proved));
        }
        let usage = Usage::own(Some(folder))?;
        for times in [proving, verifying] {
            let sample = Sample::one_by_one(times);
            done.push(Done { sample, usage, rss: Vec::new(), proof_bytes: Some(largest) });
        }
    }
    Ok(done)
}

/// What a proof takes in protobuf, without value and seal.
fn bytes_of(proved: &SealedProof) -> usize {
    let value = proved.entry.as_ref().map_or(0, |entry| match &entry.content {
        Content::Value(value) => value.len(),
        Content::Tombstone | Content::Dropped { .. } => 0,
    });
    let whole = wire::ProveResponse { seal: None, ..proved.into() };
    whole.encoded_len().saturating_sub(value)
}

fn seal(name: &str, folder: &Path, keys: u64, changes: &[(u64, u32)]) -> Result<Vec<Done>> {
    let mut engine = stores::engine(name, folder, AHEAD)?;
    engine.stop_clock();
    let mut done = Vec::new();
    let mut versions = FIRST_CHANGE..;
    for (changed, seals) in changes {
        let mut times = Vec::new();
        for (epoch, version) in (0..EPOCHS_BEFORE + seals).zip(&mut versions) {
            let entries: Vec<(Bytes, Bytes)> = (0..*changed)
                .map(|step| keys::pick(version, step, keys))
                .map(|index| (keys::key(index), keys::value(index, version)))
                .collect();
            let sealed = engine.epoch(&entries)?;
            times.extend(sealed.filter(|_| epoch >= EPOCHS_BEFORE));
        }
        let usage = Usage::own(Some(folder))?;
        done.push(Done { sample: Sample::one_by_one(times), usage, rss: Vec::new(), proof_bytes: None });
    }
    Ok(done)
}

fn compact(name: &str, folder: &Path, keys: u64) -> Result<Done> {
    let started = Instant::now();
    stores::compact(name, folder, COMPACTING_AHEAD)?;
    let time = started.elapsed();
    let sample = Sample::of(keys, time, vec![time]);
    Ok(Done { sample, usage: Usage::own(Some(folder))?, rss: Vec::new(), proof_bytes: None })
}

fn flat_root(keys: u64, roots: u32) -> Result<Done> {
    let leaves: Vec<[u8; 32]> = (0..keys).map(|key| Digest::of(&[&key.to_be_bytes()]).0).collect();
    let mut times = Vec::new();
    for _ in 0..roots {
        let started = Instant::now();
        let root = MerkleTree::<Sha256>::from_leaves(&leaves).root();
        times.push(started.elapsed());
        ensure!(root.is_some(), "a tree of {keys} leaves has no root");
    }
    Ok(Done {
        sample: Sample::one_by_one(times),
        usage: Usage::own(None)?,
        rss: Vec::new(),
        proof_bytes: None,
    })
}
