//! A bounded HTTP server: bind, accept, serve, drain.
//!
//! gRPC, `/metrics` and the gateway all listen through this, so that each has the same answers to the same
//! troubles: too many connections wait in the kernel's queue, a client that sends no request is cut after
//! [`HEAD_TIMEOUT`], one that reads nothing of its answer after [`STALL_MAX`], an HTTP/2 peer that answers no ping is
//! cut, and at shutdown what is in flight gets [`DRAIN_MAX`] to finish.

mod stream;
mod tls;
mod unverified;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use self::stream::{Guarded, Stream};
pub use self::tls::{Certificate, HANDSHAKE_MAX, HANDSHAKES_MAX, Tls};
pub(crate) use self::unverified::AnyCertificate;
use crate::config::Listen;

/// Open connections of one port, unless it is told otherwise; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to send the head of its request (over HTTP/2: its preface).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what it is sent before its connection is cut.
pub const STALL_MAX: Duration = Duration::from_secs(60);
/// How long requests in flight get at shutdown before their connections are cut.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

const STREAMS_MAX: u32 = 256;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{field}: cannot listen on {address}: {source}")]
pub struct BindError {
    /// The configuration key, like `store.listen`.
    pub field: String,
    /// The address as configured.
    pub address: String,
    /// Why.
    pub source: io::Error,
}

/// Which HTTP a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, as gRPC without TLS is.
    Http2,
    /// Both, told apart by the first bytes.
    Both,
}

/// A bound port, not yet accepting.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    local: Listen,
    tls: Option<Tls>,
    connections_max: usize,
}

/// Who is at the other end of a connection: an extension of each request that came over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote(pub SocketAddr);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds; `field` is the configuration key, for the error. A Unix socket is private to the user, and a
    /// stale one, on which nobody answers, is replaced.
    pub async fn bind(field: &str, listen: &Listen) -> Result<Self, BindError> {
        let failed = |source| BindError { field: field.to_owned(), address: listen.to_string(), source };
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let local = Listen::Tcp(listener.local_addr().map_err(failed)?);
                Ok(Self { socket: Socket::Tcp(listener), local, tls: None, connections_max: CONNECTIONS_MAX })
            }
            Listen::Unix(path) => {
                let listener = bind_unix(path).map_err(failed)?;
                Ok(Self {
                    socket: Socket::Unix(listener),
                    local: listen.clone(),
                    tls: None,
                    connections_max: CONNECTIONS_MAX,
                })
            }
        }
    }

    /// Serves TLS alone, when there is any.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// Takes another number of connections at a time than [`CONNECTIONS_MAX`].
    #[must_use]
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// What was bound, with the actual port.
    pub fn local(&self) -> Listen {
        self.local.clone()
    }

    /// The actual TCP address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.local {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        }
    }

    /// Serves until `shutdown`, then drains. `service` may be an `axum::Router`, tonic's `Routes`, or
    /// [`crate::grpc::Layered`].
    pub async fn serve<S, B>(self, service: S, protocol: Protocol, shutdown: CancellationToken)
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        self.serve_and_drain(service, protocol, shutdown, DRAIN_MAX).await;
    }

    async fn serve_and_drain<S, B>(
        self,
        service: S,
        protocol: Protocol,
        shutdown: CancellationToken,
        drain_max: Duration,
    ) where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let builder = builder(protocol);
        let slots = Arc::new(Semaphore::new(self.connections_max));
        let mut connections = JoinSet::new();
        loop {
            let slot = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                slot = slots.clone().acquire_owned() => slot,
            };
            let stream = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                stream = self.accept() => stream,
            };
            // Ended connections are collected here, so that the set holds only open ones.
            while connections.try_join_next().is_some() {}
            let (stream, remote) = match stream {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listen = %self.local, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (builder, service, shutdown) = (builder.clone(), service.clone(), shutdown.clone());
            let tls = self.tls.clone();
            connections.spawn(async move {
                let _slot = slot;
                let stream = match tls {
                    None => Some(stream),
                    // What has not been asked anything yet is not waited for.
                    Some(tls) => shutdown.run_until_cancelled(tls.accept(stream)).await.flatten(),
                };
                if let Some(stream) = stream {
                    connection(builder, stream, AnyBody { service, remote }, shutdown).await;
                }
            });
        }
        drop(self);

        let drained =
            tokio::time::timeout(drain_max, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(connections = connections.len(), "cut connections that did not drain");
        }
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<Remote>)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), Some(Remote(remote))))
            }
            Socket::Unix(listener) => Ok((Box::new(listener.accept().await?.0), None)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Before the socket closes: as long as we would answer, nobody else takes the path.
        if let Listen::Unix(path) = &self.local {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is there"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Free or stale: the rename below takes its place.
        Ok(_) | Err(_) => {}
    }
    // Made private before it has its name: nobody connects in between.
    let mut unnamed = PathBuf::from(path).into_os_string();
    unnamed.push(".new");
    let unnamed = PathBuf::from(unnamed);
    let _ = std::fs::remove_file(&unnamed);
    let listener = UnixListener::bind(&unnamed)?;
    std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&unnamed, path)?;
    Ok(listener)
}

fn builder(protocol: Protocol) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_only(),
        Protocol::Both => builder,
    }
}

async fn connection<S, B>(
    builder: Builder<TokioExecutor>,
    stream: Box<dyn Stream>,
    service: AnyBody<S>,
    shutdown: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let stream = TokioIo::new(Guarded::new(stream, HEAD_TIMEOUT, STALL_MAX));
    let service = TowerToHyperService::new(service);
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // Whatever a client does to its own connection is no news.
        tracing::debug!(%error, "connection ended");
    }
}

/// Takes hyper's body as tonic's, for services that take only that, and says who sent it.
#[derive(Clone)]
struct AnyBody<S> {
    service: S,
    remote: Option<Remote>,
}

impl<S, B> Service<Request<B>> for AnyBody<S>
where
    S: Service<Request<Body>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let mut request = request.map(Body::new);
        if let Some(remote) = self.remote {
            request.extensions_mut().insert(remote);
        }
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::TaskGroup;

    #[tokio::test]
    async fn a_port_in_use_is_refused_by_field_and_address() {
        let first = Listener::bind("store.listen", &"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local();
        let error = Listener::bind("sensor.listen", &address).await.unwrap_err();
        let expected =
            format!("sensor.listen: cannot listen on {address}: Address already in use (os error 98)");
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sock");
        let listen = Listen::Unix(path.clone());
        // What a process that was killed leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let first = Listener::bind("store.listen", &listen).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Listener::bind("store.listen", &listen).await.unwrap_err();
        let expected = format!("store.listen: cannot listen on unix:{}: address in use", path.display());
        assert_eq!(error.to_string(), expected);

        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = Listener::bind("store.listen", &listen).await.unwrap_err();
        assert!(error.to_string().ends_with("a file that is not a socket is there"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn one_port_speaks_both_versions() {
        let listener = Listener::bind("gateway.listen", &"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = TaskGroup::new("test");
        let token = tasks.token();
        let service = tower::service_fn(|_| async { Ok(Response::new(http_body_util::Full::from("hello"))) });
        tasks.spawn("server", async move {
            listener.serve(service, Protocol::Both, token).await;
            Ok(())
        });

        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("hello"), "{response}");

        let mut channel =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let response = channel.call(Request::new(Body::empty())).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.to_bytes(), "hello");
        drop(channel);

        tasks.join(DRAIN_MAX).await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_drain_is_cut() {
        let listener = Listener::bind("gateway.listen", &"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = TaskGroup::new("test");
        let token = tasks.token();
        let entered = Arc::new(tokio::sync::Notify::new());
        let enter = entered.clone();
        let service = tower::service_fn(move |_| {
            enter.notify_one();
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        tasks.spawn("server", async move {
            listener.serve_and_drain(service, Protocol::Http1, token, Duration::from_millis(1)).await;
            Ok(())
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        entered.notified().await;
        tasks.join(DRAIN_MAX).await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset, but over.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
}
