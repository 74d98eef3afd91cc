//! What must hold, by name: after every event, or once the cluster is at rest.
//!
//! Each is counted whenever it is looked at, so that a run that never came near one does not pass for having kept
//! it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Something that must hold in every history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// The machines assert what must hold inside of them.
    NoPanic,
    /// An error of somebody else's is no difference.
    ErrorsDoNotCount,
    /// A coordinator that hears of something over and over has nobody but itself to blame.
    NotBusy,
    /// A deadline that has come is moved by the tick that it asked for.
    DeadlinesMove,
    /// One pull from each peer, and no more than `pulls_max`.
    PullsAreBounded,
    /// Nobody is asked again before the pause that he earned is over.
    PausesAreKept,
    /// Neither a lie nor a wrong answer is ever said of an honest node.
    HonestAreNotBlamed,
    /// The numbers of one incarnation's announcements rise.
    NumbersRise,
    /// One incarnation never signs two roots for one epoch.
    OneRootPerEpoch,
    /// What a pull brings, some client wrote, just so.
    NothingUnprovedIsApplied,
    /// Nothing is taken from or given to a node whose key was removed.
    RemovedKeysAreRefused,
    /// A pull that ends `Healed` left nothing missing of what the peer had sealed when it began.
    HealedLacksNothing,
    /// A store does what it is asked for.
    StoresWork,
    /// What was acknowledged is read at once, on the node that did.
    WritesAreRead,
    /// All honest nodes come to one root, over everything that was written.
    OneRootInTheEnd,
    /// Equal roots stand for equal entries.
    EqualRootsAreEqualMaps,
    /// All that a node holds, some client wrote.
    OnlyWhatWasWritten,
    /// Every acknowledged write is held by all, or a newer one of its key, while one disk that held it lives.
    AcknowledgedIsNotLost,
    /// No key that was deleted has come back.
    DeletedStaysDeleted,
    /// Nothing is read after it has expired.
    ExpiredIsNotRead,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::NoPanic,
        Self::ErrorsDoNotCount,
        Self::NotBusy,
        Self::DeadlinesMove,
        Self::PullsAreBounded,
        Self::PausesAreKept,
        Self::HonestAreNotBlamed,
        Self::NumbersRise,
        Self::OneRootPerEpoch,
        Self::NothingUnprovedIsApplied,
        Self::RemovedKeysAreRefused,
        Self::HealedLacksNothing,
        Self::StoresWork,
        Self::WritesAreRead,
        Self::OneRootInTheEnd,
        Self::EqualRootsAreEqualMaps,
        Self::OnlyWhatWasWritten,
        Self::AcknowledgedIsNotLost,
        Self::DeletedStaysDeleted,
        Self::ExpiredIsNotRead,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPanic => "no machine breaks what it asserts of itself",
            Self::ErrorsDoNotCount => "an error is not counted as a difference",
            Self::NotBusy => "no coordinator runs in circles",
            Self::DeadlinesMove => "a tick moves the deadline it was for",
            Self::PullsAreBounded => "one pull a peer, and pulls_max in all",
            Self::PausesAreKept => "nobody is asked again before his pause is over",
            Self::HonestAreNotBlamed => "whoever is honest is not blamed",
            Self::NumbersRise => "announcement numbers rise",
            Self::OneRootPerEpoch => "one incarnation, one epoch, one root",
            Self::NothingUnprovedIsApplied => "a pull applies only what some client wrote",
            Self::RemovedKeysAreRefused => "a removed key is refused",
            Self::HealedLacksNothing => "a healed pull left nothing missing",
            Self::StoresWork => "no store fails",
            Self::WritesAreRead => "an acknowledged write is read at once",
            Self::OneRootInTheEnd => "all honest nodes come to one root",
            Self::EqualRootsAreEqualMaps => "equal roots stand for equal entries",
            Self::OnlyWhatWasWritten => "nodes hold only what some client wrote",
            Self::AcknowledgedIsNotLost => "no acknowledged write is lost",
            Self::DeletedStaysDeleted => "no deleted key comes back",
            Self::ExpiredIsNotRead => "what has expired is not read",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen instead.
    pub what: String,
}

/// How often each invariant was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked(BTreeMap<Invariant, u64>);

impl Checked {
    /// Looks at one.
    ///
    /// # Errors
    /// When it does not hold: `what` was seen instead.
    pub fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        self.result(invariant, if holds { Ok(()) } else { Err(what()) })
    }

    /// Looks at one that somebody else has judged.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn result(&mut self, invariant: Invariant, held: Result<(), String>) -> Result<(), Violation> {
        self.count(invariant, 1);
        held.map_err(|what| Violation { invariant, what })
    }

    /// Notes that one was looked at.
    pub fn count(&mut self, invariant: Invariant, times: u64) {
        *self.0.entry(invariant).or_default() += times;
    }

    /// How often one was looked at.
    pub fn of(&self, invariant: Invariant) -> u64 {
        self.0.get(&invariant).copied().unwrap_or_default()
    }

    /// Takes in what another run looked at.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(&invariant, &times)| self.count(invariant, times));
    }
}
