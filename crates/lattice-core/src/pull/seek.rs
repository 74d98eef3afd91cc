//! Looks for single keys in the peer's tree: the way down to each, and its entry at the end.
//!
//! That is how damaged entries are mended: roots agree, so that nothing differs and a walk finds nothing. Keys go
//! down together as long as their way is the same; an answer is pages as any pull fetches, provable without any other.
//! At a bucket nothing is said to be known at first, since what we have there is damaged: its short entries come along,
//! and from then on its heads are known. What the peer cannot give is left: a key that it lacks, an older entry than
//! was lost, or one that it cannot read itself. The last shows only as a refusal of all that was asked for, so less is
//! asked for then.

use std::collections::{BTreeMap, VecDeque};

use crate::exchange::{Ask, Digests, FetchAsk, Known, POSITIONS_MAX, Page, PageBucket, WHOLE_POSITIONS_MAX};
use crate::model::{Entry, EntryHead, Epoch, KeyHash};
use crate::seal::Root;
use crate::time::WallTime;
use crate::tree::{Chains, Node, Position};

use super::fetch::check_dropped;
use super::walk::judge;
use super::{Failed, LOST_MAX, Lost, Outcome};

/// How often the peer may say that it cannot read something before it is left alone.
const UNREADABLE_MAX: u32 = 64;

/// What is looked for.
#[derive(Debug)]
pub(super) struct Seek {
    /// Everything that did not come yet.
    lost: BTreeMap<KeyHash, Option<EntryHead>>,
    sought: u64,
    repaired: u64,
    ways: VecDeque<Way>,
    /// The newest seal that an answer stood on.
    under: Option<Epoch>,
    /// Keys in one question.
    keys_max: usize,
    unreadable: u32,
}

/// Keys that are looked for at one place.
#[derive(Debug)]
struct Way {
    position: Position,
    /// Ascending.
    keys: Vec<KeyHash>,
    /// The peer's bucket there, once it was verified: it holds what mends all of them.
    bucket: Option<Vec<EntryHead>>,
}

/// One question.
#[derive(Debug)]
pub(super) struct Step {
    ways: Vec<Way>,
}

impl Seek {
    /// Looks for at most [`LOST_MAX`] keys; more are left out.
    pub(super) fn new(lost: &[Lost]) -> Self {
        debug_assert!(lost.len() <= LOST_MAX, "whoever lists them knows the bound");
        let lost: BTreeMap<_, _> =
            lost.iter().take(LOST_MAX).map(|lost| (lost.key_hash, lost.head)).collect();
        let keys: Vec<KeyHash> = lost.keys().copied().collect();
        let ways =
            Some(Way { position: Position::ROOT, keys, bucket: None }).filter(|way| !way.keys.is_empty());
        Self {
            sought: lost.len() as u64,
            lost,
            repaired: 0,
            ways: ways.into_iter().collect(),
            under: None,
            keys_max: LOST_MAX,
            unreadable: 0,
        }
    }

    /// How many were looked for.
    pub(super) fn sought(&self) -> u64 {
        self.sought
    }

    /// How many are mended.
    pub(super) fn repaired(&self) -> u64 {
        self.repaired
    }

    /// What did not come.
    pub(super) fn left(&self) -> Vec<Lost> {
        self.lost.iter().map(|(&key_hash, &head)| Lost { key_hash, head }).collect()
    }

    /// The seal that the places were learned under.
    pub(super) fn under(&self) -> Option<Epoch> {
        self.under
    }

    /// Takes what the next question asks for: no place lies below another, or the answer could not be proved.
    pub(super) fn next(&mut self) -> Option<Step> {
        let mut ways: Vec<Way> = Vec::new();
        let mut room = self.keys_max;
        while ways.len() < POSITIONS_MAX && room > 0 {
            let Some(mut way) = self.ways.pop_front() else { break };
            // What came along with others meanwhile is not looked for any more.
            way.keys.retain(|key| self.lost.contains_key(key));
            if way.keys.is_empty() {
                continue;
            }
            let whole = ways.iter().filter(|way| way.bucket.is_some()).count();
            let full = way.bucket.is_some() && whole == WHOLE_POSITIONS_MAX;
            if full || ways.iter().any(|other| overlap(&other.position, &way.position)) {
                self.ways.push_front(way);
                break;
            }
            if way.keys.len() > room {
                let rest = Way { keys: way.keys.split_off(room), bucket: way.bucket.clone(), ..way };
                self.ways.push_front(rest);
            }
            room -= way.keys.len();
            ways.push(way);
        }
        (!ways.is_empty()).then_some(Step { ways })
    }

    /// Takes in the answer to a question, which stands on the seal of `epoch` with this `root`; `time` is the
    /// server's clock. Returns the entries that it brought, all of them verified.
    pub(super) fn take(
        &mut self,
        step: Step,
        epoch: Epoch,
        root: &Root,
        answer: (Vec<Page>, &Chains),
        time: WallTime,
    ) -> Result<Vec<Entry>, Failed> {
        let (pages, chains) = answer;
        if pages.is_empty() || pages.len() > step.ways.len() {
            return Err(Failed::new(Outcome::Refused, "answered with other buckets than those asked for"));
        }
        let mut ways = step.ways.into_iter();
        let mut summaries = BTreeMap::new();
        let mut rebuilt = Vec::with_capacity(pages.len());
        for (page, way) in pages.into_iter().zip(ways.by_ref()) {
            let judge = |invalid| judge(&way.position, invalid);
            page.is_at(&way.position).map_err(judge)?;
            let node = page.rebuild(way.bucket.as_deref().unwrap_or_default()).map_err(judge)?;
            summaries.insert(way.position, node.summary());
            rebuilt.push((way, page, node));
        }
        let first = summaries.keys().next().copied().unwrap_or(Position::ROOT);
        chains.verify(&summaries, root).map_err(|invalid| judge(&first, invalid.into()))?;
        self.under = Some(epoch);
        let mut found = Vec::new();
        for (way, page, node) in rebuilt {
            match (node, page.bucket) {
                (Node::Inner(children), _) => {
                    let exists = |index: u8| children[usize::from(index)].total() > 0;
                    self.ways
                        .extend(way.below().into_iter().filter(|(index, _)| exists(*index)).map(|it| it.1));
                }
                (Node::Bucket(heads), PageBucket::Entries { entries, .. }) => {
                    check_dropped(&entries, time)?;
                    let came = |key: &KeyHash| entries.iter().any(|entry| entry.key.hash() == *key);
                    if way.bucket.is_some() && !way.keys.iter().any(came) {
                        return Err(Failed::new(
                            Outcome::Refused,
                            "answered with none of the entries asked for",
                        ));
                    }
                    let rest = way.keys.iter().filter(|key| !came(key) && self.is_helped(&heads, key));
                    let keys: Vec<KeyHash> = rest.copied().collect();
                    if !keys.is_empty() {
                        self.ways.push_back(Way { position: way.position, keys, bucket: Some(heads) });
                    }
                    found.extend(entries.into_iter().filter(|entry| self.is_mended_by(&entry.head())));
                }
                (Node::Bucket(_), PageBucket::Split(_)) => {
                    unreachable!("a split page is rebuilt as inner node")
                }
            }
        }
        self.ways.extend(ways);
        Ok(found)
    }

    /// The peer cannot read something of what was asked for: less is asked for, and at last that key is left.
    pub(super) fn unreadable(&mut self, step: Step) -> Result<(), Failed> {
        self.unreadable += 1;
        if self.unreadable > UNREADABLE_MAX {
            return Err(Failed::new(Outcome::Refused, "it cannot read too much of what was asked for"));
        }
        let asked: usize = step.ways.iter().map(|way| way.keys.len()).sum();
        self.keys_max = (asked / 2).max(1);
        if asked > 1 {
            step.ways.into_iter().rev().for_each(|way| self.ways.push_front(way));
        }
        Ok(())
    }

    /// These were merged, and so many of them have mended something.
    pub(super) fn merged(&mut self, heads: &[EntryHead], repaired: u64) {
        for head in heads {
            self.lost.remove(&head.key_hash);
        }
        self.repaired += repaired;
    }

    /// Whether the peer's bucket with these heads has what mends a key.
    fn is_helped(&self, heads: &[EntryHead], key: &KeyHash) -> bool {
        let found = heads.binary_search_by_key(key, |head| head.key_hash);
        found.is_ok_and(|found| self.is_mended_by(&heads[found]))
    }

    /// Whether an entry is looked for, and no older than the one that was lost.
    fn is_mended_by(&self, head: &EntryHead) -> bool {
        let lost = self.lost.get(&head.key_hash);
        lost.is_some_and(|lost| lost.is_none_or(|lost| head.dominates(&lost)))
    }
}

impl Step {
    /// The question.
    pub(super) fn ask(&self, under: Option<Epoch>) -> Ask {
        Ask::Fetch { epoch: under, buckets: self.ways.iter().map(Way::ask).collect() }
    }
}

impl Way {
    fn ask(&self) -> FetchAsk {
        // Whole digests: none begins like another, so that what does not rebuild is a lie.
        let known = Known::truncate(self.bucket.as_deref().unwrap_or_default(), Digests::WIDTH_MAX);
        FetchAsk { position: self.position, known, keys: self.keys.clone() }
    }

    /// Where each key is on, below an inner node.
    fn below(&self) -> BTreeMap<u8, Self> {
        let depth = self.position.depth();
        let mut below: BTreeMap<u8, Self> = BTreeMap::new();
        for key in &self.keys {
            let position = Position::towards(key, depth + 1);
            let way = below.entry(key.nibble(depth));
            way.or_insert_with(|| Self { position, keys: Vec::new(), bucket: None }).keys.push(*key);
        }
        below
    }
}

/// Whether one of two places is the other, or lies below it.
fn overlap(one: &Position, other: &Position) -> bool {
    let (upper, lower) = if one.depth() <= other.depth() { (one, other) } else { (other, one) };
    upper.covers(&lower.first())
}
