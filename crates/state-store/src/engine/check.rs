//! Walks over everything on the disk, and compares it with what should be there, in both directions.
//!
//! From the newest seal down: its root, each node as its parent commits to it, and each entry as its bucket
//! does, values included. And from the entries up: each is what the tree holds, or awaits sealing. What awaits
//! sealing has its entries, and all other records read.
//!
//! A step looks at one bucket, or a page of records, by itself: it stands on the seal that is the newest then, so
//! that a check of hours pins no tree and holds up nobody. What seems wrong, seen while others write, is only
//! left for the writer to look into (`damage`): a check alone declares nothing damaged, so that it has no false
//! findings however much is written. A check begins anew after a restart.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::{Content, Digest, EntryHead, Epoch, Key, KeyHash};
use lattice_core::tree::{Node, Position, Summary, root_of};

use super::damage::{SUSPICIONS_MAX, Suspicion, suspicion_of};
use super::open::take;
use super::pending;
use super::records::{Kept, Records, parse_kept};
use super::shared::View;
use super::tree::{Tree, covering, find_newest};
use super::{Error, Reader};
use crate::format::keys::{self, Generation};
use crate::format::node::KeyedNode;
use crate::format::{Damaged, frame};
use crate::storage::Storage;

/// How many records one step looks at.
const PAGE: usize = 64;
/// Kinds of records that the walk over tree and entries does not come by. Pieces of values are read with their
/// entries; those of none are a waste of room, and no damage.
const OTHERS: [u8; 10] = [
    keys::META,
    keys::TERM,
    keys::CHANGE,
    keys::HELD,
    keys::HEARD,
    keys::OLDER,
    keys::EXPIRY,
    keys::SEAL,
    keys::HISTORY,
    keys::DAMAGED,
];

/// A check under way.
pub struct Check {
    reader: Reader,
    place: Place,
    read: Read,
}

/// What a check has read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Records.
    pub records: u64,
    /// Their bytes, about.
    pub bytes: u64,
}

/// Where a check is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In the tree: everything before this key hash is done.
    Tree(KeyHash),
    /// Among the entries: everything before this record is done.
    Entries(Bytes),
    /// Among what awaits sealing.
    Pending(Bytes),
    /// Among the other records: the kind, by its index, and the record.
    Others(usize, Bytes),
    Done,
}

/// A bucket, as its way from the root commits to it; or where that way is broken.
type Reached = Result<(Position, KeyedNode), (Position, Damaged)>;

impl Reader {
    /// Begins a check.
    pub fn check(&self) -> Check {
        let place = Place::Tree(KeyHash(Digest([0; 32])));
        Check { reader: self.clone(), place, read: Read::default() }
    }
}

impl Check {
    /// Looks at some more. False at the end.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn step(&mut self) -> Result<bool, Error> {
        // The writer looks into what was found so far, first: nothing found is lost.
        if self.reader.shared.suspected() > SUSPICIONS_MAX / 2 {
            return Ok(true);
        }
        self.place = match std::mem::replace(&mut self.place, Place::Done) {
            Place::Tree(from) => self.step_tree(from)?,
            Place::Entries(from) => self.step_entries(from)?,
            Place::Pending(from) => self.step_pending(from)?,
            Place::Others(kind, from) => self.step_others(kind, from)?,
            Place::Done => Place::Done,
        };
        Ok(self.place != Place::Done)
    }

    /// What was read so far.
    pub fn read(&self) -> Read {
        self.read
    }

    /// How much is done, in thousandths, about: half is the tree, and half the entries.
    pub fn permille(&self) -> u32 {
        let share = |bytes: &[u8]| {
            let first = u32::from(bytes.first().copied().unwrap_or_default());
            (first << 8 | u32::from(bytes.get(1).copied().unwrap_or_default())) * 490 / (1 << 16)
        };
        match &self.place {
            Place::Tree(from) => share(from.0.as_bytes()),
            Place::Entries(from) => 490 + share(from.get(1..).unwrap_or_default()),
            Place::Pending(_) => 980,
            Place::Others(..) => 990,
            Place::Done => 1_000,
        }
    }

    fn storage(&self) -> &dyn Storage {
        &*self.reader.shared.storage
    }

    fn suspect(&self, key: &Key) {
        self.reader.shared.suspect(Suspicion::Key(key.clone().into_bytes()));
    }

    fn count(&mut self, bytes: usize) {
        self.read.records += 1;
        self.read.bytes += bytes as u64;
    }

    /// One bucket, with the way to it.
    fn step_tree(&mut self, from: KeyHash) -> Result<Place, Error> {
        let view = self.reader.view();
        let newest = view.newest_run().map(|newest| newest.run);
        let Some((run, root)) = newest.and_then(|run| Some((run, run.root?))) else { return Ok(entries()) };
        let reached = self.reach(&view, run.to, &root, &from)?;
        let standing = self.reader.view();
        if standing.generation != view.generation || standing.kept(run.to).is_none() {
            // The seal went out of reach meanwhile: once more, on the newest.
            return Ok(Place::Tree(from));
        }
        let position = match reached {
            Ok((position, bucket)) => {
                if let Node::Bucket(heads) = &bucket.node {
                    for (key, head) in bucket.keys.iter().zip(heads) {
                        self.check_sealed(view.generation, run.to, key, head)?;
                    }
                }
                position
            }
            Err((position, damaged)) => {
                self.reader.shared.suspect(suspicion_of(&damaged));
                position
            }
        };
        Ok(after(&position).map_or_else(entries, Place::Tree))
    }

    fn reach(
        &mut self,
        view: &View,
        as_of: Epoch,
        root: &Summary,
        towards: &KeyHash,
    ) -> Result<Reached, Error> {
        let mut above: Option<Summary> = None;
        for depth in 0..=Position::DEPTH_MAX {
            let position = Position::towards(towards, depth);
            let tree = Tree::as_of(&*self.reader.shared.storage, view.generation, as_of);
            let node = match tree.proved(&position, above.as_ref()) {
                Ok(Some(node)) => node,
                // Nothing hangs there.
                Ok(None) if above.is_some() => {
                    let nothing = KeyedNode { node: Node::empty_bucket(), keys: Vec::new() };
                    return Ok(Ok((position, nothing)));
                }
                Ok(None) => return Ok(Err((position, missing(view.generation)))),
                Err(Error::Damaged(damaged)) => return Ok(Err((position, damaged))),
                Err(error) => return Err(error),
            };
            if above.is_none() && root_of(&node.node.summary()).as_ref() != Some(root) {
                return Ok(Err((position, missing(view.generation))));
            }
            match &node.node {
                Node::Inner(children) => {
                    self.count(children.len() * 48);
                    above = Some(children[usize::from(towards.nibble(depth))]);
                }
                Node::Bucket(heads) => {
                    self.count(heads.len() * 100);
                    return Ok(Ok((position, node)));
                }
            }
        }
        Ok(Err((Position::ROOT, missing(view.generation))))
    }

    /// An entry under the root: it reads, and is what the bucket says.
    fn check_sealed(
        &mut self,
        generation: Generation,
        as_of: Epoch,
        key: &Key,
        head: &EntryHead,
    ) -> Result<(), Error> {
        match self.reader.entry_of(generation, as_of, key, head) {
            Ok(entry) => {
                let value = match &entry.content {
                    Content::Value(value) => value.len(),
                    Content::Dropped { .. } | Content::Tombstone => 0,
                };
                self.count(key.as_bytes().len() + value);
            }
            Err(Error::Damaged(_)) => self.suspect(key),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn step_entries(&mut self, from: Bytes) -> Result<Place, Error> {
        let (page, next) = self.page(&from, &[keys::CURRENT + 1])?;
        for (at, framed) in page {
            let Ok(key) = Key::try_from(at.slice(1..)) else { continue };
            self.count(at.len() + framed.len());
            match parse_kept(&at, framed) {
                Ok(kept) => self.check_covered(&key, kept)?,
                Err(_) => self.suspect(&key),
            }
        }
        Ok(next.map_or_else(|| Place::Pending(Bytes::from_static(&[keys::PENDING])), Place::Entries))
    }

    /// A current entry: the tree holds it, or it awaits sealing.
    fn check_covered(&mut self, key: &Key, kept: Kept) -> Result<(), Error> {
        let head = kept.head();
        let generation = self.reader.view().generation;
        let sealed = find_newest(self.storage(), generation, &head.key_hash);
        let sealed = match sealed {
            Ok(sealed) => sealed.map(|(_, sealed)| sealed),
            Err(Error::Damaged(damaged)) => {
                self.reader.shared.suspect(suspicion_of(&damaged));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if sealed == Some(head) {
            // Its value was read with its bucket.
            return Ok(());
        }
        self.read.bytes += u64::from(kept.apart.unwrap_or_default());
        let whole = Records::of(self.storage()).whole(kept);
        let covered = covering(&self.reader.shared, generation, &head.key_hash);
        match (whole, covered) {
            (Err(Error::Storage(error)), _) | (_, Err(Error::Storage(error))) => Err(error.into()),
            (Ok(Some(_)), Ok(Some(covered))) if covered == head => Ok(()),
            (_, Err(Error::Damaged(damaged))) => {
                self.reader.shared.suspect(suspicion_of(&damaged));
                Ok(())
            }
            _ => {
                self.suspect(key);
                Ok(())
            }
        }
    }

    /// What awaits sealing: its entry reads.
    fn step_pending(&mut self, from: Bytes) -> Result<Place, Error> {
        let generation = self.reader.view().generation;
        let (first, to) = generation.all(keys::PENDING);
        let from = from.max(first.into());
        let (page, next) = self.page(&from, &to)?;
        for (at, framed) in page {
            self.count(at.len() + framed.len());
            match pending::parse(&at, &framed) {
                Ok((epoch, list)) => {
                    for (key, head) in list {
                        // What was overwritten, or sealed, since it was listed needs no entry.
                        let hash = key.hash();
                        if self.reader.shared.pending().get(epoch, &hash).is_some_and(|waits| waits.1 == head)
                        {
                            self.check_sealed(generation, epoch, &key, &head)?;
                        }
                    }
                }
                Err(damaged) => self.reader.shared.suspect(suspicion_of(&damaged)),
            }
        }
        Ok(next.map_or_else(|| others(0), Place::Pending))
    }

    fn step_others(&mut self, kind: usize, from: Bytes) -> Result<Place, Error> {
        let Some(tag) = OTHERS.get(kind) else { return Ok(Place::Done) };
        let (page, next) = self.page(&from, &[tag + 1])?;
        for (at, framed) in page {
            self.count(at.len() + framed.len());
            if frame::open(&at, &framed).is_err() {
                self.reader.shared.suspect(Suspicion::Record(at.clone()));
            }
            // What is noted may have come right.
            if *tag == keys::DAMAGED {
                self.reader.shared.suspect(Suspicion::Key(at.slice(1..)));
            }
        }
        Ok(match next {
            Some(next) => Place::Others(kind, next),
            None if kind + 1 < OTHERS.len() => others(kind + 1),
            None => Place::Done,
        })
    }

    /// Some records from `from` on, and where the next ones begin.
    #[allow(clippy::type_complexity)]
    fn page(&self, from: &[u8], to: &[u8]) -> Result<(Vec<(Bytes, Bytes)>, Option<Bytes>), Error> {
        let mut page = Vec::new();
        let mut next = None;
        take(self.storage(), from, to, |at, framed| {
            if page.len() == PAGE {
                next = Some(Bytes::copy_from_slice(at));
                return Ok(ControlFlow::Break(()));
            }
            page.push((Bytes::copy_from_slice(at), framed));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((page, next))
    }
}

fn entries() -> Place {
    Place::Entries(Bytes::from_static(&[keys::CURRENT]))
}

fn others(kind: usize) -> Place {
    Place::Others(kind, Bytes::copy_from_slice(&OTHERS[kind..=kind]))
}

fn missing(generation: Generation) -> Damaged {
    Damaged::new(&generation.node(&Position::ROOT), "is not the root that was sealed")
}

/// The first key hash after all below a position; `None` at the end.
fn after(position: &Position) -> Option<KeyHash> {
    let mut hash = position.last().0.0;
    for byte in hash.iter_mut().rev() {
        match byte.checked_add(1) {
            Some(next) => {
                *byte = next;
                return Some(KeyHash(Digest(hash)));
            }
            None => *byte = 0,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_each_other_to_the_end() {
        let hash = |first: u8, last: u8| {
            let mut hash = [0; 32];
            (hash[0], hash[31]) = (first, last);
            KeyHash(Digest(hash))
        };
        assert_eq!(after(&Position::towards(&hash(0x1f, 0), 2)), Some(hash(0x20, 0)));
        assert_eq!(after(&Position::towards(&hash(0x1f, 7), 64)), Some(hash(0x1f, 8)));
        assert_eq!(after(&Position::towards(&KeyHash(Digest([0xff; 32])), 3)), None);
        assert_eq!(after(&Position::ROOT), None);
    }
}
