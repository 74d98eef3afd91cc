//! Peers that pull everything that a store holds, as an empty node does: the way down from the root, buckets where
//! they hang, and from the beginning again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, Ask, FetchAsk, Known, POSITIONS_MAX, PageBucket, Reason, Request};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::signed::Signed;
use lattice_core::tree::{FANOUT, Position};
use lattice_proto::codec::{self, Header, ResponseChecks};
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_proto::store::v1::{ExchangeRequest, SealsRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// The cluster that a store is of by default.
const CLUSTER: &str = "lattice";
/// How long a peer that was told to come later stays away.
const PAUSE: Duration = Duration::from_millis(250);

/// The public keys of so many peers, in hex.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| hex::encode(key(number).verifying_key().as_bytes())).collect()
}

fn key(number: usize) -> SigningKey {
    let mut seed = [0x70; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    SigningKey::from_bytes(&seed)
}

/// Peers that pull; until they are stopped, or one of them fails.
pub(crate) struct Peers {
    tasks: JoinSet<Result<()>>,
    served: Arc<AtomicU64>,
    began: Instant,
}

impl Peers {
    pub(crate) async fn start(store: &StateStoreClient<Channel>, count: usize) -> Result<Self> {
        let served = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let peer = Peer::new(store.clone(), number, Arc::clone(&served)).await?;
            tasks.spawn(peer.pull_for_ever());
        }
        Ok(Self { tasks, served, began: Instant::now() })
    }

    /// Stops them. How many bytes they were served per second.
    pub(crate) async fn stop(mut self) -> Result<f64> {
        let time = self.began.elapsed().as_secs_f64();
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        self.tasks.shutdown().await;
        let served = self.served.load(Ordering::Relaxed) as f64;
        ensure!(served > 0.0 || self.tasks.is_empty(), "no peer was served anything");
        Ok(served / time)
    }
}

struct Peer {
    store: StateStoreClient<Channel>,
    key: SigningKey,
    /// Of the next question.
    header: Header,
    served: Arc<AtomicU64>,
}

impl Peer {
    async fn new(
        mut store: StateStoreClient<Channel>,
        number: usize,
        served: Arc<AtomicU64>,
    ) -> Result<Self> {
        let seals = store.seals(SealsRequest {}).await?.into_inner();
        let receiver = NodeId(seals.node.as_ref().try_into().context("a store without a name")?);
        let key = key(number);
        let header = Header {
            cluster: CLUSTER.to_owned(),
            sender: NodeId(key.verifying_key().to_bytes()),
            incarnation: Incarnation([7; 16]),
            receiver,
            challenge: Bytes::new(),
            nonce: [0; 16],
            traceparent: String::new(),
            request_hash: None,
        };
        Ok(Self { store, key, header, served })
    }

    async fn pull_for_ever(mut self) -> Result<()> {
        loop {
            self.pull().await?;
        }
    }

    /// Everything once.
    async fn pull(&mut self) -> Result<()> {
        let mut waiting = vec![Position::ROOT];
        while !waiting.is_empty() {
            let asked = waiting.split_off(waiting.len().saturating_sub(POSITIONS_MAX));
            let bucket = |position: &Position| FetchAsk {
                position: *position,
                known: Known::default(),
                keys: Vec::new(),
            };
            let ask = Ask::Fetch { epoch: None, buckets: asked.iter().map(bucket).collect() };
            let pages = match self.ask(ask).await? {
                Answer::Fetch { pages, .. } => pages,
                Answer::Refused(refusal) if refusal.reason == Reason::Busy => {
                    tokio::time::sleep(PAUSE).await;
                    waiting.extend(asked);
                    continue;
                }
                // The first question of all has no challenge.
                Answer::Refused(refusal) if refusal.reason == Reason::Challenge => {
                    waiting.extend(asked);
                    continue;
                }
                answer => bail!("a store answered a fetch with {answer:?}"),
            };
            waiting.extend(asked.into_iter().skip(pages.len()));
            for page in pages {
                if let PageBucket::Split(children) = &page.bucket {
                    let below = (0..FANOUT as u8).zip(children).filter(|(_, child)| child.total() > 0);
                    waiting.extend(below.filter_map(|(index, _)| page.position.child(index)));
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, ask: Ask) -> Result<Answer> {
        let number = u128::from_be_bytes(self.header.nonce) + 1;
        self.header.nonce = number.to_be_bytes();
        let request = Request { announcement: None, pull: None, ask };
        let signed = codec::sign_request(&self.header, &request, &self.key);
        let asked = ExchangeRequest { request: Some((&signed).into()) };
        let answer = self.store.exchange(asked).await?.into_inner().response.context("no answer")?;
        let answer = Signed::try_from(answer)?;
        self.served.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
        let checks = ResponseChecks {
            request: &signed,
            cluster: CLUSTER,
            node: self.header.sender,
            sender: self.header.receiver,
            incarnation: None,
        };
        let (_, response) = codec::open_response(&answer, &checks)?;
        self.header.challenge = response.next_challenge.into();
        Ok(response.answer)
    }
}
