//! The connections to each peer: which to keep, and whether any of them works.
//!
//! Two nodes that dial each other at the same time end up with two connections, or four when each dials two
//! addresses of the other. That is harmless; more are of no use, so the oldest goes. A connection whose pings fail is not closed for that: a peer that was
//! stopped is a zombie, and its connection may yet come back. It is closed once another one to the same peer
//! works, since requests would otherwise go on being sent into it; and while none works, the peer is dialled
//! anew ([`Peers::is_suspect`]).
//!
//! Whether a peer counts is decided by `lattice_core::liveness`; this only keeps the connections.

use std::collections::BTreeMap;

use lattice_core::model::NodeId;
use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

/// Connections kept to one peer.
pub(crate) const CONNECTIONS_MAX: usize = 4;

/// All connected peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
}

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Since when, Unix milliseconds.
    pub(crate) connected_ms: u64,
    /// When an announcement was last heard on these connections; 0 for never.
    pub(crate) heard_ms: u64,
    /// Oldest first; never empty.
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    connection: ConnectionId,
    address: Multiaddr,
    failing: bool,
}

/// What a new connection means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The peer was not connected before.
    pub(crate) first: bool,
    /// One connection too many: close this one.
    pub(crate) surplus: Option<ConnectionId>,
}

impl Peers {
    /// A connection was made.
    pub(crate) fn opened(
        &mut self,
        node: NodeId,
        connection: ConnectionId,
        address: Multiaddr,
        wall_ms: u64,
    ) -> Opened {
        let first = !self.peers.contains_key(&node);
        let peer =
            self.peers.entry(node).or_insert(Peer { connected_ms: wall_ms, heard_ms: 0, links: Vec::new() });
        peer.links.push(Link { connection, address, failing: false });
        // Its closing is reported by libp2p like any other.
        let surplus = (peer.links.len() > CONNECTIONS_MAX).then(|| peer.links[0].connection);
        Opened { first, surplus }
    }

    /// A connection is gone; true when it was the peer's last.
    pub(crate) fn closed(&mut self, node: &NodeId, connection: ConnectionId) -> bool {
        let Some(peer) = self.peers.get_mut(node) else { return false };
        peer.links.retain(|link| link.connection != connection);
        let last = peer.links.is_empty();
        if last {
            self.peers.remove(node);
        }
        last
    }

    /// A ping was answered, or was not. Returns the connections to close.
    pub(crate) fn pinged(&mut self, node: &NodeId, connection: ConnectionId, ok: bool) -> Vec<ConnectionId> {
        let Some(peer) = self.peers.get_mut(node) else { return Vec::new() };
        for link in &mut peer.links {
            if link.connection == connection {
                link.failing = !ok;
            }
        }
        if peer.links.iter().all(|link| link.failing) {
            return Vec::new();
        }
        peer.links.iter().filter(|link| link.failing).map(|link| link.connection).collect()
    }

    /// An announcement was heard.
    pub(crate) fn heard(&mut self, node: &NodeId, wall_ms: u64) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.heard_ms = wall_ms;
        }
    }

    /// Whether the peer is connected, and no connection to it works.
    pub(crate) fn is_suspect(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.links.iter().all(|link| link.failing))
    }

    /// A connected peer.
    pub(crate) fn get(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(node)
    }

    /// All of them, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers.iter()
    }
}

impl Peer {
    /// Where its connections lead.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        self.links.iter().map(|link| &link.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn open(peers: &mut Peers, n: usize) -> Opened {
        peers.opened(NODE, id(n), "/ip4/10.0.0.1/tcp/1".parse().unwrap(), n as u64)
    }

    #[test]
    fn a_peer_is_connected_from_its_first_connection_to_its_last() {
        let mut peers = Peers::default();
        assert!(open(&mut peers, 1).first);
        assert!(!open(&mut peers, 2).first);
        assert!(!peers.closed(&NODE, id(1)));
        assert!(peers.closed(&NODE, id(2)));
        assert!(!peers.closed(&NODE, id(2)), "only once");
        assert!(peers.get(&NODE).is_none());
    }

    #[test]
    fn of_too_many_connections_the_oldest_goes() {
        let mut peers = Peers::default();
        for n in 0..CONNECTIONS_MAX {
            assert_eq!(open(&mut peers, n).surplus, None);
        }
        assert_eq!(open(&mut peers, CONNECTIONS_MAX).surplus, Some(id(0)));
        peers.closed(&NODE, id(0));
        assert_eq!(open(&mut peers, 9).surplus, Some(id(1)));
    }

    #[test]
    fn a_dead_connection_is_closed_only_beside_one_that_works() {
        let mut peers = Peers::default();
        open(&mut peers, 1);
        assert_eq!(peers.pinged(&NODE, id(1), false), []);
        assert!(peers.is_suspect(&NODE));
        open(&mut peers, 2);
        assert!(!peers.is_suspect(&NODE));
        assert_eq!(peers.pinged(&NODE, id(2), true), [id(1)]);
        peers.closed(&NODE, id(1));
        assert_eq!(peers.pinged(&NODE, id(2), false), []);
        assert_eq!(peers.pinged(&NODE, id(2), true), []);
        assert!(!peers.is_suspect(&NODE));
    }

    #[test]
    fn what_was_heard_is_forgotten_with_the_connections() {
        let mut peers = Peers::default();
        open(&mut peers, 1);
        peers.heard(&NODE, 77);
        assert_eq!(peers.get(&NODE).unwrap().heard_ms, 77);
        peers.closed(&NODE, id(1));
        open(&mut peers, 2);
        assert_eq!(peers.get(&NODE).unwrap().heard_ms, 0);
    }
}
