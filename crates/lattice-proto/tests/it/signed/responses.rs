//! Responses, as the one who asked opens them.

use bytes::Bytes;
use lattice_core::exchange::{Answer, ENVELOPE_BYTES_MAX, Response};
use lattice_core::model::Digest;
use lattice_core::signed::{Context, Signed};
use lattice_proto::codec::{self, Header, OpenError, ResponseChecks, ResponseError};
use lattice_proto::peer::v1 as peer;
use prost::Message as _;

use super::{malformed, mutations, signed, signed_walk};
use crate::fixtures::*;

fn goodbye() -> Response {
    response(Answer::Bye)
}

fn signed_response() -> Signed {
    codec::sign_response(&response_header(&signed_walk()), &goodbye(), &server_key())
}

fn open_response(signed: &Signed) -> Result<(Header, Response), ResponseError> {
    let checks = ResponseChecks {
        request: &signed_walk(),
        cluster: "lattice",
        node: asker(),
        sender: server(),
        incarnation: Some(SERVER_INCARNATION),
    };
    codec::open_response(signed, &checks)
}

#[test]
fn a_response_to_our_request_is_opened() {
    let header = response_header(&signed_walk());
    assert_eq!(header.request_hash, Some(codec::request_hash(&signed_walk())));
    assert_eq!(open_response(&signed_response()), Ok((header, goodbye())));
}

#[test]
fn a_response_with_any_bit_changed_is_not_opened() {
    for changed in mutations(&signed_response()) {
        assert!(open_response(&changed).is_err());
    }
}

#[test]
fn a_response_says_why_it_is_not_believed() {
    let header = || response_header(&signed_walk());
    let open = |header: Header| open_response(&codec::sign_response(&header, &goodbye(), &server_key()));
    assert_eq!(
        open(Header { cluster: "other".into(), ..header() }),
        Err(ResponseError::Cluster { expected: "lattice".into(), got: "other".into() })
    );
    assert_eq!(
        open(Header { sender: asker(), ..header() }),
        Err(ResponseError::Sender { expected: server(), got: asker() })
    );
    assert_eq!(
        open(Header { receiver: server(), ..header() }),
        Err(ResponseError::Receiver { expected: asker(), got: server() })
    );
    assert_eq!(
        open(Header { request_hash: Some(Digest::of(&[b"another"])), ..header() }),
        Err(ResponseError::Request)
    );
    assert_eq!(
        open(Header { incarnation: ASKER_INCARNATION, ..header() }),
        Err(ResponseError::Incarnation { expected: SERVER_INCARNATION, got: ASKER_INCARNATION })
    );
    let forged = codec::sign_response(&header(), &goodbye(), &asker_key());
    assert_eq!(open_response(&forged), Err(ResponseError::Open(OpenError::Signature)));
    let oversized = signed(vec![0; ENVELOPE_BYTES_MAX + 1]);
    assert!(matches!(open_response(&oversized), Err(ResponseError::Open(OpenError::TooLarge { .. }))));
}

#[test]
fn a_malformed_payload_is_held_against_its_signer_only_under_a_signature() {
    let mut envelope = peer::Envelope::decode(signed_response().body).unwrap();
    envelope.payload = Bytes::from_static(&[0xff]);
    let body: Bytes = envelope.encode_to_vec().into();
    let by_server = Signed::sign(Context::Response, body.clone(), &server_key());
    let error = open_response(&by_server).unwrap_err();
    assert!(matches!(&error, ResponseError::Payload(invalid) if invalid.field == "payload"), "{error}");
    let by_nobody = Signed { body, signature: [0; 64] };
    assert_eq!(open_response(&by_nobody), Err(ResponseError::Open(OpenError::Signature)));
}

/// Two bytes a message on the wire, and a hundred and more once decoded: counted before they are.
#[test]
fn a_swarm_of_empty_messages_is_refused_before_it_is_decoded() {
    let nested = |path: &[u8], leaf: &[u8], times: usize| {
        let mut bytes = leaf.repeat(times);
        for number in path.iter().rev() {
            let mut outer = vec![number << 3 | 2];
            prost::encode_length_delimiter(bytes.len(), &mut outer).unwrap();
            outer.append(&mut bytes);
            bytes = outer;
        }
        Bytes::from(bytes)
    };
    let request = |bytes| malformed(codec::parse_request(bytes).unwrap_err());
    assert_eq!(
        request(nested(&[4], &[0x12, 0], 1_025)),
        "payload.walk.nodes: takes at most 1024 in all, got 1025"
    );
    assert_eq!(
        request(nested(&[5], &[0x12, 0], 1_025)),
        "payload.fetch.buckets: takes at most 1024 in all, got 1025"
    );
    // The same field twice: prost would join them.
    let twice = [nested(&[4], &[0x12, 0], 700), nested(&[4], &[0x12, 0], 700)].concat();
    assert_eq!(request(twice.into()), "payload.walk.nodes: takes at most 1024 in all, got 1400");

    let table: [(&[u8], u8, &str, usize); 8] = [
        (&[4], 2, "walk.nodes", 1_024),
        (&[4, 2, 2], 1, "walk.nodes.chain.levels", 65_536),
        (&[4, 2, 3], 2, "walk.nodes.inner.others", 16_384),
        (&[5], 2, "fetch.pages", 1_024),
        (&[5, 2, 2], 2, "fetch.pages.entries.entries", 4_096),
        (&[5, 2, 2], 3, "fetch.pages.entries.heads", 4_096),
        (&[5, 2, 3], 1, "fetch.pages.split.children", 16_384),
        (&[5], 3, "fetch.branches", 65_536),
    ];
    for (path, number, field, max) in table {
        let bytes = nested(path, &[number << 3 | 2, 0], max + 1);
        let expected = format!("payload.{field}: takes at most {max} in all, got {}", max + 1);
        assert_eq!(malformed(codec::parse_response(bytes).unwrap_err()), expected);
    }
}
