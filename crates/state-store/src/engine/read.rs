//! What clients and the coordinator read: entries as they are now, and this node's own tree.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::clock::Clock;
use lattice_core::model::{Entry, EntryHead, Epoch, Hlc, Key};
use lattice_core::tree::{FANOUT, Node, Position, Summary};

use super::open::take;
use super::records::{Kept, Records, parse_kept};
use super::tree::Tree;
use super::{Error, Now, Reader};
use crate::format::{Damaged, keys, record};

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
    /// In the order asked.
    pub nodes: Vec<Option<Box<[Summary; FANOUT]>>>,
}

impl Reader {
    /// What a client reads of a key: the entry, if it has a value now.
    ///
    /// # Errors
    /// When the disk fails, or the entry on it is damaged.
    pub fn get(&self, key: &Key, now: Now) -> Result<Option<Entry>, Error> {
        Ok(self.current(key)?.filter(|entry| entry.visible(now.wall)))
    }

    /// The entry with the greatest version of a key, whatever it is.
    ///
    /// # Errors
    /// Those of [`Reader::get`].
    pub fn current(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let records = Records::of(&*self.shared.storage);
        for _ in 0..RETRIES {
            let Some(kept) = records.current(key)? else { return Ok(None) };
            if let Some(entry) = records.whole(kept)? {
                return Ok(Some(entry));
            }
        }
        Err(Damaged::new(&keys::current(key), "has no value").into())
    }

    /// Lists entries that have a value now. A page may be shorter than its limit without being the last.
    ///
    /// # Errors
    /// Those of [`Reader::get`].
    pub fn list(&self, page: &Page, now: Now) -> Result<Listed, Error> {
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
            let kept = parse_kept(at, framed)?;
            last = Some(kept.entry.key.clone());
            if let Some(entry) = self.visible(kept, now)? {
                bytes += entry.key.as_bytes().len() + value_len(&entry);
                listed.entries.push(entry);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(listed)
    }

    fn visible(&self, kept: Kept, now: Now) -> Result<Option<Entry>, Error> {
        if !kept.visible(now.wall) {
            return Ok(None);
        }
        let key = kept.entry.key.clone();
        match Records::of(&*self.shared.storage).whole(kept)? {
            Some(entry) => Ok(Some(entry)),
            // Replaced since the record was read.
            None => self.get(&key, now),
        }
    }

    /// Which of a peer's entries the live map does not dominate.
    ///
    /// # Errors
    /// When the disk fails, or the tree on it is damaged.
    pub fn compare(&self, heads: &[EntryHead], now: Now) -> Result<Comparison, Error> {
        let clock = Clock::new(self.shared.settings.max_clock_drift, Hlc::default());
        // What awaits sealing is looked at first: an entry sealed in between is then found in the tree.
        let epochs = self.pending_epochs()?;
        let mut compared = Comparison::default();
        for (index, head) in (0..).zip(heads) {
            if self.dominates(head, &epochs)? {
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

    fn dominates(&self, head: &EntryHead, epochs: &[Epoch]) -> Result<bool, Error> {
        let records = Records::of(&*self.shared.storage);
        let generation = self.view().generation;
        for epoch in epochs.iter().rev() {
            let at = generation.pending(*epoch, &head.key_hash);
            if let Some(pending) = records.get::<record::Pending>(&at)?
                && pending.parse(&at)?.1.dominates(head)
            {
                return Ok(true);
            }
        }
        let found = Tree::newest(&*self.shared.storage, generation).find(&head.key_hash)?;
        let Some((key, sealed)) = found else { return Ok(false) };
        if sealed.dominates(head) {
            return Ok(true);
        }
        // An epoch may have come up since the pending ones were listed.
        Ok(records.current(&key)?.is_some_and(|current| current.head().dominates(head)))
    }

    /// The epochs that have entries awaiting their sealing, ascending.
    fn pending_epochs(&self) -> Result<Vec<Epoch>, Error> {
        let generation = self.view().generation;
        let mut epochs = Vec::new();
        let (mut from, to) = generation.all(keys::PENDING);
        while let Some((at, _)) = self.shared.storage.first(&from, &to)? {
            let epoch = keys::epoch_in(&at).ok_or_else(|| Damaged::new(&at, "has no epoch"))?;
            epochs.push(epoch);
            (from, _) = generation.pending_from(epoch.next());
        }
        Ok(epochs)
    }

    /// Our own tree at some positions, at our newest seal.
    ///
    /// # Errors
    /// When the disk fails, or the tree on it is damaged.
    pub fn nodes(&self, positions: &[Position]) -> Result<OwnNodes, Error> {
        let view = self.view();
        let Some(newest) = view.newest_run() else {
            return Ok(OwnNodes { epoch: Epoch(0), nodes: vec![None; positions.len()] });
        };
        let tree = Tree::as_of(&*self.shared.storage, view.generation, newest.run.to);
        let mut nodes = Vec::with_capacity(positions.len());
        for position in positions {
            nodes.push(match tree.node(position)? {
                Some((keyed, _)) => match keyed.node {
                    Node::Inner(children) => Some(children),
                    Node::Bucket(_) => None,
                },
                None => None,
            });
        }
        Ok(OwnNodes { epoch: newest.run.to, nodes })
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
