//! sled without us, as durable as we are: a batch, its flush, and the fsync that sled leaves out.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use bytes::Bytes;

use crate::stores::{CACHE_BYTES, Store};

/// A database of keys and values, and nothing else.
pub(crate) struct RawSled {
    db: sled::Db,
    log: File,
}

impl RawSled {
    /// Opens the database in `folder`, or makes it.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("raw");
        let db = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        Ok(Self { db, log: File::open(path.join("db"))? })
    }
}

impl Store for RawSled {
    fn write(&mut self, entries: &[(Bytes, Bytes)]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            batch.insert(key.as_ref(), value.as_ref());
        }
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        self.log.sync_data()?;
        Ok(())
    }

    fn rest(&mut self) -> Result<()> {
        Ok(())
    }

    fn get(&self, key: &Bytes) -> Result<Option<usize>> {
        Ok(self.db.get(key)?.map(|value| value.len()))
    }
}
