//! Answers peers, at the seal they ask for or, when that is out of reach, at the newest.
//!
//! Serving keeps nothing: every answer says on which seal it stands. The seal may go out of reach while the
//! tree is being read; that is noticed at the end, and the answer is made again at the newest one.

use lattice_core::exchange::{
    ANSWER_BYTES_MAX, Answer, Ask, FetchAsk, Page, PageBucket, Reason, Refusal, Shape, WalkAsk, WalkNode,
};
use lattice_core::model::{Content, Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use lattice_core::signed::SignedSeal;
use lattice_core::time::WallTime;
use lattice_core::tree::{Chain, FANOUT, Node, Position, Summary};
use lattice_proto::codec::entry_bytes;

use super::damage::Suspicion;
use super::older;
use super::records::Records;
use super::tree::{Tree, Way};
use super::{Error, Reader};
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
        let tree = Tree::as_of(&*self.shared.storage, standing.generation, standing.as_of);
        let mut nodes = Vec::with_capacity(asks.len());
        let mut bytes = 0;
        for WalkAsk { position, mine } in asks {
            let Some(way) = tree.way(position)? else { return Ok(above(position)) };
            let chain = match standing.asked {
                true => None,
                false => Some(self.chain(&way, position)?),
            };
            let shape = Shape::of(&way.end.node, mine.as_ref());
            bytes += way.inner.len() * LEVEL_BYTES
                + match &shape {
                    Shape::Inner { others, .. } => others.len() * CHILD_BYTES,
                    Shape::Bucket(heads) => heads.len() * HEAD_BYTES,
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
        let tree = Tree::as_of(&*self.shared.storage, standing.generation, standing.as_of);
        let mut pages = Vec::with_capacity(asks.len());
        let mut bytes = 0;
        for ask in asks {
            let Some(way) = tree.way(&ask.position)? else { return Ok(above(&ask.position)) };
            let chain = self.chain(&way, &ask.position)?;
            bytes += way.inner.len() * LEVEL_BYTES;
            let heads = match way.end.node.clone() {
                Node::Bucket(heads) => heads,
                Node::Inner(children) => {
                    bytes += FANOUT * CHILD_BYTES;
                    if bytes > ANSWER_BYTES_MAX && !pages.is_empty() {
                        break;
                    }
                    let bucket = PageBucket::Split(children.to_vec());
                    pages.push(Page { position: ask.position, chain, bucket });
                    continue;
                }
            };
            bytes += heads.len() * HEAD_BYTES;
            if bytes > ANSWER_BYTES_MAX && !pages.is_empty() {
                break;
            }
            let mut entries = Vec::new();
            let mut full = false;
            for key_hash in &ask.keys {
                let Some((key, head)) = way.end.find(key_hash) else { break };
                let entry = self.sealed_entry(&standing, key, head)?;
                if withheld(&entry, time) {
                    if pages.is_empty() && entries.is_empty() {
                        let detail = "a value that has not expired by this node's clock is missing here";
                        return Ok(refused(Reason::Unavailable, detail));
                    }
                    full = true;
                    break;
                }
                bytes += entry_bytes(&entry);
                let first = pages.is_empty() && entries.is_empty();
                if bytes > ANSWER_BYTES_MAX && !first {
                    full = true;
                    break;
                }
                entries.push(entry);
            }
            // A page that holds none of what was asked says nothing new.
            if full && entries.is_empty() {
                break;
            }
            pages.push(Page {
                position: ask.position,
                chain,
                bucket: PageBucket::Entries { heads, entries },
            });
            if full {
                break;
            }
        }
        Ok(Answer::Fetch { seal: standing.seal, pages })
    }

    fn chain(&self, way: &Way, position: &Position) -> Result<Chain, Error> {
        let path: Vec<&[Summary; FANOUT]> = way.inner.iter().collect();
        Chain::build(&path, position)
            .map_err(|error| Damaged::new(&[keys::NODE], format!("{position}: {error}")).into())
    }

    fn sealed_entry(&self, standing: &Standing, key: &Key, head: &EntryHead) -> Result<Entry, Error> {
        self.entry_of(standing.generation, standing.as_of, key, head)
    }

    /// The entry that the tree of an epoch holds. It is the current one, or an older one: entries move from the one to the
    /// other, never back, so they are looked for in this order.
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
