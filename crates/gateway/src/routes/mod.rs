//! The HTTP routes. Each handler parses, calls one sibling, and shapes the answer.

mod control;
mod dashboard;
mod docs;
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
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::docs::ask_for_token;
pub(crate) use self::kv::ABSENT;
use crate::app::App;

/// All routes, ready to be called. What is not in [`crate::access::ROWS`] never gets here.
pub(crate) fn router(app: Arc<App>) -> Router {
    // No key at all, which the handlers refuse like any other bad key.
    let none = get(kv::get).put(kv::put).delete(kv::delete);
    let (router, _) = documented().split_for_parts();
    router.route("/v1/kv/", none).route("/v1/proof/", get(files::proof)).with_state(app)
}

/// All routes with what is said of them: a route cannot be added without being described.
pub(crate) fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(ops::root))
        .routes(routes!(dashboard::part))
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::health))
        .routes(routes!(ops::metrics))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::page))
        .routes(routes!(docs::asset))
        .routes(routes!(kv::list))
        .routes(routes!(kv::get, kv::put, kv::delete))
        .routes(routes!(kv::batch))
        .routes(routes!(watch::watch))
        .routes(routes!(files::proof))
        .routes(routes!(files::backup))
        .routes(routes!(files::restore))
        .routes(routes!(lattice::state))
        .routes(routes!(full::full))
        .routes(routes!(lattice::nodes))
        .routes(routes!(lattice::p2p_status))
        .routes(routes!(lattice::p2p_identity))
        .routes(routes!(lattice::peers))
        .routes(routes!(lattice::heals))
        .routes(routes!(events::events))
        .routes(routes!(control::trusted, control::trust_body))
        .routes(routes!(control::trusted_key, control::trust, control::distrust))
        .routes(routes!(control::switch))
        .routes(routes!(control::reconcile))
        .routes(routes!(exchange::exchange))
}
