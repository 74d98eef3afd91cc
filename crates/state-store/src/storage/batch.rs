//! What is on its way to the disk together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::RECORD_KEY_BYTES_MAX;

/// Changes that become durable together, or not at all. A later change of a key replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Bytes, Write>,
    bytes: usize,
    undo: Option<Undo>,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What it holds from then on; `None` when it is removed.
    pub value: Option<Bytes>,
    /// What the writer has read there before (`Some(None)`: nothing); `None` when it did not look.
    pub held: Option<Option<Bytes>>,
}

/// How a batch was at its savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Undo {
    bytes: usize,
    /// What each insert since then replaced, in order.
    replaced: Vec<(Bytes, Option<Write>)>,
}

impl Batch {
    /// Sets a record.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.insert(key.into(), Write { value: Some(value.into()), held: None });
    }

    /// Sets a record that the writer has read: it holds `held` as this batch leaves it so far.
    pub fn put_over(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>, held: Option<Bytes>) {
        self.insert(key.into(), Write { value: Some(value.into()), held: Some(held) });
    }

    /// Removes a record; nothing happens when there is none.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.insert(key.into(), Write { value: None, held: None });
    }

    /// What this batch makes of a key: `None` when it leaves it alone, `Some(None)` when it removes it.
    pub fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.writes.get(key).map(|write| write.value.as_ref())
    }

    /// Everything in it, in order of key.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.writes.iter().map(|(key, write)| (key, write.value.as_ref()))
    }

    /// The same with what is known of before.
    pub fn writes(&self) -> impl Iterator<Item = (&Bytes, &Write)> {
        self.writes.iter()
    }

    /// Adds the changes of `later`, which replace those here.
    pub fn append(&mut self, later: Self) {
        for (key, write) in later.writes {
            self.insert(key, write);
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
                Some(write) => self.writes.insert(key, write),
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

    fn insert(&mut self, key: Bytes, write: Write) {
        debug_assert!(key.len() <= RECORD_KEY_BYTES_MAX, "record keys are bounded");
        self.bytes += key.len() + write.value.as_ref().map_or(0, Bytes::len);
        match self.writes.entry(key) {
            Entry::Vacant(vacant) => {
                if let Some(undo) = &mut self.undo {
                    undo.replaced.push((vacant.key().clone(), None));
                }
                vacant.insert(write);
            }
            Entry::Occupied(mut occupied) => {
                // What the disk holds is known from the first write, if at all.
                let held = occupied.get().held.clone();
                let replaced = occupied.insert(Write { held, ..write });
                if let Some(undo) = &mut self.undo {
                    undo.replaced.push((occupied.key().clone(), Some(replaced)));
                }
            }
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

    #[test]
    fn what_was_held_before_is_what_the_first_write_found() {
        let held = |batch: &Batch| batch.writes().next().map(|(_, write)| write.held.clone());
        let mut batch = Batch::default();
        batch.put_over("a", "2", Some(Bytes::from("1")));
        batch.put_over("a", "3", Some(Bytes::from("2")));
        assert_eq!(held(&batch), Some(Some(Some(Bytes::from("1")))));
        batch.remove("a");
        assert_eq!(held(&batch), Some(Some(Some(Bytes::from("1")))));
        let mut batch = Batch::default();
        batch.put("a", "2");
        batch.put_over("a", "3", Some(Bytes::from("2")));
        assert_eq!(held(&batch), Some(None), "nobody looked");
    }
}
