use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::client::get;
use crate::fakes::Node;

const PEER: &str = "0909090909090909090909090909090909090909090909090909090909090909";

#[tokio::test]
async fn the_state_is_a_readable_copy_of_what_is_signed() {
    let node = Node::start().await;
    let state = get(node.address, "/api/lattice/state").await.json();
    let signed = &node.fakes.coordinator.announcement;
    let public_key = signed.announcement.node.to_string();
    let root = "03".repeat(32);
    assert_eq!(
        state,
        json!({
            "success": true,
            "merkle_root": root,
            "state_size": 4,
            "epoch": 11,
            "signed": true,
            "timestamp": "2023-11-14T22:13:20.007Z",
            "cluster": "lattice",
            "node": public_key,
            "name": "alpha",
            "public_key": public_key,
            "incarnation": "02".repeat(16),
            "recovering": false,
            "seals": [
                { "epoch_from": 1, "epoch_to": 8, "root": null, "entries": 0, "tombstones": 0 },
                { "epoch_from": 9, "epoch_to": 11, "root": root, "entries": 5, "tombstones": 2 },
            ],
            "announcement": STANDARD.encode(&signed.signed.body),
            "signature": hex::encode(signed.signed.signature),
        })
    );
    node.stop().await;
}

#[tokio::test]
async fn paths_and_peers_are_told() {
    let node = Node::start_with(|config| {
        config.sensor.bootstrap = vec!["/dns4/beta/tcp/9000".into()];
        config.coordinator.http_peers = vec!["http://127.0.0.2:8080".into()];
    })
    .await;
    let to = node.address;
    assert_eq!(
        get(to, "/api/lattice/nodes").await.json(),
        json!({ "success": true, "nodes": ["http://127.0.0.2:8080"], "count": 1 })
    );
    assert_eq!(
        get(to, "/api/lattice/p2p/status").await.json(),
        json!({
            "success": true,
            "enabled": true,
            "started": true,
            "libp2p_available": true,
            "error": null,
            "topic": "lattice/v1",
            "listen_multiaddrs": ["/ip4/127.0.0.1/tcp/9000"],
            "bootstrap_peers": ["/dns4/beta/tcp/9000"],
            "peer_count": 0,
            "has_peers": false,
            "http_sync_enabled": true,
            "sync_mode": "HTTP",
            "pinned": null,
            "heartbeat_active": true,
            "connected_count": 1,
            "zombie_count": 1,
            "health": "HTTP_ONLY",
            "fallback_in_ms": 250,
            "clock_error": null,
        })
    );
    assert_eq!(
        get(to, "/api/lattice/p2p/identity").await.json(),
        json!({
            "success": true,
            "peer_id": "12D3KooW",
            "public_key": node.fakes.coordinator.announcement.announcement.node.to_string(),
            "listen_addrs": ["/ip4/127.0.0.1/tcp/9000"],
        })
    );
    let peers = get(to, "/api/lattice/peers").await.json();
    assert_eq!((&peers["success"], &peers["count"]), (&json!(true), &json!(1)));
    assert_eq!(
        peers["peers"][0],
        json!({
            "public_key": PEER,
            "peer_id": "12D3KooX",
            "name": "beta",
            "addresses": ["/ip4/127.0.0.2/tcp/9000"],
            "http_url": "http://127.0.0.2:8080",
            "state": "zombie",
            "last_heartbeat": "2023-11-14T22:13:20.007Z",
            "path": "HTTP",
            "failover": "secondary",
            "divergence_count": 2,
            "backoff_ms": 4000,
            "lag_epochs": 3,
            "errors": 1,
            "last_error": "refused",
        })
    );
    node.stop().await;
}

#[tokio::test]
async fn heals_are_told_newest_first() {
    let node = Node::start().await;
    let heals = get(node.address, "/api/lattice/heals?limit=2").await.json();
    assert_eq!(heals["success"], true);
    assert_eq!(heals["heals"].as_array().unwrap().len(), 2);
    assert_eq!(
        heals["heals"][0],
        json!({
            "id": "heal-1",
            "peer": PEER,
            "peer_name": "http://127.0.0.2:8080",
            "path": "HTTP",
            "outcome": "Healed",
            "detail": null,
            "started": "2023-11-14T22:13:20.007Z",
            "duration_ms": 31,
            "rounds": 2,
            "bytes_in": 1100,
            "bytes_out": 200,
            "entries_merged": 12,
            "root_before": null,
            "root_after": "03".repeat(32),
            "trace_id": "ab".repeat(16),
        })
    );
    node.stop().await;
}

#[tokio::test]
async fn the_whole_state_is_one_document() {
    let node = Node::start().await;
    let empty = get(node.address, "/api/lattice/state/full").await.json();
    assert_eq!(empty, json!({ "success": true, "merkle_root": "05".repeat(32), "epoch": 42, "state": {} }));

    let store = &node.fakes.store;
    store.insert(b"a", b"text \"quoted\"");
    store.insert(b"b\"\n", "\u{20ac}".as_bytes());
    store.insert(b"c", &[0xff, 0]);
    let answer = get(node.address, "/api/lattice/state/full").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let state = json!({ "a": "text \"quoted\"", "b\"\n": "\u{20ac}", "c": { "base64": "/wA=" } });
    assert_eq!(answer.json()["state"], state);
    node.stop().await;
}

#[tokio::test]
async fn a_state_that_ends_early_is_not_taken_for_whole() {
    let node = Node::start().await;
    node.fakes.store.insert(b"a", b"1");
    node.fakes.store.insert(b"cut", b"2");
    let mut connection = crate::client::Connection::open(node.address).await;
    connection.request("GET", "/api/lattice/state/full", &[], b"").await;
    // How far it got is a matter of buffers; the end of the last chunk never comes.
    let answer = connection.until_closed().await;
    assert!(!answer.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&answer));
    node.stop().await;
}
