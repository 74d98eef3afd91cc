//! What the writer shares with readers: the disk, and a view of the seals that is replaced as a whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lattice_core::model::{Epoch, Incarnation, NodeId};
use lattice_core::seal::{RUNS_MAX, Root, Run, Seal};
use lattice_core::signed::SignedSeal;
use lattice_core::time::Monotonic;
use lattice_proto::codec::sign_seal;
use lattice_proto::convert::Seals;

use super::changes::Recent;
use super::damage::{SUSPICIONS_MAX, Suspicion, Suspicions, suspicion_of};
use super::heard::HeardMap;
use super::pending::Pending;
use super::{Error, SealedRun, Settings};
use crate::format::keys::Generation;
use crate::storage::Storage;

/// What the writer and all readers hold.
pub(super) struct Shared {
    pub(super) storage: Box<dyn Storage>,
    pub(super) settings: Settings,
    pub(super) node: NodeId,
    pub(super) key: SigningKey,
    pub(super) heard: Mutex<HeardMap>,
    pub(super) pins: Mutex<Vec<Pinned>>,
    pending: RwLock<Pending>,
    suspicions: Mutex<Suspicions>,
    view: RwLock<Arc<View>>,
    pins_made: AtomicU64,
    recent: Mutex<Recent>,
}

/// A tree that a long read stands on.
pub(super) struct Pinned {
    id: u64,
    epoch: Epoch,
    until: Monotonic,
}

/// The seals as they were last published, and how the store is.
#[derive(Clone, Debug)]
pub struct View {
    /// Which of the node's stores this is.
    pub incarnation: Incarnation,
    /// Raised whenever the store finds, drops or sets aside anything it held.
    pub damage_generation: u64,
    /// The kept runs, ascending.
    pub runs: Arc<[SealedRun]>,
    /// The newest seal, signed.
    pub newest: Option<SignedSeal>,
    /// Why sealing is halted; empty when it goes on.
    pub halted: String,
    /// Trees of this epoch and later ones are kept.
    pub horizon: Epoch,
    /// How it is, in numbers.
    pub stats: Stats,
    pub(super) generation: Generation,
}

/// A store in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries with a value under the newest root, expired ones included.
    pub entries: u64,
    /// Deletions under the newest root.
    pub tombstones: u64,
    /// The newest sealed epoch; 0 before the first.
    pub sealed_epoch: u64,
    /// Entries that await sealing.
    pub pending: u64,
    /// Entries held until they are due, and their bytes.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// How long after its end an epoch is sealed at present.
    pub settle: Duration,
    /// Whether sealing is halted.
    pub halted: bool,
    /// Keys whose entries are known to be damaged.
    pub damaged: u64,
    /// So many that they are not all known: every read is refused.
    pub damage_overflow: bool,
    /// The store lost entries, and does not know which.
    pub recovering: bool,
    /// The number of the last change of what reads see.
    pub change: u64,
}

/// Reads the store, as many at a time as like, and never waits for a commit. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// Keeps the tree of an epoch from being deleted while it lives, and its time is not up.
pub(super) struct Pin {
    shared: Arc<Shared>,
    id: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed by single assignments, so that a panic elsewhere leaves it in order.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        storage: Box<dyn Storage>,
        settings: Settings,
        key: SigningKey,
        heard: HeardMap,
        pending: Pending,
        last_change: u64,
    ) -> Self {
        let node = NodeId(key.verifying_key().to_bytes());
        let nothing = View {
            incarnation: Incarnation([0; 16]),
            damage_generation: 0,
            runs: Arc::new([]),
            newest: None,
            halted: String::new(),
            horizon: Epoch(0),
            stats: Stats::default(),
            generation: Generation::default(),
        };
        Self {
            storage,
            settings,
            node,
            key,
            heard: Mutex::new(heard),
            pins: Mutex::new(Vec::new()),
            pending: RwLock::new(pending),
            suspicions: Mutex::new(Suspicions::new()),
            view: RwLock::new(Arc::new(nothing)),
            pins_made: AtomicU64::new(0),
            recent: Mutex::new(Recent::after(last_change)),
        }
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Leaves word for the writer, if there is room: what matters is stumbled over again.
    pub(super) fn suspect(&self, suspicion: Suspicion) {
        let mut suspicions = lock(&self.suspicions);
        if suspicions.len() < SUSPICIONS_MAX {
            suspicions.insert(suspicion);
        }
    }

    /// The same of an error, if it is damage.
    pub(super) fn suspect_error(&self, error: &Error) {
        if let Error::Damaged(damaged) = error {
            self.suspect(suspicion_of(damaged));
        }
    }

    /// What was left for the writer.
    pub(super) fn take_suspicions(&self) -> Suspicions {
        std::mem::take(&mut *lock(&self.suspicions))
    }

    /// How much waits for the writer.
    pub(super) fn suspected(&self) -> usize {
        lock(&self.suspicions).len()
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, HeardMap> {
        lock(&self.heard)
    }

    /// What awaits sealing, to look something up.
    pub(super) fn pending(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the writer, to change it.
    pub(super) fn pending_mut(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }

    /// The oldest epoch whose tree a long read stands on.
    pub(super) fn pinned(&self, now: Monotonic) -> Option<Epoch> {
        lock(&self.pins).iter().filter(|pin| now < pin.until).map(|pin| pin.epoch).min()
    }

    /// Pins the tree of an epoch that is kept now, until then at most: a reader that has stopped reading, and
    /// is not asked for more, does not notice how long it takes. `None` beyond `max` pins.
    pub(super) fn pin(
        self: &Arc<Self>,
        epoch: Epoch,
        max: usize,
        now: Monotonic,
        until: Monotonic,
    ) -> Option<Pin> {
        let mut pins = lock(&self.pins);
        pins.retain(|pin| now < pin.until);
        if pins.len() >= max {
            return None;
        }
        let id = self.pins_made.fetch_add(1, Ordering::Relaxed);
        pins.push(Pinned { id, epoch, until });
        Some(Pin { shared: Arc::clone(self), id })
    }

    /// Our signed seal of an epoch that is sealed: there is one root for it, so there is one seal.
    pub(super) fn sign(&self, incarnation: Incarnation, epoch: Epoch, root: Option<Root>) -> SignedSeal {
        let cluster = self.settings.cluster.clone();
        sign_seal(&Seal { cluster, node: self.node, incarnation, epoch, root }, &self.key)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        lock(&self.shared.pins).retain(|pin| pin.id != self.id);
    }
}

impl View {
    /// The kept run that covers an epoch, if its tree is kept as well.
    pub(super) fn kept(&self, epoch: Epoch) -> Option<&Run> {
        let after = self.runs.partition_point(|sealed| sealed.run.from <= epoch);
        let run = &self.runs[..after].last()?.run;
        (epoch <= run.to && run.to >= self.horizon).then_some(run)
    }

    /// The newest run.
    pub fn newest_run(&self) -> Option<&SealedRun> {
        self.runs.last()
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The seals as they were last published.
    pub fn view(&self) -> Arc<View> {
        self.shared.view()
    }

    /// Whose store this is.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// How the store behaves.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// To sign with, as the node.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    /// How many things wait for the writer to look into them.
    pub(crate) fn suspected(&self) -> usize {
        self.shared.suspected()
    }

    /// The seals as siblings are told.
    pub fn seals(&self) -> Seals {
        let view = self.view();
        let told = view.runs.len().saturating_sub(RUNS_MAX);
        Seals {
            node: self.shared.node,
            incarnation: view.incarnation,
            damage_generation: view.damage_generation,
            runs: view.runs[told..].iter().map(|sealed| sealed.run).collect(),
            state_size: view.newest_run().map_or(0, |sealed| sealed.state_size),
            epoch_length: self.shared.settings.epoch_length,
            newest: view.newest.clone(),
            halted: view.halted.clone(),
            recovering: view.stats.recovering,
            damaged: view.stats.damaged,
        }
    }
}
