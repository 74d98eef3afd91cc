//! Takes over what was found in the files of a database that was set aside.
//!
//! Pieces of long values come first, and wait under a tag of their own; then the entries, merged by the rule that
//! the greatest version wins, so that what was overwritten long ago does no harm. At last, what the files say was
//! here is compared with what is: whatever an intact record names (an entry whose value is gone, a pending entry,
//! a bucket of the tree) and no intact entry of at least that version stands for, is lost, and noted. Each step
//! carries how far it came, so that an interrupted salvage goes on from there.
//!
//! `salvage` beside the engine reads the files.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::{Content, Digest, Entry, EntryHead, Key};
use prost::Message as _;

use super::damage::DAMAGED_MAX;
use super::merge::Origin;
use super::open::{put, take};
use super::records::Records;
use super::{Engine, Error, Now};
use crate::format::record::{Piece, Salvage, Stored};
use crate::format::{frame, keys};
use crate::storage::Batch;

/// How many records one commit cleans up.
const CLEAN: usize = 1_024;

/// Something that was here, and is not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) key: Key,
    pub(crate) head: EntryHead,
}

impl Engine {
    /// How far a salvage came that was interrupted.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn salvage_progress(&self) -> Result<Option<Salvage>, Error> {
        match Records::of(self.storage()).get(&keys::meta("salvage")) {
            // From the beginning, then.
            Err(Error::Damaged(_)) => Ok(None),
            progress => progress,
        }
    }

    /// Puts pieces of values where their entries will find them.
    pub(crate) fn salvage_pieces(&mut self, pieces: &[Bytes], progress: &Salvage) -> Result<(), Error> {
        let mut batch = Batch::default();
        for content in pieces {
            let Ok(piece) = Piece::decode(content.clone()) else { continue };
            let Ok(index) = u16::try_from(piece.index) else { continue };
            let at = keys::salvaged(&piece.entry, index);
            let framed = frame::seal(&at, content);
            batch.put(at, framed);
        }
        put(&mut batch, "salvage", progress);
        self.commit_batch(&mut batch)
    }

    /// Merges entries; those that could not be held come back.
    pub(crate) fn salvage_entries(
        &mut self,
        contents: &[Bytes],
        progress: &mut Salvage,
        now: Now,
    ) -> Result<Vec<Lost>, Error> {
        let mut group = self.begin()?;
        let mut lost = Vec::new();
        for content in contents {
            let Some(entry) = self.assemble(content)? else { continue };
            let (key, head) = (entry.key.clone(), entry.head());
            let merged = self.stage_merge(&mut group, vec![entry], Origin::Salvage, now)?;
            progress.entries += merged.merged + merged.held;
            if merged.dropped > 0 {
                lost.push(Lost { key, head });
            }
        }
        progress.lost += lost.len() as u64;
        put(&mut group.batch, "salvage", progress);
        self.commit(group)?;
        Ok(lost)
    }

    /// The whole entry of a record; `None` when it is none, or its value is not all there.
    fn assemble(&self, content: &Bytes) -> Result<Option<Entry>, Error> {
        let Some((entry, apart)) = stored(content) else { return Ok(None) };
        let (Some(length), Content::Dropped { value_digest }) = (apart, &entry.content) else {
            return Ok(Some(entry));
        };
        let digest = entry.head().digest();
        let mut value = Vec::new();
        for index in 0..=u16::MAX {
            if value.len() >= length as usize {
                break;
            }
            let at = keys::salvaged(digest.as_bytes(), index);
            match Records::of(self.storage()).get::<Piece>(&at) {
                Ok(Some(piece)) if !piece.bytes.is_empty() => value.extend_from_slice(&piece.bytes),
                Ok(_) | Err(Error::Damaged(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match Digest::of(&[&value]) == *value_digest {
            true => Ok(Some(Entry { content: Content::Value(value.into()), ..entry })),
            false => Ok(None),
        }
    }

    /// Notes of the entries that are named somewhere which of them nothing here stands for.
    pub(crate) fn salvage_missing(
        &mut self,
        named: Vec<(Key, EntryHead)>,
        progress: &mut Salvage,
        now: Now,
    ) -> Result<Vec<Lost>, Error> {
        let mut group = self.begin()?;
        let mut lost = Vec::new();
        for (key, head) in named {
            if self.has_since(&key, &head)? {
                continue;
            }
            if self.note_lost(&mut group, &key, head, "it could not be salvaged", now)? {
                lost.push(Lost { key, head });
            }
        }
        progress.lost += lost.len() as u64;
        put(&mut group.batch, "salvage", progress);
        if !lost.is_empty() {
            self.damage_generation += 1;
            self.overflow |= group.damaged > DAMAGED_MAX;
            put(&mut group.batch, "identity", &self.identity());
        }
        self.commit(group)?;
        self.publish();
        Ok(lost)
    }

    /// Whether an entry, or a newer one of its key, is here.
    fn has_since(&self, key: &Key, head: &EntryHead) -> Result<bool, Error> {
        let records = Records::of(self.storage());
        match records.current(key) {
            Ok(Some(kept)) if kept.head().dominates(head) => return Ok(true),
            Ok(_) | Err(Error::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        records.has(&keys::held(&head.version, &head.key_hash))
    }

    /// What a damaged record seems to have held, if that can be made out and nothing here stands for it: only
    /// people can tell what it is worth.
    pub(crate) fn salvage_legible(&self, content: &Bytes) -> Result<Option<Option<Lost>>, Error> {
        let Some((entry, _)) = stored(content) else { return Ok(None) };
        let head = entry.head();
        // Whatever is damaged in it, an intact entry of that version is what it was.
        let here = match Records::of(self.storage()).current(&entry.key) {
            Ok(here) => here.is_some_and(|here| here.entry.version >= entry.version),
            Err(Error::Damaged(_)) => false,
            Err(error) => return Err(error),
        };
        Ok(Some((!here).then_some(Lost { key: entry.key, head })))
    }

    /// Removes the pieces that wait; false at the end, when the salvage is over.
    pub(crate) fn salvage_clean(&mut self) -> Result<bool, Error> {
        let mut batch = Batch::default();
        take(self.storage(), &[keys::SALVAGED], &[keys::SALVAGED + 1], |at, _| {
            batch.remove(Bytes::copy_from_slice(at));
            Ok(if batch.len() == CLEAN { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let more = !batch.is_empty();
        if !more {
            batch.remove(keys::meta("salvage"));
        }
        self.commit_batch(&mut batch)?;
        Ok(more)
    }
}

/// The entry of a record's content, and the length of its value when that stands apart.
pub(crate) fn stored(content: &Bytes) -> Option<(Entry, Option<u32>)> {
    let Stored { entry, apart } = Stored::decode(content.clone()).ok()?;
    Some((Entry::try_from(entry).ok()?, apart.map(|apart| apart.length)))
}
