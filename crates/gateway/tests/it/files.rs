//! Watches, proofs and backups over REST, and the current version with a condition that fails.

use serde_json::{Value, json};

use crate::client::{Answer, Connection, get, put, send};
use crate::fakes::Node;

#[tokio::test]
async fn a_failed_condition_names_the_current_etag() {
    let node = Node::start().await;
    let written = put(node.address, "/v1/kv/a", b"1").await;
    let etag = written.header("etag").unwrap().to_owned();
    let refused = send(node.address, "PUT", "/v1/kv/a", &[("If-None-Match", "*")], b"2").await;
    assert_eq!(refused.header("etag"), Some(&*etag));
    assert_eq!(refused.json()["version"], etag.trim_matches('"'));
    refused.problem(412, "condition-failed");
    let other = format!("\"{}-{}\"", "0".repeat(16), "7".repeat(64));
    let refused = send(node.address, "PUT", "/v1/kv/absent", &[("If-Match", &other)], b"2").await;
    assert_eq!(refused.header("etag"), None);
    refused.problem(412, "condition-failed");
    node.stop().await;
}

async fn watch(node: &Node, path: &str, headers: &[(&str, &str)]) -> (String, Connection) {
    let mut connection = Connection::open(node.address).await;
    connection.request("GET", path, headers, b"").await;
    let head = connection.until("\r\n\r\n").await.to_lowercase();
    assert!(head.contains("text/event-stream"), "{head}");
    (head, connection)
}

#[tokio::test]
async fn changes_are_watched_by_prefix_and_resumed_by_id() {
    let node = Node::start().await;
    let version = node.fakes.store.insert(b"a/1", b"hello");
    node.fakes.store.insert(b"b", b"x");
    for (path, headers, since) in [
        ("/v1/watch?prefix=a/", &[][..], "id-0"),
        ("/v1/watch?prefix=a/&since=id-7", &[], "id-7"),
        // A browser that connects again asks at the same address.
        ("/v1/watch?prefix=a/&since=id-7", &[("Last-Event-ID", "id-8")], "id-8"),
    ] {
        let (head, mut connection) = watch(&node, path, headers).await;
        assert!(head.contains(&format!("lattice-watch-since: {since}")), "{head}");
        connection.until("data: ").await;
        let data: Value = serde_json::from_str(connection.until("\n").await.trim()).unwrap();
        let expected = json!({
            "key": "a/1", "op": "put", "value": "aGVsbG8=", "version": version.to_string(), "expires": null,
        });
        assert_eq!(data, expected);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_watch_outlives_the_store() {
    let node = Node::start().await;
    node.fakes.store.insert(b"a", b"x");
    let (_, mut connection) = watch(&node, "/v1/watch?since=id-away", &[]).await;
    // Once before the store goes away, and once more from what resumes after that.
    for _ in 0..2 {
        let event = connection.until("data: ").await;
        assert!(event.contains("id: "), "{event}");
    }
    node.stop().await;
}

#[tokio::test]
async fn an_id_that_is_too_old_is_gone_and_says_where_to_begin() {
    let node = Node::start().await;
    let gone = get(node.address, "/v1/watch?since=id-old").await;
    assert_eq!(gone.json()["since"], "id-9");
    gone.problem(410, "gone");
    get(node.address, "/v1/watch?from=1").await.problem(400, "parameter-invalid");
    node.stop().await;
}

/// What a watch is answered that is refused; of one that is not, nothing is read, as it does not end.
async fn refused(node: &Node, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut connection = Connection::open(node.address).await;
    connection.request("GET", path, headers, b"").await;
    let mut answer = connection.head().await;
    assert_eq!(answer.status, 400, "{path} {headers:?}");
    connection.body("GET", &mut answer).await;
    answer
}

#[tokio::test]
async fn an_id_that_is_empty_is_refused_rather_than_taken_for_now() {
    let node = Node::start().await;
    let resumed = [("Last-Event-ID", "id-8")];
    for (path, headers) in [
        ("/v1/watch?since=", &[][..]),
        ("/v1/watch?since", &[]),
        ("/v1/watch?prefix=a&since=", &[]),
        // What its event source sends later does not make the address right.
        ("/v1/watch?since=", &resumed),
    ] {
        let told = refused(&node, path, headers).await.problem(400, "parameter-invalid");
        assert!(told.starts_with("parameter since is empty") && told.contains("left out"), "{path}: {told}");
    }
    for path in ["/v1/watch", "/v1/watch?since=id-7"] {
        for empty in ["", "  "] {
            let headers = [("Last-Event-ID", empty)];
            let told = refused(&node, path, &headers).await.problem(400, "header-invalid");
            assert!(told.starts_with("last-event-id is empty"), "{path}: {told}");
        }
    }
    let twice = [("Last-Event-ID", "id-7"), ("Last-Event-ID", "id-8")];
    refused(&node, "/v1/watch", &twice).await.problem(400, "header-invalid");
    let (head, _) = watch(&node, "/v1/watch", &[]).await;
    assert!(head.contains("lattice-watch-since: id-0"), "{head}");
    node.stop().await;
}

#[tokio::test]
async fn backups_and_restores_pass_through_in_pieces() {
    let node = Node::start().await;
    let backup = get(node.address, "/v1/backup").await;
    assert_eq!((backup.status, &backup.body[..]), (200, &b"onetwo"[..]));
    assert_eq!(backup.header("content-type"), Some("application/octet-stream"));
    let file = vec![b'x'; 3 << 20];
    let restored = send(node.address, "POST", "/v1/restore", &[], &file).await;
    assert_eq!((restored.status, &restored.json()["entries"]), (200, &json!(3 << 20)));
    assert_eq!(restored.json()["cluster"], "ours");
    let restored = send(node.address, "POST", "/v1/restore?any_cluster=true", &[], b"x").await;
    assert_eq!(restored.json()["cluster"], "any");
    let refused = send(node.address, "POST", "/v1/restore", &[], b"bad").await;
    refused.problem(400, "request-refused");
    let refused = send(node.address, "POST", "/v1/restore", &[], b"").await;
    refused.problem(400, "body-invalid");
    assert_eq!(refused.json()["detail"], "the body is empty: send a backup");
    let refused = send(node.address, "POST", "/v1/restore?any_cluster=yes", &[], b"x").await;
    refused.problem(400, "parameter-invalid");
    node.stop().await;
}

#[tokio::test]
async fn proofs_that_cannot_be_made_say_why() {
    let node = Node::start().await;
    get(node.address, "/v1/proof/").await.problem(400, "key-invalid");
    get(node.address, "/v1/proof/a?epoch=x").await.problem(400, "parameter-invalid");
    get(node.address, "/v1/proof/a?epoch=1").await.problem(410, "gone");
    get(node.address, "/v1/proof/a/b").await.problem(503, "unavailable");
    node.stop().await;
}
