//! The stores that are measured inside a process: our engine on each disk, and sled without us.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use state_store::storage::Disk;

use crate::engine::{self, InProcess};
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

/// The disks that our engine stands on, and what it is called in the tables. A further one is a further line.
pub(crate) const DISKS: &[(&str, Disk)] = &[
    ("lattice (sled)", Disk::Sled),
    #[cfg(feature = "redb")]
    ("lattice (redb)", Disk::Redb),
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
    InProcess::open(disk(name)?.open(folder, CACHE_BYTES)?, ahead)
}

/// Compacts our store on the disk of that name, so far ahead of our time.
pub(crate) fn compact(name: &str, folder: &Path, ahead: Duration) -> Result<()> {
    engine::compact(disk(name)?, folder, CACHE_BYTES, ahead)
}

fn disk(name: &str) -> Result<Disk> {
    let disk = DISKS.iter().find(|(disk, _)| *disk == name);
    let (_, disk) = disk.with_context(|| format!("{name:?} is no store"))?;
    Ok(*disk)
}
