//! One pull from one peer: walks its tree where it differs from ours, fetches what we lack, and proves it.
//!
//! The idea: everything is checked against the digest above it, up to a seal that the peer has signed,
//! *before* the store sees any of it; and `Healed` is only said when, for every range walked, our live map
//! holds what the peer's verified page holds, or newer. Equal digests end the walk; below differing ones it
//! goes on, depth first in batches, so that the memory of a pull is a page and not a state.
//!
//! A round is one question to the peer. Per batch of positions: read our own nodes there, ask for what
//! differs, descend. Per batch of buckets: read what we have there, ask for what that lacks, check that all of it
//! together is the peer's bucket, merge, and compare with our live map what was merged. What is too long to come
//! unasked is only told at first: it is compared with the live map as well, and fetched by key if it is missing.
//! When the peer's seal moves out of reach, its answers stand on a newer one with a proof of their own, and the walk
//! goes on: what pages from successive seals of one incarnation hold dominates the first.
//!
//! A repair is a pull of single keys, whose entries are damaged here: it goes down the same tree, by pages that are
//! verified alike, and proves nothing of what it does not look for.
//!
//! A peer that answers in time but brings next to nothing is given up as well: see `pace`.
//!
//! The pull decides what to ask; sending, signing, the challenge and the store belong to the shell.

mod asking;
mod fetch;
mod ground;
mod pace;
mod seek;
mod types;
mod walk;

#[cfg(test)]
mod tests;

pub use types::{
    Cause, Config, Dominated, Effect, Ended, Event, Failure, HEADS_MAX, Id, LOST_MAX, Lost, MERGE_MAX,
    MergeCounts, Outcome, Repaired, Traffic,
};

use std::collections::VecDeque;

use crate::exchange::{Answer, Ask, Reason, Refusal, Response};
use crate::failover::Path;
use crate::model::{Entry, EntryHead, Incarnation};
use crate::time::{Monotonic, WallTime};
use crate::tree::Node;

use asking::Asking;
use fetch::{Fetch, Told, Wanted};
use ground::Ground;
use pace::{Pace, Worth};
use seek::{Seek, Step};
use walk::{Frontier, Plan};

/// The machine.
#[derive(Debug)]
pub struct Pull {
    config: Config,
    path: Path,
    state: State,
    frontier: Frontier,
    wanted: Wanted,
    /// A repair looks for these keys, and for nothing else.
    seek: Option<Seek>,
    /// The question that waits for its answer.
    asking: Option<Asking>,
    /// The number of the last question.
    number: u64,
    started: Monotonic,
    progressed: Monotonic,
    pace: Pace,
    ground: Ground,
    until: Option<WallTime>,
    rounds: u32,
    traffic: Traffic,
    entries_merged: u64,
    entries_ahead: u64,
    verified_new: bool,
}

#[derive(Debug)]
enum State {
    New,
    /// Our own nodes at a plan's positions are being read.
    Reading(Plan),
    /// The peer was asked a plan's positions.
    Walking(Plan),
    /// What we have in a fetch's buckets is being read.
    Opening(Fetch),
    /// The peer was asked for buckets.
    Fetching(Fetch),
    /// The peer was asked for single keys.
    Seeking(Step),
    /// The store merges what a page brought.
    Merging(Brought),
    /// What was merged, and what was only told, is being compared with the live map: does it hold the one, and lack
    /// the other?
    Proving(Brought),
    Over,
}

/// What an answer brought, on its way into the store.
#[derive(Debug)]
struct Brought {
    /// Still to be merged.
    entries: VecDeque<Entry>,
    /// Of the entries that are merged or being merged.
    merged: Vec<EntryHead>,
    /// What it told without bringing it.
    told: Vec<Told>,
}

/// Why a pull cannot go on.
#[derive(Debug)]
struct Failed {
    outcome: Outcome,
    detail: String,
}

impl Failed {
    fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into() }
    }
}

impl Pull {
    /// A pull that waits for [`Event::Start`].
    pub fn new(now: Monotonic, config: Config) -> Self {
        Self {
            path: config.path,
            state: State::New,
            frontier: Frontier::new(),
            wanted: Wanted::new(),
            seek: None,
            asking: None,
            number: 0,
            started: now,
            progressed: now,
            pace: Pace::new(config.request_timeout, config.patience),
            ground: Ground::new(config.incarnation),
            until: None,
            rounds: 0,
            traffic: Traffic::default(),
            entries_merged: 0,
            entries_ahead: 0,
            verified_new: false,
            config,
        }
    }

    /// A repair that waits for [`Event::Start`]: it looks for these keys alone, at most [`LOST_MAX`].
    pub fn repair(now: Monotonic, config: Config, lost: &[Lost]) -> Self {
        debug_assert_eq!(config.cause, Cause::Repair, "nothing is proved of what is not looked for");
        Self { seek: Some(Seek::new(lost)), ..Self::new(now, config) }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        if let Err(failed) = self.hear(now, event, effects) {
            self.end(now, failed.outcome, failed.detail, effects);
        }
        debug_assert!(
            self.asking.is_none()
                || matches!(self.state, State::Walking(_) | State::Fetching(_) | State::Seeking(_)),
            "a question is waited for exactly where its answer has a use"
        );
    }

    /// When to send [`Event::Tick`]; `None` once it is over.
    pub fn deadline(&self) -> Option<Monotonic> {
        match self.state {
            State::Over => None,
            _ => {
                let stalled = self.progressed + self.config.stall_timeout;
                Some(self.asking.as_ref().map_or(stalled, |asking| asking.until.min(stalled)))
            }
        }
    }

    /// Ends it before it began, as `Lost`.
    pub(crate) fn give_up(self, now: Monotonic, detail: &str) -> Ended {
        self.ended(now, Outcome::Lost, detail.to_owned(), None)
    }

    /// What it was made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The path in use.
    pub fn path(&self) -> Path {
        self.path
    }

    fn hear(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) -> Result<(), Failed> {
        if matches!(self.state, State::Over) {
            return Ok(());
        }
        match event {
            Event::Start => match self.state {
                State::New => self.go_on(now, effects),
                _ => Ok(()),
            },
            Event::Reply { number, incarnation, response, traffic } => {
                match self.asking.take_if(|asking| asking.number == number) {
                    Some(asking) => self.reply(now, asking, incarnation, response, traffic, effects),
                    None => Ok(()),
                }
            }
            Event::Failed { number, failure } => {
                match (self.asking.take_if(|asking| asking.number == number), failure) {
                    (None, _) => Ok(()),
                    (Some(_), Failure::TimedOut) => Err(self.timed_out()),
                    (Some(_), Failure::Lost(detail)) => Err(Failed::new(Outcome::Lost, detail)),
                }
            }
            Event::LocalNodes(nodes) => self.local_nodes(now, nodes, effects),
            Event::Compared { missing, ahead } => self.compared(now, &missing, &ahead, effects),
            Event::Merged(counts) => self.merged(now, counts, effects),
            Event::LocalFailed(detail) => Err(Failed::new(Outcome::Lost, format!("our own store: {detail}"))),
            Event::PathChanged(path) => {
                if path != self.path {
                    self.path = path;
                    if let Some(Asking { ask, .. }) = self.asking.take() {
                        self.ask(now, ask, false, effects)?;
                    }
                }
                Ok(())
            }
            Event::Cancel(detail) => Err(Failed::new(Outcome::Stale, detail)),
            Event::Tick => self.tick(now),
        }
    }

    fn tick(&mut self, now: Monotonic) -> Result<(), Failed> {
        if self.asking.as_ref().is_some_and(|asking| asking.until <= now) {
            return Err(self.timed_out());
        }
        if self.progressed + self.config.stall_timeout > now {
            return Ok(());
        }
        match self.asking {
            Some(_) => Err(Failed::new(Outcome::TimedOut, "nothing new for too long")),
            None => Err(Failed::new(Outcome::Lost, "our own store did not answer")),
        }
    }

    /// Starts the next step: entries first, then further down, and when nothing is left it is proved.
    fn go_on(&mut self, now: Monotonic, effects: &mut Vec<Effect>) -> Result<(), Failed> {
        if let Some(seek) = &mut self.seek {
            match seek.next() {
                Some(step) => {
                    let ask = step.ask(seek.under());
                    self.state = State::Seeking(step);
                    self.ask(now, ask, false, effects)?;
                }
                None => self.end(now, Outcome::Healed, String::new(), effects),
            }
        } else if let Some(fetch) = self.wanted.next() {
            self.fetch(now, fetch, effects)?;
        } else if let Some(fetch) = Fetch::of(&self.frontier.buckets()) {
            effects.push(Effect::ReadLocalNodes(fetch.positions()));
            self.state = State::Opening(fetch);
        } else if let Some(plan) = self.frontier.next() {
            self.read_or_walk(now, plan, effects)?;
        } else if self.wanted.unreadable() > 0 {
            return Err(self.wanted.left());
        } else {
            self.end(now, Outcome::Healed, String::new(), effects);
        }
        Ok(())
    }

    fn fetch(&mut self, now: Monotonic, fetch: Fetch, effects: &mut Vec<Effect>) -> Result<(), Failed> {
        let ask = fetch.ask();
        self.state = State::Fetching(fetch);
        self.ask(now, ask, false, effects)
    }

    /// Reads our own nodes where the plan still lacks them, else asks the peer.
    fn read_or_walk(&mut self, now: Monotonic, plan: Plan, effects: &mut Vec<Effect>) -> Result<(), Failed> {
        let positions = plan.unread();
        if positions.is_empty() {
            let ask = plan.ask();
            self.state = State::Walking(plan);
            return self.ask(now, ask, false, effects);
        }
        self.state = State::Reading(plan);
        effects.push(Effect::ReadLocalNodes(positions));
        Ok(())
    }

    fn reply(
        &mut self,
        now: Monotonic,
        asking: Asking,
        incarnation: Incarnation,
        response: Response,
        traffic: Traffic,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        self.traffic.bytes_in += traffic.bytes_in;
        self.traffic.bytes_out += traffic.bytes_out;
        self.pace.waited(now.since(asking.asked));
        match response.answer {
            Answer::Refused(Refusal { reason: Reason::Challenge, .. }) if !asking.challenged => {
                return self.ask(now, asking.ask, true, effects);
            }
            _ => self.rounds += 1,
        }
        // Whatever it says, even a refusal, it does not say of the tree that was asked about.
        self.ground.answered_by(incarnation)?;
        match (response.answer, std::mem::replace(&mut self.state, State::New)) {
            (Answer::Walk { seal, nodes }, State::Walking(plan)) => {
                let Some((epoch, root)) = self.ground.accept(&self.config, &seal, plan.under())? else {
                    return Err(Failed::new(Outcome::Lied, "nodes of a tree without anything"));
                };
                let worth = Worth::of(nodes.len(), &[]);
                self.frontier.descend(plan, epoch, &root, nodes)?;
                self.progress(now, worth);
                self.go_on(now, effects)
            }
            (Answer::Fetch { seal, pages, chains }, State::Fetching(fetch)) => {
                let Some((epoch, root)) = self.ground.accept(&self.config, &seal, fetch.under())? else {
                    return Err(Failed::new(Outcome::Lied, "the tree has lost everything it held"));
                };
                let (asked, by_key) = (fetch.len(), fetch.by_key());
                // What is fetched by key was proved before.
                let places = if by_key { 0 } else { pages.len() };
                let fetched = self.wanted.take(fetch, epoch, &root, (pages, &chains), response.time)?;
                if !by_key {
                    self.frontier.answered(asked, fetched.answered);
                }
                for (position, summary) in fetched.split {
                    self.frontier.push(position, epoch, summary);
                }
                self.frontier.put_back(fetched.again.into_iter());
                self.progress(now, Worth::of(places, &fetched.entries));
                let (entries, told) = (fetched.entries.into(), fetched.told);
                self.merge(now, Brought { entries, merged: Vec::new(), told }, effects)
            }
            (Answer::Fetch { seal, pages, chains }, State::Seeking(step)) => {
                let asked = self.seek.as_ref().and_then(Seek::under);
                let accepted = self.ground.accept(&self.config, &seal, asked)?;
                let (Some((epoch, root)), Some(seek)) = (accepted, &mut self.seek) else {
                    return Err(Failed::new(Outcome::Lied, "pages of a tree without anything"));
                };
                let places = pages.len();
                let found = seek.take(step, epoch, &root, (pages, &chains), response.time)?;
                self.progress(now, Worth::of(places, &found));
                self.merge(
                    now,
                    Brought { entries: found.into(), merged: Vec::new(), told: Vec::new() },
                    effects,
                )
            }
            (Answer::Refused(Refusal { reason: Reason::Unavailable, .. }), State::Seeking(step)) => {
                self.seek.as_mut().map_or(Ok(()), |seek| seek.unreadable(step))?;
                self.go_on(now, effects)
            }
            (Answer::Refused(Refusal { reason: Reason::Unavailable, .. }), State::Fetching(fetch))
                if fetch.by_key() =>
            {
                self.wanted.cannot_read(fetch)?;
                self.go_on(now, effects)
            }
            // Asked ahead for what hangs below our own nodes, a smaller tree has nothing to answer.
            (Answer::Refused(Refusal { reason: Reason::Malformed, .. }), State::Walking(plan))
                if plan.is_ahead() =>
            {
                self.frontier.never_ahead();
                self.read_or_walk(now, plan.without_ahead(), effects)
            }
            // It never said that it had anything: that is no fault, and no reason to leave it alone.
            (Answer::Refused(Refusal { reason: Reason::Empty, detail }), _) if self.offers_nothing() => {
                Err(Failed::new(Outcome::Stale, format!("nothing to pull: {detail}")))
            }
            (Answer::Refused(Refusal { reason, detail }), _) => {
                Err(Failed::new(Outcome::Refused, format!("{reason:?}: {detail}")))
            }
            (Answer::Hello { .. } | Answer::Bye | Answer::Walk { .. } | Answer::Fetch { .. }, _) => {
                Err(Failed::new(Outcome::Refused, "signed an answer to another question"))
            }
        }
    }

    /// Whether the peer has not shown a root, neither in its announcement nor in an answer.
    fn offers_nothing(&self) -> bool {
        let announced = self.config.announced.newest().is_some_and(|run| run.root.is_some());
        !announced && self.ground.first().is_none()
    }

    fn local_nodes(
        &mut self,
        now: Monotonic,
        nodes: Vec<Node>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        let other = || Failed::new(Outcome::Lost, "our own store answered another question");
        match std::mem::replace(&mut self.state, State::New) {
            State::Reading(mut plan) => {
                if !plan.read(nodes) {
                    return Err(other());
                }
                self.read_or_walk(now, plan, effects)
            }
            State::Opening(mut fetch) => {
                let later = fetch.read(nodes).ok_or_else(other)?;
                self.frontier.put_back(later.into_iter());
                self.fetch(now, fetch, effects)
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// An answer was verified, and was worth this much.
    fn progress(&mut self, now: Monotonic, worth: Worth) {
        self.progressed = now;
        self.pace.brought(worth);
    }

    fn compared(
        &mut self,
        now: Monotonic,
        missing: &[usize],
        ahead: &[usize],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        match std::mem::replace(&mut self.state, State::New) {
            State::Proving(Brought { merged, told, .. }) => {
                let heads: Vec<&EntryHead> =
                    merged.iter().chain(told.iter().flat_map(|told| &told.heads)).collect();
                for head in ahead.iter().filter_map(|&index| heads.get(index)) {
                    self.note_ahead(head);
                }
                let (gone, lacking) =
                    missing.split_at(missing.partition_point(|index| *index < merged.len()));
                if gone.iter().any(|index| !ahead.contains(index)) {
                    return Err(Failed::new(Outcome::NoProgress, "entries were merged, and are not there"));
                }
                // What is ahead is not missing: it is fetched once it is due, by a later pull.
                let lacking: Vec<usize> = lacking.iter().map(|index| index - merged.len()).collect();
                self.wanted.add(told, &lacking);
                self.go_on(now, effects)
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// An entry is too far ahead of our clock: what is proved here holds until it is due.
    fn note_ahead(&mut self, head: &EntryHead) {
        let due = head.version.hlc.wall() - self.config.max_clock_drift;
        self.until = Some(self.until.map_or(due, |until| until.min(due)));
        self.entries_ahead += 1;
    }

    /// Hands the next entries to the store; when there are no more, proves what became of them. A repair proves
    /// nothing: the store has told what it mended.
    fn merge(
        &mut self,
        now: Monotonic,
        mut brought: Brought,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        if !brought.entries.is_empty() {
            let batch: Vec<Entry> = brought.entries.drain(..brought.entries.len().min(MERGE_MAX)).collect();
            brought.merged.extend(batch.iter().map(Entry::head));
            self.state = State::Merging(brought);
            effects.push(Effect::Merge(batch));
            return Ok(());
        }
        let told = brought.told.iter().flat_map(|told| &told.heads);
        let heads: Vec<EntryHead> = brought.merged.iter().chain(told).copied().collect();
        if heads.is_empty() || self.seek.is_some() {
            return self.go_on(now, effects);
        }
        debug_assert!(heads.len() <= HEADS_MAX, "an answer is bounded by what one comparison takes");
        self.state = State::Proving(brought);
        effects.push(Effect::Compare(heads));
        Ok(())
    }

    fn merged(
        &mut self,
        now: Monotonic,
        counts: MergeCounts,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        match std::mem::replace(&mut self.state, State::New) {
            State::Merging(brought) => {
                self.entries_merged += counts.merged;
                self.progressed = now;
                self.verified_new |= counts.merged + counts.held > 0;
                if let Some(seek) = &mut self.seek {
                    seek.merged(&brought.merged, counts.repaired);
                }
                self.merge(now, brought, effects)
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    fn end(&mut self, now: Monotonic, outcome: Outcome, detail: String, effects: &mut Vec<Effect>) {
        let answered = self.rounds > 0 && self.config.cause != Cause::InKind && self.seek.is_none();
        let may_answer_in_kind = match outcome {
            Outcome::Healed | Outcome::Stale | Outcome::Lied | Outcome::NoProgress => answered,
            Outcome::Refused | Outcome::TimedOut | Outcome::Lost => false,
        };
        self.state = State::Over;
        self.asking = None;
        if may_answer_in_kind {
            self.number += 1;
            effects.push(self.question(Ask::Bye, true));
        }
        let dominated = match outcome {
            Outcome::Healed if self.seek.is_none() => {
                self.ground.first().map(|(epoch, root)| Dominated { epoch, root, until: self.until })
            }
            _ => None,
        };
        effects.push(Effect::Ended(Box::new(self.ended(now, outcome, detail, dominated))));
    }

    fn ended(&self, now: Monotonic, outcome: Outcome, detail: String, dominated: Option<Dominated>) -> Ended {
        Ended {
            id: self.config.id,
            cause: self.config.cause,
            peer: self.config.peer,
            incarnation: self.ground.incarnation(),
            outcome,
            detail,
            path: self.path,
            started: self.started,
            ended: now,
            rounds: self.rounds,
            traffic: self.traffic,
            entries_merged: self.entries_merged,
            entries_ahead: self.entries_ahead,
            verified_new: self.verified_new,
            repaired: self.seek.as_ref().map(|seek| Repaired {
                sought: seek.sought(),
                repaired: seek.repaired(),
                left: seek.left(),
            }),
            dominated,
        }
    }
}
