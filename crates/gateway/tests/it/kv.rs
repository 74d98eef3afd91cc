use std::time::{SystemTime, UNIX_EPOCH};

use lattice_core::model::{Hlc, NodeId, Version};
use lattice_core::time::WallTime;

use crate::client::{Connection, get, put, send};
use crate::fakes::Node;

#[tokio::test]
async fn a_value_is_written_read_and_deleted() {
    let node = Node::start().await;
    let to = node.address;
    let value = [0, 255, 1];

    let written = put(to, "/v1/kv/a/b?ttl=60s", &value).await;
    assert_eq!(written.status, 200);
    let document = written.json();
    let version = document["version"].as_str().unwrap();
    assert_eq!(document["key"], "a/b");
    assert_eq!(document["expires"], "2023-11-14T22:13:20.007Z");
    assert_eq!((version.len(), &version[16..17]), (16 + 1 + 64, "-"));
    let etag = format!("\"{version}\"");
    assert_eq!(written.header("etag"), Some(&*etag));

    let read = get(to, "/v1/kv/a%2Fb").await;
    assert_eq!((read.status, &read.body[..]), (200, &value[..]));
    for (name, expected) in [
        ("etag", &*etag),
        ("lattice-version", version),
        ("lattice-expires", "2023-11-14T22:13:20.007Z"),
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(read.header(name), Some(expected), "{name}");
    }
    let head = send(to, "HEAD", "/v1/kv/a/b", &[], b"").await;
    assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(&*etag), 0));

    let deleted = send(to, "DELETE", "/v1/kv/a/b", &[], b"").await;
    assert_eq!((deleted.status, &deleted.json()["key"]), (200, &"a/b".into()));
    assert!(deleted.json()["version"].as_str().unwrap() > version);
    get(to, "/v1/kv/a/b").await.problem(404, "key-not-found");
    // Also when there was nothing.
    assert_eq!(send(to, "DELETE", "/v1/kv/a/b", &[], b"").await.status, 200);

    let forever = put(to, "/v1/kv/empty", b"").await;
    assert_eq!(forever.json()["expires"], serde_json::Value::Null);
    let read = get(to, "/v1/kv/empty").await;
    assert_eq!((read.status, read.body.len(), read.header("lattice-expires")), (200, 0, None));
    node.stop().await;
}

#[tokio::test]
async fn a_value_is_written_whatever_its_content_type_is_said_to_be() {
    let node = Node::start().await;
    let value = b"{\"not json\xff";
    for kind in [
        "application/octet-stream",
        "text/plain;charset=UTF-8",
        "application/json",
        "multipart/form-data",
        "?",
    ] {
        let headers = [("content-type", kind)];
        assert_eq!(send(node.address, "PUT", "/v1/kv/a", &headers, value).await.status, 200, "{kind}");
        let read = get(node.address, "/v1/kv/a").await;
        assert_eq!(
            (read.body.as_slice(), read.header("content-type")),
            (&value[..], Some("application/octet-stream"))
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn keys_are_taken_from_the_path_as_they_are() {
    let node = Node::start().await;
    let longest = "k".repeat(1_024);
    for (path, key) in [
        ("a//b", "a//b"),
        ("../x", "../x"),
        ("%E2%82%AC", "\u{20ac}"),
        ("100%25+1", "100%+1"),
        (&longest, &longest),
    ] {
        let answer = put(node.address, &format!("/v1/kv/{path}"), b"1").await;
        assert_eq!((answer.status, &answer.json()["key"]), (200, &key.into()), "{path}");
    }
    for path in ["", "%FF", "%C0%AF", "a%2", "a%zz", &"k".repeat(1_025)] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = send(node.address, method, &format!("/v1/kv/{path}"), &[], b"").await;
            assert!(!answer.problem(400, "key-invalid").is_empty(), "{method} {path}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn conditions_are_judged() {
    let node = Node::start().await;
    let to = node.address;
    let tag = put(to, "/v1/kv/a", b"1").await.header("etag").unwrap().to_owned();
    let old = tag.clone();
    let put_if = async |key: &str, name: &str, value: &str| {
        send(to, "PUT", &format!("/v1/kv/{key}"), &[(name, value)], b"2").await
    };
    put_if("a", "if-none-match", "*").await.problem(412, "condition-failed");
    put_if("none", "if-match", "*").await.problem(412, "condition-failed");
    put_if("a", "if-match", "\"other\"").await.problem(412, "condition-failed");
    put_if("a", "if-match", "unquoted").await.problem(400, "header-invalid");
    put_if("a", "if-none-match", &tag).await.problem(400, "header-invalid");
    assert_eq!(put_if("new", "if-none-match", "*").await.status, 200);
    let tag = put_if("a", "if-match", &tag).await.header("etag").unwrap().to_owned();
    put_if("a", "if-match", &old).await.problem(412, "condition-failed");

    let unchanged = send(to, "GET", "/v1/kv/a", &[("if-none-match", &tag)], b"").await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), Some(&*tag));
    assert_eq!(send(to, "GET", "/v1/kv/a", &[("if-none-match", &old)], b"").await.status, 200);
    assert_eq!(send(to, "GET", "/v1/kv/a", &[("if-match", &tag)], b"").await.status, 200);
    let other = send(to, "GET", "/v1/kv/a", &[("if-match", &old)], b"").await;
    other.problem(412, "condition-failed");
    assert_eq!(other.header("etag"), Some(&*tag));
    let weak = send(to, "GET", "/v1/kv/a", &[("if-match", &format!("W/{tag}"))], b"").await;
    weak.problem(412, "condition-failed");
    assert_eq!(weak.header("etag"), Some(&*tag));
    for key in ["a", "none"] {
        let malformed = send(to, "GET", &format!("/v1/kv/{key}"), &[("if-match", "unquoted")], b"").await;
        malformed.problem(400, "header-invalid");
    }

    send(to, "DELETE", "/v1/kv/a", &[("if-match", &old)], b"").await.problem(412, "condition-failed");
    assert_eq!(send(to, "DELETE", "/v1/kv/a", &[("if-match", &tag)], b"").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_read_may_ask_for_a_version() {
    let node = Node::start().await;
    let to = node.address;
    let version = put(to, "/v1/kv/a", b"1").await.header("lattice-version").unwrap().to_owned();
    let later = format!("{:016x}-{}", u64::MAX, "07".repeat(32));
    let read = async |least: &str| send(to, "GET", "/v1/kv/a", &[("lattice-min-version", least)], b"").await;
    assert_eq!(read(&version).await.status, 200);
    let refused = read(&later).await;
    assert_eq!(refused.problem(503, "unavailable"), "state-store: this node has an older version");
    // Not before the time that it is of, and within the hour: nobody waits for a version that nobody wrote.
    assert_eq!(refused.header("retry-after"), Some("3600"));
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let soon = Version { hlc: Hlc::at(WallTime(now_ms + 5_000)), writer: NodeId([7; 32]) }.to_string();
    let refused = read(&soon).await;
    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"), "clocks may differ by so much");
    read("7").await.problem(400, "header-invalid");
    node.stop().await;
}

#[tokio::test]
async fn what_others_on_the_way_could_read_in_another_way_is_refused() {
    let node = Node::start().await;
    let to = node.address;
    let encoded = send(to, "PUT", "/v1/kv/a", &[("content-encoding", "gzip")], b"1").await;
    assert!(encoded.problem(415, "media-type").contains("Content-Encoding"));
    get(to, "/v1/kv/a").await.problem(404, "key-not-found");
    let hosts = [("host", "localhost"), ("host", "127.0.0.1")];
    send(to, "GET", "/healthz", &hosts, b"").await.problem(400, "header-invalid");
    let mut without = Connection::open(to).await;
    without.write(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    without.answer("GET").await.problem(400, "header-invalid");
    let mut before = Connection::open(to).await;
    before.write(b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(before.answer("GET").await.status, 200, "HTTP/1.0 has none");
    node.stop().await;
}

#[tokio::test]
async fn entries_are_listed_in_pages() {
    let node = Node::start().await;
    let to = node.address;
    for key in ["a/1", "a/2", "a/3", "b"] {
        put(to, &format!("/v1/kv/{key}"), key.as_bytes()).await;
    }
    let first = get(to, "/v1/kv?prefix=a%2F&limit=2").await.json();
    assert_eq!(first["entries"][0]["key"], "a/1");
    assert_eq!(first["entries"][1]["value"], "YS8y");
    assert!(first["entries"][1]["version"].is_string());
    let next = first["next"].as_str().unwrap();
    let second = get(to, &format!("/v1/kv?prefix=a/&limit=2&cursor={next}")).await.json();
    assert_eq!(second["entries"].as_array().unwrap().len(), 1);
    assert_eq!((&second["entries"][0]["key"], &second["next"]), (&"a/3".into(), &serde_json::Value::Null));
    let from = get(to, "/v1/kv?start=a/3").await.json();
    assert_eq!((&from["entries"][0]["key"], &from["entries"][1]["key"]), (&"a/3".into(), &"b".into()));
    node.stop().await;
}

#[tokio::test]
async fn a_batch_is_written() {
    let node = Node::start().await;
    let to = node.address;
    put(to, "/v1/kv/old", b"1").await;
    let json = [("content-type", "application/json")];
    let body = br#"{"operations":[{"op":"put","key":"new","value":"AQI="},{"op":"delete","key":"old"}]}"#;
    let answer = send(to, "POST", "/v1/batch", &json, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["versions"].as_array().unwrap().len(), 2);
    assert_eq!(get(to, "/v1/kv/new").await.body, [1, 2]);
    assert_eq!(get(to, "/v1/kv/old").await.status, 404);

    let bad = br#"{"operations":[{"op":"put","key":"x","value":"AQ=="},{"op":"put","key":"","value":""}]}"#;
    let detail = send(to, "POST", "/v1/batch", &json, bad).await.problem(400, "key-invalid");
    assert!(detail.starts_with("operations[1].key"), "{detail}");
    assert_eq!(get(to, "/v1/kv/x").await.status, 404);
    node.stop().await;
}

#[tokio::test]
async fn what_the_store_says_becomes_a_problem() {
    let node = Node::start().await;
    for (key, status, name) in [
        ("damaged", 503, "damaged"),
        ("broken", 500, "internal"),
        ("full", 503, "busy"),
        ("disk", 507, "disk-full"),
        ("none", 404, "key-not-found"),
    ] {
        let detail = get(node.address, &format!("/v1/kv/{key}")).await.problem(status, name);
        assert!(!detail.contains("secret"), "{detail}");
    }
    node.stop().await;
}
