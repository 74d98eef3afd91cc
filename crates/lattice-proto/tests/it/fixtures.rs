//! One fixed value of each type of the model.

use std::num::NonZeroU32;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{
    Answer, Ask, Digests, FetchAsk, Known, Page, PageBucket, PullPart, Request, Response,
};
use lattice_core::exchange::{Shape, WalkAsk, WalkNode};
use lattice_core::model::{
    Content, Digest, Entry, EntryHead, Epoch, EpochLength, Hlc, Incarnation, Key, NodeId, Version,
};
use lattice_core::seal::{Run, Seal};
use lattice_core::signed::{Announcement, Signed, SignedAnnouncement, SignedSeal};
use lattice_core::time::WallTime;
use lattice_core::tree::{Branch, Chain, Chains, FANOUT, Level, Position, Summary};
use lattice_proto::codec::{self, Header};

/// The key of the one who asks, and writes.
pub(crate) fn asker_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// The key of the one who is asked.
pub(crate) fn server_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

pub(crate) fn id(key: &SigningKey) -> NodeId {
    NodeId(key.verifying_key().to_bytes())
}

pub(crate) fn asker() -> NodeId {
    id(&asker_key())
}

pub(crate) fn server() -> NodeId {
    id(&server_key())
}

pub(crate) const ASKER_INCARNATION: Incarnation = Incarnation([0xa1; 16]);
pub(crate) const SERVER_INCARNATION: Incarnation = Incarnation([0xb2; 16]);

pub(crate) fn version() -> Version {
    Version { hlc: Hlc::at(WallTime(1_700_000_000_123)).next(), writer: asker() }
}

pub(crate) fn entry() -> Entry {
    Entry {
        key: Key::try_from("fruit/apple").unwrap(),
        version: version(),
        expires: Some(WallTime(1_700_000_060_123)),
        content: Content::Value(Bytes::from_static(b"green")),
    }
}

pub(crate) fn tombstone() -> Entry {
    Entry { expires: None, content: Content::Tombstone, ..entry() }
}

pub(crate) fn dropped() -> Entry {
    Entry { content: Content::Dropped { value_digest: Digest::of(&[b"green"]) }, ..entry() }
}

pub(crate) fn head() -> EntryHead {
    entry().head()
}

pub(crate) fn summary() -> Summary {
    Summary { digest: Digest([0x5a; 32]), entries: 300, tombstones: 7 }
}

pub(crate) fn position() -> Position {
    Position::towards(&entry().key.hash(), 3)
}

pub(crate) fn run() -> Run {
    Run { from: Epoch(1_700_000_000), to: Epoch(1_700_000_009), root: Some(summary()) }
}

pub(crate) fn empty_run() -> Run {
    Run { from: Epoch(1_699_999_990), to: Epoch(1_699_999_999), root: None }
}

pub(crate) fn seal() -> Seal {
    Seal {
        cluster: "lattice".into(),
        node: server(),
        incarnation: SERVER_INCARNATION,
        epoch: Epoch(1_700_000_009),
        root: Some(summary()),
    }
}

pub(crate) fn signed_seal() -> SignedSeal {
    codec::sign_seal(&seal(), &server_key())
}

pub(crate) fn announcement() -> Announcement {
    Announcement {
        cluster: "lattice".into(),
        node: asker(),
        incarnation: ASKER_INCARNATION,
        sequence: 42,
        time: WallTime(1_700_000_012_345),
        epoch_length: EpochLength(NonZeroU32::new(1_000).unwrap()),
        runs: vec![empty_run(), run()],
        addresses: vec!["/ip4/10.0.0.1/tcp/9000".into()],
        name: "node-1".into(),
        recovering: false,
    }
}

pub(crate) fn recovering() -> Announcement {
    Announcement { recovering: true, ..announcement() }
}

pub(crate) fn signed_announcement() -> SignedAnnouncement {
    codec::sign_announcement(&announcement(), &asker_key())
}

pub(crate) fn children() -> [Summary; FANOUT] {
    std::array::from_fn(|index| Summary { digest: Digest([index as u8; 32]), entries: 9, tombstones: 1 })
}

pub(crate) fn walk_ask() -> WalkAsk {
    WalkAsk { position: position(), mine: Some(Digests::truncate(&children(), 4)) }
}

pub(crate) fn fetch_ask() -> FetchAsk {
    FetchAsk {
        position: position(),
        known: Known::truncate(&[head(), tombstone().head()], 4),
        keys: vec![entry().key.hash()],
    }
}

pub(crate) fn request(ask: Ask) -> Request {
    let pull = PullPart { id: 0x0102_0304_0506_0708, in_kind: true };
    Request { announcement: Some(signed_announcement()), pull: Some(pull), ask }
}

pub(crate) fn walk() -> Request {
    request(Ask::Walk { epoch: Some(Epoch(1_700_000_009)), nodes: vec![walk_ask()] })
}

pub(crate) fn fetch() -> Request {
    request(Ask::Fetch { epoch: None, buckets: vec![fetch_ask()] })
}

pub(crate) fn level() -> Level {
    let siblings = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32]), Digest([4; 32])];
    Level { entries: 300, tombstones: 7, siblings }
}

pub(crate) fn branch() -> Branch {
    Branch { entries: 300, tombstones: 7, siblings: vec![Digest([1; 32]), Digest([2; 32])] }
}

pub(crate) fn chain() -> Chain {
    Chain { levels: vec![level(); 3] }
}

pub(crate) fn inner_node() -> WalkNode {
    let shape = Shape::Inner { equal: 0b0111_1111_1111_1111, others: vec![summary()] };
    WalkNode { position: position(), chain: Some(chain()), shape }
}

pub(crate) fn bucket_node() -> WalkNode {
    WalkNode { position: position(), chain: None, shape: Shape::Bucket }
}

pub(crate) fn entries_page() -> Page {
    let bucket = PageBucket::Entries { known: 0b10, entries: vec![entry()], heads: vec![head()] };
    Page { position: position(), bucket }
}

pub(crate) fn split_page() -> Page {
    Page { position: position(), bucket: PageBucket::Split(children().to_vec()) }
}

pub(crate) fn response(answer: Answer) -> Response {
    Response { next_challenge: vec![0xcc; 32], time: WallTime(1_700_000_012_345), answer }
}

pub(crate) fn walk_answer() -> Answer {
    Answer::Walk { seal: signed_seal(), nodes: vec![inner_node(), bucket_node()] }
}

pub(crate) fn fetch_answer() -> Answer {
    let chains = Chains { branches: vec![branch(); 2] };
    Answer::Fetch { seal: signed_seal(), pages: vec![entries_page(), split_page()], chains }
}

pub(crate) fn request_header() -> Header {
    Header {
        cluster: "lattice".into(),
        sender: asker(),
        incarnation: ASKER_INCARNATION,
        receiver: server(),
        challenge: Bytes::from_static(&[0xcc; 32]),
        nonce: [0xee; 16],
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        request_hash: None,
    }
}

pub(crate) fn response_header(request: &Signed) -> Header {
    request_header().answer(request, SERVER_INCARNATION, [0xdd; 16])
}
