use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use gateway::{Error, Service};
use lattice_runtime::{Config, Runtime};

use crate::client::{Connection, DEADLINE};
use crate::fakes::{Fakes, Node};

async fn bind(listen: &str, adjust: impl FnOnce(&mut Config)) -> Result<Service, Error> {
    let mut config = Config::default();
    config.gateway.listen = listen.parse::<SocketAddr>().unwrap();
    adjust(&mut config);
    let (_fakes, channels) = Fakes::new().await;
    Service::bind(&config, &Runtime::new(), channels).await
}

#[tokio::test]
async fn a_port_for_others_needs_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "read secret\n").unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();

    let error = bind("0.0.0.0:0", |_| {}).await.err().unwrap();
    assert!(matches!(error, Error::Config(_)));
    let line = error.to_string();
    assert!(line.contains("gateway.listen") && line.contains("gateway.token_file"), "{line}");
    assert!(bind("0.0.0.0:0", |config| config.gateway.insecure = true).await.is_ok());
    assert!(bind("0.0.0.0:0", |config| config.gateway.token_file = Some(tokens)).await.is_ok());
    assert!(bind("127.0.0.1:0", |_| {}).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_had_is_named() {
    let taken = bind("127.0.0.1:0", |_| {}).await.unwrap();
    let address = taken.local_addr().to_string();
    let error = bind(&address, |_| {}).await.err().unwrap();
    assert!(matches!(error, Error::Listen(_)));
    assert!(error.to_string().starts_with(&format!("gateway.listen: cannot listen on {address}")), "{error}");

    let error =
        bind("127.0.0.1:0", |config| config.gateway.token_file = Some("/nowhere/tokens".into())).await;
    let line = error.err().unwrap().to_string();
    assert!(line.contains("gateway.token_file is \"/nowhere/tokens\": cannot be read"), "{line}");
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_gateway_ends() {
    let node = Node::start().await;
    let mut connection = Connection::open(node.address).await;
    connection.request("PUT", "/v1/kv/waits", &[], b"1").await;
    let begun = node.fakes.store.begun.notified();
    tokio::time::timeout(DEADLINE, begun).await.expect("the write does not reach the store");
    node.shut_down();
    node.fakes.store.go.notify_one();
    assert_eq!(connection.answer("PUT").await.status, 200);
    node.stop().await;
}
