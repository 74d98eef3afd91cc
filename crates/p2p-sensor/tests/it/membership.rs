//! Strangers are not peers.

use crate::harness::{Home, id, live, pair, zombies};

const REFUSED: &str = "lattice_sensor_connections_refused_total{reason=\"untrusted\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_disconnected_and_never_counts_until_it_is_trusted() {
    let first = Home::new(1, &[1, 2]).start_beating().await;
    let stranger = Home::new(9, &[1, 9]).bootstrap(&first.addresses).start_beating().await;
    first.until_metric(REFUSED, 2).await;
    let state = first.until("the state", |_| true).await;
    assert!(state.peers.is_empty(), "{state:?}");
    stranger.until("closed by the other side", |state| state.peers.is_empty()).await;
    first.trust(&[1, 2, 9]).await;
    first.until_live(1).await;
    stranger.until_live(1).await;
    first.stop().await;
    stranger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_a_configured_address_is_left_again() {
    let stranger = Home::new(9, &[1, 9]).start_beating().await;
    let first = Home::new(1, &[1, 2]).bootstrap(&stranger.addresses).start_beating().await;
    first.until_metric("lattice_sensor_dials_total{outcome=\"refused\"}", 2).await;
    assert!(first.metric(REFUSED) >= 2);
    assert_eq!(first.metric("lattice_sensor_dials_total{outcome=\"connected\"}"), 0);
    let state = first.until("the state", |_| true).await;
    assert!(state.peers.is_empty(), "{state:?}");
    first.stop().await;
    stranger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_nobody_connects_to_nobody() {
    let first = Home::new(1, &[1, 2]).start_beating().await;
    let second = Home::new(2, &[]).bootstrap(&first.addresses).start_beating().await;
    let state = second.until("the state", |_| true).await;
    assert!(state.started && state.peers.is_empty());
    // Once it trusts, it dials at once; before that it did not even try.
    assert_eq!(second.metric("lattice_sensor_dials_total{outcome=\"connected\"}"), 0);
    assert_eq!(second.metric("lattice_sensor_dials_total{outcome=\"refused\"}"), 0);
    second.trust(&[1]).await;
    second.until_live(1).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_removed_loses_its_connections_at_once() {
    let (first, second) = pair().await;
    first.beat();
    second.beat();
    first.until_live(1).await;
    second.until_live(1).await;
    first.trust(&[1]).await;
    let state = first.until("the next state", |_| true).await;
    assert!(state.peers.is_empty(), "gone with the call itself: {state:?}");
    second.until("closed by the other side", |state| state.peers.is_empty()).await;
    first.trust(&[1, 2]).await;
    first.until_live(1).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_but_silent_peer_is_a_zombie() {
    let (first, second) = pair().await;
    let state = first.until("connected", |state| !state.peers.is_empty()).await;
    assert_eq!(live(&state), 0, "it has not said anything");
    assert_eq!(state.peers[0].last_heartbeat_ms, 0);
    assert_eq!(state.peers[0].node, id(2).0.to_vec());
    first.until("silent", |state| (live(state), zombies(state)) == (0, 1)).await;
    second.beat();
    first.until_live(1).await;
    second.hush();
    first.until("silent again", |state| (live(state), zombies(state)) == (0, 1)).await;
    assert_eq!(first.metric("lattice_sensor_peers{state=\"zombie\"}"), 1);
    first.stop().await;
    second.stop().await;
}
