//! What is on its way to the disk together.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::RECORD_KEY_BYTES_MAX;

/// Changes that become durable together, or not at all. A later change of a key replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    undo: Option<Undo>,
}

/// How a batch was at its savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Undo {
    bytes: usize,
    /// What each insert since then replaced, in order.
    replaced: Vec<(Bytes, Option<Option<Bytes>>)>,
}

impl Batch {
    /// Sets a record.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.insert(key.into(), Some(value.into()));
    }

    /// Removes a record; nothing happens when there is none.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.insert(key.into(), None);
    }

    /// What this batch makes of a key: `None` when it leaves it alone, `Some(None)` when it removes it.
    pub fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.writes.get(key).map(Option::as_ref)
    }

    /// Everything in it, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.writes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Adds the changes of `later`, which replace those here.
    pub fn append(&mut self, later: Self) {
        for (key, value) in later.writes {
            self.insert(key, value);
        }
    }

    /// What comes from here on can be taken back, in place of what came since an earlier savepoint.
    pub fn savepoint(&mut self) {
        self.undo = Some(Undo { bytes: self.bytes, replaced: Vec::new() });
    }

    /// Takes back what came since the savepoint; nothing happens when there is none.
    pub fn roll_back(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        for (key, replaced) in undo.replaced.into_iter().rev() {
            match replaced {
                Some(value) => self.writes.insert(key, value),
                None => self.writes.remove(&key),
            };
        }
        self.bytes = undo.bytes;
    }

    /// How many records it changes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values in it, replaced ones included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, key: Bytes, value: Option<Bytes>) {
        debug_assert!(key.len() <= RECORD_KEY_BYTES_MAX, "record keys are bounded");
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        let replaced = self.writes.insert(key.clone(), value);
        if let Some(undo) = &mut self.undo {
            undo.replaced.push((key, replaced));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_the_savepoint_is_taken_back() {
        let mut batch = Batch::default();
        batch.put("a", "1");
        batch.remove("b");
        let before = batch.clone();
        batch.savepoint();
        batch.put("a", "2");
        batch.remove("a");
        batch.put("b", "3");
        batch.put("c", "4");
        batch.roll_back();
        assert_eq!(batch, before);
        batch.put("d", "5");
        batch.roll_back();
        assert_eq!(batch.get(b"d"), Some(Some(&Bytes::from("5"))), "a savepoint is good for once");
    }
}
