//! A store of at most one bucket of entries, in memory; it signs seals and answers peers as a real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lattice_core::exchange::{Answer, Ask, Page, PageBucket, Reason, Refusal, Response, Shape, WalkNode};
use lattice_core::model::{
    Content, Entry, EntryHead, Epoch, EpochLength, Hlc, Incarnation, Key, KeyHash, NodeId, Version,
};
use lattice_core::seal::{Root, Runs, Seal};
use lattice_core::signed::{Signed, SignedSeal};
use lattice_core::time::WallTime;
use lattice_core::tree::{Chain, Chains, Node, Position, root_of};
use lattice_proto::codec::{self, RequestChecks};
use lattice_proto::convert::{self, Seals};
use lattice_proto::store::v1 as wire;
use lattice_proto::store::v1::state_store_server::{StateStore, StateStoreServer};
use lattice_runtime::{Clock, entropy, identity::NodeKey};
use tokio::sync::broadcast;
use tonic::service::Routes;
use tonic::{Request, Response as Answered, Status};

use super::{Answers, stream};

pub(crate) const EPOCH: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct FakeStore(Arc<Inner>);

struct Inner {
    key: Arc<NodeKey>,
    cluster: String,
    state: Mutex<State>,
    writes: broadcast::Sender<wire::LocalWrites>,
    asked: broadcast::Sender<wire::Asked>,
}

#[derive(Default)]
struct State {
    /// Its own, the present one last.
    incarnations: Vec<Incarnation>,
    /// Those of peers that it refuses as replaced.
    replaced: BTreeSet<Incarnation>,
    entries: BTreeMap<KeyHash, Entry>,
    /// As of the newest seal.
    sealed: BTreeMap<KeyHash, Entry>,
    runs: Runs,
    challenges: BTreeSet<Vec<u8>>,
    next_sequence: u64,
    trusted: BTreeSet<NodeId>,
    /// How often the trusted keys are still not taken.
    busy: u32,
    /// How long it takes to state its seals.
    pause: Duration,
    /// What was asked, and the trace context that came with it.
    traces: Vec<(&'static str, String)>,
}

impl State {
    fn incarnation(&self) -> Incarnation {
        *self.incarnations.last().unwrap()
    }

    fn heads(&self) -> Vec<EntryHead> {
        self.sealed.values().map(Entry::head).collect()
    }

    fn bucket(&self) -> Node {
        Node::bucket(&Position::ROOT, self.heads()).unwrap()
    }

    fn root(&self) -> Option<Root> {
        root_of(&self.bucket().summary())
    }

    fn merge(&mut self, entry: Entry) -> bool {
        let newer = self.entries.get(&entry.key.hash()).is_none_or(|known| entry.replaces(known));
        if newer {
            self.entries.insert(entry.key.hash(), entry);
        }
        newer
    }
}

fn wall() -> WallTime {
    WallTime(Clock::system().wall_ms())
}

fn epoch_length() -> EpochLength {
    EpochLength(NonZeroU32::new(EPOCH.as_millis() as u32).unwrap())
}

impl FakeStore {
    pub(crate) fn new(key: Arc<NodeKey>, cluster: &str) -> Self {
        Self(Arc::new(Inner {
            key,
            cluster: cluster.into(),
            state: Mutex::new(State {
                incarnations: vec![Incarnation(entropy::bytes())],
                next_sequence: 1,
                ..State::default()
            }),
            writes: broadcast::Sender::new(64),
            asked: broadcast::Sender::new(64),
        }))
    }

    pub(crate) fn routes(&self) -> Routes {
        Routes::new(StateStoreServer::new(self.clone()))
    }

    /// A client's write; told to the watcher of local writes, unless `silently`.
    pub(crate) fn put(&self, key: &str, value: &str, silently: bool) {
        let version = Version { hlc: Hlc::at(wall()), writer: NodeId(self.0.key.public()) };
        let content = Content::value(value.as_bytes().to_vec().into()).unwrap();
        let entry = Entry { key: Key::try_from(key).unwrap(), version, expires: None, content };
        let wire_entry = (&entry).into();
        self.0.state.lock().unwrap().merge(entry);
        if !silently {
            let writes =
                wire::LocalWrites { entries: vec![wire_entry], missed: 0, traceparent: String::new() };
            let _ = self.0.writes.send(writes);
        }
    }

    /// Its incarnations so far, the present one last.
    pub(crate) fn incarnations(&self) -> Vec<Incarnation> {
        self.0.state.lock().unwrap().incarnations.clone()
    }

    /// Knows that a peer's incarnation was replaced.
    pub(crate) fn disown(&self, incarnation: Incarnation) {
        self.0.state.lock().unwrap().replaced.insert(incarnation);
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.state.lock().unwrap().entries.values().cloned().collect()
    }

    /// The trace contexts that came with requests of one kind.
    pub(crate) fn traces(&self, kind: &str) -> Vec<String> {
        let state = self.0.state.lock().unwrap();
        state.traces.iter().filter(|(found, _)| *found == kind).map(|(_, trace)| trace.clone()).collect()
    }

    pub(crate) fn trusted(&self) -> BTreeSet<NodeId> {
        self.0.state.lock().unwrap().trusted.clone()
    }

    /// The next `times` that it is told the trusted keys, it does not answer well; its streams go on.
    pub(crate) fn is_busy(&self, times: u32) {
        self.0.state.lock().unwrap().busy = times;
    }

    /// It takes so long to state its seals from now on.
    pub(crate) fn is_slow(&self, pause: Duration) {
        self.0.state.lock().unwrap().pause = pause;
    }

    fn seals(&self) -> Seals {
        let mut state = self.0.state.lock().unwrap();
        self.seal(&mut state);
        Seals {
            node: NodeId(self.0.key.public()),
            incarnation: state.incarnation(),
            damage_generation: 0,
            runs: state.runs.as_slice().to_vec(),
            state_size: state.entries.len() as u64,
            epoch_length: epoch_length(),
            newest: Some(self.newest(&state)),
            halted: String::new(),
            recovering: false,
            damaged: 0,
        }
    }

    /// Seals the newest epoch that is over; those since the last one had its root.
    fn seal(&self, state: &mut State) {
        let epoch = epoch_length().epoch_of(wall()).previous();
        if state.runs.newest_epoch().is_some_and(|newest| newest >= epoch) {
            return;
        }
        state.runs.extend(epoch.previous());
        state.sealed = state.entries.clone();
        let root = state.root();
        state.runs.push(epoch, root).unwrap();
    }

    fn newest(&self, state: &State) -> SignedSeal {
        let run = state.runs.newest().unwrap();
        let seal = Seal {
            cluster: self.0.cluster.clone(),
            node: NodeId(self.0.key.public()),
            incarnation: state.incarnation(),
            epoch: run.to,
            root: run.root,
        };
        codec::sign_seal(&seal, self.0.key.signing_key())
    }

    /// Answers a peer, as the gateway and the sensor have it.
    pub(crate) fn exchange_signed(&self, request: &Signed) -> Signed {
        let mut state = self.0.state.lock().unwrap();
        self.seal(&mut state);
        let (trusted, replaced) = (state.trusted.clone(), state.replaced.clone());
        let opened = codec::open_request(
            request,
            RequestChecks {
                cluster: &self.0.cluster,
                node: NodeId(self.0.key.public()),
                trusted: &|node| trusted.contains(node),
                incarnation_ok: &|_, incarnation| !replaced.contains(incarnation),
                take_challenge: &mut |_, challenge| state.challenges.remove(challenge),
            },
        );
        let (header, answer) = match opened {
            Ok((header, asked)) => {
                let pull = asked.pull;
                let _ = self.0.asked.send(wire::Asked {
                    node: header.sender.as_bytes().to_vec().into(),
                    announcement: asked.announcement.as_ref().map(|said| (&said.signed).into()),
                    pull: pull.map_or(0, |pull| pull.id),
                    in_kind: pull.is_some_and(|pull| pull.in_kind),
                    ended: asked.ask == Ask::Bye,
                });
                let kind = match asked.ask {
                    Ask::Hello => "hello",
                    Ask::Walk { .. } => "walk",
                    Ask::Fetch { .. } => "fetch",
                    Ask::Bye => "bye",
                };
                state.traces.push((kind, header.traceparent.clone()));
                (header, self.answer(&state, asked.ask))
            }
            Err(refused) => (*refused.header.clone().unwrap(), Answer::Refused(refused.refusal())),
        };
        let challenge = entropy::bytes::<16>().to_vec();
        state.challenges.insert(challenge.clone());
        let response = Response { next_challenge: challenge, time: wall(), answer };
        let header = header.answer(request, state.incarnation(), entropy::bytes());
        codec::sign_response(&header, &response, self.0.key.signing_key())
    }

    fn answer(&self, state: &State, ask: Ask) -> Answer {
        if ask == Ask::Hello {
            return Answer::Hello { heard_sequence: 0, heard_epoch: Epoch(0) };
        }
        let seal = self.newest(state);
        if seal.seal.root.is_none() {
            return Answer::Refused(Refusal { reason: Reason::Empty, detail: "nothing is sealed".into() });
        }
        match ask {
            Ask::Hello | Ask::Bye => Answer::Bye,
            Ask::Walk { epoch, .. } => {
                let moved = epoch.is_some_and(|epoch| epoch != seal.seal.epoch);
                let shape = Shape::of(&state.bucket(), None);
                let node = WalkNode {
                    position: Position::ROOT,
                    chain: moved.then(|| Chain { levels: vec![] }),
                    shape,
                };
                Answer::Walk { seal, nodes: vec![node] }
            }
            Ask::Fetch { buckets, .. } => {
                let (heads, known) = (state.heads(), &buckets[0].known);
                let lacking =
                    heads.iter().enumerate().filter(|(_, head)| known.find(&head.digest()).is_none());
                let brought = lacking.map(|(index, head)| (index, state.sealed[&head.key_hash].clone()));
                let bucket = PageBucket::of(&heads, known, brought.collect());
                let pages = vec![Page { position: Position::ROOT, bucket }];
                Answer::Fetch { seal, pages, chains: Chains::default() }
            }
        }
    }
}

#[tonic::async_trait]
impl StateStore for FakeStore {
    type WatchSealsStream = Answers<wire::SealsResponse>;
    type WatchLocalWritesStream = Answers<wire::LocalWrites>;
    type WatchAskedStream = Answers<wire::Asked>;
    type SealedEntriesStream = Answers<wire::SealedEntriesResponse>;
    type CheckStream = Answers<wire::CheckResponse>;

    async fn merge(
        &self,
        request: Request<wire::MergeRequest>,
    ) -> Result<Answered<wire::MergeResponse>, Status> {
        let trace = request.metadata().get("traceparent").map(|trace| trace.to_str().unwrap().to_owned());
        let (entries, _) = convert::merge(request.into_inner())?;
        let mut state = self.0.state.lock().unwrap();
        state.traces.push(("merge", trace.unwrap_or_default()));
        let total = entries.len() as u64;
        let merged = entries.into_iter().filter(|entry| state.merge(entry.clone())).count() as u64;
        Ok(Answered::new(wire::MergeResponse {
            merged,
            known: total - merged,
            held: 0,
            dropped: 0,
            repaired: 0,
        }))
    }

    async fn seals(&self, _: Request<wire::SealsRequest>) -> Result<Answered<wire::SealsResponse>, Status> {
        let pause = self.0.state.lock().unwrap().pause;
        tokio::time::sleep(pause).await;
        Ok(Answered::new((&self.seals()).into()))
    }

    async fn watch_seals(
        &self,
        _: Request<wire::WatchSealsRequest>,
    ) -> Result<Answered<Self::WatchSealsStream>, Status> {
        let (sender, answers) = stream();
        let store = self.clone();
        tokio::spawn(async move {
            while sender.send(Ok((&store.seals()).into())).await.is_ok() {
                tokio::time::sleep(EPOCH).await;
            }
        });
        Ok(Answered::new(answers))
    }

    async fn watch_local_writes(
        &self,
        _: Request<wire::WatchLocalWritesRequest>,
    ) -> Result<Answered<Self::WatchLocalWritesStream>, Status> {
        Ok(Answered::new(pass_on(self.0.writes.subscribe())))
    }

    async fn exchange(
        &self,
        request: Request<wire::ExchangeRequest>,
    ) -> Result<Answered<wire::ExchangeResponse>, Status> {
        let signed = Signed::try_from(request.into_inner().request.unwrap())?;
        let response = Some((&self.exchange_signed(&signed)).into());
        Ok(Answered::new(wire::ExchangeResponse { response }))
    }

    async fn watch_asked(
        &self,
        _: Request<wire::WatchAskedRequest>,
    ) -> Result<Answered<Self::WatchAskedStream>, Status> {
        Ok(Answered::new(pass_on(self.0.asked.subscribe())))
    }

    async fn nodes(
        &self,
        request: Request<wire::NodesRequest>,
    ) -> Result<Answered<wire::NodesResponse>, Status> {
        let positions = convert::positions(request.into_inner())?;
        let nodes = positions.iter().map(|_| (&Node::empty_bucket()).into()).collect();
        Ok(Answered::new(wire::NodesResponse { epoch: 1, nodes }))
    }

    async fn compare(
        &self,
        request: Request<wire::CompareRequest>,
    ) -> Result<Answered<wire::CompareResponse>, Status> {
        let heads = convert::compare_heads(request.into_inner())?;
        let state = self.0.state.lock().unwrap();
        let lacks = |head: &EntryHead| {
            state.entries.get(&head.key_hash).is_none_or(|known| !known.head().dominates(head))
        };
        let missing = (0..).zip(&heads).filter(|(_, head)| lacks(head)).map(|(index, _)| index).collect();
        Ok(Answered::new(wire::CompareResponse { missing, ahead: vec![] }))
    }

    async fn reserve_sequence(
        &self,
        request: Request<wire::ReserveSequenceRequest>,
    ) -> Result<Answered<wire::ReserveSequenceResponse>, Status> {
        let count = request.into_inner().count;
        let mut state = self.0.state.lock().unwrap();
        let first = state.next_sequence;
        state.next_sequence += u64::from(count);
        let incarnation = state.incarnation().0.to_vec().into();
        Ok(Answered::new(wire::ReserveSequenceResponse { first, count, incarnation }))
    }

    async fn heard(&self, _: Request<wire::HeardRequest>) -> Result<Answered<wire::HeardResponse>, Status> {
        Ok(Answered::new(wire::HeardResponse::default()))
    }

    async fn reincarnate(
        &self,
        _: Request<wire::ReincarnateRequest>,
    ) -> Result<Answered<wire::ReincarnateResponse>, Status> {
        let new = Incarnation(entropy::bytes());
        let mut state = self.0.state.lock().unwrap();
        state.incarnations.push(new);
        state.runs = Runs::default();
        Ok(Answered::new(wire::ReincarnateResponse { incarnation: new.0.to_vec().into() }))
    }

    async fn judge_clock(
        &self,
        _: Request<wire::JudgeClockRequest>,
    ) -> Result<Answered<wire::JudgeClockResponse>, Status> {
        Ok(Answered::new(wire::JudgeClockResponse {}))
    }

    async fn set_trust(
        &self,
        request: Request<wire::SetTrustRequest>,
    ) -> Result<Answered<wire::SetTrustResponse>, Status> {
        let nodes = convert::nodes("nodes", &request.into_inner().nodes, 1_024)?;
        let mut state = self.0.state.lock().unwrap();
        if state.busy > 0 {
            state.busy -= 1;
            return Err(Status::deadline_exceeded("the disk is slow"));
        }
        state.trusted = nodes.into_iter().collect();
        Ok(Answered::new(wire::SetTrustResponse {}))
    }

    async fn writable(
        &self,
        _: Request<wire::WritableRequest>,
    ) -> Result<Answered<wire::WritableResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn sealed_entries(
        &self,
        _: Request<wire::SealedEntriesRequest>,
    ) -> Result<Answered<Self::SealedEntriesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn damaged(
        &self,
        _: Request<wire::DamagedRequest>,
    ) -> Result<Answered<wire::DamagedResponse>, Status> {
        Ok(Answered::new(wire::DamagedResponse::default()))
    }

    async fn check(&self, _: Request<wire::CheckRequest>) -> Result<Answered<Self::CheckStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn recovered(
        &self,
        _: Request<wire::RecoveredRequest>,
    ) -> Result<Answered<wire::RecoveredResponse>, Status> {
        Ok(Answered::new(wire::RecoveredResponse {}))
    }
}

/// What comes from now on.
pub(crate) fn pass_on<T: Clone + Send + 'static>(mut source: broadcast::Receiver<T>) -> Answers<T> {
    let (sender, answers) = stream();
    tokio::spawn(async move {
        while let Ok(item) = source.recv().await {
            if sender.send(Ok(item)).await.is_err() {
                return;
            }
        }
    });
    answers
}
