//! Golden bytes: what one fixed value of each message of `types.v1` and `peer.v1` is on the wire and on disk.
//!
//! `golden.txt` is never edited, only added to: nodes of different releases, and disks older than their node,
//! depend on every line. A line that no longer matches is a broken format, not an outdated test.

use std::collections::BTreeMap;

use lattice_core::exchange::{Answer, Ask, Reason, Refusal, Request};
use lattice_core::model::Epoch;
use lattice_core::signed::Signed;
use lattice_proto::codec;
use lattice_proto::peer::v1 as peer;
use lattice_proto::types::v1 as types;
use prost::Message;

use crate::fixtures::*;
use crate::messages;

const GOLDEN: &str = include_str!("golden.txt");

/// An instance by name, and whether decoding its golden bytes and encoding the result gives them back.
struct Instance {
    name: &'static str,
    bytes: Vec<u8>,
    again: fn(&[u8]) -> Vec<u8>,
}

fn instance<M: Message + Default>(name: &'static str, message: M) -> Instance {
    let again = |bytes: &[u8]| M::decode(bytes).map(|message| message.encode_to_vec()).unwrap_or_default();
    Instance { name, bytes: message.encode_to_vec(), again }
}

/// One request's ask as its own message.
fn parts(request: &Request) -> (Option<peer::Walk>, Option<peer::Fetch>) {
    match peer::Request::from(request).ask {
        Some(peer::request::Ask::Walk(walk)) => (Some(walk), None),
        Some(peer::request::Ask::Fetch(fetch)) => (None, Some(fetch)),
        Some(peer::request::Ask::Hello(_) | peer::request::Ask::Bye(_)) | None => (None, None),
    }
}

fn answered(answer: Answer) -> peer::response::Answer {
    peer::Response::from(&response(answer)).answer.unwrap()
}

fn envelope(signed: &Signed) -> peer::Envelope {
    peer::Envelope::decode(signed.body.clone()).unwrap()
}

fn types_instances() -> Vec<Instance> {
    vec![
        instance("types.v1.Version", types::Version::from(&version())),
        instance("types.v1.Tombstone", types::Tombstone {}),
        instance("types.v1.Entry", types::Entry::from(&entry())),
        instance("types.v1.Entry/tombstone", types::Entry::from(&tombstone())),
        instance("types.v1.Entry/dropped", types::Entry::from(&dropped())),
        instance("types.v1.EntryHead", types::EntryHead::from(&head())),
        instance("types.v1.EntryHead/tombstone", types::EntryHead::from(&tombstone().head())),
        instance("types.v1.Summary", types::Summary::from(&summary())),
        instance("types.v1.Position", types::Position::from(&position())),
        instance("types.v1.Run", types::Run::from(&run())),
        instance("types.v1.Run/empty", types::Run::from(&empty_run())),
        instance("types.v1.Seal", types::Seal::from(&seal())),
        instance("types.v1.Signed", types::Signed::from(&signed_seal())),
    ]
}

fn request_instances() -> Vec<Instance> {
    let hello = codec::sign_request(&request_header(), &request(Ask::Hello), &asker_key());
    vec![
        instance("peer.v1.Announcement", peer::Announcement::from(&announcement())),
        instance("peer.v1.Announcement/recovering", peer::Announcement::from(&recovering())),
        instance(
            "peer.v1.Delta",
            peer::Delta {
                cluster: "lattice".into(),
                entries: vec![(&entry()).into()],
                traceparent: request_header().traceparent,
            },
        ),
        instance("peer.v1.Envelope/request", envelope(&hello)),
        instance("peer.v1.Request/walk", peer::Request::from(&walk())),
        instance("peer.v1.Request/fetch", peer::Request::from(&fetch())),
        instance("peer.v1.Request/hello", peer::Request::from(&request(Ask::Hello))),
        instance("peer.v1.Request/bye", peer::Request::from(&request(Ask::Bye))),
        instance("peer.v1.PullPart", peer::Request::from(&walk()).pull.unwrap()),
        instance("peer.v1.Hello", peer::Hello {}),
        instance("peer.v1.Bye", peer::Bye {}),
        instance("peer.v1.Walk", parts(&walk()).0.unwrap()),
        instance("peer.v1.WalkAsk", peer::WalkAsk::from(&walk_ask())),
        instance("peer.v1.Fetch", parts(&fetch()).1.unwrap()),
        instance("peer.v1.FetchAsk", peer::FetchAsk::from(&fetch_ask())),
    ]
}

fn response_instances() -> Vec<Instance> {
    let asked = codec::sign_request(&request_header(), &request(Ask::Hello), &asker_key());
    let hello = Answer::Hello { heard_sequence: 42, heard_epoch: Epoch(1_700_000_009) };
    let refusal = Refusal { reason: Reason::Busy, detail: "2 pulls are served: ask later".into() };
    let header = response_header(&asked);
    let signed = codec::sign_response(&header, &response(hello.clone()), &server_key());
    let mut instances = vec![
        instance("peer.v1.Envelope/response", envelope(&signed)),
        instance("peer.v1.Response/hello", peer::Response::from(&response(hello.clone()))),
        instance("peer.v1.Response/walk", peer::Response::from(&response(walk_answer()))),
        instance("peer.v1.Response/fetch", peer::Response::from(&response(fetch_answer()))),
        instance("peer.v1.Response/bye", peer::Response::from(&response(Answer::Bye))),
        instance(
            "peer.v1.Response/refused",
            peer::Response::from(&response(Answer::Refused(refusal.clone()))),
        ),
        instance("peer.v1.Chain", peer::Chain::from(&chain())),
        instance("peer.v1.Level", peer::Level::from(&level())),
        instance("peer.v1.Branch", peer::Branch::from(&branch())),
        instance("peer.v1.WalkNode/inner", peer::WalkNode::from(&inner_node())),
        instance("peer.v1.WalkNode/bucket", peer::WalkNode::from(&bucket_node())),
        instance("peer.v1.Inner", peer::Inner { equal: 0x7fff, others: vec![(&summary()).into()] }),
        instance("peer.v1.Bucket", peer::Bucket {}),
        instance("peer.v1.Page/entries", peer::Page::from(&entries_page())),
        instance("peer.v1.Page/split", peer::Page::from(&split_page())),
        instance(
            "peer.v1.Entries",
            peer::Entries { known: 0b10, entries: vec![(&entry()).into()], heads: vec![(&head()).into()] },
        ),
        instance("peer.v1.Split", peer::Split { children: children().iter().map(Into::into).collect() }),
        instance("peer.v1.Refusal", peer::Refusal::from(&refusal)),
    ];
    for answer in [hello, walk_answer(), fetch_answer(), Answer::Bye] {
        instances.push(match answered(answer) {
            peer::response::Answer::Hello(hello) => instance("peer.v1.HelloAnswer", hello),
            peer::response::Answer::Walk(walk) => instance("peer.v1.WalkAnswer", walk),
            peer::response::Answer::Fetch(fetch) => instance("peer.v1.FetchAnswer", fetch),
            peer::response::Answer::Bye(bye) => instance("peer.v1.ByeAnswer", bye),
            peer::response::Answer::Refused(refusal) => instance("peer.v1.Refusal", refusal),
        });
    }
    instances
}

fn instances() -> Vec<Instance> {
    [types_instances(), request_instances(), response_instances()].into_iter().flatten().collect()
}

fn golden() -> BTreeMap<&'static str, &'static str> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(':').map(|(name, hex)| (name, hex.trim())).unwrap()).collect()
}

#[test]
fn golden_bytes_never_change() {
    let mut golden = golden();
    let mut wrong = Vec::new();
    for Instance { name, bytes, again } in instances() {
        let hex = hex::encode(&bytes);
        match golden.remove(name) {
            Some(expected) if expected == hex => {}
            _ => wrong.push(format!("{name}: {hex}")),
        }
        assert_eq!(hex::encode(again(&bytes)), hex, "{name} decodes to what was encoded");
    }
    assert!(wrong.is_empty(), "these bytes are not the golden ones:\n{}", wrong.join("\n"));
    assert!(golden.is_empty(), "golden lines without an instance: {golden:?}");
}

#[test]
fn every_message_between_nodes_has_golden_bytes() {
    let golden = golden();
    for package in ["types.v1", "peer.v1"] {
        let messages = messages::of_package(&format!("lattice.{package}"));
        assert!(messages.len() > 8, "{package} has messages");
        for message in messages {
            let name = format!("{package}.{message}");
            let known = golden.keys().any(|key| key.split('/').next() == Some(&name));
            assert!(known, "{name} has no golden bytes");
        }
    }
}

#[test]
fn reasons_keep_their_numbers() {
    let reasons = [
        (Reason::Challenge, 1),
        (Reason::Untrusted, 2),
        (Reason::Cluster, 3),
        (Reason::Receiver, 4),
        (Reason::Incarnation, 5),
        (Reason::Signature, 6),
        (Reason::Malformed, 7),
        (Reason::Empty, 8),
        (Reason::Busy, 9),
        (Reason::Unavailable, 10),
    ];
    for (reason, number) in reasons {
        assert_eq!(peer::Reason::from(reason) as i32, number);
        assert_eq!(peer::Reason::try_from(number).unwrap().try_into(), Ok(reason));
    }
}
