//! For probes, scrapers, and whoever wonders what answers here.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use lattice_runtime::metrics::CONTENT_TYPE;
use serde_json::json;

use super::dashboard;
use crate::accept;
use crate::app::App;
use crate::json::{Missing, Root, Well};
use crate::problem::{Kind, Problem};
use crate::ready;

const JSON: &str = "application/json";

/// Says who answers, and whether it is ready. A browser gets the dashboard.
#[utoipa::path(
    get,
    path = "/",
    tag = "node",
    responses(
        (status = 200, description = "Who answers, or a page that shows it", content((Root = "application/json"), (String = "text/html"))),
        (status = 304, description = "The page is the one that the client has"),
    ),
)]
pub(super) async fn root(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut response = match accept::prefers_html(&headers, JSON) {
        true => dashboard::page(&headers),
        false => {
            let status = if ready::missing(&app).await.is_empty() { "ready" } else { "not ready" };
            let name = app.settings.name.clone();
            Json(Root { name, version: env!("CARGO_PKG_VERSION"), status }).into_response()
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Says that this process answers. What its siblings do is not a reason to restart it.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "node",
    responses((status = 200, description = "The process answers", body = Well)),
)]
pub(super) async fn healthz() -> Json<Well> {
    Json(Well { status: "alive" })
}

/// Whether all services of the node answer and its store can write.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses((status = 200, description = "They do", body = Well)),
)]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Well>, Problem> {
    complete(&app).await?;
    Ok(Json(Well { status: "ready" }))
}

/// The same as `/readyz`, in the words of the earlier system.
#[utoipa::path(
    get,
    path = "/health",
    tag = "node",
    responses((status = 200, description = "They do", body = Well)),
)]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Well>, Problem> {
    complete(&app).await?;
    Ok(Json(Well { status: "healthy" }))
}

/// The metrics of the process, as Prometheus reads them.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "node",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")),
)]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.encode()).into_response()
}

async fn complete(app: &App) -> Result<(), Problem> {
    let missing = ready::missing(app).await;
    if missing.is_empty() {
        return Ok(());
    }
    let detail: Vec<String> =
        missing.iter().map(|Missing { service, reason }| format!("{service}: {reason}")).collect();
    Err(Problem::new(Kind::NotReady, detail.join("; ")).with("missing", json!(missing)))
}
