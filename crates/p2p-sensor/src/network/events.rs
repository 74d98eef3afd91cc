//! What the swarm reports.

use lattice_core::liveness;
use lattice_core::model::NodeId;
use libp2p::core::ConnectedPoint;
use libp2p::request_response::{Event as RequestEvent, Message as RequestMessage};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, ping};

use super::Network;
use crate::behaviour::BehaviourEvent;
use crate::dialer::{Event as DialEvent, Outcome};
use crate::membership::Denied;
use crate::metrics::{Announcement, Dial};
use crate::{address, identity};

/// Addresses looked at of what a peer says about itself.
const HINTS_MAX: usize = 32;

impl Network {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_opened(&peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let cause = cause.map(|cause| cause.to_string());
                self.on_closed(&peer_id, connection_id, cause.as_deref());
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                let Some((target, place)) = self.dials.remove(&connection_id) else { return };
                let outcome = self.dial_failed(&place, peer_id, &error);
                self.dial_event(DialEvent::Dialled { target, address: place, outcome });
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, peer_id, .. } => {
                let peer = peer_id.map(|peer| peer.to_string());
                match denied(&error) {
                    Some(denied) => {
                        self.metrics.connection_refused(denied);
                        tracing::debug!(peer, address = %send_back_addr, reason = %denied, "connection refused");
                    }
                    None => {
                        tracing::debug!(peer, address = %send_back_addr, %error, "inbound handshake failed")
                    }
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening for peers");
                self.dirty = true;
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::info!(%address, "no longer listening for peers");
                self.dirty = true;
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                let reason = reason.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                tracing::error!(?addresses, reason, "a listener for peers is gone");
                if self.swarm.listeners().next().is_none() {
                    self.set_error(format!("nothing listens any more: {reason}"));
                }
                self.dirty = true;
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener for peers failed to accept");
            }
            // What these say arrives with the events above, or is for protocols that we do not speak; the
            // enum is open, so that a wildcard is needed in any case.
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        use libp2p::metrics::Recorder as _;
        match event {
            BehaviourEvent::Membership(never) => match never {},
            BehaviourEvent::Identify(event) => {
                self.libp2p_metrics.record(&event);
                self.on_identify(event);
            }
            BehaviourEvent::Ping(event) => {
                self.libp2p_metrics.record(&event);
                self.on_ping(&event);
            }
            BehaviourEvent::Gossipsub(event) => {
                self.libp2p_metrics.record(&event);
                self.on_gossip(event);
            }
            BehaviourEvent::Announce(event) => match event {
                RequestEvent::Message { peer, message, .. } => match message {
                    RequestMessage::Request { request, channel, .. } => {
                        self.on_announcement(&peer, request, channel);
                    }
                    RequestMessage::Response { .. } => {}
                },
                RequestEvent::OutboundFailure { peer, error, .. } => {
                    tracing::debug!(%peer, %error, "announcement not heard");
                    self.metrics.announcement(Announcement::Failed);
                }
                RequestEvent::InboundFailure { peer, error, .. } => {
                    tracing::debug!(%peer, %error, "announcement broken off");
                }
                RequestEvent::ResponseSent { .. } => {}
            },
            BehaviourEvent::Exchange(event) => self.on_exchange(event),
        }
    }

    fn on_opened(&mut self, peer: &PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(node) = self.node(peer) else { return };
        let address = endpoint.get_remote_address().clone();
        tracing::debug!(%node, %address, "connection opened");
        let opened = self.peers.opened(node, connection, address, self.clock.wall_ms());
        if let Some(surplus) = opened.surplus {
            self.swarm.close_connection(surplus);
        }
        if opened.first {
            self.liveness_event(liveness::Event::Connected { peer: node });
            self.dial_event(DialEvent::Connected { node });
        }
        if let Some((target, place)) = self.dials.remove(&connection) {
            self.metrics.dial(Dial::Connected);
            self.dial_event(DialEvent::Dialled { target, address: place, outcome: Outcome::Found(node) });
        }
        self.dial_event(DialEvent::Suspect { node, suspect: false });
        self.dirty = true;
    }

    fn on_closed(&mut self, peer: &PeerId, connection: ConnectionId, cause: Option<&str>) {
        let Some(node) = self.node(peer) else { return };
        tracing::debug!(%node, cause, "connection closed");
        if self.peers.closed(&node, connection) {
            self.liveness_event(liveness::Event::Disconnected { peer: node });
            self.dial_event(DialEvent::Disconnected { node });
        }
        self.dirty = true;
    }

    /// Counts a dial that failed, and says what that means.
    pub(super) fn dial_failed(
        &mut self,
        place: &Option<Multiaddr>,
        peer: Option<PeerId>,
        error: &DialError,
    ) -> Outcome {
        let (kind, outcome) = match error {
            DialError::LocalPeerId { .. } => (Dial::Own, Outcome::Own),
            // libp2p leaves out the addresses that we listen on; this one was the only one.
            DialError::NoAddresses if peer.is_none() && self.is_own(place) => (Dial::Own, Outcome::Own),
            DialError::Denied { cause } => {
                if let Some(denied) = cause.downcast_ref::<Denied>() {
                    self.metrics.connection_refused(*denied);
                }
                let found = peer.and_then(|peer| identity::node_id(&peer).ok());
                (Dial::Refused, found.map_or(Outcome::Failed, Outcome::Found))
            }
            DialError::NoAddresses
            | DialError::DialPeerConditionFalse(_)
            | DialError::Aborted
            | DialError::WrongPeerId { .. }
            | DialError::Transport(_) => (Dial::Failed, Outcome::Failed),
        };
        tracing::debug!(address = place.as_ref().map(ToString::to_string), %error, "dial failed");
        self.metrics.dial(kind);
        outcome
    }

    fn is_own(&self, place: &Option<Multiaddr>) -> bool {
        self.swarm.listeners().any(|own| Some(own) == place.as_ref())
    }

    fn on_identify(&mut self, event: identify::Event) {
        if let identify::Event::Received { peer_id, info, .. } = event
            && let Some(node) = self.node(&peer_id)
        {
            self.learn(node, info.listen_addrs.iter());
        }
    }

    /// Remembers where a peer says that it listens.
    pub(super) fn learn<'a>(&mut self, node: NodeId, said: impl Iterator<Item = &'a Multiaddr>) {
        let near = self.peers.get(&node).is_some_and(|peer| peer.addresses().any(address::is_loopback));
        let hints = said.take(HINTS_MAX).filter_map(|said| address::hint(said, &node, near));
        let addresses: Vec<Multiaddr> = hints.collect();
        if !addresses.is_empty() {
            self.dial_event(DialEvent::Learned { node, addresses });
        }
    }

    fn on_ping(&mut self, event: &ping::Event) {
        let ok = match &event.result {
            Ok(_) => true,
            // It answers, which is what we want to know.
            Err(ping::Failure::Unsupported) => true,
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => false,
        };
        let Some(node) = self.node(&event.peer) else { return };
        for dead in self.peers.pinged(&node, event.connection, ok) {
            self.swarm.close_connection(dead);
        }
        let suspect = self.peers.is_suspect(&node);
        self.dial_event(DialEvent::Suspect { node, suspect });
    }
}

fn denied(error: &ListenError) -> Option<Denied> {
    match error {
        ListenError::Denied { cause } => cause.downcast_ref::<Denied>().copied(),
        ListenError::Aborted
        | ListenError::WrongPeerId { .. }
        | ListenError::LocalPeerId { .. }
        | ListenError::Transport(_) => None,
    }
}
