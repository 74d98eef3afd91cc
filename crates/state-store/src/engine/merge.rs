//! Puts entries where they belong: local writes, deltas, and what pulls bring, by the same rules.

use lattice_core::model::{Entry, EntryHead, Epoch};
use lattice_core::time::WallTime;

use super::expiry::{forget_term, note_term};
use super::group::{Committed, Group};
use super::held::Holding;
use super::records::put_current;
use super::repair::{Before, Placed};
use super::tree::Tree;
use super::{Engine, Error, Now};

/// How entries came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By gossip, from their trusted writer. Their lateness counts.
    Delta,
    /// By a pull, proved under a trusted peer's seal.
    Pull,
    /// They were held until they were due.
    Held,
    /// Fetched for keys that are damaged here, proved under a trusted peer's seal.
    Repair,
    /// Found in the files of a database that was set aside.
    Salvage,
    /// From a backup.
    Restore,
}

/// What became of merged entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Replaced what was here, or were new.
    pub merged: u64,
    /// Were here already, or are older than what is.
    pub known: u64,
    /// Are too far ahead of the clock, and kept aside until they are due.
    pub held: u64,
    /// Are too far ahead of the clock, and there was no room.
    pub dropped: u64,
    /// Of those merged, took the place of damaged ones.
    pub repaired: u64,
}

impl Engine {
    /// Merges and commits: the simple form of [`Engine::stage_merge`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn merge(
        &mut self,
        entries: Vec<Entry>,
        origin: Origin,
        now: Now,
    ) -> Result<(Merged, Committed), Error> {
        let mut group = self.begin()?;
        let merged = self.stage_merge(&mut group, entries, origin, now)?;
        Ok((merged, self.commit(group)?))
    }

    /// Stages entries of others, in any order, as often as they like to come.
    ///
    /// # Errors
    /// When the disk fails; the group is then to be dropped.
    pub fn stage_merge(
        &self,
        group: &mut Group,
        entries: Vec<Entry>,
        origin: Origin,
        now: Now,
    ) -> Result<Merged, Error> {
        let staged = self.stage_each(group, entries, origin, now);
        staged.inspect_err(|error| self.shared.suspect_error(error))
    }

    fn stage_each(
        &self,
        group: &mut Group,
        entries: Vec<Entry>,
        origin: Origin,
        now: Now,
    ) -> Result<Merged, Error> {
        self.takes_more()?;
        let mut merged = Merged::default();
        for entry in entries {
            if group.clock.too_far_ahead(now.wall, entry.version.hlc) {
                match self.hold(group, &entry)? {
                    Holding::Held => merged.held += 1,
                    Holding::Known => merged.known += 1,
                    Holding::Dropped => {
                        merged.dropped += 1;
                        group.committed.dropped += 1;
                    }
                }
                continue;
            }
            match self.merge_one(group, &entry, origin, now.wall)? {
                Placed::Known => {
                    merged.known += 1;
                    continue;
                }
                Placed::Merged => {}
                Placed::Repaired => merged.repaired += 1,
            }
            merged.merged += 1;
            if origin == Origin::Delta {
                self.note_late(group, &entry, now.wall);
            }
        }
        Ok(merged)
    }

    /// Merges one entry.
    fn merge_one(
        &self,
        group: &mut Group,
        entry: &Entry,
        origin: Origin,
        now: WallTime,
    ) -> Result<Placed, Error> {
        let current = match self.before(group, &entry.key)? {
            Before::Kept(current) => current,
            before @ Before::Nothing => {
                self.place_current(group, entry, before)?;
                return Ok(Placed::Merged);
            }
            Before::Damaged { head, kept } => {
                return self.merge_damaged(group, entry, (head, kept), origin);
            }
        };
        let (head, here) = (entry.head(), current.head());
        if head == here {
            let taken = self.take_value_back(group, entry, &current, now);
            return Ok(if taken { Placed::Merged } else { Placed::Known });
        }
        if head.version == here.version {
            group.committed.conflicts += 1;
        }
        if !here.dominates(&head) {
            self.place_current(group, entry, Before::Kept(current))?;
            return Ok(Placed::Merged);
        }
        Ok(if self.place_older(group, entry, &head, &here)? { Placed::Merged } else { Placed::Known })
    }

    fn note_late(&self, group: &mut Group, entry: &Entry, now: WallTime) {
        let own = self.epoch_of(entry.version.hlc.wall());
        if own < self.state.open_epoch() {
            group.committed.late.push(now.since(self.settings().epoch_length.end_of(own)));
        }
    }

    fn epoch_of(&self, at: WallTime) -> Epoch {
        self.settings().epoch_length.epoch_of(at)
    }

    /// The epoch in which an entry is sealed.
    pub(super) fn sealing_epoch(&self, head: &EntryHead) -> Epoch {
        self.effective(self.epoch_of(head.version.hlc.wall()))
    }

    /// Makes `entry` the current one of its key, in place of `before`, which it beats.
    pub(super) fn place_current(
        &self,
        group: &mut Group,
        entry: &Entry,
        before: Before,
    ) -> Result<(), Error> {
        let head = entry.head();
        let epoch = self.sealing_epoch(&head);
        // What awaits sealing is the current entry or one older: a new key has nothing there.
        let (held, pending, before) = match before {
            Before::Nothing => (Some(None), None, None),
            Before::Kept(kept) => {
                let held = Some(Some(kept.record()));
                (held, self.pending(group, epoch, &head.key_hash), Some(kept))
            }
            Before::Damaged { head: lost, kept } => {
                let lost = lost.filter(|lost| *lost != head).map(|lost| lost.digest());
                self.clear_note(group, &entry.key, lost.as_ref())?;
                let pending = self.pending(group, epoch, &head.key_hash);
                // What is gone already needs no removing.
                (None, pending.filter(|pending| Some(pending.digest()) != lost), kept)
            }
        };
        if let Some(before) = before {
            forget_term(&mut group.batch, &before);
            let replaced = before.head();
            if pending == Some(replaced) || self.uncollected(&entry.key) {
                // Never sealed, and beaten within its epoch: nobody will ask for it.
                before.remove_value(&mut group.batch);
            } else {
                before.move_to(&mut group.batch, self.generation.older(epoch, &head.key_hash));
            }
        }
        put_current(&mut group.batch, entry, held);
        note_term(&mut group.batch, entry);
        group.changed(entry);
        group.pending.insert(epoch, &entry.key, &head);
        Ok(())
    }

    /// Keeps `entry`, which the current one (`here`) beats, if it is the newest of an epoch that awaits sealing.
    fn place_older(
        &self,
        group: &mut Group,
        entry: &Entry,
        head: &EntryHead,
        here: &EntryHead,
    ) -> Result<bool, Error> {
        let epoch = self.sealing_epoch(head);
        if self.sealing_epoch(here) == epoch {
            return Ok(false);
        }
        // It may await the seal under way, which takes no more entries: then the tree will hold it.
        let under_way = self.state.open_epoch();
        if self.shared.pending().before(under_way, &head.key_hash).any(|(_, pending)| pending.dominates(head))
        {
            return Ok(false);
        }
        let kept = if let Some(pending) = self.pending(group, epoch, &head.key_hash) {
            if pending.dominates(head) {
                return Ok(false);
            }
            self.replace_older(group, epoch, entry)?
        } else {
            let sealed = Tree::newest(self.storage(), self.generation).find(&head.key_hash)?;
            if sealed.is_some_and(|(_, sealed)| sealed.dominates(head)) {
                return Ok(false);
            }
            self.insert_older(group, epoch, entry)?
        };
        if kept {
            group.pending.insert(epoch, &entry.key, head);
        }
        Ok(kept)
    }
}
