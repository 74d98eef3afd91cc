//! The hostile peer over libp2p: a real node with the real protocols, whose frames are its own.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use lattice_core::signed::Signed;
use lattice_proto::codec::{SIGNED_BYTES_MAX, decode_signed, encode_signed};
use libp2p::request_response::{self, Event, Message, ProtocolSupport, ResponseChannel};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identity, noise, tcp, yamux};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::{DRIP_EVERY, LATE};
use super::{Mouth, Reply};
use crate::wait::wall;

const ANNOUNCE: StreamProtocol = StreamProtocol::new("/lattice/announce/1");
const EXCHANGE: StreamProtocol = StreamProtocol::new("/lattice/exchange/1");
/// Well within the peer timeout of those whom it wants to be live for.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(300);
/// Longer than anybody's patience: nothing ends here first.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A length that no frame has.
const TOO_LARGE: u64 = 1 << 40;

/// A node that has dialled another one, until it is dropped.
pub struct P2pPeer {
    told: watch::Receiver<u64>,
    closed: watch::Receiver<u64>,
    node: JoinHandle<()>,
}

impl P2pPeer {
    /// Dials `address`, announces there, and lets `mouth` answer.
    ///
    /// # Panics
    /// When libp2p cannot be set up.
    pub fn start(mouth: Mouth, key: &ed25519_dalek::SigningKey, address: &str) -> Self {
        let mut seed = key.to_bytes();
        let keypair = identity::Keypair::ed25519_from_bytes(&mut seed).expect("a seed of 32 bytes");
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("noise")
            .with_behaviour(|_| behaviour())
            .expect("a behaviour")
            .with_swarm_config(|config| config.with_idle_connection_timeout(TIMEOUT))
            .build();
        let (told_tx, told) = watch::channel(0);
        let (closed_tx, closed) = watch::channel(0);
        let address: Multiaddr = address.parse().expect("a multiaddr");
        let node = tokio::spawn(Node { swarm, mouth, kept: Vec::new() }.run(address, told_tx, closed_tx));
        Self { told, closed, node }
    }

    /// How often it has answered wrongly.
    pub fn told(&self) -> u64 {
        *self.told.borrow()
    }

    /// How often the one whom it dialled has closed the connection.
    pub fn closed(&self) -> u64 {
        *self.closed.borrow()
    }
}

impl Drop for P2pPeer {
    fn drop(&mut self) {
        self.node.abort();
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    announce: request_response::Behaviour<Frames>,
    exchange: request_response::Behaviour<Frames>,
}

fn behaviour() -> Behaviour {
    let config = || request_response::Config::default().with_request_timeout(TIMEOUT);
    let on = |protocol| {
        request_response::Behaviour::with_codec(Frames, [(protocol, ProtocolSupport::Full)], config())
    };
    Behaviour { announce: on(ANNOUNCE), exchange: on(EXCHANGE) }
}

struct Node {
    swarm: Swarm<Behaviour>,
    mouth: Mouth,
    /// Requests that are never answered, and whose streams stay open.
    kept: Vec<ResponseChannel<Reply>>,
}

impl Node {
    async fn run(mut self, address: Multiaddr, told: watch::Sender<u64>, closed: watch::Sender<u64>) {
        let mut beats = tokio::time::interval(ANNOUNCE_EVERY);
        let mut peer: Option<PeerId> = None;
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                        peer = Some(peer_id);
                        beats.reset_immediately();
                    }
                    SwarmEvent::ConnectionClosed { num_established: 0, .. } => {
                        peer = None;
                        closed.send_modify(|count| *count += 1);
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Exchange(Event::Message {
                        message: Message::Request { request, channel, .. },
                        ..
                    })) => self.answer(request, channel),
                    SwarmEvent::Behaviour(BehaviourEvent::Announce(Event::Message {
                        message: Message::Request { channel, .. },
                        ..
                    })) => {
                        let _ = self.swarm.behaviour_mut().announce.send_response(channel, Reply::Whole(Bytes::new()));
                    }
                    _ => {}
                },
                _ = beats.tick() => match peer {
                    Some(peer) => {
                        let announcement = Bytes::from(encode_signed(&self.mouth.announcement(wall())));
                        self.swarm.behaviour_mut().announce.send_request(&peer, announcement);
                    }
                    None => {
                        // Refused, or under way: it is tried again.
                        let _ = self.swarm.dial(address.clone());
                    }
                },
            }
            let _ = told.send_replace(self.mouth.told());
        }
    }

    fn answer(&mut self, request: Bytes, channel: ResponseChannel<Reply>) {
        let reply = match decode_signed(request) {
            Ok(signed) => self.say(&signed),
            Err(_) => Reply::HangUp,
        };
        match reply {
            Reply::Nothing => self.kept.push(channel),
            Reply::HangUp => drop(channel),
            reply => {
                // Fails only when nobody waits for it any more.
                let _ = self.swarm.behaviour_mut().exchange.send_response(channel, reply);
            }
        }
    }

    fn say(&mut self, request: &Signed) -> Reply {
        self.mouth.answer(request, wall())
    }
}

/// Frames as the protocols have them, and as they do not.
#[derive(Clone, Copy, Debug)]
struct Frames;

impl request_response::Codec for Frames {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Reply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut length = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            io.read_exact(&mut byte).await?;
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut frame = Vec::new();
        io.take(length.min(SIGNED_BYTES_MAX as u64)).read_to_end(&mut frame).await?;
        Ok(frame.into())
    }

    /// What comes back to an announcement does not matter.
    async fn read_response<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Reply>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(Reply::Nothing)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, frame: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_length(io, frame.len() as u64).await?;
        io.write_all(&frame).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, reply: Reply) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match reply {
            Reply::Whole(bytes) => {
                write_length(io, bytes.len() as u64).await?;
                io.write_all(&bytes).await
            }
            Reply::Late(bytes) => {
                tokio::time::sleep(LATE).await;
                write_length(io, bytes.len() as u64).await?;
                io.write_all(&bytes).await
            }
            Reply::CutShort(bytes) => {
                write_length(io, bytes.len() as u64).await?;
                io.write_all(&bytes[..bytes.len() / 2]).await
            }
            Reply::Drip(bytes) => {
                write_length(io, bytes.len() as u64).await?;
                for byte in bytes {
                    io.write_all(&[byte]).await?;
                    io.flush().await?;
                    tokio::time::sleep(DRIP_EVERY).await;
                }
                Ok(())
            }
            Reply::TooLarge => {
                write_length(io, TOO_LARGE).await?;
                io.flush().await?;
                loop {
                    io.write_all(&[0; 64 << 10]).await?;
                }
            }
            Reply::Bomb(_) | Reply::Nothing | Reply::HangUp | Reply::ServerError | Reply::Redirect => {
                unreachable!("not sent over P2P")
            }
        }
    }
}

async fn write_length<T: AsyncWrite + Unpin>(io: &mut T, mut length: u64) -> io::Result<()> {
    let mut head = Vec::new();
    while length >= 0x80 {
        head.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    io.write_all(&head).await
}
