//! Valid inputs of each target: what the tests of the wire make up.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lattice_core::exchange::{Ask, Request, Response};
use lattice_core::model::{Content, Epoch};
use lattice_core::tree::{BUCKET_ENTRIES_MAX, Node, Position, Proof};
use lattice_proto::codec::{self, BackupHeader, BackupWriter};
use lattice_proto::{kv, peer, store};
use lattice_runtime::config::Config;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use prost::Message as _;

use crate::records::joined;
use crate::{disk, fixtures, strategies as any_of};

/// So many of each kind, always the same.
const EACH: usize = 24;

fn some<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    let value = |_| strategy.new_tree(&mut runner).expect("a strategy that rejects little").current();
    (0..EACH).map(value).collect()
}

/// With the byte that chooses it among the decoders of a target.
fn chosen(choice: u8, inputs: impl IntoIterator<Item = Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    inputs.into_iter().map(move |input| [vec![choice], input].concat())
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    some(any_of::request()).iter().map(|request| peer::v1::Request::from(request).encode_to_vec()).collect()
}

pub(crate) fn responses() -> Vec<Vec<u8>> {
    some(any_of::response())
        .iter()
        .map(|response| peer::v1::Response::from(response).encode_to_vec())
        .collect()
}

pub(crate) fn envelopes() -> Vec<Vec<u8>> {
    let request =
        |request: &Request| codec::sign_request(&fixtures::request_header(), request, &fixtures::asker_key());
    let hello = request(&Request { announcement: None, pull: None, ask: Ask::Hello });
    let response = |response: &Response| {
        codec::sign_response(&fixtures::response_header(&hello), response, &fixtures::server_key())
    };
    let (requests, responses) = (some(any_of::request()), some(any_of::response()));
    let signed = requests.iter().map(request).chain(responses.iter().map(response));
    signed.map(|signed| codec::encode_signed(&signed)).collect()
}

pub(crate) fn statements() -> Vec<Vec<u8>> {
    let announcements = some(any_of::announcement()).into_iter().map(|it| it.signed.body.to_vec());
    let seals = some(any_of::seal()).into_iter().map(|it| it.signed.body.to_vec());
    chosen(0, announcements).chain(chosen(1, seals)).collect()
}

pub(crate) fn deltas() -> Vec<Vec<u8>> {
    let several = prop::collection::vec(any_of::entry(), 1..6);
    some(several)
        .into_iter()
        .map(|mut entries| {
            entries.iter_mut().for_each(|entry| entry.version.writer = fixtures::asker());
            codec::encode_delta("lattice", &entries, "")
        })
        .collect()
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    chosen(0, some(any_of::entry()).iter().map(codec::encode_entry).collect::<Vec<_>>())
        .chain(chosen(1, some(any_of::head()).iter().map(codec::encode_head).collect::<Vec<_>>()))
        .chain(chosen(2, some(any_of::version()).iter().map(codec::encode_version).collect::<Vec<_>>()))
        .chain(chosen(3, some(any_of::summary()).iter().map(codec::encode_summary).collect::<Vec<_>>()))
        .chain(chosen(4, some(any_of::position()).iter().map(codec::encode_position).collect::<Vec<_>>()))
        .chain(chosen(5, some(any_of::run()).iter().map(codec::encode_run).collect::<Vec<_>>()))
        .collect()
}

pub(crate) fn proofs() -> Vec<Vec<u8>> {
    let mut entries = some(any_of::entry());
    entries.sort_by_key(|entry| entry.key.hash());
    entries.dedup_by_key(|entry| entry.key.hash());
    entries.truncate(BUCKET_ENTRIES_MAX);
    let heads = entries.iter().map(|entry| entry.head()).collect();
    let node = Node::bucket(&Position::ROOT, heads).expect("ascending heads");
    let seal = lattice_core::seal::Seal { root: Some(node.summary()), epoch: Epoch(7), ..fixtures::seal() };
    let seal = codec::sign_seal(&seal, &fixtures::server_key());
    let path = [node];
    let proved = |key: lattice_core::model::Key, entry: Option<lattice_core::model::Entry>| {
        let proof = Proof::build(&path, &key.hash()).expect("a path to the key");
        let sealed = lattice_core::proof::SealedProof { key, seal: seal.clone(), entry, proof };
        kv::v1::ProveResponse::from(&sealed).encode_to_vec()
    };
    let present = entries.iter().take(6).map(|entry| proved(entry.key.clone(), Some(entry.clone())));
    let absent = ["one", "two", "three"].map(|name| proved(name.try_into().expect("a key"), None));
    present.chain(absent).collect()
}

pub(crate) fn siblings() -> Vec<Vec<u8>> {
    let entries = some(any_of::entry());
    let merge = store::v1::MergeRequest {
        entries: entries.iter().map(Into::into).collect(),
        origin: store::v1::Origin::Pull.into(),
        ..store::v1::MergeRequest::default()
    };
    let positions = some(any_of::position()).iter().map(Into::into).collect();
    let nodes = store::v1::NodesRequest { positions };
    let mut heads = some(any_of::head());
    let compare = store::v1::CompareRequest { heads: heads.iter().map(Into::into).collect() };
    heads.sort_by_key(|head| head.key_hash);
    let bucket = store::v1::OwnNode { heads: heads.iter().map(Into::into).collect(), children: Vec::new() };
    let all = [merge.encode_to_vec(), nodes.encode_to_vec(), compare.encode_to_vec(), bucket.encode_to_vec()];
    (0..).zip(all).flat_map(|(choice, input)| chosen(choice, [input])).collect()
}

pub(crate) fn backups() -> Vec<Vec<u8>> {
    let mut entries = some(any_of::entry());
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries.dedup_by(|a, b| a.key == b.key);
    // What does not expire drops no value.
    entries.retain(|entry| entry.expires.is_some() || !matches!(entry.content, Content::Dropped { .. }));
    let header = BackupHeader {
        cluster: "lattice".to_owned(),
        node: fixtures::server(),
        incarnation: fixtures::SERVER_INCARNATION,
        time: fixtures::announcement().time,
        about: 3,
    };
    let (mut writer, first) = BackupWriter::begin(&header);
    let mut frames = vec![first.slice(8..)];
    frames.extend(entries.chunks(7).map(|chunk| writer.chunk(chunk)));
    frames.push(writer.end());
    let whole = [b"LTBACKUP".as_slice(), &frames.concat()].concat();
    // A frame without its length and checksum.
    let bare = |frame: &Bytes| [&frame[..1], &frame[5..frame.len() - 8]].concat();
    chosen(0, [whole]).chain(chosen(1, [joined(frames.iter().map(bare))])).collect()
}

pub(crate) fn states() -> Vec<Vec<u8>> {
    let state = |signed: &lattice_core::signed::SignedAnnouncement| {
        let newest = signed.announcement.runs.last().and_then(|run| run.root);
        let root = newest.map_or("null".to_owned(), |root| format!("\"{}\"", root.digest));
        format!(
            "{{\"success\": true, \"signed\": true, \"merkle_root\": {root}, \"state_size\": 0, \
             \"announcement\": \"{}\", \"signature\": \"{}\"}}",
            STANDARD.encode(&signed.signed.body),
            hex::encode(signed.signed.signature),
        )
        .into_bytes()
    };
    some(any_of::announcement()).iter().map(state).collect()
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let default = Config::default().to_toml();
    let sets = "node.name=a\nstore.epoch_ms=500\ncoordinator.http_peers=http://a:1,http://b:2/x\nstore.listen=unix:/a";
    let by_hand =
        "[sensor]\np2p_listen = [\"/ip4/0.0.0.0/udp/9000/quic-v1\"]\n[gateway]\nrequest_timeout = \"1m\"";
    vec![default.clone().into_bytes(), format!("{default}\n---\n{sets}").into_bytes(), by_hand.into()]
}

pub(crate) fn stores() -> Vec<Vec<u8>> {
    disk::changes()
}

pub(crate) fn salvages() -> Vec<Vec<u8>> {
    disk::in_a_file()
}

pub(crate) fn logs() -> Vec<Vec<u8>> {
    disk::database()
}
