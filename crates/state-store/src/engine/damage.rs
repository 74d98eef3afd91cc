//! What is known to be damaged: found by whoever reads, believed by the writer alone, remembered on the disk.
//!
//! Readers and the check see a disk that changes under them. Whatever they stumble over is only a suspicion:
//! they answer with an error, and leave word here. The writer looks again, with nobody writing beside it, and
//! notes what is really so. A noted key reads as an error until a newer write, or a repair, has taken its
//! place; nothing is ever noted away by time. Notes are bounded: beyond them, the whole store is suspect.
//!
//! A damaged record of what is derived from the entries is no loss: it leads to a rebuild (`rebuild`), under
//! a new incarnation, since the old one may have signed what the rebuilt tree will not say again.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Key, KeyHash};
use lattice_core::tree::{Node, Position, root_of};

use super::group::Group;
use super::open::{put, take};
use super::records::Records;
use super::repair::remove_pieces;
use super::tree::{Tree, covering};
use super::{Engine, Error, Now, Reader, SealedRun, Step};
use crate::format::{Damaged, frame, keys, record};
use crate::storage::{Batch, Storage};

/// The most keys that are noted one by one.
pub const DAMAGED_MAX: u64 = 100_000;
/// The most suspicions that wait for the writer. What does not fit is found again.
pub(super) const SUSPICIONS_MAX: usize = 1_024;
/// The most findings that wait to be told.
const FINDINGS_MAX: usize = 1_024;
/// How long after one rebuild for damage the next may begin: a disk that eats trees is not to be fed on.
const REBUILD_PAUSE: Duration = Duration::from_secs(600);
/// How much of a problem's text is kept.
const PROBLEM_BYTES_MAX: usize = 256;

/// What a reader stumbled over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspicion {
    /// A key's entry does not read, or not as the tree has it.
    Key(Bytes),
    /// A record does not read.
    Record(Bytes),
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// An entry is damaged or gone.
    Entry,
    /// The tree, or what awaits sealing, is damaged.
    Node,
    /// An intact entry that no root covered, and that did not await any.
    Uncovered,
    /// Something that the store can do without.
    Other,
    /// A noted entry is whole again.
    Mended,
}

/// Damage that the writer has seen itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// Where and what, on one line.
    pub what: String,
}

/// A key whose entry is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedEntry {
    /// The key.
    pub key: Key,
    /// What its entry was; `None` where nothing intact tells.
    pub head: Option<EntryHead>,
    /// What was found.
    pub problem: String,
    /// When, in Unix milliseconds.
    pub found_ms: u64,
}

/// What a look at a key came to.
pub(super) enum Verdict {
    /// It reads as the tree has it.
    Sound(Option<EntryHead>),
    /// It does not.
    Damaged {
        /// What it should be.
        head: Option<EntryHead>,
        /// What is wrong.
        problem: String,
    },
    /// It reads, and no tree will ever hold it.
    Uncovered(Key, EntryHead),
}

/// What is to be noted.
#[derive(Default)]
struct Notes {
    batch: Batch,
    findings: Vec<Finding>,
    /// Keys noted anew, and notes removed.
    added: u64,
    removed: u64,
    /// More pending entries.
    pending: u64,
    /// The tree has to be built again; announcement sequence numbers are not known any more.
    rebuild: bool,
    sequence: bool,
}

/// A line of bounded length.
fn line(text: &str) -> String {
    text[..text.floor_char_boundary(PROBLEM_BYTES_MAX)].replace(char::is_control, " ")
}

impl Engine {
    /// What was found since it was asked last, oldest first.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Notes what was found, to be told by whoever runs the engine.
    pub(super) fn found(&mut self, kind: FindingKind, what: impl AsRef<str>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, what: line(what.as_ref()) });
        }
    }

    /// Looks into what readers stumbled over, and notes what is really damaged.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn look_into_suspicions(&mut self, now: Now) -> Result<Step, Error> {
        let mut suspicions = self.shared.take_suspicions();
        if suspicions.is_empty() {
            return Ok(Step::Idle);
        }
        let mut notes = Notes::default();
        while let Some(suspicion) = suspicions.pop_first() {
            // Looking at one thing may come upon another.
            match self.look_into(&suspicion, &mut notes, now) {
                Ok(()) => {}
                Err(Error::Damaged(damaged)) => {
                    let next = suspicion_of(&damaged);
                    if next != suspicion {
                        suspicions.insert(next);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.note(notes, now)
    }

    fn look_into(&self, suspicion: &Suspicion, notes: &mut Notes, now: Now) -> Result<(), Error> {
        match suspicion {
            Suspicion::Key(key) => match Key::try_from(key.clone()) {
                Ok(key) => self.look_into_key(&key, notes, now),
                Err(_) => Ok(()),
            },
            Suspicion::Record(at) => self.look_into_record(at, notes),
        }
    }

    fn look_into_key(&self, key: &Key, notes: &mut Notes, now: Now) -> Result<(), Error> {
        let at = keys::damaged(key.as_bytes());
        let noted: Option<record::DamagedKey> = Records::of(self.storage()).get(&at).unwrap_or_default();
        match (self.examine(key)?, noted) {
            (Verdict::Sound(head), Some(noted)) => {
                let whole = match (noted.head(), head) {
                    (Some(lost), Some(head)) => head.dominates(&lost),
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                if whole && notes.batch.get(&at).is_none() {
                    notes.batch.remove(at);
                    notes.removed += 1;
                    let what = format!("key {}: reads whole again", key.as_bytes().escape_ascii());
                    notes.findings.push(Finding { kind: FindingKind::Mended, what });
                }
            }
            (Verdict::Sound(_), None) | (Verdict::Damaged { .. }, Some(_)) => {}
            (Verdict::Damaged { head, problem }, None) => {
                if notes.batch.get(&at).is_some() {
                    return Ok(());
                }
                let what = format!("key {}: {problem}", key.as_bytes().escape_ascii());
                let noted = note_of(head, &problem, now);
                let framed = record::encode(&at, &noted);
                notes.batch.put(at, framed);
                notes.added += 1;
                notes.findings.push(Finding { kind: FindingKind::Entry, what });
            }
            (Verdict::Uncovered(key, head), _) => {
                let at = self.generation.pending(self.sealing_epoch(&head), &head.key_hash);
                if notes.batch.get(&at).is_none() {
                    let framed = record::encode(&at, &record::Pending::new(&key, &head));
                    notes.batch.put(at, framed);
                    notes.pending += 1;
                    let what = format!("key {}: was under no root", key.as_bytes().escape_ascii());
                    notes.findings.push(Finding { kind: FindingKind::Uncovered, what });
                }
            }
        }
        Ok(())
    }

    fn look_into_record(&self, at: &Bytes, notes: &mut Notes) -> Result<(), Error> {
        let tag = at.first().copied().unwrap_or_default();
        if keys::DERIVED.contains(&tag) && keys::generation(at) != Some(self.generation) {
            // Of a tree that was given up meanwhile.
            return Ok(());
        }
        let broken = match tag {
            keys::NODE => {
                let towards = keys::node_towards(at);
                towards.map_or(Ok(()), |towards| self.examine_way(&towards)).err()
            }
            keys::PENDING => match Records::of(self.storage()).get::<record::Pending>(at) {
                Ok(Some(pending)) => pending.parse(at).err().map(Error::from),
                Ok(None) => None,
                Err(error) => Some(error),
            },
            _ => return self.look_into_other(at, notes),
        };
        match broken {
            Some(Error::Damaged(damaged)) => {
                notes.rebuild = true;
                notes.findings.push(Finding { kind: FindingKind::Node, what: damaged.to_string() });
                Ok(())
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A record that the store can do without, or write again.
    fn look_into_other(&self, at: &Bytes, notes: &mut Notes) -> Result<(), Error> {
        let opened = self.storage().get(at)?.map(|framed| frame::open(at, &framed));
        let Some(Err(damaged)) = opened else { return Ok(()) };
        let same_run = |sealed: &&SealedRun| self.generation.seal(sealed.run.from) == at[..];
        if *at == keys::meta("sequence") {
            notes.sequence = true;
        } else if let Some(sealed) = self.runs.iter().find(same_run) {
            let framed = record::encode(at, &record::SealRun::new(&sealed.run, sealed.state_size));
            notes.batch.put(at.clone(), framed);
        } else if at.first() == Some(&keys::META) {
            // `identity`, `state` and `commit` are written with every note.
            match (&self.rebuild, &self.recovering) {
                (Some(rebuild), _) if *at == keys::meta("rebuild") => {
                    put(&mut notes.batch, "rebuild", rebuild)
                }
                (_, Some(recovering)) if *at == keys::meta("recovering") => {
                    put(&mut notes.batch, "recovering", recovering);
                }
                _ => {}
            }
        } else if at.first() == Some(&keys::DAMAGED) {
            // A note that does not read says all that matters by being there.
            let framed = record::encode(at, &record::DamagedKey::default());
            notes.batch.put(at.clone(), framed);
        } else {
            notes.batch.remove(at.clone());
        }
        notes.findings.push(Finding { kind: FindingKind::Other, what: damaged.to_string() });
        Ok(())
    }

    /// Commits what was found: once, however much it is.
    fn note(&mut self, notes: Notes, now: Now) -> Result<Step, Error> {
        let Notes { mut batch, findings, added, removed, pending, rebuild, sequence } = notes;
        if findings.is_empty() {
            return Ok(Step::Idle);
        }
        for Finding { kind, what } in findings {
            self.found(kind, what);
        }
        let before = (self.damaged, self.overflow, self.damage_generation);
        self.damaged = self.damaged.saturating_add(added).saturating_sub(removed);
        self.overflow |= self.damaged > DAMAGED_MAX;
        self.damage_generation += 1;
        let mut state = self.state.clone();
        state.pending += pending;
        put(&mut batch, "identity", &self.identity());
        put(&mut batch, "state", &state);
        if let Err(error) = self.commit_batch(&mut batch) {
            (self.damaged, self.overflow, self.damage_generation) = before;
            return Err(error);
        }
        self.state = state;
        self.publish();
        if sequence {
            self.begin_sequence()?;
        }
        let paused = self.rebuilt.is_some_and(|rebuilt| now.monotonic.since(rebuilt) < REBUILD_PAUSE);
        if rebuild && self.rebuild.is_none() && !paused {
            self.rebuilt = Some(now.monotonic);
            self.found(FindingKind::Node, "the tree is rebuilt from the entries, under a new incarnation");
            let time = self.seal_clock.time(now).unwrap_or(now.wall);
            return self.rebuild_begin(time);
        }
        Ok(Step::Worked)
    }

    /// Looks at a key with nobody writing beside.
    ///
    /// # Errors
    /// When the disk fails; or the tree is damaged on the way to the key, and the entry reads.
    pub(super) fn examine(&self, key: &Key) -> Result<Verdict, Error> {
        let records = Records::of(self.storage());
        let known = covering(self.storage(), self.generation, &key.hash());
        // What nobody can tell is not known; that the tree is damaged is for the next look.
        if let Err(error) = &known {
            self.shared.suspect_error(error);
        }
        let told = known.as_ref().ok().copied().flatten();
        let damaged = |head: Option<EntryHead>, problem: String| Verdict::Damaged { head, problem };
        let kept = match records.current(key) {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                return Ok(match known? {
                    Some(head) => damaged(Some(head), "its entry is missing".to_owned()),
                    None => Verdict::Sound(None),
                });
            }
            Err(Error::Damaged(problem)) => return Ok(damaged(told, problem.problem)),
            Err(error) => return Err(error),
        };
        let head = kept.head();
        match records.whole(kept) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(damaged(Some(head), "its value lacks a piece".to_owned())),
            Err(Error::Damaged(problem)) => return Ok(damaged(Some(head), problem.to_string())),
            Err(error) => return Err(error),
        }
        Ok(match known? {
            Some(known) if known == head => Verdict::Sound(Some(head)),
            Some(known) if !head.dominates(&known) => {
                damaged(Some(known), format!("its entry is older than version {}", known.version))
            }
            Some(_) | None if self.uncollected(key) => Verdict::Sound(Some(head)),
            Some(_) | None => Verdict::Uncovered(key.clone(), head),
        })
    }

    /// Checks the newest tree on the way to a key hash: each node is what its parent commits to.
    fn examine_way(&self, towards: &KeyHash) -> Result<(), Error> {
        let tree = Tree::newest(self.storage(), self.generation);
        let mut above = None;
        for depth in 0..=Position::DEPTH_MAX {
            let position = Position::towards(towards, depth);
            let Some(node) = tree.proved(&position, above.as_ref())? else { return Ok(()) };
            match node.node {
                Node::Inner(children) => above = Some(children[usize::from(towards.nibble(depth))]),
                Node::Bucket(_) => break,
            }
        }
        if self.state.next_epoch() == self.state.open_epoch()
            && let Some(newest) = self.runs.back()
        {
            let top = tree.node(&Position::ROOT)?.and_then(|(top, _)| root_of(&top.node.summary()));
            if top != newest.run.root {
                let at = self.generation.node(&Position::ROOT, newest.run.to);
                return Err(Damaged::new(&at, "is not the root that was sealed").into());
            }
        }
        Ok(())
    }

    /// What is noted of a key, as a group will leave it.
    pub(super) fn noted(&self, group: &Group, key: &Key) -> Result<Option<record::DamagedKey>, Error> {
        if group.damaged == 0 && !self.overflow {
            return Ok(None);
        }
        match self.records(group).get(&keys::damaged(key.as_bytes())) {
            // A note that does not read is a note still.
            Err(Error::Damaged(_)) => Ok(Some(record::DamagedKey::default())),
            noted => noted,
        }
    }

    /// Removes the note on a key: its damaged entry was replaced. Also what is left of a value that stood apart.
    pub(super) fn clear_note(
        &self,
        group: &mut Group,
        key: &Key,
        damaged: Option<&Digest>,
    ) -> Result<(), Error> {
        let at = keys::damaged(key.as_bytes());
        if self.records(group).has(&at)? {
            group.batch.remove(at);
            group.damaged = group.damaged.saturating_sub(1);
        }
        match damaged {
            Some(digest) => remove_pieces(self.storage(), &mut group.batch, digest),
            None => Ok(()),
        }
    }

    /// Lets a note stand that a group was about to clear.
    pub(super) fn keep_note(&self, group: &mut Group, key: &Key, noted: &record::DamagedKey) {
        let at = keys::damaged(key.as_bytes());
        let framed = record::encode(&at, noted);
        group.batch.put(at, framed);
        group.damaged += 1;
    }

    /// Notes in a group that a key's entry is lost.
    pub(super) fn note_lost(
        &self,
        group: &mut Group,
        key: &Key,
        head: EntryHead,
        problem: &str,
        now: Now,
    ) -> Result<bool, Error> {
        let at = keys::damaged(key.as_bytes());
        let noted: Option<record::DamagedKey> = self.records(group).get(&at)?;
        let known = noted.as_ref().and_then(record::DamagedKey::head);
        if known.is_some_and(|known| known.dominates(&head)) {
            return Ok(false);
        }
        group.damaged += u64::from(noted.is_none());
        let framed = record::encode(&at, &note_of(Some(head), problem, now));
        group.batch.put(at, framed);
        Ok(noted.is_none())
    }

    /// Notes keys whose entries did not read, in a batch under way.
    pub(super) fn note_unreadable(
        &mut self,
        batch: &mut Batch,
        broken: &[(Bytes, Damaged)],
        now: Now,
    ) -> Result<(), Error> {
        let before = self.damaged;
        for (key, damaged) in broken {
            let at = keys::damaged(key);
            if self.storage().get(&at)?.is_none() {
                let framed = record::encode(&at, &note_of(None, &damaged.problem, now));
                batch.put(at, framed);
                self.damaged += 1;
                self.found(FindingKind::Entry, format!("key {}: {}", key.escape_ascii(), damaged.problem));
            }
        }
        if self.damaged > before {
            self.overflow |= self.damaged > DAMAGED_MAX;
            self.damage_generation += 1;
            put(batch, "identity", &self.identity());
        }
        Ok(())
    }

    /// Gives up what is damaged: the keys noted read as what is left of them, and what only the tree remembers of
    /// them is forgotten, under a new incarnation. The store recovers no more.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn accept_loss(&mut self, now: Now) -> Result<u64, Error> {
        let mut accepted = 0;
        loop {
            let mut batch = Batch::default();
            take(self.storage(), &[keys::DAMAGED], &[keys::DAMAGED + 1], |at, _| {
                batch.remove(Bytes::copy_from_slice(at));
                // The record itself may be there, and not read.
                let current = [&[keys::CURRENT], &at[1..]].concat();
                let framed = self.storage().get(&current)?;
                if framed.is_some_and(|framed| super::records::parse_kept(&current, framed).is_err()) {
                    batch.remove(current);
                }
                let full = batch.len() >= super::sealing::CHUNK;
                Ok(if full { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) })
            })?;
            if batch.is_empty() {
                break;
            }
            accepted += batch.len() as u64;
            self.commit_batch(&mut batch)?;
        }
        let lost = self.damaged > 0 || self.overflow;
        (self.damaged, self.overflow) = (0, false);
        self.damage_generation += 1;
        let mut batch = Batch::default();
        put(&mut batch, "identity", &self.identity());
        batch.remove(keys::meta("recovering"));
        self.commit_batch(&mut batch)?;
        self.recovering = None;
        self.publish();
        if lost {
            self.rebuild_begin(self.seal_clock.time(now).unwrap_or(now.wall))?;
        }
        Ok(accepted)
    }

    /// The store does not know what it lost, from now on and over restarts, until [`Engine::recovered`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin_recovering(&mut self, reason: &str, now: Now) -> Result<(), Error> {
        let recovering = record::Recovering { since_ms: now.wall.millis(), reason: line(reason) };
        let mut batch = Batch::default();
        put(&mut batch, "recovering", &recovering);
        self.commit_batch(&mut batch)?;
        self.recovering = Some(recovering);
        self.publish();
        Ok(())
    }

    /// Peers have filled the store again, while it had this incarnation. Returns whether that ended anything.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn recovered(&mut self, incarnation: lattice_core::model::Incarnation) -> Result<bool, Error> {
        if incarnation != self.incarnation || self.recovering.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.remove(keys::meta("recovering"));
        self.commit_batch(&mut batch)?;
        self.recovering = None;
        self.publish();
        Ok(true)
    }

    /// Why the store recovers; `None` when it does not.
    pub fn recovering(&self) -> Option<&str> {
        self.recovering.as_ref().map(|recovering| recovering.reason.as_str())
    }
}

impl Reader {
    /// The keys whose entries are damaged, in order, after `after`: at most `limit`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn damaged(&self, after: &[u8], limit: usize) -> Result<Vec<DamagedEntry>, Error> {
        let mut from = keys::damaged(after);
        if !after.is_empty() {
            from.push(0);
        }
        let mut entries = Vec::new();
        take(&*self.shared.storage, &from, &[keys::DAMAGED + 1], |at, framed| {
            if entries.len() == limit {
                return Ok(std::ops::ControlFlow::Break(()));
            }
            if let Ok(key) = Key::try_from(Bytes::copy_from_slice(&at[1..])) {
                let noted = record::decode::<record::DamagedKey>(at, &framed).unwrap_or_default();
                let head = noted.head();
                let record::DamagedKey { problem, found_ms, .. } = noted;
                entries.push(DamagedEntry { key, head, problem, found_ms });
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(entries)
    }

    /// Refuses to read a key that is noted as damaged, and everything once the store as a whole is suspect.
    pub(super) fn refuse_damaged(&self, key: &Key) -> Result<(), Error> {
        let stats = self.view().stats;
        if stats.damage_overflow {
            return Err(Error::Suspect);
        }
        if stats.damaged > 0 && self.shared.storage.get(&keys::damaged(key.as_bytes()))?.is_some() {
            return Err(Error::Entry { key: key.clone() });
        }
        Ok(())
    }

    /// The first damaged key in a range of current entries: `[from, to)`.
    pub(super) fn damaged_within(&self, from: &[u8], to: &[u8]) -> Result<Option<Key>, Error> {
        // Notes stand under another tag in the same order.
        let tagged = |at: &[u8]| match at.split_first() {
            Some((&keys::CURRENT, key)) => keys::damaged(key),
            Some(_) | None => vec![keys::DAMAGED + 1],
        };
        let first = self.shared.storage.first(&tagged(from), &tagged(to))?;
        Ok(first.and_then(|(at, _)| Key::try_from(at.slice(1..)).ok()))
    }

    /// Leaves word for the writer that a key's entry did not read.
    pub(super) fn suspect(&self, key: &Key) -> Error {
        self.shared.suspect(Suspicion::Key(key.clone().into_bytes()));
        Error::Entry { key: key.clone() }
    }

    /// Leaves word for the writer about an error, if it is damage.
    pub(super) fn suspect_error(&self, error: Error) -> Error {
        self.shared.suspect_error(&error);
        error
    }
}

/// Whose damage an error tells of.
pub(super) fn suspicion_of(damaged: &Damaged) -> Suspicion {
    match damaged.key.first() {
        Some(&keys::CURRENT) => Suspicion::Key(damaged.key.slice(1..)),
        Some(_) | None => Suspicion::Record(damaged.key.clone()),
    }
}

fn note_of(head: Option<EntryHead>, problem: &str, now: Now) -> record::DamagedKey {
    record::DamagedKey {
        head: head.as_ref().map(Into::into),
        problem: line(problem),
        found_ms: now.wall.millis(),
    }
}

/// How many keys are noted. Notes are few, and bounded.
pub(super) fn count_notes(storage: &dyn Storage) -> Result<u64, Error> {
    let mut count = 0;
    take(storage, &[keys::DAMAGED], &[keys::DAMAGED + 1], |_, _| {
        count += 1;
        let full = count > DAMAGED_MAX;
        Ok(if full { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) })
    })?;
    Ok(count)
}

/// Suspicions, each once.
pub(super) type Suspicions = BTreeSet<Suspicion>;
