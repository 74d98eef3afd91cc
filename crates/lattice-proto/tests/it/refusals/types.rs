//! What is refused of entries, places, seals and announcements.

use bytes::Bytes;
use lattice_core::model::{Entry, EntryHead, Version};
use lattice_core::seal::{Run, Seal};
use lattice_core::signed::{Announcement, Signed};
use lattice_core::tree::{Chain, Position, Summary};
use lattice_proto::peer::v1 as peer;
use lattice_proto::types::v1 as types;

use super::{refuses, zeros};
use crate::fixtures::*;

#[test]
fn versions() {
    refuses::<types::Version, Version>(
        (&version()).into(),
        &[
            (|wire| wire.writer = zeros(31), "writer: a node is 32 bytes, got 31"),
            (|wire| wire.writer = zeros(33), "writer: a node is 32 bytes, got 33"),
            (|wire| wire.writer = zeros(0), "writer: a node is 32 bytes, got 0"),
        ],
    );
}

#[test]
fn entries() {
    use types::entry::Content;
    refuses::<types::Entry, Entry>(
        (&entry()).into(),
        &[
            (|wire| wire.key = zeros(0), "key: is empty: it takes 1 to 1024 bytes"),
            (|wire| wire.key = zeros(1_025), "key: has 1025 bytes: it takes 1 to 1024"),
            (|wire| wire.version = None, "version: is missing"),
            (
                |wire| wire.version.as_mut().unwrap().writer = zeros(1),
                "version.writer: a node is 32 bytes, got 1",
            ),
            (|wire| wire.content = None, "content: is missing"),
            (
                |wire| wire.content = Some(Content::Value(zeros((1 << 20) + 1))),
                "value: has 1048577 bytes: it takes at most 1048576",
            ),
            (
                |wire| wire.content = Some(Content::Dropped(zeros(20))),
                "dropped: a digest is 32 bytes, got 20",
            ),
        ],
    );
}

#[test]
fn the_greatest_key_and_value_pass() {
    let mut wire = types::Entry::from(&entry());
    wire.key = zeros(1_024);
    wire.content = Some(types::entry::Content::Value(zeros(1 << 20)));
    assert!(Entry::try_from(wire).is_ok());
}

#[test]
fn heads() {
    use types::entry_head::Content;
    refuses::<types::EntryHead, EntryHead>(
        (&head()).into(),
        &[
            (|wire| wire.key_hash = zeros(31), "key_hash: a key hash is 32 bytes, got 31"),
            (|wire| wire.version = None, "version: is missing"),
            (|wire| wire.content = None, "content: is missing"),
            (
                |wire| wire.content = Some(Content::ValueDigest(zeros(0))),
                "value_digest: a digest is 32 bytes, got 0",
            ),
        ],
    );
}

#[test]
fn places_and_chains() {
    const WRONG: &str = "a position is a depth of 0 to 64 and half as many bytes, spare bits zero";
    refuses::<types::Summary, Summary>(
        (&summary()).into(),
        &[(|wire| wire.digest = zeros(8), "digest: a digest is 32 bytes, got 8")],
    );
    refuses::<types::Position, Position>(
        (&position()).into(),
        &[
            (|wire| wire.depth = 65, WRONG),
            (|wire| wire.depth = 2, WRONG),
            (|wire| wire.prefix = Bytes::from_static(&[0xff, 0xff]), WRONG),
        ],
    );
    refuses::<peer::Chain, Chain>(
        (&chain()).into(),
        &[
            (
                |wire| wire.levels[1].siblings = zeros(127),
                "levels[1].siblings: siblings are 4 digests of 32 bytes, got 127 bytes",
            ),
            (
                |wire| wire.levels[2].siblings = zeros(160),
                "levels[2].siblings: siblings are 4 digests of 32 bytes, got 160 bytes",
            ),
            (|wire| wire.levels = vec![(&level()).into(); 65], "levels: takes at most 64, got 65"),
        ],
    );
}

fn nothing() -> Option<types::Summary> {
    Some(types::Summary { entries: 0, tombstones: 0, ..(&summary()).into() })
}

#[test]
fn seals_and_runs() {
    refuses::<types::Seal, Seal>(
        (&seal()).into(),
        &[
            (|wire| wire.cluster.clear(), "cluster: a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"),
            (|wire| wire.cluster = "a b".into(), "cluster: a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"),
            (|wire| wire.cluster = "a".repeat(65), "cluster: a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"),
            (|wire| wire.node = zeros(64), "node: a node is 32 bytes, got 64"),
            (|wire| wire.incarnation = zeros(15), "incarnation: an incarnation is 16 bytes, got 15"),
            (|wire| wire.root = nothing(), "root: holds nothing: an empty tree has no root"),
            (
                |wire| wire.root.as_mut().unwrap().digest = zeros(0),
                "root.digest: a digest is 32 bytes, got 0",
            ),
        ],
    );
    refuses::<types::Run, Run>(
        (&run()).into(),
        &[
            (
                |wire| wire.epoch_to = wire.epoch_from - 1,
                "epoch_to: takes at least epoch_from, 1700000000, got 1699999999",
            ),
            (|wire| wire.root = nothing(), "root: holds nothing: an empty tree has no root"),
        ],
    );
    refuses::<types::Signed, Signed>(
        (&signed_seal()).into(),
        &[(|wire| wire.signature = zeros(63), "signature: a signature is 64 bytes, got 63")],
    );
}

#[test]
fn announcements() {
    refuses::<peer::Announcement, Announcement>(
        (&announcement()).into(),
        &[
            (|wire| wire.cluster.clear(), "cluster: a cluster is 1 to 64 of a-z A-Z 0-9 . _ -"),
            (|wire| wire.node = zeros(0), "node: a node is 32 bytes, got 0"),
            (|wire| wire.incarnation = zeros(0), "incarnation: an incarnation is 16 bytes, got 0"),
            (|wire| wire.epoch_ms = 0, "epoch_ms: an epoch takes at least 1 ms, got 0"),
            (|wire| wire.runs = vec![(&run()).into(); 65], "runs: takes at most 64, got 65"),
            (|wire| wire.runs[1].root = nothing(), "runs[1].root: holds nothing: an empty tree has no root"),
            (
                |wire| wire.runs[1].epoch_from = 1_699_999_999,
                "runs[1].epoch_from: takes more than the run before it, 1699999999, got 1699999999",
            ),
            (
                |wire| wire.runs.reverse(),
                "runs[1].epoch_from: takes more than the run before it, 1700000009, got 1699999990",
            ),
            (|wire| wire.addresses = vec![String::new(); 33], "addresses: takes at most 32, got 33"),
            (
                |wire| wire.addresses.push("a".repeat(257)),
                "addresses[1]: has 257 bytes: it takes at most 256",
            ),
            (|wire| wire.name = "a".repeat(513), "name: has 513 bytes: it takes at most 512"),
            (|wire| wire.name = "a\nb".into(), "name: has control characters: it takes none"),
        ],
    );
}
