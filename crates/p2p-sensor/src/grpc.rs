//! `lattice.sensor.v1.P2pSensor`: the edge where wire types become commands to the network loop.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _, stream};
use lattice_core::exchange::ENVELOPE_BYTES_MAX;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::codec::{ANNOUNCEMENT_BYTES_MAX, DELTA_BYTES_MAX};
use lattice_proto::sensor::v1 as wire;
use lattice_proto::types::v1::Signed as WireSigned;
use lattice_runtime::TaskGroup;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use crate::desk::{CallerId, WAITING_MAX};
use crate::metrics::{Direction, Ended, Gossip, Metrics};
use crate::network::{
    ANSWERS_BYTES_MAX, Command, DELTAS_BYTES_MAX, ExchangeError, Heard, REQUESTS_BYTES_MAX,
};

/// Keys that can be trusted at a time.
const TRUSTED_MAX: usize = 4_096;

/// What every call works with; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub(crate) view: watch::Receiver<wire::WatchPeersResponse>,
    pub(crate) heard: Heard,
    /// `None` when P2P is disabled.
    pub(crate) commands: Option<mpsc::Sender<Command>>,
    pub(crate) rooms: Rooms,
    pub(crate) tasks: TaskGroup,
    pub(crate) metrics: Metrics,
    pub(crate) callers: Arc<AtomicU64>,
}

/// How many bytes of each kind may wait for the loop; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    deltas: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Rooms {
    /// All of them empty.
    pub(crate) fn new() -> Self {
        let room = |bytes| Arc::new(Semaphore::new(bytes));
        Self {
            deltas: room(DELTAS_BYTES_MAX),
            requests: room(REQUESTS_BYTES_MAX),
            answers: room(ANSWERS_BYTES_MAX),
        }
    }
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Handler {
    fn commands(&self) -> Result<&mpsc::Sender<Command>, Status> {
        self.commands.as_ref().ok_or_else(|| Status::failed_precondition("P2P is disabled (sensor.enabled)"))
    }

    /// Sends a command and waits for its reply.
    async fn call<Reply>(
        &self,
        command: impl FnOnce(oneshot::Sender<Reply>) -> Command,
    ) -> Result<Reply, Status> {
        let (reply, replied) = oneshot::channel();
        self.commands()?.send(command(reply)).await.map_err(|_| stopping())?;
        replied.await.map_err(|_| stopping())
    }

    /// A stream that ends with the service, so that its readers do not hold up the end.
    fn until_stopped<T: 'static>(
        &self,
        items: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Items<T> {
        Box::pin(items.take_until(self.tasks.token().cancelled_owned()))
    }

    fn announcements(&self) -> impl Stream<Item = wire::Observation> + use<> {
        let lost = self.metrics.observations_lost.clone();
        BroadcastStream::new(self.heard.announcements.subscribe()).filter_map(move |item| {
            let item = match item {
                Ok(observation) => Some(observation),
                Err(BroadcastStreamRecvError::Lagged(count)) => {
                    lost.inc_by(count);
                    None
                }
            };
            std::future::ready(item)
        })
    }
}

#[tonic::async_trait]
impl wire::p2p_sensor_server::P2pSensor for Handler {
    type WatchPeersStream = Items<wire::WatchPeersResponse>;
    type ObserveStream = Items<wire::Observation>;
    type ServeStream = Items<wire::ServeResponse>;

    async fn watch_peers(
        &self,
        _: Request<wire::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let states = WatchStream::new(self.view.clone()).map(Ok);
        Ok(Response::new(self.until_stopped(states)))
    }

    async fn announce(
        &self,
        request: Request<wire::AnnounceRequest>,
    ) -> Result<Response<wire::AnnounceResponse>, Status> {
        self.commands()?;
        let request = request.into_inner();
        let announcement = signed("announcement", request.announcement, ANNOUNCEMENT_BYTES_MAX)?;
        let to = if request.node.is_empty() { None } else { Some(node("node", &request.node)?) };
        let peers = self.call(|reply| Command::Announce { announcement, to, reply }).await?;
        Ok(Response::new(wire::AnnounceResponse { peers }))
    }

    async fn broadcast(
        &self,
        request: Request<wire::BroadcastRequest>,
    ) -> Result<Response<wire::BroadcastResponse>, Status> {
        self.commands()?;
        let delta = request.into_inner().delta;
        if delta.is_empty() || delta.len() > DELTA_BYTES_MAX {
            let problem = format!("has {} bytes: must have 1 to {DELTA_BYTES_MAX}", delta.len());
            return Err(invalid("delta", &problem));
        }
        let Ok(room) = self.rooms.deltas.clone().try_acquire_many_owned(size(delta.len())) else {
            self.metrics.gossip(Gossip::Dropped);
            return Err(Status::resource_exhausted("too many deltas wait to be published"));
        };
        let published = self.call(|reply| Command::Broadcast { delta: delta.into(), room, reply }).await?;
        Ok(Response::new(wire::BroadcastResponse { published }))
    }

    async fn observe(
        &self,
        _: Request<wire::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.commands()?;
        let deltas = self.heard.deltas.subscribe();
        let deltas = deltas.ok_or_else(|| Status::resource_exhausted("too many observe already"))?;
        let both = stream::select(self.announcements(), deltas).map(Ok);
        Ok(Response::new(self.until_stopped(both)))
    }

    async fn exchange(
        &self,
        request: Request<wire::ExchangeRequest>,
    ) -> Result<Response<wire::ExchangeResponse>, Status> {
        self.commands()?;
        let request = request.into_inner();
        let node = node("node", &request.node)?;
        let request = signed("request", request.request, ENVELOPE_BYTES_MAX)?;
        let Ok(room) = self.rooms.requests.clone().try_acquire_many_owned(size(request.body.len())) else {
            self.metrics.exchange(Direction::Out, Ended::Busy);
            return Err(Status::resource_exhausted(ExchangeError::Busy.to_string()));
        };
        let answer = self.call(|reply| Command::Exchange { node, request, room, reply }).await?;
        let response = answer.map_err(|error| match error {
            ExchangeError::NotConnected | ExchangeError::Unanswered | ExchangeError::Failed(_) => {
                Status::unavailable(error.to_string())
            }
            ExchangeError::Busy => Status::resource_exhausted(error.to_string()),
            ExchangeError::TimedOut => Status::deadline_exceeded(error.to_string()),
        })?;
        Ok(Response::new(wire::ExchangeResponse { response: Some((&response).into()) }))
    }

    async fn serve(
        &self,
        request: Request<Streaming<wire::ServeRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let commands = self.commands()?.clone();
        let caller = CallerId(self.callers.fetch_add(1, Ordering::Relaxed));
        let (requests, asked) = mpsc::channel(WAITING_MAX);
        let serve = Command::Serve { caller, requests: requests.clone() };
        commands.send(serve).await.map_err(|_| stopping())?;
        let stopped = self.tasks.token();
        let answers = request.into_inner();
        let room = self.rooms.answers.clone();
        self.tasks.spawn("serve", async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = requests.closed() => {}
                () = pass_answers(caller, answers, &commands, &room) => {}
            }
            // Fails only when the loop has ended, and then nothing waits any more.
            let _ = commands.send(Command::CallerGone { caller }).await;
            Ok(())
        });
        Ok(Response::new(self.until_stopped(ReceiverStream::new(asked).map(Ok))))
    }

    async fn set_trust(
        &self,
        request: Request<wire::SetTrustRequest>,
    ) -> Result<Response<wire::SetTrustResponse>, Status> {
        self.commands()?;
        let keys = request.into_inner().nodes;
        if keys.len() > TRUSTED_MAX {
            let count = keys.len();
            return Err(invalid("nodes", &format!("has {count} elements: must have at most {TRUSTED_MAX}")));
        }
        let mut trusted = BTreeSet::new();
        for (index, key) in keys.iter().enumerate() {
            trusted.insert(node(&format!("nodes[{index}]"), key)?);
        }
        self.call(|reply| Command::SetTrust { trusted, reply }).await?;
        Ok(Response::new(wire::SetTrustResponse {}))
    }
}

/// Hands a caller's answers on until it stops answering.
async fn pass_answers(
    caller: CallerId,
    mut answers: Streaming<wire::ServeRequest>,
    commands: &mpsc::Sender<Command>,
    room: &Arc<Semaphore>,
) {
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(caller = caller.0, %status, "a caller of Serve broke off");
                return;
            }
        };
        if answer.id == 0 {
            // The first message, which only opens the stream.
            continue;
        }
        let response =
            match answer.response.map(|answer| signed("response", Some(answer), ENVELOPE_BYTES_MAX)) {
                Some(Ok(response)) => Some(response),
                Some(Err(status)) => {
                    tracing::warn!(status = status.message(), "an answer to a peer is refused");
                    None
                }
                None => None,
            };
        let bytes = response.as_ref().map_or(0, |response| size(response.body.len()));
        let Ok(room) = room.clone().acquire_many_owned(bytes).await else { return };
        if commands.send(Command::Answer { caller, id: answer.id, response, room }).await.is_err() {
            return;
        }
    }
}

/// A number of bytes, as a semaphore counts them.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn node(field: &str, bytes: &[u8]) -> Result<NodeId, Status> {
    NodeId::try_from(bytes).map_err(|error| invalid(field, &error.to_string()))
}

fn signed(field: &str, wire: Option<WireSigned>, body_bytes_max: usize) -> Result<Signed, Status> {
    let wire = wire.ok_or_else(|| invalid(field, "is missing"))?;
    let size = wire.body.len();
    if size == 0 || size > body_bytes_max {
        let problem = format!("has {size} bytes: must have 1 to {body_bytes_max}");
        return Err(invalid(&format!("{field}.body"), &problem));
    }
    Signed::try_from(wire).map_err(|error| Status::invalid_argument(error.within(field).to_string()))
}

fn invalid(field: &str, problem: &str) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}

fn stopping() -> Status {
    Status::unavailable("the sensor is stopping")
}
