//! Trees for tests: kept in memory, filled with entries that are easy to tell apart.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use proptest::prelude::*;

use super::hasher::{bucket_digest, child_leaves, entry_leaves, inner_digest, leaves_root};
use super::{Applied, BUCKET_ENTRIES_MAX, Chain, FANOUT, Node, Position, Summary, apply, root_of};
use crate::model::{Content, Digest, Entry, EntryHead, HeadContent, Hlc, Key, KeyHash, NodeId, Version};
use crate::time::WallTime;

/// A tree in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Position, Node>,
    pub(crate) root: Option<Summary>,
}

impl Tree {
    pub(crate) fn of(heads: Vec<EntryHead>) -> Self {
        let mut tree = Self::default();
        tree.apply(heads);
        tree
    }

    /// How many nodes changed.
    pub(crate) fn apply(&mut self, heads: Vec<EntryHead>) -> usize {
        let load = |position: &Position| Ok::<_, Infallible>(self.nodes.get(position).cloned());
        let Applied { root, nodes } = apply(heads, load).unwrap();
        let changed = nodes.len();
        self.nodes.extend(nodes);
        self.root = root;
        changed
    }

    /// What hangs at `position`, an empty bucket where nothing does.
    pub(crate) fn node(&self, position: &Position) -> Node {
        self.nodes.get(position).cloned().unwrap_or(Node::empty_bucket())
    }

    /// From the root to the bucket where `key_hash` hangs or would hang.
    pub(crate) fn path(&self, key_hash: &KeyHash) -> Vec<Node> {
        let mut path = Vec::new();
        loop {
            path.push(self.node(&Position::towards(key_hash, path.len())));
            if let Some(Node::Bucket(_)) = path.last() {
                return path;
            }
        }
    }

    /// The chain down to `position`, all of whose ancestors are inner nodes.
    pub(crate) fn chain(&self, position: &Position) -> Chain {
        let path: Vec<Node> = (0..position.depth())
            .map(|depth| self.node(&Position::towards(&position.first(), depth)))
            .collect();
        let children: Vec<&[Summary; FANOUT]> = path
            .iter()
            .map(|node| match node {
                Node::Inner(children) => &**children,
                Node::Bucket(_) => panic!("{position} hangs below a bucket"),
            })
            .collect();
        Chain::build(&children, position).unwrap()
    }

    pub(crate) fn get(&self, key_hash: &KeyHash) -> Option<EntryHead> {
        match self.path(key_hash).last() {
            Some(Node::Bucket(heads)) => heads.iter().find(|head| head.key_hash == *key_hash).copied(),
            _ => None,
        }
    }
}

/// Entry `number`, written at `millis`.
pub(crate) fn entry(number: u64, millis: u64) -> Entry {
    Entry {
        key: Key::try_from(format!("key-{number}").as_str()).unwrap(),
        version: Version { hlc: Hlc::at(WallTime(millis)), writer: NodeId([7; 32]) },
        expires: (number % 7 == 6).then_some(WallTime(5_000 + number)),
        content: if number % 10 == 9 {
            Content::Tombstone
        } else {
            Content::Value(Bytes::from(format!("value-{number}")))
        },
    }
}

/// The head of [`entry`].
pub(crate) fn head(number: u64, millis: u64) -> EntryHead {
    entry(number, millis).head()
}

/// The entries of the golden values, which a script of its own computed.
pub(crate) fn golden(count: u64) -> Vec<EntryHead> {
    (0..count).map(|number| head(number, 1_000 + number)).collect()
}

/// Key hashes that make deep and lopsided trees as well as flat ones, and that repeat.
pub(crate) fn arb_key_hash() -> impl Strategy<Value = KeyHash> {
    prop_oneof![
        any::<[u8; 32]>(),
        (0_u8..2, any::<u8>()).prop_map(|(first, last)| {
            let mut hash = [0xaa; 32];
            hash[0] = first;
            hash[31] = last;
            hash
        }),
        any::<u8>().prop_map(|second| {
            let mut hash = [0x55; 32];
            hash[1] = second;
            hash
        }),
    ]
    .prop_map(|hash| KeyHash(Digest(hash)))
}

pub(crate) fn arb_head() -> impl Strategy<Value = EntryHead> {
    let content = prop_oneof![Just(None), (0_u8..3).prop_map(Some)];
    (arb_key_hash(), 0_u64..4, 0_u8..2, prop::option::of(0_u64..3), content).prop_map(
        |(key_hash, hlc, writer, expires, content)| EntryHead {
            key_hash,
            version: Version { hlc: Hlc(hlc), writer: NodeId([writer; 32]) },
            expires: expires.map(WallTime),
            content: content.map_or(HeadContent::Tombstone, |value| HeadContent::Value(Digest([value; 32]))),
        },
    )
}

pub(crate) fn arb_heads(max: usize) -> impl Strategy<Value = Vec<EntryHead>> {
    prop::collection::vec(arb_head(), 0..max)
}

/// The root by the definition, from all entries at once.
pub(crate) fn reference_root(heads: &[EntryHead]) -> Option<Summary> {
    let mut newest: BTreeMap<KeyHash, EntryHead> = BTreeMap::new();
    for head in heads {
        if newest.get(&head.key_hash).is_none_or(|present| head.dominates(present)) {
            newest.insert(head.key_hash, *head);
        }
    }
    root_of(&reference_node(&newest.into_values().collect::<Vec<_>>(), &Position::ROOT))
}

fn reference_node(heads: &[EntryHead], position: &Position) -> Summary {
    let tombstones = heads.iter().filter(|head| head.is_tombstone()).count() as u64;
    let entries = heads.len() as u64 - tombstones;
    let digest = if heads.len() <= BUCKET_ENTRIES_MAX {
        bucket_digest(entries, tombstones, &leaves_root(&entry_leaves(heads)))
    } else {
        let children = std::array::from_fn(|index| {
            let child = position.child(index as u8).unwrap();
            let below: Vec<EntryHead> =
                heads.iter().filter(|head| child.covers(&head.key_hash)).copied().collect();
            reference_node(&below, &child)
        });
        inner_digest(entries, tombstones, &leaves_root(&child_leaves(&children)))
    };
    Summary { digest, entries, tombstones }
}
