//! The entries that we lack: which are still to be fetched, and what a page must hold.
//!
//! Entries are never removed from a tree, and versions only grow. So a bucket that was verified under one seal
//! says what every later page of it, whatever seal that stands on, must hold at least.

use std::collections::VecDeque;

use crate::exchange::{Ask, FETCH_ENTRIES_MAX, FetchAsk, POSITIONS_MAX, Page, PageBucket};
use crate::model::{Content, Entry, EntryHead, Epoch};
use crate::seal::Root;
use crate::time::WallTime;
use crate::tree::{Node, Position, Summary};

use super::walk::{Bucket, judge};
use super::{Failed, Outcome};

/// Entries of one bucket that we lack.
#[derive(Debug)]
struct Want {
    position: Position,
    /// The seal that the bucket was verified under.
    under: Epoch,
    /// Ascending by key hash.
    heads: Vec<EntryHead>,
}

/// What is still to be fetched: at most what one walk has found.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wants: VecDeque<Want>,
}

/// One question for entries.
#[derive(Debug)]
pub(super) struct Fetch {
    wants: Vec<Want>,
    under: Epoch,
}

/// What an answer brought, all of it verified.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) entries: Vec<Entry>,
    /// What hangs below buckets that have split since.
    pub(super) split: Vec<(Position, Summary)>,
}

impl Wanted {
    /// Adds of `buckets` the heads at the indexes in `missing`, ascending, counted through all of them.
    pub(super) fn add(&mut self, buckets: &[Bucket], missing: &[usize]) {
        let mut missing = missing.iter().peekable();
        let mut first = 0;
        for bucket in buckets {
            let mut heads = Vec::new();
            while let Some(&index) = missing.next_if(|index| **index < first + bucket.heads.len()) {
                // An index out of order is the store's mistake, and says nothing.
                heads.extend(index.checked_sub(first).and_then(|index| bucket.heads.get(index)));
            }
            first += bucket.heads.len();
            if !heads.is_empty() {
                self.wants.push_back(Want { position: bucket.position, under: bucket.under, heads });
            }
        }
    }

    /// Takes what the next question asks for: buckets that were verified under one seal.
    pub(super) fn next(&mut self) -> Option<Fetch> {
        let under = self.wants.front()?.under;
        let mut fetch = Fetch { wants: Vec::new(), under };
        let mut room = FETCH_ENTRIES_MAX;
        while fetch.wants.len() < POSITIONS_MAX {
            match self.wants.front() {
                Some(want) if want.under == under && want.heads.len() <= room => room -= want.heads.len(),
                Some(_) | None => break,
            }
            fetch.wants.extend(self.wants.pop_front());
        }
        Some(fetch)
    }

    /// Takes in the answer to a question, which stands on the seal of `epoch` with this `root`; `time` is the
    /// server's clock. What did not come is wanted still.
    pub(super) fn take(
        &mut self,
        fetch: Fetch,
        epoch: Epoch,
        root: &Root,
        pages: Vec<Page>,
        time: WallTime,
    ) -> Result<Fetched, Failed> {
        if pages.len() > fetch.wants.len() {
            return Err(Failed::new(Outcome::Refused, "answered with other buckets than those asked for"));
        }
        let mut fetched = Fetched::default();
        let mut left = Vec::new();
        let mut pages = pages.into_iter();
        for want in fetch.wants {
            let Some(page) = pages.next() else {
                left.push(want);
                continue;
            };
            let judge = |invalid| judge(&want.position, invalid);
            page.answers(&want.ask()).map_err(judge)?;
            match (page.verify(root).map_err(judge)?, page.bucket) {
                (Node::Inner(children), _) => {
                    let below = children.iter().zip(0_u8..).filter(|(child, _)| child.total() > 0);
                    let place = |(child, index): (&Summary, u8)| Some((want.position.child(index)?, *child));
                    fetched.split.extend(below.filter_map(place));
                }
                (Node::Bucket(heads), PageBucket::Entries { entries, .. }) => {
                    want.check(&heads, epoch)?;
                    check_dropped(&entries, time)?;
                    let rest = want.heads[entries.len()..].to_vec();
                    fetched.entries.extend(entries);
                    if !rest.is_empty() {
                        left.push(Want { heads: rest, under: epoch, ..want });
                    }
                }
                (Node::Bucket(_), PageBucket::Split(_)) => {
                    unreachable!("a split page is verified as inner node")
                }
            }
        }
        if fetched.entries.is_empty() && fetched.split.is_empty() {
            return Err(Failed::new(Outcome::Refused, "answered with none of the entries asked for"));
        }
        for want in left.into_iter().rev() {
            self.wants.push_front(want);
        }
        Ok(fetched)
    }
}

impl Fetch {
    /// The seal that the buckets were verified under.
    pub(super) fn under(&self) -> Epoch {
        self.under
    }

    /// The question.
    pub(super) fn ask(&self) -> Ask {
        Ask::Fetch { epoch: Some(self.under), buckets: self.wants.iter().map(Want::ask).collect() }
    }
}

impl Want {
    fn ask(&self) -> FetchAsk {
        let keys = self.heads.iter().map(|head| head.key_hash).collect();
        FetchAsk { position: self.position, keys }
    }

    /// Checks that the bucket, as of `epoch`, still holds what it held: each entry, or a newer one of its key.
    fn check(&self, heads: &[EntryHead], epoch: Epoch) -> Result<(), Failed> {
        for wanted in &self.heads {
            let found = heads.binary_search_by_key(&wanted.key_hash, |head| head.key_hash);
            if !found.is_ok_and(|found| heads[found].dominates(wanted)) {
                let (position, under) = (self.position, self.under);
                let detail = format!("at {position}: epoch {epoch} lacks an entry of epoch {under}");
                return Err(Failed::new(Outcome::Lied, detail));
            }
        }
        Ok(())
    }
}

/// Checks that no value was dropped before it expired, by the server's own clock.
pub(super) fn check_dropped(entries: &[Entry], time: WallTime) -> Result<(), Failed> {
    let early = |entry: &&Entry| {
        matches!(entry.content, Content::Dropped { .. }) && entry.expires.is_none_or(|expires| time < expires)
    };
    match entries.iter().find(early) {
        None => Ok(()),
        Some(_) => Err(Failed::new(Outcome::Lied, "a value was dropped before it expired")),
    }
}
