//! Works out what a chunk of a seal changes in the tree: the costly part of sealing, which reads and writes nothing
//! that anybody else changes meanwhile, and so may run beside the writer ([`Sealer`]).
//!
//! A [`Plan`] names an epoch that takes no more entries and the last key hash that its tree has already. The tree is
//! changed by seals alone, one chunk after the other. What else a chunk touches, the writer settles as it commits.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use lattice_core::model::{Epoch, KeyHash};

use super::Error;
use super::chunk::{Taken, Taking};
use super::shared::Shared;
use crate::format::keys::Generation;

/// The entries that one commit takes into the tree: so many change as many buckets, and writes wait meanwhile. The
/// more are due, the more it takes, for the fewer commits.
pub(super) const CHUNK_MIN: usize = 256;
const CHUNK_MAX: usize = 1_024;
/// A chunk is this part of what is due.
const CHUNKS: usize = 64;

/// Where sealing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) generation: Generation,
    /// The epoch that is being sealed.
    pub(super) epoch: Epoch,
    /// The last key hash of it that is in the tree.
    pub(super) after: Option<KeyHash>,
}

/// Which entries come into the tree next.
pub struct Plan {
    shared: Arc<Shared>,
    place: Place,
    /// The most entries.
    size: usize,
}

/// What that changes in the tree, ready to be committed.
pub struct Prepared {
    pub(super) place: Place,
    pub(super) chunk: Result<Chunk, Error>,
}

/// Some of the entries that an epoch seals.
pub(super) struct Chunk {
    pub(super) taken: Taken,
    /// The last key hash in it.
    pub(super) up_to: Option<KeyHash>,
    /// The epoch has no more.
    pub(super) last: bool,
}

impl Plan {
    /// The next chunk of `due` entries.
    pub(super) fn new(shared: Arc<Shared>, place: Place, due: usize) -> Self {
        Self { shared, place, size: (due / CHUNKS).clamp(CHUNK_MIN, CHUNK_MAX) }
    }

    /// Does the work. What goes wrong is told by [`super::Engine::end_step`].
    #[must_use]
    pub fn prepare(self) -> Prepared {
        Prepared { place: self.place, chunk: self.chunk() }
    }

    fn chunk(&self) -> Result<Chunk, Error> {
        let Place { generation, epoch, after } = self.place;
        let mut entries = self.shared.pending().until(epoch, after, self.size + 1);
        let last = entries.len() <= self.size;
        entries.truncate(self.size);
        let up_to = entries.last().map(|(_, (_, head))| head.key_hash);
        let taking = Taking { storage: &*self.shared.storage, generation, epoch };
        Ok(Chunk { taken: taking.take(entries)?, up_to, last })
    }
}

impl Prepared {
    /// Whether it touches nothing but the tree, so that it can be committed together with anything else.
    pub(super) fn stands_alone(&self) -> bool {
        self.chunk.as_ref().is_ok_and(|chunk| chunk.taken.stands_alone())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plan").field(&self.place).finish()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(&self.place).finish()
    }
}

/// A thread that prepares, one plan at a time. Dropping it waits for the plan under way.
pub struct Sealer {
    plans: Option<SyncSender<Plan>>,
    prepared: Receiver<Prepared>,
    /// What was received, and not taken yet.
    received: Option<Prepared>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl Sealer {
    /// Starts the thread. `ready` is called, there, whenever something was prepared.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(ready: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let (plans, planned) = sync_channel::<Plan>(1);
        let (done, prepared) = sync_channel(1);
        let thread = std::thread::Builder::new().name("store-sealer".into()).spawn(move || {
            for plan in planned {
                if done.send(plan.prepare()).is_err() {
                    return;
                }
                ready();
            }
        })?;
        Ok(Self { plans: Some(plans), prepared, received: None, thread: Some(thread), busy: false })
    }

    /// Whether a plan is under way, or what came of it was not taken yet.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands a plan over. Not to be called while it is busy, since a plan says what follows the one before.
    pub fn prepare(&mut self, plan: Plan) {
        debug_assert!(!self.busy, "one plan at a time");
        self.busy = true;
        if self.plans.as_ref().is_none_or(|plans| plans.send(plan).is_err()) {
            self.fail();
        }
    }

    /// Whether what was prepared can be taken.
    ///
    /// # Panics
    /// If the thread did.
    pub fn is_ready(&mut self) -> bool {
        if self.received.is_none() {
            match self.prepared.try_recv() {
                Ok(prepared) => self.received = Some(prepared),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.fail(),
            }
        }
        self.received.is_some()
    }

    /// Takes what was prepared, if it is ready.
    ///
    /// # Panics
    /// If the thread did.
    pub fn ready(&mut self) -> Option<Prepared> {
        if !self.is_ready() {
            return None;
        }
        self.busy = false;
        self.received.take()
    }

    /// Waits for what is being prepared, and takes it; `None` when nothing is.
    ///
    /// # Panics
    /// If the thread did.
    pub fn wait(&mut self) -> Option<Prepared> {
        if self.busy && self.received.is_none() {
            match self.prepared.recv() {
                Ok(prepared) => self.received = Some(prepared),
                Err(RecvError) => self.fail(),
            }
        }
        self.ready()
    }

    /// The thread is gone, which only a panic explains: it goes on here.
    fn fail(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            Some(Ok(())) | None => unreachable!("it ends when its plans do"),
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        drop(self.plans.take());
        // It may be about to hand something over: the channel has room for it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
