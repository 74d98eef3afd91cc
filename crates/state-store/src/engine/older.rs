//! Entries that were replaced, for the trees and the seals to come that still need them.
//!
//! An entry that another one of its key replaces from some epoch on stays under that epoch until no retained tree is
//! older than it. So of the entries of one key, each stands under the epoch of the next, and what a tree of epoch `e`
//! holds is the current entry or the first one after `e`. Whatever is done with is a range of epochs.

use lattice_core::model::{Entry, EntryHead, Epoch, KeyHash};

use super::group::Group;
use super::records::{Kept, Records, put_entry};
use super::{Engine, Error};
use crate::format::keys::{self, Generation};
use crate::storage::Storage;

/// Where an older entry stands, and what it is.
pub(super) type Older = (Vec<u8>, Kept);

/// The entry of a key that was replaced after epoch `after`, and is this one.
pub(super) fn find(
    records: &Records<'_>,
    storage: &dyn Storage,
    generation: Generation,
    after: Epoch,
    head: &EntryHead,
) -> Result<Option<Older>, Error> {
    let (_, end) = generation.all(keys::OLDER);
    let mut epoch = after.next();
    // As many epochs as have older entries at all: those that are retained, and those to come.
    loop {
        let at = generation.older(epoch, &head.key_hash);
        if let Some(kept) = records.kept(&at)?
            && kept.head() == *head
        {
            return Ok(Some((at, kept)));
        }
        let Some((next, _)) = storage.first(&at, &end)? else { return Ok(None) };
        let Some(next) = keys::epoch_in(&next) else { return Ok(None) };
        epoch = next.max(epoch.next());
    }
}

impl Engine {
    /// The first epoch after `epoch` that an entry of a key awaits, as a group will leave it.
    fn replaced_in(&self, group: &Group, epoch: Epoch, hash: &KeyHash) -> Option<Epoch> {
        let staged = group.pending.next_epoch(epoch, hash);
        let waiting = self.shared.pending().next_epoch(epoch, hash);
        staged.into_iter().chain(waiting).min()
    }

    /// Keeps an entry for `epoch`, where nothing of its key is, for as long as the next one is not sealed. What was
    /// to be kept until that one is kept until this one. False when no other one will take its place.
    pub(super) fn insert_older(&self, group: &mut Group, epoch: Epoch, entry: &Entry) -> Result<bool, Error> {
        let hash = entry.key.hash();
        let Some(next) = self.replaced_in(group, epoch, &hash) else { return Ok(false) };
        let at = self.generation.older(next, &hash);
        if let Some(before) = self.records(group).kept(&at)? {
            before.move_to(&mut group.batch, self.generation.older(epoch, &hash));
        }
        put_entry(&mut group.batch, at, entry);
        Ok(true)
    }

    /// Keeps `entry` instead of the one that was kept for `epoch`.
    pub(super) fn replace_older(
        &self,
        group: &mut Group,
        epoch: Epoch,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let hash = entry.key.hash();
        let Some(next) = self.replaced_in(group, epoch, &hash) else { return Ok(false) };
        let at = self.generation.older(next, &hash);
        if let Some(before) = self.records(group).kept(&at)? {
            before.remove_value(&mut group.batch);
        }
        put_entry(&mut group.batch, at, entry);
        Ok(true)
    }
}
