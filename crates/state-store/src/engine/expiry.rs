//! Gives back the space of values that expired.
//!
//! An entry reads as absent from its expiry on, by whatever clock the reader has. Its value stays until
//! `max_clock_drift` later, so that no peer whose clock is right within that sees it go too early; then it is
//! dropped, and its digest stays in its place. Neither the tree nor a count notices, so nodes may do this at
//! different times. It follows the clock that sealing follows: one that stepped, or that peers say is wrong,
//! drops nothing.
//!
//! Which values will expire is noted beside the current entries, by time. What an older version holds goes with
//! the garbage.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::{Content, Entry};
use lattice_core::time::WallTime;

use super::group::Group;
use super::open::take;
use super::records::{Kept, Records, put_entry};
use super::{Engine, Error, Step};
use crate::format::{frame, keys};
use crate::storage::Batch;

/// The most values that one commit drops, and about the most records that it changes for that.
const VALUES_MAX: usize = 1_024;
const RECORDS_MAX: usize = 4_096;

/// Notes when the value of an entry that becomes the current one of its key will expire.
pub(super) fn note_term(batch: &mut Batch, entry: &Entry) {
    if let (Content::Value(_), Some(expires)) = (&entry.content, entry.expires) {
        let at = keys::term(expires, &entry.key);
        let framed = frame::seal(&at, &[]);
        batch.put(at, framed);
    }
}

/// Forgets when the value of an entry would have expired that is the current one of its key no more.
pub(super) fn forget_term(batch: &mut Batch, before: &Kept) {
    if let Some(expires) = before.term() {
        batch.remove(keys::term(expires, &before.entry.key));
    }
}

impl Engine {
    /// Peers say whether our clock is wrong: while it is, no value is dropped by it.
    pub fn doubt_clock(&mut self, wrong: bool) {
        self.clock_wrong = wrong;
    }

    /// Drops some of the values whose time is up at `time`.
    pub(super) fn drop_expired(&mut self, time: WallTime) -> Result<Step, Error> {
        if self.clock_wrong {
            return Ok(Step::Idle);
        }
        let (from, to) = keys::terms_until(self.droppable(time));
        let mut due = Vec::new();
        take(self.storage(), &from, &to, |at, _| {
            due.push(Bytes::copy_from_slice(at));
            let full = due.len() == VALUES_MAX;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let mut batch = Batch::default();
        for at in due {
            self.drop_value(&mut batch, &at)?;
            batch.remove(at);
            if batch.len() >= RECORDS_MAX {
                break;
            }
        }
        if batch.is_empty() {
            return Ok(Step::Idle);
        }
        self.commit_batch(&mut batch)?;
        Ok(Step::Worked)
    }

    fn drop_value(&self, batch: &mut Batch, at: &[u8]) -> Result<(), Error> {
        let (Some(expires), Some(key)) = (keys::term_expires(at), keys::term_key(at)) else { return Ok(()) };
        let current = match Records::of(self.storage()).current(&key) {
            // One that is damaged is for repair, and does not hold up the others.
            Err(Error::Damaged(_)) => None,
            current => current?,
        };
        if let Some(current) = current.filter(|current| current.term() == Some(expires)) {
            current.remove_value(batch);
            put_entry(batch, keys::current(&key), &current.without_value());
        }
        Ok(())
    }

    /// Values that expired by then may be dropped at `time`: not while their entries are being read whole.
    fn droppable(&self, time: WallTime) -> WallTime {
        let due = time - self.settings().max_clock_drift;
        match self.shared.pinned(self.observed) {
            Some(epoch) => due.min(self.settings().epoch_length.end_of(epoch)),
            None => due,
        }
    }

    /// When the next value may be dropped, if the clock is believed.
    pub(super) fn next_drop(&self) -> Result<Option<WallTime>, Error> {
        if self.clock_wrong || self.seal_clock.is_halted() {
            return Ok(None);
        }
        let (from, to) = keys::terms_until(self.droppable(WallTime(u64::MAX)));
        let first = self.storage().first(&from, &to)?;
        let expires = first.and_then(|(at, _)| keys::term_expires(&at));
        Ok(expires.map(|expires| expires + self.settings().max_clock_drift))
    }

    /// The entry that is here without its value has come with it, and has not expired for long: somebody's
    /// clock was ahead when it was dropped. Whether it was taken.
    pub(super) fn take_value_back(
        &self,
        group: &mut Group,
        entry: &Entry,
        here: &Kept,
        now: WallTime,
    ) -> bool {
        let lost = here.apart.is_none() && matches!(here.entry.content, Content::Dropped { .. });
        let worth = entry.expires.is_none_or(|expires| now < expires + self.settings().max_clock_drift);
        if !lost || !worth || !matches!(entry.content, Content::Value(_)) {
            return false;
        }
        put_entry(&mut group.batch, keys::current(&entry.key), entry);
        note_term(&mut group.batch, entry);
        group.changed(entry);
        true
    }
}
