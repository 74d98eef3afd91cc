use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use lattice_proto::coordinator::v1 as coordinator;
use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::store::v1::SealsRequest;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_proto::types::v1::entry::Content;
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{Channel, healthcheck};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha as before;

use crate::client::{DEADLINE, get, put};
use crate::fakes::{Fakes, Node, PEER};

fn channel(node: &Node) -> Channel {
    Channel::connect(&Listen::Tcp(node.address)).deadline(DEADLINE)
}

fn put_request(key: &[u8]) -> kv::PutRequest {
    kv::PutRequest { key: key.to_vec().into(), value: "value".into(), ..Default::default() }
}

fn get_request(key: &[u8]) -> kv::GetRequest {
    kv::GetRequest { key: key.to_vec().into(), ..Default::default() }
}

#[tokio::test]
async fn grpc_and_rest_see_one_map() {
    let node = Node::start().await;
    let mut client = KeyValueClient::new(channel(&node));
    client.put(put_request(b"a/b")).await.unwrap();
    assert_eq!(get(node.address, "/v1/kv/a/b").await.body, b"value");
    put(node.address, "/v1/kv/c", b"other").await;
    let entry = client.get(get_request(b"c")).await.unwrap().into_inner().entry.unwrap();
    assert_eq!(entry.content, Some(Content::Value("other".into())));

    let page = client.list(kv::ListRequest { limit: 1, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((page.entries.len(), &page.next[..]), (1, &b"a/b"[..]));
    let delete = kv::DeleteRequest { key: "c".into(), condition: None };
    let operation = kv::Operation { operation: Some(kv::operation::Operation::Delete(delete.clone())) };
    let batch = kv::BatchRequest { operations: vec![operation] };
    assert_eq!(client.batch(batch).await.unwrap().into_inner().versions.len(), 1);
    client.delete(delete).await.unwrap();
    assert_eq!(client.get(get_request(b"c")).await.unwrap_err().code(), Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn keys_that_rest_could_not_name_are_refused() {
    let node = Node::start().await;
    let mut client = KeyValueClient::new(channel(&node));
    for key in [&b""[..], b"\xff", &[b'k'; 1_025]] {
        let status = client.put(put_request(key)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("key: "), "{status}");
        let put = kv::Operation { operation: Some(kv::operation::Operation::Put(put_request(key))) };
        let status = client.batch(kv::BatchRequest { operations: vec![put] }).await.unwrap_err();
        assert!(status.message().starts_with("operations[0].key: "), "{status}");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_siblings_say_and_the_callers_deadline_pass_through() {
    let node = Node::start().await;
    let mut client = KeyValueClient::new(channel(&node));
    assert_eq!(client.get(get_request(b"damaged")).await.unwrap_err().code(), Code::DataLoss);
    let mut patience = Request::new(get_request(b"waits"));
    patience.set_timeout(Duration::from_millis(50));
    assert_eq!(client.get(patience).await.unwrap_err().code(), Code::DeadlineExceeded);

    node.fakes.store_tasks.token().cancel();
    assert_eq!(client.get(get_request(b"a")).await.unwrap_err().code(), Code::Unavailable);
    node.stop().await;
}

#[tokio::test]
async fn a_sibling_that_does_not_answer_is_named() {
    let (fakes, mut channels) = Fakes::new().await;
    // Nobody listens there.
    let folder = tempfile::tempdir().unwrap();
    channels.store = Channel::connect(&Listen::Unix(folder.path().join("store")));
    channels.coordinator = Channel::connect(&Listen::Unix(folder.path().join("coordinator")));
    let node = Node::start_among(fakes, channels, |_| {}).await;
    let (mut keys, mut node_api) =
        (KeyValueClient::new(channel(&node)), SyncCoordinatorClient::new(channel(&node)));
    for status in [
        keys.get(get_request(b"a")).await.unwrap_err(),
        keys.put(put_request(b"a")).await.unwrap_err(),
        keys.backup(kv::BackupRequest {}).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("the state-store does not answer: "), "{status}");
    }
    let status = node_api.status(coordinator::StatusRequest {}).await.unwrap_err();
    assert!(status.message().starts_with("the sync-coordinator does not answer: "), "{status}");
    node.stop().await;
}

#[tokio::test]
async fn the_coordinator_is_reached() {
    let node = Node::start().await;
    let mut client = SyncCoordinatorClient::new(channel(&node));
    let status = client.status(coordinator::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.peers[0].node, PEER[..]);
    assert_eq!(client.state(coordinator::StateRequest {}).await.unwrap().into_inner().state_size, 4);
    let heals = coordinator::HealsRequest { limit: 1 };
    assert_eq!(client.heals(heals).await.unwrap().into_inner().heals.len(), 1);
    let mode = coordinator::SwitchModeRequest { mode: coordinator::Mode::Http.into() };
    assert_eq!(client.switch_mode(mode).await.unwrap().into_inner().message, "uses HTTP");
    let reconcile = coordinator::ReconcileRequest { node: PEER.to_vec().into() };
    assert_eq!(client.reconcile(reconcile).await.unwrap().into_inner().ids, ["heal-1"]);
    let trust = coordinator::TrustRequest { change: None };
    assert_eq!(client.trust(trust).await.unwrap().into_inner().keys.len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn the_status_has_what_the_node_lacks_as_readyz_says_it() {
    let node = Node::start().await;
    let mut client = SyncCoordinatorClient::new(channel(&node));
    let missing = async |client: &mut SyncCoordinatorClient<Channel>| {
        client.status(coordinator::StatusRequest {}).await.unwrap().into_inner().missing
    };
    assert_eq!(missing(&mut client).await, []);
    node.fakes.store_tasks.token().cancel();
    let [store] = &missing(&mut client).await[..] else { panic!("the store alone") };
    assert_eq!(store.service, "state-store");
    let readyz = get(node.address, "/readyz").await.problem(503, "not-ready");
    assert_eq!(readyz, format!("{}: {}", store.service, store.reason));
    node.stop().await;
}

#[tokio::test]
async fn questions_are_small() {
    let node = Node::start().await;
    let mut client = SyncCoordinatorClient::new(channel(&node));
    let large = coordinator::ReconcileRequest { node: vec![7; 65 << 10].into() };
    let status = client.reconcile(large).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let health = healthcheck(&Listen::Tcp(node.address), &"x".repeat(65 << 10), DEADLINE).await;
    assert_eq!(health.unwrap_err().code(), Code::ResourceExhausted);
    node.stop().await;
}

#[tokio::test]
async fn a_watch_without_an_id_begins_now() {
    let node = Node::start().await;
    let mut client = KeyValueClient::new(Channel::connect(&Listen::Tcp(node.address)));
    // Proto3 does not tell what is empty from what is left out; over REST, an empty id is refused.
    for (since, first) in [("", "id-0"), ("id-7", "id-7")] {
        let request = kv::WatchRequest { since: since.into(), ..Default::default() };
        let mut changes = client.watch(request).await.unwrap().into_inner();
        assert_eq!(changes.message().await.unwrap().unwrap().id, first);
    }
    node.stop().await;
}

#[tokio::test]
async fn events_are_watched_until_the_gateway_stops() {
    let node = Node::start().await;
    let mut client = SyncCoordinatorClient::new(Channel::connect(&Listen::Tcp(node.address)));
    let mut events = client.watch_events(coordinator::WatchEventsRequest {}).await.unwrap().into_inner();
    node.fakes.coordinator.happen("something");
    assert_eq!(events.message().await.unwrap().unwrap().message, "something");
    node.shut_down();
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
    node.stop().await;
}

#[tokio::test]
async fn the_port_tells_its_health_and_its_services() {
    let node = Node::start().await;
    let listen = Listen::Tcp(node.address);
    for name in ["", "lattice.kv.v1.KeyValue", "lattice.coordinator.v1.SyncCoordinator"] {
        healthcheck(&listen, name, DEADLINE).await.unwrap();
    }
    let mut client = ServerReflectionClient::new(channel(&node));
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "lattice.coordinator.v1.SyncCoordinator",
            "lattice.kv.v1.KeyValue",
        ]
    );
    // What older tools ask of it.
    let mut client = before::server_reflection_client::ServerReflectionClient::new(channel(&node));
    for symbol in ["lattice.kv.v1.KeyValue", "grpc.reflection.v1.ServerReflection"] {
        let ask = before::ServerReflectionRequest {
            message_request: Some(before::server_reflection_request::MessageRequest::FileContainingSymbol(
                symbol.to_owned(),
            )),
            ..Default::default()
        };
        let answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
        let answer = answers.into_inner().next().await.unwrap().unwrap().message_response.unwrap();
        use before::server_reflection_response::MessageResponse::FileDescriptorResponse;
        assert!(matches!(answer, FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }
    // The store's inner half is not for clients.
    let seals = StateStoreClient::new(channel(&node)).seals(SealsRequest {}).await;
    assert_eq!(seals.unwrap_err().code(), Code::Unimplemented);
    node.stop().await;
}

#[tokio::test]
async fn calls_ask_for_their_role_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "admin a\nwrite w\nread r\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let node = Node::start_with(|config| config.gateway.token_file = Some(path)).await;

    fn with<T>(token: Option<&str>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }
    let (mut keys, mut node_api) =
        (KeyValueClient::new(channel(&node)), SyncCoordinatorClient::new(channel(&node)));
    let add = || coordinator::TrustRequest {
        change: Some(coordinator::trust_request::Change::Add(PEER.to_vec().into())),
    };
    let list = || coordinator::TrustRequest { change: None };
    for (token, write, read, add_trust, list_trust) in [
        (None, Code::Unauthenticated, Code::Unauthenticated, Code::Unauthenticated, Code::Unauthenticated),
        (
            Some("x"),
            Code::Unauthenticated,
            Code::Unauthenticated,
            Code::Unauthenticated,
            Code::Unauthenticated,
        ),
        (Some("r"), Code::PermissionDenied, Code::Ok, Code::PermissionDenied, Code::Ok),
        (Some("w"), Code::Ok, Code::Ok, Code::PermissionDenied, Code::Ok),
        (Some("a"), Code::Ok, Code::Ok, Code::Ok, Code::Ok),
    ] {
        let code = |result: Option<tonic::Status>| result.map_or(Code::Ok, |status| status.code());
        assert_eq!(code(keys.put(with(token, put_request(b"a"))).await.err()), write, "{token:?}");
        assert_eq!(
            code(keys.list(with(token, kv::ListRequest { limit: 1, ..Default::default() })).await.err()),
            read
        );
        assert_eq!(code(node_api.trust(with(token, add())).await.err()), add_trust, "{token:?}");
        assert_eq!(code(node_api.trust(with(token, list())).await.err()), list_trust, "{token:?}");
    }
    // What does not exist is told to whoever may ask anything.
    for (token, code) in [
        (None, Code::Unauthenticated),
        (Some("x"), Code::Unauthenticated),
        (Some("r"), Code::Unimplemented),
        (Some("a"), Code::Unimplemented),
    ] {
        let seals = StateStoreClient::new(channel(&node)).seals(with(token, SealsRequest {})).await;
        assert_eq!(seals.unwrap_err().code(), code, "{token:?}");
    }
    // Signed, or no secret.
    node_api.state(coordinator::StateRequest {}).await.unwrap();
    healthcheck(&Listen::Tcp(node.address), "", DEADLINE).await.unwrap();
    node.stop().await;
}
