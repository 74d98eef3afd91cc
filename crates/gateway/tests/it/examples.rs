//! What the OpenAPI document shows as examples of refusals is what the gateway says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::client::{Answer, Connection, DEADLINE, get, post, send};
use crate::fakes::{Node, PEER};

type Headers = &'static [(&'static str, &'static str)];

const NODE: &str = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29";
const KV: &str = "/v1/kv/{key}";
const TRUST_KEY: &str = "/api/lattice/trust/{key}";
const NONE: Headers = &[];
const JSON: Headers = &[("content-type", "application/json")];
const PROTOBUF: Headers = &[("content-type", "application/x-protobuf")];
const GZIP: Headers = &[("content-encoding", "gzip")];

async fn document(node: &Node, headers: &[(&str, &str)]) -> Value {
    send(node.address, "GET", "/openapi.json", headers, b"").await.json()
}

/// Every operation that can be refused as `name`: its method and its route.
fn refused(document: &Value, name: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (route, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap().values();
            let mut examples = responses.map(|response| &response["content"]["application/problem+json"]);
            if examples.any(|content| content["examples"][name].is_object()) {
                found.push((method.to_uppercase(), route.clone()));
            }
        }
    }
    found
}

fn example<'a>(document: &'a Value, method: &str, route: &str, answer: &Answer) -> (Value, &'a Value) {
    let told = answer.json();
    let name = told["type"].as_str().unwrap().trim_start_matches("/problems/");
    let operation = &document["paths"][route][method.to_lowercase()];
    let content = &operation["responses"][answer.status.to_string()]["content"]["application/problem+json"];
    let shown = &content["examples"][name]["value"];
    (told, shown)
}

#[track_caller]
fn compare(document: &Value, method: &str, route: &str, answer: &Answer) {
    let (told, shown) = example(document, method, route, answer);
    assert_eq!(&told, shown, "{method} {route}");
}

/// What is answered; of what is not refused, nothing is read, as it may never end.
async fn ask(node: &Node, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut connection = Connection::open(node.address).await;
    connection.request(method, path, headers, body).await;
    let mut answer = connection.head().await;
    assert!(answer.status >= 400, "{method} {path} {headers:?}: {}", answer.status);
    connection.body(method, &mut answer).await;
    answer
}

#[tokio::test]
async fn examples_are_what_a_client_is_told() {
    let node = Node::start().await;
    let to = node.address;
    let document = document(&node, NONE).await;
    let none = format!("/api/lattice/trust/{NODE}");
    let nobody = format!("/api/lattice/reconcile?peer={NODE}");
    let cases: &[(&str, &str, &str, Headers, &[u8])] = &[
        ("GET", KV, "/v1/kv/%FF", NONE, b""),
        ("GET", "/v1/proof/{key}", "/v1/proof/%FF", NONE, b""),
        ("POST", TRUST_KEY, "/api/lattice/trust/beta", NONE, b""),
        ("POST", "/v1/batch", "/v1/batch", JSON, br#"{"operations":[{"op":"delete","key":""}]}"#),
        ("GET", "/healthz", "/healthz", &[("host", "one"), ("host", "other")], b""),
        ("PUT", KV, "/v1/kv/a", &[("if-match", "unquoted")], b"1"),
        ("GET", "/v1/watch", "/v1/watch", &[("last-event-id", "")], b""),
        ("POST", "/v1/batch", "/v1/batch", JSON, br#"{"operations":[]}"#),
        ("POST", "/api/lattice/trust", "/api/lattice/trust", JSON, br#"{"key":"beta"}"#),
        ("POST", "/v1/restore", "/v1/restore", NONE, b""),
        ("POST", "/v1/restore", "/v1/restore", NONE, b"bad"),
        ("POST", "/sync/v1/exchange", "/sync/v1/exchange", PROTOBUF, b""),
        ("GET", "/v1/kv", "/v1/kv", &[("host", "elsewhere.example")], b""),
        ("PUT", KV, "/v1/kv/a", &[("origin", "http://elsewhere.example")], b"1"),
        ("GET", KV, "/v1/kv/none", NONE, b""),
        ("GET", "/docs/{file}", "/docs/nothing", NONE, b""),
        ("GET", "/dashboard/{file}", "/dashboard/nothing", NONE, b""),
        ("GET", TRUST_KEY, &none, NONE, b""),
        ("POST", "/api/lattice/reconcile", &nobody, NONE, b""),
        ("GET", "/v1/proof/{key}", "/v1/proof/a?epoch=1", NONE, b""),
        ("PUT", KV, "/v1/kv/a", GZIP, b"1"),
        ("POST", "/v1/restore", "/v1/restore", GZIP, b"1"),
        ("POST", "/v1/batch", "/v1/batch", NONE, b"{}"),
        ("POST", "/api/lattice/trust", "/api/lattice/trust", NONE, b"{}"),
        ("POST", "/sync/v1/exchange", "/sync/v1/exchange", NONE, b"?"),
        ("GET", KV, "/v1/kv/broken", NONE, b""),
        ("PUT", KV, "/v1/kv/disk", NONE, b"1"),
    ];
    for (method, route, path, headers, body) in cases {
        compare(&document, method, route, &ask(&node, method, path, headers, body).await);
    }
    for (route, path, method, kind, length) in [
        (KV, "/v1/kv/a", "PUT", "text/plain", (1 << 20) + 1),
        ("/v1/batch", "/v1/batch", "POST", "application/json", (12 << 20) + 1),
        ("/api/lattice/trust", "/api/lattice/trust", "POST", "application/json", (64 << 10) + 1),
        ("/sync/v1/exchange", "/sync/v1/exchange", "POST", "application/x-protobuf", (256 << 10) + 1),
    ] {
        // Only announced: nobody needs to send so much to be told.
        let mut connection = Connection::open(to).await;
        let length: u32 = length;
        let length = length.to_string();
        let headers = [("content-type", kind), ("content-length", &*length), ("expect", "100-continue")];
        connection.request(method, path, &headers, b"").await;
        compare(&document, method, route, &connection.answer(method).await);
    }
    let wrong = refused(&document, "parameter-invalid");
    assert!(wrong.len() > 20, "{wrong:?}");
    for (method, route) in wrong {
        let filled = if route == TRUST_KEY { NODE } else { "a" };
        let path = format!("{}?x=1", route.replace("{key}", filled));
        compare(&document, &method, &route, &ask(&node, &method, &path, JSON, b"{}").await);
    }

    assert_eq!(
        send(to, "DELETE", &format!("/api/lattice/trust/{}", hex::encode(PEER)), &[], b"").await.status,
        200
    );
    compare(&document, "POST", "/api/lattice/reconcile", &post(to, "/api/lattice/reconcile").await);
    node.fakes.store_tasks.token().cancel();
    node.fakes.coordinator_tasks.token().cancel();
    for path in ["/v1/kv", "/v1/watch", "/api/lattice/state/full", "/api/lattice/peers"] {
        compare(&document, "GET", path, &ask(&node, "GET", path, NONE, b"").await);
    }
    node.stop().await;
}

#[tokio::test]
async fn examples_have_the_members_that_a_client_is_told() {
    let node = Node::start().await;
    let document = document(&node, NONE).await;
    node.fakes.store.insert(b"a", b"1");
    node.fakes
        .store_health
        .set_service_status("lattice.kv.v1.KeyValue", lattice_runtime::grpc::ServingStatus::NotServing)
        .await;
    let other: Headers = &[("if-match", "\"other\"")];
    let absent: Headers = &[("if-none-match", "*")];
    for (method, route, path, headers, also) in [
        ("GET", "/v1/watch", "/v1/watch?since=id-old", NONE, &["since"][..]),
        ("GET", "/v1/proof/{key}", "/v1/proof/a?epoch=1", NONE, &[]),
        ("GET", KV, "/v1/kv/a", other, &["version"]),
        ("PUT", KV, "/v1/kv/a", absent, &["version"]),
        ("GET", "/readyz", "/readyz", NONE, &["missing"]),
        ("GET", "/health", "/health", NONE, &["missing"]),
        (
            "POST",
            "/api/lattice/sync/switch",
            "/api/lattice/sync/switch?mode=p2p",
            NONE,
            &["message", "success"],
        ),
    ] {
        let answer = ask(&node, method, path, headers, b"").await;
        let (told, shown) = example(&document, method, route, &answer);
        if let Some(version) = told["version"].as_str() {
            let detail =
                told["detail"].as_str().unwrap().replace(version, shown["version"].as_str().unwrap());
            assert_eq!(detail, shown["detail"], "{method} {path}");
        }
        let members = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(members(&told), members(shown), "{method} {path}");
        for member in also {
            assert!(told[member] != Value::Null, "{member} of {method} {path}: {told}");
        }
        if let Some(missing) = told["missing"].as_array() {
            assert_eq!(missing, shown["missing"].as_array().unwrap());
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn examples_of_who_may_not_are_what_a_client_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "read token-1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let node = Node::start_with(|config| config.gateway.token_file = Some(path)).await;
    let reader = [("authorization", "Bearer token-1")];
    let document = document(&node, &reader).await;
    let asked = refused(&document, "unauthorized");
    assert!(asked.len() > 20, "{asked:?}");
    for (method, route) in asked {
        compare(&document, &method, &route, &ask(&node, &method, &route, &[], b"").await);
        if method != "GET" {
            compare(&document, &method, &route, &ask(&node, &method, &route, &reader, b"").await);
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn the_example_of_a_rate_is_what_a_client_is_told() {
    let node = Node::start_with(|config| {
        config.gateway.rate_per_s = 1;
        config.gateway.rate_burst = 2;
    })
    .await;
    let document = document(&node, NONE).await;
    let often = async {
        loop {
            let answer = get(node.address, "/v1/kv/a").await;
            if answer.status == 429 {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(DEADLINE, often).await.expect("never refused");
    compare(&document, "GET", KV, &answer);
    node.stop().await;
}
