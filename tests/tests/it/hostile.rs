//! A peer that holds a trusted key and answers wrongly, in every way that there is, over both paths: nothing of it
//! enters the store, it is called by its right name, and nobody else waits for it.
//!
//! `make hostile` prints what was seen. docs/hostile-peers.md is the table of cases; `LATTICE_WRITE_DOCS=1` writes it
//! again.

use std::fmt::Write as _;

use ed25519_dalek::SigningKey;
use lattice_tests::hostile::offer::Offer;
use lattice_tests::hostile::scene::{Scene, Seen};
use lattice_tests::hostile::{Kind, Mouth, Path};
use lattice_tests::simulation::liar::Lie;
use lattice_tests::wait::wall;

/// What is offered, how the pull ends, and what its record says.
struct Case {
    kind: Kind,
    offered: &'static str,
    outcome: &'static str,
    detail: &'static str,
}

const fn case(kind: Kind, offered: &'static str, outcome: &'static str, detail: &'static str) -> Case {
    Case { kind, offered, outcome, detail }
}

const CASES: &[Case] = &[
    case(
        Kind::Told(Lie::ChangedValue),
        "an entry with another value",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(
        Kind::Told(Lie::InventedEntry),
        "an entry that no tree holds",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(
        Kind::Told(Lie::ChangedHead),
        "the head of a newer version than there is",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(
        Kind::Told(Lie::LeftOutEntry),
        "a page without one of its entries",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(Kind::Told(Lie::ChangedDigest), "another digest of a child", "Lied", "leads to another root"),
    case(
        Kind::Told(Lie::ChangedCount),
        "a child that counts more than it holds",
        "Lied",
        "leads to another root",
    ),
    case(
        Kind::Told(Lie::SaidBucket),
        "a bucket where an inner node is",
        "Lied",
        "a bucket is said to be where more than 32 entries hang",
    ),
    case(
        Kind::Told(Lie::ChangedChain),
        "branches that count more than hangs below",
        "Lied",
        "has counts or hashes that cannot be",
    ),
    case(
        Kind::Told(Lie::ChangedSeal),
        "a seal of another root than announced",
        "Lied",
        "two roots for epoch",
    ),
    case(Kind::Told(Lie::OldSeal), "a seal of an epoch long ago", "Stale", "the seal is of epoch"),
    case(Kind::Told(Lie::Refusal), "a refusal", "Refused", "Busy"),
    case(
        Kind::Told(Lie::OtherAnswer),
        "an answer to another kind of question",
        "Refused",
        "signed an answer to another question",
    ),
    case(Kind::Told(Lie::Garbage), "signed bytes that are no answer", "Lost", "signed response is malformed"),
    case(Kind::Told(Lie::BrokenSignature), "a changed signature", "Lost", "signature does not verify"),
    case(Kind::Told(Lie::Silence), "no answer", "TimedOut", "no answer within"),
    case(
        Kind::Told(Lie::EarlierAnswer),
        "an earlier answer, signed again",
        "Refused",
        "other positions than those asked for",
    ),
    case(Kind::OtherReceiver, "an envelope for another receiver", "Lost", "response is for node"),
    case(Kind::OtherCluster, "an envelope of another cluster", "Lost", "response is of cluster"),
    case(
        Kind::OtherRequest,
        "an envelope that answers another request",
        "Lost",
        "response answers another request",
    ),
    case(Kind::Replay, "an earlier envelope once more", "Lost", "response answers another request"),
    case(Kind::OtherSigner, "an envelope that another member signed", "Lost", "signature does not verify"),
    case(Kind::Relay, "an envelope in another member's name, by its key", "Lost", "response is by node"),
    case(Kind::SignedAsRequest, "an answer that is signed as a request", "Lost", "signature does not verify"),
    case(
        Kind::OtherIncarnation,
        "an envelope of another incarnation",
        "Stale",
        "the peer answers as incarnation",
    ),
    case(Kind::SealOfAnother, "a seal of another member, by its key", "Refused", "signed for a seal of node"),
    case(
        Kind::SealOfOtherIncarnation,
        "a seal of another incarnation",
        "Stale",
        "the seal is of incarnation",
    ),
    case(Kind::SealOfOtherCluster, "a seal of another cluster", "Refused", "signed for a seal of node"),
    case(Kind::BrokenSeal, "a seal with a changed signature", "Lost", "the seal's signature does not verify"),
    case(Kind::Fork, "two roots for one epoch, one after the other", "Lied", "two roots for epoch"),
    case(Kind::EmptySeal, "the seal of an empty tree above what is there", "Lied", "two roots for epoch"),
    case(Kind::RootOverNothing, "a root that counts nothing", "Lost", "an empty tree has no root"),
    case(Kind::FarSeal, "another root, for an epoch in years", "Lied", "leads to another root"),
    case(
        Kind::TooManyNodes,
        "more nodes than were asked for",
        "Refused",
        "other positions than those asked for",
    ),
    case(
        Kind::NodeNotAsked,
        "a node that was not asked for",
        "Refused",
        "other positions than those asked for",
    ),
    case(Kind::NodesOutOfOrder, "nodes in another order", "Refused", "other positions than those asked for"),
    case(Kind::NoNodes, "no nodes", "Lost", "takes 1 to 1024, got none"),
    case(
        Kind::EqualToNothing,
        "all is equal to what the asker has not",
        "Refused",
        "children equal to ours, but we named none",
    ),
    case(
        Kind::EmptiedNode,
        "nothing where there is much",
        "Lied",
        "holds nothing, but is not the empty bucket",
    ),
    case(
        Kind::SwappedPages,
        "the entries of two buckets, each in the place of the other",
        "Lied",
        "does not belong below this position",
    ),
    case(Kind::PagesOutOfOrder, "pages in another order", "Refused", "position is not the one asked for"),
    case(Kind::PageNotAsked, "a page that was not asked for", "Refused", "position is not the one asked for"),
    case(Kind::NoPages, "no pages", "Lost", "takes 1 to 1024, got none"),
    case(Kind::RepeatedEntry, "an entry twice", "Refused", "does not lie after the one before it"),
    case(
        Kind::ExtraEntry,
        "an entry of another bucket in the place of one's own",
        "Lied",
        "does not belong below this position",
    ),
    case(
        Kind::PagesOfOtherEpoch,
        "pages as they were in an earlier epoch",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(
        Kind::FarStamp,
        "an entry stamped in years",
        "Lied",
        "node is not the one that its parent commits to",
    ),
    case(Kind::LongKey, "a key that is too long", "Lost", "key: has 1025 bytes"),
    case(Kind::LongValue, "a value that is too long", "Lost", "value: has 1048577 bytes"),
    case(
        Kind::KnownNothing,
        "pages that hold what the asker never named",
        "Refused",
        "children equal to ours, but we named none",
    ),
    case(
        Kind::WithheldValue,
        "an entry without its value that never expires",
        "Lied",
        "lacks its value, but never expires",
    ),
    case(
        Kind::HeadsOnly,
        "heads, and never an entry",
        "Refused",
        "answered with none of the entries asked for",
    ),
    case(Kind::NoBranches, "pages that nothing proves", "Lied", "chains have 0 branches"),
    case(Kind::ChallengeForEver, "every challenge refused", "Refused", "Challenge"),
    case(Kind::NothingHere, "nothing here, after a root was announced", "Refused", "Empty"),
    case(Kind::NoMessage, "bytes that are no message", "Lost", ""),
    case(Kind::Empty, "no bytes", "Lost", ""),
    case(Kind::TooLarge, "more bytes than an answer may have", "Lost", ""),
    case(Kind::CutShort, "half of an answer", "Lost", ""),
    case(Kind::Bomb, "three megabytes that unpack to half a gibibyte", "Lost", ""),
    case(Kind::Drip, "an answer a byte at a time", "TimedOut", "no answer within"),
    case(
        Kind::Meagre,
        "answers just in time, each of a single node",
        "TimedOut",
        "answers that bring too little",
    ),
    case(Kind::Nothing, "nothing, and the connection stays", "TimedOut", "no answer within"),
    case(Kind::HangUp, "the end of the connection", "Lost", ""),
    case(Kind::ServerError, "status 500", "Lost", "has status 500"),
    case(Kind::Redirect, "a redirect", "Lost", "redirects are not followed"),
];

const HEAD: &str = "\
# Hostile peers

What a member that lies can offer in a pull, and what becomes of it. Each line is a test over real sockets (`make hostile`
prints what it saw): a peer whose key is trusted, and whose answers are wrong in one way, beside a node that is honest. Of
every one of these, not one entry is applied, the heal's record has this outcome and says this, and a pull from the honest
node that began later has ended before one that hangs. The table is written by `LATTICE_WRITE_DOCS=1 cargo test -p
lattice-tests --test it hostile::the_page`, and held to the tests.

`Lied` is said of what the peer has signed and what contradicts itself; `Refused` of what it signed and what answers
nothing; `Lost` of what nobody is known to have said; `Stale` of another store or another time than the one that was asked;
`TimedOut` of what did not come in time, or so little at a time that it would never end.

| offered | over | outcome | the record says |
| --- | --- | --- | --- |
";

/// One for each case.
fn keys() -> Vec<SigningKey> {
    (0_u8..).take(CASES.len()).map(|number| SigningKey::from_bytes(&[0x40 + number; 32])).collect()
}

/// A member that never runs, whose key the liars have as well.
fn other_member() -> SigningKey {
    SigningKey::from_bytes(&[0x3f; 32])
}

/// Tells every case, and holds what became of it against the table.
async fn all(path: Path) {
    let scene = Scene::start(path, &keys()).await;
    let mut wrong = String::new();
    println!("| kind | path | outcome | detail | entries applied |\n| --- | --- | --- | --- | --- |");
    for (case, key) in CASES.iter().zip(keys()).filter(|(case, _)| case.kind.is_told_over(path)) {
        let mouth = Mouth::new(case.kind, Offer::new(key, wall()), other_member());
        let seen = scene.offer(&case.kind.name(), mouth).await;
        let Seen { outcome, detail, merged, path: by, overtaken } = &seen;
        println!("| {} | {by} | {outcome} | {detail} | {merged} |", case.kind.name());
        let right =
            outcome == case.outcome && detail.contains(case.detail) && *merged == 0 && by == path.name();
        let delays = outcome == "TimedOut" && !overtaken;
        if !right || delays {
            let _ = writeln!(wrong, "{}: {seen:?}", case.kind.name());
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    scene.believed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_no_wrong_answer_is_believed_and_each_has_its_name() {
    all(Path::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_p2p_no_wrong_answer_is_believed_and_each_has_its_name() {
    all(Path::P2p).await;
}

#[test]
fn the_page_of_wrong_answers_says_what_is_tested() {
    let mut page = String::from(HEAD);
    for Case { kind, offered, outcome, detail } in CASES {
        let paths: Vec<&str> = [Path::Http, Path::P2p]
            .into_iter()
            .filter(|path| kind.is_told_over(*path))
            .map(Path::name)
            .collect();
        let _ = writeln!(page, "| {offered} | {} | {outcome} | {detail} |", paths.join(", "));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hostile-peers.md");
    if std::env::var_os("LATTICE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stands == page, "docs/hostile-peers.md: write it again with LATTICE_WRITE_DOCS=1");
}
