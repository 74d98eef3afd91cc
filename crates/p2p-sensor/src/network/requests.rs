//! Announcements, deltas and exchanges, in both directions.

use bytes::Bytes;
use lattice_core::liveness;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::codec::{self, OpenError};
use lattice_proto::sensor::v1::{Observation, observation};
use libp2p::gossipsub::{self, PublishError};
use libp2p::request_response::{
    Event as RequestEvent, Message as RequestMessage, OutboundFailure, OutboundRequestId, ResponseChannel,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::command::Room;
use super::{Command, ExchangeError, Network};
use crate::desk;
use crate::identity;
use crate::metrics::{Announcement, Direction, Ended, Gossip, Refused};

/// Our requests in flight.
const EXCHANGES_MAX: usize = 128;
/// Those to one peer: one that hangs uses up its own share only.
const EXCHANGES_PER_PEER_MAX: usize = 16;

/// A request of ours in flight.
pub(super) struct Asked {
    node: NodeId,
    reply: oneshot::Sender<Result<Signed, ExchangeError>>,
    _room: Room,
}

impl Network {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Announce { announcement, to, reply } => {
                let _ = reply.send(self.announce(&announcement, to));
            }
            Command::Broadcast { delta, room, reply } => {
                let _ = reply.send(self.broadcast(delta));
                drop(room);
            }
            Command::Exchange { node, request, room, reply } => self.ask(node, request, room, reply),
            Command::Serve { caller, requests } => {
                for reply in self.desk.open(caller, requests) {
                    self.refuse_exchange(reply, Ended::Unanswered);
                }
            }
            Command::Answer { caller, id, response, room } => {
                self.answer(caller, id, response);
                drop(room);
            }
            Command::CallerGone { caller } => {
                for reply in self.desk.close(caller) {
                    self.refuse_exchange(reply, Ended::Unanswered);
                }
            }
            Command::SetTrust { trusted, reply } => {
                self.set_trust(trusted);
                // Who is told that trust has changed sees nobody else from then on.
                self.publish();
                let _ = reply.send(());
            }
        }
    }

    fn announce(&mut self, announcement: &Signed, to: Option<NodeId>) -> u32 {
        let peers: Vec<PeerId> = match to {
            Some(node) => self.connected(&node).into_iter().collect(),
            None => self.peers.iter().filter_map(|(node, _)| self.connected(node)).collect(),
        };
        let announce = &mut self.swarm.behaviour_mut().announce;
        for peer in &peers {
            announce.send_request(peer, announcement.clone());
            self.metrics.announcement(Announcement::Sent);
        }
        u32::try_from(peers.len()).unwrap_or(u32::MAX)
    }

    /// The trusted, connected peer's name in libp2p.
    fn connected(&self, node: &NodeId) -> Option<PeerId> {
        if self.liveness.state(node) == liveness::State::Down {
            return None;
        }
        let peer = identity::peer_id(node).ok()?;
        // libp2p would dial on its own account for one that has just gone.
        self.swarm.is_connected(&peer).then_some(peer)
    }

    pub(super) fn on_announcement(
        &mut self,
        peer: &PeerId,
        signed: Signed,
        channel: ResponseChannel<Option<Signed>>,
    ) {
        let Some(node) = self.node(peer) else { return };
        let announcement = match self.check(&node, &signed) {
            Ok(announcement) => announcement,
            Err(reason) => {
                tracing::warn!(peer = %node, reason = reason.label(), "announcement refused");
                self.metrics.announcement_refused(reason);
                // Not answered: the announcer counts it as not heard.
                return;
            }
        };
        self.metrics.announcement(Announcement::Heard);
        self.peers.heard(&node, self.clock.wall_ms());
        self.liveness_event(liveness::Event::Heard { peer: node });
        let said: Vec<Multiaddr> =
            announcement.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        self.learn(node, said.iter());
        let _ = self.heard.announcements.send(Observation {
            node: Bytes::copy_from_slice(node.as_bytes()),
            what: Some(observation::What::Announcement((&signed).into())),
        });
        // Fails only when the announcer waits no longer.
        let _ = self.swarm.behaviour_mut().announce.send_response(channel, None);
        self.dirty = true;
    }

    /// All that is asked of a heartbeat. Whether it is *news* is for those who observe it.
    fn check(&self, node: &NodeId, signed: &Signed) -> Result<lattice_core::signed::Announcement, Refused> {
        if self.liveness.state(node) == liveness::State::Down {
            return Err(Refused::Untrusted);
        }
        let opened = codec::decode_announcement(signed).map_err(|error| match error {
            OpenError::TooLarge { .. } | OpenError::Malformed(_) => Refused::Malformed,
            OpenError::Signature => Refused::Signature,
        })?;
        if opened.announcement.cluster != self.cluster {
            return Err(Refused::Cluster);
        }
        if opened.announcement.node != *node {
            return Err(Refused::Signer);
        }
        opened.verify().map_err(|_| Refused::Signature)?;
        Ok(opened.announcement)
    }

    /// Whether it is on its way to anybody. A hint that nobody gets is a hint that a pull will make up for.
    fn broadcast(&mut self, delta: Vec<u8>) -> bool {
        let topic = self.topic.clone();
        match self.swarm.behaviour_mut().gossipsub.publish(topic, delta) {
            Ok(_) => {
                self.metrics.gossip(Gossip::Published);
                true
            }
            Err(PublishError::NoPeersSubscribedToTopic) => {
                self.metrics.gossip(Gossip::NoPeers);
                false
            }
            // Counted for each of them, when gossipsub reports who is slow.
            Err(PublishError::AllQueuesFull(_)) => false,
            Err(error) => {
                tracing::debug!(%error, "delta not published");
                self.metrics.gossip(Gossip::Dropped);
                false
            }
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { message, .. } => {
                let author = message.source.and_then(|peer| identity::node_id(&peer).ok());
                debug_assert!(author.is_some(), "the gate lets nobody else in");
                let Some(node) = author else { return };
                self.metrics.gossip(Gossip::Heard);
                let bytes = message.data.len();
                let delta = Observation {
                    node: Bytes::copy_from_slice(node.as_bytes()),
                    what: Some(observation::What::Delta(message.data.into())),
                };
                self.heard.deltas.tell(&delta, bytes);
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                let lost = failed_messages.non_priority;
                tracing::debug!(peer = %peer_id, lost, "peer is too slow for deltas");
                self.metrics.gossip_lost(lost as u64);
            }
            gossipsub::Event::Subscribed { .. }
            | gossipsub::Event::Unsubscribed { .. }
            | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn ask(
        &mut self,
        node: NodeId,
        request: Signed,
        room: Room,
        reply: oneshot::Sender<Result<Signed, ExchangeError>>,
    ) {
        let Some(peer) = self.connected(&node) else {
            self.metrics.exchange(Direction::Out, Ended::Failed);
            let _ = reply.send(Err(ExchangeError::NotConnected));
            return;
        };
        let of_peer = self.exchanges.values().filter(|asked| asked.node == node).count();
        if self.exchanges.len() >= EXCHANGES_MAX || of_peer >= EXCHANGES_PER_PEER_MAX {
            self.metrics.exchange(Direction::Out, Ended::Busy);
            let _ = reply.send(Err(ExchangeError::Busy));
            return;
        }
        let id = self.swarm.behaviour_mut().exchange.send_request(&peer, request);
        self.exchanges.insert(id, Asked { node, reply, _room: room });
    }

    pub(super) fn on_exchange(&mut self, event: RequestEvent<Signed, Option<Signed>>) {
        match event {
            RequestEvent::Message { peer, message, .. } => match message {
                RequestMessage::Request { request, channel, .. } => self.put(&peer, &request, channel),
                RequestMessage::Response { request_id, response } => {
                    let answer = response.ok_or(ExchangeError::Unanswered);
                    self.end_exchange(request_id, answer);
                }
            },
            RequestEvent::OutboundFailure { request_id, error, .. } => {
                let error = match error {
                    OutboundFailure::Timeout => ExchangeError::TimedOut,
                    OutboundFailure::DialFailure
                    | OutboundFailure::ConnectionClosed
                    | OutboundFailure::UnsupportedProtocols
                    | OutboundFailure::Io(_) => ExchangeError::Failed(error.to_string()),
                };
                self.end_exchange(request_id, Err(error));
            }
            RequestEvent::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a peer's request broke off");
                self.metrics.exchange(Direction::In, Ended::Failed);
            }
            RequestEvent::ResponseSent { .. } => {}
        }
    }

    fn end_exchange(&mut self, id: OutboundRequestId, answer: Result<Signed, ExchangeError>) {
        let Some(asked) = self.exchanges.remove(&id) else { return };
        let ended = match &answer {
            Ok(_) => Ended::Answered,
            Err(ExchangeError::Unanswered) => Ended::Unanswered,
            Err(ExchangeError::TimedOut) => Ended::TimedOut,
            Err(ExchangeError::Busy) => Ended::Busy,
            Err(ExchangeError::NotConnected | ExchangeError::Failed(_)) => Ended::Failed,
        };
        self.metrics.exchange(Direction::Out, ended);
        let _ = asked.reply.send(answer);
    }

    /// Puts a peer's request to whoever answers here.
    fn put(&mut self, peer: &PeerId, request: &Signed, channel: ResponseChannel<Option<Signed>>) {
        let Some(node) = self.node(peer) else { return };
        if let Err((channel, refused)) = self.desk.ask(self.now(), node, request, channel) {
            let ended = match refused {
                desk::Refused::Nobody => Ended::Unanswered,
                desk::Refused::Busy => Ended::Busy,
            };
            tracing::debug!(peer = %node, ?refused, "a peer's request is not answered");
            self.refuse_exchange(channel, ended);
        }
    }

    fn answer(&mut self, caller: desk::CallerId, id: u64, response: Option<Signed>) {
        let Some(channel) = self.desk.answer(caller, id) else {
            tracing::debug!(id, "an answer came too late");
            return;
        };
        if response.is_none() {
            return self.refuse_exchange(channel, Ended::Unanswered);
        }
        self.metrics.exchange(Direction::In, Ended::Answered);
        let _ = self.swarm.behaviour_mut().exchange.send_response(channel, response);
    }

    /// Tells a peer at once that nobody answers.
    pub(super) fn refuse_exchange(&mut self, channel: ResponseChannel<Option<Signed>>, ended: Ended) {
        self.metrics.exchange(Direction::In, ended);
        let _ = self.swarm.behaviour_mut().exchange.send_response(channel, None);
    }
}
