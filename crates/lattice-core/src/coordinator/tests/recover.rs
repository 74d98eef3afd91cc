//! Own stores that lost entries, and entries that are damaged.

use ed25519_dalek::SigningKey;

use super::*;
use crate::exchange::{Page, PageBucket, Shape, WalkNode};
use crate::seal::Seal;
use crate::signed::{Context, SignedSeal};
use crate::tree::fixture::{Tree, golden};
use crate::tree::{Chains, Position};

/// A peer with a tree of three entries, that signs its seals.
struct Peer {
    key: SigningKey,
    node: NodeId,
    tree: Tree,
}

impl Peer {
    fn new(byte: u8) -> Self {
        let key = SigningKey::from_bytes(&[byte; 32]);
        Self { node: NodeId(key.verifying_key().to_bytes()), key, tree: Tree::of(golden(3)) }
    }

    fn seal(&self, epoch: u64) -> SignedSeal {
        let seal = Seal {
            cluster: "lattice".into(),
            node: self.node,
            incarnation: incarnation(self.node),
            epoch: Epoch(epoch),
            root: self.tree.root,
        };
        SignedSeal { seal, signed: Signed::sign(Context::Seal, Bytes::from_static(b"seal"), &self.key) }
    }

    fn reply(&self, number: u64, answer: Answer) -> pull::Event {
        let response = Response { next_challenge: Vec::new(), time: WallTime(0), answer };
        let incarnation = incarnation(self.node);
        pull::Event::Reply { number, incarnation, response, traffic: Traffic::default() }
    }

    /// Goes through a pull in which nothing is missing.
    fn heal(&self, bench: &mut Bench, id: pull::Id) -> Vec<Effect> {
        let (number, _, _) = question(bench, id);
        let node = self.tree.node(&Position::ROOT);
        let shape = Shape::of(&node, None);
        let nodes = vec![WalkNode { position: Position::ROOT, chain: None, shape }];
        let seal = self.seal(bench.epoch + 100);
        let event = self.reply(number, Answer::Walk { seal: seal.clone(), nodes });
        bench.hear(Event::Pull { id, event });
        let effects = bench.hear(Event::Pull { id, event: pull::Event::LocalNodes(vec![node]) });
        let Some((_, _, number, Ask::Fetch { .. })) = asks(&effects) else { panic!("{effects:?}") };
        let bucket = PageBucket::Entries { known: 0b111, entries: Vec::new(), heads: Vec::new() };
        let pages = vec![Page { position: Position::ROOT, bucket }];
        let event = self.reply(number, Answer::Fetch { seal, pages, chains: Chains::default() });
        let effects = bench.hear(Event::Pull { id, event });
        assert_eq!(ended(&effects), [(self.node, Outcome::Healed)]);
        effects
    }

    fn heartbeat(&self, bench: &mut Bench, recovering: bool) -> Vec<Effect> {
        let mut effects = bench.seals(1);
        let (mut announced, wall) = (bench.next(self.node, 2), bench.wall());
        announced.announcement.recovering = recovering;
        effects.extend(bench.hear(Event::Heard { from: self.node, announcement: announced, wall }));
        effects
    }
}

fn recovered(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Recovered { incarnation: OURS })
}

#[test]
fn a_store_that_recovers_pulls_from_everybody_at_once_and_is_told_when_that_has_healed() {
    let (a, b) = (Peer::new(3), Peer::new(4));
    let mut bench = Bench::new(&[a.node, b.node], &[]);
    bench.sensor(&[a.node, b.node]);
    bench.recovering = true;
    assert!(notices(&bench.seals(1)).contains(&&Notice::Recovering));
    assert!(bench.coordinator.status(bench.now).recovering);
    let effects = a.heartbeat(&mut bench, false);
    let [(peer, Cause::Recovery, first)] = started(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(peer, a.node, "the first difference is enough");
    let effects = b.heartbeat(&mut bench, false);
    let [(_, Cause::Recovery, second)] = started(&effects)[..] else { panic!("{effects:?}") };
    assert!(!recovered(&a.heal(&mut bench, first)));
    assert!(recovered(&b.heal(&mut bench, second)));
    assert!(!recovered(&bench.pass(20)), "once");
    bench.recovering = false;
    let mut effects = bench.seals(1);
    assert!(notices(&effects).contains(&&Notice::Recovered));
    effects.extend(bench.pass(1));
    assert!(effects.contains(&Effect::Announce { to: Recipients::All }), "others learn of it soon");
    assert_eq!(started(&bench.pass(20)), []);
}

#[test]
fn a_peer_that_recovers_too_does_not_end_it() {
    let a = Peer::new(3);
    let mut bench = Bench::new(&[a.node], &[]);
    bench.sensor(&[a.node]);
    bench.recovering = true;
    let effects = a.heartbeat(&mut bench, true);
    let id = started(&effects)[0].2;
    assert!(!recovered(&a.heal(&mut bench, id)));
    bench.pass(10);
    assert_eq!(started(&a.heartbeat(&mut bench, true)), []);
    let effects = a.heartbeat(&mut bench, false);
    let id = started(&effects)[0].2;
    assert!(recovered(&a.heal(&mut bench, id)), "it has recovered, and knows");
}

#[test]
fn a_pull_for_recovery_that_fails_waits_for_its_backoff() {
    let a = Peer::new(3);
    let mut bench = Bench::new(&[a.node], &[]);
    bench.sensor(&[a.node]);
    bench.recovering = true;
    let effects = a.heartbeat(&mut bench, false);
    let id = started(&effects)[0].2;
    let (number, _, _) = question(&mut bench, id);
    let refused = Answer::Refused(Refusal { reason: Reason::Busy, detail: "later".into() });
    let event = a.reply(number, refused);
    let effects = bench.hear(Event::Pull { id, event });
    assert_eq!(ended(&effects), [(a.node, Outcome::Refused)]);
    assert_eq!(started(&effects), []);
    assert_eq!(started(&a.heartbeat(&mut bench, false)), []);
    assert_eq!(started(&bench.pass(10)).len(), 1, "again, after a while");
}

/// What a repair asks, of which peer.
fn asks(effects: &[Effect]) -> Option<(NodeId, pull::Id, u64, Ask)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Exchange { pull, number, peer, request, .. } => {
            Some((*peer, *pull, *number, request.ask.clone()))
        }
        _ => None,
    })
}

#[test]
fn damaged_entries_are_looked_for_at_live_peers_that_do_not_recover() {
    let (a, b) = (Peer::new(3), Peer::new(4));
    let mut bench = Bench::new(&[a.node, b.node], &[]);
    bench.sensor(&[a.node, b.node]);
    a.heartbeat(&mut bench, true);
    b.heartbeat(&mut bench, false);
    bench.damaged = 1;
    let listed =
        |effects: &[Effect]| effects.contains(&Effect::ListDamaged { after: None, limit: pull::LOST_MAX });
    assert!(listed(&bench.seals(1)));
    assert_eq!(bench.coordinator.status(bench.now).damaged, 1);
    let entry = crate::tree::fixture::entry(1, 1_001);
    let lost = pull::Lost { key_hash: entry.key.hash(), head: None };
    let effects = bench.hear(Event::Damaged { lost: vec![lost], more: None });
    assert!(notices(&effects).is_empty(), "one line when it has ended");
    let [(peer, Cause::Repair, id)] = started(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(peer, b.node);
    let Some((_, _, number, Ask::Fetch { buckets, .. })) = asks(&effects) else { panic!("{effects:?}") };
    assert_eq!((buckets[0].position, &buckets[0].keys), (Position::ROOT, &vec![lost.key_hash]));

    let crate::tree::Node::Bucket(heads) = b.tree.node(&Position::ROOT) else { panic!("three are a bucket") };
    let index = heads.iter().position(|head| *head == entry.head()).expect("the tree has the entry");
    let bucket = PageBucket::of(&heads, &buckets[0].known, vec![(index, entry.clone())]);
    let page = Page { position: Position::ROOT, bucket };
    let event = b.reply(
        number,
        Answer::Fetch { seal: b.seal(bench.epoch + 100), pages: vec![page], chains: Chains::default() },
    );
    let effects = bench.hear(Event::Pull { id, event });
    assert!(effects.contains(&Effect::Merge { pull: id, entries: vec![entry], repair: true }));
    let counts = pull::MergeCounts { merged: 1, repaired: 1, ..Default::default() };
    let effects = bench.hear(Event::Pull { id, event: pull::Event::Merged(counts) });
    assert_eq!(ended(&effects), [(b.node, Outcome::Healed)]);
    bench.damaged = 0;
    bench.seals(1);
    assert!(!listed(&bench.pass(400)), "all is mended");
}

#[test]
fn a_repair_holds_up_no_pull_and_is_no_heal() {
    let a = Peer::new(3);
    let mut bench = Bench::new(&[a.node], &[]);
    bench.sensor(&[a.node]);
    a.heartbeat(&mut bench, false);
    bench.damaged = 1;
    bench.seals(1);
    let lost = pull::Lost { key_hash: crate::model::KeyHash(Digest([7; 32])), head: None };
    let effects = bench.hear(Event::Damaged { lost: vec![lost], more: None });
    let (_, id, number, _) = asks(&effects).expect("the repair asks");
    let effects = bench.hear(Event::Reconcile { token: 1, peer: Some(a.node) });
    assert_eq!(started(&effects), [], "after the repair");
    let effects = bench.pull_fails(id, number, Failure::TimedOut);
    assert_eq!(ended(&effects), [(a.node, Outcome::TimedOut)]);
    let [(_, Cause::Operator, _)] = started(&effects)[..] else { panic!("{effects:?}") };
    let status = bench.coordinator.status(bench.now);
    assert_eq!((status.peers[0].errors, status.peers[0].divergence_count), (1, 1));
    assert!(status.peers[0].last_error.starts_with("repair: TimedOut"), "{}", status.peers[0].last_error);
}
