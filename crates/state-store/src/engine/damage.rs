//! What is known to be damaged: found by whoever reads, believed by the writer alone, remembered on the disk.
//!
//! Readers and the check see a disk that changes under them. Whatever they stumble over is only a suspicion:
//! they answer with an error, and leave word here. The writer looks again, with nobody writing beside it, and
//! notes what is really so. A noted key reads as an error until a newer write, or a repair, has taken its
//! place; nothing is ever noted away by time. Notes are bounded: beyond them, the whole store is suspect.
//!
//! `inquiry` is how the writer looks; `repair` what takes the place of a damaged entry.

use std::collections::BTreeSet;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Key};

use super::group::Group;
use super::open::{put, take};
use super::repair::remove_pieces;
use super::{Engine, Error, Now, Reader};
use crate::format::{Damaged, keys, record};
use crate::storage::{Batch, Storage};

/// The most keys that are noted one by one.
pub const DAMAGED_MAX: u64 = 100_000;
/// The most suspicions that wait for the writer. What does not fit is found again.
pub(super) const SUSPICIONS_MAX: usize = 1_024;
/// The most findings that wait to be told.
const FINDINGS_MAX: usize = 1_024;
/// How much of a problem's text is kept.
const PROBLEM_BYTES_MAX: usize = 256;

/// What a reader stumbled over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspicion {
    /// A key's entry does not read, or not as the tree has it.
    Key(Bytes),
    /// A record does not read.
    Record(Bytes),
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// An entry is damaged or gone.
    Entry,
    /// The tree, or what awaits sealing, is damaged.
    Node,
    /// An intact entry that no root covered, and that did not await any.
    Uncovered,
    /// Something that the store can do without.
    Other,
    /// A noted entry is whole again.
    Mended,
}

/// Damage that the writer has seen itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// Where and what, on one line.
    pub what: String,
}

/// A key whose entry is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedEntry {
    /// The key.
    pub key: Key,
    /// What its entry was; `None` where nothing intact tells.
    pub head: Option<EntryHead>,
    /// What was found.
    pub problem: String,
    /// When, in Unix milliseconds.
    pub found_ms: u64,
}

/// A line of bounded length.
pub(super) fn line(text: &str) -> String {
    text[..text.floor_char_boundary(PROBLEM_BYTES_MAX)].replace(char::is_control, " ")
}

impl Engine {
    /// What was found since it was asked last, oldest first.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Notes what was found, to be told by whoever runs the engine.
    pub(super) fn found(&mut self, kind: FindingKind, what: impl AsRef<str>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, what: line(what.as_ref()) });
        }
    }

    /// What is noted of a key, as a group will leave it.
    pub(super) fn noted(&self, group: &Group, key: &Key) -> Result<Option<record::DamagedKey>, Error> {
        if group.damaged == 0 && !self.overflow {
            return Ok(None);
        }
        match self.records(group).get(&keys::damaged(key.as_bytes())) {
            // A note that does not read is a note still.
            Err(Error::Damaged(_)) => Ok(Some(record::DamagedKey::default())),
            noted => noted,
        }
    }

    /// Removes the note on a key: its damaged entry was replaced. Also what is left of a value that stood apart.
    pub(super) fn clear_note(
        &self,
        group: &mut Group,
        key: &Key,
        damaged: Option<&Digest>,
    ) -> Result<(), Error> {
        let at = keys::damaged(key.as_bytes());
        if self.records(group).has(&at)? {
            group.batch.remove(at);
            group.damaged = group.damaged.saturating_sub(1);
        }
        match damaged {
            Some(digest) => remove_pieces(self.storage(), &mut group.batch, digest),
            None => Ok(()),
        }
    }

    /// Lets a note stand that a group was about to clear.
    pub(super) fn keep_note(&self, group: &mut Group, key: &Key, noted: &record::DamagedKey) {
        let at = keys::damaged(key.as_bytes());
        let framed = record::encode(&at, noted);
        group.batch.put(at, framed);
        group.damaged += 1;
    }

    /// Notes in a group that a key's entry is lost.
    pub(super) fn note_lost(
        &self,
        group: &mut Group,
        key: &Key,
        head: EntryHead,
        problem: &str,
        now: Now,
    ) -> Result<bool, Error> {
        let at = keys::damaged(key.as_bytes());
        let noted: Option<record::DamagedKey> = self.records(group).get(&at)?;
        let known = noted.as_ref().and_then(record::DamagedKey::head);
        if known.is_some_and(|known| known.dominates(&head)) {
            return Ok(false);
        }
        group.damaged += u64::from(noted.is_none());
        let framed = record::encode(&at, &note_of(Some(head), problem, now));
        group.batch.put(at, framed);
        Ok(noted.is_none())
    }

    /// Notes keys whose entries did not read, in a batch under way.
    pub(super) fn note_unreadable(
        &mut self,
        batch: &mut Batch,
        broken: &[(Bytes, Damaged)],
        now: Now,
    ) -> Result<(), Error> {
        let before = self.damaged;
        for (key, damaged) in broken {
            let at = keys::damaged(key);
            if self.storage().get(&at)?.is_none() {
                let framed = record::encode(&at, &note_of(None, &damaged.problem, now));
                batch.put(at, framed);
                self.damaged += 1;
                self.found(FindingKind::Entry, format!("key {}: {}", key.escape_ascii(), damaged.problem));
            }
        }
        if self.damaged > before {
            self.overflow |= self.damaged > DAMAGED_MAX;
            self.damage_generation += 1;
            put(batch, "identity", &self.identity());
        }
        Ok(())
    }
}

impl Reader {
    /// The keys whose entries are damaged, in order, after `after`: at most `limit`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn damaged(&self, after: &[u8], limit: usize) -> Result<Vec<DamagedEntry>, Error> {
        let mut from = keys::damaged(after);
        if !after.is_empty() {
            from.push(0);
        }
        let mut entries = Vec::new();
        take(&*self.shared.storage, &from, &[keys::DAMAGED + 1], |at, framed| {
            if entries.len() == limit {
                return Ok(std::ops::ControlFlow::Break(()));
            }
            if let Ok(key) = Key::try_from(Bytes::copy_from_slice(&at[1..])) {
                let noted = record::decode::<record::DamagedKey>(at, &framed).unwrap_or_default();
                let head = noted.head();
                let record::DamagedKey { problem, found_ms, .. } = noted;
                entries.push(DamagedEntry { key, head, problem, found_ms });
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(entries)
    }

    /// Refuses to read a key that is noted as damaged, and everything once the store as a whole is suspect.
    pub(super) fn refuse_damaged(&self, key: &Key) -> Result<(), Error> {
        let stats = self.view().stats;
        if stats.damage_overflow {
            return Err(Error::Suspect);
        }
        if stats.damaged > 0 && self.shared.storage.get(&keys::damaged(key.as_bytes()))?.is_some() {
            return Err(Error::Entry { key: key.clone() });
        }
        Ok(())
    }

    /// The first damaged key in a range of current entries: `[from, to)`.
    pub(super) fn damaged_within(&self, from: &[u8], to: &[u8]) -> Result<Option<Key>, Error> {
        // Notes stand under another tag in the same order.
        let tagged = |at: &[u8]| match at.split_first() {
            Some((&keys::CURRENT, key)) => keys::damaged(key),
            Some(_) | None => vec![keys::DAMAGED + 1],
        };
        let first = self.shared.storage.first(&tagged(from), &tagged(to))?;
        Ok(first.and_then(|(at, _)| Key::try_from(at.slice(1..)).ok()))
    }

    /// Leaves word for the writer that a key's entry did not read.
    pub(super) fn suspect(&self, key: &Key) -> Error {
        self.shared.suspect(Suspicion::Key(key.clone().into_bytes()));
        Error::Entry { key: key.clone() }
    }

    /// Leaves word for the writer about an error, if it is damage.
    pub(super) fn suspect_error(&self, error: Error) -> Error {
        self.shared.suspect_error(&error);
        error
    }
}

/// Whose damage an error tells of.
pub(super) fn suspicion_of(damaged: &Damaged) -> Suspicion {
    match damaged.key.first() {
        Some(&keys::CURRENT) => Suspicion::Key(damaged.key.slice(1..)),
        Some(_) | None => Suspicion::Record(damaged.key.clone()),
    }
}

pub(super) fn note_of(head: Option<EntryHead>, problem: &str, now: Now) -> record::DamagedKey {
    record::DamagedKey {
        head: head.as_ref().map(Into::into),
        problem: line(problem),
        found_ms: now.wall.millis(),
    }
}

/// How many keys are noted. Notes are few, and bounded.
pub(super) fn count_notes(storage: &dyn Storage) -> Result<u64, Error> {
    let mut count = 0;
    take(storage, &[keys::DAMAGED], &[keys::DAMAGED + 1], |_, _| {
        count += 1;
        let full = count > DAMAGED_MAX;
        Ok(if full { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) })
    })?;
    Ok(count)
}

/// Suspicions, each once.
pub(super) type Suspicions = BTreeSet<Suspicion>;
