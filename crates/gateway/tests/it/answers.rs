//! The table of every route and gRPC method with what they answer when something is wrong: docs/answers.md is written
//! by this test, and held to it.
//!
//! The routes come from the node's own metrics, which have every one from the start, so that none can be missed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use gateway::Channels;
use http_body_util::BodyExt as _;
use lattice_proto::coordinator::v1 as coordinator;
use lattice_proto::kv::v1 as kv;
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{self, Channel, MESSAGE_BYTES_MAX};
use prost::Message as _;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::client::{Connection, DEADLINE, send};
use crate::fakes::{Fakes, Node, PEER};

const PAGE: &str = "../../docs/answers.md";
const ADMIN: &str = "Bearer token-3";
const WEAKEST: &str = "Bearer token-1";
/// What does not apply.
const NONE: &str = "-";
/// After this long without the head of an answer there is none.
const PATIENCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_millis(150);
const HEADER: [&str; 9] = [
    "call",
    "no token",
    "token with `read`",
    "too large",
    "bad encoding",
    "unknown key",
    "expired deadline",
    "store down",
    "shutting down",
];

/// One call in good form, and in bad ones.
struct Case {
    path: String,
    kind: &'static str,
    body: Bytes,
    bad: (String, Bytes),
    unknown: Option<String>,
    /// A length that no body may have.
    too_large: Option<usize>,
}

fn case(method: &str, route: &str) -> Case {
    let peer = hex::encode(PEER);
    let part = if route.starts_with("/dashboard/") { "main.js" } else { "swagger-ui.css" };
    let fill = |key: &str, node: &str| {
        let path = if route.contains("/trust/") {
            route.replace("{key}", node)
        } else {
            route.replace("{key}", key)
        };
        path.replace("{file}", if key == "a" { part } else { key })
    };
    let mut path = fill("a", &peer);
    let mut bad = fill("%FF", "%FF");
    let mut unknown = route.contains('{').then(|| fill("unknown", &"00".repeat(32)));
    match route {
        "/api/lattice/sync/switch" => path.push_str("?mode=http"),
        "/api/lattice/reconcile" => unknown = Some(format!("{route}?peer={}", "00".repeat(32))),
        _ => {}
    }
    if bad == route {
        bad.push_str("?limit=%FF");
    }
    let json = "application/json";
    let (kind, body, too_large): (_, Bytes, _) = match (method, route) {
        ("PUT", "/v1/kv/{key}") => ("application/octet-stream", "1".into(), Some((1 << 20) + 1)),
        ("POST", "/v1/batch") => {
            (json, r#"{"operations":[{"op":"put","key":"a","value":"MQ=="}]}"#.into(), Some((12 << 20) + 1))
        }
        ("POST", "/api/lattice/trust") => {
            (json, format!(r#"{{"key":"{peer}"}}"#).into(), Some((64 << 10) + 1))
        }
        ("POST", "/sync/v1/exchange") => {
            let mut signed = vec![0x12, 64];
            signed.extend([7; 64]);
            ("application/x-protobuf", signed.into(), Some((256 << 10) + 1))
        }
        ("POST", "/v1/restore") => ("application/octet-stream", "backup".into(), None),
        _ => ("", Bytes::new(), None),
    };
    // What has a body in a form of its own is wrong there, and else in its path.
    let bad = match (kind, method) {
        ("" | "application/octet-stream", "GET" | "PUT" | "DELETE") => (bad, body.clone()),
        ("application/octet-stream", _) => (path.clone(), Bytes::from_static(b"bad")),
        ("", _) => (bad, Bytes::new()),
        _ => (path.clone(), Bytes::from_static(b"\xff")),
    };
    Case { path, kind, body, bad, unknown, too_large }
}

/// Sends a request and says what the answer is in a word; its body is read only where it says more.
async fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    kind: &str,
    body: &[u8],
) -> String {
    let mut connection = Connection::open(to).await;
    let mut headers = vec![("connection", "close")];
    headers.extend(token.map(|token| ("authorization", token)));
    if !kind.is_empty() {
        headers.push(("content-type", kind));
    }
    connection.request(method, path, &headers, body).await;
    word(connection, method).await
}

async fn word(mut connection: Connection, method: &str) -> String {
    let Ok(mut answer) = timeout(PATIENCE, connection.head()).await else { return "no answer".to_owned() };
    if answer.header("content-type") != Some("application/problem+json") {
        return answer.status.to_string();
    }
    connection.body(method, &mut answer).await;
    let kind = answer.json()["type"].as_str().unwrap().replace("/problems/", "");
    format!("{} {kind}", answer.status)
}

async fn http_row(nodes: &Nodes, method: &str, route: &str) -> Vec<String> {
    let Case { path, kind, body, bad, unknown, too_large } = case(method, route);
    let to = nodes.whole.address;
    let no_token = ask(to, method, &path, None, kind, &body).await;
    let weakest = ask(to, method, &path, Some(WEAKEST), kind, &body).await;
    let too_large = match too_large {
        None => NONE.to_owned(),
        Some(length) => {
            // Only announced: nobody needs to send so much to be told.
            let mut connection = Connection::open(to).await;
            let length = length.to_string();
            let headers = [
                ("authorization", ADMIN),
                ("content-type", kind),
                ("content-length", &length),
                ("expect", "100-continue"),
            ];
            connection.request(method, &path, &headers, b"").await;
            word(connection, method).await
        }
    };
    let bad = ask(to, method, &bad.0, Some(ADMIN), kind, &bad.1).await;
    let unknown = match unknown {
        Some(unknown) => ask(to, method, &unknown, Some(ADMIN), kind, &body).await,
        None => NONE.to_owned(),
    };
    let late = match route {
        // It has none: what is measured would be our own patience.
        "/v1/restore" => NONE.to_owned(),
        _ => ask(nodes.silent.address, method, &path, Some(ADMIN), kind, &body).await,
    };
    let down = ask(nodes.storeless.address, method, &path, Some(ADMIN), kind, &body).await;
    vec![format!("`{method} {route}`"), no_token, weakest, too_large, bad, unknown, late, down]
}

/// A message of each method in good form.
fn message(method: &str) -> Bytes {
    let key = Bytes::from_static(b"a");
    let bytes = match method {
        "Get" => kv::GetRequest { key, version_min: None }.encode_to_vec(),
        "Put" => kv::PutRequest { key, value: "1".into(), ..Default::default() }.encode_to_vec(),
        "Delete" => kv::DeleteRequest { key, condition: None }.encode_to_vec(),
        "Prove" => kv::ProveRequest { key, epoch: None }.encode_to_vec(),
        "Batch" => {
            let delete = kv::DeleteRequest { key, condition: None };
            let operation = Some(kv::operation::Operation::Delete(delete));
            kv::BatchRequest { operations: vec![kv::Operation { operation }] }.encode_to_vec()
        }
        "Restore" => kv::RestoreRequest { data: "backup".into(), ..Default::default() }.encode_to_vec(),
        "List" => kv::ListRequest { limit: 10, ..Default::default() }.encode_to_vec(),
        "Heals" => coordinator::HealsRequest { limit: 10 }.encode_to_vec(),
        "SwitchMode" => {
            coordinator::SwitchModeRequest { mode: coordinator::Mode::Http.into() }.encode_to_vec()
        }
        "Trust" => {
            let change = Some(coordinator::trust_request::Change::Add(Bytes::from_static(&PEER)));
            coordinator::TrustRequest { change }.encode_to_vec()
        }
        // list_services of reflection.
        "ServerReflectionInfo" => vec![0x3a, 1, b'*'],
        _ => Vec::new(),
    };
    bytes.into()
}

/// The same with a key that is not there.
fn unknown_message(method: &str) -> Option<Bytes> {
    let key = Bytes::from_static(b"unknown");
    let bytes = match method {
        "Get" => kv::GetRequest { key, version_min: None }.encode_to_vec(),
        "Delete" => kv::DeleteRequest { key, condition: None }.encode_to_vec(),
        "Prove" => kv::ProveRequest { key, epoch: None }.encode_to_vec(),
        "Reconcile" => coordinator::ReconcileRequest { node: vec![0; 32].into() }.encode_to_vec(),
        _ => return None,
    };
    Some(bytes.into())
}

/// Calls a method with one message of `length` bytes, of which `message` is sent, and names the status.
async fn call(
    to: SocketAddr,
    route: &str,
    token: Option<&str>,
    message: &Bytes,
    length: usize,
    deadline: Option<&str>,
) -> String {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap());
    framed.extend_from_slice(message);
    let mut request =
        http::Request::post(route).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    if let Some(deadline) = deadline {
        request = request.header("grpc-timeout", deadline);
    }
    let body = Body::new(http_body_util::Full::new(framed.freeze()).map_err(|never| match never {}));
    let channel = Channel::connect(&Listen::Tcp(to));
    let answer = async {
        let answer = match channel.oneshot(request.body(body).unwrap()).await {
            Ok(answer) => answer,
            Err(status) => return status.code(),
        };
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return status.code();
        }
        // The head of an answer without a status is that of a stream; an error may still be all of it.
        let mut body = answer.into_body();
        match timeout(SOON, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_trailers() {
                Ok(trailers) => {
                    Status::from_header_map(&trailers).map_or(Code::Unknown, |status| status.code())
                }
                Err(_) => Code::Ok,
            },
            Ok(Some(Err(status))) => status.code(),
            Ok(None) => Code::Unknown,
            Err(_) => Code::Ok,
        }
    };
    match timeout(PATIENCE, answer).await {
        Ok(code) => name(code).to_owned(),
        Err(_) => "no answer".to_owned(),
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

async fn grpc_row(nodes: &Nodes, route: &str) -> Vec<String> {
    let (service, method) = route.trim_start_matches('/').split_once('/').unwrap();
    let to = nodes.whole.address;
    let good = message(method);
    let length = good.len();
    let no_token = call(to, route, None, &good, length, None).await;
    let weakest = call(to, route, Some(WEAKEST), &good, length, None).await;
    let large = call(to, route, Some(ADMIN), &good, 4 * MESSAGE_BYTES_MAX, None).await;
    let garbage = Bytes::from_static(b"\xff");
    let bad = call(to, route, Some(ADMIN), &garbage, 1, None).await;
    let unknown = match unknown_message(method) {
        Some(unknown) => call(to, route, Some(ADMIN), &unknown, unknown.len(), None).await,
        None => NONE.to_owned(),
    };
    let late = call(nodes.silent.address, route, Some(ADMIN), &good, length, Some("150m")).await;
    let down = call(nodes.storeless.address, route, Some(ADMIN), &good, length, None).await;
    vec![format!("`{service}/{method}`"), no_token, weakest, large, bad, unknown, late, down]
}

/// The gateways that are asked.
struct Nodes {
    whole: Node,
    /// Its siblings take calls and never answer.
    silent: Node,
    storeless: Node,
    _folder: tempfile::TempDir,
}

impl Nodes {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        fs::write(&tokens, "admin token-3\nread token-1\n").unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
        let guarded = |config: &mut lattice_runtime::Config| config.gateway.token_file = Some(tokens.clone());
        let whole = Node::start_with(guarded).await;
        whole.fakes.store.insert(b"a", b"1");
        let storeless = Node::start_with(guarded).await;
        storeless.fakes.store_tasks.token().cancel();
        let (fakes, _) = Fakes::new().await;
        let silence = axum::Router::new().fallback(std::future::pending::<()>);
        let channel = grpc::in_memory(Routes::from(silence), &fakes.store_tasks);
        let channels =
            Channels { store: channel.clone(), reads: None, sensor: channel.clone(), coordinator: channel };
        let silent = Node::start_among(fakes, channels, |config| {
            guarded(config);
            config.gateway.request_timeout = SOON;
        })
        .await;
        Self { whole, silent, storeless, _folder: folder }
    }

    /// Method and route of everything that is served.
    async fn routes(&self) -> Vec<(String, String)> {
        let headers = [("authorization", ADMIN)];
        let metrics = send(self.whole.address, "GET", "/metrics", &headers, b"").await.body;
        let label = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let text = String::from_utf8(metrics).unwrap();
        let routes: BTreeSet<(String, bool, String)> = text
            .lines()
            .filter(|line| line.starts_with("lattice_gateway_request_duration_seconds_count{"))
            .filter_map(|line| Some((label(line, "route")?, label(line, "method")?)))
            // What only looks goes first, so that it sees what there was.
            .map(|(route, method)| (route, method != "GET", method))
            .collect();
        routes.into_iter().map(|(route, _, method)| (method, route)).collect()
    }
}

fn page(rows: &[Vec<String>]) -> String {
    let mut page = String::from(
        "# Answers\n\nWhat every route and gRPC method answers when something is wrong, as a test of the gateway saw it; it \
         writes this page with\n`LATTICE_WRITE_DOCS=1 cargo test -p gateway --test it answers`, and fails when the page says \
         something else.\n\n\
         - The types are those of [the HTTP API](http-api.md), without `/problems/`.\n\
         - **Token with `read`** shows who needs more: 403, or PERMISSION_DENIED. What succeeds is for readers.\n\
         - **Too large** is a body beyond its limit, **bad encoding** a byte 0xFF where UTF-8, JSON, protobuf or a backup belongs.\n\
         - **Expired deadline** is `gateway.request_timeout` over HTTP and `grpc-timeout` over gRPC, with siblings that never \
         answer. A\n  restore has as long as its body goes on, and the store gives up on one that does not: nothing is answered \
         before.\n\
         - **Shutting down** is a new request: the port is closed. Requests in flight are finished, event streams end, and gRPC \
         watches end\n  with UNAVAILABLE.\n\n",
    );
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    page.push_str(&line(&HEADER.map(str::to_owned)));
    page.push_str(&line(&HEADER.map(|_| "---".to_owned())));
    for row in rows {
        let _ = write!(page, "{}", line(row));
    }
    page
}

#[tokio::test]
async fn the_page_of_answers_says_what_is_answered() {
    let nodes = Nodes::start().await;
    let (mut rows, mut rpcs) = (Vec::new(), Vec::new());
    for (method, route) in nodes.routes().await {
        match route.starts_with("/lattice.") || route.starts_with("/grpc.") {
            true => rpcs.push(grpc_row(&nodes, &route).await),
            false if route == "other" => {}
            false => rows.push(http_row(&nodes, &method, &route).await),
        }
    }
    rows.extend(rpcs);
    assert!(rows.len() > 45, "{rows:?}");
    let address = nodes.whole.address;
    nodes.whole.stop().await;
    let gone = timeout(DEADLINE, tokio::net::TcpStream::connect(address)).await.unwrap();
    assert!(gone.is_err(), "the port is still open");
    for row in &mut rows {
        row.push("no connection".to_owned());
    }
    nodes.silent.stop().await;
    nodes.storeless.stop().await;

    let written = page(&rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("LATTICE_WRITE_DOCS").is_some() {
        fs::write(&path, &written).unwrap();
    }
    let stands = fs::read_to_string(&path).unwrap_or_default();
    for (line, expected) in stands.lines().zip(written.lines()) {
        assert_eq!(line, expected, "docs/answers.md: write it again with LATTICE_WRITE_DOCS=1");
    }
    assert_eq!(
        stands.lines().count(),
        written.lines().count(),
        "docs/answers.md lacks routes, or has too many"
    );
}
