//! Makes the content of an answer wrong: seals, nodes, pages. Whoever signs it, it is signed again.

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, Page, PageBucket, Reason, Refusal, Shape, WalkNode};
use lattice_core::model::{Content, Digest, Entry, Epoch, HeadContent, Hlc, Incarnation, NodeId};
use lattice_core::seal::{Root, Seal};
use lattice_core::signed::SignedSeal;
use lattice_core::tree::{FANOUT, Position, Summary};
use lattice_proto::codec;

use super::Kind;

/// Longer than any value may be.
const LONG_VALUE: usize = (1 << 20) + 1;
/// Further ahead than any clock.
const YEARS: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// Changes the seal of an answer; whether there was one to be changed.
pub fn seal(kind: Kind, answer: &mut Answer, own: &SigningKey, other: &SigningKey) -> bool {
    let (Answer::Walk { seal: signed, .. } | Answer::Fetch { seal: signed, .. }) = answer else {
        return false;
    };
    let mut said: Seal = signed.seal.clone();
    let mut key = own;
    match kind {
        Kind::SealOfAnother => {
            said.node = NodeId(other.verifying_key().to_bytes());
            key = other;
        }
        Kind::SealOfOtherIncarnation => said.incarnation = Incarnation([0x77; 16]),
        Kind::SealOfOtherCluster => said.cluster = "elsewhere".to_owned(),
        Kind::Fork => said.root = Some(invented(&said)),
        Kind::FarSeal => {
            said.root = Some(invented(&said));
            said.epoch = Epoch(said.epoch.0 + 1_000_000_000);
        }
        Kind::EmptySeal => said.root = None,
        Kind::RootOverNothing => {
            said.root = Some(Root { digest: Digest([0x55; 32]), entries: 0, tombstones: 0 });
        }
        _ => {}
    }
    *signed = match kind {
        Kind::BrokenSeal => {
            let mut broken: SignedSeal = signed.clone();
            broken.signed.signature[3] ^= 1;
            broken
        }
        _ => codec::sign_seal(&said, key),
    };
    true
}

/// A root that no tree has, of as many entries as the true one.
fn invented(seal: &Seal) -> Root {
    let root = seal.root.expect("a seal of what was written");
    Root { digest: Digest([0x55; 32]), ..root }
}

/// Changes what a walk answers; whether there was anything to be changed.
pub fn walk(kind: Kind, answer: &mut Answer) -> bool {
    let Answer::Walk { nodes, .. } = answer else { return false };
    match kind {
        Kind::TooManyNodes => {
            let Some(last) = nodes.last().cloned() else { return false };
            nodes.push(last);
            true
        }
        Kind::NodeNotAsked => {
            let Some(first) = nodes.first_mut() else { return false };
            first.position = elsewhere(&first.position);
            true
        }
        Kind::NodesOutOfOrder if nodes.len() > 1 => {
            nodes.swap(0, 1);
            true
        }
        Kind::NoNodes => {
            nodes.clear();
            true
        }
        Kind::EqualToNothing => reshape(nodes, 0xffff, Vec::new()),
        Kind::EmptiedNode => {
            let empty = Summary { digest: Digest([0; 32]), entries: 0, tombstones: 0 };
            reshape(nodes, 0, vec![empty; FANOUT])
        }
        _ => false,
    }
}

fn reshape(nodes: &mut [WalkNode], equal: u16, others: Vec<Summary>) -> bool {
    let inner = nodes.iter_mut().find(|node| matches!(node.shape, Shape::Inner { .. }));
    let Some(node) = inner else { return false };
    node.shape = Shape::Inner { equal, others };
    true
}

/// Changes what a fetch answers; whether there was anything to be changed. `earlier`: the same pages at another seal.
pub fn fetch(kind: Kind, answer: &mut Answer, earlier: impl Fn(&Page) -> Option<Page>) -> bool {
    let Answer::Fetch { pages, chains, .. } = answer else { return false };
    match kind {
        Kind::SwappedPages if pages.len() > 1 => {
            let (first, rest) = pages.split_at_mut(1);
            std::mem::swap(&mut first[0].bucket, &mut rest[0].bucket);
            true
        }
        Kind::PagesOutOfOrder if pages.len() > 1 => {
            pages.swap(0, 1);
            true
        }
        Kind::PageNotAsked => {
            let Some(first) = pages.first_mut() else { return false };
            first.position = elsewhere(&first.position);
            true
        }
        Kind::NoPages => {
            pages.clear();
            true
        }
        Kind::NoBranches => {
            chains.branches.clear();
            true
        }
        Kind::ExtraEntry => {
            let [first, .., last] = &mut pages[..] else { return false };
            let (Some(entries), Some(others)) = (entries(first), entries(last)) else { return false };
            entries.pop();
            entries.extend(others.first().cloned());
            entries.sort_by_key(|entry| entry.key.hash());
            true
        }
        Kind::PagesOfOtherEpoch => {
            let mut changed = false;
            for page in pages {
                if let Some(other) = earlier(page).filter(|other| other.bucket != page.bucket) {
                    *page = other;
                    changed = true;
                }
            }
            changed
        }
        Kind::RepeatedEntry
        | Kind::FarStamp
        | Kind::LongValue
        | Kind::KnownNothing
        | Kind::WithheldValue
        | Kind::HeadsOnly => {
            let mut changed = pages.iter_mut().map(|page| bucket(kind, page));
            match kind {
                // What is right on the other pages would be taken.
                Kind::HeadsOnly | Kind::KnownNothing => changed.filter(|changed| *changed).count() > 0,
                _ => changed.any(|changed| changed),
            }
        }
        _ => false,
    }
}

/// Changes one page; whether it holds anything.
fn bucket(kind: Kind, page: &mut Page) -> bool {
    let PageBucket::Entries { known, entries, heads } = &mut page.bucket else { return false };
    let Some(entry) = entries.last_mut() else { return false };
    match kind {
        Kind::RepeatedEntry => {
            // In the place of another one: no page holds more than a bucket does.
            let repeated = entry.clone();
            if entries.len() > 1 {
                entries.remove(0);
            }
            entries.push(repeated);
        }
        Kind::FarStamp => {
            entry.version.hlc = Hlc::at(entry.version.hlc.wall() + YEARS);
        }
        Kind::LongValue => entry.content = Content::Value(Bytes::from(vec![7; LONG_VALUE])),
        Kind::KnownNothing => {
            *known |= 1 << 31;
            entries.pop();
        }
        Kind::WithheldValue => {
            if let HeadContent::Value(value_digest) = entry.head().content {
                entry.content = Content::Dropped { value_digest };
            }
        }
        Kind::HeadsOnly => {
            heads.extend(entries.drain(..).map(|entry| entry.head()));
            heads.sort_by_key(|head| head.key_hash);
        }
        _ => return false,
    }
    true
}

/// Refuses instead of answering.
pub fn refuse(kind: Kind, answer: &mut Answer) -> bool {
    let (reason, detail) = match kind {
        Kind::ChallengeForEver => (Reason::Challenge, "not this one"),
        Kind::NothingHere => (Reason::Empty, "there is nothing here"),
        _ => return false,
    };
    *answer = Answer::Refused(Refusal { reason, detail: detail.to_owned() });
    true
}

fn entries(page: &mut Page) -> Option<&mut Vec<Entry>> {
    match &mut page.bucket {
        PageBucket::Entries { entries, .. } if !entries.is_empty() => Some(entries),
        PageBucket::Entries { .. } | PageBucket::Split(_) => None,
    }
}

/// A position as deep, or one below the root.
fn elsewhere(position: &Position) -> Position {
    let place = |parent: &Position, nibble| parent.child(nibble).expect("not at the bottom");
    match position.parent() {
        None => place(&Position::ROOT, 7),
        Some(parent) => place(&parent, (position.nibble(parent.depth()) + 1) % 16),
    }
}
