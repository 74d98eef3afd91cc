//! What all parts of the run share: sizes, the folder, peers, and stores that several parts stand on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use lattice_bench::etcd;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::args::{Args, Scale};
use crate::job::{Done, Job};

/// The run.
pub(crate) struct Bench {
    /// How much is measured.
    pub(crate) scale: Scale,
    /// The etcd to compare with, if there is one.
    pub(crate) etcd: Option<etcd::Program>,
    /// Where clients run.
    pub(crate) runtime: Runtime,
    folder: TempDir,
    filled: BTreeMap<(String, u64), Filled>,
    started: Instant,
}

/// A store with keys in it.
#[derive(Clone, Debug)]
pub(crate) struct Filled {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// What filling it came to.
    pub(crate) done: Done,
}

impl Bench {
    /// Makes a folder, and looks for peers.
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let folder = TempDir::with_prefix_in("bench-store-", &args.dir);
        let folder = folder.with_context(|| format!("--dir: make a folder in {}", args.dir.display()))?;
        Ok(Self {
            scale: args.scale(),
            etcd: etcd::Program::find(args.etcd.as_deref())?,
            runtime: Runtime::new()?,
            folder,
            filled: BTreeMap::new(),
            started: Instant::now(),
        })
    }

    /// Where the data go.
    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Says how far the run is.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("{:>4} s  {what}", self.started.elapsed().as_secs());
    }

    /// A store that was filled with so many keys; it is filled when it is asked for first.
    pub(crate) fn filled(&mut self, store: &str, keys: u64) -> Result<Filled> {
        let name = (store.to_owned(), keys);
        if let Some(filled) = self.filled.get(&name) {
            return Ok(filled.clone());
        }
        self.say(&format!("fill {store} with {keys} keys"));
        let folder = self.dir().join(format!("filled-{}", self.filled.len()));
        let job = Job::Write { store: store.to_owned(), folder: folder.clone(), keys, versions: vec![0] };
        let done = job.run()?.pop().context("filling a store has one outcome")?;
        let filled = Filled { folder, done };
        self.filled.insert(name, filled.clone());
        Ok(filled)
    }
}
