//! The libp2p stack: transports, and the protocols on top of them.
//!
//! TCP with noise and yamux, and QUIC. [`membership`] comes first, so that no other protocol hears of a
//! stranger. Connections are never closed for idleness: they are few, and a silent peer is to be seen as
//! such. Deltas travel over gossipsub: see [`gossip`].

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport as _};
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::IdentTopic;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::{self, NetworkBehaviour, Swarm};
use libp2p::{PeerId, identify, noise, ping, quic, tcp, yamux};

use crate::codec::{ANNOUNCE, Codec, EXCHANGE};
use crate::{gossip, membership};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an announcement may take to be heard.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to answer. Callers have shorter deadlines.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Streams of one connection that carry announcements, both ways.
const ANNOUNCE_STREAMS_MAX: usize = 32;
/// Streams of one connection that carry exchanges, both ways.
const EXCHANGE_STREAMS_MAX: usize = 128;
/// All streams of one connection.
const STREAMS_MAX: usize = 256;
/// Streams that a peer has opened and that have not agreed on a protocol yet.
const NEGOTIATING_STREAMS_MAX: usize = 64;
/// Never.
const IDLE_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// All protocols.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) membership: membership::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) gossipsub: gossip::Behaviour,
    pub(crate) announce: request_response::Behaviour<Codec>,
    pub(crate) exchange: request_response::Behaviour<Codec>,
}

/// What the stack is built from.
pub(crate) struct Parts<'a> {
    pub(crate) keypair: &'a Keypair,
    pub(crate) topic: &'a IdentTopic,
    /// Whose deltas are let in.
    pub(crate) gate: gossip::Gate,
    /// `sensor.peer_timeout`.
    pub(crate) peer_timeout: Duration,
}

/// Why the stack could not be built.
#[derive(Debug, thiserror::Error)]
#[error("start libp2p: {0}")]
pub(crate) struct BuildError(String);

/// Builds the stack; nothing listens yet, and nobody is trusted.
pub(crate) fn build(parts: &Parts<'_>) -> Result<Swarm<Behaviour>, BuildError> {
    let peer_id = PeerId::from_public_key(&parts.keypair.public());
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS_MAX);
    Ok(Swarm::new(transport(parts)?, behaviour(parts)?, peer_id, config))
}

fn transport(parts: &Parts<'_>) -> Result<Boxed<(PeerId, StreamMuxerBox)>, BuildError> {
    let noise = noise::Config::new(parts.keypair).map_err(failed)?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_MAX);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));

    let mut quic = quic::Config::new(parts.keypair);
    quic.handshake_timeout = HANDSHAKE_TIMEOUT;
    quic.max_concurrent_stream_limit = STREAMS_MAX as u32;
    // Long enough for a silent peer to be seen as a zombie, as it is over TCP, before it is gone.
    let idle = (parts.peer_timeout * 2).clamp(Duration::from_secs(10), Duration::from_secs(120));
    quic.max_idle_timeout = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
    quic.keep_alive_interval = Duration::from_secs(3);
    let quic = quic::tokio::Transport::new(quic).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));

    Ok(tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed())
}

fn behaviour(parts: &Parts<'_>) -> Result<Behaviour, BuildError> {
    let identify = identify::Config::new("/lattice/1".into(), parts.keypair.public())
        .with_agent_version(concat!("lattice/", env!("CARGO_PKG_VERSION")).into())
        .with_push_listen_addr_updates(true)
        // The dialer remembers addresses; one memory is enough.
        .with_cache_size(0);
    let ping =
        ping::Config::new().with_interval(Duration::from_secs(5)).with_timeout(Duration::from_secs(10));
    Ok(Behaviour {
        membership: membership::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
        gossipsub: gossip::behaviour(parts.keypair, parts.topic, parts.gate.clone()).map_err(BuildError)?,
        announce: request_response::Behaviour::with_codec(
            Codec::announce(),
            [(ANNOUNCE, ProtocolSupport::Full)],
            request_response::Config::default()
                .with_request_timeout(ANNOUNCE_TIMEOUT)
                .with_max_concurrent_streams(ANNOUNCE_STREAMS_MAX),
        ),
        exchange: request_response::Behaviour::with_codec(
            Codec::exchange(),
            [(EXCHANGE, ProtocolSupport::Full)],
            request_response::Config::default()
                .with_request_timeout(EXCHANGE_TIMEOUT)
                .with_max_concurrent_streams(EXCHANGE_STREAMS_MAX),
        ),
    })
}

fn failed(why: impl std::fmt::Display) -> BuildError {
    BuildError(why.to_string())
}
