//! Gets the ports for peers, or says in one line which one is not to be had.
//!
//! libp2p binds TCP with `SO_REUSEPORT`: a second node on the same port would start without complaint, and
//! the kernel would deal the connections out between the two. So each port is tried without it first.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use futures::StreamExt as _;
use lattice_runtime::http::BindError;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};

use crate::address::{self, Socket};

/// How long a listener may take to report its address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries each port, and leaves it free.
///
/// # Errors
/// The first one that is not to be had.
pub(crate) fn probe(addresses: &[Multiaddr]) -> Result<(), BindError> {
    for (index, address) in addresses.iter().enumerate() {
        let bound = match address::socket(address) {
            Some(Socket::Tcp(socket)) if socket.port() != 0 => TcpListener::bind(socket).map(|_| ()),
            Some(Socket::Udp(socket)) if socket.port() != 0 => UdpSocket::bind(socket).map(|_| ()),
            Some(Socket::Tcp(_) | Socket::Udp(_)) | None => Ok(()),
        };
        bound.map_err(|source| failed(index, address, source))?;
    }
    Ok(())
}

/// Listens on all of them, and waits until each has reported where.
///
/// # Errors
/// The first one that cannot be listened on.
pub(crate) async fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    addresses: &[Multiaddr],
) -> Result<(), BindError> {
    let mut waiting: HashMap<ListenerId, usize> = HashMap::new();
    for (index, address) in addresses.iter().enumerate() {
        let listener = swarm
            .listen_on(address.clone())
            .map_err(|error| failed(index, address, io::Error::other(error.to_string())))?;
        waiting.insert(listener, index);
    }
    let reported = tokio::time::timeout(LISTEN_TIMEOUT, async {
        while !waiting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    tracing::info!(%address, "listening for peers");
                    waiting.remove(&listener_id);
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. }
                | SwarmEvent::ListenerError { listener_id, error } => {
                    if let Some(index) = waiting.remove(&listener_id) {
                        return Err(failed(index, &addresses[index], error));
                    }
                }
                // Nobody is trusted yet, so nothing else of interest happens.
                _ => {}
            }
        }
        Ok(())
    });
    if let Ok(outcome) = reported.await {
        return outcome;
    }
    let index = waiting.values().min().copied().unwrap_or_default();
    Err(failed(index, &addresses[index], io::ErrorKind::TimedOut.into()))
}

fn failed(index: usize, address: &Multiaddr, source: io::Error) -> BindError {
    BindError { field: format!("sensor.p2p_listen[{index}]"), address: address.to_string(), source }
}
