//! What others need to find the same differences. Neither proves anything to the one who asks, nor signs; their
//! entries then have to be asked for, and come: what both of them need for that is counted in the least way.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use merkle_search_tree::MerkleSearchTree;
use merkle_search_tree::diff::diff;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde::Serialize;

use crate::sets::{Item, Sets, keyed};

/// What one of them needs, entries apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// What the one who lacks sends.
    pub(crate) bytes_out: u64,
    /// What it hears, but for the entries that it lacks.
    pub(crate) bytes_in: u64,
    /// Questions and their answers, the one for the entries included.
    pub(crate) rounds: u32,
}

/// Bytes of an id by which an entry is asked for.
const ID_BYTES: u64 = 32;
/// The most keys of a search tree: a larger one takes minutes to fill and to compare.
const SEARCH_TREE_KEYS_MAX: u64 = 100_000;
/// The most rounds of a search tree.
const ROUNDS_MAX: u32 = 16;

/// The crate `negentropy`: items are ordered by time, and are named by the digests of entries.
pub(crate) fn negentropy(sets: &Sets, ours: &[Item]) -> Result<Cost> {
    let storage = |items: &mut dyn Iterator<Item = Item>| -> Result<NegentropyStorageVector> {
        let mut storage = NegentropyStorageVector::new();
        for Item { head, .. } in items {
            storage.insert(head.version.hlc.wall().millis(), Id::from_byte_array(head.digest().0))?;
        }
        storage.seal()?;
        Ok(storage)
    };
    let mut client = Negentropy::owned(storage(&mut ours.iter().copied())?, 0)?;
    let mut server = Negentropy::owned(storage(&mut sets.all())?, 0)?;
    let mut cost = Cost { bytes_out: 0, bytes_in: 0, rounds: 0 };
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut question = Some(client.initiate()?);
    while let Some(asked) = question {
        let answer = server.reconcile(&asked)?;
        cost.bytes_out += asked.len() as u64;
        cost.bytes_in += answer.len() as u64;
        cost.rounds += 1;
        question = client.reconcile_with_ids(&answer, &mut have, &mut need)?;
    }
    cost.bytes_out += ID_BYTES * need.len() as u64;
    cost.rounds += 1;
    Ok(cost)
}

/// Whether the search tree ends in a time that can be waited for.
pub(crate) fn is_bearable(sets: &Sets) -> bool {
    sets.keys() <= SEARCH_TREE_KEYS_MAX
}

/// The crate `merkle-search-tree`: the peer sends the ranges and digests of all its pages, hears which ranges
/// differ, and sends what it has there: of each entry that the other has already, its key and its digest.
///
/// # Panics
/// When a key is none: entries here have values.
pub(crate) fn search_tree(sets: &Sets, ours: &[Item]) -> Cost {
    let mut peer = MerkleSearchTree::default();
    let mut mine = MerkleSearchTree::default();
    let of = |item: &Item| keyed(item).expect("entries have values");
    let mut theirs: Vec<(Vec<u8>, [u8; 32])> = sets.all().map(|item| of(&item)).collect();
    theirs.sort_unstable();
    for (key, value) in &theirs {
        peer.upsert(key.clone(), value);
    }
    let mut held: BTreeMap<Vec<u8>, [u8; 32]> = ours.iter().map(of).collect();
    for (key, value) in &held {
        mine.upsert(key.clone(), value);
    }
    let text = |bytes: &[u8]| bytes.len() as u64 + 1;
    // A question for its root is a few bytes.
    let mut cost = Cost { bytes_out: 1, bytes_in: 16, rounds: 0 };
    while cost.rounds < ROUNDS_MAX && peer.root_hash() != mine.root_hash() {
        let pages = peer.serialise_page_ranges().context("a root was just hashed").unwrap_or_default();
        cost.bytes_in += pages.iter().map(|page| text(page.start()) + text(page.end()) + 16).sum::<u64>();
        let own = mine.serialise_page_ranges().unwrap_or_default();
        let mut found = Vec::new();
        for range in diff(own, pages) {
            cost.bytes_out += text(range.start()) + text(range.end());
            let from = theirs.partition_point(|(key, _)| key < range.start());
            let to = theirs.partition_point(|(key, _)| key <= range.end());
            found.extend_from_slice(&theirs[from..to]);
        }
        cost.rounds += 2;
        if found.is_empty() {
            break;
        }
        for (key, value) in found {
            if held.get(&key) == Some(&value) {
                cost.bytes_in += text(&key) + 16;
            } else {
                mine.upsert(key.clone(), &value);
                held.insert(key, value);
            }
        }
    }
    cost
}
