//! What the coordinator has done, and what it reports.

use std::time::Duration;

use crate::exchange::Request;
use crate::failover::{self, Health, Path, SyncMode};
use crate::hearing;
use crate::model::{Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use crate::pull;
use crate::seal::Root;
use crate::tree::Position;

/// Who is to hear an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// Every connected peer.
    All,
    /// This one, which has just connected.
    Peer(NodeId),
}

/// How to reach a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Over libp2p.
    P2p,
    /// Over HTTP, at this base URL.
    Http {
        /// As configured, or expanded from what is.
        url: String,
    },
}

impl Route {
    /// Which of the two paths it is.
    pub fn path(&self) -> Path {
        match self {
            Self::P2p => Path::P2p,
            Self::Http { .. } => Path::Http,
        }
    }

    /// The base URL that it leads through.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::P2p => None,
            Self::Http { url } => Some(url),
        }
    }
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read our seals ([`super::Event::Seals`]), reserve a sequence number ([`super::Event::Sequence`]), sign an
    /// announcement and send it through the sensor.
    Announce {
        /// To whom.
        to: Recipients,
    },
    /// Read our seals: answered by [`super::Event::Seals`] or [`super::Event::StoreGone`].
    ReadSeals,
    /// GET the state at a URL: answered by [`super::Event::Polled`] or [`super::Event::PollFailed`].
    Poll {
        /// The base URL.
        url: String,
    },
    /// A hello exchange, with our announcement: answered by [`super::Event::Greeted`] or
    /// [`super::Event::GreetFailed`].
    Hello {
        /// Whom to ask; an answer by anybody else is a failure.
        peer: NodeId,
        /// How to reach it.
        route: Route,
    },
    /// A question of a pull: answered by [`pull::Event::Reply`] or [`pull::Event::Failed`] in
    /// [`super::Event::Pull`], unless it is the last. A refusal for the challenge alone is tried again by the
    /// pull, with the challenge that came with it.
    Exchange {
        /// Which pull.
        pull: pull::Id,
        /// The question's number.
        number: u64,
        /// Whom to ask.
        peer: NodeId,
        /// How to reach it.
        route: Route,
        /// The question.
        request: Request,
        /// Attach our newest announcement.
        announce: bool,
        /// Nothing waits for the answer.
        last: bool,
    },
    /// Read our own tree: answered by [`pull::Event::LocalNodes`] or [`pull::Event::LocalFailed`].
    ReadLocalNodes {
        /// For which pull.
        pull: pull::Id,
        /// Where.
        positions: Vec<Position>,
    },
    /// Compare with the live map: answered by [`pull::Event::Compared`] or [`pull::Event::LocalFailed`].
    Compare {
        /// For which pull.
        pull: pull::Id,
        /// The peer's heads.
        heads: Vec<EntryHead>,
    },
    /// Merge verified entries: answered by [`pull::Event::Merged`] or [`pull::Event::LocalFailed`].
    Merge {
        /// For which pull.
        pull: pull::Id,
        /// The entries.
        entries: Vec<Entry>,
        /// They are to take the place of damaged ones.
        repair: bool,
    },
    /// List damaged keys of our store: answered by [`super::Event::Damaged`] or [`super::Event::DamageUnknown`].
    ListDamaged {
        /// The keys after this one; `None`: from the first.
        after: Option<Key>,
        /// How many at most.
        limit: usize,
    },
    /// Tell the store what was heard from a peer: answered by [`super::Event::Replaced`], if it knows better.
    TellHeard {
        /// From whom.
        node: NodeId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// The greatest sequence.
        sequence: u64,
        /// The greatest epoch.
        epoch: Epoch,
    },
    /// Tell store and sensor the effective trusted keys.
    SetTrust {
        /// All of them.
        trusted: Vec<NodeId>,
    },
    /// Our disk was rolled back, or the incarnation was replaced: start a new one. Nothing is announced until
    /// [`super::Event::Seals`] shows it.
    Reincarnate {
        /// The one to replace.
        incarnation: Incarnation,
    },
    /// Our store recovered, and its peers have filled it again: tell it, and read our seals. Answered by
    /// [`super::Event::Seals`] or [`super::Event::StoreGone`].
    Recovered {
        /// Which store; another one has not recovered by this.
        incarnation: Incarnation,
    },
    /// Whether our own clock is confirmed, at every change: the store refuses writes while it is
    /// [`Clock::Wrong`], which is said again before [`crate::clock::WRONG_HOLDS`] is over.
    JudgeClock(Clock),
    /// A pull that an operator asked for will be recorded under these ids.
    ReconcileAccepted {
        /// Of the event.
        token: u64,
        /// One for each peer; of a pull that was running already, its id. Empty: no such peer is known.
        pulls: Vec<(NodeId, pull::Id)>,
    },
    /// A pull has begun; a repair, too.
    PullStarted {
        /// Which.
        id: pull::Id,
        /// From whom.
        peer: NodeId,
        /// Why.
        cause: pull::Cause,
        /// How it is reached.
        route: Route,
        /// Our newest root at the time.
        root_before: Option<Root>,
    },
    /// A pull has ended; to be recorded in the heal history, unless it was a repair.
    PullEnded {
        /// How.
        ended: pull::Ended,
        /// How the peer was reached, at the end; `None` when there was no way.
        route: Option<Route>,
        /// Our newest root when it began.
        root_before: Option<Root>,
    },
    /// What our next seal said after a healed pull: completes its record.
    RootAfter {
        /// Which pull.
        id: pull::Id,
        /// From whom it was.
        peer: NodeId,
        /// By which path.
        path: Path,
        /// Our newest root.
        root: Option<Root>,
    },
    /// Keep [`super::Coordinator::memory`], which changed, for the next start.
    Remember,
    /// What operators are told.
    Notice(Notice),
}

/// Whether others agree with our clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Nobody, or too few, are there to say.
    Unknown,
    /// Most live trusted peers agree with it.
    Confirmed,
    /// At least two live trusted peers, and most of them, agree against it.
    Wrong {
        /// How far they say that ours is off, in milliseconds; positive: ours is behind.
        behind_ms: i64,
        /// Who says so.
        peers: Vec<NodeId>,
    },
}

/// What operators are told, as it happens. The shell renders it for the log, the event stream and metrics.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The number of live peers is another one.
    PeerCount {
        /// How many.
        live: usize,
    },
    /// The sensor does not answer. Said once, until [`Notice::SensorAnswers`].
    SensorUnavailable {
        /// Why.
        reason: String,
    },
    /// The sensor, of which the former was said, answers again.
    SensorAnswers,
    /// Our store does not answer. Said once, until [`Notice::StoreAnswers`].
    StoreUnavailable {
        /// Why.
        reason: String,
    },
    /// Our store answers again.
    StoreAnswers,
    /// Our store lost entries, and does not know which.
    Recovering,
    /// Our store has recovered: its peers have filled it again, or an operator accepted the loss.
    Recovered,
    /// The last live peer is gone.
    TimerStarted {
        /// When HTTP takes over, from now.
        after: Duration,
    },
    /// The node as a whole goes to HTTP.
    FallbackActivated,
    /// The node as a whole goes back to P2P.
    Returned,
    /// The summary changed.
    SyncModeChanged(SyncMode),
    /// The health changed.
    HealthChanged(Health),
    /// One peer is reached by the other path from now on.
    PathChanged {
        /// Which peer.
        peer: NodeId,
        /// The path.
        path: Path,
    },
    /// One peer's failover state changed.
    FailoverChanged {
        /// Which peer.
        peer: NodeId,
        /// Its state.
        state: failover::State,
    },
    /// A comparison differed and was counted.
    Diverged {
        /// From whom.
        peer: NodeId,
        /// How it was heard.
        route: Route,
        /// How many in a row.
        count: u32,
        /// The epoch compared.
        epoch: Epoch,
        /// There was no common epoch to compare.
        no_common_epoch: bool,
        /// A pull is due, and may start after so long: pulls before it came to nothing. `None`: nothing holds it
        /// back, or none is due.
        pull_in: Option<Duration>,
    },
    /// Differences were counted, and are none any more: the roots agree, or ours dominates.
    Agreed {
        /// With whom.
        peer: NodeId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// A pull begins; see [`Effect::PullStarted`] for the rest.
    PullTriggered {
        /// From whom.
        peer: NodeId,
        /// How it is reached.
        route: Route,
        /// Why.
        cause: pull::Cause,
    },
    /// No trusted keys: reconciling with nobody.
    NoTrust,
    /// An announcement was refused.
    AnnouncementRefused {
        /// Who signed it.
        node: NodeId,
        /// How it came.
        route: Route,
        /// Why.
        reason: hearing::Refused,
    },
    /// A peer signed two roots for one epoch of one incarnation: its disk was rolled back, or it lies.
    Contradiction {
        /// Who.
        peer: NodeId,
        /// Which of its stores.
        incarnation: Incarnation,
        /// The epoch.
        epoch: Epoch,
    },
    /// A peer is believed for the first time, or speaks from a new store.
    NewIncarnation {
        /// Who.
        peer: NodeId,
        /// Which store.
        incarnation: Incarnation,
        /// The one before.
        replaced: Option<Incarnation>,
    },
    /// A URL was asked who it is, for the first time or with another answer than before.
    UrlIdentified {
        /// Which.
        url: String,
        /// Who answered.
        node: NodeId,
    },
    /// A URL is our own, and is skipped.
    UrlIsOurs {
        /// Which.
        url: String,
    },
    /// A URL does not work: polls or exchanges fail. Said once, until [`Notice::UrlWorks`].
    UrlFailed {
        /// Which.
        url: String,
        /// Who was there.
        node: Option<NodeId>,
        /// What was wrong.
        reason: String,
    },
    /// A URL works again, polls and exchanges both, after [`Notice::UrlFailed`].
    UrlWorks {
        /// Which.
        url: String,
        /// Who is there.
        node: NodeId,
    },
    /// A peer's clock is off, or right again.
    PeerClock {
        /// Whose.
        peer: NodeId,
        /// By how much, in milliseconds; positive: it is ahead of ours. `None`: right again.
        ahead_ms: Option<i64>,
    },
    /// What others say of our clock changed.
    OwnClock(Clock),
    /// A peer has heard more from our incarnation than we know of, or we have used more numbers ourselves than the
    /// store knows of.
    RolledBack {
        /// Who says so; `None`: we ourselves.
        peer: Option<NodeId>,
        /// The incarnation that is to be given up.
        incarnation: Incarnation,
        /// What it heard, and what we know.
        heard_sequence: u64,
        /// The greatest sequence that we may have used.
        own_sequence: u64,
        /// The greatest epoch that it heard.
        heard_epoch: Epoch,
        /// Our newest epoch.
        own_epoch: Epoch,
        /// When a new incarnation is started; zero: now.
        renewed_in: Duration,
    },
    /// Our store speaks in an incarnation that was given up before: its disk was rolled back.
    Reappeared {
        /// The incarnation, in place of which a new one is started now.
        incarnation: Incarnation,
    },
    /// A peer knows a newer incarnation of this node than ours: this store is an older one, or another node uses
    /// our key.
    Disowned {
        /// Who says so.
        peer: NodeId,
        /// Our incarnation.
        incarnation: Incarnation,
        /// When a new one is started; zero: now.
        renewed_in: Duration,
    },
    /// The operator chose.
    ModeSwitched {
        /// What.
        mode: failover::Mode,
    },
}
