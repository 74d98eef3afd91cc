//! What holds of every record, and of whatever stands where one should.

use std::collections::BTreeMap;

use bytes::Bytes;
use lattice_core::model::{Digest, EntryHead, Epoch, HeadContent, Hlc, Key, KeyHash, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_core::tree::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Summary};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::frame::{self, Found};
use super::history::{self, Was};
use super::keys::{self, Generation};
use super::node::{self, Age, KeyedNode};
use super::{heads, record};

const GENERATION: Generation = Generation(3);

fn arb_key() -> impl Strategy<Value = Key> {
    "[ -~é]{1,24}".prop_map(|key| Key::try_from(key.as_str()).unwrap())
}

fn arb_head() -> impl Strategy<Value = (Key, EntryHead)> {
    let content = prop::option::of(any::<[u8; 32]>());
    (arb_key(), any::<u64>(), 0..3_u8, prop::option::of(any::<u64>()), content).prop_map(
        |(key, hlc, writer, expires, content)| {
            let head = EntryHead {
                key_hash: key.hash(),
                version: Version { hlc: Hlc(hlc), writer: NodeId([writer; 32]) },
                expires: expires.map(WallTime),
                content: content.map_or(HeadContent::Tombstone, |value| HeadContent::Value(Digest(value))),
            };
            (key, head)
        },
    )
}

/// A bucket at the top: all keys belong there.
fn arb_bucket() -> impl Strategy<Value = KeyedNode> {
    vec(arb_head(), 0..=BUCKET_ENTRIES_MAX).prop_map(|heads| bucket(heads.into_iter()))
}

fn bucket(heads: impl Iterator<Item = (Key, EntryHead)>) -> KeyedNode {
    let sorted: BTreeMap<KeyHash, (Key, EntryHead)> =
        heads.map(|(key, head)| (head.key_hash, (key, head))).collect();
    let (keys, heads) = sorted.into_values().unzip();
    KeyedNode { node: Node::bucket(&Position::ROOT, heads).unwrap(), keys }
}

fn arb_inner() -> impl Strategy<Value = KeyedNode> {
    let child = prop::option::of((any::<[u8; 32]>(), 0..1_u64 << 40, 1..1_u64 << 40));
    let children = (vec(child, FANOUT - 1), any::<[u8; 32]>(), BUCKET_ENTRIES_MAX as u64 + 1..1 << 40);
    children.prop_map(|(children, digest, entries)| {
        let some = |(digest, entries, tombstones)| Summary { digest: Digest(digest), entries, tombstones };
        let mut children: Vec<Summary> =
            children.into_iter().map(|child| child.map_or(Summary::EMPTY, some)).collect();
        children.push(Summary { digest: Digest(digest), entries, tombstones: 0 });
        KeyedNode { node: Node::inner(children).unwrap(), keys: Vec::new() }
    })
}

fn arb_node() -> impl Strategy<Value = KeyedNode> {
    prop_oneof![arb_bucket(), arb_inner()]
}

/// Keys of records of every kind, and of none.
fn arb_at() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(tag, rest)| [vec![tag], rest].concat())
}

/// Some bytes of a record are others.
fn spoil(content: &[u8], changes: &[(Index, u8)], length: Index) -> Vec<u8> {
    let mut spoiled = content.to_vec();
    for (index, change) in changes.iter().filter(|_| !content.is_empty()) {
        spoiled[index.index(content.len())] ^= change;
    }
    spoiled.truncate(length.index(content.len() + 1).max(content.len() / 2));
    spoiled
}

proptest! {
    #[test]
    fn a_frame_gives_back_what_it_was_given_and_shows_any_change(
        at in arb_at(),
        content in vec(any::<u8>(), 0..300),
        place in any::<Index>(),
        change in 1..=u8::MAX,
    ) {
        let framed = frame::seal(&at, &content);
        prop_assert_eq!(framed.len(), frame::framed_bytes(content.len()));
        prop_assert_eq!(&frame::open(&at, &framed).unwrap()[..], &content[..]);
        let followed = [&framed[..], b"more"].concat();
        prop_assert_eq!(frame::leading(&followed), Some(&framed[..]));
        let mut changed = framed.to_vec();
        changed[place.index(framed.len())] ^= change;
        prop_assert!(frame::open(&at, &changed.into()).is_err());
    }

    #[test]
    fn records_that_name_themselves_are_found_in_noise(
        before in vec(any::<u8>(), 0..64),
        after in vec(any::<u8>(), 0..64),
        content in vec(any::<u8>(), 0..300),
    ) {
        let framed = frame::seal(&GENERATION.node(&Position::ROOT), &content);
        let bytes = [&before[..], &framed[..], &after[..]].concat();
        let places = std::iter::successors(frame::next(&bytes, 0), |at| frame::next(&bytes, at + 1));
        let found: Vec<(usize, Found<'_>)> =
            places.map(|at| (at, frame::recognize(&bytes[at..]))).collect();
        let intact = Found::Intact { kind: keys::NODE, content: &content };
        prop_assert!(found.contains(&(before.len(), intact)), "{found:?}");
    }

    #[test]
    fn nodes_and_what_they_were_read_back(
        node in arb_node(), before in arb_node(), since in any::<u64>(), first in any::<u64>(),
    ) {
        let at = GENERATION.node(&Position::ROOT);
        let age = Age { since: Epoch(since), first: Epoch(first) };
        let framed = node::encode(&at, &node, age);
        prop_assert_eq!(node::decode(&at, &Position::ROOT, &framed).unwrap(), (node.clone(), age));

        // No entry ever leaves a bucket: of those after, each that was there before is there still.
        let node = match (&before.node, &node.node) {
            (Node::Bucket(old), Node::Bucket(new)) => {
                let newer = node.keys.iter().cloned().zip(new.iter().copied());
                let room = BUCKET_ENTRIES_MAX - old.len();
                bucket(before.keys.iter().cloned().zip(old.iter().copied()).chain(newer.take(room)))
            }
            _ => node,
        };
        let at = GENERATION.history(Epoch(since), &Position::ROOT);
        let was = Was::between(before.clone(), &node.node);
        let framed = history::encode(&at, &was, age.first);
        let (read, read_since) = history::decode(&at, &Position::ROOT, &framed).unwrap();
        prop_assert_eq!((&read, read_since), (&was, age.first));
        prop_assert_eq!(read.before(&at, &Position::ROOT, node).unwrap(), before);
    }

    #[test]
    fn every_head_of_a_bucket_is_named(node in arb_bucket()) {
        let Node::Bucket(heads) = &node.node else { unreachable!("a bucket") };
        let expected: Vec<(Key, EntryHead)> =
            node.keys.iter().cloned().zip(heads.iter().copied()).collect();
        let at = GENERATION.node(&Position::ROOT);
        let framed = node::encode(&at, &node, Age { since: Epoch(1), first: Epoch(1) });
        prop_assert_eq!(node::named(&frame::open(&at, &framed).unwrap()), expected);
    }

    /// The checksum is right, and what is in it is not: a decoder says so, or reads something else, and that is all.
    #[test]
    fn whatever_is_in_a_frame_no_decoder_panics(
        node in arb_node(),
        before in arb_bucket(),
        changes in vec((any::<Index>(), any::<u8>()), 0..6),
        length in any::<Index>(),
        noise in vec(any::<u8>(), 0..200),
    ) {
        let (at, age) = (GENERATION.node(&Position::ROOT), Age { since: Epoch(9), first: Epoch(7) });
        let history_at = GENERATION.history(Epoch(9), &Position::ROOT);
        let was = Was::Node(before);
        let written = [
            (at.clone(), node::encode(&at, &node, age)),
            (history_at.clone(), history::encode(&history_at, &was, Epoch(8))),
        ];
        let contents = written.iter().map(|(at, framed)| frame::open(at, framed).unwrap());
        let contents = contents.map(|content| spoil(&content, &changes, length)).chain([noise.clone()]);
        for content in contents {
            let framed = frame::seal(&at, &content);
            let _ = node::decode(&at, &Position::ROOT, &framed);
            let _ = record::decode::<record::Stored>(&at, &framed);
            let _ = record::decode::<record::SealRun>(&at, &framed).and_then(|run| run.parse(&at));
            let framed = frame::seal(&history_at, &content);
            let was = history::decode(&history_at, &Position::ROOT, &framed);
            let _ = was.map(|(was, _)| was.before(&at, &Position::ROOT, node.clone()));
            let _ = (node::named(&content), heads::named(&content));
        }
        let _ = frame::open(&at, &Bytes::from(noise.clone()));
        let _ = (keys::epoch_in(&noise), keys::generation(&noise), keys::node_towards(&noise));
        let _ = (keys::held_hlc(&noise), keys::change_sequence(&noise), keys::term_key(&noise));
    }
}
