//! For probes, scrapers, and whoever wonders what answers here.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use lattice_runtime::metrics::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::app::App;
use crate::json::{Missing, Root};
use crate::problem::{Kind, Problem};
use crate::ready;

/// `GET /`
pub(super) async fn root(State(app): State<Arc<App>>) -> Json<Root> {
    let status = if ready::missing(&app).await.is_empty() { "ready" } else { "not ready" };
    Json(Root { name: app.settings.name.clone(), version: env!("CARGO_PKG_VERSION"), status })
}

/// `GET /healthz`: this process answers. What its siblings do is not a reason to restart it.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    complete(&app).await?;
    Ok(Json(json!({ "status": "ready" })))
}

/// `GET /health`
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    complete(&app).await?;
    Ok(Json(json!({ "status": "healthy" })))
}

/// `GET /metrics`
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
