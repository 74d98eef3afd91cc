//! The way down: which positions are still to be seen, and what an answer says of them.
//!
//! Depth first, in batches. A batch takes inner nodes from the top of a stack, and their differing children go
//! back on top, so that the stack holds at most the children of one batch for each level. Buckets queue until
//! there are enough of them for a fetch, or no inner node is left. Where only little differs, our own inner nodes
//! below a position are asked for in the same breath: that saves every second round for a few bytes.

use std::collections::{BTreeMap, VecDeque};

use crate::exchange::{
    Anchor, Ask, Digests, InvalidAnswer, POSITIONS_MAX, Shape, WHOLE_POSITIONS_MAX, WalkAsk, WalkNode,
};
use crate::model::Epoch;
use crate::seal::Root;
use crate::tree::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Summary, root_of};

use super::{Failed, Outcome};

/// The children of one of our own inner nodes.
pub(super) type Children = Box<[Summary; FANOUT]>;

/// Bytes of each of our digests, unless two began alike: that costs a question, and happens by accident to one
/// difference in four thousand millions.
pub(super) const DIGEST_WIDTH: usize = 4;
/// The most positions asked for ahead of the answer about their parents; where there would be more, none is, since
/// then what differs is wide.
const AHEAD_MAX: usize = 64;
/// The most inner nodes that ever wait: the children of one batch for each level, and those of split buckets.
const WAITING_MAX: usize = (Position::DEPTH_MAX + 1) * POSITIONS_MAX * FANOUT;
/// The most buckets that ever wait: those of one batch, and what was left before it.
const BUCKETS_MAX: usize = (2 * FANOUT + 1) * POSITIONS_MAX;

/// A position to be seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) position: Position,
    /// The seal that it was learned under, and what its parent says of it there; `None` for the root, of which
    /// nothing is known at first.
    pub(super) known: Option<(Epoch, Summary)>,
    /// Ask with whole digests: truncated ones did not rebuild.
    pub(super) whole: bool,
}

/// The positions that are still to be seen.
#[derive(Debug)]
pub(super) struct Frontier {
    /// Inner nodes, the next one last.
    waiting: Vec<Waiting>,
    /// Buckets.
    buckets: VecDeque<Waiting>,
    /// The most buckets in one fetch: as many as the peer answers.
    fetch_max: usize,
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
    /// An inner node.
    Inner(Children),
    /// A bucket, or nothing.
    Bucket(Summary),
}

impl Frontier {
    /// Only the root is to be seen.
    pub(super) fn new() -> Self {
        let root = Waiting { position: Position::ROOT, known: None, whole: false };
        Self { waiting: vec![root], buckets: VecDeque::new(), fetch_max: POSITIONS_MAX, ahead: true }
    }

    /// From now on nothing is asked for ahead.
    pub(super) fn never_ahead(&mut self) {
        self.ahead = false;
    }

    /// Adds a position whose parent, verified under the seal of `epoch`, says `summary` of it.
    pub(super) fn push(&mut self, position: Position, epoch: Epoch, summary: Summary) {
        let waiting = Waiting { position, known: Some((epoch, summary)), whole: false };
        if summary.total() <= BUCKET_ENTRIES_MAX as u64 {
            self.buckets.push_back(waiting);
        } else {
            self.waiting.push(waiting);
        }
        debug_assert!(
            self.waiting.len() <= WAITING_MAX && self.buckets.len() <= BUCKETS_MAX,
            "the frontier is bounded by depth, not by the state"
        );
    }

    /// How many positions wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.buckets.len()
    }

    /// Takes the buckets of the next fetch, all learned under one seal: when there are enough of them for one, or
    /// nothing is left to be walked. Empty when a walk comes first.
    pub(super) fn buckets(&mut self) -> Vec<Waiting> {
        let mut taken = Vec::new();
        if self.buckets.len() < self.fetch_max && !self.waiting.is_empty() {
            return taken;
        }
        let Some(under) = self.buckets.front().map(Waiting::under) else { return taken };
        while taken.len() < self.fetch_max.min(positions_max(under.1))
            && let Some(waiting) = self.buckets.pop_front_if(|waiting| waiting.under() == under)
        {
            taken.push(waiting);
        }
        taken
    }

    /// Puts back buckets that were not asked for, or not answered.
    pub(super) fn put_back(&mut self, buckets: impl DoubleEndedIterator<Item = Waiting>) {
        for waiting in buckets.rev() {
            self.buckets.push_front(waiting);
        }
    }

    /// Of `asked` buckets, `answered` were answered: so many are asked for next time, and carefully more.
    pub(super) fn answered(&mut self, asked: usize, answered: usize) {
        self.fetch_max = match answered < asked {
            true => answered,
            false => self.fetch_max.max(asked + asked.div_ceil(4)).min(POSITIONS_MAX),
        };
    }

    /// Takes the next batch: positions learned under one seal.
    pub(super) fn next(&mut self) -> Option<Plan> {
        let under = self.waiting.last()?.under();
        let mut items = Vec::new();
        while items.len() < positions_max(under.1)
            && let Some(waiting) = self.waiting.pop_if(|waiting| waiting.under() == under)
        {
            items.push(Item { waiting, mine: Mine::Unread });
        }
        let may_plan_ahead = self.ahead && !under.1;
        Some(Plan { ahead_from: items.len(), items, under, may_plan_ahead })
    }

    /// Takes in the answer to a plan, which stands on the seal of `epoch` with this `root`: the differing children
    /// of inner nodes are waiting from now on.
    pub(super) fn descend(
        &mut self,
        plan: Plan,
        epoch: Epoch,
        root: &Root,
        nodes: Vec<WalkNode>,
    ) -> Result<(), Failed> {
        if nodes.is_empty() || nodes.len() > plan.items.len() {
            return Err(Failed::new(Outcome::Refused, "answered with other positions than those asked for"));
        }
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
            let mine = item.mine.children();
            let verified = node.verify(mine, anchor);
            if let (Ok(found), Some((under, before))) = (&verified, item.waiting.known)
                && found.as_ref().map_or(BUCKET_ENTRIES_MAX as u64, total) < before.total()
            {
                let detail = format!("at {position}: epoch {epoch} lacks entries of epoch {under}");
                return Err(Failed::new(Outcome::Lied, detail));
            }
            match verified {
                Ok(None | Some(Node::Bucket(_))) if position == Position::ROOT && item.mine.is(root) => {}
                Ok(None | Some(Node::Bucket(_))) => {
                    let known = parent.map(|parent| (epoch, parent)).or(item.waiting.known);
                    self.buckets.push_back(Waiting { position, known, whole: false });
                }
                Ok(Some(Node::Inner(children))) => differing(&position, &children, mine, &mut below),
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
        // Inner nodes in reverse, since the next one is last; buckets as they come.
        let (inner, buckets): (Vec<_>, Vec<_>) =
            below.into_iter().partition(|(_, summary)| summary.total() > BUCKET_ENTRIES_MAX as u64);
        for (position, summary) in buckets.into_iter().chain(inner.into_iter().rev()) {
            self.push(position, epoch, summary);
        }
        self.waiting.extend(again);
        Ok(())
    }
}

impl Waiting {
    pub(super) fn under(&self) -> (Option<Epoch>, bool) {
        (self.known.map(|known| known.0), self.whole)
    }
}

impl Mine {
    fn children(&self) -> Option<&[Summary; FANOUT]> {
        match self {
            Self::Inner(children) => Some(children),
            Self::Bucket(_) | Self::Unread => None,
        }
    }

    /// Whether all that we have is a bucket, and the tree of `root` is that bucket.
    fn is(&self, root: &Root) -> bool {
        matches!(self, Self::Bucket(mine) if root_of(mine).as_ref() == Some(root))
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
    pub(super) fn read(&mut self, nodes: Vec<Node>) -> bool {
        let mut nodes = nodes.into_iter();
        for item in self.items.iter_mut().filter(|item| matches!(item.mine, Mine::Unread)) {
            let Some(mine) = nodes.next() else { return false };
            item.mine = match mine {
                Node::Inner(children) => Mine::Inner(children),
                bucket @ Node::Bucket(_) => Mine::Bucket(bucket.summary()),
            };
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
            mine: item.mine.children().map(|mine| Digests::truncate(mine, width)),
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
            let Some(children) = item.mine.children() else { continue };
            for (index, child) in (0_u8..).zip(children.iter()) {
                if child.total() > BUCKET_ENTRIES_MAX as u64 {
                    ahead.extend(item.waiting.position.child(index));
                }
            }
        }
        if ahead.len() > room {
            return;
        }
        self.items.extend(ahead.into_iter().map(|position| Item {
            waiting: Waiting { position, known: None, whole: false },
            mine: Mine::Unread,
        }));
    }
}

/// How many positions one question has.
pub(super) fn positions_max(whole: bool) -> usize {
    if whole { WHOLE_POSITIONS_MAX } else { POSITIONS_MAX }
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
        Shape::Bucket => false,
    };
    let cut = item.mine.children().is_some() && !item.waiting.whole;
    took_ours && cut
}

/// What an invalid answer says of the peer, who has signed it: content that cannot be under its own root is a
/// lie; a form that answers nothing is not.
pub(super) fn judge(position: &Position, invalid: InvalidAnswer) -> Failed {
    let outcome = match invalid {
        InvalidAnswer::Node(_)
        | InvalidAnswer::Digest
        | InvalidAnswer::Chain(_)
        | InvalidAnswer::NoBucket
        | InvalidAnswer::Withheld { .. } => Outcome::Lied,
        InvalidAnswer::Children { .. }
        | InvalidAnswer::EqualToNothing
        | InvalidAnswer::TooDeep
        | InvalidAnswer::ChainPresence
        | InvalidAnswer::Position
        | InvalidAnswer::NotAscending { .. } => Outcome::Refused,
    };
    Failed::new(outcome, format!("at {position}: {invalid}"))
}
