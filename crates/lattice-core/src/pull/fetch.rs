//! The buckets that are fetched: what we say that we have there, and what an answer must hold.
//!
//! Entries are never removed from a tree, and versions only grow. So a bucket that was verified under one seal
//! says what every later page of it, whatever seal that stands on, must hold at least.
//!
//! An entry that the peer cannot read shows only as a refusal of all that was asked for by key: half as much is asked
//! for then, and at last that entry is left.

use std::collections::{BTreeMap, VecDeque};

use crate::exchange::{
    Ask, Digests, FETCH_ENTRIES_MAX, FetchAsk, InvalidAnswer, KEYS_MAX, Known, Page, PageBucket, Reason,
};
use crate::model::{Content, Entry, EntryHead, Epoch};
use crate::seal::Root;
use crate::time::WallTime;
use crate::tree::{BUCKET_ENTRIES_MAX, Chains, Node, Position, Summary};

use super::walk::{DIGEST_WIDTH, Waiting, judge, positions_max};
use super::{Failed, Outcome};

/// The most entries that the peer may be unable to read before it is left alone.
const UNREADABLE_MAX: u64 = 64;

/// One bucket to be fetched.
#[derive(Debug)]
struct Item {
    waiting: Waiting,
    /// The heads that we say we know: our own there, or the peer's own, once they were verified.
    known: Vec<EntryHead>,
    /// Of the peer's own, those that we lack and want whole. Empty when the bucket is asked for first.
    wanted: Vec<EntryHead>,
}

/// Entries of verified buckets that are still to be fetched: at most what one answer has told.
#[derive(Debug)]
pub(super) struct Wanted {
    items: VecDeque<Item>,
    /// Keys in one question.
    keys_max: usize,
    /// Entries that the peer cannot read.
    unreadable: u64,
}

/// One question for buckets.
#[derive(Debug)]
pub(super) struct Fetch {
    items: Vec<Item>,
    under: (Option<Epoch>, bool),
}

/// What an answer brought, all of it verified.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) entries: Vec<Entry>,
    /// Buckets of which it told heads.
    pub(super) told: Vec<Told>,
    /// What hangs below buckets that have split since.
    pub(super) split: Vec<(Position, Summary)>,
    /// What was not answered, or has to be asked again with whole digests.
    pub(super) again: Vec<Waiting>,
    /// How many buckets were answered; all, when that says nothing of how many find room.
    pub(super) answered: usize,
}

/// A verified bucket of which an answer has told heads without their entries.
#[derive(Debug)]
pub(super) struct Told {
    waiting: Waiting,
    /// All of the bucket.
    bucket: Vec<EntryHead>,
    /// Those without their entries, ascending.
    pub(super) heads: Vec<EntryHead>,
}

impl Wanted {
    /// Nothing is wanted yet.
    pub(super) fn new() -> Self {
        Self { items: VecDeque::new(), keys_max: KEYS_MAX, unreadable: 0 }
    }

    /// How many entries were left, since the peer cannot read them.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Adds of `told` the heads at the indexes in `missing`, ascending, counted through all of them.
    pub(super) fn add(&mut self, told: Vec<Told>, missing: &[usize]) {
        let mut missing = missing.iter().peekable();
        let mut first = 0;
        for Told { waiting, bucket, heads } in told {
            let mut wanted = Vec::new();
            while let Some(&index) = missing.next_if(|index| **index < first + heads.len()) {
                // An index out of order is the store's mistake, and says nothing.
                wanted.extend(index.checked_sub(first).and_then(|index| heads.get(index)));
            }
            first += heads.len();
            if !wanted.is_empty() {
                self.items.push_back(Item { waiting, known: bucket, wanted });
            }
        }
    }

    /// Takes what the next question asks for: buckets that were verified under one seal.
    pub(super) fn next(&mut self) -> Option<Fetch> {
        let under = self.items.front()?.waiting.under();
        let mut fetch = Fetch { items: Vec::new(), under };
        let mut room = self.keys_max;
        while fetch.items.len() < positions_max(under.1) && room > 0 {
            // Two parts of what is wanted of one bucket stand side by side, and are asked for one after the other.
            let last = fetch.items.last().map(|last| last.waiting.position);
            let fits = |item: &mut Item| item.waiting.under() == under && Some(item.waiting.position) != last;
            let Some(mut item) = self.items.pop_front_if(fits) else { break };
            if item.wanted.len() > room {
                if !fetch.items.is_empty() {
                    self.items.push_front(item);
                    break;
                }
                let wanted = item.wanted.split_off(room);
                self.items.push_front(Item { waiting: item.waiting, known: item.known.clone(), wanted });
            }
            room -= item.wanted.len();
            fetch.items.push(item);
        }
        Some(fetch)
    }

    /// The peer cannot read something of what a question asks for by key: less is asked for, and at last that entry is
    /// left.
    pub(super) fn cannot_read(&mut self, fetch: Fetch) -> Result<(), Failed> {
        let asked: usize = fetch.items.iter().map(|item| item.wanted.len()).sum();
        self.keys_max = (asked / 2).max(1);
        if asked > 1 {
            fetch.items.into_iter().rev().for_each(|item| self.items.push_front(item));
            return Ok(());
        }
        self.unreadable += 1;
        match self.unreadable > UNREADABLE_MAX {
            true => Err(self.left()),
            false => Ok(()),
        }
    }

    /// Why it is not healed, once nothing is wanted any more.
    pub(super) fn left(&self) -> Failed {
        let detail = format!("{:?}: it cannot read {} of its entries", Reason::Unavailable, self.unreadable);
        Failed::new(Outcome::Refused, detail)
    }

    /// Takes in the answer to a question, which stands on the seal of `epoch` with this `root`; `time` is the
    /// server's clock. Entries that were wanted by name and did not come are wanted still.
    pub(super) fn take(
        &mut self,
        fetch: Fetch,
        epoch: Epoch,
        root: &Root,
        answer: (Vec<Page>, &Chains),
        time: WallTime,
    ) -> Result<Fetched, Failed> {
        let (pages, chains) = answer;
        let by_key = fetch.by_key();
        let Fetch { items, under: (_, whole) } = fetch;
        if pages.is_empty() || pages.len() > items.len() {
            return Err(Failed::new(Outcome::Refused, "answered with other buckets than those asked for"));
        }
        let mut fetched = Fetched { answered: pages.len(), ..Fetched::default() };
        // What is proved of each place, and what was rebuilt there.
        let mut summaries = BTreeMap::new();
        let mut rebuilt = Vec::with_capacity(pages.len());
        let mut items = items.into_iter();
        for (page, item) in pages.into_iter().zip(items.by_ref()) {
            let position = item.waiting.position;
            let judge = |invalid| judge(&position, invalid);
            page.is_at(&position).map_err(judge)?;
            // Truncated digests may have begun alike: then it is asked again before the worst is believed.
            let may_begin_alike = page.takes_known() && !whole;
            let node = page.rebuild(&item.known);
            match (item.waiting.known.filter(|known| known.0 == epoch), node) {
                (Some((_, known)), Ok(node)) if node.summary() == known => {
                    summaries.insert(position, known);
                    rebuilt.push((item, page, node, may_begin_alike));
                }
                (Some((_, known)), _) if may_begin_alike => {
                    summaries.insert(position, known);
                    fetched.again.push(Waiting { whole: true, ..item.waiting });
                }
                (None, Ok(node)) => {
                    summaries.insert(position, node.summary());
                    rebuilt.push((item, page, node, may_begin_alike));
                }
                (None, Err(_)) if may_begin_alike => {
                    // Nothing can be proved with a place left out: all of it is asked again.
                    let asked = rebuilt.into_iter().map(|(item, ..)| item).chain([item]).chain(items);
                    return Ok(Fetched::again(asked.map(|item| item.waiting), fetched.again));
                }
                (Some(_), Ok(_)) => return Err(judge(InvalidAnswer::Digest)),
                (_, Err(invalid)) => return Err(judge(invalid)),
            }
        }
        if let Err(invalid) = chains.verify(&summaries, root) {
            if rebuilt
                .iter()
                .any(|(item, .., alike)| *alike && item.waiting.known.is_none_or(|known| known.0 != epoch))
            {
                let asked = rebuilt.into_iter().map(|(item, ..)| item).chain(items);
                return Ok(Fetched::again(asked.map(|item| item.waiting), fetched.again));
            }
            let first = summaries.keys().next().copied().unwrap_or(Position::ROOT);
            return Err(judge(&first, invalid.into()));
        }
        let mut left = Vec::new();
        for (item, page, node, _) in rebuilt {
            left.extend(fetched.take(item, page, node, epoch, time)?);
        }
        // A head is what was told before: whoever asked for its entry would ask for ever.
        let moved = !(fetched.entries.is_empty() && fetched.split.is_empty() && fetched.again.is_empty());
        if by_key && !moved {
            return Err(Failed::new(Outcome::Refused, "answered with none of the entries asked for"));
        }
        if by_key {
            self.keys_max = KEYS_MAX.min(2 * self.keys_max);
        }
        // What was asked for in several parts, and is walked from now on, is found there.
        let is_walked =
            |item: &Item| fetched.split.iter().any(|(at, _)| at.parent() == Some(item.waiting.position));
        self.items.retain(|item| !is_walked(item));
        for item in items {
            match item.wanted.is_empty() {
                true => fetched.again.push(item.waiting),
                false => left.push(item),
            }
        }
        for item in left.into_iter().rev() {
            self.items.push_front(item);
        }
        Ok(fetched)
    }
}

impl Fetched {
    /// Everything is to be asked again, with whole digests.
    fn again(asked: impl Iterator<Item = Waiting>, before: Vec<Waiting>) -> Self {
        let again =
            before.into_iter().chain(asked).map(|waiting| Waiting { whole: true, ..waiting }).collect();
        Self { again, answered: usize::MAX, ..Self::default() }
    }

    /// Takes in one proved page. What is wanted still, if anything.
    fn take(
        &mut self,
        item: Item,
        page: Page,
        node: Node,
        epoch: Epoch,
        time: WallTime,
    ) -> Result<Option<Item>, Failed> {
        let position = item.waiting.position;
        let summary = node.summary();
        if let Some((under, before)) = item.waiting.known
            && summary.total() < before.total()
        {
            return Err(lost(&position, epoch, under));
        }
        let waiting = Waiting { position, known: Some((epoch, summary)), whole: item.waiting.whole };
        let (heads, entries, told) = match (node, page.bucket) {
            (Node::Inner(children), _) => {
                let below = children.iter().zip(0_u8..).filter(|(child, _)| child.total() > 0);
                let place = |(child, index): (&Summary, u8)| Some((position.child(index)?, *child));
                self.split.extend(below.filter_map(place));
                return Ok(None);
            }
            (Node::Bucket(heads), PageBucket::Entries { entries, heads: told, .. }) => (heads, entries, told),
            (Node::Bucket(_), PageBucket::Split(_)) => unreachable!("a split page is rebuilt as inner node"),
        };
        item.check(&heads, epoch)?;
        check_dropped(&entries, time)?;
        let came = |head: &EntryHead| {
            entries.binary_search_by_key(&head.key_hash, |entry| entry.key.hash()).is_ok()
                || told.iter().any(|told| told.key_hash == head.key_hash)
        };
        let rest: Vec<EntryHead> = item.wanted.iter().filter(|head| !came(head)).copied().collect();
        self.entries.extend(entries);
        if !told.is_empty() {
            self.told.push(Told { waiting, bucket: heads.clone(), heads: told });
        }
        Ok((!rest.is_empty()).then_some(Item { waiting, known: heads, wanted: rest }))
    }
}

impl Fetch {
    /// A question for `buckets`, all learned under one seal; what we have there is to be read.
    pub(super) fn of(buckets: &[Waiting]) -> Option<Self> {
        let under = buckets.first()?.under();
        let item = |waiting: &Waiting| Item { waiting: *waiting, known: Vec::new(), wanted: Vec::new() };
        Some(Self { items: buckets.iter().map(item).collect(), under })
    }

    /// The places asked for.
    pub(super) fn positions(&self) -> Vec<Position> {
        self.items.iter().map(|item| item.waiting.position).collect()
    }

    /// Whether it asks for entries by key: how many buckets of these are answered says nothing of others.
    pub(super) fn by_key(&self) -> bool {
        self.items.iter().any(|item| !item.wanted.is_empty())
    }

    /// How many buckets are asked for.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Takes in our own nodes, in the order of [`Self::positions`]. Returns the buckets for which the answer will
    /// have no room; `None` when the nodes are not as many.
    pub(super) fn read(&mut self, nodes: Vec<Node>) -> Option<Vec<Waiting>> {
        if nodes.len() != self.items.len() {
            return None;
        }
        let mut expected = 0;
        let mut fits = 0;
        for (item, node) in self.items.iter_mut().zip(nodes) {
            // Where we have more than a bucket holds, it comes whole.
            if let Node::Bucket(heads) = node {
                item.known = heads;
                item.known.truncate(BUCKET_ENTRIES_MAX);
            }
            let theirs = item.waiting.known.map_or(0, |known| known.1.total());
            expected += theirs.saturating_sub(item.known.len() as u64);
            fits += usize::from(fits == 0 || expected <= FETCH_ENTRIES_MAX as u64);
        }
        Some(self.items.split_off(fits).into_iter().map(|item| item.waiting).collect())
    }

    /// The seal that the buckets were learned under; `None` for the root.
    pub(super) fn under(&self) -> Option<Epoch> {
        self.under.0
    }

    /// The question.
    pub(super) fn ask(&self) -> Ask {
        let (epoch, whole) = self.under;
        Ask::Fetch { epoch, buckets: self.items.iter().map(|item| item.ask(whole)).collect() }
    }
}

impl Item {
    fn ask(&self, whole: bool) -> FetchAsk {
        let width = if whole { Digests::WIDTH_MAX } else { DIGEST_WIDTH };
        let keys = self.wanted.iter().map(|head| head.key_hash).collect();
        FetchAsk { position: self.waiting.position, known: Known::truncate(&self.known, width), keys }
    }

    /// Checks that the bucket, as of `epoch`, still holds what it held: each entry, or a newer one of its key.
    fn check(&self, heads: &[EntryHead], epoch: Epoch) -> Result<(), Failed> {
        for wanted in &self.wanted {
            let found = heads.binary_search_by_key(&wanted.key_hash, |head| head.key_hash);
            if !found.is_ok_and(|found| heads[found].dominates(wanted)) {
                let under = self.under().unwrap_or_default();
                return Err(lost(&self.waiting.position, epoch, under));
            }
        }
        Ok(())
    }

    fn under(&self) -> Option<Epoch> {
        self.waiting.known.map(|known| known.0)
    }
}

fn lost(position: &Position, epoch: Epoch, under: Epoch) -> Failed {
    Failed::new(Outcome::Lied, format!("at {position}: epoch {epoch} lacks entries of epoch {under}"))
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
