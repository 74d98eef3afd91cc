//! What clients and the coordinator read: entries as they are now, and this node's own tree.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::clock::Clock;
use lattice_core::model::{Entry, EntryHead, Epoch, Hlc, Key};
use lattice_core::tree::{Node, Position};

use super::open::take;
use super::records::{Kept, Records, parse_kept};
use super::tree::{Tree, covering, find_newest};
use super::{Error, Now, Reader};
use crate::format::node::KeyedNode;
use crate::format::{Damaged, keys};

/// How often a read that was overtaken by writes of its key begins anew.
const RETRIES: usize = 16;
/// The most records that one page looks at, deleted and expired ones included.
const SCAN_MAX: usize = 10_000;
/// The most bytes of a page's keys and values, save its first entry's.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Which entries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys that begin so.
    pub prefix: Bytes,
    /// Keys not before this one.
    pub start: Bytes,
    /// Where the page before ended.
    pub cursor: Bytes,
    /// The most entries.
    pub limit: usize,
}

/// A page of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// In key order, each with a value.
    pub entries: Vec<Entry>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<Bytes>,
}

/// Heads that the live map lacks, by their indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Those it does not dominate.
    pub missing: Vec<u32>,
    /// Of the ones it does not dominate, those too far ahead of the clock to be missing.
    pub ahead: Vec<u32>,
}

/// Our own inner nodes at some positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNodes {
    /// The seal that they stand on; 0 before the first.
    pub epoch: Epoch,
    /// In the order asked: inner nodes, or else the heads below the positions, as buckets.
    pub nodes: Vec<Node>,
}

impl Reader {
    /// What a client reads of a key: the entry, if it has a value now.
    ///
    /// # Errors
    /// When the disk fails; [`Error::Entry`] when the entry is damaged, or gone while the tree holds it;
    /// [`Error::Recovering`] for what a recovering store lacks.
    pub fn get(&self, key: &Key, now: Now) -> Result<Option<Entry>, Error> {
        match self.current(key)?.filter(|entry| entry.visible(now.wall)) {
            Some(entry) => Ok(Some(entry)),
            None => self.absence().map(|()| None),
        }
    }

    /// Refuses to tell an absence while the store recovers: also a deletion, or what has expired, may have been
    /// written anew since, and lost.
    ///
    /// # Errors
    /// [`Error::Recovering`].
    pub fn absence(&self) -> Result<(), Error> {
        if self.view().stats.recovering { Err(Error::Recovering) } else { Ok(()) }
    }

    /// Refuses to tell all there is while some of it is not known: while the store recovers, or an entry is damaged.
    ///
    /// # Errors
    /// [`Error::Recovering`]; [`Error::Suspect`] or [`Error::Entry`] for what is damaged.
    pub(super) fn completeness(&self) -> Result<(), Error> {
        let stats = self.view().stats;
        if stats.damage_overflow {
            return Err(Error::Suspect);
        }
        self.absence()?;
        if stats.damaged > 0
            && let Some(key) = self.damaged_within(&[keys::CURRENT], &[keys::CURRENT + 1])?
        {
            return Err(Error::Entry { key });
        }
        Ok(())
    }

    /// The entry with the greatest version of a key, whatever it is.
    ///
    /// # Errors
    /// Those of [`Reader::get`].
    pub fn current(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.refuse_damaged(key)?;
        let records = Records::of(&*self.shared.storage);
        for _ in 0..RETRIES {
            let whole = match records.current(key) {
                Ok(Some(kept)) => records.whole(kept),
                Ok(None) => match self.is_absent(key)? {
                    true => return Ok(None),
                    false => continue,
                },
                Err(error) => Err(error),
            };
            match whole {
                Ok(Some(entry)) => return Ok(Some(entry)),
                // Its value is gone: replaced since the record was read, or damaged.
                Ok(None) => {}
                Err(Error::Damaged(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Err(self.suspect(key))
    }

    /// The same as [`Reader::current`] where it takes few reads, and finds nothing amiss; else `None`.
    pub fn current_at_once(&self, key: &Key) -> Option<Option<Entry>> {
        self.refuse_damaged(key).ok()?;
        match Records::of(&*self.shared.storage).current(key).ok()? {
            Some(Kept { entry, apart: None, .. }) => Some(Some(entry)),
            Some(_) => None,
            None => self.is_absent(key).ok()?.then_some(None),
        }
    }

    /// Whether a key without a record was never written; false when it has a record meanwhile. An absence is only
    /// told when neither the tree nor what awaits sealing knows better, and nothing was lost.
    fn is_absent(&self, key: &Key) -> Result<bool, Error> {
        let view = self.view();
        let known = covering(&self.shared, view.generation, &key.hash());
        let has_record = || self.shared.storage.get(&keys::current(key)).map(|record| record.is_some());
        match known {
            Ok(None) => self.absence().map(|()| true),
            Ok(Some(_)) if has_record()? => Ok(false),
            Ok(Some(head)) => {
                let error = self.suspect(key);
                // Nothing is there to be read, whatever became of the record.
                if head.is_tombstone() { Ok(true) } else { Err(error) }
            }
            // The tree that was looked at is given up, or under one's feet.
            Err(Error::Damaged(_)) if self.view().generation != view.generation => Ok(false),
            Err(error) => Err(self.suspect_error(error)),
        }
    }

    /// Lists entries that have a value now. A page may be shorter than its limit without being the last.
    ///
    /// # Errors
    /// Those of [`Reader::get`]: a list says also what is not there, and is refused where that is not known.
    pub fn list(&self, page: &Page, now: Now) -> Result<Listed, Error> {
        if self.view().stats.damage_overflow {
            return Err(Error::Suspect);
        }
        self.absence()?;
        let Some((from, to)) = range_of(page) else { return Ok(Listed::default()) };
        let mut listed = Listed::default();
        let (mut scanned, mut bytes) = (0, 0);
        let mut last: Option<Key> = None;
        take(&*self.shared.storage, &from, &to, |at, framed| {
            let full = listed.entries.len() == page.limit || scanned == SCAN_MAX;
            if full || (bytes > PAGE_BYTES_MAX && !listed.entries.is_empty()) {
                listed.next = last.take().map(Key::into_bytes);
                return Ok(ControlFlow::Break(()));
            }
            scanned += 1;
            let kept = parse_kept(at, framed).map_err(|damaged| self.unreadable(damaged))?;
            last = Some(kept.entry.key.clone());
            if let Some(entry) = self.visible(kept, now)? {
                bytes += entry.key.as_bytes().len() + value_len(&entry);
                listed.entries.push(entry);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if self.view().stats.damaged > 0 {
            let until = listed.next.as_ref().map_or(to, |next| [&[keys::CURRENT], &next[..], &[0]].concat());
            if let Some(key) = self.damaged_within(&from, &until)? {
                return Err(Error::Entry { key });
            }
        }
        Ok(listed)
    }

    /// A record among the current entries that does not read.
    fn unreadable(&self, damaged: Damaged) -> Error {
        match Key::try_from(damaged.key.slice(1..)) {
            Ok(key) => self.suspect(&key),
            Err(_) => damaged.into(),
        }
    }

    fn visible(&self, kept: Kept, now: Now) -> Result<Option<Entry>, Error> {
        if !kept.visible(now.wall) {
            return Ok(None);
        }
        let key = kept.entry.key.clone();
        match Records::of(&*self.shared.storage).whole(kept) {
            Ok(Some(entry)) => Ok(Some(entry)),
            // Replaced since the record was read, or damaged.
            Ok(None) | Err(Error::Damaged(_)) => self.get(&key, now),
            Err(error) => Err(error),
        }
    }

    /// Which of a peer's entries the live map does not dominate.
    ///
    /// # Errors
    /// When the disk fails, or the tree on it is damaged.
    pub fn compare(&self, heads: &[EntryHead], now: Now) -> Result<Comparison, Error> {
        let clock = Clock::new(self.shared.settings.max_clock_drift, Hlc::default());
        let mut compared = Comparison::default();
        for (index, head) in (0..).zip(heads) {
            if self.dominates(head).map_err(|error| self.suspect_error(error))? {
                continue;
            }
            if clock.too_far_ahead(now.wall, head.version.hlc) {
                compared.ahead.push(index);
            } else {
                compared.missing.push(index);
            }
        }
        Ok(compared)
    }

    fn dominates(&self, head: &EntryHead) -> Result<bool, Error> {
        let records = Records::of(&*self.shared.storage);
        let generation = self.view().generation;
        // What awaits sealing is looked at first: an entry sealed in between is then found in the tree.
        if self.shared.pending().of(&head.key_hash).any(|(_, pending)| pending.dominates(head)) {
            return Ok(true);
        }
        let found = find_newest(&*self.shared.storage, generation, &head.key_hash)?;
        let Some((key, sealed)) = found else { return Ok(false) };
        if sealed.dominates(head) {
            return Ok(true);
        }
        // It may have been written meanwhile.
        match records.current(&key) {
            Ok(current) => Ok(current.is_some_and(|current| current.head().dominates(head))),
            Err(Error::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Our own tree at some positions, at our newest seal.
    ///
    /// # Errors
    /// When the disk fails, or the tree on it is damaged.
    pub fn nodes(&self, positions: &[Position]) -> Result<OwnNodes, Error> {
        let view = self.view();
        let Some(newest) = view.newest_run() else {
            return Ok(OwnNodes { epoch: Epoch(0), nodes: vec![Node::empty_bucket(); positions.len()] });
        };
        let tree = Tree::as_of(&*self.shared.storage, view.generation, newest.run.to);
        let own = |position| own_node(&tree, position).map_err(|error| self.suspect_error(error));
        let nodes = positions.iter().map(own).collect::<Result<_, _>>()?;
        Ok(OwnNodes { epoch: newest.run.to, nodes })
    }
}

/// The node at a position; where none is, what a bucket further up holds of it.
fn own_node(tree: &Tree<'_>, position: &Position) -> Result<Node, Error> {
    let mut at = *position;
    loop {
        match (tree.node(&at)?, at.parent()) {
            (Some((keyed, _)), _) if at == *position => return Ok(keyed.node),
            (Some((KeyedNode { node: Node::Bucket(mut heads), .. }, _)), _) => {
                heads.retain(|head| position.covers(&head.key_hash));
                return Ok(Node::Bucket(heads));
            }
            // Nothing hangs below that child.
            (Some((KeyedNode { node: Node::Inner(_), .. }, _)), _) | (None, None) => {
                return Ok(Node::empty_bucket());
            }
            (None, Some(parent)) => at = parent,
        }
    }
}

fn value_len(entry: &Entry) -> usize {
    match &entry.content {
        lattice_core::model::Content::Value(value) => value.len(),
        lattice_core::model::Content::Dropped { .. } | lattice_core::model::Content::Tombstone => 0,
    }
}

/// The records of a page; `None` when there can be none.
fn range_of(page: &Page) -> Option<(Vec<u8>, Vec<u8>)> {
    let tagged = |key: &[u8]| [&[keys::CURRENT], key].concat();
    let mut from = tagged(&page.prefix).max(tagged(&page.start));
    if !page.cursor.is_empty() {
        let mut after = tagged(&page.cursor);
        after.push(0);
        from = from.max(after);
    }
    let to = keys::after_prefix(&tagged(&page.prefix))?;
    (from < to).then_some((from, to))
}
