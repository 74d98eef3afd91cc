use serde_json::json;

use crate::client::{get, post, send};
use crate::fakes::Node;

const PEER: &str = "0909090909090909090909090909090909090909090909090909090909090909";
const OTHER: &str = "0808080808080808080808080808080808080808080808080808080808080808";

#[tokio::test]
async fn a_mode_is_switched() {
    let node = Node::start().await;
    let to = node.address;
    let answer = post(to, "/api/lattice/sync/switch?mode=http").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "success": true, "mode": "HTTP", "message": "uses HTTP" }));

    for query in ["", "?mode=", "?mode=carrier-pigeon", "?mode=HTTP", "?mode=http&mode=p2p", "?path=http"] {
        let answer = post(to, &format!("/api/lattice/sync/switch{query}")).await;
        let detail = answer.problem(400, "parameter-invalid");
        let document = answer.json();
        assert_eq!((&document["success"], &document["message"]), (&json!(false), &json!(detail)), "{query}");
        assert!(detail.contains("mode"), "{detail}");
    }
    let answer = post(to, "/api/lattice/sync/switch?mode=p2p").await;
    assert_eq!(answer.problem(409, "conflict"), "P2P is disabled");
    assert_eq!(answer.json()["success"], false);
    node.stop().await;
}

#[tokio::test]
async fn a_pull_is_started() {
    let node = Node::start().await;
    let to = node.address;
    for query in [String::new(), format!("?peer={PEER}")] {
        let answer = post(to, &format!("/api/lattice/reconcile{query}")).await;
        assert_eq!((answer.status, &answer.json()["id"]), (202, &json!("heal-1")), "{query}");
    }
    post(to, &format!("/api/lattice/reconcile?peer={OTHER}")).await.problem(404, "not-found");
    post(to, "/api/lattice/reconcile?peer=beta").await.problem(400, "parameter-invalid");
    assert_eq!(send(to, "DELETE", &format!("/api/lattice/trust/{PEER}"), &[], b"").await.status, 200);
    let detail = post(to, "/api/lattice/reconcile").await.problem(409, "conflict");
    assert!(detail.contains("node.trusted_keys"), "{detail}");
    node.stop().await;
}

#[tokio::test]
async fn trust_is_listed_given_and_taken() {
    let node = Node::start().await;
    let to = node.address;
    let listed = get(to, "/api/lattice/trust").await.json();
    let keys = json!([{ "public_key": PEER, "source": "run time" }]);
    assert_eq!(listed, json!({ "success": true, "count": 1, "keys": keys }));

    let json = [("content-type", "application/json")];
    let body = format!("{{\"key\":\"{OTHER}\"}}");
    let added = send(to, "POST", "/api/lattice/trust", &json, body.as_bytes()).await;
    assert_eq!((added.status, &added.json()["count"]), (200, &json!(2)));
    assert_eq!(get(to, &format!("/api/lattice/trust/{OTHER}")).await.json()["public_key"], OTHER);
    let removed = send(to, "DELETE", &format!("/api/lattice/trust/{OTHER}"), &[], b"").await;
    assert_eq!((removed.status, &removed.json()["count"]), (200, &json!(1)));
    get(to, &format!("/api/lattice/trust/{OTHER}")).await.problem(404, "not-found");
    assert_eq!(post(to, &format!("/api/lattice/trust/{OTHER}")).await.json()["count"], 2);

    post(to, "/api/lattice/trust/beta").await.problem(400, "key-invalid");
    send(to, "POST", "/api/lattice/trust", &[], body.as_bytes()).await.problem(415, "media-type");
    for bad in ["", "{}", "{\"key\":\"beta\"}", "{\"key\":1}"] {
        send(to, "POST", "/api/lattice/trust", &json, bad.as_bytes()).await.problem(400, "body-invalid");
    }
    node.stop().await;
}
