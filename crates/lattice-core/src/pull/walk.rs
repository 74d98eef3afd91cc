//! The way down: which positions are still to be seen, and what an answer says of them.
//!
//! Depth first, in batches. A batch takes positions from the top of a stack, and its differing children go
//! back on top, so that the stack holds at most the children of one batch for each level. Where our own tree
//! has inner nodes below a position, those are asked for in the same breath: when only little differs, that
//! saves every second round, and costs a few bytes where nothing does.

use std::collections::BTreeMap;

use crate::exchange::{Anchor, Ask, Digests, InvalidAnswer, POSITIONS_MAX, Shape, WalkAsk, WalkNode};
use crate::model::{EntryHead, Epoch};
use crate::seal::Root;
use crate::tree::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Summary};

use super::{Failed, Outcome};

/// The children of one of our own inner nodes.
pub(super) type Children = Box<[Summary; FANOUT]>;

/// Bytes of each of our digests, unless two began alike: 64 bits make that a matter of bad will.
const DIGEST_WIDTH: usize = 8;
/// How many buckets an inner node weighs in a batch: it brings up to sixteen children, which must find room.
const INNER_WEIGHT: usize = 4;
/// The most positions asked for ahead of the answer about their parents.
const AHEAD_MAX: usize = 64;
/// The most positions that ever wait: the children of one batch for each level, and those of split buckets.
const WAITING_MAX: usize = (Position::DEPTH_MAX + 1) * POSITIONS_MAX * FANOUT;

/// A bucket of the peer's that differs from ours, verified.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) position: Position,
    /// The seal that it was verified under.
    pub(super) under: Epoch,
    pub(super) heads: Vec<EntryHead>,
}

/// A position to be seen.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    position: Position,
    /// The seal that it was learned under, and what its parent says of it there; `None` for the root, of which
    /// nothing is known at first.
    known: Option<(Epoch, Summary)>,
    /// Ask with whole digests: truncated ones did not rebuild.
    whole: bool,
}

/// The positions that are still to be seen.
#[derive(Debug)]
pub(super) struct Frontier {
    waiting: Vec<Waiting>,
    /// Positions are asked for ahead of their parents' answer.
    ahead: bool,
}

/// One batch: what the peer is asked next.
#[derive(Debug)]
pub(super) struct Plan {
    /// Taken from the frontier, then those asked for ahead of their parents' answer.
    items: Vec<Item>,
    /// Those before it were taken from the frontier.
    ahead_from: usize,
    /// The seal that all were learned under, and whether to send whole digests.
    under: (Option<Epoch>, bool),
    may_plan_ahead: bool,
}

#[derive(Debug)]
struct Item {
    waiting: Waiting,
    /// What we have there.
    mine: Mine,
}

#[derive(Debug)]
enum Mine {
    Unread,
    Read(Option<Children>),
}

impl Frontier {
    /// Only the root is to be seen.
    pub(super) fn new() -> Self {
        let root = Waiting { position: Position::ROOT, known: None, whole: false };
        Self { waiting: vec![root], ahead: true }
    }

    /// From now on nothing is asked for ahead.
    pub(super) fn never_ahead(&mut self) {
        self.ahead = false;
    }

    /// Adds a position whose parent, verified under the seal of `epoch`, says `summary` of it.
    pub(super) fn push(&mut self, position: Position, epoch: Epoch, summary: Summary) {
        self.waiting.push(Waiting { position, known: Some((epoch, summary)), whole: false });
        debug_assert!(
            self.waiting.len() <= WAITING_MAX,
            "the frontier is bounded by depth, not by the state"
        );
    }

    /// How many positions wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the next batch: positions learned under one seal.
    pub(super) fn next(&mut self) -> Option<Plan> {
        let under = self.waiting.last()?.under();
        let mut items = Vec::new();
        let mut weight = 0;
        while let Some(waiting) = self.waiting.pop_if(|waiting| waiting.under() == under) {
            weight += if waiting.is_bucket() { 1 } else { INNER_WEIGHT };
            if weight > POSITIONS_MAX {
                self.waiting.push(waiting);
                break;
            }
            // A bucket is answered with its heads, whatever we have there.
            let mine = if waiting.is_bucket() { Mine::Read(None) } else { Mine::Unread };
            items.push(Item { waiting, mine });
        }
        let may_plan_ahead = self.ahead && !under.1;
        Some(Plan { ahead_from: items.len(), items, under, may_plan_ahead })
    }

    /// Takes in the answer to a plan, which stands on the seal of `epoch` with this `root`. Returns the
    /// buckets found; the differing children of inner nodes are waiting from now on.
    pub(super) fn descend(
        &mut self,
        plan: Plan,
        epoch: Epoch,
        root: &Root,
        nodes: Vec<WalkNode>,
    ) -> Result<Vec<Bucket>, Failed> {
        if nodes.is_empty() || nodes.len() > plan.items.len() {
            return Err(Failed::new(Outcome::Refused, "answered with other positions than those asked for"));
        }
        let mut buckets = Vec::new();
        // Of the positions below those verified here, what their parents say.
        let mut below: BTreeMap<Position, Summary> = BTreeMap::new();
        let mut again = Vec::new();
        let mut items = plan.items.into_iter().enumerate();
        for (node, (index, item)) in nodes.iter().zip(items.by_ref()) {
            let position = item.waiting.position;
            if node.position != position {
                return Err(Failed::new(
                    Outcome::Refused,
                    "answered with other positions than those asked for",
                ));
            }
            let parent = match below.remove(&position) {
                Some(summary) => Some(summary),
                // Asked for ahead, and its parent turned out to be equal, or no proof of anything.
                None if index >= plan.ahead_from => continue,
                None => item.waiting.known.filter(|known| known.0 == epoch).map(|known| known.1),
            };
            let anchor = match &parent {
                Some(parent) if node.chain.is_none() => Anchor::Parent(parent),
                Some(_) | None => Anchor::Root(root),
            };
            let mine = match &item.mine {
                Mine::Read(mine) => mine.as_deref(),
                Mine::Unread => None,
            };
            let verified = node.verify(mine, anchor);
            if let (Ok(found), Some((under, before))) = (&verified, item.waiting.known)
                && total(found) < before.total()
            {
                let detail = format!("at {position}: epoch {epoch} lacks entries of epoch {under}");
                return Err(Failed::new(Outcome::Lied, detail));
            }
            match verified {
                Ok(Node::Bucket(heads)) if heads.is_empty() => {}
                Ok(Node::Bucket(heads)) => buckets.push(Bucket { position, under: epoch, heads }),
                Ok(Node::Inner(children)) => differing(&position, &children, mine, &mut below),
                Err(_) if may_have_begun_alike(&node.shape, &item) => {
                    let known = parent.map(|parent| (epoch, parent)).or(item.waiting.known);
                    again.push(Waiting { position, known, whole: true });
                }
                Err(invalid) => return Err(judge(&position, invalid)),
            }
        }
        // What there was no room for. Of positions asked for ahead, `below` knows whether they matter.
        let unanswered = items.filter(|(index, _)| *index < plan.ahead_from);
        self.waiting.extend(unanswered.map(|(_, item)| item.waiting));
        for (position, summary) in below.into_iter().rev() {
            self.push(position, epoch, summary);
        }
        self.waiting.extend(again);
        Ok(buckets)
    }
}

impl Waiting {
    fn under(&self) -> (Option<Epoch>, bool) {
        (self.known.map(|known| known.0), self.whole)
    }

    fn is_bucket(&self) -> bool {
        self.known.is_some_and(|known| known.1.total() <= BUCKET_ENTRIES_MAX as u64)
    }
}

impl Plan {
    /// The seal that the positions were learned under; `None` for the root.
    pub(super) fn under(&self) -> Option<Epoch> {
        self.under.0
    }

    /// Where our own nodes are still to be read.
    pub(super) fn unread(&self) -> Vec<Position> {
        let unread = self.items.iter().filter(|item| matches!(item.mine, Mine::Unread));
        unread.map(|item| item.waiting.position).collect()
    }

    /// Takes in our own nodes, in the order of [`Self::unread`], and plans ahead below them. False when they
    /// are not as many.
    pub(super) fn read(&mut self, nodes: Vec<Option<Children>>) -> bool {
        let mut nodes = nodes.into_iter();
        for item in self.items.iter_mut().filter(|item| matches!(item.mine, Mine::Unread)) {
            let Some(mine) = nodes.next() else { return false };
            item.mine = Mine::Read(mine);
        }
        if std::mem::take(&mut self.may_plan_ahead) {
            self.plan_ahead();
        }
        nodes.next().is_none()
    }

    /// The question.
    pub(super) fn ask(&self) -> Ask {
        let width = if self.under.1 { Digests::WIDTH_MAX } else { DIGEST_WIDTH };
        let ask = |item: &Item| WalkAsk {
            position: item.waiting.position,
            mine: match &item.mine {
                Mine::Read(Some(mine)) => Some(Digests::truncate(mine, width)),
                Mine::Read(None) | Mine::Unread => None,
            },
        };
        Ask::Walk { epoch: self.under.0, nodes: self.items.iter().map(ask).collect() }
    }

    /// Whether anything is asked for ahead.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead_from < self.items.len()
    }

    /// The same batch, with nothing asked for ahead.
    pub(super) fn without_ahead(mut self) -> Self {
        self.items.truncate(self.ahead_from);
        self
    }

    /// Adds the places of our own inner nodes below those just read: where only little differs, the peer will
    /// have inner nodes there as well, most of them equal.
    fn plan_ahead(&mut self) {
        let room = AHEAD_MAX.min(POSITIONS_MAX - self.items.len());
        let mut ahead = Vec::new();
        for item in &self.items {
            let Mine::Read(Some(children)) = &item.mine else { continue };
            for (index, child) in (0_u8..).zip(children.iter()) {
                if child.total() > BUCKET_ENTRIES_MAX as u64 {
                    ahead.extend(item.waiting.position.child(index));
                }
            }
        }
        ahead.truncate(room);
        self.items.extend(ahead.into_iter().map(|position| Item {
            waiting: Waiting { position, known: None, whole: false },
            mine: Mine::Unread,
        }));
    }
}

/// What hangs below a verified node: entries are never removed, so that it only grows.
fn total(node: &Node) -> u64 {
    let (entries, tombstones) = node.counts();
    entries.saturating_add(tombstones)
}

/// Notes the children of a verified node that hold anything and are not what we have.
fn differing(
    position: &Position,
    children: &[Summary; FANOUT],
    mine: Option<&[Summary; FANOUT]>,
    below: &mut BTreeMap<Position, Summary>,
) {
    for (index, child) in children.iter().enumerate() {
        let equal = mine.is_some_and(|mine| mine[index] == *child);
        let place = position.child(u8::try_from(index).unwrap_or(u8::MAX));
        if let (false, true, Some(place)) = (equal, child.total() > 0, place) {
            below.insert(place, *child);
        }
    }
}

/// Whether a node that does not rebuild may be honest: it took children of ours for its own, by digests that
/// were cut.
fn may_have_begun_alike(shape: &Shape, item: &Item) -> bool {
    let took_ours = match shape {
        Shape::Inner { equal, .. } => *equal != 0,
        Shape::Bucket(_) => false,
    };
    let cut = matches!(item.mine, Mine::Read(Some(_))) && !item.waiting.whole;
    took_ours && cut
}

/// What an invalid answer says of the peer, who has signed it: content that cannot be under its own root is a
/// lie; a form that answers nothing is not.
pub(super) fn judge(position: &Position, invalid: InvalidAnswer) -> Failed {
    let outcome = match invalid {
        InvalidAnswer::Node(_)
        | InvalidAnswer::Digest
        | InvalidAnswer::Chain(_)
        | InvalidAnswer::Unknown { .. }
        | InvalidAnswer::Withheld { .. } => Outcome::Lied,
        InvalidAnswer::Children { .. }
        | InvalidAnswer::EqualToNothing
        | InvalidAnswer::TooDeep
        | InvalidAnswer::ChainPresence
        | InvalidAnswer::Position
        | InvalidAnswer::Unasked { .. }
        | InvalidAnswer::NotAscending { .. } => Outcome::Refused,
    };
    Failed::new(outcome, format!("at {position}: {invalid}"))
}
