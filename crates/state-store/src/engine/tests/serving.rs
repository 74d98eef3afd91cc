//! Answers to peers, checked as a peer would check them.

use std::collections::BTreeMap;

use lattice_core::exchange::{
    Anchor, Answer, Ask, Digests, FETCH_ENTRIES_MAX, FetchAsk, Known, POSITIONS_MAX, Page, PageBucket,
    Reason, WalkAsk,
};
use lattice_core::model::{Entry, EntryHead, Epoch, Incarnation, KeyHash};
use lattice_core::signed::SignedSeal;
use lattice_core::tree::{FANOUT, Node, Position, Summary};

use super::fixture::*;
use crate::engine::Question;
use crate::format::keys;

pub(super) fn serve(store: &Store, ask: &Ask) -> Answer {
    let question =
        Question { asker: node(2), incarnation: Incarnation([2; 16]), ask, time: store.now().wall };
    store.engine.reader().serve(question).unwrap()
}

fn walk(
    store: &Store,
    epoch: Option<u64>,
    positions: &[Position],
) -> (SignedSeal, Vec<lattice_core::exchange::WalkNode>) {
    let nodes = positions.iter().map(|position| WalkAsk { position: *position, mine: None }).collect();
    let ask = Ask::Walk { epoch: epoch.map(|epoch| Epoch(FIRST + epoch)), nodes };
    match serve(store, &ask) {
        Answer::Walk { seal, nodes } => {
            seal.verify().unwrap();
            (seal, nodes)
        }
        other => panic!("{other:?}"),
    }
}

fn refusal(answer: Answer) -> Reason {
    match answer {
        Answer::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

fn filled(count: usize) -> (Store, Vec<Entry>) {
    let mut store = Store::new(1);
    let entries: Vec<Entry> =
        (0..count).map(|number| entry(&format!("key {number}"), 1, Some("x"))).collect();
    for page in entries.chunks(1_000) {
        store.merge(page.to_vec());
    }
    store.seal_through(0);
    (store, entries)
}

/// Walks a store from its root, checking everything; the places of its buckets.
fn buckets(store: &Store, epoch: u64) -> (SignedSeal, Vec<Position>) {
    let (seal, nodes) = walk(store, Some(epoch), &[Position::ROOT]);
    let root = seal.seal.root.unwrap();
    let top = nodes[0].verify(None, Anchor::Root(&root)).unwrap();
    let mut todo = vec![(Position::ROOT, top)];
    let mut found = Vec::new();
    while let Some((position, node)) = todo.pop() {
        match node {
            None | Some(Node::Bucket(_)) => found.push(position),
            Some(Node::Inner(children)) => {
                let places: Vec<(Position, Summary)> = (0u8..)
                    .zip(children.iter())
                    .filter(|(_, child)| child.total() > 0)
                    .map(|(index, child)| (position.child(index).unwrap(), *child))
                    .collect();
                let positions: Vec<Position> = places.iter().map(|(place, _)| *place).collect();
                let (again, nodes) = walk(store, Some(epoch), &positions);
                assert_eq!(again, seal);
                for ((place, child), node) in places.iter().zip(&nodes) {
                    todo.push((*place, node.verify(None, Anchor::Parent(child)).unwrap()));
                }
            }
        }
    }
    (seal, found)
}

fn asking(position: Position, keys: &[KeyHash]) -> FetchAsk {
    FetchAsk { position, known: Known::default(), keys: keys.to_vec() }
}

/// Fetches buckets of which nothing is known, checking everything: the pages that were answered.
fn fetch(store: &Store, epoch: Option<u64>, buckets: &[FetchAsk]) -> (SignedSeal, Vec<Page>) {
    let ask = Ask::Fetch { epoch: epoch.map(|epoch| Epoch(FIRST + epoch)), buckets: buckets.to_vec() };
    let Answer::Fetch { seal, pages, chains } = serve(store, &ask) else { panic!("not a fetch") };
    assert!(pages.len() <= buckets.len());
    let mut nodes = BTreeMap::new();
    for (page, ask) in pages.iter().zip(buckets) {
        page.is_at(&ask.position).unwrap();
        nodes.insert(page.position, page.rebuild(&[]).unwrap().summary());
    }
    chains.verify(&nodes, &seal.seal.root.unwrap()).unwrap();
    (seal, pages)
}

/// What a page brings, and what it only tells.
fn brought(page: &Page) -> (&[Entry], &[EntryHead]) {
    let PageBucket::Entries { known: 0, entries, heads } = &page.bucket else { panic!("not a bucket") };
    (entries, heads)
}

#[test]
fn a_whole_store_is_walked_and_fetched() {
    let (store, mut entries) = filled(6_000);
    let (seal, found) = buckets(&store, 0);
    let mut fetched = Vec::new();
    let asks: Vec<FetchAsk> = found.into_iter().map(|position| asking(position, &[])).collect();
    let mut asks = &asks[..];
    let mut rounds = 0;
    while !asks.is_empty() {
        let (on, pages) = fetch(&store, Some(0), &asks[..asks.len().min(POSITIONS_MAX)]);
        assert_eq!(on, seal);
        let before = fetched.len();
        for page in &pages {
            fetched.extend_from_slice(brought(page).0);
            assert_eq!(brought(page).1, [], "what is short comes unasked");
        }
        assert!(fetched.len() - before <= FETCH_ENTRIES_MAX);
        asks = &asks[pages.len()..];
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    fetched.sort_by(|a, b| a.key.cmp(&b.key));
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(fetched, entries);
}

#[test]
fn what_the_asker_knows_is_left_out_unless_it_wants_it() {
    let (store, _) = filled(400);
    let (_, found) = buckets(&store, 0);
    let (_, pages) = fetch(&store, Some(0), &[asking(found[0], &[])]);
    let all = brought(&pages[0]).0.to_vec();
    let mut heads: Vec<EntryHead> = all.iter().map(Entry::head).collect();
    let lacking = heads.remove(2);
    // Something of our own, which the store does not have.
    heads.push(EntryHead { version: heads[0].version, ..entry("own", 1, None).head() });
    let known = Known::truncate(&heads, 4);
    let wanted = heads[0].key_hash;
    let buckets = vec![FetchAsk { position: found[0], known, keys: vec![wanted] }];
    let Answer::Fetch { pages, .. } = serve(&store, &Ask::Fetch { epoch: None, buckets }) else {
        panic!("a fetch")
    };
    let PageBucket::Entries { known, entries, heads: told } = &pages[0].bucket else {
        panic!("not a bucket")
    };
    assert_eq!(entries.iter().map(|entry| entry.key.hash()).collect::<Vec<_>>(), [wanted, lacking.key_hash]);
    assert_eq!((known.count_ones() as usize, told.len()), (all.len() - 2, 0));
    assert_eq!(known & 1, 0, "what is brought is not left out");
    assert!(pages[0].rebuild(&heads).is_ok());
}

#[test]
fn a_damaged_entry_that_nobody_asked_for_is_told_and_keeps_nothing_else_from_coming() {
    let (mut store, _) = filled(400);
    let (_, found) = buckets(&store, 0);
    let (_, pages) = fetch(&store, Some(0), &[asking(found[0], &[])]);
    let all = brought(&pages[0]).0.to_vec();
    let damaged = &all[1];
    store.flip(&[&[keys::CURRENT], damaged.key.as_bytes()].concat());
    let (_, pages) = fetch(&store, Some(0), &[asking(found[0], &[])]);
    let (entries, heads) = brought(&pages[0]);
    assert_eq!((entries.len(), heads), (all.len() - 1, &[damaged.head()][..]));
    let (_, pages) = fetch(&store, Some(0), &[asking(found[0], &[all[0].key.hash()])]);
    assert_eq!(brought(&pages[0]).0[0], all[0]);
    // Whoever asks for it hears that it does not read.
    let ask = Ask::Fetch { epoch: None, buckets: vec![asking(found[0], &[damaged.key.hash()])] };
    let question =
        Question { asker: node(2), incarnation: Incarnation([2; 16]), ask: &ask, time: store.now().wall };
    assert!(store.engine.reader().serve(question).is_err());
    store.seal();
    assert_eq!(store.damaged(), [String::from_utf8_lossy(damaged.key.as_bytes())]);
}

#[test]
fn a_retained_seal_is_served_as_it_was() {
    let (mut store, _) = filled(200);
    let (first, found) = buckets(&store, 0);
    for epoch in 5..20 {
        store.go(epoch * 1_000);
        for number in 0..50 {
            store.put(&format!("key {number}"), &format!("{epoch}"));
        }
        store.delete("key 77");
        store.seal();
    }
    store.seal_through(25);
    assert_eq!(buckets(&store, 0), (first.clone(), found.clone()));
    // Its entries as well, also those that were overwritten since.
    let (seal, pages) = fetch(&store, Some(0), &[asking(found[0], &[])]);
    assert_eq!(seal, first);
    let (entries, told) = brought(&pages[0]);
    assert!(!entries.is_empty() && told.is_empty());
    assert!(entries.iter().all(|entry| entry.version.writer == lattice_core::model::NodeId([9; 32])));
    // And an epoch of idle time, under its own number.
    let (seal, _) = walk(&store, Some(3), &[Position::ROOT]);
    assert_eq!((seal.seal.epoch, seal.seal.root), (Epoch(FIRST + 3), first.seal.root));
}

#[test]
fn a_seal_out_of_reach_is_answered_by_the_newest_with_chains() {
    let (mut store, _) = filled(2_000);
    let inner = Position::ROOT.child(5).unwrap();
    let bucket = buckets(&store, 0).1[0];
    for epoch in 5..60 {
        store.go(epoch * 1_000);
        store.put(&format!("key {epoch}"), "newer");
        store.seal();
    }
    store.seal_through(70);
    let (seal, nodes) = walk(&store, Some(0), &[Position::ROOT, inner]);
    assert_eq!(seal.seal.epoch, Epoch(FIRST + 70));
    let root = seal.seal.root.unwrap();
    for node in &nodes {
        assert!(node.chain.is_some());
        node.verify(None, Anchor::Root(&root)).unwrap().unwrap();
    }
    let (seal, _) = fetch(&store, Some(0), &[asking(bucket, &[])]);
    assert_eq!(seal.seal.epoch, Epoch(FIRST + 70));
}

#[test]
fn equal_children_are_left_out() {
    let (store, _) = filled(400);
    let (_, nodes) = walk(&store, Some(0), &[Position::ROOT]);
    let (seal, _) = walk(&store, None, &[Position::ROOT]);
    let top = nodes[0].verify(None, Anchor::Root(&seal.seal.root.unwrap())).unwrap();
    let Some(Node::Inner(mut mine)) = top else { panic!("400 entries are no bucket") };
    mine[4] = Summary::EMPTY;
    let mine: &[Summary; FANOUT] = &mine;
    let asks = vec![WalkAsk { position: Position::ROOT, mine: Some(Digests::truncate(mine, 8)) }];
    let Answer::Walk { nodes, .. } = serve(&store, &Ask::Walk { epoch: None, nodes: asks }) else {
        panic!("not a walk")
    };
    let lattice_core::exchange::Shape::Inner { equal, others } = &nodes[0].shape else { panic!("not inner") };
    assert_eq!((*equal, others.len()), (!(1 << 4), 1));
}

#[test]
fn a_bucket_that_split_is_told_as_split() {
    let mut store = Store::new(1);
    store.merge((0..20).map(|number| entry(&format!("{number}"), 1, Some("x"))).collect());
    store.seal_through(0);
    store.merge((20..60).map(|number| entry(&format!("{number}"), 1_001, Some("x"))).collect());
    store.seal_through(60);
    let (_, pages) = fetch(&store, Some(0), &[asking(Position::ROOT, &[])]);
    assert!(matches!(pages[0].bucket, PageBucket::Split(_)));
}

#[test]
fn an_answer_stops_growing_and_always_brings_the_first_entry() {
    let mut store = Store::new(1);
    let large = "x".repeat(1 << 20);
    let entries: Vec<Entry> = (0..5).map(|number| entry(&format!("{number}"), 1, Some(&large))).collect();
    store.merge(entries.clone());
    store.seal_through(0);
    let mut keys: Vec<KeyHash> = entries.iter().map(|entry| entry.key.hash()).collect();
    keys.sort();
    // Nothing so long comes unasked.
    let (_, pages) = fetch(&store, None, &[asking(Position::ROOT, &[])]);
    assert_eq!((brought(&pages[0]).0.len(), brought(&pages[0]).1.len()), (0, 5));
    let mut rounds = 0;
    while !keys.is_empty() {
        let (_, pages) = fetch(&store, None, &[asking(Position::ROOT, &keys)]);
        let (entries, told) = brought(&pages[0]);
        assert_eq!((entries.len(), told.len()), (1, 4));
        assert_eq!(entries[0].key.hash(), keys.remove(0));
        rounds += 1;
    }
    assert_eq!(rounds, 5);
}

#[test]
fn nothing_to_offer_and_nothing_there_have_names() {
    let mut store = Store::new(1);
    let ask = Ask::Walk { epoch: None, nodes: vec![WalkAsk { position: Position::ROOT, mine: None }] };
    assert_eq!(refusal(serve(&store, &ask)), Reason::Empty);
    store.seal_through(1);
    assert_eq!(refusal(serve(&store, &ask)), Reason::Empty);
    store.put("a", "x");
    store.seal_through(10);
    assert_eq!(walk(&store, None, &[Position::ROOT]).1.len(), 1);
    let below = WalkAsk { position: Position::ROOT.child(1).unwrap(), mine: None };
    assert_eq!(refusal(serve(&store, &Ask::Walk { epoch: None, nodes: vec![below] })), Reason::Malformed);
}

#[test]
fn an_incarnation_that_was_replaced_is_told_so_also_after_a_restart() {
    let mut store = Store::new(1);
    let heard = |store: &mut Store, incarnation| {
        store.engine.heard(node(2), Incarnation([incarnation; 16]), 9, Epoch(3)).unwrap()
    };
    assert_eq!(heard(&mut store, 2), None);
    assert_eq!(heard(&mut store, 3), None);
    assert_eq!(heard(&mut store, 2), Some(Incarnation([3; 16])));
    let mut store = store.restarted();
    assert_eq!(heard(&mut store, 2), Some(Incarnation([3; 16])));
    assert_eq!(heard(&mut store, 3), None);
}

#[test]
fn a_hello_tells_what_was_heard_under_this_incarnation() {
    let mut store = Store::new(1);
    let hello = |store: &Store| match serve(store, &Ask::Hello) {
        Answer::Hello { heard_sequence, heard_epoch } => (heard_sequence, heard_epoch.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(hello(&store), (0, 0));
    store.engine.heard(node(2), Incarnation([2; 16]), 7, Epoch(3)).unwrap();
    assert_eq!(hello(&store), (7, 3));
    store.engine.heard(node(2), Incarnation([3; 16]), 1, Epoch(4)).unwrap();
    assert_eq!(hello(&store), (0, 0));
    assert_eq!(serve(&store, &Ask::Bye), Answer::Bye);
}
