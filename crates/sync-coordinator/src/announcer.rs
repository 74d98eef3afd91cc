//! This node's announcements: what its store sealed, under its key and a number of its own.
//!
//! Everybody who needs one asks here: the heartbeat, a hello, the first request of a pull, and each
//! `GET /api/lattice/state`. The store states its seals first (and extends idle time on its disk before it
//! answers), and it is the store that reserves the numbers, so that none is ever used twice, whatever
//! happens to this process. They are reserved one by one: a disk that is rolled back then knows of fewer than
//! peers have heard, while one that held a block of them would look as if nothing had happened. Askers share: one announcement is signed at a time, and one that is younger than
//! a second serves everybody who does not insist. Whoever had to wait takes what was begun meanwhile, so that a
//! store slower than our heartbeats makes announcements rarer, and no queue of them.

use std::sync::Arc;
use std::sync::Mutex as SyncMutex;
use std::sync::PoisonError;
use std::time::Duration;

use lattice_core::coordinator::{Event, OwnSeals};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::seal::Runs;
use lattice_core::signed::{Announcement, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_proto::codec;
use lattice_proto::convert::Seals;
use lattice_runtime::Clock;
use lattice_runtime::identity::NodeKey;
use tokio::sync::Mutex;

use crate::shell::Inbox;
use crate::store::{self, Reserved, Store};

/// An announcement younger than this answers everybody who does not insist on a new one; less where the
/// cluster polls or announces more often, or pollers would never see three different epochs in time.
pub(crate) const SHARED_FOR_MAX: Duration = Duration::from_secs(1);

/// Who announces.
pub(crate) struct Voice {
    pub(crate) key: Arc<NodeKey>,
    pub(crate) cluster: String,
    pub(crate) name: String,
    /// How long an announcement serves everybody, at most [`SHARED_FOR_MAX`].
    pub(crate) shared_for: Duration,
}

/// Signs announcements.
pub(crate) struct Announcer {
    voice: Voice,
    clock: Clock,
    store: Store,
    inbox: Inbox,
    newest: Mutex<Option<Newest>>,
    /// Where we listen for libp2p, as the sensor says.
    addresses: SyncMutex<Vec<String>>,
    /// The incarnation that is given up: nothing is announced in its name any more.
    given_up: SyncMutex<Option<Incarnation>>,
    /// As of the last time that anybody saw our seals.
    incarnation: SyncMutex<Option<Incarnation>>,
}

/// An announcement, and what only its own node says besides.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) announcement: SignedAnnouncement,
    /// Entries of the newest seal that had not expired at its epoch's end.
    pub(crate) state_size: u64,
}

struct Newest {
    /// When the seals were asked for.
    began: Duration,
    signed: Duration,
    announced: Announced,
}

/// Why there is no announcement now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The store is away, or says something impossible.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What the store says of its seals cannot be.
    #[error("store: seals cannot be: {0}")]
    Seals(String),
    /// The disk was rolled back, or the incarnation replaced, and the new one is not there yet.
    #[error("incarnation {0} is given up: waiting for the store's new one")]
    GivenUp(Incarnation),
}

impl Announcer {
    pub(crate) fn new(voice: Voice, clock: Clock, store: Store, inbox: Inbox) -> Self {
        Self {
            voice,
            clock,
            store,
            inbox,
            newest: Mutex::default(),
            addresses: SyncMutex::default(),
            given_up: SyncMutex::default(),
            incarnation: SyncMutex::default(),
        }
    }

    /// One that was signed a moment ago, or else a new one.
    pub(crate) async fn recent(&self) -> Result<Announced, Error> {
        let asked = self.clock.monotonic();
        self.newer_than(asked, self.voice.shared_for).await
    }

    /// One that was begun after this was asked for.
    pub(crate) async fn fresh(&self) -> Result<Announced, Error> {
        let asked = self.clock.monotonic();
        self.newer_than(asked, Duration::ZERO).await
    }

    /// The newest one, if it was begun after `asked` or is younger than `age`; else a new one.
    async fn newer_than(&self, asked: Duration, age: Duration) -> Result<Announced, Error> {
        let mut newest = self.newest.lock().await;
        let now = self.clock.monotonic();
        match &*newest {
            Some(newest) if newest.began > asked || now.saturating_sub(newest.signed) < age => {
                self.refuse_given_up(newest.announced.announcement.announcement.incarnation)?;
                Ok(newest.announced.clone())
            }
            Some(_) | None => self.sign(&mut newest).await,
        }
    }

    /// Our seals, as the store tells them and as the machine knows them.
    pub(crate) async fn read_seals(&self) -> Result<(Seals, OwnSeals), Error> {
        let seals = self.store.seals().await?;
        let own = own_seals(&seals).map_err(Error::Seals)?;
        self.seen(own.incarnation);
        Ok((seals, own))
    }

    /// In which incarnation our store speaks, as far as we know.
    pub(crate) async fn incarnation(&self) -> Result<Incarnation, Error> {
        let known = *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(incarnation) => Ok(incarnation),
            None => Ok(self.read_seals().await?.1.incarnation),
        }
    }

    /// Our store speaks in this incarnation.
    pub(crate) fn seen(&self, incarnation: Incarnation) {
        *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner) = Some(incarnation);
    }

    /// Where we listen for libp2p from now on.
    pub(crate) fn listens_at(&self, addresses: Vec<String>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Announces nothing more in this incarnation's name.
    pub(crate) fn give_up(&self, incarnation: Incarnation) {
        *self.given_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(incarnation);
    }

    fn refuse_given_up(&self, incarnation: Incarnation) -> Result<(), Error> {
        let given_up = *self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up == Some(incarnation) { Err(Error::GivenUp(incarnation)) } else { Ok(()) }
    }

    async fn sign(&self, newest: &mut Option<Newest>) -> Result<Announced, Error> {
        let began = self.clock.monotonic();
        // A number that is not used after all is missed by nobody.
        let (read, reserved) = tokio::join!(self.read_seals(), self.store.reserve());
        let (seals, own) = read?;
        self.inbox.send(Event::Seals(own)).await;
        self.refuse_given_up(seals.incarnation)?;
        let sequence = self.number(seals.incarnation, reserved?).await?;
        let announcement = Announcement {
            cluster: self.voice.cluster.clone(),
            node: NodeId(self.voice.key.public()),
            incarnation: seals.incarnation,
            sequence,
            time: WallTime(self.clock.wall_ms()),
            epoch_length: seals.epoch_length,
            runs: seals.runs,
            addresses: self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            name: self.voice.name.clone(),
            recovering: seals.recovering,
        };
        let announcement = codec::sign_announcement(&announcement, self.voice.key.signing_key());
        let announced = Announced { announcement, state_size: seals.state_size };
        let signed = self.clock.monotonic();
        *newest = Some(Newest { began, signed, announced: announced.clone() });
        Ok(announced)
    }

    /// The number that was reserved for `incarnation`. The machine hears of it before anybody else can.
    async fn number(&self, incarnation: Incarnation, reserved: Reserved) -> Result<u64, Error> {
        if reserved.incarnation != incarnation {
            let why = format!("they are of {incarnation}, but its number of {}", reserved.incarnation);
            return Err(Error::Seals(why));
        }
        self.inbox.send(Event::Sequence { incarnation, last: reserved.sequence }).await;
        Ok(reserved.sequence)
    }
}

/// The part of the store's seals that the machine knows.
pub(crate) fn own_seals(seals: &Seals) -> Result<OwnSeals, String> {
    let runs = Runs::parse(seals.runs.clone()).map_err(|error| error.to_string())?;
    Ok(OwnSeals {
        incarnation: seals.incarnation,
        damage_generation: seals.damage_generation,
        runs,
        recovering: seals.recovering,
        damaged: seals.damaged,
    })
}
