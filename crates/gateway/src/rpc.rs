//! gRPC for clients: the store's `KeyValue` and the coordinator's `SyncCoordinator`, passed on.
//!
//! Only the message and its deadline go on; the trace does so by itself, and nothing else of a client's
//! metadata reaches a sibling. What REST refuses of a key is refused here, too, so that both see one map.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::{Stream, stream};
use lattice_core::model::Key;
use lattice_proto::coordinator::v1 as coordinator;
use lattice_proto::coordinator::v1::sync_coordinator_server::{SyncCoordinator, SyncCoordinatorServer};
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_server::{KeyValue, KeyValueServer};
use lattice_runtime::grpc::{self, HealthReporter, Layered, MESSAGE_BYTES_MAX, ServingStatus};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::access::Role;
use crate::app::App;
use crate::auth::{Denied, Grant};
use crate::json::Missing;
use crate::problem::Sibling;
use crate::ready;

/// The port as a whole, to the health service.
const WHOLE: &str = "";
const DEADLINE: &str = "grpc-timeout";
/// What asks for no more than a few names is small: anybody may send some of it.
const QUESTION_BYTES_MAX: usize = 64 << 10;

/// What this port serves; reflection tells of no more, though the descriptors hold all of the node.
const SERVED: [&str; 5] = [
    "lattice.kv.v1.KeyValue",
    "lattice.coordinator.v1.SyncCoordinator",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    // What older tools ask, such as grpcurl before 1.9.
    "grpc.reflection.v1alpha.ServerReflection",
];

/// All gRPC services of the port, and the reporter that ends health watches.
pub(crate) async fn services(
    app: Arc<App>,
) -> Result<(Layered, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = grpc::health();
    for name in SERVED {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let reflection = || {
        SERVED
            .into_iter()
            .fold(tonic_reflection::server::Builder::configure(), |builder, name| {
                builder.with_service_name(name)
            })
            .register_encoded_file_descriptor_set(lattice_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Either tells of both.
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false)
    };
    let passed = Passed(app);
    let routes = Routes::new(health.max_decoding_message_size(QUESTION_BYTES_MAX))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(KeyValueServer::new(passed.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(SyncCoordinatorServer::new(passed).max_decoding_message_size(QUESTION_BYTES_MAX));
    Ok((grpc::layered(routes), reporter))
}

/// Ends health watches, which would otherwise hold up the drain.
pub(crate) async fn stop_watches(reporter: &mut HealthReporter) {
    for name in SERVED.into_iter().chain([WHOLE]) {
        reporter.clear_service_status(name).await;
    }
}

#[derive(Clone)]
struct Passed(Arc<App>);

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream being passed on.
struct Passing<T> {
    sibling: Sibling,
    source: Streaming<T>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl<T: Send + 'static> Passing<T> {
    /// Clients resume by themselves; they are told why they have to.
    async fn next(&mut self) -> Option<Result<T, Status>> {
        tokio::select! {
            answer = self.source.message() => {
                answer.map_err(|status| said_by(self.sibling, status)).transpose()
            }
            () = self.stopping.cancelled() => Some(Err(Status::unavailable("the gateway is stopping"))),
        }
    }

    fn answers(self) -> Answers<T> {
        Box::pin(stream::unfold(Some(self), |passing| async {
            let mut passing = passing?;
            let answer = passing.next().await?;
            // After an error nothing follows.
            let passing = answer.is_ok().then_some(passing);
            Some((answer, passing))
        }))
    }
}

impl Passed {
    /// A place for a stream, before its source is asked.
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.0.admit_stream().map_err(|problem| Status::resource_exhausted(problem.detail()))
    }

    fn pass<T: Send + 'static>(
        &self,
        sibling: Sibling,
        source: Result<Response<Streaming<T>>, Status>,
        place: OwnedSemaphorePermit,
    ) -> Result<Response<Answers<T>>, Status> {
        let source = answered(sibling, source)?.into_inner();
        let stopping = self.0.stopping.clone();
        Ok(Response::new(Passing { sibling, source, stopping, _place: place }.answers()))
    }
}

/// What a sibling answered, for a client.
fn answered<T>(sibling: Sibling, answer: Result<T, Status>) -> Result<T, Status> {
    answer.map_err(|status| said_by(sibling, status))
}

/// A failure for a client: of a sibling that does not answer it says which that is, else the client would take it for the
/// gateway. What a sibling says itself goes on as it is.
fn said_by(sibling: Sibling, status: Status) -> Status {
    // Only what never was an answer has an error below it.
    match status.source() {
        Some(_) if status.code() == Code::Unavailable => {
            Status::unavailable(format!("the {} does not answer: {}", sibling.name(), status.message()))
        }
        Some(_) | None => status,
    }
}

/// The message and its deadline, and nothing else that the client sent.
fn forward<T>(request: Request<T>) -> Request<T> {
    let deadline = request.metadata().get(DEADLINE).cloned();
    let mut forwarded = Request::new(request.into_inner());
    if let Some(deadline) = deadline {
        forwarded.metadata_mut().insert(DEADLINE, deadline);
    }
    forwarded
}

/// What a client sends, passed on. When it breaks off, so does this, and `broken` has the reason: the store then finds
/// the end missing.
fn sent_on<T: Send + 'static>(
    sent: Streaming<T>,
    stopping: CancellationToken,
    broken: Arc<OnceLock<Status>>,
) -> impl Stream<Item = T> + Send + 'static {
    stream::unfold((sent, stopping, broken), |(mut sent, stopping, broken)| async move {
        let message = tokio::select! {
            message = sent.message() => message,
            () = stopping.cancelled() => Err(Status::unavailable("the gateway is stopping")),
        };
        match message {
            Ok(message) => Some((message?, (sent, stopping, broken))),
            Err(status) => {
                // The first is the reason of what follows.
                let _ = broken.set(status);
                None
            }
        }
    })
}

/// A key that REST could name, too.
fn checked(field: &str, key: &Bytes) -> Result<(), Status> {
    let refused = |why: &dyn std::fmt::Display| Status::invalid_argument(format!("{field}: {why}"));
    Key::try_from(key.clone()).map_err(|error| refused(&error))?;
    std::str::from_utf8(key).map_err(|_| refused(&"a key is UTF-8"))?;
    Ok(())
}

#[tonic::async_trait]
impl KeyValue for Passed {
    type WatchStream = Answers<kv::WatchResponse>;
    type BackupStream = Answers<kv::BackupResponse>;

    async fn get(&self, request: Request<kv::GetRequest>) -> Result<Response<kv::GetResponse>, Status> {
        checked("key", &request.get_ref().key)?;
        answered(Sibling::KeyValue, self.0.get(forward(request)).await)
    }

    async fn put(&self, request: Request<kv::PutRequest>) -> Result<Response<kv::PutResponse>, Status> {
        checked("key", &request.get_ref().key)?;
        answered(Sibling::KeyValue, self.0.kv().put(forward(request)).await)
    }

    async fn delete(
        &self,
        request: Request<kv::DeleteRequest>,
    ) -> Result<Response<kv::DeleteResponse>, Status> {
        checked("key", &request.get_ref().key)?;
        answered(Sibling::KeyValue, self.0.kv().delete(forward(request)).await)
    }

    async fn list(&self, request: Request<kv::ListRequest>) -> Result<Response<kv::ListResponse>, Status> {
        answered(Sibling::KeyValue, self.0.kv().list(forward(request)).await)
    }

    async fn batch(&self, request: Request<kv::BatchRequest>) -> Result<Response<kv::BatchResponse>, Status> {
        use kv::operation::Operation;
        for (index, operation) in request.get_ref().operations.iter().enumerate() {
            let key = match &operation.operation {
                Some(Operation::Put(put)) => &put.key,
                Some(Operation::Delete(delete)) => &delete.key,
                None => return Err(Status::invalid_argument(format!("operations[{index}]: is missing"))),
            };
            checked(&format!("operations[{index}].key"), key)?;
        }
        answered(Sibling::KeyValue, self.0.kv().batch(forward(request)).await)
    }

    async fn watch(&self, request: Request<kv::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let place = self.place()?;
        let source = self.0.kv_streams().watch(forward(request)).await;
        self.pass(Sibling::KeyValue, source, place)
    }

    async fn prove(&self, request: Request<kv::ProveRequest>) -> Result<Response<kv::ProveResponse>, Status> {
        checked("key", &request.get_ref().key)?;
        answered(Sibling::KeyValue, self.0.kv().prove(forward(request)).await)
    }

    async fn backup(
        &self,
        request: Request<kv::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let place = self.place()?;
        let source = self.0.kv_streams().backup(forward(request)).await;
        self.pass(Sibling::KeyValue, source, place)
    }

    async fn restore(
        &self,
        request: Request<Streaming<kv::RestoreRequest>>,
    ) -> Result<Response<kv::RestoreResponse>, Status> {
        let _place = self.place()?;
        let stopping = self.0.stopping.clone();
        let broken = Arc::new(OnceLock::new());
        let request = forward(request).map(|sent| sent_on(sent, stopping, broken.clone()));
        let answer = self.0.kv_streams().restore(request).await;
        // The store knows only that the end is missing.
        broken.get().cloned().map_or(answered(Sibling::KeyValue, answer), Err)
    }
}

#[tonic::async_trait]
impl SyncCoordinator for Passed {
    type WatchEventsStream = Answers<coordinator::Event>;

    async fn status(
        &self,
        request: Request<coordinator::StatusRequest>,
    ) -> Result<Response<coordinator::StatusResponse>, Status> {
        // What the coordinator does not know, such as that the store is full.
        let mut coordinator = self.0.coordinator();
        let (answer, missing) = tokio::join!(coordinator.status(forward(request)), ready::missing(&self.0));
        let mut answer = answered(Sibling::Coordinator, answer)?;
        let said = |missing: Missing| coordinator::Missing {
            service: missing.service.to_owned(),
            reason: missing.reason,
        };
        answer.get_mut().missing = missing.into_iter().map(said).collect();
        Ok(answer)
    }

    async fn state(
        &self,
        request: Request<coordinator::StateRequest>,
    ) -> Result<Response<coordinator::StateResponse>, Status> {
        answered(Sibling::Coordinator, self.0.coordinator().state(forward(request)).await)
    }

    async fn watch_events(
        &self,
        request: Request<coordinator::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let place = self.place()?;
        let source = self.0.coordinator_streams().watch_events(forward(request)).await;
        self.pass(Sibling::Coordinator, source, place)
    }

    async fn switch_mode(
        &self,
        request: Request<coordinator::SwitchModeRequest>,
    ) -> Result<Response<coordinator::SwitchModeResponse>, Status> {
        answered(Sibling::Coordinator, self.0.coordinator().switch_mode(forward(request)).await)
    }

    async fn reconcile(
        &self,
        request: Request<coordinator::ReconcileRequest>,
    ) -> Result<Response<coordinator::ReconcileResponse>, Status> {
        answered(Sibling::Coordinator, self.0.coordinator().reconcile(forward(request)).await)
    }

    async fn heals(
        &self,
        request: Request<coordinator::HealsRequest>,
    ) -> Result<Response<coordinator::HealsResponse>, Status> {
        answered(Sibling::Coordinator, self.0.coordinator().heals(forward(request)).await)
    }

    async fn trust(
        &self,
        request: Request<coordinator::TrustRequest>,
    ) -> Result<Response<coordinator::TrustResponse>, Status> {
        let grant = request.extensions().get::<Grant>().copied();
        if request.get_ref().change.is_some() && grant < Some(Grant(Role::Admin)) {
            return Err(Denied::Role(Role::Admin).status());
        }
        answered(Sibling::Coordinator, self.0.coordinator().trust(forward(request)).await)
    }
}
