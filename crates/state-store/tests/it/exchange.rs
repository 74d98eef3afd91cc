//! `Exchange`: a good request, and every kind of bad one.

use std::time::Duration;

use lattice_core::exchange::{Anchor, Answer, Ask, PullPart, Reason, Request, Response, WalkAsk};
use lattice_core::model::{EpochLength, Incarnation, NodeId};
use lattice_core::signed::{Announcement, Context, Signed};
use lattice_core::time::WallTime;
use lattice_proto::codec::{self, Header, ResponseChecks};
use lattice_proto::store::v1 as wire;
use lattice_runtime::identity::NodeKey;
use tonic::Code;

use crate::harness::{Store, config, folder, root_position};

const INCARNATION: Incarnation = Incarnation([5; 16]);

/// A peer that asks.
struct Peer {
    key: NodeKey,
    header: Header,
}

impl Peer {
    fn new(store: &Store, seed: u8) -> Self {
        let key = NodeKey::from_seed(&[seed; 32]);
        let header = Header {
            cluster: "lattice".to_owned(),
            sender: NodeId(key.public()),
            incarnation: INCARNATION,
            receiver: store.node,
            challenge: bytes::Bytes::new(),
            nonce: [1; 16],
            traceparent: String::new(),
            request_hash: None,
        };
        Self { key, header }
    }

    fn sign(&self, request: &Request) -> Signed {
        codec::sign_request(&self.header, request, self.key.signing_key())
    }

    fn announcement(&self, epoch_ms: u32) -> lattice_core::signed::SignedAnnouncement {
        let announcement = Announcement {
            cluster: "lattice".to_owned(),
            node: self.header.sender,
            incarnation: INCARNATION,
            sequence: 3,
            time: WallTime(1),
            epoch_length: EpochLength(epoch_ms.try_into().unwrap()),
            runs: Vec::new(),
            addresses: Vec::new(),
            name: "peer".to_owned(),
            recovering: false,
        };
        codec::sign_announcement(&announcement, self.key.signing_key())
    }

    /// Sends bytes and checks the answer's envelope.
    async fn send(&self, store: &Store, signed: &Signed) -> Response {
        let request = wire::ExchangeRequest { request: Some(signed.into()) };
        let answer = store.store.clone().exchange(request).await.unwrap().into_inner().response.unwrap();
        let answer: Signed = answer.try_into().unwrap();
        let checks = ResponseChecks {
            request: signed,
            cluster: "lattice",
            node: self.header.sender,
            sender: store.node,
            incarnation: None,
        };
        codec::open_response(&answer, &checks).unwrap().1
    }

    /// Sends bytes that are to be refused; the reason.
    async fn refused(&self, store: &Store, signed: &Signed) -> (Reason, Response) {
        let response = self.send(store, signed).await;
        match &response.answer {
            Answer::Refused(refusal) => (refusal.reason, response),
            other => panic!("{other:?}"),
        }
    }

    /// Gets a challenge by asking without one.
    async fn challenged(mut self, store: &Store) -> Self {
        let (reason, response) = self.refused(store, &self.sign(&ask(Ask::Hello))).await;
        assert_eq!(reason, Reason::Challenge);
        assert!(!response.next_challenge.is_empty());
        self.header.challenge = response.next_challenge.into();
        self
    }
}

fn ask(ask: Ask) -> Request {
    Request { announcement: None, pull: None, ask }
}

async fn start(folder: &std::path::Path) -> Store {
    let store = Store::start(&config(folder, Some(&NodeKey::from_seed(&[2; 32])))).await;
    for number in 0..50 {
        store.put(&format!("key {number}"), "x").await;
    }
    store.sealed(50).await;
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenged_request_is_answered_and_its_replay_is_not() {
    let folder = folder();
    let store = start(folder.path()).await;
    let mut peer = Peer::new(&store, 2).challenged(&store).await;
    let nodes = vec![WalkAsk { position: root_position(), mine: None }];
    let signed = peer.sign(&ask(Ask::Walk { epoch: None, nodes }));
    let response = peer.send(&store, &signed).await;
    let Answer::Walk { seal, nodes } = response.answer else { panic!("not a walk") };
    seal.verify().unwrap();
    assert_eq!(seal.seal.node, store.node);
    let root = seal.seal.root.unwrap();
    assert_eq!(root.entries, 50);
    nodes[0].verify(None, Anchor::Root(&root)).unwrap();

    assert_eq!(peer.refused(&store, &signed).await.0, Reason::Challenge);
    peer.header.challenge = response.next_challenge.into();
    let again = peer.send(&store, &peer.sign(&ask(Ask::Bye))).await;
    assert_eq!(again.answer, Answer::Bye);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_for_more_than_may_be_served_is_told_to_come_later() {
    let folder = folder();
    let mut config = config(folder.path(), Some(&NodeKey::from_seed(&[2; 32])));
    config.store.serve_bytes_per_s = 64 << 10;
    // Nothing is kept back for longer than half of it.
    config.coordinator.request_timeout = Duration::from_millis(2);
    let store = Store::start(&config).await;
    for number in 0..50 {
        store.put(&format!("key {number}"), "x").await;
    }
    store.sealed(50).await;
    let mut peer = Peer::new(&store, 2).challenged(&store).await;
    let mut send = async |ask: Ask| {
        let signed = peer.sign(&Request { announcement: None, pull: None, ask });
        let response = peer.send(&store, &signed).await;
        peer.header.challenge = response.next_challenge.into();
        response.answer
    };
    let walk = || Ask::Walk { epoch: None, nodes: vec![WalkAsk { position: root_position(), mine: None }] };
    let deadline = Duration::from_secs(30);
    // One answer takes less time than its bytes: sooner or later the next one comes too early.
    let refused = tokio::time::timeout(deadline, async {
        loop {
            match send(walk()).await {
                Answer::Walk { .. } => {}
                Answer::Refused(refusal) => return refusal,
                other => panic!("{other:?}"),
            }
        }
    });
    let refusal = refused.await.expect("a walk is refused");
    assert_eq!(refusal.reason, Reason::Busy);
    assert!(refusal.detail.contains("store.serve_bytes_per_s"), "{}", refusal.detail);
    assert!(matches!(send(Ask::Hello).await, Answer::Hello { .. }), "that we are there is always said");
    let answered = tokio::time::timeout(deadline, async {
        while !matches!(send(walk()).await, Answer::Walk { .. }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    answered.await.expect("a walk is answered again");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_requests_are_told_to_the_coordinator() {
    let folder = folder();
    let store = start(folder.path()).await;
    let mut asked = store.store.clone().watch_asked(wire::WatchAskedRequest {}).await.unwrap().into_inner();
    let mut peer = Peer::new(&store, 2).challenged(&store).await;
    let announcement = peer.announcement(100);
    let pull = Some(PullPart { id: 77, in_kind: true });
    let nodes = vec![WalkAsk { position: root_position(), mine: None }];
    let walk =
        Request { announcement: Some(announcement.clone()), pull, ask: Ask::Walk { epoch: None, nodes } };
    let response = peer.send(&store, &peer.sign(&walk)).await;
    peer.header.challenge = response.next_challenge.into();
    peer.send(&store, &peer.sign(&Request { announcement: None, pull, ask: Ask::Bye })).await;
    let first = asked.message().await.unwrap().unwrap();
    assert_eq!(
        (first.node.as_ref(), first.pull, first.in_kind, first.ended),
        (&peer.header.sender.0[..], 77, true, false)
    );
    assert_eq!(Signed::try_from(first.announcement.unwrap()).unwrap(), announcement.signed);
    let last = asked.message().await.unwrap().unwrap();
    assert_eq!((last.pull, last.ended, last.announcement), (77, true, None));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_request_has_its_own_refusal() {
    let folder = folder();
    let store = start(folder.path()).await;
    let hello = ask(Ask::Hello);
    let reason = async |change: &dyn Fn(&mut Header), seed: u8| {
        let mut peer = Peer::new(&store, seed);
        change(&mut peer.header);
        let signed = peer.sign(&hello);
        peer.refused(&store, &signed).await
    };
    assert_eq!(reason(&|header| header.cluster = "other".to_owned(), 2).await.0, Reason::Cluster);
    assert_eq!(reason(&|header| header.receiver = NodeId([8; 32]), 2).await.0, Reason::Receiver);
    let (untrusted, response) = reason(&|_| (), 3).await;
    assert_eq!(untrusted, Reason::Untrusted);
    assert!(response.next_challenge.is_empty(), "strangers get no challenge");
    assert_eq!(reason(&|header| header.challenge = vec![1; 16].into(), 2).await.0, Reason::Challenge);

    let peer = Peer::new(&store, 2);
    let mut signed = peer.sign(&hello);
    signed.signature[5] ^= 1;
    assert_eq!(peer.refused(&store, &signed).await.0, Reason::Signature);
    let another = Signed::sign(Context::Response, peer.sign(&hello).body, peer.key.signing_key());
    assert_eq!(peer.refused(&store, &another).await.0, Reason::Signature);

    let peer = Peer::new(&store, 2).challenged(&store).await;
    let announcement = Some(peer.announcement(500));
    let signed = peer.sign(&Request { announcement, pull: None, ask: Ask::Hello });
    let (reason, response) = peer.refused(&store, &signed).await;
    assert_eq!(reason, Reason::Malformed);
    let Answer::Refused(refusal) = response.answer else { panic!("it was refused") };
    assert_eq!(refusal.detail, "epoch_ms: this node has 100, got 500");

    for (sequence, incarnation) in [(1, INCARNATION), (2, Incarnation([6; 16]))] {
        let node = bytes::Bytes::copy_from_slice(&peer.header.sender.0);
        let incarnation = bytes::Bytes::copy_from_slice(&incarnation.0);
        let request = wire::HeardRequest { node, incarnation, sequence, epoch: 1 };
        store.store.clone().heard(request).await.unwrap();
    }
    let peer = Peer::new(&store, 2);
    assert_eq!(peer.refused(&store, &peer.sign(&hello)).await.0, Reason::Incarnation);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_requests_get_no_challenge_and_drive_none_out() {
    let folder = folder();
    let store = start(folder.path()).await;
    let peer = Peer::new(&store, 2).challenged(&store).await;
    // More than wait for one sender.
    for number in 0..40 {
        let mut forged = Peer::new(&store, 2);
        forged.header.nonce = [number; 16];
        let mut signed = forged.sign(&ask(Ask::Hello));
        signed.signature[5] ^= 1;
        let (reason, response) = forged.refused(&store, &signed).await;
        assert_eq!(reason, Reason::Signature);
        assert!(response.next_challenge.is_empty(), "whoever sent it is not the peer");
    }
    let response = peer.send(&store, &peer.sign(&ask(Ask::Bye))).await;
    assert_eq!(response.answer, Answer::Bye);
    assert!(!response.next_challenge.is_empty());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_answers_what_was_heard_and_bytes_without_sense_are_not_answered() {
    let folder = folder();
    let store = start(folder.path()).await;
    let peer = Peer::new(&store, 2).challenged(&store).await;
    let node = bytes::Bytes::copy_from_slice(&peer.header.sender.0);
    let incarnation = bytes::Bytes::copy_from_slice(&INCARNATION.0);
    let request = wire::HeardRequest { node, incarnation, sequence: 41, epoch: 7 };
    store.store.clone().heard(request).await.unwrap();
    let response = peer.send(&store, &peer.sign(&ask(Ask::Hello))).await;
    assert!(
        matches!(response.answer, Answer::Hello { heard_sequence: 41, heard_epoch } if heard_epoch.0 == 7)
    );

    let signed = Signed { body: bytes::Bytes::from_static(b"nonsense"), signature: [0; 64] };
    let request = wire::ExchangeRequest { request: Some((&signed).into()) };
    let refused = store.store.clone().exchange(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = store.store.clone().exchange(wire::ExchangeRequest { request: None }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    store.stop().await;
}
