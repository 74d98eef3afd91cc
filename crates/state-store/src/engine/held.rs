//! Entries too far ahead of our clock: durable, bounded, invisible, and merged when they are due.

use std::ops::ControlFlow;

use lattice_core::model::{Entry, Epoch};

use super::damage::FindingKind;
use super::group::Group;
use super::merge::Origin;
use super::older;
use super::open::{each, take};
use super::records::{Records, parse_kept, put_entry};
use super::{Engine, Error, Now, Step};
use crate::format::{Damaged, keys};
use crate::storage::Storage;

/// The most entries held.
pub(crate) const ENTRIES_MAX: u64 = 10_000;
/// The most bytes held, of keys and values.
pub(crate) const BYTES_MAX: u64 = 16 << 20;
/// The most that come due in one commit.
const DUE_MAX: usize = 256;

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// What became of an entry that is too far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Held,
    Known,
    Dropped,
}

impl Held {
    /// Counts what is held; bounded by what may be.
    pub(super) fn count(storage: &dyn Storage) -> Result<Self, Error> {
        let mut held = Self::default();
        each(storage, &[keys::HELD], &[keys::HELD + 1], |at, framed| {
            // One that does not read is dropped when it is due: a pull brings it again.
            held.entries += 1;
            held.bytes += parse_kept(at, framed).map_or(0, |kept| size(&kept.entry, kept.apart));
            Ok(())
        })?;
        Ok(held)
    }
}

fn size(entry: &Entry, apart: Option<u32>) -> u64 {
    let value = match (&entry.content, apart) {
        (_, Some(length)) => length as usize,
        (lattice_core::model::Content::Value(value), None) => value.len(),
        (_, None) => 0,
    };
    (entry.key.as_bytes().len() + value) as u64
}

impl Engine {
    /// Holds an entry, if there is room.
    pub(super) fn hold(&self, group: &mut Group, entry: &Entry) -> Result<Holding, Error> {
        let at = keys::held(&entry.version, &entry.key.hash());
        // It may have come when the clock was not behind it yet, or be our own over a key that is ahead.
        if self.records(group).has(&at)? || self.in_use(group, entry)? {
            return Ok(Holding::Known);
        }
        let bytes = size(entry, None);
        if group.held.entries >= ENTRIES_MAX || group.held.bytes + bytes > BYTES_MAX {
            return Ok(Holding::Dropped);
        }
        group.held.entries += 1;
        group.held.bytes += bytes;
        put_entry(&mut group.batch, at, entry);
        Ok(Holding::Held)
    }

    /// Merges held entries that are due.
    pub(super) fn release_held(&mut self, now: Now) -> Result<Step, Error> {
        if self.held.entries == 0 {
            return Ok(Step::Idle);
        }
        let mut due = Vec::new();
        let mut broken = Vec::new();
        let clock = &self.clock;
        take(self.storage(), &[keys::HELD], &[keys::HELD + 1], |at, framed| {
            let hlc = keys::held_hlc(at).ok_or_else(|| Damaged::new(at, "has no version"))?;
            if clock.too_far_ahead(now.wall, hlc) || due.len() + broken.len() >= DUE_MAX {
                return Ok(ControlFlow::Break(()));
            }
            match parse_kept(at, framed) {
                Ok(kept) => due.push((at.to_vec(), kept)),
                Err(damaged) => broken.push((at.to_vec(), damaged)),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if due.is_empty() && broken.is_empty() {
            return Ok(Step::Idle);
        }
        let mut group = self.begin()?;
        for (at, damaged) in broken {
            group.held.entries -= 1;
            group.batch.remove(at);
            self.found(FindingKind::Other, damaged.to_string());
        }
        let mut entries = Vec::with_capacity(due.len());
        for (at, kept) in &due {
            group.held.entries -= 1;
            group.held.bytes = group.held.bytes.saturating_sub(size(&kept.entry, kept.apart));
            group.batch.remove(at.clone());
            match Records::of(self.storage()).whole(kept.clone()) {
                Ok(whole) => entries.extend(whole),
                Err(Error::Damaged(damaged)) => self.found(FindingKind::Other, damaged.to_string()),
                Err(error) => return Err(error),
            }
        }
        self.stage_merge(&mut group, entries, Origin::Held, now)?;
        for (_, kept) in &due {
            // A value is shared by all records of its entry, and the entry may have come once more meanwhile:
            // then it was merged already, and the merge above put nothing.
            if !self.in_use(&group, &kept.entry)? {
                kept.remove_value(&mut group.batch);
            }
        }
        self.commit(group)?;
        Ok(Step::Worked)
    }

    /// Whether an entry is the current one of its key, or an older one that is still needed.
    fn in_use(&self, group: &Group, entry: &Entry) -> Result<bool, Error> {
        let (head, records) = (entry.head(), self.records(group));
        match records.current(&entry.key) {
            Ok(Some(current)) if current.head() == head => return Ok(true),
            Ok(_) | Err(Error::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(older::find(&records, self.storage(), self.generation, Epoch(0), &head)?.is_some())
    }
}
