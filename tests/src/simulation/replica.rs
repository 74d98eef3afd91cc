//! The store's part of a node: the engine that ships, over a disk in memory, and its answers to peers.
//!
//! Both are called directly, with the time and the randomness as arguments, where the service has a thread that
//! writes and gRPC around it. What the service keeps in memory only, such as challenges, is lost when it stops.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::coordinator::{Clock, OwnSeals};
use lattice_core::exchange::PullPart;
use lattice_core::model::{Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use lattice_core::pull::MergeCounts;
use lattice_core::seal::{Root, Runs};
use lattice_core::signed::{Signed, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_core::tree::{Node, Position};
use lattice_proto::codec;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use state_store::engine::{Committed, DamagedEntry, Op, Origin, Page};
use state_store::peers::{Peers, Random};
use state_store::verdict::Verdict;
use state_store::{Engine, MemoryStorage, Now, Reader, Settings as StoreSettings};

use super::ledger::Map;
use super::node::monotonic;
use super::settings::{CLUSTER, Settings};

/// A disk: what an engine leaves behind.
pub type Disk = MemoryStorage;

/// The engine is looked at at least this often, so that it sees its clock step. The service looks four times as
/// often, which costs real time and shows nothing more.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this, when work is due that it will not do (its clock is in doubt).
const LOOK_APART: Duration = Duration::from_millis(20);

/// A running store.
pub struct Replica {
    engine: Engine,
    reader: Reader,
    peers: Peers,
    started: Duration,
    /// When the engine is looked at next.
    look: Duration,
    /// What the coordinator said of the clock.
    verdict: Verdict,
    random: Xoshiro256PlusPlus,
}

/// What a client writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// How long a value lives; `None`: for ever.
    pub ttl: Option<Duration>,
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
            key,
            Box::new(move || Incarnation(incarnations.random())),
            Now { wall, monotonic: monotonic(now, now) },
        )
        .map_err(|error| error.to_string())?;
        Ok(Self {
            peers: Peers::new(engine.reader(), BTreeSet::new()),
            reader: engine.reader(),
            engine,
            started: now,
            look: now,
            verdict: Verdict::right(),
            random,
        })
    }

    /// Whom to answer from now on.
    pub fn set_trusted(&mut self, trusted: &[NodeId]) {
        self.peers.set_trust(trusted.iter().copied().collect());
    }

    /// A client's write: what was committed, and what its key reads then.
    ///
    /// # Errors
    /// What the engine says.
    pub fn write(
        &mut self,
        now: Duration,
        wall: WallTime,
        write: Write,
    ) -> Result<(Entry, Option<Entry>), String> {
        let op = match write {
            Write { key, value: Some(value), ttl } => Op::Put { key, value, ttl, condition: None },
            Write { key, value: None, .. } => Op::Delete { key, condition: None },
        };
        let (_, mut committed) =
            self.engine.write(&[op], self.now(now, wall)).map_err(|error| error.to_string())?;
        self.committed(&committed, now, wall);
        let written = committed.local.pop().ok_or("the write is not among what was committed")?;
        let read = self.reader.current(&written.key).map_err(|error| error.to_string())?;
        Ok((written, read))
    }

    /// What a client reads.
    ///
    /// # Errors
    /// What the engine says.
    pub fn get(&self, now: Duration, wall: WallTime, key: &Key) -> Result<Option<Entry>, String> {
        self.reader.get(key, self.now(now, wall)).map_err(|error| error.to_string())
    }

    /// Merges what gossip brought.
    ///
    /// # Errors
    /// What the engine says.
    pub fn merge_delta(&mut self, now: Duration, wall: WallTime, entries: Vec<Entry>) -> Result<(), String> {
        self.merge(now, wall, entries, Origin::Delta).map(|_| ())
    }

    /// Begins to recover, with what was salvaged.
    ///
    /// # Errors
    /// What the engine says.
    pub fn salvage(&mut self, now: Duration, wall: WallTime, saved: Vec<Entry>) -> Result<(), String> {
        let at = self.now(now, wall);
        self.engine.begin_recovering("simulated", at).map_err(|error| error.to_string())?;
        self.merge(now, wall, saved, Origin::Salvage).map(|_| ())
    }

    /// Checks everything at once, and looks into what does not read.
    ///
    /// # Errors
    /// What the engine says.
    pub fn check(&mut self, now: Duration, wall: WallTime) -> Result<(), String> {
        let at = self.now(now, wall);
        let mut check = self.reader.check();
        let mut more = true;
        while more {
            more = check.step().map_err(|error| error.to_string())?;
            self.engine.look_into_suspicions(at).map_err(|error| error.to_string())?;
        }
        self.look = now;
        Ok(())
    }

    /// Merges what a pull has proved; `repair`: in the place of what is damaged.
    ///
    /// # Errors
    /// What the engine says.
    pub fn merge_pulled(
        &mut self,
        now: Duration,
        wall: WallTime,
        entries: Vec<Entry>,
        repair: bool,
    ) -> Result<MergeCounts, String> {
        self.merge(now, wall, entries, if repair { Origin::Repair } else { Origin::Pull })
    }

    /// Keys that are known to be damaged, after one of them.
    ///
    /// # Errors
    /// What the engine says.
    pub fn damaged(&self, after: Option<&Key>, limit: usize) -> Result<Vec<DamagedEntry>, String> {
        let after = after.map_or(&[][..], Key::as_bytes);
        self.reader.damaged(after, limit).map_err(|error| error.to_string())
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
            repaired: merged.repaired,
        })
    }

    fn committed(&mut self, committed: &Committed, now: Duration, wall: WallTime) {
        let at = self.now(now, wall);
        self.engine.note_lateness(&committed.late, at);
        self.look = self.look.min(self.next_look(now, wall));
    }

    /// What peers say of the clock.
    pub fn judge_clock(&mut self, now: Duration, wall: WallTime, clock: &Clock) {
        self.verdict = match clock {
            Clock::Unknown => Verdict::right(),
            Clock::Confirmed => {
                self.engine.confirm_clock(self.now(now, wall));
                Verdict::right()
            }
            Clock::Wrong { .. } => Verdict::wrong(monotonic(self.started, now), "say peers"),
        };
        self.look = self.look.min(self.next_look(now, wall));
    }

    /// Whether clients' writes are taken: the clock is not known to be wrong.
    pub fn takes_writes(&self, now: Duration) -> bool {
        self.verdict.refusal(monotonic(self.started, now)).is_none()
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
        self.engine.doubt_clock(!self.takes_writes(now));
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
            recovering: seals.recovering,
            damaged: seals.damaged,
        }
    }

    /// Reserves numbers for announcements; the first of them.
    ///
    /// # Errors
    /// What the engine says.
    pub fn reserve(&mut self, count: u32) -> Result<u64, String> {
        self.engine.reserve_sequence(count).map_err(|error| error.to_string())
    }

    /// Notes what was heard of a peer; the incarnation that is believed, when this one was replaced by it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn heard(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
    ) -> Result<Option<Incarnation>, String> {
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

    /// Peers have filled the store again, while it had this incarnation.
    ///
    /// # Errors
    /// What the engine says.
    pub fn recovered(&mut self, incarnation: Incarnation) -> Result<(), String> {
        self.engine.recovered(incarnation).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Our own tree at some positions.
    ///
    /// # Errors
    /// What the engine says.
    pub fn own_nodes(&self, positions: &[Position]) -> Result<Vec<Node>, String> {
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
        let random = Random { nonce: self.random.random(), challenge: self.random.random() };
        let exchanged = self.peers.exchange(envelope, self.now(now, wall), random);
        (exchanged.response, exchanged.asked.and_then(Asked::parse))
    }

    /// The newest root, and the entries with a value under it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn sealed(&self, now: Duration, wall: WallTime) -> Result<(Option<Root>, Map), String> {
        let at = self.now(now, wall);
        let mut sealed = self.reader.sealed_entries(at, LOOK_EVERY).ok_or("too many read it")?;
        let mut map = Map::new();
        while let Some(entries) = sealed.next_bucket().map_err(|error| error.to_string())? {
            map.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        }
        Ok((sealed.seal().root, map))
    }

    /// The current entries of `keys`, as far as they read: a damaged store has some of them, too.
    pub fn readable<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Map {
        let current = |key: &'a Key| Some((key.clone(), self.reader.current(key).ok().flatten()?));
        keys.filter_map(current).collect()
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

impl Asked {
    /// What the store tells, as the coordinator's shell reads it.
    fn parse(wire: lattice_proto::store::v1::Asked) -> Option<Self> {
        let announcement = match wire.announcement {
            None => None,
            Some(signed) => Some(codec::open_announcement(&Signed::try_from(signed).ok()?).ok()?),
        };
        Some(Self {
            peer: NodeId::try_from(&wire.node[..]).ok()?,
            announcement,
            pull: (wire.pull != 0).then_some(PullPart { id: wire.pull, in_kind: wire.in_kind }),
            ended: wire.ended,
        })
    }
}
