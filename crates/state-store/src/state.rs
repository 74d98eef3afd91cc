//! `lattice.store.v1.StateStore`: what the store does for its siblings.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use lattice_core::exchange::{Reason, Refusal};
use lattice_core::model::{Epoch, KEY_BYTES_MAX};
use lattice_core::signed::Signed;
use lattice_proto::convert::{self, Invalid};
use lattice_proto::store::v1 as wire;
use lattice_proto::types::v1 as types;
use lattice_runtime::{Clock, TaskGroup, entropy};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::engine::{DamagedEntry, Origin, Reader, SealedEntries};
use crate::kv::{blocking, entries};
use crate::metrics::Metrics;
use crate::peers::{Peers, Random};
use crate::serving::Turns;
use crate::verdict::Verdict;
use crate::writer::{self, LocalWrites, Writer, now, status};

/// Peers that are answered at the same time; the next one is told to ask later.
const EXCHANGES_MAX: usize = 32;
/// Accepted requests that a slow coordinator may fall behind.
pub(crate) const ASKED_MAX: usize = 256;
/// The most sequence numbers reserved at once.
const RESERVE_MAX: u32 = 10_000;
/// The most trusted keys.
const TRUSTED_MAX: usize = 4_096;
/// The longest reason why the clock is wrong.
const CLOCK_DETAIL_BYTES_MAX: usize = 1_024;
/// The longest that one reads all sealed entries.
const SEALED_ENTRIES_TIME: Duration = Duration::from_secs(300);
/// How long their tree is kept at most: the last bucket that is begun in time takes a while, too.
const SEALED_ENTRIES_KEPT: Duration = SEALED_ENTRIES_TIME.saturating_add(Duration::from_secs(60));

/// The most damaged keys of a page, and how many when nothing is said.
const DAMAGED_LIMIT_MAX: u32 = 1_000;
const DAMAGED_LIMIT: u32 = 100;

/// The service.
#[derive(Clone)]
pub(crate) struct StateStore {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) peers: Arc<Peers>,
    pub(crate) asked: broadcast::Sender<wire::Asked>,
    pub(crate) followed: LocalWritesFollowed,
    pub(crate) exchanges: Arc<Semaphore>,
    pub(crate) turns: Arc<Turns>,
    /// How long a peer's question may wait for its turn.
    pub(crate) patience: Duration,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskGroup,
    pub(crate) metrics: Metrics,
}

/// Room for as many exchanges as are answered at a time.
pub(crate) fn exchanges() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(EXCHANGES_MAX))
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl StateStore {
    /// A stream that ends with the service, so that its readers do not hold up the end.
    fn until_stopped<T: 'static>(
        &self,
        items: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Items<T> {
        Box::pin(items.take_until(self.tasks.token().cancelled_owned()))
    }

    async fn answer(&self, signed: Signed) -> Result<Signed, Status> {
        let random = Random { nonce: entropy::bytes(), challenge: entropy::bytes() };
        let now = now(&self.clock);
        let Ok(room) = Arc::clone(&self.exchanges).try_acquire_owned() else {
            self.metrics.exchanged(Some(Reason::Busy));
            let detail = format!("{EXCHANGES_MAX} requests are being answered: ask later");
            let refusal = Refusal { reason: Reason::Busy, detail };
            return self.peers.refuse(&signed, refusal, now, random).ok_or_else(unreadable);
        };
        let peers = Arc::clone(&self.peers);
        let mut opened = blocking(move || peers.open(signed, now)).await?;
        let mut turn = None;
        if opened.is_costly() {
            turn = self.turns.next(self.patience).await;
            if turn.is_none() {
                let detail = "others are being answered: ask later".to_owned();
                opened = opened.refused(Refusal { reason: Reason::Busy, detail });
            }
        }
        let (peers, clock) = (Arc::clone(&self.peers), self.clock.clone());
        let span = tracing::Span::current();
        // Room and turn are kept until the disk was read, whether somebody still waits or not.
        let answered = blocking(move || {
            let begun = writer::now(&clock);
            let exchanged = span.in_scope(|| peers.answer(opened, begun, random));
            (exchanged, clock.monotonic().saturating_sub(begun.monotonic.0), turn, room)
        });
        let (exchanged, took, turn, room) = answered.await?;
        let rest = turn.as_ref().map_or(Duration::ZERO, |turn| self.turns.rest(turn, took));
        tokio::time::sleep(exchanged.delay.max(rest)).await;
        drop((turn, room));
        self.metrics.exchanged(exchanged.refused.as_ref().map(|refusal| refusal.reason));
        if let Some(asked) = exchanged.asked {
            // Nobody may be watching.
            let _ = self.asked.send(asked);
        }
        let refused = exchanged.refused;
        exchanged.response.ok_or_else(|| match refused {
            Some(refusal) => Status::invalid_argument(refusal.detail),
            None => unreadable(),
        })
    }
}

fn unreadable() -> Status {
    Status::invalid_argument("request: is not a readable envelope")
}

#[tonic::async_trait]
impl wire::state_store_server::StateStore for StateStore {
    type WatchSealsStream = Items<wire::SealsResponse>;
    type WatchLocalWritesStream = Items<wire::LocalWrites>;
    type WatchAskedStream = Items<wire::Asked>;
    type SealedEntriesStream = Items<wire::SealedEntriesResponse>;
    type CheckStream = Items<wire::CheckResponse>;

    async fn merge(
        &self,
        request: Request<wire::MergeRequest>,
    ) -> Result<Response<wire::MergeResponse>, Status> {
        let (entries, origin) = convert::merge(request.into_inner())?;
        let origin = match origin {
            wire::Origin::Pull => Origin::Pull,
            wire::Origin::Delta => Origin::Delta,
            wire::Origin::Repair => Origin::Repair,
            wire::Origin::Unspecified => return Err(Invalid::missing("origin").into()),
        };
        let merged = self.writer.merge(entries, origin).await?;
        Ok(Response::new(wire::MergeResponse {
            merged: merged.merged,
            known: merged.known,
            held: merged.held,
            dropped: merged.dropped,
            repaired: merged.repaired,
        }))
    }

    async fn seals(&self, _: Request<wire::SealsRequest>) -> Result<Response<wire::SealsResponse>, Status> {
        self.writer.extend().await?;
        Ok(Response::new((&self.reader.seals()).into()))
    }

    async fn watch_seals(
        &self,
        _: Request<wire::WatchSealsRequest>,
    ) -> Result<Response<Self::WatchSealsStream>, Status> {
        let seals = WatchStream::new(self.writer.published.seals.subscribe());
        Ok(Response::new(self.until_stopped(seals.map(|seals| Ok((&seals).into())))))
    }

    async fn watch_local_writes(
        &self,
        _: Request<wire::WatchLocalWritesRequest>,
    ) -> Result<Response<Self::WatchLocalWritesStream>, Status> {
        let followed = self.followed.follow(&self.writer.published.local);
        let messages = stream::unfold(followed, |mut followed| async move {
            let message = followed.next().await?;
            Some((Ok(message), followed))
        });
        Ok(Response::new(self.until_stopped(messages)))
    }

    async fn exchange(
        &self,
        request: Request<wire::ExchangeRequest>,
    ) -> Result<Response<wire::ExchangeResponse>, Status> {
        let signed: Signed = convert::required("request", request.into_inner().request)?;
        let response = self.answer(signed).await?;
        Ok(Response::new(wire::ExchangeResponse { response: Some((&response).into()) }))
    }

    async fn watch_asked(
        &self,
        _: Request<wire::WatchAskedRequest>,
    ) -> Result<Response<Self::WatchAskedStream>, Status> {
        let asked = self.asked.subscribe();
        let messages = stream::unfold(asked, |mut asked| async move {
            let message = next_of(&mut asked).await?;
            Some((Ok(message), asked))
        });
        Ok(Response::new(self.until_stopped(messages)))
    }

    async fn nodes(
        &self,
        request: Request<wire::NodesRequest>,
    ) -> Result<Response<wire::NodesResponse>, Status> {
        let positions = convert::positions(request.into_inner())?;
        let reader = self.reader.clone();
        let own = blocking(move || reader.nodes(&positions)).await?.map_err(|error| status(&error))?;
        let nodes = own.nodes.iter().map(Into::into).collect();
        Ok(Response::new(wire::NodesResponse { epoch: own.epoch.0, nodes }))
    }

    async fn compare(
        &self,
        request: Request<wire::CompareRequest>,
    ) -> Result<Response<wire::CompareResponse>, Status> {
        let heads = convert::compare_heads(request.into_inner())?;
        let (reader, now) = (self.reader.clone(), now(&self.clock));
        let compared =
            blocking(move || reader.compare(&heads, now)).await?.map_err(|error| status(&error))?;
        Ok(Response::new(wire::CompareResponse { missing: compared.missing, ahead: compared.ahead }))
    }

    async fn reserve_sequence(
        &self,
        request: Request<wire::ReserveSequenceRequest>,
    ) -> Result<Response<wire::ReserveSequenceResponse>, Status> {
        let count = request.into_inner().count;
        if !(1..=RESERVE_MAX).contains(&count) {
            return Err(Invalid::new("count", format!("takes 1 to {RESERVE_MAX}, got {count}")).into());
        }
        let (first, incarnation) = self.writer.reserve(count).await?;
        let incarnation = Bytes::copy_from_slice(&incarnation.0);
        Ok(Response::new(wire::ReserveSequenceResponse { first, count, incarnation }))
    }

    async fn heard(
        &self,
        request: Request<wire::HeardRequest>,
    ) -> Result<Response<wire::HeardResponse>, Status> {
        let request = request.into_inner();
        let node = convert::node("node", &request.node)?;
        let incarnation = convert::incarnation("incarnation", &request.incarnation)?;
        if !self.peers.trusts(&node) {
            return Err(Invalid::new("node", format!("{node} is not among the trusted keys")).into());
        }
        let present = self.writer.heard(node, incarnation, request.sequence, Epoch(request.epoch)).await?;
        let replaced_by = present.map(|present| Bytes::copy_from_slice(&present.0)).unwrap_or_default();
        Ok(Response::new(wire::HeardResponse { replaced_by }))
    }

    async fn reincarnate(
        &self,
        request: Request<wire::ReincarnateRequest>,
    ) -> Result<Response<wire::ReincarnateResponse>, Status> {
        let replaced = convert::incarnation("incarnation", &request.into_inner().incarnation)?;
        let incarnation = self.writer.reincarnate(replaced).await?;
        let incarnation = Bytes::copy_from_slice(&incarnation.0);
        Ok(Response::new(wire::ReincarnateResponse { incarnation }))
    }

    async fn judge_clock(
        &self,
        request: Request<wire::JudgeClockRequest>,
    ) -> Result<Response<wire::JudgeClockResponse>, Status> {
        let request = request.into_inner();
        let verdict = match request.verdict() {
            wire::ClockVerdict::Unspecified => return Err(Invalid::missing("verdict").into()),
            wire::ClockVerdict::Unknown | wire::ClockVerdict::Confirmed => Verdict::right(),
            wire::ClockVerdict::Wrong if request.detail.len() > CLOCK_DETAIL_BYTES_MAX => {
                let problem = format!("takes at most {CLOCK_DETAIL_BYTES_MAX} bytes");
                return Err(Invalid::new("detail", problem).into());
            }
            wire::ClockVerdict::Wrong => Verdict::wrong(now(&self.clock).monotonic, request.detail.clone()),
        };
        self.writer.published.verdict.send_replace(verdict);
        if request.verdict() == wire::ClockVerdict::Confirmed {
            self.writer.confirm_clock().await?;
        }
        Ok(Response::new(wire::JudgeClockResponse {}))
    }

    async fn set_trust(
        &self,
        request: Request<wire::SetTrustRequest>,
    ) -> Result<Response<wire::SetTrustResponse>, Status> {
        let nodes = convert::nodes("nodes", &request.into_inner().nodes, TRUSTED_MAX)?;
        self.peers.set_trust(BTreeSet::from_iter(nodes));
        Ok(Response::new(wire::SetTrustResponse {}))
    }

    async fn writable(
        &self,
        _: Request<wire::WritableRequest>,
    ) -> Result<Response<wire::WritableResponse>, Status> {
        let problem = self.writer.published.writable.borrow().problem().to_owned();
        Ok(Response::new(wire::WritableResponse { problem }))
    }

    async fn sealed_entries(
        &self,
        _: Request<wire::SealedEntriesRequest>,
    ) -> Result<Response<Self::SealedEntriesStream>, Status> {
        let sealed = self.reader.sealed_entries(now(&self.clock), SEALED_ENTRIES_KEPT);
        let sealed = sealed
            .ok_or_else(|| Status::resource_exhausted("too many read all sealed entries: try again later"))?;
        let seal = wire::SealedEntriesResponse { seal: Some(sealed.seal().into()), entries: Vec::new() };
        let until = self.clock.monotonic() + SEALED_ENTRIES_TIME;
        let clock = self.clock.clone();
        let buckets = stream::unfold(Some(sealed), move |sealed| {
            let clock = clock.clone();
            async move {
                let sealed = sealed?;
                if clock.monotonic() > until {
                    return Some((Err(Status::deadline_exceeded("reading took too long")), None));
                }
                next_bucket(sealed).await
            }
        });
        Ok(Response::new(self.until_stopped(stream::iter([Ok(seal)]).chain(buckets))))
    }

    async fn damaged(
        &self,
        request: Request<wire::DamagedRequest>,
    ) -> Result<Response<wire::DamagedResponse>, Status> {
        let wire::DamagedRequest { after, limit } = request.into_inner();
        if after.len() > KEY_BYTES_MAX {
            let problem = format!("takes at most {KEY_BYTES_MAX} bytes, got {}", after.len());
            return Err(Invalid::new("after", problem).into());
        }
        let limit = match limit {
            0 => DAMAGED_LIMIT,
            limit @ 1..=DAMAGED_LIMIT_MAX => limit,
            limit => {
                let problem = format!("takes 1 to {DAMAGED_LIMIT_MAX}, got {limit}");
                return Err(Invalid::new("limit", problem).into());
            }
        };
        let reader = self.reader.clone();
        let entries = blocking(move || reader.damaged(&after, limit as usize)).await?;
        let entries = entries.map_err(|error| status(&error))?;
        let overflow = self.reader.view().stats.damage_overflow;
        let entries = entries.iter().map(damaged_entry).collect();
        Ok(Response::new(wire::DamagedResponse { entries, overflow }))
    }

    async fn check(
        &self,
        request: Request<wire::CheckRequest>,
    ) -> Result<Response<Self::CheckStream>, Status> {
        let checking = &self.writer.published.checking;
        let progress = checking.watch();
        if request.into_inner().start {
            checking.start();
        }
        Ok(Response::new(self.until_stopped(progress)))
    }

    async fn recovered(
        &self,
        request: Request<wire::RecoveredRequest>,
    ) -> Result<Response<wire::RecoveredResponse>, Status> {
        let incarnation = convert::incarnation("incarnation", &request.into_inner().incarnation)?;
        self.writer.recovered(incarnation).await?;
        Ok(Response::new(wire::RecoveredResponse {}))
    }
}

fn damaged_entry(entry: &DamagedEntry) -> wire::DamagedEntry {
    let DamagedEntry { key, head, problem, found_ms } = entry;
    wire::DamagedEntry {
        key: key.clone().into_bytes(),
        key_hash: Bytes::copy_from_slice(key.hash().0.as_bytes()),
        head: head.as_ref().map(Into::into),
        problem: problem.clone(),
        found_ms: *found_ms,
    }
}

type NextBucket = Option<(Result<wire::SealedEntriesResponse, Status>, Option<SealedEntries>)>;

async fn next_bucket(mut sealed: SealedEntries) -> NextBucket {
    let read = blocking(move || (sealed.next_bucket(), sealed)).await;
    match read {
        Ok((Ok(Some(bucket)), sealed)) => {
            let message = wire::SealedEntriesResponse { seal: None, entries: entries(&bucket) };
            Some((Ok(message), Some(sealed)))
        }
        Ok((Ok(None), _)) => None,
        Ok((Err(error), _)) => Some((Err(status(&error)), None)),
        Err(status) => Some((Err(status), None)),
    }
}

/// The next message for a reader who may have fallen behind.
async fn next_of<T: Clone>(messages: &mut broadcast::Receiver<T>) -> Option<T> {
    loop {
        match messages.recv().await {
            Ok(message) => return Some(message),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

/// How far the local writes were followed, from the start of the store on: whoever follows them next goes on there,
/// so that a coordinator that comes a moment after the store, or comes back, misses nothing that still waits.
#[derive(Clone)]
pub(crate) struct LocalWritesFollowed(Arc<Mutex<Option<Follower>>>);

/// One who follows them: what comes next, and the number that it should have.
struct Follower {
    messages: broadcast::Receiver<Arc<LocalWrites>>,
    expected: Option<u64>,
}

/// A follower on its way; it is left for the next one when it is dropped.
struct Following {
    follower: Option<Follower>,
    left: LocalWritesFollowed,
}

impl LocalWritesFollowed {
    /// From now on.
    pub(crate) fn new(local: &broadcast::Sender<Arc<LocalWrites>>) -> Self {
        let follower = Follower { messages: local.subscribe(), expected: Some(0) };
        Self(Arc::new(Mutex::new(Some(follower))))
    }

    fn place(&self) -> MutexGuard<'_, Option<Follower>> {
        // It is changed by single assignments.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on where the last one stopped; from now on while another one follows them.
    fn follow(&self, local: &broadcast::Sender<Arc<LocalWrites>>) -> Following {
        let left = self.place().take();
        let follower = left.unwrap_or_else(|| Follower { messages: local.subscribe(), expected: None });
        Following { follower: Some(follower), left: self.clone() }
    }
}

impl Following {
    async fn next(&mut self) -> Option<wire::LocalWrites> {
        let follower = self.follower.as_mut()?;
        let message = next_of(&mut follower.messages).await?;
        let expected = follower.expected.replace(message.before + message.entries.len() as u64);
        Some(local_writes(&message, expected))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut place = self.left.place();
        if place.is_none() {
            *place = self.follower.take();
        }
    }
}

/// A message of local writes; `expected` is the number of the write that the reader would see next.
fn local_writes(message: &LocalWrites, expected: Option<u64>) -> wire::LocalWrites {
    wire::LocalWrites {
        entries: message.entries.iter().map(types::Entry::from).collect(),
        missed: expected.map_or(0, |expected| message.before.saturating_sub(expected)),
        traceparent: message.traceparent.clone(),
    }
}
