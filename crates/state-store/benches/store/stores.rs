//! The stores that are measured inside a process: our engine on each disk, and sled without us.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
#[cfg(feature = "redb")]
use state_store::storage::RedbStorage;
use state_store::{SledStorage, Storage};

use crate::engine::InProcess;
use crate::raw_sled::RawSled;

/// The memory that every store may use for pages: `store.cache_mb` as it is by default.
pub(crate) const CACHE_BYTES: u64 = 64 << 20;

/// A store in this process.
pub(crate) trait Store {
    /// Writes all or nothing; durable when it returns.
    fn write(&mut self, entries: &[(Bytes, Bytes)]) -> Result<()>;

    /// Does all that was put off.
    fn rest(&mut self) -> Result<()>;

    /// The length of a key's value, if it has one.
    fn get(&self, key: &Bytes) -> Result<Option<usize>>;
}

/// A disk that our engine stands on.
pub(crate) struct Disk {
    /// What the engine on it is called in the tables.
    pub(crate) name: &'static str,
    /// Opens it in a folder, or makes it there.
    open: fn(&Path) -> Result<Box<dyn Storage>>,
}

/// All of them. A further one is a further line.
pub(crate) const DISKS: &[Disk] = &[
    Disk { name: "lattice (sled)", open: |folder| Ok(Box::new(SledStorage::open(folder, CACHE_BYTES)?)) },
    #[cfg(feature = "redb")]
    Disk { name: "lattice (redb)", open: |folder| Ok(Box::new(RedbStorage::open(folder, CACHE_BYTES)?)) },
];

/// What they are compared with.
pub(crate) const RAW: &str = "sled";

/// Opens a store by its name in the tables, so far ahead of our time.
pub(crate) fn open(name: &str, folder: &Path, ahead: Duration) -> Result<Box<dyn Store>> {
    match name {
        RAW => Ok(Box::new(RawSled::open(folder)?)),
        _ => Ok(Box::new(engine(name, folder, ahead)?)),
    }
}

/// Opens our engine on the disk of that name, so far ahead of our time.
pub(crate) fn engine(name: &str, folder: &Path, ahead: Duration) -> Result<InProcess> {
    let disk = DISKS.iter().find(|disk| disk.name == name);
    let disk = disk.with_context(|| format!("{name:?} is no store"))?;
    InProcess::open((disk.open)(folder)?, ahead)
}
