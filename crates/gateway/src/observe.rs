//! What operators see of requests: one histogram, and one span for each.
//!
//! Labels come from the table of routes, so that no client can make series. Every route has its series of
//! success from the start.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use lattice_proto::reason;
use lattice_runtime::{Metrics, trace};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tonic::Code;
use tracing::Span;
use tracing::field::Empty;

use crate::access::{ROWS, method_label};

const BUCKETS_S: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How long requests took until their answer began.
#[derive(Debug, Clone)]
pub(crate) struct Durations(Family<Labels, Histogram, fn() -> Histogram>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    method: &'static str,
    status: u32,
}

impl Durations {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let family = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(BUCKETS_S)
        });
        metrics.with(|registry| {
            let help = "Time from a request to the beginning of its answer";
            registry.register("lattice_gateway_request_duration_seconds", help, family.clone());
        });
        for row in ROWS {
            let labels = Labels { route: row.route, method: row.method, status: u32::from(row.success) };
            drop(family.get_or_create(&labels));
        }
        Self(family)
    }

    pub(crate) fn record(&self, route: &'static str, method: &Method, status: StatusCode, took: Duration) {
        let labels = Labels { route, method: method_label(method), status: u32::from(status.as_u16()) };
        self.0.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// A server span named `<method> <route>`, continuing the client's trace.
pub(crate) fn span(method: &Method, route: &str, path: &str, request_id: &str, headers: &HeaderMap) -> Span {
    if !trace::is_traced(headers) {
        return Span::none();
    }
    let method = method_label(method);
    let span = tracing::info_span!(
        "http.request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        url.path = path,
        request_id,
        http.response.status_code = Empty,
        otel.status_code = Empty,
    );
    if let Some(parent) = headers.get(trace::TRACEPARENT).and_then(|value| value.to_str().ok()) {
        trace::set_parent(&span, parent);
    }
    span
}

/// Completes a request's span.
pub(crate) fn record_status(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The status label of a gRPC answer: what HTTP would have said. Errors of calls with one answer are in the
/// head of the response.
pub(crate) fn grpc_status(headers: &HeaderMap) -> StatusCode {
    let status = tonic::Status::from_header_map(headers);
    if status.as_ref().and_then(reason::of) == Some(reason::DISK_FULL) {
        return StatusCode::INSUFFICIENT_STORAGE;
    }
    match status.map_or(Code::Ok, |status| status.code()) {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::ResourceExhausted | Code::Unavailable | Code::DataLoss => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Internal | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
