//! Arbitrary values of the model, as far as they are valid.

use std::num::NonZeroU32;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{
    Answer, Ask, Digests, FetchAsk, Known, Page, PageBucket, PullPart, Reason, Refusal,
};
use lattice_core::exchange::{Request, Response, Shape, WalkAsk, WalkNode};
use lattice_core::model::{
    Content, Digest, Entry, EntryHead, Epoch, EpochLength, Hlc, Incarnation, Key, KeyHash, NodeId, Version,
};
use lattice_core::seal::{RUNS_MAX, Run, Seal};
use lattice_core::signed::{Announcement, Signed, SignedAnnouncement, SignedSeal};
use lattice_core::time::WallTime;
use lattice_core::tree::{
    BUCKET_ENTRIES_MAX, Branch, Chain, Chains, FANOUT, Level, Position, SIBLINGS, Summary,
};
use lattice_proto::codec;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use crate::fixtures::id;

pub(crate) fn key() -> impl Strategy<Value = Key> {
    prop_oneof![8 => vec(any::<u8>(), 1..=40), 1 => vec(any::<u8>(), 1_024)]
        .prop_map(|bytes| Key::try_from(Bytes::from(bytes)).unwrap())
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn key_hash() -> impl Strategy<Value = KeyHash> {
    digest().prop_map(KeyHash)
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<[u8; 32]>())
        .prop_map(|(hlc, writer)| Version { hlc: Hlc(hlc), writer: NodeId(writer) })
}

fn expires() -> impl Strategy<Value = Option<WallTime>> {
    option::of(any::<u64>().prop_map(WallTime))
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..=64).prop_map(|bytes| Content::Value(bytes.into())),
        digest().prop_map(|value_digest| Content::Dropped { value_digest }),
        Just(Content::Tombstone),
    ]
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    (key(), version(), expires(), content()).prop_map(|(key, version, expires, content)| Entry {
        key,
        version,
        expires,
        content,
    })
}

pub(crate) fn head() -> impl Strategy<Value = EntryHead> {
    entry().prop_map(|entry| entry.head())
}

pub(crate) fn summary() -> impl Strategy<Value = Summary> {
    (digest(), any::<u64>(), any::<u64>()).prop_map(|(digest, entries, tombstones)| Summary {
        digest,
        entries,
        tombstones,
    })
}

fn root() -> impl Strategy<Value = Option<Summary>> {
    option::of(summary().prop_filter("an empty tree has no root", |root| root.total() > 0))
}

pub(crate) fn position() -> impl Strategy<Value = Position> {
    (key_hash(), 0..=Position::DEPTH_MAX).prop_map(|(hash, depth)| Position::towards(&hash, depth))
}

pub(crate) fn run() -> impl Strategy<Value = Run> {
    (0..u64::MAX / 2, any::<u32>(), root()).prop_map(|(from, length, root)| Run {
        from: Epoch(from),
        to: Epoch(from + u64::from(length)),
        root,
    })
}

pub(crate) fn runs() -> impl Strategy<Value = Vec<Run>> {
    vec((1_u64..100, 0_u64..100, root()), 0..=RUNS_MAX).prop_map(|steps| {
        let mut end = 0;
        let mut runs = Vec::new();
        for (gap, length, root) in steps {
            let from = end + gap;
            end = from + length;
            runs.push(Run { from: Epoch(from), to: Epoch(end), root });
        }
        runs
    })
}

fn cluster() -> impl Strategy<Value = String> {
    vec(prop::sample::select(b"abyzABYZ019._-".to_vec()), 1..=64)
        .prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn printable(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("printable", |c| !c.is_control()), 0..=max / 4)
        .prop_map(|chars| chars.into_iter().collect())
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<[u8; 16]>().prop_map(Incarnation)
}

fn signing_key() -> impl Strategy<Value = SigningKey> {
    any::<[u8; 32]>().prop_map(|seed| SigningKey::from_bytes(&seed))
}

pub(crate) fn signed() -> impl Strategy<Value = Signed> {
    (vec(any::<u8>(), 0..=64), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(body, first, second)| {
        let signature = [first, second].concat().try_into().unwrap();
        Signed { body: body.into(), signature }
    })
}

pub(crate) fn seal() -> impl Strategy<Value = SignedSeal> {
    (cluster(), signing_key(), incarnation(), any::<u64>(), root()).prop_map(
        |(cluster, key, incarnation, epoch, root)| {
            let seal = Seal { cluster, node: id(&key), incarnation, epoch: Epoch(epoch), root };
            codec::sign_seal(&seal, &key)
        },
    )
}

pub(crate) fn announcement() -> impl Strategy<Value = SignedAnnouncement> {
    let who = (cluster(), signing_key(), incarnation(), any::<u64>(), any::<u64>());
    let what = (1..=u32::MAX, runs(), vec(printable(256), 0..=4), printable(512), any::<bool>());
    (who, what).prop_map(|(who, what)| {
        let (cluster, key, incarnation, sequence, time) = who;
        let (epoch_ms, runs, addresses, name, recovering) = what;
        let announcement = Announcement {
            cluster,
            node: id(&key),
            incarnation,
            sequence,
            time: WallTime(time),
            epoch_length: EpochLength(NonZeroU32::new(epoch_ms).unwrap()),
            runs,
            addresses,
            name,
            recovering,
        };
        codec::sign_announcement(&announcement, &key)
    })
}

fn digests() -> impl Strategy<Value = Digests> {
    (vec(summary(), FANOUT), 1..=Digests::WIDTH_MAX)
        .prop_map(|(children, width)| Digests::truncate(&children.try_into().unwrap(), width))
}

fn walk_ask() -> impl Strategy<Value = WalkAsk> {
    (position(), option::of(digests())).prop_map(|(position, mine)| WalkAsk { position, mine })
}

fn fetch_ask() -> impl Strategy<Value = FetchAsk> {
    (position(), known(), btree_set(key_hash(), 0..=8)).prop_map(|(position, known, keys)| FetchAsk {
        position,
        known,
        keys: keys.into_iter().collect(),
    })
}

fn known() -> impl Strategy<Value = Known> {
    (vec(head(), 0..=BUCKET_ENTRIES_MAX), 1..=Digests::WIDTH_MAX).prop_map(|(heads, width)| {
        // Without a head, there is no width to tell.
        if heads.is_empty() { Known::default() } else { Known::truncate(&heads, width) }
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let epoch = || option::of(any::<u64>().prop_map(Epoch));
    prop_oneof![
        Just(Ask::Hello),
        (epoch(), vec(walk_ask(), 1..=8)).prop_map(|(epoch, nodes)| Ask::Walk { epoch, nodes }),
        (epoch(), vec(fetch_ask(), 1..=8)).prop_map(|(epoch, buckets)| Ask::Fetch { epoch, buckets }),
        Just(Ask::Bye),
    ]
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let pull = (any::<u64>(), any::<bool>()).prop_map(|(id, in_kind)| PullPart { id, in_kind });
    (option::of(announcement()), option::of(pull), ask()).prop_map(|(announcement, pull, ask)| Request {
        announcement,
        pull,
        ask,
    })
}

fn level() -> impl Strategy<Value = Level> {
    (any::<u64>(), any::<u64>(), vec(digest(), SIBLINGS)).prop_map(|(entries, tombstones, siblings)| Level {
        entries,
        tombstones,
        siblings: siblings.try_into().unwrap(),
    })
}

pub(crate) fn chain() -> impl Strategy<Value = Chain> {
    vec(level(), 0..=6).prop_map(|levels| Chain { levels })
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (any::<u16>(), vec(summary(), FANOUT)).prop_map(|(equal, mut others)| {
            others.truncate(equal.count_zeros() as usize);
            Shape::Inner { equal, others }
        }),
        Just(Shape::Bucket),
    ]
}

fn walk_node() -> impl Strategy<Value = WalkNode> {
    (position(), option::of(chain()), shape()).prop_map(|(position, chain, shape)| WalkNode {
        position,
        chain,
        shape,
    })
}

fn page_bucket() -> impl Strategy<Value = PageBucket> {
    prop_oneof![
        vec((entry(), 0..3_u8), 0..=BUCKET_ENTRIES_MAX).prop_map(|all| {
            let (mut known, mut entries, mut heads) = (0, Vec::new(), Vec::new());
            for (index, (entry, way)) in all.into_iter().enumerate() {
                match way {
                    0 => known |= 1 << index,
                    1 => entries.push(entry),
                    _ => heads.push(entry.head()),
                }
            }
            PageBucket::Entries { known, entries, heads }
        }),
        vec(summary(), FANOUT).prop_map(PageBucket::Split),
    ]
}

fn page() -> impl Strategy<Value = Page> {
    (position(), page_bucket()).prop_map(|(position, bucket)| Page { position, bucket })
}

pub(crate) fn chains() -> impl Strategy<Value = Chains> {
    let branch = (any::<u64>(), any::<u64>(), vec(digest(), 0..FANOUT))
        .prop_map(|(entries, tombstones, siblings)| Branch { entries, tombstones, siblings });
    vec(branch, 0..=6).prop_map(|branches| Chains { branches })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let reasons = [
        Reason::Challenge,
        Reason::Untrusted,
        Reason::Cluster,
        Reason::Receiver,
        Reason::Incarnation,
        Reason::Signature,
        Reason::Malformed,
        Reason::Empty,
        Reason::Busy,
        Reason::Unavailable,
    ];
    (prop::sample::select(reasons.to_vec()), printable(1_024))
        .prop_map(|(reason, detail)| Refusal { reason, detail })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(heard_sequence, heard_epoch)| Answer::Hello {
            heard_sequence,
            heard_epoch: Epoch(heard_epoch)
        }),
        (seal(), vec(walk_node(), 1..=4)).prop_map(|(seal, nodes)| Answer::Walk { seal, nodes }),
        (seal(), vec(page(), 1..=4), chains()).prop_map(|(seal, pages, chains)| Answer::Fetch {
            seal,
            pages,
            chains
        }),
        Just(Answer::Bye),
        refusal().prop_map(Answer::Refused),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    (vec(any::<u8>(), 0..=64), any::<u64>(), answer()).prop_map(|(next_challenge, time, answer)| Response {
        next_challenge,
        time: WallTime(time),
        answer,
    })
}
