//! What the node knows of itself and its peers: the reading half of `/api/lattice`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use lattice_core::signed::Signed;
use lattice_proto::codec::decode_announcement;
use lattice_proto::coordinator::v1 as wire;

use crate::app::App;
use crate::json;
use crate::problem::{Kind, Problem, Sibling};
use crate::query::Query;

/// The newest sealed root, recent seals, and the signed announcement that they come from.
#[utoipa::path(
    get,
    path = "/api/lattice/state",
    tag = "node",
    responses((status = 200, description = "The state", body = json::State)),
)]
pub(super) async fn state(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::State>, Problem> {
    Query::parse(request.uri(), &[])?;
    let answer = app.coordinator().state(wire::StateRequest {}).await.map_err(coordinator)?.into_inner();
    let signed = answer.announcement.ok_or_else(|| nonsense("no announcement"))?;
    let signed: Signed = signed.try_into().map_err(nonsense)?;
    // Ours: whoever reads it checks the signature, as of any node's.
    let announcement = decode_announcement(&signed).map_err(nonsense)?;
    Ok(Json(json::State::new(&announcement, answer.state_size)))
}

/// The URLs of `coordinator.http_peers`.
#[utoipa::path(
    get,
    path = "/api/lattice/nodes",
    tag = "node",
    responses((status = 200, description = "The URLs", body = json::Nodes)),
)]
pub(super) async fn nodes(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Nodes>, Problem> {
    Query::parse(request.uri(), &[])?;
    let nodes = status(&app).await?.urls;
    Ok(Json(json::Nodes { success: true, count: nodes.len(), nodes }))
}

/// What the sensor sees, and which path is used.
#[utoipa::path(
    get,
    path = "/api/lattice/p2p/status",
    tag = "node",
    responses((status = 200, description = "The status", body = json::P2pStatus)),
)]
pub(super) async fn p2p_status(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::P2pStatus>, Problem> {
    Query::parse(request.uri(), &[])?;
    let status = status(&app).await?;
    let (sync_mode, pinned) = (json::sync_mode(status.sync_mode()), json::pinned(status.mode()));
    let health = json::health(status.health());
    let sensor = status.sensor.unwrap_or_default();
    Ok(Json(json::P2pStatus {
        success: true,
        enabled: sensor.enabled,
        started: sensor.started,
        libp2p_available: sensor.available,
        error: json::some(sensor.error),
        topic: app.settings.topic.clone(),
        listen_multiaddrs: sensor.listen_addresses,
        bootstrap_peers: app.settings.bootstrap.clone(),
        peer_count: sensor.live,
        has_peers: sensor.live > 0,
        http_sync_enabled: app.settings.http_sync_enabled,
        sync_mode,
        pinned,
        heartbeat_active: status.heartbeat_active,
        connected_count: sensor.connected,
        zombie_count: sensor.zombie,
        health,
        fallback_in_ms: status.fallback_in_ms,
        clock_error: json::some(status.clock_error),
    }))
}

/// Who the node is on libp2p.
#[utoipa::path(
    get,
    path = "/api/lattice/p2p/identity",
    tag = "node",
    responses((status = 200, description = "The identity", body = json::Identity)),
)]
pub(super) async fn p2p_identity(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Identity>, Problem> {
    Query::parse(request.uri(), &[])?;
    let status = status(&app).await?;
    let sensor = status.sensor.unwrap_or_default();
    if sensor.peer_id.is_empty() {
        let why = json::some(sensor.error).unwrap_or_else(|| "has not answered yet".to_owned());
        return Err(Problem::new(Kind::Unavailable, format!("{}: {why}", Sibling::Sensor.name())));
    }
    Ok(Json(json::Identity {
        success: true,
        peer_id: sensor.peer_id,
        public_key: hex::encode(&status.node),
        listen_addrs: sensor.listen_addresses,
    }))
}

/// Every known peer.
#[utoipa::path(
    get,
    path = "/api/lattice/peers",
    tag = "node",
    responses((status = 200, description = "The peers", body = json::Peers)),
)]
pub(super) async fn peers(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Peers>, Problem> {
    Query::parse(request.uri(), &[])?;
    Ok(Json(status(&app).await?.into()))
}

/// Ended reconciliations, newest first.
#[utoipa::path(
    get,
    path = "/api/lattice/heals",
    tag = "node",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Elements at most; 100 when left out"),
    ),
    responses((status = 200, description = "The heals", body = json::Heals)),
)]
pub(super) async fn heals(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Heals>, Problem> {
    let limit = Query::parse(request.uri(), &["limit"])?.limit()?;
    let answer = app.coordinator().heals(wire::HealsRequest { limit }).await.map_err(coordinator)?;
    Ok(Json(answer.into_inner().into()))
}

async fn status(app: &App) -> Result<wire::StatusResponse, Problem> {
    let answer = app.coordinator().status(wire::StatusRequest {}).await.map_err(coordinator)?;
    Ok(answer.into_inner())
}

fn coordinator(status: tonic::Status) -> Problem {
    Sibling::Coordinator.problem(&status)
}

fn nonsense(why: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::Internal, format!("sync-coordinator answered with a state that is none: {why}"))
}
