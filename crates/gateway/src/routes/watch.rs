//! `/v1/watch`: changes as they are committed, as server-sent events.
//!
//! The stream outlives the store's restarts: it resumes after the last change that was passed on. A client resumes
//! in the same way, by `since` or by what its event source sends (`Last-Event-ID`). When what it missed is not known
//! any more, it is answered 410, at the beginning; in the middle, the stream ends, and asking again gets that answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use lattice_proto::kv::v1 as wire;
use lattice_runtime::grpc::Reconnect;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status, Streaming};

use crate::app::App;
use crate::conditions;
use crate::json;
use crate::problem::{Kind, Problem, Sibling};
use crate::query::{self, Query};

/// Proxies cut connections on which nothing is said.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// What a browser's event source says when it connects again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The id that the watch begins after.
const LATTICE_WATCH_SINCE: HeaderName = HeaderName::from_static("lattice-watch-since");

/// Follows changes in the order in which this node commits them.
///
/// The answer is a stream that does not end: to try it here shows nothing of it. In a terminal:
/// `curl -N 'localhost:8080/v1/watch?prefix=col'`
#[utoipa::path(
    get,
    path = "/v1/watch",
    tag = "keys",
    params(
        ("prefix" = Option<String>, Query, max_length = 1024, description = "Only keys that begin so"),
        ("since" = Option<String>, Query, description = "Go on after the event with this id; the watch begins now when it is left out, and is refused when it is empty"),
        ("Last-Event-ID" = Option<String>, Header, description = "Like `since`; where both are given, this header counts and `since` does not"),
    ),
    responses((status = 200, description = "Server-sent events whose data is a change", body = json::Change, content_type = "text/event-stream", headers(("Lattice-Watch-Since" = String, description = "The id that the watch begins after")))),
)]
pub(super) async fn watch(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let query = Query::parse(request.uri(), &["prefix", "since"])?;
    let prefix = query.key_part("prefix")?;
    let since = since(&query, request.headers())?.unwrap_or_default();
    let place = app.admit_stream()?;
    let mut watching =
        Watching { app, prefix, since, source: None, reconnect: Reconnect::new(), _place: place };
    // What is wrong with the id is said before the stream begins.
    watching.subscribe().await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let first = watching.message().await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let mut headers = HeaderMap::new();
    if let Ok(since) = HeaderValue::try_from(&first.id) {
        headers.insert(LATTICE_WATCH_SINCE, since);
    }
    let events = stream::unfold((Some(first), watching), |(first, mut watching)| async move {
        let message = match first {
            Some(first) => first,
            None => watching.next().await?,
        };
        Some((Ok::<_, Infallible>(written(message)), (None, watching)))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL));
    Ok((headers, events).into_response())
}

/// The id to go on after; `None` to begin now.
///
/// One that is empty is refused: it comes from a script that has lost its id, and to begin now would lose the changes
/// since then, too. Event sources send no header before they have an id.
fn since(query: &Query, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    const EMPTY: &str = "is empty: it takes the id of an event, and is left out to begin now";
    let asked = query.text("since");
    if asked == Some("") {
        return Err(query::refused("since", EMPTY));
    }
    let last = conditions::single(headers, &LAST_EVENT_ID)?;
    if last == Some("") {
        return Err(Problem::new(Kind::HeaderInvalid, format!("{LAST_EVENT_ID} {EMPTY}")));
    }
    // The header is the newer one: the address stays as it was.
    Ok(last.or(asked).map(str::to_owned))
}

struct Watching {
    app: Arc<App>,
    prefix: Bytes,
    /// What was passed on last; empty before there is any, which is to begin now.
    since: String,
    /// Empty while the store is away.
    source: Option<Streaming<wire::WatchResponse>>,
    reconnect: Reconnect,
    _place: OwnedSemaphorePermit,
}

impl Watching {
    /// The next message; `None` when the gateway stops, or the store cannot go on from where it was.
    async fn next(&mut self) -> Option<wire::WatchResponse> {
        let stopping = self.app.stopping.clone();
        tokio::select! {
            message = self.resumed() => message,
            () = stopping.cancelled() => None,
        }
    }

    async fn resumed(&mut self) -> Option<wire::WatchResponse> {
        loop {
            let outcome = match self.source {
                Some(_) => self.message().await.map(Some),
                None => {
                    tokio::time::sleep(self.reconnect.next_delay()).await;
                    self.subscribe().await.map(|()| None)
                }
            };
            match outcome {
                Ok(Some(message)) => {
                    self.reconnect.reset();
                    return Some(message);
                }
                Ok(None) => {}
                // Also when the node found an entry damaged: whoever asks again is told.
                Err(status) if is_final(status.code()) => return None,
                Err(_) => self.source = None,
            }
        }
    }

    async fn subscribe(&mut self) -> Result<(), Status> {
        let request = wire::WatchRequest { prefix: self.prefix.clone(), since: self.since.clone() };
        self.source = Some(self.app.kv_streams().watch(request).await?.into_inner());
        Ok(())
    }

    async fn message(&mut self) -> Result<wire::WatchResponse, Status> {
        let away = || Status::unavailable("the store ended the watch");
        let message = self.source.as_mut().ok_or_else(away)?.message().await?.ok_or_else(away)?;
        self.since.clone_from(&message.id);
        Ok(message)
    }
}

/// Whether asking again in the same way would be answered in the same way.
fn is_final(code: Code) -> bool {
    matches!(code, Code::OutOfRange | Code::InvalidArgument | Code::DataLoss)
}

/// A change as an event; how far the watch is, as an id that goes with a comment.
fn written(message: wire::WatchResponse) -> Event {
    let event = Event::default().id(message.id.clone());
    match message.entry {
        // Text and numbers in fields of fixed names: there is nothing in it that JSON could refuse.
        Some(entry) => event.json_data(json::Change::from(entry)).unwrap_or_default(),
        None => event.comment(""),
    }
}
