//! The one task that owns the swarm.
//!
//! It waits for an event, a command or a deadline, hands it to the machine that decides (`liveness`,
//! [`Dialer`], [`Desk`], [`Peers`]), carries out the effects, and publishes the state if it changed. It
//! never waits for anybody: replies, subscribers and observers all sit behind channels that do not block.

mod command;
mod events;
mod requests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lattice_core::liveness::{self, Liveness};
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_core::time::Monotonic;
use lattice_proto::sensor::v1::{self as wire, Observation, WatchPeersResponse};
use lattice_runtime::Clock;
use libp2p::gossipsub::TopicHash;
use libp2p::metrics::Recorder as _;
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, Swarm};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::behaviour::Behaviour;
use crate::desk::Desk;
use crate::dialer::{self, Dialer, Effect, Outcome, Target};
use crate::gossip::Gate;
use crate::metrics::Metrics;
use crate::observers::Observers;
use crate::peers::Peers;
use crate::{address, identity};

pub(crate) use command::{
    ANSWERS_BYTES_MAX, COMMANDS_MAX, Command, DELTAS_BYTES_MAX, ExchangeError, REQUESTS_BYTES_MAX,
};

/// How long a peer's request waits for whoever answers here; a little less than the peer waits for it.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// Where what is heard goes. Readers that are too slow lose some; deltas never crowd announcements out.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) announcements: broadcast::Sender<Observation>,
    pub(crate) deltas: Observers,
}

/// What the loop is made of; see [`Network`].
pub(crate) struct Parts {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) me: NodeId,
    pub(crate) cluster: String,
    pub(crate) topic: TopicHash,
    pub(crate) gate: Gate,
    pub(crate) clock: Clock,
    pub(crate) dialer: Dialer,
    pub(crate) liveness: Liveness,
    pub(crate) trusted: BTreeSet<NodeId>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) cut: watch::Receiver<bool>,
    pub(crate) view: watch::Sender<WatchPeersResponse>,
    pub(crate) heard: Heard,
    pub(crate) metrics: Metrics,
    pub(crate) libp2p_metrics: libp2p::metrics::Metrics,
}

/// The loop and its state.
pub(crate) struct Network {
    swarm: Swarm<Behaviour>,
    me: NodeId,
    cluster: String,
    topic: TopicHash,
    gate: Gate,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    cut: watch::Receiver<bool>,
    view: watch::Sender<WatchPeersResponse>,
    heard: Heard,
    metrics: Metrics,
    libp2p_metrics: libp2p::metrics::Metrics,

    /// Without our own.
    trusted: BTreeSet<NodeId>,
    dialer: Dialer,
    liveness: Liveness,
    peers: Peers,
    desk: Desk<ResponseChannel<Option<Signed>>>,
    /// What each dial in progress is for.
    dials: HashMap<ConnectionId, (Target, Option<Multiaddr>)>,
    resolving: FuturesUnordered<BoxFuture<'static, (Target, Vec<Multiaddr>)>>,
    exchanges: HashMap<OutboundRequestId, requests::Asked>,
    /// Whether the state may have changed since it was published.
    dirty: bool,
}

impl Network {
    /// Puts the parts together and trusts those keys; the swarm listens already.
    pub(crate) fn new(parts: Parts) -> Self {
        let mut network = Self {
            swarm: parts.swarm,
            me: parts.me,
            cluster: parts.cluster,
            topic: parts.topic,
            gate: parts.gate,
            clock: parts.clock,
            commands: parts.commands,
            cut: parts.cut,
            view: parts.view,
            heard: parts.heard,
            metrics: parts.metrics,
            libp2p_metrics: parts.libp2p_metrics,
            trusted: BTreeSet::new(),
            dialer: parts.dialer,
            liveness: parts.liveness,
            peers: Peers::default(),
            desk: Desk::new(ANSWER_TIMEOUT),
            dials: HashMap::new(),
            resolving: FuturesUnordered::new(),
            exchanges: HashMap::new(),
            dirty: true,
        };
        network.set_trust(parts.trusted);
        network.publish();
        network
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let deadline = self.deadline();
            let clock = self.clock.clone();
            let wake = async move {
                match deadline {
                    Some(Monotonic(at)) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.swarm.select_next_some() => {
                    self.libp2p_metrics.record(&event);
                    self.on_swarm_event(event);
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                Some((target, addresses)) = self.resolving.next() => {
                    self.dial_event(dialer::Event::Resolved { target, addresses });
                }
                Ok(()) = self.cut.changed() => self.on_cut(),
                () = wake => self.on_tick(),
            }
            self.publish();
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic(self.clock.monotonic())
    }

    fn deadline(&self) -> Option<Monotonic> {
        [self.dialer.deadline(), self.liveness.deadline(), self.desk.deadline()].into_iter().flatten().min()
    }

    fn on_tick(&mut self) {
        self.liveness_event(liveness::Event::Tick);
        self.dial_event(dialer::Event::Tick);
        for reply in self.desk.expire(self.now()) {
            self.refuse_exchange(reply, crate::metrics::Ended::TimedOut);
        }
    }

    fn on_cut(&mut self) {
        let cut = *self.cut.borrow_and_update();
        tracing::info!(cut, "P2P is cut off, or no longer");
        self.swarm.behaviour_mut().membership.set_cut(cut);
        if !cut {
            self.dial_event(dialer::Event::Reset);
        }
    }

    fn set_trust(&mut self, trusted: BTreeSet<NodeId>) {
        let others: BTreeSet<NodeId> = trusted.into_iter().filter(|node| *node != self.me).collect();
        // Siblings say it again whenever they find each other anew.
        if others == self.trusted {
            return;
        }
        let mut peers = HashSet::new();
        for node in &others {
            match identity::peer_id(node) {
                Ok(peer) => {
                    peers.insert(peer);
                }
                Err(error) => tracing::warn!(%node, %error, "a trusted key is ignored"),
            }
        }
        tracing::info!(trusted = peers.len(), "trusted keys");
        self.swarm.behaviour_mut().membership.set_trusted(peers);
        self.trusted.clone_from(&others);
        self.gate.set_trusted(others.clone());
        self.liveness_event(liveness::Event::TrustChanged { trusted: others.clone() });
        self.dial_event(dialer::Event::Trust(others));
        self.dirty = true;
    }

    fn liveness_event(&mut self, event: liveness::Event) {
        let mut effects = Vec::new();
        self.liveness.handle(self.now(), event, &mut effects);
        for liveness::Effect::Changed { peer, state } in effects {
            // The count is told by the coordinator, which tells it as an event too.
            match state {
                liveness::State::Fresh => tracing::debug!(%peer, ?state, "peer changed"),
                liveness::State::Live | liveness::State::Zombie | liveness::State::Down => {
                    // What people call it is not known here: so much of its key as they are shown elsewhere.
                    tracing::info!(peer = peer.short(), ?state, "peer changed");
                }
            }
            self.dirty = true;
        }
        self.metrics.set_peers(self.liveness.counts());
    }

    /// Hands an event to the dialer, and does what it says; a dial that fails at once is its next event.
    fn dial_event(&mut self, event: dialer::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            self.dialer.handle(self.now(), event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Resolve { target, addresses } => self.resolve(target, addresses),
                    Effect::Dial { target, node, addresses } => {
                        events.extend(self.dial(target, node, addresses));
                    }
                }
            }
        }
    }

    fn resolve(&mut self, target: Target, addresses: Vec<Multiaddr>) {
        self.resolving.push(Box::pin(async move {
            let mut resolved = Vec::new();
            for named in &addresses {
                match address::resolve(named).await {
                    Ok(found) => resolved.extend(found),
                    Err(error) => tracing::warn!(address = %named, %error, "a name does not resolve"),
                }
            }
            resolved.truncate(address::RESOLVED_MAX);
            (target, resolved)
        }));
    }

    /// Starts a dial; the event is for one that failed at once.
    fn dial(
        &mut self,
        target: Target,
        node: Option<NodeId>,
        addresses: Vec<Multiaddr>,
    ) -> Option<dialer::Event> {
        let place = addresses.first().cloned();
        let opts = match node.map(|node| identity::peer_id(&node)) {
            // Local ports are not reused: two nodes that dial each other from their listening ports would
            // meet in one TCP connection with two dialers.
            Some(Ok(peer)) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(addresses)
                .allocate_new_port()
                .build(),
            None => match place.clone() {
                Some(address) => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
                None => {
                    return Some(dialer::Event::Dialled { target, address: None, outcome: Outcome::Failed });
                }
            },
            Some(Err(_)) => {
                return Some(dialer::Event::Dialled { target, address: place, outcome: Outcome::Failed });
            }
        };
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.dials.insert(connection, (target, place));
                None
            }
            Err(error) => {
                let outcome = self.dial_failed(&place, None, &error);
                Some(dialer::Event::Dialled { target, address: place, outcome })
            }
        }
    }

    /// The peer behind a connection. Membership lets nobody else in, so there always is one.
    fn node(&self, peer: &PeerId) -> Option<NodeId> {
        let node = identity::node_id(peer);
        debug_assert!(node.is_ok(), "only nodes are trusted");
        node.ok()
    }

    /// Publishes the state if it changed.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let peers = self.liveness.connected().filter_map(|(node, state, _)| {
            let peer = self.peers.get(&node)?;
            let state = match state {
                liveness::State::Live => wire::State::Live,
                liveness::State::Fresh => wire::State::Fresh,
                liveness::State::Zombie => wire::State::Zombie,
                liveness::State::Down => return None,
            };
            Some(wire::Peer {
                node: Bytes::copy_from_slice(node.as_bytes()),
                peer_id: identity::peer_id(&node).map(|peer| peer.to_string()).unwrap_or_default(),
                state: state.into(),
                addresses: peer.addresses().map(ToString::to_string).collect(),
                last_heartbeat_ms: peer.heard_ms,
                connected_ms: peer.connected_ms,
            })
        });
        let peers = peers.collect();
        let mut listen: Vec<String> = self.swarm.listeners().map(ToString::to_string).collect();
        listen.sort_unstable();
        self.view.send_if_modified(|view| {
            let mut next = view.clone();
            next.started = !listen.is_empty();
            if next.started {
                next.error.clear();
            }
            next.listen_addresses = listen;
            next.peers = peers;
            let changed = *view != next;
            *view = next;
            changed
        });
    }

    /// Says why nothing listens any more; shown until something does.
    fn set_error(&mut self, error: String) {
        self.view.send_modify(|view| view.error = error);
        self.dirty = true;
    }
}
