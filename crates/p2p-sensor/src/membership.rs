//! Whose connections are kept: those of trusted keys, and nobody else's.
//!
//! A stranger may complete a handshake, which is how its key becomes known; then it is refused, before any
//! other protocol hears of it. Handshakes in progress are bounded, since they cost strangers nothing: in all, and
//! for each address, so that one stranger who begins many and ends none does not keep the members out. A key that
//! is removed loses its connections at once.
//!
//! The same place can cut the node off altogether, for tests and demonstrations that want a real partition.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Handshakes of inbound connections in progress.
pub(crate) const PENDING_INBOUND_MAX: usize = 64;
/// Those from one address: members may share one, behind a translator or on one machine.
pub(crate) const PENDING_PER_ADDRESS_MAX: usize = 16;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Denied {
    /// The other side's key is not trusted.
    Untrusted,
    /// The node is cut off.
    Cut,
    /// Too many handshakes are in progress.
    Pending,
}

/// Refuses connections, and closes those that are no longer allowed.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    trusted: HashSet<PeerId>,
    cut: bool,
    /// Where each handshake in progress comes from.
    pending: HashMap<ConnectionId, Option<IpAddr>>,
    connected: HashSet<PeerId>,
    closing: VecDeque<PeerId>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Keeps the connections of these, and closes all others.
    pub(crate) fn set_trusted(&mut self, trusted: HashSet<PeerId>) {
        self.trusted = trusted;
        self.close_refused();
    }

    /// Refuses and closes everything (`true`), or goes back to the trusted keys.
    pub(crate) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
        self.close_refused();
    }

    fn close_refused(&mut self) {
        let refused = self.connected.iter().filter(|peer| self.judge(peer).is_err()).copied();
        self.closing.extend(refused.collect::<Vec<_>>());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The rule.
    fn judge(&self, peer: &PeerId) -> Result<(), Denied> {
        if self.cut {
            return Err(Denied::Cut);
        }
        if !self.trusted.contains(peer) {
            return Err(Denied::Untrusted);
        }
        Ok(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.cut {
            return Err(ConnectionDenied::new(Denied::Cut));
        }
        let from = source(remote);
        let of_address = self.pending.values().filter(|other| **other == from).count();
        if self.pending.len() >= PENDING_INBOUND_MAX || of_address >= PENDING_PER_ADDRESS_MAX {
            return Err(ConnectionDenied::new(Denied::Pending));
        }
        self.pending.insert(connection, from);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
        self.judge(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let allowed = match peer {
            Some(peer) => self.judge(&peer),
            None if self.cut => Err(Denied::Cut),
            None => Ok(()),
        };
        allowed.map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.judge(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                self.connected.insert(peer_id);
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.connected.remove(&closed.peer_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.pending.remove(&failure.connection_id);
            }
            // libp2p adds events over time; the rest are no business of ours.
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(peer_id) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Where a connection comes from, as far as it costs something to come from elsewhere: whoever has one address of
/// IPv6 has the 2^64 beside it.
fn source(remote: &Multiaddr) -> Option<IpAddr> {
    remote.iter().find_map(|part| match part {
        Protocol::Ip4(address) => Some(IpAddr::V4(address)),
        Protocol::Ip6(address) => Some(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        }),
        _ => None,
    })
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untrusted => "the peer's key is not trusted",
            Self::Cut => "the node is cut off",
            Self::Pending => "too many handshakes are in progress",
        })
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Multiaddr {
        "/ip4/127.0.0.1/tcp/1".parse().unwrap()
    }

    fn inbound(behaviour: &mut Behaviour, id: usize, peer: PeerId) -> Result<(), Denied> {
        let id = ConnectionId::new_unchecked(id);
        let reason = |denied: ConnectionDenied| *denied.downcast_ref::<Denied>().unwrap();
        behaviour.handle_pending_inbound_connection(id, &address(), &address()).map_err(reason)?;
        behaviour
            .handle_established_inbound_connection(id, peer, &address(), &address())
            .map(|_| ())
            .map_err(reason)
    }

    #[test]
    fn only_trusted_keys_stay_and_an_empty_list_trusts_nobody() {
        let (friend, stranger) = (PeerId::random(), PeerId::random());
        let mut behaviour = Behaviour::default();
        assert_eq!(inbound(&mut behaviour, 1, friend), Err(Denied::Untrusted));
        behaviour.set_trusted(HashSet::from([friend]));
        assert_eq!(inbound(&mut behaviour, 2, friend), Ok(()));
        assert_eq!(inbound(&mut behaviour, 3, stranger), Err(Denied::Untrusted));
        behaviour.set_cut(true);
        assert_eq!(inbound(&mut behaviour, 4, friend), Err(Denied::Cut));
        behaviour.set_cut(false);
        assert_eq!(inbound(&mut behaviour, 5, friend), Ok(()));
        assert!(behaviour.pending.is_empty(), "handshakes that ended are not in progress");
    }

    /// How many of 100 handshakes may begin, when each comes from the next of these addresses.
    fn begun(from: impl Fn(usize) -> String) -> usize {
        let mut behaviour = Behaviour::default();
        let mut begin = |id: usize| {
            let remote = from(id).parse().unwrap();
            let id = ConnectionId::new_unchecked(id);
            behaviour.handle_pending_inbound_connection(id, &address(), &remote).is_ok()
        };
        (0..100).filter(|id| begin(*id)).count()
    }

    #[test]
    fn handshakes_in_progress_are_bounded_in_all_and_for_each_address() {
        assert_eq!(begun(|id| format!("/ip4/10.0.0.{id}/tcp/1")), PENDING_INBOUND_MAX);
        assert_eq!(begun(|id| format!("/ip4/10.0.0.1/tcp/{id}")), PENDING_PER_ADDRESS_MAX);
        assert_eq!(begun(|id| format!("/ip4/10.0.0.1/udp/{id}/quic-v1")), PENDING_PER_ADDRESS_MAX);
        assert_eq!(begun(|id| format!("/ip4/10.0.0.{}/tcp/{id}", id % 2)), 2 * PENDING_PER_ADDRESS_MAX);
        assert_eq!(
            begun(|id| format!("/ip6/2001:db8::{id:x}/tcp/1")),
            PENDING_PER_ADDRESS_MAX,
            "one network"
        );
        assert_eq!(begun(|id| format!("/ip6/2001:db8:0:{id:x}::1/tcp/1")), PENDING_INBOUND_MAX);
    }

    #[test]
    fn a_handshake_that_ended_makes_room() {
        let mut behaviour = Behaviour::default();
        for id in 0..100 {
            assert_eq!(inbound(&mut behaviour, id, PeerId::random()), Err(Denied::Untrusted));
        }
    }
}
