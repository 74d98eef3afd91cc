use serde_json::{Value, json};

use crate::client::{Connection, DEADLINE, get, send};
use crate::fakes::Node;

async fn listen(node: &Node) -> Connection {
    let mut connection = Connection::open(node.address).await;
    connection.request("GET", "/api/lattice/events", &[], b"").await;
    let head = connection.until("\r\n\r\n").await;
    assert!(head.contains("text/event-stream"), "{head}");
    subscribed(node).await;
    connection
}

async fn subscribed(node: &Node) {
    let subscribed = node.fakes.coordinator.subscribed.notified();
    tokio::time::timeout(DEADLINE, subscribed).await.expect("nobody subscribes");
}

async fn event(connection: &mut Connection) -> Value {
    connection.until("data: ").await;
    serde_json::from_str(&connection.until("\n\n").await).unwrap()
}

#[tokio::test]
async fn events_arrive_as_they_happen() {
    let node = Node::start().await;
    let (mut first, mut second) = (listen(&node).await, listen(&node).await);
    for message in ["Detected from http://node-2:8080 (count: 1)", "two\nlines"] {
        node.fakes.coordinator.happen(message);
        for connection in [&mut first, &mut second] {
            assert_eq!(
                event(connection).await,
                json!({
                    "time": "2023-11-14T22:13:20.007Z",
                    "component": "HTTP_SYNC",
                    "tag": "DIVERGENCE",
                    "message": message,
                    "kind": "divergence",
                    "peer": "09".repeat(32),
                    "path": "HTTP",
                    "missed": 0,
                })
            );
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_reader_keeps_its_stream_while_the_coordinator_restarts() {
    let node = Node::start().await;
    let mut connection = listen(&node).await;
    node.fakes.coordinator.forget_readers();
    subscribed(&node).await;
    node.fakes.coordinator.happen("after");
    assert_eq!(event(&mut connection).await["message"], "after");
    node.stop().await;
}

#[tokio::test]
async fn a_stop_ends_event_streams_at_once() {
    let node = Node::start().await;
    let mut connection = listen(&node).await;
    node.shut_down();
    // To its proper end, not by a cut.
    let rest = connection.until_closed().await;
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    node.stop().await;
}

#[tokio::test]
async fn open_streams_are_bounded() {
    let node = Node::start().await;
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(listen(&node).await);
    }
    get(node.address, "/api/lattice/events").await.problem(503, "busy");
    get(node.address, "/api/lattice/state/full").await.problem(503, "busy");
    assert_eq!(send(node.address, "PUT", "/v1/kv/a", &[], b"1").await.status, 200);

    // A place is free again when a reader is gone, once the gateway has seen it go.
    drop(streams.pop());
    let freed = async {
        while get(node.address, "/api/lattice/state/full").await.status == 503 {
            node.fakes.coordinator.happen("something to write");
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.expect("no place became free");
    node.stop().await;
}
