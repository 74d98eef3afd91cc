//! What clients wrote: the truth that replicas are measured against.
//!
//! Whatever a replica holds, some client must have written; whatever was acknowledged, every replica must hold
//! in the end, or a newer version of its key. The ledger is told of writes as clients see them, and never of
//! what the nodes tell each other.

use std::collections::BTreeMap;

use lattice_core::model::{Content, Digest, Entry, Hlc, Key, Version};
use lattice_core::time::WallTime;

/// What a replica holds, by key.
pub type Map = BTreeMap<Key, Entry>;

/// All writes of a simulation.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Of each key, what each version stands for.
    written: BTreeMap<Key, BTreeMap<Version, Written>>,
    /// Of each key, the greatest version that must not be lost.
    owed: BTreeMap<Key, Version>,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    digest: Digest,
    deletes: bool,
    expires: Option<WallTime>,
}

impl Ledger {
    /// A client wrote something; a node that lies owes it nothing.
    pub fn write(&mut self, entry: &Entry) {
        let written = Written {
            digest: entry.head().digest(),
            deletes: entry.content == Content::Tombstone,
            expires: entry.expires,
        };
        self.written.entry(entry.key.clone()).or_default().insert(entry.version, written);
    }

    /// An honest node acknowledged a write to its client.
    pub fn acknowledge(&mut self, entry: &Entry) {
        self.write(entry);
        let owed = self.owed.entry(entry.key.clone()).or_insert(entry.version);
        *owed = (*owed).max(entry.version);
        self.acknowledged += 1;
    }

    /// A disk is gone for ever: what only `lost` held is owed no longer; `others` are what the remaining disks
    /// hold.
    pub fn disk_lost(&mut self, lost: &Map, others: &[Map]) {
        for key in lost.keys() {
            let left = others.iter().filter_map(|map| map.get(key)).map(|entry| entry.version).max();
            match (self.owed.get_mut(key), left) {
                (Some(owed), Some(left)) => *owed = (*owed).min(left),
                (Some(_), None) => drop(self.owed.remove(key)),
                (None, _) => {}
            }
        }
    }

    /// Every key that was ever written.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.written.keys()
    }

    /// The latest reading of any write.
    pub fn newest(&self) -> Option<Hlc> {
        self.written
            .values()
            .filter_map(|versions| versions.last_key_value())
            .map(|(version, _)| version.hlc)
            .max()
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Checks that all of `entries` were written by clients, as they stand there.
    ///
    /// # Errors
    /// The first entry that was not.
    pub fn check_written<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), String> {
        for entry in entries {
            let written = self.of(&entry.key, &entry.version);
            if written.is_none_or(|written| written.digest != entry.head().digest()) {
                return Err(format!("{} at {} was never written by a client", entry.key, entry.version));
            }
        }
        Ok(())
    }

    /// Checks that `map` holds every acknowledged value, or a newer version of its key.
    ///
    /// # Errors
    /// The first one that is missing.
    pub fn check_held(&self, map: &Map) -> Result<(), String> {
        self.check_owed(map, false)
    }

    /// Checks that `map` holds every acknowledged deletion, or a newer version of its key.
    ///
    /// # Errors
    /// The first key that came back.
    pub fn check_deleted(&self, map: &Map) -> Result<(), String> {
        self.check_owed(map, true)
    }

    /// Checks that what clients read at `now` has not expired by then.
    ///
    /// # Errors
    /// The first entry that has.
    pub fn check_fresh<'a>(
        &self,
        now: WallTime,
        read: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<(), String> {
        for entry in read {
            let expires = self.of(&entry.key, &entry.version).and_then(|written| written.expires);
            if let Some(expires) = expires.filter(|expires| *expires <= now) {
                return Err(format!("{} is read at {now:?}, and has expired at {expires:?}", entry.key));
            }
        }
        Ok(())
    }

    fn of(&self, key: &Key, version: &Version) -> Option<&Written> {
        self.written.get(key)?.get(version)
    }

    fn check_owed(&self, map: &Map, deletes: bool) -> Result<(), String> {
        let owed = self.owed.iter();
        for (key, owed) in owed.filter(|(key, owed)| self.of(key, owed).is_some_and(|w| w.deletes == deletes))
        {
            match map.get(key) {
                Some(entry) if entry.version >= *owed => {}
                Some(entry) => {
                    return Err(format!("{key}: version {owed} was acknowledged, {} is held", entry.version));
                }
                None => return Err(format!("{key}: version {owed} was acknowledged, nothing is held")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lattice_core::model::{Content, NodeId};
    use lattice_core::time::WallTime;

    use super::*;

    fn entry(at: u64, value: &'static str) -> Entry {
        Entry {
            key: Key::try_from("k").unwrap(),
            version: Version { hlc: Hlc::at(WallTime(at)), writer: NodeId([1; 32]) },
            expires: None,
            content: Content::Value(Bytes::from_static(value.as_bytes())),
        }
    }

    fn map(entry: &Entry) -> Map {
        Map::from([(entry.key.clone(), entry.clone())])
    }

    #[test]
    fn what_was_acknowledged_is_owed_or_something_newer() {
        let mut ledger = Ledger::default();
        let (older, newer) = (entry(1, "a"), entry(2, "b"));
        ledger.acknowledge(&older);
        assert!(ledger.check_held(&Map::new()).is_err());
        assert_eq!(ledger.check_held(&map(&older)), Ok(()));
        ledger.acknowledge(&newer);
        assert!(ledger.check_held(&map(&older)).is_err());
        assert_eq!(ledger.check_held(&map(&newer)), Ok(()));
        ledger.disk_lost(&map(&newer), &[map(&older)]);
        assert_eq!(ledger.check_held(&map(&older)), Ok(()));
        ledger.disk_lost(&map(&older), &[]);
        assert_eq!(ledger.check_held(&Map::new()), Ok(()));
    }

    #[test]
    fn what_no_client_wrote_is_found() {
        let mut ledger = Ledger::default();
        ledger.acknowledge(&entry(1, "a"));
        assert_eq!(ledger.check_written(&[entry(1, "a")]), Ok(()));
        assert!(ledger.check_written(&[entry(1, "b")]).is_err());
        assert!(ledger.check_written(&[entry(2, "a")]).is_err());
    }
}
