//! What a hostile peer really has: a store of its own, sealed twice, as the engine that ships makes it.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, Ask};
use lattice_core::model::{Epoch, EpochLength, Incarnation, Key, NodeId};
use lattice_core::signed::{Announcement, Signed};
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::codec;
use state_store::engine::{Op, Question};
use state_store::{Engine, MemoryStorage, Now, Reader, Settings};

/// The cluster of it and of those whom it lies to.
pub const CLUSTER: &str = "test";
/// What it calls itself.
pub const NAME: &str = "hostile";
/// How long their epochs are.
pub const EPOCH_MS: u32 = 100;
/// Before every key, so that what was believed is found.
pub const PREFIX: &str = "hostile/";

/// Entries in each of the two seals.
const ENTRIES: usize = 600;
/// All of them hang below the last children of the root: so the tree is deep, and a walk of it takes many steps.
const CHILD_FROM: u8 = 14;
/// How long before now each of them was written.
const WRITTEN_AGO: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(10)];

/// A store that can be asked, and its key.
pub struct Offer {
    reader: Reader,
    key: SigningKey,
    /// When the first half had been sealed, and the second not yet.
    earlier: Epoch,
}

impl Offer {
    /// The store of `key`, filled and sealed by the clock `wall`.
    ///
    /// # Panics
    /// When the engine fails.
    pub fn new(key: SigningKey, wall: WallTime) -> Self {
        let at = |ago: Duration| Now {
            wall: wall - ago,
            monotonic: Monotonic(WRITTEN_AGO[0].checked_sub(ago).expect("nothing was before that")),
        };
        let settings = Settings {
            cluster: CLUSTER.to_owned(),
            epoch_length: EpochLength(NonZeroU32::new(EPOCH_MS).expect("not zero")),
            settle: Duration::from_millis(300),
            settle_max: Duration::from_secs(1),
            // All of them: the earlier seal is to be asked for as well.
            retain_epochs: 1_000,
            max_clock_drift: Duration::from_secs(2),
            confirm_after: Duration::from_secs(60),
        };
        let mut incarnation = [9; 16];
        incarnation[..8].copy_from_slice(&key.verifying_key().to_bytes()[..8]);
        let incarnations = Box::new(move || Incarnation(incarnation));
        let storage = MemoryStorage::default();
        let mut engine = Engine::open(storage, settings, key.clone(), incarnations, at(WRITTEN_AGO[0]))
            .expect("a new store");
        let mut keys = (0_u32..)
            .map(|number| Key::try_from(format!("{PREFIX}{number:05}").as_str()).expect("a short key"))
            .filter(|key| key.hash().nibble(0) >= CHILD_FROM);
        let mut fill = |from: Duration, to: Duration| {
            for key in keys.by_ref().take(ENTRIES) {
                let value = Bytes::from_static(b"what is not to be believed");
                let op = Op::Put { key, value, ttl: None, condition: None };
                engine.write(&[op], at(from)).expect("a write");
            }
            while engine.seal(at(to)).expect("a seal").is_some() {}
            let newest = engine.reader().seals().runs.last().map(|run| run.to);
            newest.expect("a seal of what was written")
        };
        let earlier = fill(WRITTEN_AGO[0], WRITTEN_AGO[1] + Duration::from_secs(1));
        fill(WRITTEN_AGO[1], Duration::ZERO);
        Self { reader: engine.reader(), key, earlier }
    }

    /// Whose store it is.
    pub fn node(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    /// What it signs with.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Which store.
    pub fn incarnation(&self) -> Incarnation {
        self.reader.seals().incarnation
    }

    /// What it would answer if it were honest.
    pub fn answer(&self, ask: &Ask, asker: NodeId, time: WallTime) -> Answer {
        let question = Question { asker, incarnation: Incarnation([0; 16]), ask, time };
        self.reader.serve(question).expect("a store in memory reads")
    }

    /// The same at the earlier of its two seals.
    pub fn answer_earlier(&self, ask: &Ask, asker: NodeId, time: WallTime) -> Answer {
        let mut ask = ask.clone();
        match &mut ask {
            Ask::Walk { epoch, .. } | Ask::Fetch { epoch, .. } => *epoch = Some(self.earlier),
            Ask::Hello | Ask::Bye => {}
        }
        self.answer(&ask, asker, time)
    }

    /// What it announces.
    pub fn announcement(&self, sequence: u64, time: WallTime) -> Signed {
        let seals = self.reader.seals();
        let announcement = Announcement {
            cluster: CLUSTER.to_owned(),
            node: self.node(),
            incarnation: seals.incarnation,
            sequence,
            time,
            epoch_length: self.reader.settings().epoch_length,
            runs: seals.runs,
            addresses: Vec::new(),
            name: NAME.to_owned(),
            recovering: false,
        };
        codec::sign_announcement(&announcement, &self.key).signed
    }
}
