//! What peers, clients and sibling services send.

use std::fmt::Debug;

use bytes::Bytes;
use lattice_core::exchange::{Request, Response};
use lattice_core::model::KeyHash;
use lattice_core::proof::SealedProof;
use lattice_core::seal::Seal;
use lattice_core::signed::{Announcement, Signed};
use lattice_core::tree::Position;
use lattice_proto::{codec, convert, kv, peer, store};
use prost::Message;

use crate::fixtures;

/// The first byte, which chooses among decoders of one target, and the rest.
fn chosen(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

/// What was decoded is decoded again from its own encoding.
fn same<T: Debug + PartialEq, E: Debug>(once: T, again: Result<T, E>) {
    let again = again.expect("what was decoded has an encoding");
    assert_eq!(once, again);
}

/// The payload of a request, as it is parsed once its signature has been checked.
pub(crate) fn request(bytes: &[u8]) {
    if let Ok(read) = codec::parse_request(Bytes::copy_from_slice(bytes)) {
        let again = codec::parse_request(peer::v1::Request::from(&read).encode_to_vec().into());
        same::<Request, _>(read, again);
    }
}

/// The payload of a response.
pub(crate) fn response(bytes: &[u8]) {
    if let Ok(read) = codec::parse_response(Bytes::copy_from_slice(bytes)) {
        let again = codec::parse_response(peer::v1::Response::from(&read).encode_to_vec().into());
        same::<Response, _>(read, again);
    }
}

/// A body as it comes over libp2p or HTTP, and all that is read of it before anybody vouches for it.
pub(crate) fn envelope(bytes: &[u8]) {
    let Ok(signed) = codec::decode_signed(Bytes::copy_from_slice(bytes)) else { return };
    same(signed.clone(), codec::decode_signed(codec::encode_signed(&signed).into()));
    if let Ok((_, payload)) = codec::read_header(&signed) {
        request(&payload);
        response(&payload);
    }
}

/// The body of an announcement or a seal.
pub(crate) fn statement(bytes: &[u8]) {
    let (choice, body) = chosen(bytes);
    let signed = Signed { body: Bytes::copy_from_slice(body), signature: [0; 64] };
    // Nobody signs in the name of another: what was read is said by one whose key we have.
    let (key, node) = (fixtures::asker_key(), fixtures::asker());
    if choice % 2 == 0 {
        if let Ok(read) = codec::decode_announcement(&signed) {
            let read = Announcement { node, ..read.announcement };
            let again = codec::open_announcement(&codec::sign_announcement(&read, &key).signed);
            same(read, again.map(|again| again.announcement));
        }
    } else if let Ok(read) = codec::decode_seal(&signed) {
        let read = Seal { node, ..read.seal };
        let again = codec::open_seal(&codec::sign_seal(&read, &key).signed);
        same(read, again.map(|again| again.seal));
    }
}

/// A message of gossip, whose writer libp2p has checked.
pub(crate) fn delta(bytes: &[u8]) {
    let writer = fixtures::asker();
    if let Ok(read) = codec::decode_delta(Bytes::copy_from_slice(bytes), &writer, "lattice") {
        let again = codec::encode_delta("lattice", &read.entries, &read.traceparent);
        same(read, codec::decode_delta(again.into(), &writer, "lattice"));
    }
}

/// The messages that records on the disk are made of.
pub(crate) fn record(bytes: &[u8]) {
    let (choice, bytes) = chosen(bytes);
    match choice % 6 {
        0 => again(bytes, codec::decode_entry, codec::encode_entry),
        1 => again(bytes, codec::decode_head, codec::encode_head),
        2 => again(bytes, codec::decode_version, codec::encode_version),
        3 => again(bytes, codec::decode_summary, codec::encode_summary),
        4 => again(bytes, codec::decode_position, codec::encode_position),
        _ => again(bytes, codec::decode_run, codec::encode_run),
    }
}

fn again<T: Debug + PartialEq, E: Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(read) = decode(bytes) {
        let again = decode(&encode(&read));
        same(read, again);
    }
}

/// A proof, as `lattice verify-proof` reads it from a file.
pub(crate) fn proof(bytes: &[u8]) {
    let parse = |wire: kv::v1::ProveResponse| SealedProof::try_from(wire);
    let Some(read) = kv::v1::ProveResponse::decode(bytes).ok().and_then(|wire| parse(wire).ok()) else {
        return;
    };
    let signer = read.seal.seal.node;
    let _ = read.verify(&signer, None);
    // Nobody can sign what was made up: what hangs below the signature is looked at as well.
    let _ = read.proof.verify(&read.key.hash(), read.seal.seal.root.as_ref());
    let again = parse(kv::v1::ProveResponse::from(&read));
    same(read, again);
}

/// Requests to the store, and its answers.
pub(crate) fn sibling(bytes: &[u8]) {
    let (choice, bytes) = chosen(bytes);
    match choice % 4 {
        0 => drop(store::v1::MergeRequest::decode(bytes).map(convert::merge)),
        1 => drop(store::v1::NodesRequest::decode(bytes).map(convert::positions)),
        2 => drop(store::v1::CompareRequest::decode(bytes).map(convert::compare_heads)),
        _ => {
            let position = Position::towards(&KeyHash(lattice_core::model::Digest([0; 32])), 0);
            let Ok(wire) = store::v1::OwnNode::decode(bytes) else { return };
            if let Ok(node) = convert::own_node(&position, wire) {
                let again = convert::own_node(&position, store::v1::OwnNode::from(&node));
                same(node, again);
            }
        }
    }
}
