//! One port, two protocols: each request is admitted, authorized, answered and measured here.
//!
//! The content type tells gRPC from REST. On both sides the order is the same: who asks (so that a stranger
//! costs no more than that), then the handler with a deadline, then what an early refusal leaves to do.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use lattice_runtime::grpc::{HealthReporter, Layered};
use lattice_runtime::http::Remote;
use lattice_runtime::reload::Reloaded;
use tonic::Code;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use crate::access::{self, Access, Role};
use crate::app::App;
use crate::auth::Tokens;
use crate::drain;
use crate::guard::{Origins, REQUEST_ID, identify};
use crate::observe;
use crate::problem::{Kind, Problem, shortened};
use crate::routes;
use crate::rpc;

const GRPC: &str = "application/grpc";
/// How tonic begins to say that a message is larger than it may be.
const MESSAGE_TOO_LARGE: &str = "Error, decoded message length too large";
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// What is said of a panic; it is in the log.
pub(crate) const FAILED: &str = "the gateway failed; its log says why";
pub(crate) const HOSTS: &str =
    "a request names one host: in one Host header over HTTP/1.1, and nowhere another one";

/// The whole port as a tower service; cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    app: Arc<App>,
    http: Router,
    grpc: Layered,
    health: HealthReporter,
}

impl Server {
    pub(crate) async fn new(app: Arc<App>) -> Result<Self, tonic_reflection::server::Error> {
        let (grpc, health) = rpc::services(app.clone()).await?;
        Ok(Self { http: routes::router(app.clone()), grpc, health, app })
    }

    /// What the port's health service says.
    pub(crate) fn health(&self) -> HealthReporter {
        self.health.clone()
    }

    /// The sites whose pages may call.
    pub(crate) fn origins(&self) -> &Origins {
        self.app.auth.origins()
    }

    /// The tokens, to be read again.
    pub(crate) fn tokens(&self) -> Option<Arc<Reloaded<Tokens>>> {
        self.app.auth.tokens()
    }

    async fn answer(self, mut request: Request<Body>) -> Response {
        let started = self.app.clock.monotonic();
        let route = access::route_of(request.uri().path());
        let method = request.method().clone();
        let id = identify(request.headers_mut());
        let remote = request.extensions().get::<Remote>().map(|remote| remote.0.ip());
        let place = self.app.admit(route, started, remote);
        let app = self.app.clone();
        let (mut response, status) = if is_grpc(request.headers()) {
            let response = match place {
                Ok(_place) => self.grpc(route, request).await,
                Err(problem) => tonic::Status::resource_exhausted(problem.detail()).into_http(),
            };
            let status = observe::grpc_status(response.headers());
            (response, status)
        } else {
            let text = id.to_str().unwrap_or_default();
            let span = observe::span(&method, route, request.uri().path(), text, request.headers());
            let response = match place {
                Ok(_place) => self.http(route, request).instrument(span.clone()).await,
                Err(problem) => secured(problem.into_response()),
            };
            observe::record_status(&span, response.status());
            let status = response.status();
            (response, status)
        };
        let took = app.clock.monotonic().saturating_sub(started);
        app.durations.record(route, &method, status, took);
        tracing::debug!(
            request_id = ?id, method = access::method_label(&method), route, status = status.as_u16(), ?took, "answered"
        );
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    /// REST. The layers of [`Layered`] do for gRPC what is spelled out here.
    async fn http(self, route: &'static str, request: Request<Body>) -> Response {
        let request_timeout = self.app.settings.request_timeout;
        let (request, unread) = drain::watch(request);
        let handled = AssertUnwindSafe(self.routed(route, request)).catch_unwind();
        let in_time = async {
            match access::uploads(route) {
                // Its body may be of any length; the store gives up on one that does not go on.
                true => Ok(handled.await),
                false => tokio::time::timeout(request_timeout, handled).await,
            }
        };
        let response = match in_time.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                tracing::error!(route, "handler panicked");
                Problem::new(Kind::Internal, FAILED).into_response()
            }
            Err(_) => too_long(request_timeout).into_response(),
        };
        unread.drain().await;
        secured(response)
    }

    async fn routed(self, route: &str, request: Request<Body>) -> Response {
        if !names_one_host(&request) {
            return Problem::new(Kind::HeaderInvalid, HOSTS).into_response();
        }
        let access = access::access(request.method(), route).filter(|_| !access::is_rpc(route));
        let Some(access) = access else {
            return absent(request.method(), route, request.uri());
        };
        if let Err(denied) = self.app.auth.check(request.headers(), access) {
            let refusal = denied.problem().into_response();
            return routes::ask_for_token(route, request.headers(), refusal);
        }
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        if let Some(why) = self.app.auth.foreign(access, method, uri, headers) {
            return Problem::new(Kind::CrossOrigin, why).into_response();
        }
        match self.http.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn grpc(self, route: &'static str, mut request: Request<Body>) -> Response {
        if !names_one_host(&request) {
            return tonic::Status::invalid_argument(HOSTS).into_http::<Body>();
        }
        let access = access::access(&Method::POST, route);
        // What there is, strangers are not told.
        let needed = access.unwrap_or(Access::Needs(Role::Read));
        match self.app.auth.check(request.headers(), needed) {
            Ok(grant) => request.extensions_mut().insert(grant),
            Err(denied) => return denied.status().into_http::<Body>(),
        };
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        if let Some(why) = self.app.auth.foreign(needed, method, uri, headers) {
            return tonic::Status::permission_denied(why).into_http::<Body>();
        }
        if access.is_none() {
            // Whatever the router may know of it.
            let path = shortened(request.uri().path());
            return tonic::Status::unimplemented(format!("no method {path}")).into_http::<Body>();
        }
        // Also in place of a longer one: who never sends the rest of a call must not keep its place.
        let request_timeout = self.app.settings.request_timeout;
        if !access::streams(route) && !in_time(request.headers(), request_timeout) {
            request.headers_mut().insert(GRPC_TIMEOUT, in_ms(request_timeout));
        }
        match self.grpc.oneshot(request).await {
            Ok(response) => standard(response.map(Body::new)),
            Err(never) => match never {},
        }
    }
}

/// An answer over gRPC with the code that gRPC has for it: of a message beyond its limit, tonic says OUT_OF_RANGE, which
/// is for a place past an end.
fn standard(response: Response) -> Response {
    match tonic::Status::from_header_map(response.headers()) {
        Some(status)
            if status.code() == Code::OutOfRange && status.message().starts_with(MESSAGE_TOO_LARGE) =>
        {
            tonic::Status::resource_exhausted(status.message()).into_http()
        }
        Some(_) | None => response,
    }
}

impl Service<Request<tonic::body::Body>> for Server {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.answer(request.map(Body::new)).await) })
    }
}

/// Whether a request says whom it asks, in one way: a proxy before us and we could else each read another.
fn names_one_host(request: &Request<Body>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), request.uri().authority()) {
        (None, _, _) => request.version() != Version::HTTP_11,
        (Some(_), None, None) => true,
        (Some(host), None, Some(authority)) => {
            host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
        }
        (Some(_), Some(_), _) => false,
    }
}

/// The refusal of a request whose answer did not begin within `request_timeout`.
pub(crate) fn too_long(request_timeout: Duration) -> Problem {
    Problem::new(Kind::Timeout, format!("the request took longer than {} ms", request_timeout.as_millis()))
}

/// What the table does not have: no such route, or not with this method.
fn absent(method: &Method, route: &str, uri: &Uri) -> Response {
    let path = shortened(uri.path());
    if route == access::OTHER || access::is_rpc(route) {
        return Problem::new(Kind::RouteNotFound, format!("no route for {path}")).into_response();
    }
    let allowed = access::allowed(route);
    let detail = format!("{path} does not take {method}: it takes {allowed}");
    let mut response = Problem::new(Kind::MethodNotAllowed, detail).into_response();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// `application/grpc`, with or without an encoding after it.
fn is_grpc(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = given.strip_prefix(GRPC.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A time as gRPC writes it: at most a day (as `gateway.request_timeout` is), so that its milliseconds have the 8
/// digits that are allowed.
fn in_ms(time: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("{}m", time.as_millis())).expect("digits and a letter are a header value")
}

/// Whether a call ends within `limit` by its caller's own deadline; one that cannot be read is none.
fn in_time(headers: &HeaderMap, limit: Duration) -> bool {
    let given = headers.get(GRPC_TIMEOUT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((unit_at, unit)) = given.char_indices().next_back() else { return false };
    let number = &given[..unit_at];
    let unit_ns: u128 = match unit {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1_000,
        'n' => 1,
        _ => return false,
    };
    // As gRPC has it: 1 to 8 digits.
    if !(1..=8).contains(&number.len()) || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    number.parse::<u128>().is_ok_and(|number| number * unit_ns <= limit.as_nanos())
}

/// Values are whatever clients stored: no browser is to take one for a page of ours.
fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_callers_deadline_counts_up_to_ours() {
        for (given, counts) in [
            (None, false),
            (Some("30S"), true),
            (Some("30000000u"), true),
            (Some("99999999n"), true),
            (Some("0m"), true),
            (Some("31S"), false),
            (Some("30001m"), false),
            (Some("99999999H"), false),
            (Some("1M"), false),
            (Some("000000030S"), false),
            (Some("+30S"), false),
            (Some("S"), false),
            (Some("30"), false),
            (Some("soon"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(GRPC_TIMEOUT, given.parse().unwrap());
            }
            assert_eq!(in_time(&headers, LIMIT), counts, "{given:?}");
        }
        for limit in [LIMIT, Duration::from_secs(24 * 3_600), Duration::from_millis(1)] {
            let name = http::HeaderName::from_static(GRPC_TIMEOUT);
            assert!(in_time(&HeaderMap::from_iter([(name, in_ms(limit))]), limit), "{limit:?}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        for (version, uri, hosts, good) in [
            (Version::HTTP_11, "/", &["a"][..], true),
            (Version::HTTP_11, "/", &[], false),
            (Version::HTTP_11, "/", &["a", "a"], false),
            (Version::HTTP_11, "http://a/", &["A"], true),
            (Version::HTTP_11, "http://a/", &["b"], false),
            (Version::HTTP_10, "/", &[], true),
            (Version::HTTP_10, "/", &["a", "b"], false),
            (Version::HTTP_2, "http://a/", &[], true),
            (Version::HTTP_2, "http://a/", &["a"], true),
            (Version::HTTP_2, "http://a/", &["b"], false),
        ] {
            let mut request = Request::builder().version(version).uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            let request = request.body(Body::empty()).unwrap();
            assert_eq!(names_one_host(&request), good, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn the_content_type_tells_grpc() {
        for (given, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, given.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), grpc, "{given}");
        }
    }
}
