//! What a pull is told, what it asks for, and how it ends.

use std::fmt;
use std::time::Duration;

use crate::exchange::{Request, Response};
use crate::failover::Path;
use crate::model::{Entry, EntryHead, Epoch, Incarnation, KeyHash, NodeId};
use crate::seal::{Root, Runs};
use crate::time::{Monotonic, WallTime};
use crate::tree::{Node, Position};

/// Names a pull, on the wire and in the heal history; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a pull was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// An operator asked for it; it ignores backoff.
    Operator,
    /// It answers the peer's own pull, is marked so, and is not answered in kind itself.
    InKind,
    /// Our store recovers: it waits for pulls from all peers, whether they differ or not.
    Recovery,
    /// The peer differed `divergence_threshold` times in a row.
    Divergence,
    /// Entries of ours are damaged: only their keys are looked for, and nothing is proved of the rest.
    Repair,
}

/// How a pull ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Our live map was shown to hold everything that the peer's verified tree holds, or newer. Of a repair:
    /// everything was looked for, whatever was found.
    Healed,
    /// The ground moved: the peer answers as another incarnation, or with a seal older than one we have, or it
    /// is no longer trusted; or it has nothing, and never said that it had.
    Stale,
    /// The peer declined, with its signature; or signed an answer to another question.
    Refused,
    /// The peer signed content that contradicts other content it signed.
    Lied,
    /// The peer did not answer in time.
    TimedOut,
    /// The path broke: no connection, an unusable answer, a broken signature; or our own store is away.
    Lost,
    /// Differences were found, and the live map does not hold them although they were sent to be merged.
    NoProgress,
}

impl Outcome {
    /// Every outcome, in a fixed order (for metrics that exist from the start).
    pub const ALL: [Self; 7] =
        [Self::Healed, Self::Stale, Self::Refused, Self::Lied, Self::TimedOut, Self::Lost, Self::NoProgress];

    /// The name that operators and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healed => "Healed",
            Self::Stale => "Stale",
            Self::Refused => "Refused",
            Self::Lied => "Lied",
            Self::TimedOut => "TimedOut",
            Self::Lost => "Lost",
            Self::NoProgress => "NoProgress",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom to pull from, and what is known of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pull's name.
    pub id: Id,
    /// Why it is made.
    pub cause: Cause,
    /// The peer.
    pub peer: NodeId,
    /// The cluster that its seals must name.
    pub cluster: String,
    /// The incarnation that its seals must name; `None`: whichever the first answer names.
    pub incarnation: Option<Incarnation>,
    /// What it announced, in that incarnation; its seals must not contradict it.
    pub announced: Runs,
    /// The path at first.
    pub path: Path,
    /// The longest wait for one answer.
    pub request_timeout: Duration,
    /// How long a question may be kept back before it is sent, for a budget.
    pub pause_max: Duration,
    /// The longest time without anything new that was verified or merged.
    pub stall_timeout: Duration,
    /// How long it may wait in all for answers that bring little.
    pub patience: Duration,
    /// What the clock of an entry may be ahead of ours before the store holds it back.
    pub max_clock_drift: Duration,
}

/// What one question cost, in bytes of signed envelopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The answer.
    pub bytes_in: u64,
    /// The question.
    pub bytes_out: u64,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None came in time.
    TimedOut,
    /// The path broke, or what came was no signed answer: in short, what happened.
    Lost(String),
}

/// What the store did with a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounts {
    /// Entries that were new or replaced what was here.
    pub merged: u64,
    /// Entries that were here already, or older.
    pub known: u64,
    /// Entries kept aside until they are due.
    pub held: u64,
    /// Entries not yet due, for which there was no room.
    pub dropped: u64,
    /// Of those merged, entries whose key was damaged, and is not any more.
    pub repaired: u64,
}

/// What the machine hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "each is moved once, and none is kept")]
pub enum Event {
    /// Begin.
    Start,
    /// An answer whose envelope was verified: signed by the peer, to us, for this question.
    Reply {
        /// The question's number, of [`Effect::Ask`]; a late answer to an earlier one is ignored.
        number: u64,
        /// Which of the peer's stores answers, as its envelope says.
        incarnation: Incarnation,
        /// The answer.
        response: Response,
        /// What both cost.
        traffic: Traffic,
    },
    /// A question has no answer.
    Failed {
        /// The question's number.
        number: u64,
        /// Why.
        failure: Failure,
    },
    /// Our own nodes, in the order asked: where an inner node is, its children; else the heads that we have below
    /// there, which are none where we have nothing.
    LocalNodes(Vec<Node>),
    /// What a comparison with the live map found: indexes into the heads given, ascending.
    Compared {
        /// Heads that the live map does not dominate.
        missing: Vec<usize>,
        /// Heads too far ahead of the clock to be missing.
        ahead: Vec<usize>,
    },
    /// A merge is durable.
    Merged(MergeCounts),
    /// Our own store did not do what an effect asked for: in short, why.
    LocalFailed(String),
    /// From now on the peer is reached by this path; a question under way is asked again there.
    PathChanged(Path),
    /// Nobody wants the pull any more: in short, why.
    Cancel(String),
    /// The deadline has come.
    Tick,
}

/// What the shell is to do. Everything but the last is answered by one event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "each is moved once, and none is kept")]
pub enum Effect {
    /// Ask the peer.
    Ask {
        /// Tells the answer from that of an earlier question.
        number: u64,
        /// The question.
        request: Request,
        /// Attach our newest announcement to it.
        announce: bool,
        /// By which path.
        path: Path,
        /// No answer is waited for.
        last: bool,
    },
    /// Read our own tree at its newest seal, at up to [`crate::exchange::POSITIONS_MAX`] positions.
    ReadLocalNodes(Vec<Position>),
    /// Compare up to [`HEADS_MAX`] heads with the live map.
    Compare(Vec<EntryHead>),
    /// Merge up to [`MERGE_MAX`] verified entries; those of a repair as such.
    Merge(Vec<Entry>),
    /// It is over; nothing comes after it.
    Ended(Box<Ended>),
}

/// A key whose entry in our own store is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The way to it in a tree.
    pub key_hash: KeyHash,
    /// What the entry was; `None` where nothing intact tells.
    pub head: Option<EntryHead>,
}

/// The most keys that one repair looks for.
pub const LOST_MAX: usize = 256;

/// What a repair came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Keys that were looked for.
    pub sought: u64,
    /// Keys that are damaged no more.
    pub repaired: u64,
    /// What the peer could not give, or was not asked for any more: at most [`LOST_MAX`].
    pub left: Vec<Lost>,
}

/// The most entries in one merge: the store's other writers wait for it.
pub const MERGE_MAX: usize = 1_024;

/// The most heads in one comparison.
pub const HEADS_MAX: usize = 8_192;

/// A pull that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub id: Id,
    /// Why it was made.
    pub cause: Cause,
    /// From whom.
    pub peer: NodeId,
    /// In which incarnation it spoke; `None` when it never did.
    pub incarnation: Option<Incarnation>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why; empty when healed.
    pub detail: String,
    /// By which path, at the end.
    pub path: Path,
    /// When it was started.
    pub started: Monotonic,
    /// When it was over.
    pub ended: Monotonic,
    /// Questions that were answered.
    pub rounds: u32,
    /// Bytes of signed envelopes.
    pub traffic: Traffic,
    /// Entries that were new here, or replaced what was here.
    pub entries_merged: u64,
    /// Entries too far ahead of our clock.
    pub entries_ahead: u64,
    /// Whether it brought anything that was verified and new to us: what resets the backoff. Walking the same
    /// way again is not new.
    pub verified_new: bool,
    /// Of a repair: what it found; `None` for every other pull.
    pub repaired: Option<Repaired>,
    /// When healed, and no repair: the seal that our live map now dominates. Without a root, the peer had nothing.
    pub dominated: Option<Dominated>,
}

/// A peer's seal that our live map holds, or newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dominated {
    /// The seal's epoch.
    pub epoch: Epoch,
    /// The seal's root.
    pub root: Option<Root>,
    /// Only until then: when the earliest entry that is too far ahead now will be due.
    pub until: Option<WallTime>,
}
