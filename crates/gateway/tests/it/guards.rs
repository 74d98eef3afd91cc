//! What every request passes, whatever it asks for.

use std::time::Duration;

use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::{GetRequest, PutRequest};
use tonic::{Code, Request, Status};

use crate::client::{Connection, DEADLINE, get, put, send};
use crate::fakes::Node;

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

async fn grpc(node: &Node) -> KeyValueClient<tonic::transport::Channel> {
    KeyValueClient::connect(format!("http://{}", node.address)).await.unwrap()
}

async fn grpc_get(node: &Node, key: &'static str) -> Result<tonic::metadata::MetadataMap, Status> {
    let mut request = Request::new(GetRequest { key: key.into(), version_min: None });
    request.metadata_mut().insert("x-request-id", "mine-3".parse().unwrap());
    Ok(grpc(node).await.get(request).await?.metadata().clone())
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let node = Node::start().await;
    node.fakes.store.insert(b"a", b"1");
    for (path, status) in [("/v1/kv/a", 200), ("/v1/kv/b", 404), ("/nowhere", 404), ("/healthz", 200)] {
        let answer = send(node.address, "GET", path, &[("x-request-id", "mine-1")], b"").await;
        assert_eq!((answer.status, answer.header("x-request-id")), (status, Some("mine-1")), "{path}");
    }
    let made = [get(node.address, "/healthz").await, get(node.address, "/healthz").await]
        .map(|answer| answer.header("x-request-id").map(str::to_owned));
    assert!(made[0].as_ref().is_some_and(|id| id.len() == 32) && made[0] != made[1], "{made:?}");
    assert_eq!(grpc_get(&node, "a").await.unwrap().get("x-request-id").unwrap(), "mine-3");
    let refused = grpc_get(&node, "b").await.unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap(), "mine-3");
    node.stop().await;
}

#[tokio::test]
async fn pages_of_other_sites_are_told_nothing_unless_they_are_listed() {
    let ask = [("origin", "https://app.example"), ("access-control-request-method", "PUT")];
    let node = Node::start().await;
    let answer = send(node.address, "GET", "/healthz", &ask[..1], b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(send(node.address, "OPTIONS", "/v1/kv/a", &ask, b"").await.status, 405);
    send(node.address, "PUT", "/v1/kv/a", &ask[..1], b"1").await.problem(403, "cross-origin");
    node.stop().await;

    let listed = |config: &mut lattice_runtime::Config| {
        config.gateway.cors_origins = vec!["https://app.example".to_owned()];
    };
    let node = Node::start_with(listed).await;
    let answer = send(node.address, "OPTIONS", "/v1/kv/a", &ask, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
    let answer = send(node.address, "PUT", "/v1/kv/a", &ask[..1], b"1").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://app.example"))
    );
    assert!(answer.header("access-control-expose-headers").unwrap().contains("etag"));
    let other = [("origin", "https://other.example")];
    let answer = send(node.address, "GET", "/v1/kv/a", &other, b"").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    send(node.address, "PUT", "/v1/kv/a", &other, b"1").await.problem(403, "cross-origin");
    node.stop().await;
}

#[tokio::test]
async fn text_is_compressed_for_who_accepts_it_and_values_are_sent_as_they_are() {
    let node = Node::start().await;
    assert_eq!(put(node.address, "/v1/kv/a", &[b'x'; 4_096]).await.status, 200);
    let accepts = [("accept-encoding", "gzip")];
    let list = send(node.address, "GET", "/v1/kv", &accepts, b"").await;
    assert_eq!(list.header("content-encoding"), Some("gzip"));
    assert!(list.header("vary").unwrap().contains("accept-encoding"));
    assert!(list.body.len() < 1_000 && list.body.starts_with(&[0x1f, 0x8b]), "{} bytes", list.body.len());
    assert_eq!(get(node.address, "/v1/kv").await.header("content-encoding"), None);

    let value = send(node.address, "GET", "/v1/kv/a", &accepts, b"").await;
    assert_eq!((value.header("content-encoding"), value.body.len()), (None, 4_096));
    let short = send(node.address, "GET", "/healthz", &accepts, b"").await;
    assert_eq!(short.header("content-encoding"), None);
    node.stop().await;
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_back() {
    let node = Node::start_with(|config| {
        config.gateway.rate_per_s = 1;
        config.gateway.rate_burst = 1_000;
    })
    .await;
    let mut connection = Connection::open(node.address).await;
    let mut refused = None;
    // One a second is earned meanwhile.
    for _ in 0..2_000 {
        connection.request("GET", "/v1/kv/a", &[], b"").await;
        let answer = connection.answer("GET").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("never refused");
    let detail = refused.problem(429, "rate-limited");
    assert!(detail.contains("gateway.rate_per_s"), "{detail}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Probes decide about the node's life, and peers have bounds of their own.
    assert_eq!(get(node.address, "/healthz").await.status, 200);
    send(node.address, "POST", "/sync/v1/exchange", &[PROTOBUF], b"?").await.problem(400, "body-invalid");
    node.stop().await;
}

#[tokio::test]
async fn a_rate_is_for_grpc_too() {
    let node = Node::start_with(|config| {
        config.gateway.rate_per_s = 1;
        config.gateway.rate_burst = 1;
    })
    .await;
    let mut last = Code::NotFound;
    for _ in 0..20 {
        last = grpc_get(&node, "a").await.unwrap_err().code();
        if last == Code::ResourceExhausted {
            break;
        }
    }
    assert_eq!(last, Code::ResourceExhausted);
    node.stop().await;
}

#[tokio::test]
async fn requests_at_a_time_are_bounded_over_both_protocols() {
    let node = Node::start_with(|config| config.gateway.requests_max = 1).await;
    let mut connection = Connection::open(node.address).await;
    connection.request("PUT", "/v1/kv/waits", &[], b"1").await;
    node.fakes.store.begun.notified().await;
    let detail = get(node.address, "/v1/kv/a").await.problem(503, "busy");
    assert_eq!(detail, "more than 1 requests at once; ask again");
    assert_eq!(grpc_get(&node, "a").await.unwrap_err().code(), Code::ResourceExhausted);
    node.fakes.store.go.notify_one();
    assert_eq!(connection.answer("PUT").await.status, 200);
    assert_eq!(grpc_get(&node, "a").await.unwrap_err().code(), Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn what_takes_too_long_is_ended_over_both_protocols() {
    let node = Node::start_with(|config| config.gateway.request_timeout = Duration::from_millis(50)).await;
    let detail = put(node.address, "/v1/kv/waits", b"1").await.problem(504, "timeout");
    assert_eq!(detail, "the request took longer than 50 ms");
    let slow = PutRequest { key: "waits".into(), ..Default::default() };
    let mut client = grpc(&node).await;
    let answer = tokio::time::timeout(DEADLINE, client.put(slow)).await.expect("it is not ended");
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    node.stop().await;
}

#[tokio::test]
async fn headers_are_bounded() {
    let node = Node::start().await;
    let large = "x".repeat(100 << 10);
    let answer = send(node.address, "GET", "/healthz", &[("x-large", &large)], b"").await;
    assert_eq!(answer.status, 431);
    node.stop().await;
}
