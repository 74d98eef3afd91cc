//! What a peer's answer to a poll may be instead of a state.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use lattice_core::model::{Digest, Epoch, EpochLength, Incarnation, NodeId};
use lattice_core::seal::Run;
use lattice_core::signed::{Announcement, SignedAnnouncement};
use lattice_core::time::WallTime;
use lattice_core::tree::Summary;
use lattice_proto::codec;
use lattice_runtime::identity::NodeKey;
use serde_json::{Value, json};
use sync_coordinator::http::{Client, STATE_BYTES_MAX};

const TIMEOUT: Duration = Duration::from_millis(400);

/// Two seals, the newer one with something in it.
pub(crate) fn announcement(key: &NodeKey) -> SignedAnnouncement {
    let root = |byte, entries| Some(Summary { digest: Digest([byte; 32]), entries, tombstones: 1 });
    let announcement = Announcement {
        cluster: "test".into(),
        node: NodeId(key.public()),
        incarnation: Incarnation([3; 16]),
        sequence: 9,
        time: WallTime(1_700_000_000_123),
        epoch_length: EpochLength(NonZeroU32::new(1_000).unwrap()),
        runs: vec![
            Run { from: Epoch(4), to: Epoch(6), root: root(0xaa, 2) },
            Run { from: Epoch(7), to: Epoch(8), root: root(0xbb, 3) },
        ],
        addresses: vec![],
        name: "node-2".into(),
        recovering: false,
    };
    codec::sign_announcement(&announcement, key.signing_key())
}

/// The answer of an honest gateway.
pub(crate) fn state(announced: &SignedAnnouncement) -> Value {
    let announcement = &announced.announcement;
    let newest = announcement.runs.last();
    let counts = |run: &Run| run.root.map_or((0, 0), |root| (root.entries, root.tombstones));
    let root = |run: &Run| run.root.map(|root| root.digest.to_string());
    json!({
        "success": true,
        "merkle_root": newest.and_then(root),
        "state_size": newest.map_or(0, |run| counts(run).0),
        "epoch": newest.map(|run| run.to.0),
        "signed": true,
        "timestamp": "2023-11-14T22:13:20.123Z",
        "cluster": announcement.cluster,
        "node": announcement.node.to_string(),
        "name": announcement.name,
        "public_key": announcement.node.to_string(),
        "incarnation": announcement.incarnation.to_string(),
        "seals": announcement.runs.iter().map(|run| json!({
            "epoch_from": run.from.0,
            "epoch_to": run.to.0,
            "root": root(run),
            "entries": counts(run).0,
            "tombstones": counts(run).1,
        })).collect::<Vec<_>>(),
        "announcement": STANDARD.encode(&announced.signed.body),
        "signature": hex::encode(announced.signed.signature),
    })
}

/// A server that gives the same answer to every poll, under a path prefix.
async fn serve(respond: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static) -> String {
    let app = Router::new().route("/prefix/api/lattice/state", get(move || std::future::ready(respond())));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/prefix")
}

async fn serve_json(value: Value) -> String {
    serve(move || Response::new(Body::from(value.to_string()))).await
}

fn client() -> Client {
    Client::new(None, false, TIMEOUT).unwrap()
}

async fn error_of(url: &str) -> String {
    client().poll(url).await.unwrap_err().to_string()
}

/// An honest answer, with one field changed.
fn with(field: &str, value: Value) -> Value {
    let mut state = state(&announcement(&NodeKey::from_seed(&[1; 32])));
    state[field] = value;
    state
}

#[tokio::test]
async fn an_honest_answer_is_read() {
    let announced = announcement(&NodeKey::from_seed(&[1; 32]));
    let url = serve_json(state(&announced)).await;
    assert_eq!(client().poll(&url).await.unwrap(), announced);
}

#[tokio::test]
async fn a_node_that_sealed_nothing_yet_is_read() {
    let key = NodeKey::from_seed(&[1; 32]);
    let nothing = Announcement { runs: vec![], ..announcement(&key).announcement };
    let announced = codec::sign_announcement(&nothing, key.signing_key());
    let url = serve_json(state(&announced)).await;
    assert_eq!(client().poll(&url).await.unwrap(), announced);
}

#[tokio::test]
async fn fields_of_later_releases_and_missing_copies_are_no_error() {
    let mut state = with("later", json!({"a": [1]}));
    state.as_object_mut().unwrap().remove("seals");
    state.as_object_mut().unwrap().remove("timestamp");
    let url = serve_json(state).await;
    assert!(client().poll(&url).await.is_ok());
}

#[tokio::test]
async fn each_unusable_answer_has_its_own_words() {
    let hollow = json!([{"epoch_from": 1, "epoch_to": 2, "root": null, "entries": 5, "tombstones": 0}]);
    let other = announcement(&NodeKey::from_seed(&[2; 32]));
    let contradiction = |field: &str| format!("{field} contradicts the signed announcement");
    for (answer, expected) in [
        (json!([1, 2]), "answer is not JSON: ".to_owned()),
        (json!({"success": false}), "answer says success: false".into()),
        (with("merkle_root", json!("xyz")), "merkle_root is neither null nor 64 hex characters".into()),
        (with("merkle_root", json!(5)), "merkle_root is neither null nor 64 hex characters".into()),
        (
            with("merkle_root", Value::Null),
            "merkle_root is null beside 3 entries and 1 tombstones in the newest seal".into(),
        ),
        (with("seals", hollow), "seals[0] has a null root beside entries or tombstones".into()),
        (with("announcement", Value::Null), "answer is not signed: it carries no announcement".into()),
        (with("signature", json!("")), "answer is not signed: it carries no announcement".into()),
        (with("signed", json!(false)), "answer is not signed: it carries no announcement".into()),
        (
            with("announcement", json!("%%")),
            "answer has no usable announcement: it is not standard padded base64".into(),
        ),
        (
            with("signature", json!("ab")),
            "answer has no usable signature: it is not 128 hex characters".into(),
        ),
        (with("announcement", json!("AAAA")), "announcement is malformed: ".into()),
        (
            with("signature", json!(hex::encode(other.signed.signature))),
            "announcement: signature does not verify".into(),
        ),
        (with("merkle_root", json!("cc".repeat(32))), contradiction("merkle_root")),
        (with("epoch", json!(9)), contradiction("epoch")),
        (with("state_size", json!(4)), contradiction("state_size")),
        (with("cluster", json!("other")), contradiction("cluster")),
        (with("node", json!("ab".repeat(32))), contradiction("node")),
        (with("public_key", json!(7)), contradiction("public_key")),
        (with("incarnation", json!("00".repeat(16))), contradiction("incarnation")),
        (with("timestamp", json!("2023-11-14T22:13:20.124Z")), contradiction("timestamp")),
        (with("seals", json!([])), contradiction("seals")),
        (with("seals", json!("none")), "answer has no usable seals: it is not a list of runs".into()),
    ] {
        let found = error_of(&serve_json(answer.clone()).await).await;
        assert!(found.starts_with(&expected), "{answer}\n  gave: {found}\n  not: {expected}");
    }
}

#[tokio::test]
async fn each_failure_of_the_transport_has_its_own_words() {
    let redirect = || {
        let builder = Response::builder().status(StatusCode::FOUND);
        builder.header(header::LOCATION, "http://elsewhere/").body(Body::empty()).unwrap()
    };
    let found = error_of(&serve(redirect).await).await;
    assert!(found.starts_with("answer is a redirect (302) to http://elsewhere/"), "{found}");

    let missing = || Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    assert_eq!(error_of(&serve(missing).await).await, "answer has status 404, not 200");

    let html = || Response::new(Body::from("<html></html>"));
    assert!(error_of(&serve(html).await).await.starts_with("answer is not JSON: "));

    let too_large = format!("answer is larger than {STATE_BYTES_MAX} bytes");
    let told = || Response::new(Body::from(vec![b' '; STATE_BYTES_MAX + 1]));
    assert_eq!(error_of(&serve(told).await).await, too_large);
    let untold = || {
        let chunks = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4_096])));
        Response::new(Body::from_stream(chunks))
    };
    assert_eq!(error_of(&serve(untold).await).await, too_large);

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    assert!(error_of(&url).await.starts_with("cannot connect: "));
}

#[tokio::test]
async fn peers_that_hang_or_drip_delay_nobody_but_themselves() {
    let drip = || {
        let bytes = futures::stream::repeat(()).then(|()| async {
            tokio::time::sleep(TIMEOUT / 8).await;
            Ok::<_, Infallible>(Bytes::from_static(b" "))
        });
        Response::new(Body::from_stream(bytes))
    };
    let dripping = serve(drip).await;
    // Accepts, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let honest = serve_json(state(&announcement(&NodeKey::from_seed(&[1; 32])))).await;

    let client = client();
    let (first, second) = (client.clone(), client.clone());
    let mut dripping = tokio::spawn(async move { first.poll(&dripping).await });
    let mut hanging = tokio::spawn(async move { second.poll(&hanging).await });
    tokio::select! {
        biased;
        answer = client.poll(&honest) => assert!(answer.is_ok()),
        _ = &mut dripping => panic!("the dripping peer was waited for"),
        _ = &mut hanging => panic!("the hanging peer was waited for"),
    }
    let error = dripping.await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("answer incomplete after 400 ms: "), "{error}");
    assert_eq!(hanging.await.unwrap().unwrap_err().to_string(), "no answer within 400 ms");
}

#[test]
fn authorities_that_are_none_are_refused_by_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let missing = Client::new(Some(&path), true, TIMEOUT).unwrap_err().to_string();
    assert!(
        missing.starts_with("coordinator.http_ca is ") && missing.contains("cannot be read"),
        "{missing}"
    );
    std::fs::write(&path, "not a certificate").unwrap();
    let empty = Client::new(Some(&path), true, TIMEOUT).unwrap_err().to_string();
    assert!(empty.starts_with("coordinator.http_ca is ") && empty.contains("must be a PEM file"), "{empty}");
}
