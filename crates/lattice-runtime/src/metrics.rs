//! The process's metrics, and a port for those who have no other.
//!
//! One registry serves all services of the process. Each registers its own metrics under their full names
//! (`lattice_store_entries`), and keeps handles that are updated without a lock.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{ALLOW, CONTENT_TYPE as CONTENT_TYPE_HEADER, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::config::Listen;
use crate::http::{BindError, Listener, Protocol};

/// The `Content-Type` of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics. No prefix is added to their names; `_total` is, to those of counters (by
    /// `prometheus-client`), so register `lattice_store_commits` for `lattice_store_commits_total`.
    pub fn with<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics as OpenMetrics text; the single `# EOF` comes last.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            // Writing to a String cannot fail; a collector of ours could.
            tracing::warn!(%error, "encode metrics");
        }
        text
    }
}

/// Answers `GET /metrics`, and nothing else, on a port of its own (`telemetry.metrics_listen`).
#[derive(Debug)]
pub struct Server {
    listener: Listener,
}

impl Server {
    /// Binds the port.
    pub async fn bind(listen: SocketAddr) -> Result<Self, BindError> {
        let listener = Listener::bind("telemetry.metrics_listen", &Listen::Tcp(listen)).await?;
        Ok(Self { listener })
    }

    /// What was bound, with the actual port.
    pub fn local(&self) -> Listen {
        self.listener.local()
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, metrics: Metrics, shutdown: CancellationToken) {
        let service = tower::service_fn(move |request: Request<Body>| {
            let response = answer(&metrics, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        self.listener.serve(service, Protocol::Http1, shutdown).await;
    }
}

fn answer(metrics: &Metrics, request: &Request<Body>) -> Response<Full<bytes::Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::from("only /metrics is here\n");
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        response.headers_mut().insert(CONTENT_TYPE_HEADER, HeaderValue::from_static(CONTENT_TYPE));
        *response.body_mut() = Full::from(metrics.encode());
    }
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::TaskGroup;

    fn sample() -> Metrics {
        let metrics = Metrics::new();
        let entries = Gauge::<i64>::default();
        let commits = Counter::<u64>::default();
        metrics.with(|registry| {
            registry.register("lattice_store_entries", "Entries of the newest seal", entries.clone());
            registry.register("lattice_store_commits", "Commits", commits.clone());
        });
        entries.set(7);
        commits.inc();
        metrics
    }

    const TEXT: &str = "# HELP lattice_store_entries Entries of the newest seal.\n\
        # TYPE lattice_store_entries gauge\n\
        lattice_store_entries 7\n\
        # HELP lattice_store_commits Commits.\n\
        # TYPE lattice_store_commits counter\n\
        lattice_store_commits_total 1\n\
        # EOF\n";

    #[test]
    fn metrics_keep_their_names_and_end_once() {
        assert_eq!(sample().encode(), TEXT);
    }

    #[tokio::test]
    async fn the_port_answers_get_metrics_alone() {
        let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let Listen::Tcp(address) = server.local() else { panic!("a TCP port") };
        let tasks = TaskGroup::new("test");
        let token = tasks.token();
        tasks.spawn("metrics", async move {
            server.serve(sample(), token).await;
            Ok(())
        });
        let cases = [
            ("GET /metrics", "HTTP/1.1 200 OK", TEXT),
            ("GET /", "HTTP/1.1 404 Not Found", "only /metrics is here\n"),
            ("DELETE /metrics", "HTTP/1.1 405 Method Not Allowed", ""),
        ];
        for (request, status, body) in cases {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            assert!(
                response.starts_with(status) && response.ends_with(&format!("\r\n\r\n{body}")),
                "{response}"
            );
        }
        tasks.join(std::time::Duration::from_secs(20)).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
