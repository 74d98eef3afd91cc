//! The client transport of all generated clients.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tower::Service;

use super::deadline;
use super::memory::Memory;
use crate::config::Listen;
use crate::http::AnyCertificate;
use crate::trace;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A sibling that answers no ping within 10 + 5 s is gone; its streams end, and resume elsewhere.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to one service, for any generated client: `StateStoreClient::new(channel.clone())`. Cheap to
/// clone. It carries the current trace, and its own side keeps each call's deadline.
#[derive(Debug, Clone)]
pub struct Channel {
    transport: Transport,
    deadline: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) enum Transport {
    Socket(tonic::transport::Channel),
    Memory(Memory),
}

impl Channel {
    /// A channel over TCP or a Unix socket. Nothing is dialled before the first call; each call after a
    /// loss dials anew, so calls fail with `UNAVAILABLE` while the service is away and work once it is back.
    /// Call it inside the runtime.
    pub fn connect(listen: &Listen) -> Self {
        let (authority, path) = match listen {
            Listen::Tcp(address) => (address.to_string(), None),
            Listen::Unix(path) => ("localhost".to_owned(), Some(path.clone())),
        };
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
        let uri = uri.expect("a socket address is a valid authority");
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = match path {
            None => endpoint.connect_lazy(),
            Some(path) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            })),
        };
        Self::new(Transport::Socket(channel))
    }

    /// A channel over TLS to whatever certificate the port has.
    pub(super) fn connect_unverified(address: SocketAddr) -> Result<Self, Status> {
        let uri = Uri::builder().scheme("https").authority(address.to_string()).path_and_query("/").build();
        let endpoint = Endpoint::from(uri.expect("a socket address is a valid authority"))
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_config_with_verifier(ClientTlsConfig::new(), Arc::new(AnyCertificate::new()))
            .map_err(status)?;
        Ok(Self::new(Transport::Socket(endpoint.connect_lazy())))
    }

    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, deadline: None }
    }

    /// The same channel, whose calls end after `deadline` unless they set their own
    /// (`tonic::Request::set_timeout`). For calls with one answer; watches use a channel without.
    #[must_use]
    pub fn deadline(&self, deadline: Duration) -> Self {
        Self { transport: self.transport.clone(), deadline: Some(deadline) }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match &mut self.transport {
            Transport::Socket(channel) => channel.poll_ready(cx).map_err(status),
            Transport::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        if let Some(timeout) = self.deadline {
            deadline::set_default(headers, timeout);
        }
        if !headers.contains_key(trace::TRACEPARENT)
            && let Some(Ok(value)) = trace::current_traceparent().map(|text| HeaderValue::from_str(&text))
        {
            headers.insert(trace::TRACEPARENT, value);
        }
        let timeout = deadline::of(request.headers());
        match &mut self.transport {
            Transport::Socket(channel) => {
                let call = channel.call(request);
                Box::pin(deadline::bound(timeout, async move { call.await.map_err(status) }))
            }
            Transport::Memory(memory) => Box::pin(deadline::bound(timeout, memory.clone().call(request))),
        }
    }
}

fn status(error: tonic::transport::Error) -> Status {
    // tonic's transport keeps the deadline, too, and calls its end a cancellation.
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if cause.is::<tonic::TimeoutExpired>() {
            return Status::deadline_exceeded(deadline::EXCEEDED);
        }
        source = cause.source();
    }
    // The outer errors say what failed ("tcp connect error"), the innermost says why.
    let why = innermost(&error).to_string();
    let outer = Status::from_error(Box::new(error));
    let mut status = Status::new(outer.code(), why);
    status.set_source(Arc::new(outer));
    status
}

/// The cause of an error that has no other cause below it.
pub fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost
}
