//! Heartbeats and deltas.

use lattice_core::signed::Signed;
use lattice_proto::codec::DELTA_BYTES_MAX;
use lattice_proto::sensor::v1::observation::What;
use lattice_proto::sensor::v1::{AnnounceRequest, BroadcastRequest, Observation, ObserveRequest};
use tonic::{Code, Streaming};

use crate::harness::{DEADLINE, Home, Sensor, eventually, id, live, pair};

async fn observe(sensor: &Sensor) -> Streaming<Observation> {
    sensor.client.clone().observe(ObserveRequest {}).await.unwrap().into_inner()
}

async fn next(observations: &mut Streaming<Observation>) -> Observation {
    tokio::time::timeout(DEADLINE, observations.message()).await.expect("an observation").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_is_handed_on_as_it_was_signed() {
    let (first, second) = pair().await;
    let mut observations = observe(&first).await;
    second.until("connected", |state| state.peers.len() == 1).await;
    first.until("connected", |state| state.peers.len() == 1).await;
    let signed = second.sign(&second.announcement());
    assert_eq!(second.announce(&signed).await, 1);
    let observed = next(&mut observations).await;
    assert_eq!(observed.node, id(2).0.to_vec());
    assert_eq!(observed.what, Some(What::Announcement((&signed).into())));
    // To one peer only, and to one that is not there.
    let to =
        |node: u8| AnnounceRequest { announcement: Some((&signed).into()), node: id(node).0.to_vec().into() };
    assert_eq!(second.client.clone().announce(to(1)).await.unwrap().into_inner().peers, 1);
    assert_eq!(second.client.clone().announce(to(3)).await.unwrap().into_inner().peers, 0);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_that_prove_nothing_are_refused_each_with_its_reason() {
    let (first, second) = pair().await;
    first.until("connected", |state| state.peers.len() == 1).await;
    second.until("connected", |state| state.peers.len() == 1).await;

    let mut other_cluster = second.announcement();
    other_cluster.cluster = "other".into();
    let other_cluster = second.sign(&other_cluster);
    // A true announcement of the first, repeated by the second.
    let other_signer = first.sign(&first.announcement());
    let good = second.sign(&second.announcement());
    let mut signature = good.signature;
    signature[0] ^= 1;
    let bad_signature = Signed { body: good.body.clone(), signature };
    let malformed = Signed { body: vec![0xff; 40].into(), signature: good.signature };

    for (signed, reason) in [
        (other_cluster, "cluster"),
        (other_signer, "signer"),
        (bad_signature, "signature"),
        (malformed, "malformed"),
    ] {
        assert_eq!(second.announce(&signed).await, 1);
        let series = format!("lattice_sensor_announcements_refused_total{{reason=\"{reason}\"}}");
        first.until_metric(&series, 1).await;
    }
    let state = first.until("the state", |_| true).await;
    assert_eq!((live(&state), state.peers.len()), (0, 1), "nothing was heard");
    second.until_metric("lattice_sensor_announcements_total{kind=\"failed\"}", 4).await;

    second.announce(&good).await;
    first.until_live(1).await;
    assert_eq!(first.metric("lattice_sensor_announcements_total{kind=\"heard\"}"), 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_announcement_or_delta_is_refused_before_it_is_sent() {
    let sensor = Home::new(1, &[1, 2]).start().await;
    let mut client = sensor.client.clone();
    let missing = client.announce(AnnounceRequest::default()).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::InvalidArgument, "announcement: is missing"));
    let mut short = AnnounceRequest {
        announcement: Some((&sensor.sign(&sensor.announcement())).into()),
        node: vec![1; 31].into(),
    };
    let node = client.announce(short.clone()).await.unwrap_err();
    assert_eq!(node.message(), "node: a node is 32 bytes, 64 hex characters");
    short.node = Default::default();
    assert_eq!(client.announce(short).await.unwrap().into_inner().peers, 0);
    let large =
        client.broadcast(BroadcastRequest { delta: vec![0; DELTA_BYTES_MAX + 1].into() }).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    sensor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_travel_between_exactly_two_nodes() {
    let (first, second) = pair().await;
    let nobody = Home::new(3, &[1, 2, 3]).start().await;
    let alone = nobody.client.clone().broadcast(BroadcastRequest { delta: "x".into() }).await.unwrap();
    assert!(!alone.into_inner().published);
    assert_eq!(nobody.metric("lattice_sensor_gossip_total{kind=\"no_peers\"}"), 1);

    let sides = [(&first, &second, 2_u8), (&second, &first, 1_u8)];
    for (to, from, author) in sides {
        let mut observations = observe(to).await;
        let delta = bytes::Bytes::from(vec![author; DELTA_BYTES_MAX]);
        // Until the other side's subscription has arrived.
        eventually("somebody subscribes", async || {
            let request = BroadcastRequest { delta: delta.clone() };
            from.client.clone().broadcast(request).await.unwrap().into_inner().published
        })
        .await;
        let observed = next(&mut observations).await;
        assert_eq!(observed.node, id(author).0.to_vec());
        assert_eq!(observed.what, Some(What::Delta(delta)));
    }
    for sensor in [first, second, nobody] {
        sensor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_reaches_those_without_a_direct_connection_only_from_a_trusted_author() {
    // 1 - 2 - 3 in a line: 1 and 3 do not know each other's address.
    let middle = Home::new(2, &[1, 2, 3]).start().await;
    let first = Home::new(1, &[1, 2, 3]).bootstrap(&middle.addresses).start().await;
    let last = Home::new(3, &[2, 3]).bootstrap(&middle.addresses).start().await;
    middle.until("both", |state| state.peers.len() == 2).await;
    let mut at_last = observe(&last).await;
    let mut at_middle = observe(&middle).await;
    let publish = async |sensor: &Sensor, delta: &'static str| {
        let request = BroadcastRequest { delta: delta.into() };
        sensor.client.clone().broadcast(request).await.unwrap().into_inner().published
    };
    // The last one does not trust the first: what it wrote is refused there, however it comes.
    let series = "lattice_sensor_gossip_total{kind=\"refused\"}";
    eventually("forwarded by 2, refused by 3", async || {
        publish(&first, "from 1").await;
        last.metric(series) > 0
    })
    .await;
    assert_eq!(next(&mut at_middle).await.node, id(1).0.to_vec());
    assert!(publish(&middle, "from 2").await);
    assert_eq!(next(&mut at_last).await.what, Some(What::Delta("from 2".into())));
    for sensor in [first, middle, last] {
        sensor.stop().await;
    }
}
