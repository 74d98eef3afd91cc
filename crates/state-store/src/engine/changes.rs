//! The order in which changes were committed, for those who watch.
//!
//! Each change of what reads see gets the next number. With it, in the same batch, goes a note on disk: the number,
//! the key, and the beginning of the entry's digest. No value is kept twice: who resumes reads the notes, and of
//! each key the entry as it is now. A note whose entry has been replaced since is passed over, because the one that
//! replaced it has a note of its own further on: so each key's newest change is seen, at its place.
//!
//! While somebody watches, the last changes are in memory as well, whole, so that a watcher who keeps up sees each
//! of them. Both are bounded, and nobody waits for a watcher: one that falls out of the memory goes on from the
//! disk, and one that falls out of that is told.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use lattice_core::model::{Content, Entry, EntryHead, Key};

use super::group::Group;
use super::open::take;
use super::records::Records;
use super::shared::Shared;
use super::{Engine, Error, Reader};
use crate::format::{keys, record};

/// How many changes are noted on disk, and in how many bytes; the first bound that is reached counts.
pub const NOTED_CHANGES: u64 = 100_000;
/// See [`NOTED_CHANGES`].
pub const NOTED_BYTES: u64 = 16 << 20;
/// About the most bytes of one record of notes: more of them share a record when a commit has many.
const RECORD_BYTES: usize = 3_072;
/// The most records of notes that one commit deletes beyond as many as it writes.
const TRIM_MAX: usize = 512;

/// How many changes are in memory while somebody watches, and how many bytes of them.
const RECENT_CHANGES: usize = 4_096;
const RECENT_BYTES: usize = 8 << 20;

/// The most changes, bytes and notes of one answer.
const PAGE_CHANGES: usize = 256;
const PAGE_BYTES: usize = 1 << 20;
const PAGE_NOTES: usize = 8_192;

/// A change: the entry that its key holds since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of commits, from 1 on.
    pub sequence: u64,
    /// The entry.
    pub entry: Entry,
}

/// Changes in the order of their commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those of the keys asked for; of what was not in memory any more, the newest of each key.
    pub changes: Vec<Change>,
    /// What to ask for next: everything before it is told.
    pub next: u64,
}

/// Why changes are not told.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// They are not noted any more.
    #[error("changes from {from} on are not known any more")]
    Forgotten {
        /// The first that was asked for.
        from: u64,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] Error),
}

/// The last changes, in memory while somebody watches.
#[derive(Debug)]
pub(super) struct Recent {
    /// The number of the first that is kept, or of the next one when none is.
    first: u64,
    changes: VecDeque<Entry>,
    bytes: usize,
    watchers: usize,
}

/// Somebody watches, while this lives.
pub struct Watching {
    shared: Arc<Shared>,
}

impl Recent {
    /// Nothing yet; the last change was `last`.
    pub(super) fn after(last: u64) -> Self {
        Self { first: last + 1, changes: VecDeque::new(), bytes: 0, watchers: 0 }
    }

    fn push(&mut self, changed: &[Entry]) {
        if self.watchers == 0 {
            self.first += changed.len() as u64;
            return;
        }
        for entry in changed {
            self.bytes += size(entry);
            self.changes.push_back(detached(entry));
        }
        while self.changes.len() > RECENT_CHANGES || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.first += 1;
            self.bytes -= size(&oldest);
        }
    }

    fn forget(&mut self) {
        self.first += self.changes.len() as u64;
        self.changes = VecDeque::new();
        self.bytes = 0;
    }

    /// The changes from `from` on; `None` when the memory does not reach back so far.
    fn from(&self, from: u64, prefix: &[u8]) -> Option<Changes> {
        let skipped = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let mut page = Changes { changes: Vec::new(), next: from };
        let mut bytes = 0;
        for entry in self.changes.iter().skip(skipped) {
            if page.changes.len() == PAGE_CHANGES || bytes > PAGE_BYTES {
                break;
            }
            if entry.key.as_bytes().starts_with(prefix) {
                bytes += size(entry);
                page.changes.push(Change { sequence: page.next, entry: entry.clone() });
            }
            page.next += 1;
        }
        Some(page)
    }
}

fn size(entry: &Entry) -> usize {
    let value = match &entry.content {
        Content::Value(value) => value.len(),
        Content::Dropped { .. } | Content::Tombstone => 0,
    };
    entry.key.as_bytes().len() + value + size_of::<Entry>()
}

/// A copy that holds on to no more than itself: a short key may be a part of a large request.
fn detached(entry: &Entry) -> Entry {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let key = Key::try_from(copy(entry.key.as_bytes())).unwrap_or_else(|_| entry.key.clone());
    let content = match &entry.content {
        Content::Value(value) => Content::Value(copy(value)),
        Content::Dropped { .. } | Content::Tombstone => entry.content.clone(),
    };
    Entry { key, content, ..*entry }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut recent = self.shared.recent();
        recent.watchers -= 1;
        if recent.watchers == 0 {
            recent.forget();
        }
    }
}

impl Group {
    /// Notes that reads will see this entry.
    pub(super) fn changed(&mut self, entry: &Entry) {
        self.changed.push(entry.clone());
    }
}

impl Engine {
    /// Numbers and notes the changes of a group, and forgets notes that are too old.
    pub(super) fn note_changes(&self, group: &mut Group) -> Result<(), Error> {
        let changed = std::mem::take(&mut group.changed);
        let mut notes = record::Changes::default();
        let (mut bytes, mut records) = (0, 0);
        let mut left = changed.len();
        for entry in &changed {
            let note = record::Change::new(&entry.key, &entry.head());
            bytes += note.key.len() + note.head.len() + 8;
            notes.changes.push(note);
            left -= 1;
            if bytes >= RECORD_BYTES || left == 0 {
                let at = keys::change(group.state.change + 1);
                group.state.change += notes.changes.len() as u64;
                let framed = record::encode(&at, &std::mem::take(&mut notes));
                group.state.change_bytes += framed.len() as u64;
                group.batch.put(at, framed);
                (bytes, records) = (0, records + 1);
            }
        }
        group.changed = changed;
        self.trim_changes(group, records + TRIM_MAX)
    }

    /// Forgets the oldest notes beyond what is kept, in at most so many records.
    fn trim_changes(&self, group: &mut Group, most: usize) -> Result<(), Error> {
        let too_many = |state: &record::State| {
            let noted = state.change.saturating_sub(state.change_from);
            noted > NOTED_CHANGES || state.change_bytes > NOTED_BYTES
        };
        if !too_many(&group.state) {
            return Ok(());
        }
        // A record ends where the next begins: none needs to be readable.
        let mut oldest: Option<(Bytes, usize)> = None;
        let mut removed = 0;
        let Group { batch, state, .. } = group;
        take(self.storage(), &[keys::CHANGE], &[keys::CHANGE + 1], |at, framed| {
            if let Some((before, bytes)) = oldest.replace((Bytes::copy_from_slice(at), framed.len())) {
                state.change_bytes = state.change_bytes.saturating_sub(bytes as u64);
                state.change_from = keys::change_sequence(at).unwrap_or(state.change_from);
                batch.remove(before);
                removed += 1;
            }
            let done = removed == most || !too_many(state);
            Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }

    /// Tells those who watch what was committed.
    pub(super) fn tell_changes(&self, changed: &[Entry]) {
        self.shared.recent().push(changed);
    }
}

impl Reader {
    /// The number of the last change.
    pub fn last_change(&self) -> u64 {
        self.view().stats.change
    }

    /// Begins to watch: from now on, while the value lives, changes stay in memory for a while.
    pub fn watch(&self) -> Watching {
        self.shared.recent().watchers += 1;
        Watching { shared: Arc::clone(&self.shared) }
    }

    /// The changes from `from` on of the keys that begin with `prefix`, as far as they are in memory. `None` when
    /// that does not reach back so far. Reads no disk.
    pub fn recent_changes(&self, from: u64, prefix: &[u8]) -> Option<Changes> {
        self.shared.recent().from(from, prefix)
    }

    /// The same from the disk: the newest change of each key, up to the last commit that was published.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub fn noted_changes(&self, from: u64, prefix: &[u8]) -> Result<Changes, ChangesError> {
        // What lies beyond may be half committed.
        let last = self.last_change();
        let mut page = Changes { changes: Vec::new(), next: from };
        if from > last {
            return Ok(page);
        }
        let end = keys::change(last + 1);
        let before =
            self.shared.storage.last(&[keys::CHANGE], &keys::change(from + 1)).map_err(Error::from)?;
        let (start, _) = before.ok_or(ChangesError::Forgotten { from })?;
        let mut walk =
            Walk { reader: self, prefix, last, from, page: &mut page, notes: 0, bytes: 0, gap: false };
        take(&*self.shared.storage, &start, &end, |at, framed| walk.record(at, &framed))?;
        if walk.gap || page.next == from {
            return Err(ChangesError::Forgotten { from });
        }
        Ok(page)
    }
}

/// Going through the notes.
struct Walk<'a> {
    reader: &'a Reader,
    prefix: &'a [u8],
    from: u64,
    last: u64,
    page: &'a mut Changes,
    notes: usize,
    bytes: usize,
    /// Notes are missing, or cannot be read: whoever resumes has to begin anew.
    gap: bool,
}

impl Walk<'_> {
    fn record(&mut self, at: &[u8], framed: &Bytes) -> Result<ControlFlow<()>, Error> {
        let first = keys::change_sequence(at);
        let notes = record::decode::<record::Changes>(at, framed);
        let (Some(first), Ok(notes)) = (first, notes) else {
            self.gap = self.page.next == self.from;
            return Ok(ControlFlow::Break(()));
        };
        if first > self.page.next {
            self.gap = self.page.next == self.from;
            return Ok(ControlFlow::Break(()));
        }
        for (sequence, note) in (first..).zip(notes.changes) {
            if sequence < self.page.next {
                continue;
            }
            let full = self.page.changes.len() == PAGE_CHANGES || self.bytes > PAGE_BYTES;
            if full || self.notes == PAGE_NOTES || sequence > self.last {
                return Ok(ControlFlow::Break(()));
            }
            match self.note(sequence, &note) {
                // What was read before it is told first.
                Err(_) if self.page.next > self.from => return Ok(ControlFlow::Break(())),
                noted => noted?,
            }
            self.page.next = sequence + 1;
            self.notes += 1;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn note(&mut self, sequence: u64, note: &record::Change) -> Result<(), Error> {
        if !note.key.starts_with(self.prefix) {
            return Ok(());
        }
        let Ok(key) = Key::try_from(note.key.clone()) else { return Ok(()) };
        let kept = Records::of(&*self.reader.shared.storage).current(&key)?;
        if !kept.is_some_and(|kept| note.is_of(&kept.head())) {
            return Ok(());
        }
        // Read with its value; meanwhile it may have been replaced after all.
        if let Some(entry) = self.reader.current(&key)?
            && note.is_of(&entry.head())
        {
            self.bytes += size(&entry);
            self.page.changes.push(Change { sequence, entry });
        }
        Ok(())
    }
}

impl record::Change {
    fn new(key: &Key, head: &EntryHead) -> Self {
        let digest = head.digest();
        Self { key: key.clone().into_bytes(), head: Bytes::copy_from_slice(&digest.as_bytes()[..8]) }
    }

    /// Whether this is what was noted, as far as the note can tell.
    fn is_of(&self, head: &EntryHead) -> bool {
        self.head == head.digest().as_bytes()[..8]
    }
}
