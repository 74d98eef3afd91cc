//! The table of routes: what exists, and who may use it.
//!
//! Authorization, metric labels and the tests all read this one table, so that a route cannot exist without
//! a decision about who may call it.

use http::Method;

/// What a token allows; each role includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look.
    Read,
    /// Change entries.
    Write,
    /// Change what the node does.
    Admin,
}

impl Role {
    /// As in the token file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody: what it shows is no secret, or what it takes is signed.
    Open,
    /// Who has at least this role.
    Needs(Role),
}

/// One method of one route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) method: &'static str,
    /// With `{key}` for what varies; the metric label.
    pub(crate) route: &'static str,
    pub(crate) access: Access,
    /// The status of success, whose series exists from the start.
    pub(crate) success: u16,
}

/// The label of everything that is not in the table.
pub(crate) const OTHER: &str = "other";

pub(crate) const KV: &str = "/v1/kv/{key}";
const KV_PREFIX: &str = "/v1/kv/";
pub(crate) const PROOF: &str = "/v1/proof/{key}";
const PROOF_PREFIX: &str = "/v1/proof/";
pub(crate) const BATCH: &str = "/v1/batch";
pub(crate) const WATCHED: &str = "/v1/watch";
pub(crate) const RESTORE: &str = "/v1/restore";
pub(crate) const DOCS: &str = "/docs";
pub(crate) const DOCS_FILE: &str = "/docs/{file}";
const DOCS_PREFIX: &str = "/docs/";
pub(crate) const DASHBOARD_FILE: &str = "/dashboard/{file}";
const DASHBOARD_PREFIX: &str = "/dashboard/";
pub(crate) const TRUST_KEY: &str = "/api/lattice/trust/{key}";
pub(crate) const TRUST: &str = "/api/lattice/trust";
const TRUST_PREFIX: &str = "/api/lattice/trust/";
pub(crate) const SWITCH: &str = "/api/lattice/sync/switch";
pub(crate) const RECONCILE: &str = "/api/lattice/reconcile";
pub(crate) const EXCHANGE: &str = "/sync/v1/exchange";
/// What streams: calls of the others get a deadline.
const WATCH: &str = "/lattice.kv.v1.KeyValue/Watch";
const BACKUP: &str = "/lattice.kv.v1.KeyValue/Backup";
const RESTORE_RPC: &str = "/lattice.kv.v1.KeyValue/Restore";
const WATCH_EVENTS: &str = "/lattice.coordinator.v1.SyncCoordinator/WatchEvents";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_BEFORE: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

const OPEN: Access = Access::Open;
const READ: Access = Access::Needs(Role::Read);
const WRITE: Access = Access::Needs(Role::Write);
const ADMIN: Access = Access::Needs(Role::Admin);

#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("GET", "/", OPEN, 200),
    row("GET", DASHBOARD_FILE, OPEN, 200),
    row("GET", "/healthz", OPEN, 200),
    row("GET", "/readyz", OPEN, 200),
    row("GET", "/health", OPEN, 200),
    row("GET", "/metrics", READ, 200),
    row("GET", "/openapi.json", READ, 200),
    row("GET", DOCS, READ, 200),
    row("GET", DOCS_FILE, READ, 200),
    row("GET", KV, READ, 200),
    row("PUT", KV, WRITE, 200),
    row("DELETE", KV, WRITE, 200),
    row("GET", "/v1/kv", READ, 200),
    row("POST", BATCH, WRITE, 200),
    row("GET", WATCHED, READ, 200),
    row("GET", PROOF, READ, 200),
    row("GET", "/v1/backup", READ, 200),
    row("POST", RESTORE, ADMIN, 200),
    row("GET", "/api/lattice/state", OPEN, 200),
    row("GET", "/api/lattice/state/full", READ, 200),
    row("GET", "/api/lattice/nodes", READ, 200),
    row("GET", "/api/lattice/p2p/status", READ, 200),
    row("GET", "/api/lattice/p2p/identity", READ, 200),
    row("GET", "/api/lattice/peers", READ, 200),
    row("GET", TRUST, READ, 200),
    row("POST", TRUST, ADMIN, 200),
    row("GET", TRUST_KEY, READ, 200),
    row("POST", TRUST_KEY, ADMIN, 200),
    row("DELETE", TRUST_KEY, ADMIN, 200),
    row("GET", "/api/lattice/heals", READ, 200),
    row("GET", "/api/lattice/events", READ, 200),
    row("POST", SWITCH, ADMIN, 200),
    row("POST", RECONCILE, ADMIN, 202),
    row("POST", EXCHANGE, OPEN, 200),
    row("POST", "/lattice.kv.v1.KeyValue/Get", READ, 200),
    row("POST", "/lattice.kv.v1.KeyValue/Put", WRITE, 200),
    row("POST", "/lattice.kv.v1.KeyValue/Delete", WRITE, 200),
    row("POST", "/lattice.kv.v1.KeyValue/List", READ, 200),
    row("POST", "/lattice.kv.v1.KeyValue/Batch", WRITE, 200),
    row("POST", WATCH, READ, 200),
    row("POST", "/lattice.kv.v1.KeyValue/Prove", READ, 200),
    row("POST", BACKUP, READ, 200),
    row("POST", RESTORE_RPC, ADMIN, 200),
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/Status", READ, 200),
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/State", OPEN, 200),
    row("POST", WATCH_EVENTS, READ, 200),
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/SwitchMode", ADMIN, 200),
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/Reconcile", ADMIN, 200),
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/Heals", READ, 200),
    // Listing is for readers; the handler asks for more before a change.
    row("POST", "/lattice.coordinator.v1.SyncCoordinator/Trust", READ, 200),
    row("POST", "/grpc.health.v1.Health/Check", OPEN, 200),
    row("POST", HEALTH_WATCH, READ, 200),
    row("POST", REFLECTION, READ, 200),
    row("POST", REFLECTION_BEFORE, READ, 200),
];

const fn row(method: &'static str, route: &'static str, access: Access, success: u16) -> Row {
    Row { method, route, access, success }
}

/// The route that a path belongs to, or [`OTHER`].
pub(crate) fn route_of(path: &str) -> &'static str {
    if path.starts_with(KV_PREFIX) {
        return KV;
    }
    if path.starts_with(PROOF_PREFIX) {
        return PROOF;
    }
    let one_below = [(TRUST_PREFIX, TRUST_KEY), (DOCS_PREFIX, DOCS_FILE), (DASHBOARD_PREFIX, DASHBOARD_FILE)];
    for (prefix, route) in one_below {
        if path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')) {
            return route;
        }
    }
    ROWS.iter().map(|row| row.route).find(|route| *route == path).unwrap_or(OTHER)
}

/// Whether a route is gRPC's.
pub(crate) fn is_rpc(route: &str) -> bool {
    route.starts_with("/lattice.") || route.starts_with("/grpc.")
}

/// The methods of a route, as the `Allow` header lists them.
pub(crate) fn allowed(route: &str) -> String {
    let methods: Vec<&str> = ROWS
        .iter()
        .filter(|row| row.route == route)
        .flat_map(
            |row| if row.method == "GET" { &["GET", "HEAD"][..] } else { std::slice::from_ref(&row.method) },
        )
        .copied()
        .collect();
    methods.join(", ")
}

/// Who may call `method` of `route`; `None` when that does not exist. Nothing that is not in the table is
/// ever reached.
pub(crate) fn access(method: &Method, route: &str) -> Option<Access> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    ROWS.iter().find(|row| row.route == route && row.method == method).map(|row| row.access)
}

/// Whether a call of this gRPC method may last as long as its caller likes.
pub(crate) fn streams(route: &str) -> bool {
    matches!(
        route,
        WATCH | BACKUP | RESTORE_RPC | WATCH_EVENTS | HEALTH_WATCH | REFLECTION | REFLECTION_BEFORE
    )
}

/// Whether a route is asked by probes, which decide about the life of the node.
pub(crate) fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/health" | "/grpc.health.v1.Health/Check")
}

/// Whether a request over HTTP may send its body for as long as it goes on sending.
pub(crate) fn uploads(route: &str) -> bool {
    route == RESTORE
}

/// A method as a metric label: a closed set.
pub(crate) fn method_label(method: &Method) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "DELETE"]
        .into_iter()
        .find(|name| *name == method.as_str())
        .unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_routes() {
        for (path, route) in [
            ("/", "/"),
            ("/v1/kv", "/v1/kv"),
            ("/v1/kv/", KV),
            ("/v1/kv/a", KV),
            ("/v1/kv/a/b//c", KV),
            ("/v1/kva", OTHER),
            ("/v1/watch", "/v1/watch"),
            ("/v1/proof/a/b", PROOF),
            ("/v1/proof", OTHER),
            ("/api/lattice/trust", "/api/lattice/trust"),
            ("/api/lattice/trust/ab", TRUST_KEY),
            ("/docs/swagger-ui.css", "/docs/{file}"),
            ("/docs/", OTHER),
            ("/dashboard/main.js", DASHBOARD_FILE),
            ("/dashboard", OTHER),
            ("/dashboard/a/b", OTHER),
            ("/api/lattice/trust/", OTHER),
            ("/api/lattice/trust/a/b", OTHER),
            ("/lattice.kv.v1.KeyValue/Get", "/lattice.kv.v1.KeyValue/Get"),
            ("/lattice.store.v1.StateStore/Merge", OTHER),
            ("/other", OTHER),
        ] {
            assert_eq!(route_of(path), route, "{path}");
        }
    }

    #[test]
    fn only_what_is_listed_as_such_is_open() {
        let open: Vec<_> =
            ROWS.iter().filter(|row| row.access == Access::Open).map(|row| row.route).collect();
        assert_eq!(
            open,
            [
                "/",
                "/dashboard/{file}",
                "/healthz",
                "/readyz",
                "/health",
                "/api/lattice/state",
                "/sync/v1/exchange",
                "/lattice.coordinator.v1.SyncCoordinator/State",
                "/grpc.health.v1.Health/Check",
            ]
        );
    }

    #[test]
    fn a_head_is_a_get_and_an_unknown_method_is_nobodys() {
        assert_eq!(access(&Method::HEAD, KV), Some(READ));
        assert_eq!(access(&Method::GET, "/metrics"), Some(READ));
        assert_eq!(access(&Method::POST, "/v1/batch"), Some(WRITE));
        assert_eq!(access(&Method::PATCH, KV), None);
        assert_eq!(access(&Method::GET, OTHER), None);
        assert_eq!(allowed(KV), "GET, HEAD, PUT, DELETE");
        assert_eq!(allowed("/v1/batch"), "POST");
    }
}
