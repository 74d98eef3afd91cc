//! The HTTP routes. Each handler parses, calls one sibling, and shapes the answer.

mod control;
mod events;
mod exchange;
mod files;
mod full;
mod kv;
mod lattice;
mod ops;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

/// All routes of [`crate::access::ROWS`]; what is not in that table never gets here.
pub(crate) fn router(app: Arc<App>) -> Router {
    let key = get(kv::get).put(kv::put).delete(kv::delete);
    Router::new()
        .route("/", get(ops::root))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/health", get(ops::health))
        .route("/metrics", get(ops::metrics))
        .route("/v1/kv", get(kv::list))
        .route("/v1/kv/{*key}", key.clone())
        // No key at all, which the handlers refuse like any other bad key.
        .route("/v1/kv/", key)
        .route("/v1/batch", post(kv::batch))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/proof/{*key}", get(files::proof))
        .route("/v1/proof/", get(files::proof))
        .route("/v1/backup", get(files::backup))
        .route("/v1/restore", post(files::restore))
        .route("/api/lattice/state", get(lattice::state))
        .route("/api/lattice/state/full", get(full::full))
        .route("/api/lattice/nodes", get(lattice::nodes))
        .route("/api/lattice/p2p/status", get(lattice::p2p_status))
        .route("/api/lattice/p2p/identity", get(lattice::p2p_identity))
        .route("/api/lattice/peers", get(lattice::peers))
        .route("/api/lattice/heals", get(lattice::heals))
        .route("/api/lattice/events", get(events::events))
        .route("/api/lattice/trust", get(control::trusted).post(control::trust_body))
        .route(
            "/api/lattice/trust/{key}",
            get(control::trusted_key).post(control::trust).delete(control::distrust),
        )
        .route("/api/lattice/sync/switch", post(control::switch))
        .route("/api/lattice/reconcile", post(control::reconcile))
        .route("/sync/v1/exchange", post(exchange::exchange))
        .with_state(app)
}
