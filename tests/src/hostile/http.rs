//! The hostile peer over HTTP: a real server, at one URL for all of its faces.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use lattice_proto::codec;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Mouth, Reply};
use crate::wait::wall;

/// Between two bytes that drip.
pub const DRIP_EVERY: Duration = Duration::from_millis(50);
/// As long as an answer is kept back that is to come just in time, for those who wait for two seconds.
pub const LATE: Duration = Duration::from_millis(1_000);
/// Of an endless body.
const PIECE: &[u8] = &[0; 64 << 10];

/// Who answers at the moment; nobody at first.
type Stage = Arc<Mutex<Option<Mouth>>>;

/// A server, until it is dropped.
pub struct HttpPeer {
    /// Its base URL.
    pub url: String,
    stage: Stage,
    server: JoinHandle<()>,
}

impl HttpPeer {
    /// A server at which nobody answers yet.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address: SocketAddr = listener.local_addr().expect("its address");
        let stage = Stage::default();
        let router = Router::new()
            .route("/api/lattice/state", get(state))
            .route("/sync/v1/exchange", post(exchange))
            .with_state(Arc::clone(&stage));
        let server = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, router).await;
        });
        Self { url: format!("http://{address}"), stage, server }
    }

    /// From now on `mouth` answers.
    pub fn enter(&self, mouth: Mouth) {
        *self.lock() = Some(mouth);
    }

    /// How often whoever answers has answered wrongly.
    pub fn told(&self) -> u64 {
        self.lock().as_ref().map_or(0, Mouth::told)
    }

    /// From now on nobody answers.
    pub fn leave(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Mouth>> {
        self.stage.lock().expect("no holder panics")
    }
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn state(State(stage): State<Stage>) -> Response {
    let announced = stage.lock().expect("no holder panics").as_mut().map(|mouth| mouth.announcement(wall()));
    let Some(signed) = announced else { return status(StatusCode::SERVICE_UNAVAILABLE) };
    let announcement = codec::decode_announcement(&signed).expect("it was just made").announcement;
    let root = announcement.runs.last().and_then(|run| run.root).map(|root| root.digest.to_string());
    let said = serde_json::json!({
        "success": true,
        "merkle_root": root,
        "announcement": STANDARD.encode(&signed.body),
        "signature": hex::encode(signed.signature),
    });
    respond(Response::builder().header(CONTENT_TYPE, "application/json"), Body::from(said.to_string()))
}

async fn exchange(State(stage): State<Stage>, body: Bytes) -> Response {
    let Ok(request) = codec::decode_signed(body) else { return status(StatusCode::BAD_REQUEST) };
    let reply = match stage.lock().expect("no holder panics").as_mut() {
        Some(mouth) => mouth.answer(&request, wall()),
        None => return status(StatusCode::SERVICE_UNAVAILABLE),
    };
    let builder = Response::builder().header(CONTENT_TYPE, "application/x-protobuf");
    match reply {
        Reply::Whole(bytes) => respond(builder, Body::from(bytes)),
        Reply::Late(bytes) => {
            tokio::time::sleep(LATE).await;
            respond(builder, Body::from(bytes))
        }
        Reply::CutShort(bytes) => {
            let half = stream::iter([
                Ok(bytes.slice(..bytes.len() / 2)),
                Err(io::Error::from(io::ErrorKind::BrokenPipe)),
            ]);
            respond(builder.header(CONTENT_LENGTH, bytes.len()), Body::from_stream(half))
        }
        Reply::Drip(bytes) => {
            respond(builder.header(CONTENT_LENGTH, bytes.len()), Body::from_stream(drip(bytes)))
        }
        Reply::Bomb(bytes) => respond(builder.header(CONTENT_ENCODING, "gzip"), Body::from(bytes)),
        Reply::TooLarge => {
            let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(PIECE)));
            respond(builder, Body::from_stream(endless))
        }
        Reply::Nothing => std::future::pending().await,
        Reply::HangUp => {
            let end = stream::iter([Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset))]);
            respond(builder, Body::from_stream(end))
        }
        Reply::ServerError => status(StatusCode::INTERNAL_SERVER_ERROR),
        Reply::Redirect => {
            let builder =
                builder.status(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, "http://127.0.0.1:1/");
            respond(builder, Body::empty())
        }
    }
}

fn drip(bytes: Bytes) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(0..bytes.len()).then(move |index| {
        let byte = bytes.slice(index..=index);
        async move {
            tokio::time::sleep(DRIP_EVERY).await;
            Ok(byte)
        }
    })
}

fn status(status: StatusCode) -> Response {
    respond(Response::builder().status(status), Body::empty())
}

fn respond(builder: axum::http::response::Builder, body: Body) -> Response {
    builder.body(body).expect("headers in good form")
}
