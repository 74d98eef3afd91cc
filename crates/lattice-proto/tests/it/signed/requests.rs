//! Requests, as the one who is asked opens them.

use bytes::Bytes;
use lattice_core::exchange::{ENVELOPE_BYTES_MAX, Reason, Request};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::signed::{Context, Signed, SignedAnnouncement};
use lattice_proto::codec::{self, Header, Refused, RequestChecks};
use lattice_proto::peer::v1 as peer;
use prost::Message as _;

use super::{malformed, mutations, signed, signed_walk};
use crate::fixtures::*;

/// What a receiver is made to believe; what was asked of it is counted.
struct Receiver {
    cluster: &'static str,
    node: NodeId,
    trusts: bool,
    incarnation: Incarnation,
    challenges: Vec<Bytes>,
    taken: usize,
}

fn receiver() -> Receiver {
    Receiver {
        cluster: "lattice",
        node: server(),
        trusts: true,
        incarnation: ASKER_INCARNATION,
        challenges: vec![request_header().challenge],
        taken: 0,
    }
}

impl Receiver {
    fn open(&mut self, signed: &Signed) -> Result<(Header, Request), Refused> {
        let (challenges, taken) = (&mut self.challenges, &mut self.taken);
        let checks = RequestChecks {
            cluster: self.cluster,
            node: self.node,
            trusted: &|node| self.trusts && *node == asker(),
            incarnation_ok: &|_, incarnation| *incarnation == self.incarnation,
            take_challenge: &mut |node, challenge| {
                *taken += 1;
                let before = challenges.len();
                challenges.retain(|issued| *node != asker() || issued != challenge);
                challenges.len() < before
            },
        };
        codec::open_request(signed, checks)
    }

    fn refuses(&mut self, signed: &Signed) -> (Reason, String) {
        let refused = self.open(signed).unwrap_err();
        (refused.reason, refused.detail)
    }
}

#[test]
fn a_request_in_order_is_opened_once() {
    let mut receiver = receiver();
    assert_eq!(receiver.open(&signed_walk()), Ok((request_header(), walk())));
    let replayed = receiver.open(&signed_walk()).unwrap_err();
    assert_eq!(replayed.reason, Reason::Challenge);
    assert_eq!(replayed.header.as_deref(), Some(&request_header()), "the refusal can be addressed");
    assert_eq!(replayed.refusal().reason, Reason::Challenge);
}

#[test]
fn a_request_with_any_bit_changed_is_refused_and_spends_no_challenge() {
    let mut receiver = receiver();
    for changed in mutations(&signed_walk()) {
        assert!(receiver.open(&changed).is_err());
    }
    assert_eq!(receiver.taken, 0);
}

#[test]
fn each_reason_to_refuse_a_request_comes_before_the_next() {
    // From the last reason to the first: each stage adds a fault, and hides all that came before.
    let request = peer::Request { ask: None, ..(&walk()).into() };
    let mut envelope = peer::Envelope::decode(signed_walk().body).unwrap();
    envelope.payload = request.encode_to_vec().into();
    let sign = |envelope: &peer::Envelope| {
        Signed::sign(Context::Request, envelope.encode_to_vec().into(), &asker_key())
    };

    let mut receiver = receiver();
    assert_eq!(
        receiver.refuses(&sign(&envelope)),
        (Reason::Malformed, "malformed: payload.ask: is missing".into())
    );
    assert_eq!(receiver.taken, 1);
    envelope.challenge = Bytes::new();
    assert_eq!(receiver.refuses(&sign(&envelope)).0, Reason::Challenge);
    assert_eq!(receiver.taken, 2);
    receiver.incarnation = SERVER_INCARNATION;
    let signed = sign(&envelope);
    assert_eq!(receiver.refuses(&signed).0, Reason::Incarnation);
    let forged = Signed { signature: [0; 64], ..signed };
    assert_eq!(receiver.refuses(&forged).0, Reason::Signature);
    receiver.trusts = false;
    assert_eq!(receiver.refuses(&forged).0, Reason::Untrusted);
    receiver.node = asker();
    assert_eq!(receiver.refuses(&forged).0, Reason::Receiver);
    receiver.cluster = "other";
    assert_eq!(
        receiver.refuses(&forged),
        (Reason::Cluster, "request is for cluster lattice: this node is of other".into())
    );
    envelope.nonce = Bytes::new();
    let unreadable = receiver.open(&sign(&envelope)).unwrap_err();
    assert_eq!(unreadable.detail, "request: malformed: nonce: a nonce is 16 bytes, got 0");
    assert_eq!((unreadable.reason, unreadable.header), (Reason::Malformed, None));
    let oversized = Signed { body: vec![0; ENVELOPE_BYTES_MAX + 1].into(), signature: [0; 64] };
    assert_eq!(
        receiver.refuses(&oversized),
        (Reason::Malformed, "request: 4194305 bytes are too many: it takes at most 4194304".into())
    );
    assert_eq!(receiver.taken, 2, "nothing else spent a challenge");
}

#[test]
fn a_header_names_its_malformed_field() {
    type Change = fn(&mut peer::Envelope);
    let table: [(Change, &str); 8] = [
        (|e| e.cluster.clear(), "cluster: a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"),
        (|e| e.sender = Bytes::new(), "sender: a node is 32 bytes, got 0"),
        (|e| e.incarnation = Bytes::new(), "incarnation: an incarnation is 16 bytes, got 0"),
        (|e| e.receiver = Bytes::new(), "receiver: a node is 32 bytes, got 0"),
        (|e| e.challenge = vec![0; 65].into(), "challenge: a challenge is at most 64 bytes, got 65"),
        (|e| e.nonce = Bytes::from_static(&[0; 17]), "nonce: a nonce is 16 bytes, got 17"),
        (|e| e.traceparent = "0".repeat(129), "traceparent: has 129 bytes: it takes at most 128"),
        (|e| e.request_hash = Bytes::from_static(&[0; 31]), "request_hash: a digest is 32 bytes, got 31"),
    ];
    for (change, expected) in table {
        let mut envelope = peer::Envelope::decode(signed_walk().body).unwrap();
        change(&mut envelope);
        let error = codec::read_header(&signed(envelope.encode_to_vec())).unwrap_err();
        assert_eq!(malformed(error), expected);
    }
}

#[test]
fn a_request_has_no_request_hash() {
    let mut envelope = peer::Envelope::decode(signed_walk().body).unwrap();
    envelope.request_hash = Bytes::from_static(&[0; 32]);
    let signed = Signed::sign(Context::Request, envelope.encode_to_vec().into(), &asker_key());
    assert_eq!(receiver().refuses(&signed).0, Reason::Malformed);
}

#[test]
fn a_request_carries_no_announcement_but_its_senders() {
    let carrying = |announcement: SignedAnnouncement| {
        let request = Request { announcement: Some(announcement), ..walk() };
        codec::sign_request(&request_header(), &request, &asker_key())
    };
    let mut of_another = announcement();
    of_another.node = server();
    let signed = carrying(codec::sign_announcement(&of_another, &server_key()));
    let (reason, detail) = receiver().refuses(&signed);
    assert_eq!(reason, Reason::Malformed);
    assert!(detail.starts_with("payload.announcement.body.node: takes the envelope's"), "{detail}");

    let mut of_another_store = announcement();
    of_another_store.incarnation = SERVER_INCARNATION;
    let signed = carrying(codec::sign_announcement(&of_another_store, &asker_key()));
    assert!(receiver().refuses(&signed).1.starts_with("payload.announcement.body.incarnation: "));

    let mut of_another_cluster = announcement();
    of_another_cluster.cluster = "other".into();
    let signed = carrying(codec::sign_announcement(&of_another_cluster, &asker_key()));
    assert!(receiver().refuses(&signed).1.starts_with("payload.announcement.body.cluster: "));

    let mut unsigned = signed_announcement();
    unsigned.signed.signature = [0; 64];
    assert_eq!(
        receiver().refuses(&carrying(unsigned)),
        (Reason::Signature, "payload.announcement: signature does not verify".into())
    );
}
