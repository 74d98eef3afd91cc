//! What goes into a node, and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use lattice_core::coordinator::{Effect, Event, Notice};
use lattice_core::model::{Entry, NodeId};
use lattice_core::pull;
use lattice_core::signed::SignedAnnouncement;

use super::message::{Message, Parcel, QuestionId};
use super::network::Way;

/// Something that happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// An effect of the coordinator's machine is run.
    Effect {
        /// Of which life of the coordinator.
        life: u64,
        /// What.
        effect: Box<Effect>,
    },
    /// The coordinator's machine hears of something inside the node.
    Event {
        /// In which life of the coordinator.
        life: u64,
        /// What.
        event: Box<Event>,
    },
    /// A message came.
    Arrived {
        /// From which node.
        from: usize,
        /// By which way.
        way: Way,
        /// What.
        message: Message,
    },
    /// What came has reached the part that answers it.
    Answer {
        /// To which node.
        to: usize,
        /// By which way.
        way: Way,
        /// What.
        message: Message,
    },
    /// The time to wait for an answer is over.
    QuestionDue(QuestionId),
    /// A connection is up or gone.
    Connection {
        /// To which node.
        with: usize,
        /// Which of the two.
        up: bool,
    },
    /// A deadline has come.
    Due,
}

/// What a node wants, and what the checks are to see.
#[derive(Debug, Default)]
pub struct Outbox {
    /// To be carried.
    pub parcels: Vec<Parcel>,
    /// To be gossiped.
    pub deltas: Vec<Bytes>,
    /// To happen to the node itself, so long after the beginning of the simulation.
    pub later: Vec<(Duration, Input)>,
    /// For the checks.
    pub seen: Vec<Seen>,
}

/// What the checks see of a node.
#[derive(Clone, Debug)]
pub enum Seen {
    /// The machine took in an event.
    Handled {
        /// The event was an error of somebody else's.
        error: bool,
        /// Differences that the machine has counted, of all peers together, before and after.
        counted: (u32, u32),
    },
    /// A machine's deadline came, and it was told so.
    Ticked {
        /// Which machine.
        machine: &'static str,
        /// Its deadline is where it was.
        stuck: bool,
    },
    /// A pull began.
    PullStarted(pull::Id, NodeId, pull::Cause),
    /// A pull ended.
    PullEnded(Box<pull::Ended>),
    /// Operators are told.
    Notice(Notice),
    /// The coordinator hears of another incarnation of its own store.
    OwnStore,
    /// The coordinator has given its store's incarnation up.
    Renewed,
    /// The store was told that its peers have filled it again.
    Recovered,
    /// An announcement was signed.
    Announced(SignedAnnouncement),
    /// A client's write was acknowledged.
    Acknowledged(Entry),
    /// What its node reads of the key then.
    ReadBack {
        /// What was acknowledged.
        written: Entry,
        /// What is read.
        read: Option<Entry>,
    },
    /// Entries that a pull has proved go to the store.
    Proved(pull::Id, Vec<Entry>),
    /// A peer's request was answered, and not refused for who it is.
    Served(NodeId),
    /// The coordinator was killed, and all its pulls with it.
    CoordinatorStopped,
    /// The store failed.
    StoreFailed(String),
}
