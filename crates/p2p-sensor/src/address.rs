//! Multiaddrs: which ones a node listens on, which ones it dials, and what it believes of a peer's.
//!
//! Two transports exist, `/tcp/<port>` and `/udp/<port>/quic-v1`, over an IP address or, to dial, a name.
//! Everything else is refused where it is configured, and ignored where a peer says it.
//!
//! Names are resolved here and not inside libp2p (whose resolver reads the configuration once, caches, needs
//! `/etc/resolv.conf`, and takes `/dns4` past `/etc/hosts`): the system's own resolver is asked again for
//! every dial, and a name with several addresses stands for all of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lattice_core::model::NodeId;
use lattice_runtime::config;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::identity;

/// The most addresses that one name stands for.
pub(crate) const RESOLVED_MAX: usize = 16;
/// Longest wait for the resolver.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A configured peer: where to dial, and whom to expect there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// Where, without `/p2p`.
    pub(crate) address: Multiaddr,
    /// Who; `None` when whoever answers is looked at.
    pub(crate) node: Option<NodeId>,
}

/// Parses element `index` of `sensor.bootstrap`.
///
/// # Errors
/// One line that names the element, its text and what would be right.
pub(crate) fn parse_bootstrap(index: usize, text: &str) -> Result<Bootstrap, config::Error> {
    let refused = |why: String| {
        let example = "/ip4/10.0.0.2/tcp/9000 or /dns4/node-2/tcp/9000/p2p/12D3KooW...";
        config::Error::value(
            format!("sensor.bootstrap[{index}]"),
            text,
            format!("{why}; right would be {example}"),
        )
    };
    let mut address: Multiaddr =
        text.parse().map_err(|error| refused(format!("not a multiaddr: {error}")))?;
    let mut node = None;
    if let Some(Protocol::P2p(peer)) = address.iter().last() {
        let expected = identity::node_id(&peer).map_err(|error| refused(format!("/p2p/{peer}: {error}")))?;
        node = Some(expected);
        address.pop();
    }
    match shape(&address) {
        Some(Shape { host: Host::Ip(ip), port }) if ip.is_unspecified() || port == 0 => {
            Err(refused("nobody can be dialled there".into()))
        }
        Some(Shape { host: Host::Name(_), port: 0 }) => Err(refused("nobody can be dialled there".into())),
        Some(_) => Ok(Bootstrap { address, node }),
        None => Err(refused("not an address over TCP or QUIC".into())),
    }
}

/// Parses element `index` of `sensor.p2p_listen`.
///
/// # Errors
/// One line that names the element, its text and what would be right.
pub(crate) fn parse_listen(index: usize, text: &str) -> Result<Multiaddr, config::Error> {
    let refused = |why: String| {
        let example = "/ip4/0.0.0.0/tcp/9000 or /ip4/0.0.0.0/udp/9000/quic-v1";
        config::Error::value(
            format!("sensor.p2p_listen[{index}]"),
            text,
            format!("{why}; right would be {example}"),
        )
    };
    let address: Multiaddr = text.parse().map_err(|error| refused(format!("not a multiaddr: {error}")))?;
    match shape(&address) {
        Some(Shape { host: Host::Ip(_), .. }) => Ok(address),
        Some(Shape { host: Host::Name(_), .. }) => Err(refused("a name cannot be listened on".into())),
        None => Err(refused("not an address over TCP or QUIC".into())),
    }
}

/// What a peer says of where it listens, reduced to what can be dialled: over a transport that we have, by
/// IP, and on loopback only when `near`, that is when the peer itself talks to us over loopback.
pub(crate) fn hint(address: &Multiaddr, node: &NodeId, near: bool) -> Option<Multiaddr> {
    let mut address = address.clone();
    if let Some(Protocol::P2p(peer)) = address.iter().last() {
        if identity::node_id(&peer) != Ok(*node) {
            return None;
        }
        address.pop();
    }
    match shape(&address)?.host {
        Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !near) => None,
        Host::Ip(_) if shape(&address)?.port == 0 => None,
        Host::Ip(_) => Some(address),
        Host::Name(_) => None,
    }
}

/// Whether the address is on loopback.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    matches!(shape(address), Some(Shape { host: Host::Ip(ip), .. }) if ip.is_loopback())
}

/// Whether the address has a name that must be resolved.
pub(crate) fn is_named(address: &Multiaddr) -> bool {
    matches!(shape(address), Some(Shape { host: Host::Name(_), .. }))
}

/// What an address is bound to; `None` for a name.
pub(crate) fn socket(address: &Multiaddr) -> Option<Socket> {
    let Shape { host: Host::Ip(ip), port } = shape(address)? else { return None };
    let socket = SocketAddr::new(ip, port);
    let is_tcp = address.iter().any(|part| matches!(part, Protocol::Tcp(_)));
    Some(if is_tcp { Socket::Tcp(socket) } else { Socket::Udp(socket) })
}

/// A socket of one of our transports.
pub(crate) enum Socket {
    /// TCP.
    Tcp(SocketAddr),
    /// QUIC.
    Udp(SocketAddr),
}

/// Every IP address that `address` stands for now; itself when it has no name.
///
/// # Errors
/// What the system's resolver says, or that it took too long.
pub(crate) async fn resolve(address: &Multiaddr) -> std::io::Result<Vec<Multiaddr>> {
    let Some(Shape { host: Host::Name(name), port }) = shape(address) else {
        return Ok(vec![address.clone()]);
    };
    let lookup = tokio::net::lookup_host((name.as_str(), port));
    let sockets = tokio::time::timeout(RESOLVE_TIMEOUT, lookup)
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the resolver does not answer"))??;
    let family = address.iter().next();
    let mut resolved = Vec::new();
    for ip in sockets.map(|socket| socket.ip()) {
        let wanted = match family {
            Some(Protocol::Dns4(_)) => ip.is_ipv4(),
            Some(Protocol::Dns6(_)) => ip.is_ipv6(),
            _ => true,
        };
        let one: Multiaddr = std::iter::once(Protocol::from(ip)).chain(address.iter().skip(1)).collect();
        if wanted && resolved.len() < RESOLVED_MAX && !resolved.contains(&one) {
            resolved.push(one);
        }
    }
    Ok(resolved)
}

struct Shape {
    host: Host,
    port: u16,
}

enum Host {
    Ip(IpAddr),
    Name(String),
}

/// The parts of an address over one of our transports, `None` for any other.
fn shape(address: &Multiaddr) -> Option<Shape> {
    let mut parts = address.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => Host::Ip(ip.into()),
        Protocol::Ip6(ip) => Host::Ip(ip.into()),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Host::Name(name.into_owned()),
        _ => return None,
    };
    let port = match parts.next()? {
        Protocol::Tcp(port) => port,
        Protocol::Udp(port) => match parts.next()? {
            Protocol::QuicV1 => port,
            _ => return None,
        },
        _ => return None,
    };
    parts.next().is_none().then_some(Shape { host, port })
}

#[cfg(test)]
mod tests {
    use lattice_runtime::identity::NodeKey;
    use libp2p::PeerId;

    use super::*;

    fn node() -> NodeId {
        NodeId(NodeKey::from_seed(&[7; 32]).public())
    }

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn bootstrap_takes_ip_and_name_with_and_without_identity() {
        let peer = identity::peer_id(&node()).unwrap();
        for text in ["/ip4/10.0.0.2/tcp/9000", "/dns4/node-2/tcp/9000", "/ip6/::1/udp/9000/quic-v1"] {
            let plain = parse_bootstrap(0, text).unwrap();
            assert_eq!(plain, Bootstrap { address: addr(text), node: None });
            let named = parse_bootstrap(0, &format!("{text}/p2p/{peer}")).unwrap();
            assert_eq!(named, Bootstrap { address: addr(text), node: Some(node()) });
        }
    }

    #[test]
    fn a_bad_bootstrap_is_refused_in_one_line() {
        let text = |value| parse_bootstrap(1, value).unwrap_err().to_string();
        let right = "right would be /ip4/10.0.0.2/tcp/9000 or /dns4/node-2/tcp/9000/p2p/12D3KooW...";
        let nonsense = text("10.0.0.2:9000");
        assert!(
            nonsense.starts_with("sensor.bootstrap[1] is \"10.0.0.2:9000\": not a multiaddr: "),
            "{nonsense}"
        );
        assert!(nonsense.ends_with(right), "{nonsense}");
        assert_eq!(
            text("/ip4/10.0.0.2/udp/9000"),
            format!(
                "sensor.bootstrap[1] is \"/ip4/10.0.0.2/udp/9000\": not an address over TCP or QUIC; {right}"
            )
        );
        assert_eq!(
            text("/ip4/0.0.0.0/tcp/9000"),
            format!("sensor.bootstrap[1] is \"/ip4/0.0.0.0/tcp/9000\": nobody can be dialled there; {right}")
        );
        let rsa = text("/ip4/10.0.0.2/tcp/9000/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N");
        assert!(rsa.contains("not the identity of an Ed25519 key"), "{rsa}");
        for line in [nonsense, rsa] {
            assert_eq!(line.lines().count(), 1);
        }
    }

    #[test]
    fn a_name_cannot_be_listened_on() {
        assert_eq!(
            parse_listen(0, "/dns4/node-1/tcp/9000").unwrap_err().to_string(),
            "sensor.p2p_listen[0] is \"/dns4/node-1/tcp/9000\": a name cannot be listened on; \
             right would be /ip4/0.0.0.0/tcp/9000 or /ip4/0.0.0.0/udp/9000/quic-v1"
        );
        assert_eq!(
            parse_listen(0, "/ip4/0.0.0.0/udp/0/quic-v1").unwrap(),
            addr("/ip4/0.0.0.0/udp/0/quic-v1")
        );
    }

    #[test]
    fn of_a_peers_addresses_only_what_can_be_dialled_is_believed() {
        let peer = identity::peer_id(&node()).unwrap();
        let hint = |text: &str, near| hint(&addr(text), &node(), near).map(|address| address.to_string());
        assert_eq!(hint("/ip4/10.0.0.2/tcp/1", false).as_deref(), Some("/ip4/10.0.0.2/tcp/1"));
        assert_eq!(
            hint(&format!("/ip4/10.0.0.2/tcp/1/p2p/{peer}"), false).as_deref(),
            Some("/ip4/10.0.0.2/tcp/1")
        );
        assert_eq!(hint(&format!("/ip4/10.0.0.2/tcp/1/p2p/{}", PeerId::random()), false), None);
        assert_eq!(hint("/ip4/127.0.0.1/tcp/1", false), None);
        assert_eq!(hint("/ip4/127.0.0.1/tcp/1", true).as_deref(), Some("/ip4/127.0.0.1/tcp/1"));
        for unusable in ["/ip4/0.0.0.0/tcp/1", "/ip4/10.0.0.2/tcp/0", "/dns4/x/tcp/1", "/ip4/10.0.0.2/udp/1"]
        {
            assert_eq!(hint(unusable, true), None, "{unusable}");
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_its_addresses() {
        let resolved = resolve(&addr("/dns4/localhost/udp/9000/quic-v1")).await.unwrap();
        assert_eq!(resolved, [addr("/ip4/127.0.0.1/udp/9000/quic-v1")]);
        let itself = addr("/ip4/10.0.0.2/tcp/9000");
        assert_eq!(resolve(&itself).await.unwrap(), [itself]);
    }
}
