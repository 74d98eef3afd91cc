//! The one who pulls: the machine that ships, and its effects, run one after the other.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Ask, Request, Response};
use lattice_core::failover::Path;
use lattice_core::model::{EpochLength, Incarnation, NodeId};
use lattice_core::pull::{Cause, Config, Effect, Ended, Event, Id, Outcome, Pull, Traffic};
use lattice_core::seal::Runs;
use lattice_core::signed::{Announcement, Signed, SignedAnnouncement};
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::codec::{self, Header, ResponseChecks};
use serde::Serialize;

use crate::deflate::Deflated;
use crate::replica::Replica;
use crate::server::{self, CLUSTER, Server};
use crate::sets::{FIRST, Item};
use crate::usage::{Memory, cpu};

/// Which of our stores asks.
const INCARNATION: Incarnation = Incarnation([8; 16]);

/// What a pull came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pulled {
    /// What was asked, in bytes of signed envelopes.
    pub(crate) bytes_out: u64,
    /// What was answered.
    pub(crate) bytes_in: u64,
    /// Questions that were answered.
    pub(crate) rounds: u32,
    /// CPU time of the one who pulled, but for its store: signing, verifying, parsing, deciding.
    pub(crate) cpu: Duration,
    /// CPU time of the one who served, with its store.
    pub(crate) cpu_server: Duration,
    /// The most heap memory of the one who pulled, but for its store: answers as they came and as they were
    /// parsed, and what the machine keeps.
    pub(crate) memory: u64,
    /// What compression would have saved, where it was tried.
    pub(crate) deflated: Option<Deflated>,
}

/// Its name.
pub(crate) fn id() -> NodeId {
    NodeId(key().verifying_key().to_bytes())
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

/// Pulls until everything is healed: exactly what differs was merged, and both trees are one.
pub(crate) fn pull(ours: Vec<Item>, differing: u64, server: &mut Server, deflate: bool) -> Result<Pulled> {
    let mut replica = Replica::of(ours.into_iter().map(|item| item.head))?;
    let theirs = server.runs().newest().and_then(|run| run.root);
    let mut asker = Asker::new(server)?;

    let mut memory = Memory::new();
    let (mut time, server_before) = (Duration::ZERO, server.cpu);
    let mut pull = Pull::new(Monotonic::ZERO, config(server.runs()));
    let mut events = VecDeque::from([Event::Start]);
    let mut ended: Option<Box<Ended>> = None;
    let mut total = Traffic::default();
    let mut deflated = deflate.then(Deflated::default);
    while let Some(event) = events.pop_front() {
        let began = cpu()?;
        let mut effects = Vec::new();
        pull.handle(Monotonic::ZERO, event, &mut effects);
        time += cpu()?.saturating_sub(began);
        for effect in effects {
            match effect {
                // The last farewell is a part of what it costs.
                Effect::Ask { number, request, announce, last, .. } => {
                    let began = cpu()?;
                    let signed = asker.sign(request, announce);
                    time += cpu()?.saturating_sub(began);
                    let answer = memory.except(|| server.answer(&signed))?;
                    if let Some(deflated) = &mut deflated {
                        memory.except(|| deflated.add(&codec::encode_signed(&answer)))?;
                    }
                    // Its bytes are ours from here on.
                    let answer = Signed { body: Bytes::copy_from_slice(&answer.body), ..answer };
                    let began = cpu()?;
                    let (incarnation, response) = asker.open(&signed, &answer)?;
                    time += cpu()?.saturating_sub(began);
                    let traffic = Traffic { bytes_out: size(&signed), bytes_in: size(&answer) };
                    total.bytes_out += traffic.bytes_out;
                    total.bytes_in += traffic.bytes_in;
                    if !last {
                        events.push_back(Event::Reply { number, incarnation, response, traffic });
                    }
                }
                Effect::ReadLocalNodes(positions) => {
                    events.push_back(Event::LocalNodes(replica.own(&positions)))
                }
                Effect::Compare(heads) => {
                    let missing = (0..heads.len()).filter(|index| !replica.dominates(&heads[*index]));
                    events.push_back(Event::Compared { missing: missing.collect(), ahead: Vec::new() });
                }
                Effect::Merge(entries) => {
                    events.push_back(Event::Merged(memory.except(|| replica.merge(&entries))?));
                }
                Effect::Ended(over) => ended = Some(over),
            }
        }
    }
    let ended = ended.context("the pull did not end")?;
    if ended.outcome != Outcome::Healed {
        bail!("the pull ended as {}: {}", ended.outcome, ended.detail);
    }
    let merged = ended.entries_merged;
    ensure!(merged == differing, "{merged} entries were merged, {differing} differ");
    ensure!(replica.root() == theirs, "the pull ended, and the trees differ");
    Ok(Pulled {
        bytes_out: total.bytes_out,
        bytes_in: total.bytes_in,
        rounds: ended.rounds,
        cpu: time,
        cpu_server: server.cpu.saturating_sub(server_before),
        memory: memory.peak(),
        deflated,
    })
}

/// A signed message as it travels.
fn size(signed: &Signed) -> u64 {
    codec::encode_signed(signed).len() as u64
}

/// Signs questions, and opens answers.
struct Asker {
    key: SigningKey,
    announcement: SignedAnnouncement,
    challenge: Bytes,
    /// Numbers the questions.
    asked: u64,
}

impl Asker {
    /// One that has greeted its peer, as everybody has who has counted to three.
    fn new(server: &mut Server) -> Result<Self> {
        let key = key();
        let announcement = Announcement {
            cluster: CLUSTER.to_owned(),
            node: id(),
            incarnation: INCARNATION,
            sequence: 1,
            time: WallTime(FIRST),
            epoch_length: EpochLength(NonZeroU32::new(1_000).context("an epoch has a length")?),
            runs: server.runs().as_slice().to_vec(),
            addresses: vec!["/ip4/10.0.0.8/tcp/9000".to_owned()],
            name: "bench".to_owned(),
            recovering: false,
        };
        let announcement = codec::sign_announcement(&announcement, &key);
        let mut asker = Self { key, announcement, challenge: Bytes::new(), asked: 0 };
        let hello = asker.sign(Request { announcement: None, pull: None, ask: Ask::Hello }, false);
        let answer = server.answer(&hello)?;
        asker.open(&hello, &answer)?;
        ensure!(!asker.challenge.is_empty(), "a greeting was answered without a challenge");
        Ok(asker)
    }

    fn sign(&mut self, mut request: Request, announce: bool) -> Signed {
        request.announcement = announce.then(|| self.announcement.clone());
        self.asked += 1;
        let mut nonce = [8; 16];
        nonce[..8].copy_from_slice(&self.asked.to_be_bytes());
        let header = Header {
            cluster: CLUSTER.to_owned(),
            sender: id(),
            incarnation: INCARNATION,
            receiver: server::id(),
            challenge: std::mem::take(&mut self.challenge),
            nonce,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            request_hash: None,
        };
        codec::sign_request(&header, &request, &self.key)
    }

    fn open(&mut self, request: &Signed, answer: &Signed) -> Result<(Incarnation, Response)> {
        let checks = ResponseChecks {
            request,
            cluster: CLUSTER,
            node: id(),
            sender: server::id(),
            incarnation: Some(server::INCARNATION),
        };
        let (header, response) = codec::open_response(answer, &checks)?;
        self.challenge = response.next_challenge.clone().into();
        Ok((header.incarnation, response))
    }
}

fn config(announced: Runs) -> Config {
    Config {
        id: Id(7),
        cause: Cause::Divergence,
        peer: server::id(),
        cluster: CLUSTER.to_owned(),
        incarnation: Some(server::INCARNATION),
        announced,
        path: Path::P2p,
        request_timeout: Duration::from_secs(5),
        pause_max: Duration::ZERO,
        stall_timeout: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        max_clock_drift: Duration::from_secs(10),
    }
}
