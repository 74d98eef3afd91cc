//! What the coordinator hears.

use crate::failover::Mode;
use crate::liveness;
use crate::model::{Epoch, Incarnation, Key, NodeId};
use crate::pull;
use crate::seal::Runs;
use crate::signed::SignedAnnouncement;
use crate::time::WallTime;

use super::Route;

/// What the coordinator hears. `wall` is our own wall clock at the time.
#[derive(Clone, Debug)]
pub enum Event {
    /// Our own seals: from the store's stream, and each time they are read.
    Seals(OwnSeals),
    /// The store does not answer: in short, why. [`Event::Seals`] ends that.
    StoreGone {
        /// Why.
        reason: String,
    },
    /// The sequence of our next announcement, before anybody else knows it. They come in the order in which the
    /// store hands them out.
    Sequence {
        /// The incarnation that it belongs to.
        incarnation: Incarnation,
        /// The sequence.
        last: u64,
    },
    /// The sensor's whole present state.
    Sensor {
        /// P2P is enabled in the configuration.
        enabled: bool,
        /// libp2p is up.
        started: bool,
        /// Why it is not; empty when it is.
        error: String,
        /// Trusted peers that are connected.
        peers: Vec<SensorPeer>,
    },
    /// The sensor does not answer: in short, why.
    SensorGone {
        /// Why.
        reason: String,
    },
    /// An announcement came over its announcer's own noise connection; its signature was checked.
    Heard {
        /// Whose connection it was.
        from: NodeId,
        /// The announcement.
        announcement: SignedAnnouncement,
        /// Our clock.
        wall: WallTime,
    },
    /// An accepted request of a peer, as the store tells of it: its signature and challenge were checked, and
    /// the signature of what it carried.
    Asked {
        /// Who asked.
        peer: NodeId,
        /// The announcement that it carried.
        announcement: Option<SignedAnnouncement>,
        /// The pull that it belongs to.
        pull: Option<crate::exchange::PullPart>,
        /// The pull has ended with it.
        ended: bool,
        /// Our clock.
        wall: WallTime,
    },
    /// A poll was answered with a well-formed state, whose announcement has a valid signature. Answers
    /// [`super::Effect::Poll`].
    Polled {
        /// Which URL.
        url: String,
        /// The announcement.
        announcement: SignedAnnouncement,
        /// Our clock.
        wall: WallTime,
    },
    /// A poll failed: no answer, or an unusable one. Answers [`super::Effect::Poll`].
    PollFailed {
        /// Which URL.
        url: String,
        /// In short, what was wrong.
        reason: String,
    },
    /// A hello was answered, in a verified envelope. Answers [`super::Effect::Hello`].
    Greeted {
        /// By whom.
        peer: NodeId,
        /// Over which route.
        route: Route,
        /// The incarnation that answered.
        incarnation: Incarnation,
        /// Ours, in which we asked.
        own_incarnation: Incarnation,
        /// The greatest sequence that it heard from us in that incarnation; 0 for none.
        heard_sequence: u64,
        /// The greatest epoch that it heard from us in that incarnation; 0 for none.
        heard_epoch: Epoch,
        /// Its clock, signed.
        time: WallTime,
        /// Our clock.
        wall: WallTime,
    },
    /// A hello has no good answer, a refusal included. Answers [`super::Effect::Hello`].
    GreetFailed {
        /// Whose.
        peer: NodeId,
        /// Over which route.
        route: Route,
        /// In short, what was wrong.
        reason: String,
    },
    /// A peer refused a request of ours because our incarnation was replaced ([`crate::exchange::Reason::Incarnation`]),
    /// in a verified envelope. It comes before what else answers the request.
    Disowned {
        /// Who refused.
        peer: NodeId,
        /// The incarnation in which we asked.
        incarnation: Incarnation,
    },
    /// The store knows that an incarnation was replaced, which we believe: it remembers what a restart of ours
    /// forgot. Answers [`super::Effect::TellHeard`].
    Replaced {
        /// Whose.
        peer: NodeId,
        /// The one that was told.
        incarnation: Incarnation,
        /// The one that took its place.
        present: Incarnation,
    },
    /// Something that a pull asked for. Unknown ids are of pulls that are over: ignored.
    Pull {
        /// Which pull.
        id: pull::Id,
        /// What came of it.
        event: pull::Event,
    },
    /// Keys of our store that are damaged. Answers [`super::Effect::ListDamaged`].
    Damaged {
        /// At most as many as were asked for.
        lost: Vec<pull::Lost>,
        /// The last of them, when there may be more; `None` at the end.
        more: Option<Key>,
    },
    /// The store did not list them. Answers [`super::Effect::ListDamaged`].
    DamageUnknown,
    /// An operator's choice of path.
    SwitchMode(Mode),
    /// An operator wants a pull now. Answered by [`super::Effect::ReconcileAccepted`].
    Reconcile {
        /// Returned in the answer.
        token: u64,
        /// From whom; `None`: from every known peer.
        peer: Option<NodeId>,
    },
    /// The effective trusted keys are these from now on.
    TrustChanged {
        /// All of them; this node's own may be among them.
        trusted: Vec<NodeId>,
    },
    /// The base URLs of peers' gateways are these from now on.
    UrlsChanged {
        /// All of them.
        urls: Vec<String>,
    },
    /// The deadline has come.
    Tick,
}

/// Our own store's seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSeals {
    /// The store's incarnation.
    pub incarnation: Incarnation,
    /// Raised whenever the store found, dropped or set aside anything it held.
    pub damage_generation: u64,
    /// The recent seals; empty before the first.
    pub runs: Runs,
    /// The store lost entries, and does not know which, until [`super::Effect::Recovered`].
    pub recovering: bool,
    /// How many keys are known to be damaged.
    pub damaged: u64,
}

/// A trusted peer that is connected, as the sensor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorPeer {
    /// Who.
    pub node: NodeId,
    /// Anything but down.
    pub state: liveness::State,
    /// Multiaddrs of its connections.
    pub addresses: Vec<String>,
}
