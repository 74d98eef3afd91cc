//! Pulls against a server in memory, honest and otherwise.

mod seek;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::walk::DIGEST_WIDTH;
use super::*;
use crate::exchange::{
    Digests, FETCH_ENTRIES_MAX, FetchAsk, KEYS_MAX, Known, POSITIONS_MAX, Page, PageBucket, Request, Shape,
    WHOLE_POSITIONS_MAX, WalkAsk, WalkNode,
};
use crate::model::{Content, Digest, Epoch, Incarnation, KeyHash, NodeId};
use crate::seal::{Root, Run, Runs, Seal};
use crate::signed::{Context, Signed, SignedSeal};
use crate::tree::fixture::{Tree, entry};
use crate::tree::{Chains, FANOUT, Node, Position, Summary};

const CLUSTER: &str = "lattice";
const INCARNATION: Incarnation = Incarnation([1; 16]);
const TIMEOUT: Duration = Duration::from_secs(5);

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn peer() -> NodeId {
    NodeId(key().verifying_key().to_bytes())
}

/// A live map with the tree over it.
#[derive(Clone, Default)]
struct Replica {
    entries: BTreeMap<KeyHash, Entry>,
    tree: Tree,
}

impl Replica {
    fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut replica = Self::default();
        replica.merge(entries);
        replica
    }

    fn merge(&mut self, entries: impl IntoIterator<Item = Entry>) -> MergeCounts {
        let mut counts = MergeCounts::default();
        let mut heads = Vec::new();
        for entry in entries {
            let head = entry.head();
            match self.entries.get(&head.key_hash) {
                Some(present) if present.head().dominates(&head) => counts.known += 1,
                Some(_) | None => {
                    counts.merged += 1;
                    heads.push(head);
                    self.entries.insert(head.key_hash, entry);
                }
            }
        }
        self.tree.apply(heads);
        counts
    }

    /// What we have at a place: an inner node, or the heads below it.
    fn own(&self, position: &Position) -> Node {
        match self.tree.node(position) {
            inner @ Node::Inner(_) => inner,
            Node::Bucket(_) => {
                let below = self.entries.range(position.first()..=position.last());
                Node::Bucket(below.map(|(_, entry)| entry.head()).collect())
            }
        }
    }

    fn dominates(&self, head: &EntryHead) -> bool {
        self.entries.get(&head.key_hash).is_some_and(|present| present.head().dominates(head))
    }
}

/// What a server does that it should not, or need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Only the newest seal is kept, and every answer comes after a new one.
    Forgetful,
    /// Answers with as little as it may.
    Terse,
    /// Takes all our children for its own.
    SaysEqual,
    /// Only tells heads, and brings entries that are asked for by key.
    Reserved,
    /// Tells heads, also of what is asked for by key.
    Withholds,
    /// Says of buckets, too, that we know all they hold.
    SaysKnown,
    /// Sends another value than its tree holds.
    ForgesEntries,
    /// Leaves out of a page what its bucket holds.
    LeavesOut,
    /// Changes the counts of the chains.
    ForgesChains,
    /// Signs another root for the same epoch on every answer.
    TwoRoots,
    /// Answers in another incarnation from the second time on.
    Reborn,
    /// Is another store from the second time on, whose tree ends above what is asked.
    Wiped,
    /// Seals an empty tree from the second answer on.
    Vanishes,
    /// Has more entries from the second answer on, but none in half of the tree.
    Sheds,
    /// Signs seals with another key.
    BadSignature,
    /// Answers with no nodes.
    Silent,
    Refuses,
    /// Wants a fresh challenge each first time.
    Challenges,
}

fn reply(number: u64, response: Response) -> Event {
    Event::Reply { number, incarnation: INCARNATION, response, traffic: Traffic::default() }
}

struct Server {
    replica: Replica,
    manner: Manner,
    epoch: u64,
    answered: u64,
    /// Written before each answer by the forgetful one.
    writes: Vec<Entry>,
    /// Written all at once before an answer, the second one by default.
    splits: Vec<Entry>,
    splits_before: u64,
    /// Entries that its tree has, and that do not read.
    unreadable: BTreeSet<KeyHash>,
}

impl Server {
    fn new(replica: Replica, manner: Manner) -> Self {
        Self {
            replica,
            manner,
            epoch: 100,
            answered: 0,
            writes: Vec::new(),
            splits: Vec::new(),
            splits_before: 2,
            unreadable: BTreeSet::new(),
        }
    }

    fn seal(&self) -> SignedSeal {
        let mut root = self.replica.tree.root;
        if self.manner == Manner::TwoRoots && self.answered > 1 {
            root = root.map(|root| Root { digest: Digest([9; 32]), ..root });
        }
        let seal = Seal {
            cluster: CLUSTER.into(),
            node: peer(),
            incarnation: self.incarnation(),
            epoch: Epoch(self.epoch),
            root,
        };
        let key = match self.manner {
            Manner::BadSignature => SigningKey::from_bytes(&[4; 32]),
            _ => key(),
        };
        let signed = Signed::sign(Context::Seal, Bytes::from_static(b"a seal"), &key);
        SignedSeal { seal, signed }
    }

    /// Which store gave the last answer.
    fn incarnation(&self) -> Incarnation {
        let reborn = matches!(self.manner, Manner::Reborn | Manner::Wiped) && self.answered > 1;
        if reborn { Incarnation([2; 16]) } else { INCARNATION }
    }

    fn answer(&mut self, request: &Request) -> Response {
        self.answered += 1;
        if self.manner == Manner::Forgetful {
            self.replica.merge(self.writes.pop());
            self.epoch += 1;
        }
        if self.answered == self.splits_before {
            let splits = std::mem::take(&mut self.splits);
            self.epoch += u64::from(!splits.is_empty());
            self.replica.merge(splits);
        }
        if self.answered == 2 {
            self.change();
        }
        let time = WallTime(1_000_000_000);
        let answer = self.judge(request);
        Response { next_challenge: Vec::new(), time, answer }
    }

    fn change(&mut self) {
        match self.manner {
            Manner::Vanishes => self.replica = Replica::default(),
            Manner::Sheds => {
                let grown = entries(0..2_000, 3_000).into_iter();
                self.replica =
                    Replica::of(grown.filter(|entry| entry.key.hash().nibble(0).is_multiple_of(2)));
            }
            _ => return,
        }
        self.epoch += 1;
    }

    fn judge(&self, request: &Request) -> Answer {
        let refused = |reason| Answer::Refused(Refusal { reason, detail: "no".into() });
        match (self.manner, &request.ask) {
            (Manner::Refuses, _) => return refused(Reason::Untrusted),
            (Manner::Wiped, _) if self.answered > 1 => return refused(Reason::Malformed),
            (Manner::Challenges, _) if self.answered % 2 == 1 => return refused(Reason::Challenge),
            (Manner::Vanishes, Ask::Fetch { .. }) if self.answered > 1 => {
                return Answer::Fetch { seal: self.seal(), pages: Vec::new(), chains: Chains::default() };
            }
            (Manner::Vanishes, _) if self.answered > 1 => {
                return Answer::Walk { seal: self.seal(), nodes: Vec::new() };
            }
            _ => {}
        }
        match &request.ask {
            Ask::Hello => Answer::Hello { heard_sequence: 0, heard_epoch: Epoch(0) },
            Ask::Bye => Answer::Bye,
            Ask::Walk { epoch, nodes } => {
                assert!(nodes.len() <= POSITIONS_MAX);
                if nodes.iter().any(|ask| !self.exists(&ask.position)) {
                    return refused(Reason::Malformed);
                }
                let asked = *epoch == Some(Epoch(self.epoch));
                let mut answers: Vec<WalkNode> = nodes.iter().map(|ask| self.walk(ask, asked)).collect();
                match self.manner {
                    Manner::Terse => answers.truncate(1),
                    Manner::Silent => answers.clear(),
                    _ => {}
                }
                Answer::Walk { seal: self.seal(), nodes: answers }
            }
            Ask::Fetch { epoch: _, buckets } => {
                assert!(buckets.iter().map(|ask| ask.keys.len()).sum::<usize>() <= KEYS_MAX);
                assert!(buckets.len() <= POSITIONS_MAX);
                let whole = buckets.iter().filter(|ask| ask.known.width() == Digests::WIDTH_MAX);
                assert!(whole.count() <= WHOLE_POSITIONS_MAX);
                let mut places: Vec<Position> = buckets.iter().map(|ask| ask.position).collect();
                places.sort_by_key(|place| (place.first(), place.depth()));
                let apart = |pair: &[Position]| !pair[0].covers(&pair[1].first());
                assert!(places.windows(2).all(apart), "none lies below another: {places:?}");
                if buckets.iter().any(|ask| ask.keys.iter().any(|key| self.is_unreadable(ask, key))) {
                    return refused(Reason::Unavailable);
                }
                let mut pages: Vec<Page> = Vec::new();
                let mut brought = 0;
                for ask in buckets {
                    let page = self.page(ask);
                    if let PageBucket::Entries { entries, .. } = &page.bucket {
                        brought += entries.len();
                    }
                    if brought > FETCH_ENTRIES_MAX {
                        break;
                    }
                    pages.push(page);
                }
                if self.manner == Manner::Terse {
                    pages.truncate(1);
                }
                let chains = self.chains(&pages);
                Answer::Fetch { seal: self.seal(), pages, chains }
            }
        }
    }

    /// Whether a fetch stumbles over an entry that the server cannot read.
    fn is_unreadable(&self, ask: &FetchAsk, key: &KeyHash) -> bool {
        let here = matches!(self.replica.tree.node(&ask.position), Node::Bucket(_));
        here && self.unreadable.contains(key)
    }

    fn chains(&self, pages: &[Page]) -> Chains {
        let inner: BTreeMap<Position, [Summary; FANOUT]> =
            self.replica.tree.nodes.iter().filter_map(inner).collect();
        let mut chains = Chains::build(pages.iter().map(|page| page.position), &inner).unwrap();
        if self.manner == Manner::ForgesChains {
            chains.branches.iter_mut().for_each(|branch| branch.entries += 1);
        }
        chains
    }

    fn exists(&self, position: &Position) -> bool {
        position.parent().is_none_or(|parent| matches!(self.replica.tree.node(&parent), Node::Inner(_)))
    }

    fn walk(&self, ask: &WalkAsk, asked: bool) -> WalkNode {
        let position = ask.position;
        let mut shape = Shape::of(&self.replica.tree.node(&position), ask.mine.as_ref());
        if let (Manner::SaysEqual, Shape::Inner { .. }) = (self.manner, &shape) {
            shape = Shape::Inner { equal: u16::MAX, others: Vec::new() };
        }
        WalkNode { position, chain: (!asked).then(|| self.replica.tree.chain(&position)), shape }
    }

    fn page(&self, ask: &FetchAsk) -> Page {
        let heads = match self.replica.tree.node(&ask.position) {
            Node::Inner(children) => {
                return Page { position: ask.position, bucket: PageBucket::Split(children.to_vec()) };
            }
            Node::Bucket(heads) => heads,
        };
        let mut brought: Vec<(usize, Entry)> = Vec::new();
        for (index, head) in heads.iter().enumerate() {
            let unknown = ask.known.find(&head.digest()).is_none() && self.manner != Manner::Reserved;
            let unasked = unknown && !self.unreadable.contains(&head.key_hash);
            if unasked || ask.keys.contains(&head.key_hash) {
                brought.push((index, self.replica.entries[&head.key_hash].clone()));
            }
        }
        match self.manner {
            Manner::Terse => brought.truncate(1),
            Manner::Withholds => {
                let bucket = PageBucket::of(&heads, &Known::default(), Vec::new());
                return Page { position: ask.position, bucket };
            }
            Manner::ForgesEntries => {
                for (_, entry) in &mut brought {
                    entry.content = Content::Value(Bytes::from_static(b"forged"));
                }
            }
            _ => {}
        }
        let mut bucket = PageBucket::of(&heads, &ask.known, brought);
        if let PageBucket::Entries { known, entries, heads } = &mut bucket {
            match self.manner {
                Manner::SaysKnown if ask.known != Known::default() => {
                    let count = ask.known.as_bytes().len() / ask.known.width();
                    *known = u32::try_from((1_u64 << count) - 1).unwrap();
                    (*entries, *heads) = (Vec::new(), Vec::new());
                }
                Manner::LeavesOut => drop(entries.pop()),
                _ => {}
            }
        }
        Page { position: ask.position, bucket }
    }
}

fn inner((position, node): (&Position, &Node)) -> Option<(Position, [Summary; FANOUT])> {
    match node {
        Node::Inner(children) => Some((*position, **children)),
        Node::Bucket(_) => None,
    }
}

fn config() -> Config {
    Config {
        id: Id(7),
        cause: Cause::Divergence,
        peer: peer(),
        cluster: CLUSTER.into(),
        incarnation: Some(INCARNATION),
        announced: Runs::default(),
        path: Path::P2p,
        request_timeout: TIMEOUT,
        pause_max: Duration::ZERO,
        stall_timeout: TIMEOUT * 12,
        patience: TIMEOUT * 12,
        max_clock_drift: Duration::from_secs(10),
    }
}

struct Ran {
    ended: Ended,
    said_bye: bool,
    waiting_max: usize,
}

/// Runs a pull to its end, with answers that come at once.
fn run(ours: &mut Replica, server: &mut Server, config: Config) -> Ran {
    run_slowly(ours, server, config, Duration::ZERO)
}

/// Runs a pull to its end, with answers that take some time.
fn run_slowly(ours: &mut Replica, server: &mut Server, config: Config, takes: Duration) -> Ran {
    let mut pull = Pull::new(Monotonic::ZERO, config);
    let mut events = VecDeque::from([Event::Start]);
    let (mut ended, mut said_bye, mut waiting_max) = (None, false, 0);
    let mut now = Monotonic::ZERO;
    for _ in 0..1_000_000_u64 {
        let Some(event) = events.pop_front() else { break };
        let waited = if matches!(event, Event::Reply { .. }) { takes } else { Duration::from_millis(1) };
        now = now + waited;
        let mut effects = Vec::new();
        pull.handle(now, event, &mut effects);
        waiting_max = waiting_max.max(pull.frontier.waiting());
        for effect in effects {
            match effect {
                Effect::Ask { last: true, request, .. } => said_bye = request.ask == Ask::Bye,
                Effect::Ask { number, request, announce, .. } => {
                    assert_eq!(announce, pull.rounds == 0, "the announcement goes with the first question");
                    let response = server.answer(&request);
                    let (incarnation, traffic) =
                        (server.incarnation(), Traffic { bytes_in: 1, bytes_out: 1 });
                    events.push_back(Event::Reply { number, incarnation, response, traffic });
                }
                Effect::ReadLocalNodes(positions) => {
                    assert!(positions.len() <= POSITIONS_MAX);
                    let nodes = positions.iter().map(|position| ours.own(position)).collect();
                    events.push_back(Event::LocalNodes(nodes));
                }
                Effect::Compare(heads) => {
                    assert!(heads.len() <= HEADS_MAX);
                    let missing = (0..heads.len()).filter(|&index| !ours.dominates(&heads[index])).collect();
                    events.push_back(Event::Compared { missing, ahead: Vec::new() });
                }
                Effect::Merge(entries) => {
                    assert!(entries.len() <= MERGE_MAX);
                    events.push_back(Event::Merged(ours.merge(entries)));
                }
                Effect::Ended(over) => ended = Some(*over),
            }
        }
    }
    assert_eq!(pull.deadline(), None, "over");
    Ran { ended: ended.expect("every pull ends"), said_bye, waiting_max }
}

fn entries(range: std::ops::Range<u64>, millis: u64) -> Vec<Entry> {
    range.map(|number| entry(number, millis)).collect()
}

/// Two replicas that share `shared` entries; ours lacks some of the peer's and holds some of its own.
fn apart(shared: u64, changed: u64, missing: u64, own: u64) -> (Replica, Replica) {
    let mut ours = Replica::of(entries(0..shared, 1_000));
    let mut theirs = ours.clone();
    theirs.merge(entries(0..changed, 2_000));
    theirs.merge(entries(shared..shared + missing, 1_000));
    ours.merge(entries(1_000_000..1_000_000 + own, 1_000));
    (ours, theirs)
}

fn assert_healed(ours: &Replica, theirs: &Replica, ran: &Ran, differing: u64) {
    assert_eq!((ran.ended.outcome, ran.ended.detail.as_str()), (Outcome::Healed, ""));
    assert_eq!(ran.ended.entries_merged, differing, "exactly what differs");
    assert!(theirs.entries.values().all(|entry| ours.dominates(&entry.head())));
    assert!(ran.said_bye);
}

#[test]
fn a_walk_finds_and_merges_exactly_what_differs() {
    let table = [
        (0, 0, 1, 0),
        (0, 0, 20, 0),
        (0, 0, 40, 0),
        (0, 0, 3_000, 0),
        (20, 3, 4, 0),
        (30, 0, 1, 0),
        (40, 1, 0, 0),
        (3_000, 1, 0, 0),
        (3_000, 0, 1, 0),
        (3_000, 12, 0, 5),
        (2_000, 200, 300, 400),
        (0, 0, 10, 3_000),
        (0, 0, 0, 50),
    ];
    for (shared, changed, missing, own) in table {
        let (mut ours, theirs) = apart(shared, changed, missing, own);
        let mut server = Server::new(theirs.clone(), Manner::Honest);
        if theirs.tree.root.is_none() {
            server.replica.merge(entries(1_000_000..1_000_001, 1_000));
        }
        let ran = run(&mut ours, &mut server, config());
        assert_healed(&ours, &theirs, &ran, changed + missing);
        let dominated = ran.ended.dominated.unwrap();
        assert_eq!((dominated.epoch, dominated.root), (Epoch(100), server.replica.tree.root));
    }
}

#[test]
fn a_small_difference_takes_few_rounds() {
    for (shared, rounds) in [(20, 2), (400, 2), (3_000, 2), (30_000, 3)] {
        let (mut ours, theirs) = apart(shared, 1, 0, 0);
        let ran = run(&mut ours, &mut Server::new(theirs, Manner::Honest), config());
        assert!(ran.ended.rounds <= rounds, "{shared} entries: {} rounds", ran.ended.rounds);
    }
}

#[test]
fn equal_trees_are_healed_at_once() {
    for count in [5, 40, 3_000] {
        let (mut ours, theirs) = apart(count, 0, 0, 0);
        let ran = run(&mut ours, &mut Server::new(theirs, Manner::Honest), config());
        assert_eq!((ran.ended.outcome, ran.ended.rounds), (Outcome::Healed, 1));
        assert!(!ran.ended.verified_new);
    }
}

#[test]
fn memory_is_a_page_and_not_a_state() {
    let (mut ours, theirs) = apart(0, 0, 8_000, 0);
    let ran = run(&mut ours, &mut Server::new(theirs.clone(), Manner::Honest), config());
    assert_healed(&ours, &theirs, &ran, 8_000);
    assert!(ran.waiting_max < 2 * POSITIONS_MAX, "{} positions waited", ran.waiting_max);
}

#[test]
fn when_the_seal_moves_the_walk_goes_on() {
    let (mut ours, theirs) = apart(2_000, 300, 300, 100);
    let mut server = Server::new(theirs.clone(), Manner::Forgetful);
    // Enough that buckets split under the walk.
    server.writes = entries(50_000..53_000, 3_000);
    let first = {
        let mut first = theirs.clone();
        first.merge(server.writes.last().cloned());
        first
    };
    let ran = run(&mut ours, &mut server, config());
    assert_eq!((ran.ended.outcome, ran.ended.detail.as_str()), (Outcome::Healed, ""));
    assert!(first.entries.values().all(|entry| ours.dominates(&entry.head())), "the first seal is dominated");
    assert_eq!(ran.ended.dominated.unwrap().root, first.tree.root);
}

#[test]
fn buckets_that_split_on_the_way_are_walked() {
    let mut ours = Replica::default();
    let mut server = Server::new(Replica::of(entries(0..30, 1_000)), Manner::Forgetful);
    server.splits = entries(100..200, 3_000);
    let ran = run(&mut ours, &mut server, config());
    assert_eq!((ran.ended.outcome, ran.ended.detail.as_str()), (Outcome::Healed, ""));
    assert_eq!(ours.tree.root, server.replica.tree.root);
    assert!(ran.ended.rounds > 2, "asked again below the split");
}

#[test]
fn what_is_only_told_is_asked_for_by_key() {
    for (ours, theirs) in [apart(200, 20, 30, 10), apart(0, 0, 3_000, 0), apart(10, 3, 4, 0)] {
        let mut ours = ours;
        let differing = theirs.entries.values().filter(|entry| !ours.dominates(&entry.head())).count() as u64;
        let ran = run(&mut ours, &mut Server::new(theirs.clone(), Manner::Reserved), config());
        assert_healed(&ours, &theirs, &ran, differing);
    }
}

#[test]
fn what_the_peer_cannot_read_itself_keeps_nothing_else_from_coming() {
    for manner in [Manner::Honest, Manner::Reserved, Manner::Terse] {
        for unreadable in [vec![7], vec![0, 39, 2_999], (100..120).collect()] {
            let mut ours = Replica::default();
            let theirs = Replica::of(entries(0..3_000, 1_000));
            let mut server = Server::new(theirs, manner);
            let lost: Vec<Entry> = unreadable.iter().map(|&number| entry(number, 1_000)).collect();
            server.unreadable = lost.iter().map(|entry| entry.key.hash()).collect();
            let ran = run(&mut ours, &mut server, config());
            assert_eq!(ran.ended.outcome, Outcome::Refused, "nothing is healed that lacks something");
            let expected = format!("Unavailable: it cannot read {} of its entries", lost.len());
            assert_eq!(ran.ended.detail, expected, "{manner:?}");
            assert_eq!(ours.entries.len(), 3_000 - lost.len(), "{manner:?}");
            assert!(lost.iter().all(|entry| !ours.dominates(&entry.head())));
            assert!(ran.ended.verified_new);
        }
    }
}

#[test]
fn a_peer_that_reads_nothing_is_left_alone() {
    let (mut ours, theirs) = (Replica::default(), Replica::of(entries(0..3_000, 1_000)));
    let mut server = Server::new(theirs, Manner::Reserved);
    server.unreadable = server.replica.entries.keys().copied().collect();
    let ran = run(&mut ours, &mut server, config());
    assert_eq!((ran.ended.outcome, ran.ended.entries_merged), (Outcome::Refused, 0));
    assert!(ran.ended.rounds < 100, "{} rounds", ran.ended.rounds);
}

#[test]
fn what_is_asked_in_parts_and_splits_between_them_is_found() {
    // It hangs in one bucket, and all of it is asked for by key. That is refused; before a part of it is asked for, the
    // bucket splits.
    let mut ours = Replica::default();
    let mut server = Server::new(Replica::of(entries(0..29, 1_000)), Manner::Reserved);
    server.unreadable = BTreeSet::from([entry(7, 1_000).key.hash(), entry(8, 1_000).key.hash()]);
    server.splits = entries(29..2_000, 1_000);
    server.splits_before = 4;
    let ran = run(&mut ours, &mut server, config());
    assert_eq!(ran.ended.outcome, Outcome::Refused);
    assert_eq!(ran.ended.detail, "Unavailable: it cannot read 2 of its entries");
    assert_eq!(ours.entries.len(), 1_998);
}

#[test]
fn a_terse_server_is_asked_again() {
    let (mut ours, theirs) = apart(200, 20, 30, 10);
    let ran = run(&mut ours, &mut Server::new(theirs.clone(), Manner::Terse), config());
    assert_healed(&ours, &theirs, &ran, 50);
}

#[test]
fn who_brings_much_may_take_long_and_who_brings_little_may_not() {
    let takes = TIMEOUT.mul_f64(0.99);
    let (mut ours, theirs) = apart(0, 0, 48_000, 0);
    let ran = run_slowly(&mut ours, &mut Server::new(theirs.clone(), Manner::Honest), config(), takes);
    assert_healed(&ours, &theirs, &ran, 48_000);
    let (rounds, took) = (ran.ended.rounds, ran.ended.ended.since(ran.ended.started));
    assert!(took > TIMEOUT * 13, "longer than the patience: {rounds} rounds, {took:?}");

    // In time, too, and yet it would take days.
    let mut ours = Replica::default();
    let ran = run_slowly(&mut ours, &mut Server::new(theirs, Manner::Terse), config(), takes);
    assert_eq!(ran.ended.outcome, Outcome::TimedOut, "{}", ran.ended.detail);
    assert!(ran.ended.detail.contains("bring too little"), "{}", ran.ended.detail);
    assert_eq!(ran.ended.rounds, 13);
    assert!(!ran.ended.verified_new, "its backoff grows");
}

#[test]
fn a_challenge_is_answered_once_for_each_question() {
    let (mut ours, theirs) = apart(200, 5, 5, 0);
    let ran = run(&mut ours, &mut Server::new(theirs.clone(), Manner::Challenges), config());
    assert_healed(&ours, &theirs, &ran, 10);
}

#[test]
fn each_manner_has_its_outcome() {
    let table = [
        (Manner::SaysEqual, Outcome::Lied),
        (Manner::SaysKnown, Outcome::Lied),
        (Manner::LeavesOut, Outcome::Lied),
        (Manner::ForgesChains, Outcome::Lied),
        (Manner::ForgesEntries, Outcome::Lied),
        (Manner::TwoRoots, Outcome::Lied),
        (Manner::Vanishes, Outcome::Lied),
        (Manner::Sheds, Outcome::Lied),
        (Manner::Reborn, Outcome::Stale),
        (Manner::Wiped, Outcome::Stale),
        (Manner::BadSignature, Outcome::Lost),
        (Manner::Silent, Outcome::Refused),
        (Manner::Withholds, Outcome::Refused),
        (Manner::Refuses, Outcome::Refused),
    ];
    for (manner, outcome) in table {
        let (mut ours, theirs) = apart(200, 20, 30, 10);
        let before = ours.entries.clone();
        let ran = run(&mut ours, &mut Server::new(theirs, manner), config());
        assert_eq!(ran.ended.outcome, outcome, "{manner:?}: {}", ran.ended.detail);
        assert!(!ran.ended.detail.is_empty());
        assert_eq!(ours.entries, before, "{manner:?}: nothing unproved reaches the store");
        assert_eq!(ran.ended.dominated, None);
    }
}

#[test]
fn a_seal_of_nothing_above_nodes_is_a_lie_whatever_was_announced() {
    let (mut ours, _) = apart(200, 0, 0, 0);
    let ran = run(&mut ours, &mut Server::new(Replica::default(), Manner::Honest), config());
    assert_eq!(ran.ended.outcome, Outcome::Lied, "{}", ran.ended.detail);
    assert_eq!((ran.ended.detail.as_str(), ran.ended.dominated), ("nodes of a tree without anything", None));
}

#[test]
fn a_seal_must_not_contradict_what_was_announced() {
    let (mut ours, theirs) = apart(20, 2, 0, 0);
    let other = Some(Root { digest: Digest([8; 32]), entries: 1, tombstones: 0 });
    let announced = |epoch, root| {
        let run = Run { from: Epoch(epoch), to: Epoch(epoch), root };
        Config { announced: Runs::parse(vec![run]).unwrap(), ..config() }
    };
    let mut server = Server::new(theirs, Manner::Honest);
    let ran = run(&mut ours, &mut server, announced(100, other));
    assert_eq!(ran.ended.outcome, Outcome::Lied);
    let ran = run(&mut ours, &mut Server::new(Replica::default(), Manner::Honest), announced(99, other));
    assert_eq!((ran.ended.outcome, ran.ended.dominated), (Outcome::Lied, None), "entries are never removed");
    let later = announced(101, server.replica.tree.root);
    let ran = run(&mut ours, &mut server, later);
    assert_eq!(ran.ended.outcome, Outcome::Stale, "older than what it announced");
    let elsewhere = Config { cluster: "elsewhere".into(), ..config() };
    assert_eq!(run(&mut ours, &mut server, elsewhere).ended.outcome, Outcome::Refused);
    let any = Config { incarnation: None, ..config() };
    let ran = run(&mut ours, &mut server, any);
    assert_eq!((ran.ended.outcome, ran.ended.incarnation), (Outcome::Healed, Some(INCARNATION)));
}

#[test]
fn an_answer_in_kind_says_no_bye() {
    let (mut ours, theirs) = apart(20, 2, 0, 0);
    let config = Config { cause: Cause::InKind, ..config() };
    let ran = run(&mut ours, &mut Server::new(theirs, Manner::Honest), config);
    assert_eq!(ran.ended.outcome, Outcome::Healed);
    assert!(!ran.said_bye);
}

/// A pull that has asked its first question.
fn asking() -> (Pull, u64, Request) {
    asking_with(config())
}

fn asking_with(config: Config) -> (Pull, u64, Request) {
    let mut pull = Pull::new(Monotonic::ZERO, config);
    let mut effects = Vec::new();
    pull.handle(Monotonic::ZERO, Event::Start, &mut effects);
    pull.handle(Monotonic::ZERO, Event::LocalNodes(vec![Node::empty_bucket()]), &mut effects);
    match effects.pop() {
        Some(Effect::Ask { number, request, .. }) => (pull, number, request),
        other => panic!("{other:?}"),
    }
}

fn outcome(pull: &mut Pull, now: Monotonic, event: Event) -> Option<Outcome> {
    let mut effects = Vec::new();
    pull.handle(now, event, &mut effects);
    effects.into_iter().find_map(|effect| match effect {
        Effect::Ended(ended) => Some(ended.outcome),
        _ => None,
    })
}

#[test]
fn silence_failure_and_a_broken_store_have_their_names() {
    let now = Monotonic::ZERO;
    let (mut pull, ..) = asking();
    let deadline = pull.deadline().unwrap();
    assert_eq!(deadline, now + TIMEOUT);
    assert_eq!(outcome(&mut pull, deadline, Event::Tick), Some(Outcome::TimedOut));

    let lost = || Failure::Lost("connection reset".into());
    let (mut pull, number, _) = asking();
    assert_eq!(outcome(&mut pull, now, Event::Failed { number: number + 1, failure: lost() }), None);
    assert_eq!(outcome(&mut pull, now, Event::Failed { number, failure: lost() }), Some(Outcome::Lost));
    assert_eq!(outcome(&mut pull, now, Event::Tick), None, "ended once");

    let (mut pull, number, _) = asking();
    let timed_out = Event::Failed { number, failure: Failure::TimedOut };
    assert_eq!(outcome(&mut pull, now, timed_out), Some(Outcome::TimedOut));
    let (mut pull, ..) = asking();
    assert_eq!(outcome(&mut pull, now, Event::LocalFailed("away".into())), Some(Outcome::Lost));
    let (mut pull, ..) = asking();
    assert_eq!(outcome(&mut pull, now, Event::Cancel("untrusted".into())), Some(Outcome::Stale));

    let mut pull = Pull::new(now, config());
    assert_eq!(outcome(&mut pull, now, Event::Start), None);
    let stalled = pull.deadline().unwrap();
    assert_eq!(stalled, now + TIMEOUT * 12, "our own store has longer");
    assert_eq!(outcome(&mut pull, stalled, Event::Tick), Some(Outcome::Lost));
}

#[test]
fn a_new_path_asks_again_and_late_answers_are_ignored() {
    let (mut pull, number, request) = asking();
    let mut effects = Vec::new();
    pull.handle(Monotonic::ZERO, Event::PathChanged(Path::Http), &mut effects);
    let [Effect::Ask { number: again, request: same, path: Path::Http, announce: true, .. }] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*same, request);
    let late = Event::Failed { number, failure: Failure::TimedOut };
    assert_eq!(outcome(&mut pull, Monotonic::ZERO, late), None);
    assert!(*again > number);
}

#[test]
fn digests_that_begin_alike_are_asked_again_whole() {
    let theirs = Replica::of(entries(0..400, 1_000));
    let Node::Inner(mut mine) = theirs.tree.node(&Position::ROOT) else { panic!("400 entries split") };
    mine[3].digest.0[31] ^= 1;
    let mut server = Server::new(theirs, Manner::Honest);
    let mut pull = Pull::new(Monotonic::ZERO, config());
    let mut effects = Vec::new();
    pull.handle(Monotonic::ZERO, Event::Start, &mut effects);
    let mut widths = Vec::new();
    while widths.len() < 2 {
        match effects.pop() {
            Some(Effect::ReadLocalNodes(positions)) => {
                let node = |position: &Position| match *position == Position::ROOT {
                    true => Node::Inner(mine.clone()),
                    false => Node::empty_bucket(),
                };
                let nodes = positions.iter().map(node).collect();
                pull.handle(Monotonic::ZERO, Event::LocalNodes(nodes), &mut effects);
            }
            Some(Effect::Ask { number, request, .. }) => {
                let Ask::Walk { nodes, .. } = &request.ask else { panic!("{request:?}") };
                widths.push(nodes[0].mine.as_ref().map(|mine| mine.width()));
                let response = server.answer(&request);
                let reply = reply(number, response);
                pull.handle(Monotonic::ZERO, reply, &mut effects);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(widths, [Some(4), Some(32)]);
    let Some(Effect::ReadLocalNodes(positions)) = effects.pop() else { panic!("an honest peer is believed") };
    assert_eq!(positions, [Position::ROOT.child(3).unwrap()], "only where it differs");
}

#[test]
fn entries_that_begin_alike_are_asked_again_whole() {
    // What we have has the first bytes of what the peer has, and is something else.
    let theirs = Replica::of(entries(0..20, 1_000));
    let Node::Bucket(heads) = theirs.tree.node(&Position::ROOT) else { panic!("20 entries are a bucket") };
    let cut = Known::truncate(&heads[..1], DIGEST_WIDTH);
    let mut server = Server::new(theirs.clone(), Manner::Honest);
    let mut ours = Replica::of(entries(100..101, 1_000));
    let mut pull = Pull::new(Monotonic::ZERO, config());
    let mut events = VecDeque::from([Event::Start]);
    let (mut widths, mut outcome) = (Vec::new(), None);
    while let Some(event) = events.pop_front() {
        let mut effects = Vec::new();
        pull.handle(Monotonic::ZERO, event, &mut effects);
        for effect in effects {
            events.push_back(match effect {
                Effect::Ask { last: true, .. } => continue,
                Effect::Ask { number, mut request, .. } => {
                    if let Ask::Fetch { buckets, .. } = &mut request.ask {
                        widths.push(buckets[0].known.width());
                        if widths.len() == 1 {
                            buckets[0].known = cut.clone();
                        }
                    }
                    reply(number, server.answer(&request))
                }
                Effect::ReadLocalNodes(positions) => {
                    Event::LocalNodes(positions.iter().map(|position| ours.own(position)).collect())
                }
                Effect::Compare(heads) => {
                    let missing = (0..heads.len()).filter(|&index| !ours.dominates(&heads[index])).collect();
                    Event::Compared { missing, ahead: Vec::new() }
                }
                Effect::Merge(entries) => Event::Merged(ours.merge(entries)),
                Effect::Ended(ended) => {
                    outcome = Some(ended.outcome);
                    continue;
                }
            });
        }
    }
    assert_eq!((widths, outcome), (vec![4, 32], Some(Outcome::Healed)));
    assert!(theirs.entries.values().all(|entry| ours.dominates(&entry.head())));
}

#[test]
fn a_peer_that_has_nothing_and_never_said_otherwise_is_not_blamed() {
    let announced = |root| {
        let run = Run { from: Epoch(1), to: Epoch(2), root };
        Config { announced: Runs::parse(vec![run]).unwrap(), ..config() }
    };
    let root = Some(Root { digest: Digest([8; 32]), entries: 1, tombstones: 0 });
    for (config, expected) in
        [(config(), Outcome::Stale), (announced(None), Outcome::Stale), (announced(root), Outcome::Refused)]
    {
        let (mut pull, number, _) = asking_with(config);
        let answer = Answer::Refused(Refusal { reason: Reason::Empty, detail: "empty".into() });
        let response = Response { next_challenge: Vec::new(), time: WallTime(0), answer };
        let reply = reply(number, response);
        assert_eq!(outcome(&mut pull, Monotonic::ZERO, reply), Some(expected));
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    for answer in [Answer::Bye, Answer::Hello { heard_sequence: 1, heard_epoch: Epoch(1) }] {
        let (mut pull, number, _) = asking();
        let response = Response { next_challenge: Vec::new(), time: WallTime(0), answer };
        let reply = reply(number, response);
        assert_eq!(outcome(&mut pull, Monotonic::ZERO, reply), Some(Outcome::Refused));
    }
}

/// A pull whose peer has brought five entries: what it wants the store to do with them.
fn brought() -> (Pull, Vec<Effect>, Replica) {
    let (ours, theirs) = apart(0, 0, 5, 0);
    let mut server = Server::new(theirs, Manner::Honest);
    let (mut pull, number, request) = asking();
    let mut effects = Vec::new();
    pull.handle(Monotonic::ZERO, reply(number, server.answer(&request)), &mut effects);
    pull.handle(Monotonic::ZERO, Event::LocalNodes(vec![Node::empty_bucket()]), &mut effects);
    let Some(Effect::Ask { number, request, .. }) = effects.pop() else { panic!("{effects:?}") };
    effects.clear();
    pull.handle(Monotonic::ZERO, reply(number, server.answer(&request)), &mut effects);
    (pull, effects, ours)
}

#[test]
fn what_is_merged_and_not_there_is_no_progress() {
    let (mut pull, mut effects, _) = brought();
    assert!(matches!(effects.last(), Some(Effect::Merge(entries)) if entries.len() == 5));
    pull.handle(Monotonic::ZERO, Event::Merged(MergeCounts::default()), &mut effects);
    let compared = Event::Compared { missing: vec![1], ahead: Vec::new() };
    assert_eq!(outcome(&mut pull, Monotonic::ZERO, compared), Some(Outcome::NoProgress));
}

#[test]
fn entries_ahead_of_the_clock_heal_until_they_are_due() {
    let (mut pull, mut effects, _) = brought();
    let held = MergeCounts { held: 5, ..MergeCounts::default() };
    pull.handle(Monotonic::ZERO, Event::Merged(held), &mut effects);
    let Some(Effect::Compare(heads)) = effects.pop() else { panic!("{effects:?}") };
    let ahead = Event::Compared { missing: Vec::new(), ahead: (0..heads.len()).collect() };
    pull.handle(Monotonic::ZERO, ahead, &mut effects);
    let Some(Effect::Ended(ended)) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!((ended.outcome, ended.entries_ahead), (Outcome::Healed, 5));
    assert_eq!(ended.dominated.unwrap().until, Some(WallTime(1_000) - Duration::from_secs(10)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_two_trees_heal(
        ours in prop::collection::btree_map(0_u64..600, 1_000_u64..1_004, 0..300),
        theirs in prop::collection::btree_map(0_u64..600, 1_000_u64..1_004, 1..300),
        manner in prop::sample::select(vec![
            Manner::Honest, Manner::Forgetful, Manner::Terse, Manner::Reserved,
        ]),
        later in prop::collection::vec((0_u64..1_200, 1_000_u64..1_010), 0..40),
    ) {
        let of = |numbers: &BTreeMap<u64, u64>| {
            Replica::of(numbers.iter().map(|(&number, &millis)| entry(number, millis)))
        };
        let (mut ours, theirs) = (of(&ours), of(&theirs));
        let differing = theirs.entries.values().filter(|entry| !ours.dominates(&entry.head())).count() as u64;
        let mut server = Server::new(theirs.clone(), manner);
        server.writes = later.iter().map(|&(number, millis)| entry(number, millis)).collect();
        let ran = run(&mut ours, &mut server, config());
        prop_assert_eq!(ran.ended.outcome, Outcome::Healed, "{}", ran.ended.detail);
        prop_assert!(theirs.entries.values().all(|entry| ours.dominates(&entry.head())));
        if manner != Manner::Forgetful {
            prop_assert_eq!(ran.ended.entries_merged, differing);
        }
    }

    /// Whatever comes, in whatever order: no panic, and at most one end.
    #[test]
    fn nothing_strange_breaks_it(events in prop::collection::vec(0_u8..9, 0..40)) {
        let (mut pull, mut number, _) = asking();
        let mut over = 0;
        for (second, event) in (0..).zip(events) {
            let event = match event {
                0 => Event::Start,
                1 => Event::LocalNodes(vec![Node::empty_bucket(); 3]),
                2 => Event::Compared { missing: vec![5, 1, 900], ahead: vec![900] },
                3 => Event::Merged(MergeCounts { merged: 1, ..MergeCounts::default() }),
                4 => Event::PathChanged(Path::Http),
                5 => Event::PathChanged(Path::P2p),
                6 => Event::Tick,
                7 => Event::LocalNodes(Vec::new()),
                _ => Event::Failed { number: number + 100, failure: Failure::TimedOut },
            };
            let mut effects = Vec::new();
            pull.handle(Monotonic(Duration::from_secs(second)), event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Ended(_) => over += 1,
                    Effect::Ask { number: next, .. } => number = next,
                    _ => {}
                }
            }
        }
        prop_assert!(over <= 1);
    }
}
