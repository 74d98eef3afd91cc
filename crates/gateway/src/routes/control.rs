//! What operators ask of the node: whom to trust, which path to use, when to pull.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use bytes::Bytes;
use http::{StatusCode, Uri};
use lattice_core::model::NodeId;
use lattice_proto::coordinator::v1 as wire;
use serde::Deserialize;
use tonic::Status;
use utoipa::ToSchema;
use wire::trust_request::Change;

use crate::app::App;
use crate::body::require_type;
use crate::json;
use crate::problem::{Kind, Problem, Sibling, shortened};
use crate::query::Query;

const BODY_BYTES_MAX: usize = 64 << 10;

/// The trusted keys, and where each comes from.
#[utoipa::path(
    get,
    path = "/api/lattice/trust",
    tag = "operators",
    responses((status = 200, description = "The keys", body = json::Trust)),
)]
pub(super) async fn trusted(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Trust>, Problem> {
    Query::parse(request.uri(), &[])?;
    Ok(Json(change(&app, None).await?))
}

/// Where a trusted key comes from.
#[utoipa::path(
    get,
    path = "/api/lattice/trust/{key}",
    tag = "operators",
    params(
        ("key" = String, Path, min_length = 64, max_length = 64, pattern = "^[0-9a-fA-F]{64}$", description = "A public key, 64 hex characters"),
    ),
    responses((status = 200, description = "It is trusted", body = json::TrustedKey)),
)]
pub(super) async fn trusted_key(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::TrustedKey>, Problem> {
    let node = node_of_path(request.uri())?.to_string();
    let trust = change(&app, None).await?;
    let found = trust.keys.into_iter().find(|key| key.public_key == node);
    found.map(Json).ok_or_else(|| Problem::new(Kind::NotFound, format!("{node} is not a trusted key")))
}

/// Trusts a key.
#[utoipa::path(
    post,
    path = "/api/lattice/trust/{key}",
    tag = "operators",
    params(
        ("key" = String, Path, min_length = 64, max_length = 64, pattern = "^[0-9a-fA-F]{64}$", description = "A public key, 64 hex characters"),
    ),
    responses((status = 200, description = "The keys as they are now", body = json::Trust)),
)]
pub(super) async fn trust(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Trust>, Problem> {
    let node = node_of_path(request.uri())?;
    Ok(Json(change(&app, Some(Change::Add(bytes_of(node)))).await?))
}

/// The key to trust.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TrustBody {
    /// A public key, 64 hex characters.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    key: String,
}

/// Trusts a key that the body names.
#[utoipa::path(
    post,
    path = "/api/lattice/trust",
    tag = "operators",
    request_body(content = TrustBody),
    responses((status = 200, description = "The keys as they are now", body = json::Trust)),
)]
pub(super) async fn trust_body(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Trust>, Problem> {
    let (parts, body) = request.into_parts();
    Query::parse(&parts.uri, &[])?;
    require_type(&parts.headers, &["application/json"])?;
    let body = app.bodies.read(&parts.headers, body, "the body", BODY_BYTES_MAX).await?;
    let invalid = |why: String| Problem::new(Kind::BodyInvalid, why);
    let TrustBody { key } = serde_json::from_slice(&body.bytes).map_err(|error| {
        invalid(format!("the body must be {{\"key\": \"<64 hex characters>\"}}: {error}"))
    })?;
    let node = key.parse().map_err(|_| invalid("key must be a public key, 64 hex characters".to_owned()))?;
    Ok(Json(change(&app, Some(Change::Add(bytes_of(node)))).await?))
}

/// Trusts a key no more.
#[utoipa::path(
    delete,
    path = "/api/lattice/trust/{key}",
    tag = "operators",
    params(
        ("key" = String, Path, min_length = 64, max_length = 64, pattern = "^[0-9a-fA-F]{64}$", description = "A public key, 64 hex characters"),
    ),
    responses((status = 200, description = "The keys as they are now", body = json::Trust)),
)]
pub(super) async fn distrust(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Trust>, Problem> {
    let node = node_of_path(request.uri())?;
    Ok(Json(change(&app, Some(Change::Remove(bytes_of(node)))).await?))
}

/// Pins a path, or leaves the choice to the node; until it restarts.
#[utoipa::path(
    post,
    path = "/api/lattice/sync/switch",
    tag = "operators",
    params(
        ("mode" = String, Query, pattern = "^(auto|p2p|http)$", description = "`auto`, `p2p` or `http`"),
    ),
    responses((status = 200, description = "The path that is used now", body = json::Switched)),
)]
pub(super) async fn switch(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Switched>, Problem> {
    switched(&app, request.uri()).await.map(Json).map_err(|problem| {
        let message = problem.detail().to_owned();
        problem.with("success", false).with("message", message)
    })
}

async fn switched(app: &App, uri: &Uri) -> Result<json::Switched, Problem> {
    let query = Query::parse(uri, &["mode"])?;
    let mode = match query.text("mode") {
        Some("auto") => wire::Mode::Auto,
        Some("p2p") => wire::Mode::P2p,
        Some("http") => wire::Mode::Http,
        Some(other) => {
            let detail = format!("parameter mode is {:?}: it must be auto, p2p or http", shortened(other));
            return Err(Problem::new(Kind::ParameterInvalid, detail));
        }
        None => return Err(Problem::new(Kind::ParameterInvalid, "parameter mode must be auto, p2p or http")),
    };
    let question = wire::SwitchModeRequest { mode: mode.into() };
    let answer = app.coordinator().switch_mode(question).await.map_err(coordinator)?;
    Ok(answer.into_inner().into())
}

/// Starts a pull now.
#[utoipa::path(
    post,
    path = "/api/lattice/reconcile",
    tag = "operators",
    params(
        ("peer" = Option<String>, Query, pattern = "^[0-9a-fA-F]{64}$", description = "A public key; every known peer when left out"),
    ),
    responses((status = 202, description = "It has begun; see the heals", body = json::Reconciling)),
)]
pub(super) async fn reconcile(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<(StatusCode, Json<json::Reconciling>), Problem> {
    let peer = Query::parse(request.uri(), &["peer"])?.node("peer")?;
    let question = wire::ReconcileRequest { node: peer.map(bytes_of).unwrap_or_default() };
    let answer = app.coordinator().reconcile(question).await.map_err(coordinator)?.into_inner();
    let nobody = || {
        let detail = "there is no peer to reconcile with: add trusted keys (node.trusted_keys)";
        Problem::new(Kind::Conflict, detail)
    };
    Ok((StatusCode::ACCEPTED, Json(json::Reconciling::new(answer).ok_or_else(nobody)?)))
}

/// Makes a change, if any, and tells the trusted keys as they are then.
async fn change(app: &App, change: Option<Change>) -> Result<json::Trust, Problem> {
    let answer = app.coordinator().trust(wire::TrustRequest { change }).await.map_err(coordinator)?;
    Ok(answer.into_inner().into())
}

/// The key that ends the path.
fn node_of_path(uri: &Uri) -> Result<NodeId, Problem> {
    Query::parse(uri, &[])?;
    let text = uri.path().rsplit('/').next().unwrap_or_default();
    text.parse().map_err(|_| {
        let detail = format!("{:?} is not a public key: it must be 64 hex characters", shortened(text));
        Problem::new(Kind::KeyInvalid, detail)
    })
}

fn bytes_of(node: NodeId) -> Bytes {
    Bytes::copy_from_slice(node.as_bytes())
}

fn coordinator(status: Status) -> Problem {
    Sibling::Coordinator.problem(&status)
}
