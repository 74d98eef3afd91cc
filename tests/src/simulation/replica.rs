//! The store's part of a node: the engine that ships, in memory, and the door through which peers ask it.
//!
//! The engine is called directly, with the time as an argument. What `state-store` keeps in memory besides, the
//! challenges that it issued, is kept here, and lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::coordinator::{Clock, OwnSeals};
use lattice_core::exchange::{Answer, Ask, PullPart, Reason, Refusal, Response};
use lattice_core::model::{Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use lattice_core::pull::MergeCounts;
use lattice_core::seal::Runs;
use lattice_core::signed::{Signed, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_core::tree::{FANOUT, Position, Summary};
use lattice_proto::codec::{self, RequestChecks};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use state_store::engine::{Committed, Op, Origin, Page, Question};
use state_store::{Engine, MemoryStorage, Now, Reader, Settings as StoreSettings};

use super::ledger::Map;
use super::node::monotonic;
use super::settings::{CLUSTER, Settings};

/// A disk: what an engine leaves behind.
pub type Disk = MemoryStorage;

/// How long a challenge is good for.
const CHALLENGE_GOOD_FOR: Duration = Duration::from_secs(60);
/// Challenges issued to one peer that it has not used.
const CHALLENGES_MAX: usize = 8;
/// The engine is looked at at least this often, so that it sees its clock step.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this, when work is due that it will not do (its clock is in doubt).
const LOOK_APART: Duration = Duration::from_millis(20);

/// A running store.
pub struct Replica {
    engine: Engine,
    reader: Reader,
    key: SigningKey,
    started: Duration,
    /// When the engine is looked at next.
    look: Duration,
    trusted: BTreeSet<NodeId>,
    challenges: BTreeMap<NodeId, Vec<(Duration, [u8; 16])>>,
    random: Xoshiro256PlusPlus,
}

/// What an accepted request tells the coordinator.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asked.
    pub peer: NodeId,
    /// What it carried.
    pub announcement: Option<SignedAnnouncement>,
    /// The pull that it belongs to.
    pub pull: Option<PullPart>,
    /// That pull has ended.
    pub ended: bool,
}

impl Replica {
    /// Opens an engine on a disk.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(
        disk: &Disk,
        settings: &Settings,
        key: SigningKey,
        seed: u64,
        now: Duration,
        wall: WallTime,
    ) -> Result<Self, String> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut incarnations = Xoshiro256PlusPlus::seed_from_u64(random.random());
        let settings = StoreSettings {
            cluster: CLUSTER.to_owned(),
            epoch_length: settings.epoch_length,
            settle: settings.settle,
            settle_max: settings.settle_max,
            retain_epochs: settings.retain_epochs,
            max_clock_drift: settings.max_clock_drift,
            confirm_after: settings.peerless_timeout,
        };
        let engine = Engine::open(
            disk.clone(),
            settings,
            key.clone(),
            Box::new(move || Incarnation(incarnations.random())),
            Now { wall, monotonic: monotonic(now, now) },
        )
        .map_err(|error| error.to_string())?;
        Ok(Self {
            reader: engine.reader(),
            engine,
            key,
            started: now,
            look: now,
            trusted: BTreeSet::new(),
            challenges: BTreeMap::new(),
            random,
        })
    }

    /// Whom to answer from now on.
    pub fn set_trusted(&mut self, trusted: &[NodeId]) {
        self.trusted = trusted.iter().copied().collect();
        self.challenges.retain(|peer, _| self.trusted.contains(peer));
    }

    /// A client's write; `None` deletes.
    ///
    /// # Errors
    /// What the engine says.
    pub fn write(
        &mut self,
        now: Duration,
        wall: WallTime,
        key: Key,
        value: Option<Bytes>,
    ) -> Result<Entry, String> {
        let op = match value {
            Some(value) => Op::Put { key, value, ttl: None, condition: None },
            None => Op::Delete { key, condition: None },
        };
        let (_, mut committed) =
            self.engine.write(&[op], self.now(now, wall)).map_err(|error| error.to_string())?;
        self.committed(&committed, now, wall);
        committed.local.pop().ok_or_else(|| "the write is not among what was committed".to_owned())
    }

    /// Merges what gossip brought.
    ///
    /// # Errors
    /// What the engine says.
    pub fn merge_delta(&mut self, now: Duration, wall: WallTime, entries: Vec<Entry>) -> Result<(), String> {
        self.merge(now, wall, entries, Origin::Delta).map(|_| ())
    }

    /// Merges what a pull has proved.
    ///
    /// # Errors
    /// What the engine says.
    pub fn merge_pulled(
        &mut self,
        now: Duration,
        wall: WallTime,
        entries: Vec<Entry>,
    ) -> Result<MergeCounts, String> {
        self.merge(now, wall, entries, Origin::Pull)
    }

    fn merge(
        &mut self,
        now: Duration,
        wall: WallTime,
        entries: Vec<Entry>,
        origin: Origin,
    ) -> Result<MergeCounts, String> {
        let (merged, committed) =
            self.engine.merge(entries, origin, self.now(now, wall)).map_err(|error| error.to_string())?;
        self.committed(&committed, now, wall);
        Ok(MergeCounts {
            merged: merged.merged,
            known: merged.known,
            held: merged.held,
            dropped: merged.dropped,
        })
    }

    fn committed(&mut self, committed: &Committed, now: Duration, wall: WallTime) {
        let at = self.now(now, wall);
        self.engine.note_lateness(&committed.late, at);
        self.look = self.look.min(self.next_look(now, wall));
    }

    /// When [`Self::work`] is to be called.
    pub fn deadline(&self) -> Duration {
        self.look
    }

    /// Does what is due. Whether there is another newest seal than before.
    ///
    /// # Errors
    /// What the engine says.
    pub fn work(&mut self, now: Duration, wall: WallTime) -> Result<bool, String> {
        let before = self.published();
        self.engine.seal(self.now(now, wall)).map_err(|error| error.to_string())?;
        self.look = self.next_look(now, wall);
        let after = self.published();
        Ok(before != after)
    }

    fn next_look(&self, now: Duration, wall: WallTime) -> Duration {
        let due = self.engine.next_due().ok().flatten().map(|due| due.since(wall));
        now + due.unwrap_or(LOOK_EVERY).clamp(LOOK_APART, LOOK_EVERY)
    }

    /// The recent seals, idle time extended durably.
    ///
    /// # Errors
    /// What the engine says.
    pub fn seals(&mut self, now: Duration, wall: WallTime) -> Result<OwnSeals, String> {
        self.engine.extend(self.now(now, wall)).map_err(|error| error.to_string())?;
        Ok(self.published())
    }

    /// The recent seals, as they were published last.
    pub fn published(&self) -> OwnSeals {
        let seals = self.reader.seals();
        OwnSeals {
            incarnation: seals.incarnation,
            damage_generation: seals.damage_generation,
            runs: Runs::parse(seals.runs).expect("an engine's runs ascend"),
        }
    }

    /// Reserves numbers for announcements; the first of them.
    ///
    /// # Errors
    /// What the engine says.
    pub fn reserve(&mut self, count: u32) -> Result<u64, String> {
        self.engine.reserve_sequence(count).map_err(|error| error.to_string())
    }

    /// Notes what was heard of a peer.
    ///
    /// # Errors
    /// What the engine says.
    pub fn heard(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
    ) -> Result<(), String> {
        self.engine.heard(node, incarnation, sequence, epoch).map_err(|error| error.to_string())
    }

    /// Starts a new incarnation, unless `replaced` was replaced already.
    ///
    /// # Errors
    /// What the engine says.
    pub fn reincarnate(
        &mut self,
        now: Duration,
        wall: WallTime,
        replaced: Incarnation,
    ) -> Result<(), String> {
        self.engine.reincarnate(replaced).map_err(|error| error.to_string())?;
        self.look = self.look.min(self.next_look(now, wall));
        Ok(())
    }

    /// What others say of our clock.
    ///
    /// # Errors
    /// None today; it is one of the calls that may come to have some.
    pub fn judge_clock(&mut self, now: Duration, wall: WallTime, judgement: &Clock) -> Result<(), String> {
        match judgement {
            Clock::Confirmed => self.engine.confirm_clock(self.now(now, wall)),
            Clock::Unknown | Clock::Wrong { .. } => {}
        }
        Ok(())
    }

    /// Our own inner nodes at some positions.
    ///
    /// # Errors
    /// What the engine says.
    pub fn own_nodes(&self, positions: &[Position]) -> Result<Vec<Option<Box<[Summary; FANOUT]>>>, String> {
        Ok(self.reader.nodes(positions).map_err(|error| error.to_string())?.nodes)
    }

    /// Which heads the live map does not dominate: the missing ones, and those too far ahead.
    ///
    /// # Errors
    /// What the engine says.
    pub fn compare(
        &self,
        now: Duration,
        wall: WallTime,
        heads: &[EntryHead],
    ) -> Result<(Vec<usize>, Vec<usize>), String> {
        let compared = self.reader.compare(heads, self.now(now, wall)).map_err(|error| error.to_string())?;
        let indexes = |found: Vec<u32>| found.into_iter().map(|index| index as usize).collect();
        Ok((indexes(compared.missing), indexes(compared.ahead)))
    }

    /// Answers a peer's request, and says what it tells the coordinator. `None`: not even a refusal can be
    /// addressed.
    pub fn exchange(
        &mut self,
        now: Duration,
        wall: WallTime,
        envelope: &Signed,
    ) -> (Option<Signed>, Option<Asked>) {
        let incarnation = self.published().incarnation;
        let node = self.reader.node();
        let (trusted, challenges, reader) = (&self.trusted, &mut self.challenges, &self.reader);
        let checks = RequestChecks {
            cluster: CLUSTER,
            node,
            trusted: &|sender| trusted.contains(sender),
            incarnation_ok: &|sender, incarnation| reader.incarnation_ok(sender, incarnation),
            take_challenge: &mut |sender, challenge| take(challenges, now, sender, challenge),
        };
        let (header, answer, asked) = match codec::open_request(envelope, checks) {
            Ok((header, request)) => {
                let question =
                    Question { asker: header.sender, incarnation: header.incarnation, ask: &request.ask };
                let answer = self.reader.serve(question).unwrap_or_else(|error| {
                    Answer::Refused(Refusal { reason: Reason::Unavailable, detail: error.to_string() })
                });
                let ended = request.ask == Ask::Bye;
                let asked = Asked {
                    peer: header.sender,
                    announcement: request.announcement,
                    pull: request.pull,
                    ended,
                };
                (header, answer, Some(asked))
            }
            Err(refused) => {
                let answer = Answer::Refused(refused.refusal());
                match refused.header {
                    Some(header) => (*header, answer, None),
                    None => return (None, None),
                }
            }
        };
        let next_challenge = match self.trusted.contains(&header.sender) {
            true => self.issue(now, header.sender).to_vec(),
            false => Vec::new(),
        };
        let response = Response { next_challenge, time: wall, answer };
        let header = header.answer(envelope, incarnation, self.random.random());
        (Some(codec::sign_response(&header, &response, &self.key)), asked)
    }

    fn issue(&mut self, now: Duration, to: NodeId) -> [u8; 16] {
        let challenge = self.random.random();
        let issued = self.challenges.entry(to).or_default();
        if issued.len() == CHALLENGES_MAX {
            issued.remove(0);
        }
        issued.push((now, challenge));
        challenge
    }

    /// The current entries of `keys`, and of every key that has a value.
    ///
    /// # Errors
    /// What the engine says.
    pub fn map<'a>(
        &self,
        now: Duration,
        wall: WallTime,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<Map, String> {
        let mut map = Map::new();
        for key in keys {
            if let Some(entry) = self.reader.current(key).map_err(|error| error.to_string())? {
                map.insert(key.clone(), entry);
            }
        }
        let mut page = Page { limit: 1_000, ..Page::default() };
        loop {
            let listed = self.reader.list(&page, self.now(now, wall)).map_err(|error| error.to_string())?;
            map.extend(listed.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            match listed.next {
                Some(next) => page.cursor = next,
                None => return Ok(map),
            }
        }
    }

    fn now(&self, now: Duration, wall: WallTime) -> Now {
        Now { wall, monotonic: monotonic(self.started, now) }
    }
}

/// Spends a challenge.
fn take(
    challenges: &mut BTreeMap<NodeId, Vec<(Duration, [u8; 16])>>,
    now: Duration,
    sender: &NodeId,
    challenge: &[u8],
) -> bool {
    let Some(issued) = challenges.get_mut(sender) else { return false };
    issued.retain(|(at, _)| now.saturating_sub(*at) < CHALLENGE_GOOD_FOR);
    let found = issued.iter().position(|(_, issued)| issued == challenge);
    found.map(|found| issued.remove(found)).is_some()
}
