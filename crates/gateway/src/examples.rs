//! An example of each refusal of each route, for the OpenAPI document.
//!
//! Each says what a client is told by the gateway, in its words or in those of the sibling that refuses. A test over a
//! real port provokes what it can, and compares.

use lattice_runtime::Config;
use serde_json::json;
use tonic::Status;

use crate::access::{self, Access, Row};
use crate::app::{self, EXCHANGES_MAX, TOO_OFTEN};
use crate::auth::{Denied, FOREIGN_HOST, FOREIGN_ORIGIN};
use crate::problem::{Kind, Problem, Sibling};
use crate::query;
use crate::routes::ABSENT;
use crate::server::{self, FAILED, HOSTS};

const NODE: &str = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29";
const VERSION: &str = "018bcfe568000000-3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29";
const WATCH_ID_BEFORE: &str = "00112233445566778899aabbccddeeff-88";
const WATCH_ID: &str = "6f1d2c3b4a5968778695a4b3c2d1e0f0-1041";
const DISK_FULL: &str = "the disk is full: 63 MiB are free, writes go on from 96 MiB";

/// A refusal of this kind as this route, which takes these query parameters, gives it.
pub(crate) fn of(kind: Kind, row: &Row, parameters: &[&str]) -> Problem {
    let problem = refusal(kind, row, parameters);
    debug_assert_eq!(problem.kind(), kind, "an example is of the kind that was asked for");
    if row.route == access::SWITCH && is_the_handlers(kind) {
        let message = problem.detail().to_owned();
        return problem.with("success", false).with("message", message);
    }
    problem
}

fn refusal(kind: Kind, row: &Row, parameters: &[&str]) -> Problem {
    let plain = |detail: &str| Problem::new(kind, detail);
    let sibling = sibling(row.route);
    match kind {
        Kind::KeyInvalid => match row.route {
            access::BATCH => plain("operations[0].key: is empty: it takes 1 to 1024 bytes"),
            access::TRUST_KEY => plain("\"beta\" is not a public key: it must be 64 hex characters"),
            _ => plain("the key is not UTF-8"),
        },
        Kind::ParameterInvalid => query::unknown("x", parameters),
        Kind::HeaderInvalid => match row.route {
            access::KV => plain("If-Match must be * or an ETag in its quotes"),
            access::WATCHED => {
                plain("last-event-id is empty: it takes the id of an event, and is left out to begin now")
            }
            _ => plain(HOSTS),
        },
        Kind::BodyInvalid => match row.route {
            access::BATCH => plain("operations has 0 elements: it takes 1 to 1000"),
            access::TRUST => plain("key must be a public key, 64 hex characters"),
            access::RESTORE => plain("the body is empty: send a backup"),
            access::EXCHANGE => plain(
                "the body must be a signed envelope: malformed: signature: a signature is 64 bytes, got 0",
            ),
            _ => plain("the value did not arrive whole"),
        },
        Kind::RequestRefused => match row.route {
            access::WATCHED => plain("since: takes an id of this watch, <incarnation>-<commit sequence>"),
            access::RESTORE => plain(
                "the backup is damaged at byte 0 (frame 0): is no backup of lattice; the 0 entries before it are restored",
            ),
            access::EXCHANGE => plain("request: is not a readable envelope"),
            access::TRUST | access::TRUST_KEY if row.method != "GET" => {
                plain(&format!("{NODE} is this node's own key"))
            }
            _ => plain(kind.title()),
        },
        Kind::Unauthorized => Denied::Missing.problem(),
        Kind::Forbidden => match row.access {
            Access::Needs(role) => Denied::Role(role).problem(),
            Access::Open => plain(kind.title()),
        },
        Kind::CrossOrigin => plain(if row.method == "GET" { FOREIGN_HOST } else { FOREIGN_ORIGIN }),
        Kind::KeyNotFound => plain(ABSENT),
        Kind::NotFound => match row.route {
            access::DOCS_FILE | access::DASHBOARD_FILE => plain("the page has no part \"nothing\""),
            access::TRUST_KEY => plain(&format!("{NODE} is not a trusted key")),
            access::RECONCILE => plain(&format!("{NODE} is not a known peer: add it to the trusted keys")),
            _ => plain(kind.title()),
        },
        Kind::RouteNotFound => plain("no route for /v1/nothing"),
        Kind::MethodNotAllowed => {
            let allowed = access::allowed(row.route);
            plain(&format!("{} does not take PATCH: it takes {allowed}", row.route))
        }
        Kind::Conflict => match row.route {
            access::RECONCILE => {
                plain("there is no peer to reconcile with: add trusted keys (node.trusted_keys)")
            }
            _ if sibling == Some(Sibling::Coordinator) => plain(kind.title()),
            _ => plain("the store began a new incarnation meanwhile"),
        },
        Kind::Gone => match row.route {
            access::WATCHED => {
                let why = format!(
                    "since: {WATCH_ID_BEFORE} is of another store, or an earlier one; list the keys again, and then watch since \
                     {WATCH_ID}"
                );
                plain(&why).with("since", WATCH_ID)
            }
            _ => plain("epoch: trees of epochs 5 to 9 are kept, got 1"),
        },
        Kind::ConditionFailed => match row.method {
            "GET" => plain("If-Match does not hold: the key has another version").etag(VERSION),
            _ => plain(&format!("condition: key is at version {VERSION}")).etag(VERSION),
        },
        Kind::TooLarge => plain(match row.route {
            access::BATCH => "the batch has more than 12582912 bytes",
            access::TRUST => "the body has more than 65536 bytes",
            access::EXCHANGE => "the exchange has more than 262144 bytes",
            _ => "the value has more than 1048576 bytes",
        }),
        Kind::MediaType => plain(match row.route {
            access::BATCH | access::TRUST => "Content-Type must be application/json",
            access::EXCHANGE => "Content-Type must be application/x-protobuf or application/octet-stream",
            _ => "Content-Encoding is not taken: send the body as it is",
        }),
        Kind::RateLimited => plain(TOO_OFTEN),
        Kind::Internal => match sibling {
            Some(sibling) => plain(&format!("{} failed; its log says why", sibling.name())),
            None => plain(FAILED),
        },
        Kind::NotSupported => plain(kind.title()),
        Kind::Unavailable => match sibling {
            Some(sibling) => sibling.problem(&Status::unavailable("the service is stopping")),
            None => plain(kind.title()),
        },
        Kind::NotReady => {
            let service = Sibling::Store.name();
            let missing = json!([{ "service": service, "reason": DISK_FULL }]);
            plain(&format!("{service}: {DISK_FULL}")).with("missing", missing)
        }
        Kind::Busy => match row.route {
            access::EXCHANGE => app::too_many(EXCHANGES_MAX, "exchanges"),
            _ => app::too_many(Config::default().gateway.requests_max, "requests"),
        },
        Kind::Damaged => plain(
            "key \"colour\": its entry is damaged here, and waits for repair by a peer or for a newer write",
        ),
        Kind::Recovering => {
            plain("recovering: the store lost entries, and waits for its peers to fill it again")
        }
        Kind::Timeout => match row.route {
            // A body of any length has no deadline of ours.
            access::RESTORE => Sibling::KeyValue.problem(&Status::deadline_exceeded("")),
            _ => server::too_long(Config::default().gateway.request_timeout),
        },
        Kind::DiskFull => plain(DISK_FULL),
    }
}

/// Whom the handler of a route asks.
fn sibling(route: &str) -> Option<Sibling> {
    match route {
        "/api/lattice/state/full" | access::EXCHANGE => Some(Sibling::Store),
        _ if route.starts_with("/v1/") => Some(Sibling::KeyValue),
        _ if route.starts_with("/api/") => Some(Sibling::Coordinator),
        _ => None,
    }
}

/// Whether a refusal comes from the handler that changes the path, rather than from what all requests pass before it.
fn is_the_handlers(kind: Kind) -> bool {
    use Kind::{Conflict, Internal, NotSupported, ParameterInvalid, RequestRefused, Unavailable};
    matches!(kind, ParameterInvalid | RequestRefused | Conflict | NotSupported | Unavailable | Internal)
}
