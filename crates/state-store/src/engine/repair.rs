//! Puts entries in the place of damaged ones: newer writes, and what peers have of what was here.
//!
//! A note (`damage`) may name the version that was here. Then nothing older takes its place, so that a repair
//! never turns back time, and an entry of just that version is what was here: its digest says so. Where no
//! version is known, a repair brings what a peer's proof says is its newest, and local writes are newer than all
//! that was; what gossip and pulls bring is kept, and the note with it.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::{Digest, Entry, EntryHead, Key, Version};

use super::expiry::note_term;
use super::group::Group;
use super::merge::Origin;
use super::open::take;
use super::records::{Kept, put_entry};
use super::tree::covering;
use super::{Engine, Error};
use crate::format::keys;
use crate::storage::{Batch, Storage};

/// What stands in a key's place before a write.
pub(super) enum Before {
    /// Nothing was ever written there, as far as its record says.
    Nothing,
    /// An entry.
    Kept(Kept),
    /// A damaged entry.
    Damaged {
        /// What it was; `None` where nothing intact tells.
        head: Option<EntryHead>,
        /// An older one that reads, in its place.
        kept: Option<Kept>,
    },
}

impl Before {
    /// The version that a newer write must exceed.
    pub(super) fn version(&self) -> Option<Version> {
        match self {
            Self::Nothing => None,
            Self::Kept(kept) => Some(kept.entry.version),
            Self::Damaged { head, kept } => {
                let kept = kept.as_ref().map(|kept| kept.entry.version);
                head.map(|head| head.version).max(kept)
            }
        }
    }
}

/// What a merge did with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Nothing: it was here, or what is here beats it.
    Known,
    /// It is here now.
    Merged,
    /// It is here now, and its key is damaged no more.
    Repaired,
}

impl Engine {
    /// What stands in a key's place, as a group will leave it.
    pub(super) fn before(&self, group: &Group, key: &Key) -> Result<Before, Error> {
        let noted = self.noted(group, key)?;
        let kept = match self.records(group).current(key) {
            Ok(kept) => kept,
            Err(Error::Damaged(damaged)) => {
                self.shared.suspect_error(&Error::Damaged(damaged));
                let head = match noted.and_then(|noted| noted.head()) {
                    Some(head) => Some(head),
                    None => covering(&self.shared, self.generation, &key.hash()).unwrap_or_default(),
                };
                return Ok(Before::Damaged { head, kept: None });
            }
            Err(error) => return Err(error),
        };
        Ok(match (noted, kept) {
            (Some(noted), kept) => Before::Damaged { head: noted.head(), kept },
            (None, Some(kept)) => Before::Kept(kept),
            (None, None) => Before::Nothing,
        })
    }

    /// Refuses to judge a condition where nobody knows what is there.
    pub(super) fn judgeable(&self, key: &Key, before: &Before) -> Result<(), Error> {
        if self.recovering.is_some() {
            return Err(Error::Recovering);
        }
        if self.overflow {
            return Err(Error::Suspect);
        }
        match before {
            Before::Kept(_) => Ok(()),
            Before::Damaged { .. } => Err(Error::Entry { key: key.clone() }),
            Before::Nothing => match covering(&self.shared, self.generation, &key.hash()) {
                Ok(None) => Ok(()),
                Ok(Some(head)) if head.is_tombstone() => Ok(()),
                Ok(Some(_)) => Err(self.reader().suspect(key)),
                Err(error) => {
                    self.shared.suspect_error(&error);
                    Err(error)
                }
            },
        }
    }

    /// Merges an entry in the place of a damaged one.
    pub(super) fn merge_damaged(
        &self,
        group: &mut Group,
        entry: &Entry,
        damaged: (Option<EntryHead>, Option<Kept>),
        origin: Origin,
    ) -> Result<Placed, Error> {
        let head = entry.head();
        let (lost, kept) = damaged;
        let here = kept.as_ref().map(Kept::head);
        match lost {
            Some(lost) if lost == head => self.restore(group, entry, kept),
            // Older than what was here: it may be newer than what is left, and is no repair all the same.
            Some(lost) if lost.dominates(&head) => Ok(Placed::Known),
            Some(_) => {
                self.place_current(group, entry, Before::Damaged { head: lost, kept })?;
                Ok(Placed::Repaired)
            }
            None => {
                if here.is_some_and(|here| here.dominates(&head)) {
                    if origin != Origin::Repair {
                        return Ok(Placed::Known);
                    }
                    // What is here is what a peer says is the newest, or newer.
                    self.clear_note(group, &entry.key, None)?;
                    return Ok(Placed::Repaired);
                }
                let noted = self.noted(group, &entry.key)?;
                self.place_current(group, entry, Before::Damaged { head: None, kept })?;
                if origin == Origin::Repair {
                    return Ok(Placed::Repaired);
                }
                // Whether it is newer than what was here, nobody knows.
                if let Some(noted) = noted {
                    self.keep_note(group, &entry.key, &noted);
                }
                Ok(Placed::Merged)
            }
        }
    }

    /// Puts back an entry that is just what was here. The tree, or what awaits sealing, has it still, unless the
    /// note is all that is left.
    fn restore(&self, group: &mut Group, entry: &Entry, kept: Option<Kept>) -> Result<Placed, Error> {
        let head = entry.head();
        let known = covering(&self.shared, self.generation, &head.key_hash)?;
        if known != Some(head) {
            self.place_current(group, entry, Before::Damaged { head: Some(head), kept })?;
            return Ok(Placed::Repaired);
        }
        if let Some(kept) = kept {
            kept.remove_value(&mut group.batch);
        }
        put_entry(&mut group.batch, keys::current(&entry.key), entry);
        note_term(&mut group.batch, entry);
        self.clear_note(group, &entry.key, None)?;
        Ok(Placed::Repaired)
    }
}

/// Removes all pieces of an entry's value, however many there should be.
pub(super) fn remove_pieces(storage: &dyn Storage, batch: &mut Batch, digest: &Digest) -> Result<(), Error> {
    let (from, to) = keys::pieces(digest);
    take(storage, &from, &to, |at, _| {
        batch.remove(Bytes::copy_from_slice(at));
        Ok(ControlFlow::Continue(()))
    })
}
