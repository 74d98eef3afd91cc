//! Looks into what readers stumbled over: the writer's part, with nobody writing beside it.
//!
//! A damaged record of what is derived from the entries is no loss: it leads to a rebuild (`rebuild`), under
//! a new incarnation, since the old one may have signed what the rebuilt tree will not say again.

use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{EntryHead, Key, KeyHash};
use lattice_core::tree::{Node, Position, root_of};

use super::damage::{DAMAGED_MAX, Finding, FindingKind, Suspicion, note_of, suspicion_of};
use super::open::put;
use super::pending::{self, Added};
use super::records::Records;
use super::tree::{Tree, covering};
use super::{Engine, Error, Now, SealedRun, Step};
use crate::format::{Damaged, frame, keys, record};
use crate::storage::Batch;

/// How long after one rebuild for damage the next may begin: a disk that eats trees is not to be fed on.
const REBUILD_PAUSE: Duration = Duration::from_secs(600);

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
    /// What is to await sealing.
    pending: Added,
    /// The tree has to be built again; announcement sequence numbers are not known any more.
    rebuild: bool,
    sequence: bool,
}

impl Engine {
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
        let noted: Option<record::DamagedKey> = match Records::of(self.storage()).get(&at) {
            // A note that does not read is a note still.
            Err(Error::Damaged(_)) => Some(record::DamagedKey::default()),
            noted => noted?,
        };
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
                let epoch = self.sealing_epoch(&head);
                if notes.pending.get(epoch, &head.key_hash).is_none() {
                    notes.pending.insert(epoch, &key, &head);
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
            keys::PENDING => match self.storage().get(at) {
                Ok(Some(framed)) => pending::parse(at, &framed).err().map(Error::from),
                Ok(None) => None,
                Err(error) => Some(error.into()),
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
        } else if at.first() == Some(&keys::TERM) {
            // Its key is all that it says.
            notes.batch.put(at.clone(), frame::seal(at, &[]));
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
        pending.write(&mut batch, self.generation, self.commits + 1);
        put(&mut batch, "identity", &self.identity());
        put(&mut batch, "state", &self.state);
        if let Err(error) = self.commit_batch(&mut batch) {
            (self.damaged, self.overflow, self.damage_generation) = before;
            return Err(error);
        }
        self.let_wait(pending);
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
        let known = covering(&self.shared, self.generation, &key.hash());
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
                let at = self.generation.node(&Position::ROOT);
                return Err(Damaged::new(&at, "is not the root that was sealed").into());
            }
        }
        Ok(())
    }
}
