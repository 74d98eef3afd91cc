//! What every call of every service passes: limit, span, deadline, and the end of a panic.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::{CALLS_MAX, deadline};
use crate::tasks::panic_message;
use crate::trace;

/// What a client calls its request, where it does.
const REQUEST_ID: &str = "x-request-id";

/// A service's routes behind the common layers; cheap to clone, and clones share the limit.
#[derive(Debug, Clone)]
pub struct Layered {
    routes: Routes,
    calls: Arc<Semaphore>,
}

/// Puts `routes` behind the common layers. [`super::Server`] and [`super::in_memory`] do so themselves;
/// a service that answers gRPC within its own HTTP server does it here.
pub fn layered(routes: Routes) -> Layered {
    Layered { routes: routes.prepare(), calls: Arc::new(Semaphore::new(CALLS_MAX)) }
}

impl<B> Service<Request<B>> for Layered
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            let refusal = Status::resource_exhausted(format!("more than {CALLS_MAX} concurrent calls"));
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let span = span_of(&request);
        let timeout = deadline::of(request.headers());
        let handled = handle(self.routes.clone(), request.map(Body::new));
        let inner = span.clone();
        let call = async move {
            let response = deadline::bound(timeout, handled).await?;
            record_status(&span, response.headers());
            Ok(response.map(|body| Body::new(CallBody { body, span, _permit: permit })))
        };
        Box::pin(call.instrument(inner))
    }
}

async fn handle(mut routes: Routes, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    // The call itself is within, since it may panic as well as its future.
    let outcome = AssertUnwindSafe(async { routes.call(request).await }).catch_unwind().await;
    match outcome {
        Ok(response) => Ok(response?.map(|body| Body::new(Unpanicking { body, ended: false }))),
        Err(panic) => Ok(panicked(&*panic).into_http()),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Status {
    // What it said stays in the log: a caller cannot act on it.
    tracing::error!(panic = panic_message(panic), "handler panicked");
    Status::internal("the handler panicked")
}

/// A server span named `<service>/<method>`, continuing the caller's trace.
fn span_of<B>(request: &Request<B>) -> Span {
    if !trace::is_traced(request.headers()) {
        return Span::none();
    }
    let path = request.uri().path().trim_start_matches('/');
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    // Its parent is what the headers say, also where the caller is of the same process.
    let span = tracing::info_span!(
        parent: None,
        "grpc.call",
        otel.name = path,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        otel.status_code = Empty,
        request_id = Empty,
    );
    if let Some(id) = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()) {
        span.record("request_id", id);
    }
    if let Some(parent) = request.headers().get(trace::TRACEPARENT).and_then(|value| value.to_str().ok()) {
        trace::set_parent(&span, parent);
    }
    span
}

fn record_status(span: &Span, headers: &HeaderMap) {
    if let Some(code) = Status::from_header_map(headers).map(|status| status.code()) {
        span.record("rpc.grpc.status_code", code as i64);
        // Of a server's span only these are its errors; the others are the caller's.
        use tonic::Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
        if matches!(code, DataLoss | DeadlineExceeded | Internal | Unavailable | Unimplemented | Unknown) {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// The body of a call: within its span, holding its place until it ends or is dropped.
struct CallBody {
    body: Body,
    span: Span,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = this.span.in_scope(|| Pin::new(&mut this.body).poll_frame(cx));
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            record_status(&this.span, trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose panic becomes `INTERNAL`.
struct Unpanicking {
    body: Body,
    ended: bool,
}

impl http_body::Body for Unpanicking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let body = AssertUnwindSafe(&mut self.body);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(move || Pin::new(body.0).poll_frame(cx)));
        match polled {
            Ok(polled) => polled,
            Err(panic) => {
                self.ended = true;
                let mut trailers = HeaderMap::new();
                // Our own short text always fits a header.
                let _ = panicked(&*panic).add_header(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
