//! The service where P2P is disabled or refused, and the binary as operators meet it.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lattice_proto::sensor::v1::p2p_sensor_client::P2pSensorClient;
use lattice_proto::sensor::v1::{
    AnnounceRequest, BroadcastRequest, ExchangeRequest, ObserveRequest, ServeRequest, SetTrustRequest,
    WatchPeersRequest,
};
use lattice_runtime::Runtime;
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::Channel;
use p2p_sensor::{Error, Service};
use tonic::Code;

use crate::harness::{Home, free_port, heartbeats, live, zombies};

#[tokio::test(flavor = "multi_thread")]
async fn disabled_p2p_is_said_and_everything_else_refused() {
    let mut home = Home::new(1, &[1, 2]);
    home.config.sensor.enabled = false;
    let sensor = home.start().await;
    let state = sensor.until("the first state", |_| true).await;
    assert!(!state.enabled && !state.started && state.peers.is_empty() && state.listen_addresses.is_empty());
    assert!(state.peer_id.starts_with("12D3KooW"));
    let mut client = sensor.client.clone();
    let mut watched = client.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap(), Some(state));
    let refusals = [
        client.announce(AnnounceRequest::default()).await.unwrap_err(),
        client.broadcast(BroadcastRequest::default()).await.unwrap_err(),
        client.observe(ObserveRequest {}).await.map(|_| ()).unwrap_err(),
        client.exchange(ExchangeRequest::default()).await.unwrap_err(),
        client.serve(tokio_stream::once(ServeRequest::default())).await.map(|_| ()).unwrap_err(),
        client.set_trust(SetTrustRequest::default()).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert_eq!(refusal.message(), "P2P is disabled (sensor.enabled)");
    }
    sensor.partition.cut();
    // The stream has nothing to tell and stays open: else its reader would open it again and again.
    let more = tokio::time::timeout(Duration::from_millis(200), watched.message()).await;
    assert!(more.is_err(), "{more:?}");
    sensor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_nothing_is_written() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    // A sensor holds its port, too, although libp2p would share it.
    let running = Home::new(3, &[]).start().await;
    for address in [
        format!("/ip4/127.0.0.1/tcp/{tcp_port}"),
        format!("/ip4/127.0.0.1/udp/{udp_port}/quic-v1"),
        running.addresses[0].clone(),
    ] {
        let mut home = Home::new(1, &[1]);
        std::fs::remove_file(&home.config.node.key_file).unwrap();
        home.config.sensor.p2p_listen.push(address.clone());
        let Err(Error::Listen(error)) = Service::bind(&home.config, &Runtime::new()).await else {
            panic!("{address} is in use");
        };
        let line = error.to_string();
        let expected = format!("sensor.p2p_listen[1]: cannot listen on {address}: Address already in use");
        assert!(line.starts_with(&expected), "{line}");
        assert!(!home.config.node.key_file.exists() && !home.config.node.data_dir.exists());
    }
    running.stop().await;
    drop((tcp, udp));
}

/// The binary, stopped when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary(home: &Home) -> Command {
    let file = home.config.node.data_dir.with_extension("toml");
    std::fs::write(&file, home.config.to_toml()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-sensor"));
    command.arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn refused(home: &Home) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = binary(home).stderr(Stdio::piped()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn grpc(home: &mut Home) -> Listen {
    let listen = Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], free_port())));
    home.config.sensor.listen = listen.clone();
    listen
}

#[test]
fn the_binary_says_in_one_line_what_is_wrong() {
    let mut home = Home::new(1, &[1]);
    grpc(&mut home);
    home.config.sensor.bootstrap = vec!["/ip4/10.0.0.2/tcp/9000".into(), "10.0.0.2:9000".into()];
    let (code, line) = refused(&home);
    assert_eq!(code, Some(2), "{line}");
    assert!(
        line.starts_with("p2p-sensor: sensor.bootstrap[1] is \"10.0.0.2:9000\": not a multiaddr: "),
        "{line}"
    );
    assert!(
        line.ends_with("; right would be /ip4/10.0.0.2/tcp/9000 or /dns4/node-2/tcp/9000/p2p/12D3KooW...\n"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    home.config.sensor.bootstrap.clear();
    home.config.sensor.p2p_listen =
        vec![format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port())];
    let (code, line) = refused(&home);
    assert_eq!(code, Some(3), "{line}");
    assert!(
        line.starts_with("p2p-sensor: sensor.p2p_listen[0]: cannot listen on /ip4/127.0.0.1/tcp/"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_stopped_becomes_a_zombie_and_comes_back() {
    let first = Home::new(1, &[1, 2]).start().await;
    let mut second = Home::new(2, &[1, 2]).bootstrap(&first.addresses);
    let listen = grpc(&mut second);
    let process = Process(binary(&second).stderr(Stdio::null()).spawn().unwrap());
    let pid = process.0.id().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    // Its coordinator, so to speak: the other sensor of the same key signs for it.
    let voice = Home::new(2, &[1, 2]).start().await;
    let mut client = P2pSensorClient::new(Channel::connect(&listen));
    first.until("connected", |state| state.peers.len() == 1).await;
    let beat = async {
        let mut beats = heartbeats();
        loop {
            beats.tick().await;
            let announcement = Some((&voice.sign(&voice.announcement())).into());
            let request = AnnounceRequest { announcement, node: Default::default() };
            let _ = client.announce(request).await;
        }
    };
    let story = async {
        first.until_live(1).await;
        signal("-STOP");
        first.until("a zombie", |state| (live(state), zombies(state)) == (0, 1)).await;
        signal("-CONT");
        first.until_live(1).await;
    };
    tokio::select! {
        () = story => {}
        () = beat => {}
    }
    // It ends in order.
    signal("-TERM");
    first.until("gone", |state| state.peers.is_empty()).await;
    drop(process);
    voice.stop().await;
    first.stop().await;
}
