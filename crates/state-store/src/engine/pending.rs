//! What awaits sealing: the newest head of each key in each epoch that is not sealed yet.
//!
//! All of it is in memory, where the writer and readers look it up by key hash and sealing takes it in that order.
//! On the disk it is a few lists a commit, which are read again only when the store opens, and deleted with the seal
//! that takes in the last of them: to note a write costs some bytes of a list, not a record. Of two heads in the lists
//! of one epoch for one key the later counts.
//!
//! It holds the writes of some seconds, and is bounded all the same ([`PENDING_BYTES_MAX`]): a store that cannot seal
//! takes no more.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Epoch, Key, KeyHash};

use super::group::Group;
use super::open::each;
use super::{Engine, Error};
use crate::format::heads::Heads;
use crate::format::keys::{self, Generation};
use crate::format::{Damaged, record};
use crate::storage::{Batch, Storage};

/// About the most bytes of memory for what awaits sealing.
pub(super) const PENDING_BYTES_MAX: usize = 64 << 20;
/// About the bytes of a list on the disk.
const LIST_BYTES: usize = 3_072;

/// A key, and its newest head in an epoch.
pub(super) type Waiting = (Key, EntryHead);

/// What awaits sealing, by epoch and key hash.
#[derive(Debug, Default)]
pub(super) struct Pending {
    epochs: BTreeMap<Epoch, BTreeMap<KeyHash, Waiting>>,
    entries: u64,
    bytes: usize,
}

/// What awaits the epochs up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The first epoch that something awaits.
    pub(super) first: Epoch,
    /// The last.
    pub(super) last: Epoch,
    /// How many entries wait.
    pub(super) entries: usize,
}

/// About the memory that one takes.
fn size(key: &Key) -> usize {
    (size_of::<KeyHash>() + size_of::<Waiting>()) * 3 / 2 + key.as_bytes().len()
}

impl Pending {
    /// Reads the lists of a generation; what does not read is told.
    pub(super) fn read(
        storage: &dyn Storage,
        generation: Generation,
        mut broken: impl FnMut(Damaged),
    ) -> Result<Self, Error> {
        let (from, to) = generation.all(keys::PENDING);
        let mut pending = Self::default();
        each(storage, &from, &to, |at, framed| {
            match parse(at, &framed) {
                Ok((epoch, list)) => list.into_iter().for_each(|waiting| pending.insert(epoch, waiting)),
                Err(damaged) => broken(damaged),
            }
            Ok(())
        })?;
        Ok(pending)
    }

    /// What of a key awaits the sealing of an epoch.
    pub(super) fn get(&self, epoch: Epoch, hash: &KeyHash) -> Option<&Waiting> {
        self.epochs.get(&epoch)?.get(hash)
    }

    /// What of a key awaits sealing, by epoch, ascending.
    pub(super) fn of<'a>(&'a self, hash: &'a KeyHash) -> impl DoubleEndedIterator<Item = &'a Waiting> {
        self.epochs.values().filter_map(|epoch| epoch.get(hash))
    }

    /// Lets an entry await the sealing of an epoch, in place of the one of its key that did.
    pub(super) fn insert(&mut self, epoch: Epoch, (key, head): Waiting) {
        // A copy: the key may be a part of a large request.
        let own = Key::try_from(Bytes::copy_from_slice(key.as_bytes())).unwrap_or(key);
        let bytes = size(&own);
        if self.epochs.entry(epoch).or_default().insert(head.key_hash, (own, head)).is_none() {
            self.entries += 1;
            self.bytes += bytes;
        }
    }

    /// The first epoch after `epoch` that something of a key awaits.
    pub(super) fn next_epoch(&self, epoch: Epoch, hash: &KeyHash) -> Option<Epoch> {
        let mut later = self.epochs.range((Bound::Excluded(epoch), Bound::Unbounded));
        later.find(|(_, waiting)| waiting.contains_key(hash)).map(|(epoch, _)| *epoch)
    }

    /// The first epoch that something awaits.
    pub(super) fn first_epoch(&self) -> Option<Epoch> {
        self.epochs.keys().next().copied()
    }

    /// Of the epochs up to `epoch`, the newest of each key, in order of key hash, of those after `after`: at most
    /// `max`, with the epochs that they await.
    pub(super) fn until(&self, epoch: Epoch, after: Option<KeyHash>, max: usize) -> Vec<(Epoch, Waiting)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut newest = BTreeMap::new();
        for (epoch, waiting) in self.epochs.range(..=epoch) {
            for (hash, waiting) in waiting.range((from, Bound::Unbounded)).take(max) {
                newest.insert(*hash, (*epoch, waiting.clone()));
            }
        }
        newest.into_values().take(max).collect()
    }

    /// The first and the last epoch up to `epoch` that something awaits, and how much does.
    pub(super) fn due(&self, epoch: Epoch) -> Option<Due> {
        let mut due: Option<Due> = None;
        for (epoch, waiting) in self.epochs.range(..=epoch) {
            let first = due.map_or(*epoch, |due| due.first);
            let entries = due.map_or(0, |due| due.entries) + waiting.len();
            due = Some(Due { first, last: *epoch, entries });
        }
        due
    }

    /// What of a key awaits the epochs before `epoch`, ascending.
    pub(super) fn before<'a>(
        &'a self,
        epoch: Epoch,
        hash: &'a KeyHash,
    ) -> impl DoubleEndedIterator<Item = &'a Waiting> {
        self.epochs.range(..epoch).filter_map(|(_, waiting)| waiting.get(hash))
    }

    /// Forgets the epochs up to one that is sealed. What they held is the caller's to drop: that takes its time.
    #[must_use]
    pub(super) fn take(&mut self, epoch: Epoch) -> impl Sized + use<> {
        let later = self.epochs.split_off(&epoch.next());
        let taken = std::mem::replace(&mut self.epochs, later);
        for waiting in taken.values() {
            self.entries -= waiting.len() as u64;
            self.bytes -= waiting.values().map(|(key, _)| size(key)).sum::<usize>();
        }
        taken
    }

    /// How many entries wait.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// About the memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The epoch, and what awaits it, in the list at `at`.
pub(super) fn parse(at: &[u8], framed: &Bytes) -> Result<(Epoch, Vec<Waiting>), Damaged> {
    let epoch = keys::epoch_in(at).ok_or_else(|| Damaged::new(at, "has no epoch"))?;
    Ok((epoch, record::decode::<Heads>(at, framed)?.parse(at)?))
}

/// What a group adds to it.
#[derive(Debug, Default)]
pub(super) struct Added {
    waiting: BTreeMap<(Epoch, KeyHash), Waiting>,
    /// What was there before each addition since the savepoint.
    replaced: Vec<((Epoch, KeyHash), Option<Waiting>)>,
}

impl Added {
    /// What comes from here on can be taken back.
    pub(super) fn savepoint(&mut self) {
        self.replaced.clear();
    }

    /// Takes back what came since the savepoint.
    pub(super) fn roll_back(&mut self) {
        while let Some((place, before)) = self.replaced.pop() {
            match before {
                Some(waiting) => self.waiting.insert(place, waiting),
                None => self.waiting.remove(&place),
            };
        }
    }

    /// What the group lets await the sealing of an epoch of a key.
    pub(super) fn get(&self, epoch: Epoch, hash: &KeyHash) -> Option<&Waiting> {
        self.waiting.get(&(epoch, *hash))
    }

    /// Lets an entry await the sealing of an epoch, in place of the one of its key that did.
    pub(super) fn insert(&mut self, epoch: Epoch, key: &Key, head: &EntryHead) {
        let place = (epoch, head.key_hash);
        let before = self.waiting.insert(place, (key.clone(), *head));
        self.replaced.push((place, before));
    }

    /// The first epoch after `epoch` that something of a key awaits.
    pub(super) fn next_epoch(&self, epoch: Epoch, hash: &KeyHash) -> Option<Epoch> {
        let mut later = self.waiting.range((epoch.next(), KeyHash(Digest([0; 32])))..);
        later.find(|((_, waiting), _)| waiting == hash).map(|((epoch, _), _)| *epoch)
    }

    /// Whether it adds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes it as lists of a commit.
    pub(super) fn write(&self, batch: &mut Batch, generation: Generation, commit: u64) {
        let mut list = Heads::default();
        let (mut bytes, mut index) = (0, 0);
        let mut left = self.waiting.iter().peekable();
        while let Some(((epoch, _), (key, head))) = left.next() {
            list.push(key, head);
            bytes += Heads::bytes_of(key);
            let more = left.peek().is_some_and(|((next, _), _)| next == epoch);
            if !more || bytes >= LIST_BYTES {
                let at = generation.pending(*epoch, commit, index);
                let framed = record::encode(&at, &std::mem::take(&mut list));
                batch.put(at, framed);
                (bytes, index) = (0, index + 1);
            }
        }
    }
}

impl Engine {
    /// What of the head's key awaits the sealing of an epoch, as a group will leave it.
    pub(super) fn pending(&self, group: &Group, epoch: Epoch, hash: &KeyHash) -> Option<EntryHead> {
        let staged = group.pending.get(epoch, hash).map(|(_, head)| *head);
        staged.or_else(|| self.shared.pending().get(epoch, hash).map(|(_, head)| *head))
    }

    /// What was added awaits sealing from now on: it is on the disk.
    pub(super) fn let_wait(&self, added: Added) {
        if added.is_empty() {
            return;
        }
        let mut pending = self.shared.pending_mut();
        for ((epoch, _), waiting) in added.waiting {
            pending.insert(epoch, waiting);
        }
    }

    /// Refuses more while too much awaits sealing.
    pub(super) fn takes_more(&self) -> Result<(), Error> {
        let (entries, bytes) = {
            let pending = self.shared.pending();
            (pending.entries(), pending.bytes())
        };
        if bytes > PENDING_BYTES_MAX { Err(Error::Busy { entries }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use lattice_core::model::{HeadContent, Hlc, NodeId, Version};

    use super::*;
    use crate::storage::MemoryStorage;

    fn waiting(name: &str, hlc: u64) -> Waiting {
        let key = Key::try_from(name).unwrap();
        let version = Version { hlc: Hlc(hlc), writer: NodeId([7; 32]) };
        let head =
            EntryHead { key_hash: key.hash(), version, expires: None, content: HeadContent::Tombstone };
        (key, head)
    }

    #[test]
    fn lists_read_back_and_the_later_counts() {
        let storage = MemoryStorage::new();
        let generation = Generation(3);
        for (commit, hlc) in [(1, 10), (2, 20)] {
            let mut added = Added::default();
            for number in 0..200 {
                let (key, head) = waiting(&format!("key-{number}"), hlc);
                added.insert(Epoch(5 + number % 2), &key, &head);
            }
            let mut batch = Batch::default();
            added.write(&mut batch, generation, commit);
            assert!(batch.len() > 2 && batch.len() < 20, "{} lists", batch.len());
            storage.commit(&batch).unwrap();
        }
        let pending = Pending::read(&storage, generation, |damaged| panic!("{damaged}")).unwrap();
        assert_eq!((pending.entries(), pending.first_epoch()), (200, Some(Epoch(5))));
        let (key, head) = waiting("key-8", 20);
        assert_eq!(pending.get(Epoch(5), &head.key_hash), Some(&(key, head)));
        assert_eq!(pending.get(Epoch(6), &head.key_hash), None);
        let other = Pending::read(&storage, Generation(4), |damaged| panic!("{damaged}")).unwrap();
        assert_eq!(other.entries(), 0);
    }

    #[test]
    fn epochs_are_taken_together_in_order_of_key_hash_and_forgotten() {
        let mut pending = Pending::default();
        for number in 0..10 {
            pending.insert(Epoch(5), waiting(&number.to_string(), 1));
            pending.insert(Epoch(6 + number % 2), waiting(&number.to_string(), 2));
        }
        assert_eq!(pending.due(Epoch(4)), None);
        let due = Due { first: Epoch(5), last: Epoch(6), entries: 15 };
        assert_eq!(pending.due(Epoch(6)), Some(due));
        let mut taken: Vec<(Epoch, Waiting)> = Vec::new();
        loop {
            let after = taken.last().map(|(_, (_, head))| head.key_hash);
            let chunk = pending.until(Epoch(6), after, 3);
            if chunk.is_empty() {
                break;
            }
            taken.extend(chunk);
        }
        let hashes: Vec<KeyHash> = taken.iter().map(|(_, (_, head))| head.key_hash).collect();
        assert!(hashes.len() == 10 && hashes.is_sorted());
        let newest = taken.iter().filter(|(epoch, (_, head))| *epoch == Epoch(6) && head.version.hlc.0 == 2);
        assert_eq!(newest.count(), 5, "of two of a key, the newer");
        assert_eq!(pending.of(&hashes[0]).map(|(_, head)| head.version.hlc.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pending.before(Epoch(6), &hashes[0]).count(), 1);
        drop(pending.take(Epoch(6)));
        assert_eq!((pending.entries(), pending.first_epoch()), (5, Some(Epoch(7))));
        drop(pending.take(Epoch(7)));
        assert_eq!((pending.entries(), pending.bytes()), (0, 0));
    }

    #[test]
    fn what_came_since_the_savepoint_is_taken_back() {
        let mut added = Added::default();
        let (key, old) = waiting("a", 1);
        added.insert(Epoch(5), &key, &old);
        added.savepoint();
        added.insert(Epoch(5), &key, &waiting("a", 2).1);
        added.insert(Epoch(5), &key, &waiting("a", 3).1);
        added.insert(Epoch(6), &key, &old);
        added.roll_back();
        assert_eq!(added.get(Epoch(5), &old.key_hash), Some(&(key, old)));
        assert_eq!(added.get(Epoch(6), &old.key_hash), None);
    }
}
