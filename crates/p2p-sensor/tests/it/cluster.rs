//! Who is seen, and how soon it is noticed.

use crate::harness::{DEADLINE, Home, Sensor, free_port, live, pair, zombies};

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_node_reads_zero() {
    let sensor = Home::new(1, &[1, 2]).start_beating().await;
    let state = sensor.until("the first state", |_| true).await;
    assert!(state.enabled && state.started && state.error.is_empty(), "{state:?}");
    assert!(state.peers.is_empty());
    assert_eq!(state.listen_addresses, sensor.addresses);
    assert!(state.listen_addresses[0].starts_with("/ip4/127.0.0.1/tcp/"), "{state:?}");
    assert!(state.peer_id.starts_with("12D3KooW"));
    assert_eq!(sensor.metric("lattice_sensor_peers{state=\"live\"}"), 0);
    sensor.stop().await;
}

async fn everyone_sees_everyone(listen: &str) {
    let seeds = [1, 2, 3, 4];
    let mut sensors: Vec<Sensor> = Vec::new();
    for seed in seeds {
        let known: Vec<String> = sensors.iter().flat_map(|sensor| sensor.addresses.clone()).collect();
        let home = Home::new(seed, &seeds).listen(listen).bootstrap(&known);
        sensors.push(home.start_beating().await);
    }
    // Readers that never read hold nobody up.
    let mut idle = Vec::new();
    for sensor in &sensors {
        idle.push(sensor.watch().await);
    }
    for sensor in &sensors {
        let state = sensor.until_live(seeds.len() - 1).await;
        for peer in &state.peers {
            assert!(!peer.addresses.is_empty() && peer.connected_ms > 0 && peer.last_heartbeat_ms > 0);
        }
        assert_eq!(sensor.metric("lattice_sensor_peers{state=\"connected\"}"), 3);
    }
    drop(idle);
    for sensor in sensors {
        sensor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n_peers_read_n_over_tcp() {
    everyone_sees_everyone("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n_peers_read_n_over_quic() {
    everyone_sees_everyone("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_state_comes_at_once() {
    let (first, second) = pair().await;
    second.until("connected", |state| state.peers.len() == 1).await;
    let mut states = second.watch().await;
    let state = tokio::time::timeout(DEADLINE, states.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(state.peers.len(), 1, "the first message is the whole state");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_peer_is_counted_again_with_the_same_identity() {
    let port = free_port();
    let second = Home::new(2, &[1, 2]).listen(format!("/ip4/127.0.0.1/tcp/{port}"));
    // Only the one that stays knows where the other is: it has to dial again by itself.
    let first =
        Home::new(1, &[1, 2]).bootstrap(&[format!("/ip4/127.0.0.1/tcp/{port}")]).start_beating().await;
    let running = second.start_beating().await;
    let before = first.until_live(1).await;
    running.stop().await;
    first.until("gone", |state| state.peers.is_empty()).await;
    let running = second.start_beating().await;
    let after = first.until_live(1).await;
    assert_eq!(before.peers[0].node, after.peers[0].node);
    assert_eq!(before.peers[0].peer_id, after.peers[0].peer_id);
    running.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_again_where_it_said_it_listens() {
    let port = free_port();
    let first = Home::new(1, &[1, 2]).start_beating().await;
    // Only the second knows an address, and forgets it; the first has learned where the second listens.
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let second = Home::new(2, &[1, 2]).listen(&listen).bootstrap(&first.addresses).start_beating().await;
    first.until_live(1).await;
    second.stop().await;
    first.until("gone", |state| state.peers.is_empty()).await;
    let second = Home::new(2, &[1, 2]).listen(&listen).start_beating().await;
    first.until_live(1).await;
    second.until_live(1).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_empties_both_sides_and_heals() {
    let (first, second) = pair().await;
    first.beat();
    second.beat();
    first.until_live(1).await;
    second.until_live(1).await;
    let partition = first.partition.clone();
    partition.cut();
    assert!(partition.is_cut());
    first.until("cut off", |state| state.peers.is_empty()).await;
    second.until("cut off", |state| state.peers.is_empty()).await;
    // The other side dials, and is not let in.
    first.until_metric("lattice_sensor_connections_refused_total{reason=\"cut\"}", 2).await;
    let state = first.until("still cut off", |_| true).await;
    assert!(state.peers.is_empty() && state.started, "{state:?}");
    partition.heal();
    first.until_live(1).await;
    second.until_live(1).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_resolved_and_an_identity_is_expected_there() {
    let first = Home::new(1, &[1, 2, 3]).start_beating().await;
    let port = first.addresses[0].rsplit('/').next().unwrap().to_owned();
    let peer = p2p_sensor::identity::peer_id(&first.node).unwrap();
    let named = format!("/dns4/localhost/tcp/{port}/p2p/{peer}");
    let second = Home::new(2, &[1, 2, 3]).bootstrap(&[named]).start_beating().await;
    second.until_live(1).await;
    // Somebody else than the expected one is there: not a connection.
    let other = p2p_sensor::identity::peer_id(&second.node).unwrap();
    let wrong = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{other}");
    let third = Home::new(3, &[1, 2, 3]).bootstrap(&[wrong]).start_beating().await;
    third.until_metric("lattice_sensor_dials_total{outcome=\"failed\"}", 2).await;
    assert_eq!(third.metric("lattice_sensor_dials_total{outcome=\"connected\"}"), 0);
    for sensor in [first, second, third] {
        sensor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_address_is_skipped() {
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let first = Home::new(1, &[1, 2]).listen(&address).bootstrap([&address]).start_beating().await;
    first.until_metric("lattice_sensor_dials_total{outcome=\"own\"}", 1).await;
    let second = Home::new(2, &[1, 2]).bootstrap([&address]).start_beating().await;
    first.until_live(1).await;
    assert_eq!(first.metric("lattice_sensor_dials_total{outcome=\"own\"}"), 1, "not dialled again");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_on_a_stream_that_is_already_open() {
    let (first, second) = pair().await;
    let mut states = first.watch().await;
    second.beat();
    let seen = tokio::time::timeout(DEADLINE, async {
        let mut order = Vec::new();
        while let Some(state) = states.message().await.unwrap() {
            order.push((live(&state), zombies(&state)));
            if order.last() == Some(&(1, 0)) {
                second.hush();
            }
            if order.contains(&(1, 0)) && order.last() == Some(&(0, 1)) {
                return order;
            }
        }
        panic!("the stream ended after {order:?}");
    });
    let order = seen.await.expect("live, then a zombie again");
    assert!(order.contains(&(1, 0)), "{order:?}");
    first.stop().await;
    // A stream ends with its service.
    let ended =
        tokio::time::timeout(DEADLINE, async { while let Ok(Some(_)) = states.message().await {} }).await;
    assert!(ended.is_ok());
    second.stop().await;
}
