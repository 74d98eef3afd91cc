use crate::client::{Connection, get, post, put, send};
use crate::fakes::Node;

const MIB: usize = 1 << 20;
const JSON: (&str, &str) = ("content-type", "application/json");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

#[tokio::test]
async fn what_does_not_exist_is_a_problem() {
    let node = Node::start().await;
    for path in ["/v1/nothing", "/v1/proof", "/v1/backups", "/nope", "/v1/kvx", "//"] {
        let detail = get(node.address, path).await.problem(404, "route-not-found");
        assert!(detail.contains(path), "{detail}");
    }
    post(node.address, "/lattice.kv.v1.KeyValue/Get").await.problem(404, "route-not-found");
    for (method, path, allow) in [
        ("POST", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("DELETE", "/v1/kv", "GET, HEAD"),
        ("GET", "/v1/batch", "POST"),
        ("GET", "/v1/restore", "POST"),
        ("GET", "/sync/v1/exchange", "POST"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
    ] {
        let answer = send(node.address, method, path, &[], b"").await;
        assert!(answer.problem(405, "method-not-allowed").contains(method), "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    node.stop().await;
}

#[tokio::test]
async fn parameters_are_checked() {
    let node = Node::start().await;
    for (method, path, detail) in [
        ("GET", "/v1/kv?limit=0", "parameter limit must be 1 to 1000"),
        ("GET", "/v1/kv?limit=1001", "parameter limit must be 1 to 1000"),
        ("GET", "/v1/kv?limit=x", "parameter limit must be 1 to 1000"),
        ("GET", "/v1/kv?cursor=!", "parameter cursor must be the next"),
        ("GET", "/v1/kv?prefx=a", "parameter prefx is not known"),
        ("GET", "/v1/kv/a?x=1", "parameter x is not known: this route takes none"),
        ("PUT", "/v1/kv/a?ttl=60", "parameter ttl must be a whole number with one unit"),
        ("PUT", "/v1/kv/a?tll=60s", "parameter tll is not known: this route takes ttl"),
        ("GET", "/api/lattice/heals?limit=1001", "parameter limit must be 1 to 1000"),
    ] {
        let problem = send(node.address, method, path, &[], b"").await.problem(400, "parameter-invalid");
        assert!(problem.contains(detail), "{path}: {problem}");
    }
    node.stop().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let node = Node::start().await;
    let to = node.address;
    assert_eq!(put(to, "/v1/kv/a", &vec![b'x'; MIB]).await.status, 200);
    assert_eq!(get(to, "/v1/kv/a").await.body.len(), MIB);
    let detail = put(to, "/v1/kv/a", &vec![b'x'; MIB + 1]).await.problem(413, "too-large");
    assert_eq!(detail, "the value has more than 1048576 bytes");
    // The same without a length to go by.
    let mut chunked = format!("{:x}\r\n", MIB + 1).into_bytes();
    chunked.extend(vec![b'x'; MIB + 1]);
    chunked.extend(b"\r\n0\r\n\r\n");
    let transfer = [("transfer-encoding", "chunked")];
    send(to, "PUT", "/v1/kv/a", &transfer, &chunked).await.problem(413, "too-large");

    // Only announced: nobody needs to send so much to be told.
    for (path, kind, length) in [
        ("/v1/batch", JSON, "12582913"),
        ("/sync/v1/exchange", PROTOBUF, "262145"),
        ("/api/lattice/trust", JSON, "65537"),
    ] {
        let mut connection = Connection::open(to).await;
        let headers = [kind, ("content-length", length), ("expect", "100-continue")];
        connection.request("POST", path, &headers, b"").await;
        connection.answer("POST").await.problem(413, "too-large");
    }
    node.stop().await;
}

#[tokio::test]
async fn content_types_are_checked() {
    let node = Node::start().await;
    let text = [("content-type", "text/plain")];
    for (path, good) in [
        ("/v1/batch", "application/json"),
        ("/sync/v1/exchange", "application/x-protobuf or application/octet-stream"),
        ("/api/lattice/trust", "application/json"),
    ] {
        for headers in [&[][..], &text[..]] {
            let detail = send(node.address, "POST", path, headers, b"{}").await.problem(415, "media-type");
            assert_eq!(detail, format!("Content-Type must be {good}"));
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_refused_body_is_drained_so_that_the_answer_arrives() {
    let node = Node::start().await;
    let body = vec![b'x'; MIB + MIB / 2];
    // All of it is sent before anything is read, and the connection is good for another request.
    let mut connection = Connection::open(node.address).await;
    connection.request("PUT", "/v1/kv/%FF", &[], &body).await;
    connection.answer("PUT").await.problem(400, "key-invalid");
    connection.request("PUT", "/v1/kv/good", &[], b"1").await;
    assert_eq!(connection.answer("PUT").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let node = Node::start().await;
    let mut connection = Connection::open(node.address).await;
    let headers = [("content-length", "1500000"), ("expect", "100-continue")];
    connection.request("PUT", "/v1/kv/%FF", &headers, b"").await;
    connection.answer("PUT").await.problem(400, "key-invalid");

    let mut connection = Connection::open(node.address).await;
    let headers = [("content-length", "4"), ("expect", "100-continue")];
    connection.request("PUT", "/v1/kv/good", &headers, b"").await;
    assert_eq!(connection.answer("PUT").await.status, 100);
    connection.write(b"text").await;
    assert_eq!(connection.answer("PUT").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn exchanges_pass_as_they_are() {
    let node = Node::start().await;
    let to = node.address;
    // Fields 1 (body) and 2 (signature of 64 bytes).
    let mut signed = vec![0x0a, 2, b'h', b'i', 0x12, 64];
    signed.extend([7; 64]);
    let mut expected = vec![0x0a, 3, b'h', b'i', b'!', 0x12, 64];
    expected.extend([7; 64]);
    for kind in [PROTOBUF, ("content-type", "application/octet-stream")] {
        let answer = send(to, "POST", "/sync/v1/exchange", &[kind], &signed).await;
        assert_eq!((answer.status, &answer.body), (200, &expected));
        assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
    }
    for bad in [&b""[..], b"not protobuf", &signed[..60]] {
        send(to, "POST", "/sync/v1/exchange", &[PROTOBUF], bad).await.problem(400, "body-invalid");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_that_says_when_to_ask_again() {
    let node = Node::start().await;
    node.fakes.store_tasks.token().cancel();
    let mut signed = vec![0x12, 64];
    signed.extend([7; 64]);
    let batch = br#"{"operations":[{"op":"delete","key":"a"}]}"#;
    for (method, path, headers, body) in [
        ("GET", "/v1/kv/a", &[][..], &b""[..]),
        ("PUT", "/v1/kv/a", &[], b"1"),
        ("DELETE", "/v1/kv/a", &[], b""),
        ("GET", "/v1/kv", &[], b""),
        ("POST", "/v1/batch", &[JSON], batch),
        ("GET", "/api/lattice/state/full", &[], b""),
        ("POST", "/sync/v1/exchange", &[PROTOBUF], &signed),
    ] {
        let answer = send(node.address, method, path, headers, body).await;
        assert!(answer.problem(503, "unavailable").starts_with("state-store: "), "{method} {path}");
    }
    assert_eq!(get(node.address, "/api/lattice/peers").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_a_503_and_the_map_still_works() {
    let node = Node::start().await;
    node.fakes.coordinator_tasks.token().cancel();
    for (method, path) in [
        ("GET", "/api/lattice/state"),
        ("GET", "/api/lattice/nodes"),
        ("GET", "/api/lattice/p2p/status"),
        ("GET", "/api/lattice/p2p/identity"),
        ("GET", "/api/lattice/peers"),
        ("GET", "/api/lattice/heals"),
        ("GET", "/api/lattice/events"),
        ("GET", "/api/lattice/trust"),
        ("POST", "/api/lattice/sync/switch?mode=auto"),
        ("POST", "/api/lattice/reconcile"),
    ] {
        let answer = send(node.address, method, path, &[], b"").await;
        assert!(answer.problem(503, "unavailable").starts_with("sync-coordinator: "), "{method} {path}");
    }
    assert_eq!(put(node.address, "/v1/kv/a", b"1").await.status, 200);
    node.stop().await;
}
