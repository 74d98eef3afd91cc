//! What is refused of requests.

use lattice_core::exchange::{Ask, Request};
use lattice_proto::peer::v1 as peer;

use super::{refuses, zeros};
use crate::fixtures::*;

fn walk_of(wire: &mut peer::Request) -> &mut peer::Walk {
    match wire.ask.as_mut() {
        Some(peer::request::Ask::Walk(walk)) => walk,
        _ => panic!("the fixture walks"),
    }
}

fn fetch_of(wire: &mut peer::Request) -> &mut peer::Fetch {
    match wire.ask.as_mut() {
        Some(peer::request::Ask::Fetch(fetch)) => fetch,
        _ => panic!("the fixture fetches"),
    }
}

#[test]
fn requests_that_walk() {
    refuses::<peer::Request, Request>(
        (&walk()).into(),
        &[
            (|wire| wire.ask = None, "ask: is missing"),
            (
                |wire| wire.announcement.as_mut().unwrap().signature = zeros(1),
                "announcement.signature: a signature is 64 bytes, got 1",
            ),
            (
                |wire| wire.announcement.as_mut().unwrap().body = zeros(0),
                "announcement.body.node: a node is 32 bytes, got 0",
            ),
            (
                |wire| wire.announcement.as_mut().unwrap().body = zeros(16_385),
                "announcement.body: 16385 bytes are too many: it takes at most 16384",
            ),
            (|wire| walk_of(wire).nodes.clear(), "walk.nodes: takes 1 to 1024, got none"),
            (
                |wire| walk_of(wire).nodes = vec![(&walk_ask()).into(); 1_025],
                "walk.nodes: takes at most 1024, got 1025",
            ),
            (|wire| walk_of(wire).nodes[0].position = None, "walk.nodes[0].position: is missing"),
            (
                |wire| walk_of(wire).nodes[0].digests = zeros(15),
                "walk.nodes[0].digests: take 16 of equal width, 16 to 512 bytes, got 15",
            ),
            (
                |wire| walk_of(wire).nodes[0].digests = zeros(528),
                "walk.nodes[0].digests: take 16 of equal width, 16 to 512 bytes, got 528",
            ),
        ],
    );
}

#[test]
fn requests_that_fetch() {
    refuses::<peer::Request, Request>(
        (&fetch()).into(),
        &[
            (|wire| fetch_of(wire).buckets.clear(), "fetch.buckets: takes 1 to 1024, got none"),
            (
                |wire| fetch_of(wire).buckets = vec![(&fetch_ask()).into(); 1_025],
                "fetch.buckets: takes at most 1024, got 1025",
            ),
            (|wire| fetch_of(wire).buckets[0].position = None, "fetch.buckets[0].position: is missing"),
            (
                |wire| fetch_of(wire).buckets[0].key_hashes = zeros(33),
                "fetch.buckets[0].key_hashes: key hashes are 32 bytes each, got 33 bytes",
            ),
            (
                |wire| fetch_of(wire).buckets[0].key_hashes = zeros(64),
                "fetch.buckets[0].key_hashes[1]: does not lie after the one before it",
            ),
            (
                |wire| fetch_of(wire).buckets[0].known = zeros(7),
                "fetch.buckets[0].known: takes at most 32 digests of known_width bytes, 1 to 32, got 7 bytes for a width of 4",
            ),
            (
                |wire| fetch_of(wire).buckets[0].known = zeros(33 * 4),
                "fetch.buckets[0].known: takes at most 32 digests of known_width bytes, 1 to 32, got 132 bytes for a width of 4",
            ),
            (
                |wire| fetch_of(wire).buckets[0].known_width = 0,
                "fetch.buckets[0].known: takes at most 32 digests of known_width bytes, 1 to 32, got 8 bytes for a width of 0",
            ),
            (
                |wire| {
                    let hashes: Vec<u8> =
                        (0..1_025_u32).flat_map(|i| [&[0; 28][..], &i.to_be_bytes()].concat()).collect();
                    fetch_of(wire).buckets[0].key_hashes = hashes.into();
                },
                "fetch.buckets: take at most 1024 keys together, got 1025",
            ),
        ],
    );
}

#[test]
fn requests_without_more_than_an_ask_pass() {
    let wire = peer::Request { ask: Some(peer::request::Ask::Hello(peer::Hello {})), ..Default::default() };
    let expected = Request { announcement: None, pull: None, ask: Ask::Hello };
    assert_eq!(Request::try_from(wire), Ok(expected));
}
