//! What is refused of responses.

use lattice_core::exchange::{Answer, Reason, Refusal, Response};
use lattice_proto::peer::v1 as peer;
use lattice_proto::peer::v1::page::Bucket;
use lattice_proto::peer::v1::walk_node::Shape;

use super::{refuses, zeros};
use crate::fixtures::*;

fn nodes_of(wire: &mut peer::Response) -> &mut Vec<peer::WalkNode> {
    match wire.answer.as_mut() {
        Some(peer::response::Answer::Walk(walk)) => &mut walk.nodes,
        _ => panic!("the fixture answers a walk"),
    }
}

fn inner_of(wire: &mut peer::Response) -> &mut peer::Inner {
    match nodes_of(wire)[0].shape.as_mut() {
        Some(Shape::Inner(inner)) => inner,
        _ => panic!("the fixture has an inner node first"),
    }
}

#[test]
fn answers_to_a_walk() {
    refuses::<peer::Response, Response>(
        (&response(walk_answer())).into(),
        &[
            (|wire| wire.answer = None, "answer: is missing"),
            (
                |wire| wire.next_challenge = zeros(65),
                "next_challenge: a challenge is at most 64 bytes, got 65",
            ),
            (
                |wire| {
                    if let Some(peer::response::Answer::Walk(walk)) = &mut wire.answer {
                        walk.seal = None;
                    }
                },
                "walk.seal: is missing",
            ),
            (
                |wire| {
                    if let Some(peer::response::Answer::Walk(walk)) = &mut wire.answer {
                        walk.seal.as_mut().unwrap().body = zeros(1_025);
                    }
                },
                "walk.seal.body: 1025 bytes are too many: it takes at most 1024",
            ),
            (|wire| nodes_of(wire).clear(), "walk.nodes: takes 1 to 1024, got none"),
            (
                |wire| *nodes_of(wire) = vec![(&bucket_node()).into(); 1_025],
                "walk.nodes: takes at most 1024, got 1025",
            ),
            (|wire| nodes_of(wire)[1].position = None, "walk.nodes[1].position: is missing"),
            (|wire| nodes_of(wire)[1].shape = None, "walk.nodes[1].shape: is missing"),
            (
                |wire| nodes_of(wire)[0].chain.as_mut().unwrap().levels[0].siblings = zeros(0),
                "walk.nodes[0].chain.levels[0].siblings: siblings are 4 digests of 32 bytes, got 0 bytes",
            ),
            (|wire| inner_of(wire).equal = 0x1_0000, "walk.nodes[0].inner.equal: takes 16 bits, got 0x10000"),
            (
                |wire| inner_of(wire).others.clear(),
                "walk.nodes[0].inner.others: takes the 1 children that are not equal, got 0",
            ),
            (
                |wire| inner_of(wire).others = vec![(&summary()).into(); 17],
                "walk.nodes[0].inner.others: takes at most 16, got 17",
            ),
        ],
    );
}

fn pages_of(wire: &mut peer::Response) -> &mut Vec<peer::Page> {
    match wire.answer.as_mut() {
        Some(peer::response::Answer::Fetch(fetch)) => &mut fetch.pages,
        _ => panic!("the fixture answers a fetch"),
    }
}

fn branches_of(wire: &mut peer::Response) -> &mut Vec<peer::Branch> {
    match wire.answer.as_mut() {
        Some(peer::response::Answer::Fetch(fetch)) => &mut fetch.branches,
        _ => panic!("the fixture answers a fetch"),
    }
}

fn entries_of(wire: &mut peer::Response) -> &mut peer::Entries {
    match pages_of(wire)[0].bucket.as_mut() {
        Some(Bucket::Entries(entries)) => entries,
        _ => panic!("the fixture has entries first"),
    }
}

#[test]
fn answers_to_a_fetch() {
    refuses::<peer::Response, Response>(
        (&response(fetch_answer())).into(),
        &[
            (
                |wire| {
                    if let Some(peer::response::Answer::Fetch(fetch)) = &mut wire.answer {
                        fetch.seal = None;
                    }
                },
                "fetch.seal: is missing",
            ),
            (|wire| pages_of(wire).clear(), "fetch.pages: takes 1 to 1024, got none"),
            (
                |wire| *pages_of(wire) = vec![(&split_page()).into(); 1_025],
                "fetch.pages: takes at most 1024, got 1025",
            ),
            (|wire| pages_of(wire)[0].position = None, "fetch.pages[0].position: is missing"),
            (|wire| pages_of(wire)[0].bucket = None, "fetch.pages[0].bucket: is missing"),
            (
                |wire| entries_of(wire).entries[0].version.as_mut().unwrap().writer = zeros(31),
                "fetch.pages[0].entries.entries[0].version.writer: a node is 32 bytes, got 31",
            ),
            (
                |wire| entries_of(wire).heads = vec![(&head()).into(); 31],
                "fetch.pages[0].entries: holds at most 32 entries, known and told ones included, got 33",
            ),
            (
                |wire| entries_of(wire).heads[0].version = None,
                "fetch.pages[0].entries.heads[0].version: is missing",
            ),
            (
                |wire| {
                    let page = peer::Page {
                        bucket: Some(Bucket::Entries(peer::Entries {
                            known: 0,
                            entries: vec![(&entry()).into(); 16],
                            heads: vec![(&head()).into(); 16],
                        })),
                        ..pages_of(wire)[0].clone()
                    };
                    *pages_of(wire) = vec![page; 129];
                },
                "fetch.pages: take at most 4096 entries together, got 4128",
            ),
            (
                |wire| branches_of(wire)[1].siblings = zeros(33),
                "fetch.branches[1].siblings: siblings are at most 15 digests of 32 bytes, got 33 bytes",
            ),
            (
                |wire| branches_of(wire)[0].siblings = zeros(16 * 32),
                "fetch.branches[0].siblings: siblings are at most 15 digests of 32 bytes, got 512 bytes",
            ),
            (
                |wire| *branches_of(wire) = vec![peer::Branch::default(); 65_537],
                "fetch.branches: takes at most 65536, got 65537",
            ),
            (
                |wire| {
                    let children = vec![(&summary()).into(); 15];
                    pages_of(wire)[1].bucket = Some(Bucket::Split(peer::Split { children }));
                },
                "fetch.pages[1].split.children: an inner node has 16 children, got 15",
            ),
        ],
    );
}

#[test]
fn refusals_of_peers() {
    fn refusal_of(wire: &mut peer::Response) -> &mut peer::Refusal {
        match wire.answer.as_mut() {
            Some(peer::response::Answer::Refused(refusal)) => refusal,
            _ => panic!("the fixture refuses"),
        }
    }
    let refusal = Refusal { reason: Reason::Busy, detail: "later".into() };
    refuses::<peer::Response, Response>(
        (&response(Answer::Refused(refusal))).into(),
        &[
            (|wire| refusal_of(wire).reason = 0, "refused.reason: is missing"),
            (|wire| refusal_of(wire).reason = 99, "refused.reason: is none that is known here: 99"),
            (
                |wire| refusal_of(wire).detail = "a".repeat(1_025),
                "refused.detail: has 1025 bytes: it takes at most 1024",
            ),
            (
                |wire| refusal_of(wire).detail = "\u{1b}[2J".into(),
                "refused.detail: has control characters: it takes none",
            ),
        ],
    );
}

#[test]
fn a_long_detail_is_cut_and_cleaned_when_it_is_sent() {
    let refusal = Refusal { reason: Reason::Malformed, detail: format!("a\n{}", "é".repeat(600)) };
    let wire = peer::Refusal::from(&refusal);
    assert_eq!(wire.detail, format!("a {}", "é".repeat(511)));
    assert!(Refusal::try_from(wire).is_ok());
}
