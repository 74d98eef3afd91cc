//! Answers peers, at the seal they ask for or, when that is out of reach, at the newest.
//!
//! Serving keeps nothing: every answer says on which seal it stands. The seal may go out of reach while the
//! tree is being read; that is noticed at the end, and the answer is made again at the newest one.

use std::collections::BTreeMap;

use lattice_core::exchange::{
    ANSWER_BYTES_MAX, Answer, Ask, FETCH_ENTRIES_MAX, FetchAsk, INLINE_BYTES_MAX, Page, PageBucket, Reason,
    Refusal, Shape, WalkAsk, WalkNode,
};
use lattice_core::model::{Content, Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use lattice_core::signed::SignedSeal;
use lattice_core::time::WallTime;
use lattice_core::tree::{Chain, Chains, FANOUT, Node, Position, Summary};
use lattice_proto::codec::entry_bytes;

use super::damage::Suspicion;
use super::older;
use super::records::Records;
use super::tree::Tree;
use super::{Error, Reader};
use crate::format::node::KeyedNode;
use crate::format::{Damaged, keys};

/// How often an answer is made again because its seal went out of reach.
const RETRIES: usize = 4;
/// What a head, a child and a level of a chain take, at most, on the wire.
const HEAD_BYTES: usize = 128;
const CHILD_BYTES: usize = 64;
const LEVEL_BYTES: usize = 160;

/// A peer's question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub asker: NodeId,
    /// From which of its stores.
    pub incarnation: Incarnation,
    /// What.
    pub ask: &'a Ask,
    /// Our clock, as the answer will state it.
    pub time: WallTime,
}

/// The seal that an answer stands on.
struct Standing {
    seal: SignedSeal,
    root: Summary,
    /// The tree is as it was at this epoch.
    as_of: Epoch,
    generation: keys::Generation,
    asked: bool,
}

/// What an answer still has room for.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: usize,
    /// Entries, those included of which only the head is told.
    entries: usize,
}

impl Room {
    const NONE: Self = Self { bytes: 0, entries: 0 };

    /// What is left after these; `None` when there is not as much.
    fn after(self, bytes: usize, entries: usize) -> Option<Self> {
        let bytes = self.bytes.checked_sub(bytes)?;
        Some(Self { bytes, entries: self.entries.checked_sub(entries)? })
    }

    /// Whether nothing took any of it.
    fn is_whole(self) -> bool {
        self.bytes == ANSWER_BYTES_MAX && self.entries == FETCH_ENTRIES_MAX
    }
}

/// A page, and what it takes.
struct Filled {
    bucket: PageBucket,
    /// The room after it; `None` when it takes more than there was.
    left: Option<Room>,
    /// There was no room for all that it should bring.
    short: bool,
    /// It should bring an entry whose value is missing here, and brings nothing.
    withheld: bool,
}

/// A tree that is read at several places, each inner node on the way once.
struct Descent<'a> {
    tree: Tree<'a>,
    inner: BTreeMap<Position, [Summary; FANOUT]>,
}

impl Descent<'_> {
    /// What hangs at a position, an empty bucket where nothing does. `None` when the tree does not reach as deep.
    fn node(&mut self, position: &Position) -> Result<Option<KeyedNode>, Error> {
        let towards = position.first();
        for depth in 0..position.depth() {
            let at = Position::towards(&towards, depth);
            if self.inner.contains_key(&at) {
                continue;
            }
            let Some(KeyedNode { node: Node::Inner(children), .. }) = self.read(&at)? else {
                return Ok(None);
            };
            self.inner.insert(at, *children);
        }
        let empty = || KeyedNode { node: Node::empty_bucket(), keys: Vec::new() };
        Ok(Some(self.read(position)?.unwrap_or_else(empty)))
    }

    /// The node at a position whose parent was read; `None` where nothing hangs.
    fn read(&self, position: &Position) -> Result<Option<KeyedNode>, Error> {
        let parent = position.parent().and_then(|parent| self.inner.get(&parent).zip(Some(parent.depth())));
        let known = parent.map(|(children, depth)| children[usize::from(position.nibble(depth))]);
        if known.is_some_and(|known| known.total() == 0) {
            return Ok(None);
        }
        match (self.tree.node(position)?, known) {
            (Some((node, _)), Some(known)) if node.node.counts() != (known.entries, known.tombstones) => {
                Err(self.tree.damaged(position, "is not what its parent commits to"))
            }
            (Some((node, _)), _) => Ok(Some(node)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.tree.damaged(position, "is missing from the tree")),
        }
    }

    /// The chain down to a position that was read.
    fn chain(&self, position: &Position) -> Result<Chain, Error> {
        let towards = position.first();
        let above =
            (0..position.depth()).filter_map(|depth| self.inner.get(&Position::towards(&towards, depth)));
        let path: Vec<&[Summary; FANOUT]> = above.collect();
        Chain::build(&path, position)
            .map_err(|error| Damaged::new(&[keys::NODE], format!("{position}: {error}")).into())
    }

    /// The chains down to positions that were read.
    fn chains(&self, positions: impl IntoIterator<Item = Position>) -> Result<Chains, Error> {
        Chains::build(positions, &self.inner)
            .map_err(|position| self.tree.damaged(&position, "is missing from the tree"))
    }
}

fn refused(reason: Reason, detail: impl Into<String>) -> Answer {
    Answer::Refused(Refusal { reason, detail: detail.into() })
}

impl Reader {
    /// Answers a peer. Whatever is wrong is a refusal, save a disk that fails.
    ///
    /// # Errors
    /// When the disk fails, or what is on it is damaged.
    pub fn serve(&self, question: Question<'_>) -> Result<Answer, Error> {
        match question.ask {
            Ask::Hello => Ok(self.hello(&question.asker, &question.incarnation)),
            Ask::Bye => Ok(Answer::Bye),
            Ask::Walk { epoch, nodes } => self.standing(*epoch, |standing| self.walk(standing, nodes)),
            Ask::Fetch { epoch, buckets } => {
                self.standing(*epoch, |standing| self.fetch(standing, buckets, question.time))
            }
        }
    }

    /// Whether a peer may speak for an incarnation: none that was replaced.
    pub fn incarnation_ok(&self, node: &NodeId, incarnation: &Incarnation) -> bool {
        self.shared.heard().get(node).is_none_or(|heard| !heard.replaced.contains(incarnation))
    }

    fn hello(&self, asker: &NodeId, incarnation: &Incarnation) -> Answer {
        let heard = self.shared.heard();
        let heard = heard.get(asker).filter(|heard| heard.incarnation == *incarnation);
        Answer::Hello {
            heard_sequence: heard.map_or(0, |heard| heard.sequence),
            heard_epoch: heard.map_or(Epoch(0), |heard| heard.epoch),
        }
    }

    /// Makes an answer on the seal of `epoch`, else on the newest.
    fn standing(
        &self,
        epoch: Option<Epoch>,
        make: impl Fn(Standing) -> Result<Answer, Error>,
    ) -> Result<Answer, Error> {
        for attempt in 0..RETRIES {
            let view = self.view();
            let kept = epoch.filter(|_| attempt == 0).and_then(|epoch| Some((epoch, view.kept(epoch)?)));
            let (at, run) = match (kept, view.newest_run()) {
                (Some((epoch, run)), _) => (epoch, *run),
                (None, Some(newest)) => (newest.run.to, newest.run),
                (None, None) => return Ok(refused(Reason::Empty, "nothing is sealed here yet")),
            };
            let Some(root) = run.root else {
                return Ok(refused(Reason::Empty, "the tree here is empty"));
            };
            let seal = match &view.newest {
                Some(newest) if newest.seal.epoch == at => newest.clone(),
                Some(_) | None => self.shared.sign(view.incarnation, at, run.root),
            };
            let asked = epoch == Some(at);
            let standing = Standing { seal, root, as_of: run.to, generation: view.generation, asked };
            let answer = make(standing);
            let now = self.view();
            let stands = now.generation == view.generation && now.incarnation == view.incarnation;
            if stands && now.kept(at).is_some() {
                return answer.map_err(|error| self.suspect_error(error));
            }
        }
        Ok(refused(Reason::Busy, "seals go out of reach faster than they are read"))
    }

    fn walk(&self, standing: Standing, asks: &[WalkAsk]) -> Result<Answer, Error> {
        let mut descent = self.descent(&standing);
        let mut nodes = Vec::with_capacity(asks.len());
        let mut bytes = 0;
        for WalkAsk { position, mine } in asks {
            let Some(node) = descent.node(position)? else { return Ok(above(position)) };
            let chain = match standing.asked {
                true => None,
                false => Some(descent.chain(position)?),
            };
            let shape = Shape::of(&node.node, mine.as_ref());
            bytes += chain.as_ref().map_or(0, |chain| chain.levels.len() * LEVEL_BYTES)
                + match &shape {
                    Shape::Inner { others, .. } => others.len() * CHILD_BYTES,
                    Shape::Bucket => 0,
                };
            if bytes > ANSWER_BYTES_MAX && !nodes.is_empty() {
                break;
            }
            nodes.push(WalkNode { position: *position, chain, shape });
        }
        Ok(Answer::Walk { seal: standing.seal, nodes })
    }

    fn fetch(&self, standing: Standing, asks: &[FetchAsk], time: WallTime) -> Result<Answer, Error> {
        debug_assert!(standing.root.total() > 0, "an empty tree is refused before");
        let mut descent = self.descent(&standing);
        let mut pages: Vec<Page> = Vec::with_capacity(asks.len());
        let mut room = Room { bytes: ANSWER_BYTES_MAX, entries: FETCH_ENTRIES_MAX };
        for ask in asks {
            let position = ask.position;
            let Some(node) = descent.node(&position)? else { return Ok(above(&position)) };
            let first = pages.is_empty();
            let filled = match &node.node {
                Node::Inner(children) => {
                    let left = room.after(FANOUT * CHILD_BYTES, 0);
                    Filled {
                        bucket: PageBucket::Split(children.to_vec()),
                        left,
                        short: false,
                        withheld: false,
                    }
                }
                Node::Bucket(heads) => self.fill(&standing, ask, &node, heads, room, time)?,
            };
            if filled.withheld && first {
                let detail = "a value that has not expired by this node's clock is missing here";
                return Ok(refused(Reason::Unavailable, detail));
            }
            let branches = position.depth() * LEVEL_BYTES;
            let left = filled.left.and_then(|left| left.after(branches, 0));
            if !first && (filled.short || left.is_none()) {
                break;
            }
            pages.push(Page { position, bucket: filled.bucket });
            match left.filter(|_| !filled.short) {
                Some(left) => room = left,
                None => break,
            }
        }
        let chains = descent.chains(pages.iter().map(|page| page.position))?;
        Ok(Answer::Fetch { seal: standing.seal, pages, chains })
    }

    /// What a page says of a bucket: the entries that the asker does not know or wants, as far as there is room.
    fn fill(
        &self,
        standing: &Standing,
        ask: &FetchAsk,
        node: &KeyedNode,
        heads: &[EntryHead],
        room: Room,
        time: WallTime,
    ) -> Result<Filled, Error> {
        let mut brought = Vec::new();
        let mut left = room;
        let (mut told, mut short, mut withheld_any) = (0, false, false);
        for (index, head) in heads.iter().enumerate() {
            let wanted = ask.keys.binary_search(&head.key_hash).is_ok();
            let unknown = ask.known.find(&head.digest()).is_none();
            if !wanted && !unknown {
                continue;
            }
            let Some((key, _)) = node.find(&head.key_hash) else { continue };
            let entry = match self.entry_of(standing.generation, standing.as_of, key, head) {
                Ok(entry) => entry,
                // What nobody has asked for keeps nothing else from being brought: its head is told.
                Err(error @ Error::Damaged(_)) if !wanted => {
                    self.shared.suspect_error(&error);
                    told += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let bytes = entry_bytes(&entry);
            let withheld = withheld(&entry, time);
            let fits = left
                .after(bytes, 1)
                .or((wanted && room.is_whole() && brought.is_empty()).then_some(Room::NONE));
            match fits.filter(|_| !withheld && (wanted || bytes <= INLINE_BYTES_MAX)) {
                Some(after) => {
                    left = after;
                    brought.push((index, entry));
                }
                None => {
                    told += usize::from(unknown);
                    withheld_any |= wanted && withheld;
                    short |= wanted || (fits.is_none() && bytes <= INLINE_BYTES_MAX);
                }
            }
        }
        // A page that holds none of what was wanted says nothing new.
        let withheld = withheld_any && brought.is_empty();
        let bucket = PageBucket::of(heads, &ask.known, brought);
        Ok(Filled { bucket, left: left.after(told * HEAD_BYTES, told), short, withheld })
    }

    fn descent(&self, standing: &Standing) -> Descent<'_> {
        let tree = Tree::as_of(&*self.shared.storage, standing.generation, standing.as_of);
        Descent { tree, inner: BTreeMap::new() }
    }

    /// The entry that the tree of an epoch holds. It is the current one, or an older one: entries move from the one
    /// to the other, never back, so they are looked for in this order.
    pub(super) fn entry_of(
        &self,
        generation: keys::Generation,
        as_of: Epoch,
        key: &Key,
        head: &EntryHead,
    ) -> Result<Entry, Error> {
        let records = Records::of(&*self.shared.storage);
        // Once more when its value went while it was read: it had expired, and its record says so now.
        for _ in 0..RETRIES {
            let current = match records.current(key) {
                Ok(current) => current.filter(|current| current.head() == *head),
                Err(Error::Damaged(_)) => None,
                Err(error) => return Err(error),
            };
            let kept = match current {
                Some(current) => Some(current),
                None => older::find(&records, &*self.shared.storage, generation, as_of, head)?
                    .map(|(_, kept)| kept),
            };
            let Some(kept) = kept.filter(|kept| kept.head() == *head) else { break };
            if let Some(entry) = records.whole(kept)? {
                return Ok(entry);
            }
        }
        // It may be the current one that is damaged; if not, it goes away with the tree that holds it.
        self.shared.suspect(Suspicion::Key(key.clone().into_bytes()));
        Err(Damaged::new(&keys::current(key), "is missing: a tree holds it").into())
    }
}

/// Whether an entry has lost its value before our own clock lets it: it came so from a node whose clock is
/// ahead. Who passed it on would seem to lie.
fn withheld(entry: &Entry, time: WallTime) -> bool {
    matches!(entry.content, Content::Dropped { .. }) && entry.expires.is_none_or(|expires| time < expires)
}

fn above(position: &Position) -> Answer {
    refused(Reason::Malformed, format!("position {position}: the tree here ends above it"))
}
