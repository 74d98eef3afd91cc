//! What happens, as it happens: the coordinator's events as server-sent events.
//!
//! The stream outlives its source: when the coordinator goes away, it is asked again until it is back. A
//! reader that is too slow for the coordinator loses events and is told how many (`missed`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, stream};
use lattice_proto::coordinator::v1 as wire;
use lattice_runtime::grpc::Reconnect;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};

use crate::app::App;
use crate::json;
use crate::problem::{Problem, Sibling};
use crate::query::Query;

/// Proxies cut connections on which nothing is said.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Follows what the log says.
///
/// The answer is a stream that does not end: to try it here shows nothing of it. In a terminal:
/// `curl -N localhost:8080/api/lattice/events`
#[utoipa::path(
    get,
    path = "/api/lattice/events",
    tag = "node",
    responses((status = 200, description = "Server-sent events whose data is an event", body = json::Event, content_type = "text/event-stream")),
)]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    Query::parse(request.uri(), &[])?;
    let place = app.admit_stream()?;
    let source = subscribe(&app).await.map_err(|status| Sibling::Coordinator.problem(&status))?;
    let subscription = Subscription { app, source: Some(source), reconnect: Reconnect::new(), _place: place };
    let events = stream::unfold(subscription, |mut subscription| async move {
        let event = subscription.next().await?;
        Some((Ok(written(event)), subscription))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_INTERVAL)))
}

struct Subscription {
    app: Arc<App>,
    /// Empty while the coordinator is away.
    source: Option<Streaming<wire::Event>>,
    reconnect: Reconnect,
    _place: OwnedSemaphorePermit,
}

impl Subscription {
    /// The next event; `None` when the gateway stops.
    async fn next(&mut self) -> Option<wire::Event> {
        let stopping = self.app.stopping.clone();
        tokio::select! {
            event = self.event() => Some(event),
            () = stopping.cancelled() => None,
        }
    }

    async fn event(&mut self) -> wire::Event {
        loop {
            let Some(source) = &mut self.source else {
                tokio::time::sleep(self.reconnect.next_delay()).await;
                self.source = subscribe(&self.app).await.ok();
                continue;
            };
            match source.message().await {
                Ok(Some(event)) => {
                    self.reconnect.reset();
                    return event;
                }
                Ok(None) | Err(_) => self.source = None,
            }
        }
    }
}

async fn subscribe(app: &App) -> Result<Streaming<wire::Event>, Status> {
    Ok(app.coordinator_streams().watch_events(wire::WatchEventsRequest {}).await?.into_inner())
}

fn written(event: wire::Event) -> Event {
    let event = json::Event::from(event);
    // Text and numbers in fields of fixed names: there is nothing in it that JSON could refuse.
    Event::default().json_data(event).unwrap_or_default()
}
