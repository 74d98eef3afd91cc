//! The in-memory twin of the disk: for tests, simulations, and nodes that keep nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::{Batch, Error, Storage, Visit};

/// How many records a range copies out under one lock.
const PAGE: usize = 256;

/// Records in memory. Clones share them, so that a test can close an engine and open another on what it left.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    records: Arc<RwLock<BTreeMap<Bytes, Bytes>>>,
}

impl MemoryStorage {
    /// Without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy that shares nothing: what a disk would hold if the machine stopped now.
    pub fn snapshot(&self) -> Self {
        Self { records: Arc::new(RwLock::new(self.read().clone())) }
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        // The map is changed by whole inserts and removes, so that a panic elsewhere leaves it in order.
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.read().get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut start = Bound::Included(Bytes::copy_from_slice(from));
        loop {
            if matches!(&start, Bound::Included(from) | Bound::Excluded(from) if from.as_ref() >= to) {
                return Ok(());
            }
            let end = Bound::Excluded(Bytes::copy_from_slice(to));
            let page: Vec<(Bytes, Bytes)> = self
                .read()
                .range((start, end))
                .take(PAGE)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let Some((last, _)) = page.last() else { return Ok(()) };
            start = Bound::Excluded(last.clone());
            for (key, value) in page {
                if visit(&key, value)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(None);
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let records = self.read();
        Ok(records.range::<[u8], _>(range).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch.iter() {
            match value {
                Some(value) => records.insert(key.clone(), value.clone()),
                None => records.remove(key),
            };
        }
        Ok(())
    }
}
