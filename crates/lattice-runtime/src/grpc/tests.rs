//! Both forms of a channel, side by side: what one does, the other does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::Notify;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::TaskGroup;
use crate::config::Listen;
use crate::trace;

/// Long enough for a busy machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that does what the name it is asked about says.
#[derive(Clone, Default)]
struct Sample {
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    started: AtomicUsize,
    dropped: AtomicUsize,
    produced: AtomicUsize,
    changed: Notify,
}

/// Counts handlers that are running and those that have gone.
struct Handler(Arc<Seen>);

impl Sample {
    fn enter(&self) -> Handler {
        self.seen.started.fetch_add(1, Ordering::SeqCst);
        self.seen.changed.notify_waiters();
        Handler(self.seen.clone())
    }

    async fn until(&self, condition: impl Fn(&Seen) -> bool) {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.seen.changed.notified());
                changed.as_mut().enable();
                if condition(&self.seen) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the condition holds in time");
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

#[tonic::async_trait]
impl Health for Sample {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let handler = self.enter();
        match request.into_inner().service.as_str() {
            "panic" => panic!("asked to"),
            "hang" => std::future::pending().await,
            "trace" => Err(Status::not_found(trace::trace_id(&tracing::Span::current()).unwrap_or_default())),
            _ => {
                drop(handler);
                Ok(Response::new(HealthCheckResponse::default()))
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let handler = self.enter();
        let first = tokio_stream::once(Ok(HealthCheckResponse::default()));
        let seen = self.seen.clone();
        let rest: Self::WatchStream = match request.into_inner().service.as_str() {
            "panic" => Box::pin(tokio_stream::iter(0..1).map(|_| panic!("asked to"))),
            "silent" => Box::pin(tokio_stream::pending()),
            _ => Box::pin(tokio_stream::iter(0_u64..).map(move |_| {
                seen.produced.fetch_add(1, Ordering::SeqCst);
                Ok(HealthCheckResponse::default())
            })),
        };
        let held = first.chain(rest).map(move |item| {
            let _held = &handler;
            item
        });
        Ok(Response::new(Box::pin(held)))
    }
}

/// A service and a channel to it.
struct Form {
    name: &'static str,
    sample: Sample,
    channel: Channel,
    tasks: TaskGroup,
}

impl Form {
    fn client(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }
}

fn in_memory_form() -> Form {
    let (sample, tasks) = (Sample::default(), TaskGroup::new("sample"));
    let channel = in_memory(Routes::new(HealthServer::new(sample.clone())), &tasks);
    Form { name: "memory", sample, channel, tasks }
}

async fn socket_form() -> Form {
    let (sample, tasks) = (Sample::default(), TaskGroup::new("sample"));
    let channel = Channel::connect(&serve(&sample, &tasks, &any_port()).await);
    Form { name: "socket", sample, channel, tasks }
}

async fn both() -> [Form; 2] {
    [in_memory_form(), socket_form().await]
}

fn any_port() -> Listen {
    "127.0.0.1:0".parse().unwrap()
}

async fn serve(sample: &Sample, tasks: &TaskGroup, listen: &Listen) -> Listen {
    let server = Server::bind("store.listen", listen).await.unwrap();
    let (local, routes, token) =
        (server.local(), Routes::new(HealthServer::new(sample.clone())), tasks.token());
    tasks.spawn("server", async move {
        server.serve(routes, token).await;
        Ok(())
    });
    local
}

fn ask(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: service.into() })
}

fn ask_within(service: &str, timeout: Duration) -> Request<HealthCheckRequest> {
    let mut request = ask(service);
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn calls_are_answered() {
    for form in both().await {
        form.client().check(ask("")).await.unwrap();
        let mut watch = form.client().watch(ask("many")).await.unwrap().into_inner();
        for _ in 0..10_000 {
            watch.message().await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_panic_becomes_internal_and_the_service_lives_on() {
    for form in both().await {
        let status = form.client().check(ask("panic")).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "the handler panicked"),
            "{}",
            form.name
        );

        let mut watch = form.client().watch(ask("panic")).await.unwrap().into_inner();
        let status = loop {
            // The first message may be lost with the batch that the panic ended.
            match watch.message().await {
                Ok(message) => assert!(message.is_some(), "{}: ends with a status", form.name),
                Err(status) => break status,
            }
        };
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "the handler panicked"),
            "{}",
            form.name
        );
        form.client().check(ask("")).await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_call_cancels_its_handler() {
    for form in both().await {
        let mut client = form.client();
        let call = tokio::spawn(async move { client.check(ask("hang")).await });
        form.sample.until(|seen| seen.started.load(Ordering::SeqCst) == 1).await;
        call.abort();
        form.sample.until(|seen| seen.dropped.load(Ordering::SeqCst) == 1).await;

        let watch = form.client().watch(ask("silent")).await.unwrap();
        drop(watch);
        form.sample.until(|seen| seen.dropped.load(Ordering::SeqCst) == 2).await;
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_its_handler() {
    let timeout = Duration::from_millis(30);
    for form in both().await {
        let status = form.client().check(ask_within("hang", timeout)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{}: {status:?}", form.name);
        form.sample.until(|seen| seen.dropped.load(Ordering::SeqCst) == 1).await;

        // A default deadline yields to the call's own.
        let mut client = HealthClient::new(form.channel.deadline(timeout));
        assert_eq!(client.check(ask("hang")).await.unwrap_err().code(), Code::DeadlineExceeded);
        client.check(ask_within("", PATIENCE)).await.unwrap();
    }
}

#[tokio::test]
async fn a_deadline_bounds_the_stream_as_well() {
    for form in both().await {
        for service in ["silent", "many"] {
            let request = ask_within(service, Duration::from_millis(200));
            let Ok(watch) = form.client().watch(request).await else {
                continue;
            };
            let mut watch = watch.into_inner();
            let end = async {
                loop {
                    match watch.message().await {
                        Ok(message) => assert!(message.is_some(), "{}: ends with a status", form.name),
                        Err(status) => return status,
                    }
                }
            };
            let status = tokio::time::timeout(PATIENCE, end).await.unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{} {service}: {status:?}", form.name);
        }
        form.sample
            .until(|seen| seen.dropped.load(Ordering::SeqCst) == seen.started.load(Ordering::SeqCst))
            .await;
    }
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_own_stream_in_memory() {
    let form = in_memory_form();
    let mut watch = form.client().watch(ask("many")).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let produced = || form.sample.seen.produced.load(Ordering::SeqCst);
    // One thread: when nothing changes over many turns, the handler is waiting for us.
    let (mut last, mut calm) = (produced(), 0);
    while calm < 1000 {
        tokio::task::yield_now().await;
        calm = if produced() == last { calm + 1 } else { 0 };
        last = produced();
    }
    // A message takes 5 bytes here, and tonic fills up to 32 KiB of them into a frame.
    let frame = 32 * 1024 / 5 + 1;
    assert!(last <= 8 * frame, "{last} messages for a reader that took one");
    // The other calls are not held up.
    form.client().check(ask("")).await.unwrap();
}

#[tokio::test]
async fn a_service_that_is_not_there_is_told_with_the_reason() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let channel = Channel::connect(&Listen::Tcp(free));
    let status = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("refused"), "{status:?}");
    assert!(std::error::Error::source(&status).is_some(), "which is how it is told from an answer");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_until_others_end() {
    let form = in_memory_form();
    let mut watches = Vec::new();
    for _ in 0..CALLS_MAX {
        watches.push(form.client().watch(ask("silent")).await.unwrap());
    }
    let status = form.client().check(ask("")).await.unwrap_err();
    let expected = (Code::ResourceExhausted, "more than 1024 concurrent calls");
    assert_eq!((status.code(), status.message()), expected);

    watches.pop();
    form.sample.until(|seen| seen.dropped.load(Ordering::SeqCst) == 1).await;
    form.client().check(ask("")).await.unwrap();
}

#[tokio::test]
async fn a_service_that_stopped_is_unavailable() {
    let form = in_memory_form();
    let mut watch = form.client().watch(ask("silent")).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    form.tasks.join(Duration::ZERO).await.expect("to cut a call is no failure");
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(form.client().check(ask("")).await.unwrap_err().code(), Code::Unavailable);

    let form = in_memory_form();
    let mut client = form.client();
    drop(form.tasks);
    assert_eq!(client.check(ask("")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_channel_survives_the_restart_of_its_service() {
    let folder = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(folder.path().join("store.sock"));
    let mut client = HealthClient::new(Channel::connect(&listen));
    assert_eq!(client.check(ask("")).await.unwrap_err().code(), Code::Unavailable);
    for _ in 0..2 {
        let (sample, tasks) = (Sample::default(), TaskGroup::new("sample"));
        serve(&sample, &tasks, &listen).await;
        client.check(ask("")).await.unwrap();
        tasks.join(PATIENCE).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, async {
            // The goodbye of the server may be on its way still.
            while client.check(ask("")).await.is_ok() {}
        });
        answer.await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_finishes_the_calls_in_flight() {
    let form = socket_form().await;
    let mut watch = form.client().watch(ask("many")).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    form.tasks.token().cancel();
    for _ in 0..10_000 {
        watch.message().await.unwrap().unwrap();
    }
    drop(watch);
    form.tasks.join(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn one_trace_spans_the_call() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    for form in both().await {
        let span = tracing::info_span!("caller");
        let expected = trace::trace_id(&span).unwrap();
        let status = form.client().check(ask("trace")).instrument(span).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, expected.as_str()), "{}", form.name);
    }
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    for form in both().await {
        let mut grpc = tonic::client::Grpc::new(form.channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_health_codec();
        let path = http::uri::PathAndQuery::from_static("/lattice.store.v1.StateStore/Nothing");
        let status = grpc.unary(ask(""), path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{}", form.name);
    }
}

/// A codec for the sample's messages; which bytes it makes of them does not matter here.
fn tonic_health_codec() -> EmptyCodec {
    EmptyCodec
}

struct EmptyCodec;

impl tonic::codec::Codec for EmptyCodec {
    type Encode = HealthCheckRequest;
    type Decode = HealthCheckResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for EmptyCodec {
    type Item = HealthCheckRequest;
    type Error = Status;

    fn encode(&mut self, _: HealthCheckRequest, _: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl tonic::codec::Decoder for EmptyCodec {
    type Item = HealthCheckResponse;
    type Error = Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<HealthCheckResponse>, Status> {
        Ok(None)
    }
}

#[tokio::test]
async fn healthcheck_tells_serving_from_the_rest() {
    let (reporter, service) = health();
    let tasks = TaskGroup::new("sample");
    let server = Server::bind("store.listen", &any_port()).await.unwrap();
    let (local, token) = (server.local(), tasks.token());
    tasks.spawn("server", async move {
        server.serve(Routes::new(service), token).await;
        Ok(())
    });
    healthcheck(&local, "", PATIENCE).await.unwrap();
    assert_eq!(healthcheck(&local, "store", PATIENCE).await.unwrap_err().code(), Code::NotFound);

    reporter.set_service_status("store", ServingStatus::NotServing).await;
    let status = healthcheck(&local, "store", PATIENCE).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "status is NOT_SERVING"));

    reporter.set_service_status("store", ServingStatus::Serving).await;
    healthcheck(&local, "store", PATIENCE).await.unwrap();
    tasks.join(PATIENCE).await.unwrap();
    assert_eq!(healthcheck(&local, "", PATIENCE).await.unwrap_err().code(), Code::Unavailable);
}

#[test]
fn reflection_serves_descriptors_and_refuses_what_is_none() {
    assert!(reflection(&[tonic_health::pb::FILE_DESCRIPTOR_SET]).is_ok());
    assert!(reflection(&[b"\xff\xff not a descriptor"]).is_err());
}
