//! Table tests of the dialer: events in, dials out.

use super::*;

const BOUNDS: Bounds = Bounds { min: Duration::from_millis(100), max: Duration::from_secs(10) };

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn at(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms))
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

const HERE: &str = "/ip4/10.0.0.1/tcp/9000";
const THERE: &str = "/ip4/10.0.0.2/tcp/9000";

struct Bench {
    dialer: Dialer,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(bootstrap: &[(&str, Option<u8>)]) -> Self {
        let bootstrap: Vec<Bootstrap> = bootstrap
            .iter()
            .map(|(address, n)| Bootstrap { address: addr(address), node: n.map(node) })
            .collect();
        Self { dialer: Dialer::new(at(0), node(0), &bootstrap, BOUNDS, 1), effects: Vec::new() }
    }

    fn send(&mut self, ms: u64, event: Event) -> Vec<Effect> {
        self.dialer.handle(at(ms), event, &mut self.effects);
        std::mem::take(&mut self.effects)
    }

    fn trust(&mut self, ms: u64, nodes: &[u8]) -> Vec<Effect> {
        self.send(ms, Event::Trust(nodes.iter().map(|n| node(*n)).collect()))
    }

    fn dialled(&mut self, ms: u64, target: &Target, address: &str, outcome: Outcome) -> Vec<Effect> {
        self.send(ms, Event::Dialled { target: target.clone(), address: Some(addr(address)), outcome })
    }
}

fn place(text: &str) -> Target {
    Target::Address(addr(text))
}

fn dial(target: &Target, address: &str) -> Effect {
    let node = match target {
        Target::Address(_) => None,
        Target::Peer(node) => Some(*node),
    };
    Effect::Dial { target: target.clone(), node, addresses: vec![addr(address)] }
}

#[test]
fn who_trusts_nobody_dials_nobody() {
    let mut bench = Bench::new(&[(THERE, None), (HERE, Some(1))]);
    assert_eq!(bench.send(1, Event::Tick), []);
    // Trusting oneself is trusting nobody.
    assert_eq!(bench.trust(2, &[0]), []);
    assert_eq!(bench.dialer.deadline(), None);
    assert_eq!(bench.trust(3, &[0, 1]).len(), 2);
}

#[test]
fn a_failed_address_is_dialled_for_ever_with_bounded_delays() {
    let mut bench = Bench::new(&[(THERE, None)]);
    let target = place(THERE);
    let mut effects = bench.trust(0, &[1]);
    let (mut now, mut longest) = (0, 0);
    for _ in 0..50 {
        assert_eq!(effects, [dial(&target, THERE)]);
        assert_eq!(bench.dialer.deadline(), None, "one dial at a time");
        assert_eq!(bench.dialled(now, &target, THERE, Outcome::Failed), []);
        let due = bench.dialer.deadline().unwrap();
        let delay = due.since(at(now)).as_millis() as u64;
        assert!((50..=10_000).contains(&delay), "{delay}");
        longest = longest.max(delay);
        now += delay + 1;
        effects = bench.send(now, Event::Tick);
    }
    assert!(longest > 5_000);
}

#[test]
fn an_address_rests_while_whom_it_led_to_is_connected() {
    let mut bench = Bench::new(&[(THERE, None)]);
    let target = place(THERE);
    bench.trust(0, &[1]);
    bench.send(10, Event::Connected { node: node(1) });
    bench.dialled(10, &target, THERE, Outcome::Found(node(1)));
    assert_eq!(bench.dialer.deadline(), None);
    bench.send(20_000, Event::Disconnected { node: node(1) });
    let due = bench.dialer.deadline().unwrap();
    assert!(due.since(at(20_000)) <= BOUNDS.min);
    assert_eq!(bench.send(20_200, Event::Tick), [dial(&target, THERE)]);
}

#[test]
fn a_connection_that_never_lasts_is_retried_ever_more_slowly() {
    let mut bench = Bench::new(&[(THERE, Some(1))]);
    let target = Target::Peer(node(1));
    let mut effects = bench.trust(0, &[1]);
    let mut now = 0;
    for _ in 0..12 {
        assert_eq!(effects, [dial(&target, THERE)]);
        bench.send(now, Event::Connected { node: node(1) });
        bench.dialled(now, &target, THERE, Outcome::Found(node(1)));
        bench.send(now + 1, Event::Disconnected { node: node(1) });
        now += 20_000;
        effects = bench.send(now, Event::Tick);
    }
    bench.send(now, Event::Connected { node: node(1) });
    bench.dialled(now, &target, THERE, Outcome::Found(node(1)));
    bench.send(now + 1, Event::Disconnected { node: node(1) });
    assert!(bench.dialer.deadline().unwrap().since(at(now)) > Duration::from_secs(4));
}

#[test]
fn ones_own_address_is_recognized_and_left_alone() {
    let mut bench = Bench::new(&[(HERE, None)]);
    assert_eq!(bench.trust(0, &[1]).len(), 1);
    bench.dialled(1, &place(HERE), HERE, Outcome::Own);
    assert_eq!(bench.dialer.deadline(), None);
    let mut named = Bench::new(&[(HERE, Some(0))]);
    assert_eq!(named.trust(0, &[0, 1]), []);
}

#[test]
fn a_name_is_resolved_in_every_round_and_stands_for_all_its_addresses() {
    let name = "/dns4/lattice/tcp/9000";
    let mut bench = Bench::new(&[(name, None)]);
    let target = place(name);
    let resolve = Effect::Resolve { target: target.clone(), addresses: vec![addr(name)] };
    assert_eq!(bench.trust(0, &[1, 2]), std::slice::from_ref(&resolve));
    let resolved = Event::Resolved { target: target.clone(), addresses: vec![addr(HERE), addr(THERE)] };
    assert_eq!(bench.send(1, resolved.clone()), [dial(&target, HERE), dial(&target, THERE)]);
    bench.dialled(2, &target, HERE, Outcome::Own);
    bench.send(2, Event::Connected { node: node(1) });
    bench.dialled(2, &target, THERE, Outcome::Found(node(1)));
    // All is well, yet the name may come to stand for more.
    assert_eq!(bench.dialer.deadline(), Some(at(2) + BOUNDS.max));
    assert_eq!(bench.send(10_100, Event::Tick), [resolve]);
    let third = "/ip4/10.0.0.3/tcp/9000";
    let resolved = Event::Resolved { target: target.clone(), addresses: vec![addr(THERE), addr(third)] };
    assert_eq!(bench.send(10_101, resolved), [dial(&target, third)]);
}

#[test]
fn a_name_that_does_not_resolve_is_asked_again() {
    let name = "/dns4/lattice/tcp/9000";
    let mut bench = Bench::new(&[(name, Some(1))]);
    let target = Target::Peer(node(1));
    assert_eq!(bench.trust(0, &[1]).len(), 1);
    bench.send(1, Event::Resolved { target: target.clone(), addresses: Vec::new() });
    assert!(bench.dialer.deadline().is_some());
    assert_eq!(bench.send(1_000, Event::Tick), [Effect::Resolve { target, addresses: vec![addr(name)] }]);
}

#[test]
fn a_peer_is_dialled_where_it_says_it_listens() {
    let mut bench = Bench::new(&[]);
    bench.trust(0, &[1]);
    bench.send(1, Event::Connected { node: node(1) });
    bench.send(1, Event::Learned { node: node(1), addresses: vec![addr(THERE)] });
    bench.send(1, Event::Learned { node: node(2), addresses: vec![addr(HERE)] });
    assert_eq!(bench.dialer.deadline(), None);
    bench.send(2, Event::Disconnected { node: node(1) });
    assert_eq!(bench.send(5_000, Event::Tick), [dial(&Target::Peer(node(1)), THERE)]);
    // A peer that is no longer trusted is forgotten once its round has ended.
    bench.trust(5_001, &[2]);
    bench.send(
        5_002,
        Event::Dialled { target: Target::Peer(node(1)), address: None, outcome: Outcome::Failed },
    );
    assert!(bench.dialer.targets.is_empty());
}

#[test]
fn learned_addresses_are_bounded_and_the_newest_win() {
    let mut bench = Bench::new(&[]);
    bench.trust(0, &[1]);
    for port in 1..=100 {
        let addresses = vec![addr(&format!("/ip4/10.0.0.2/tcp/{port}"))];
        bench.send(0, Event::Learned { node: node(1), addresses });
        if port == 1 {
            bench.send(0, Event::Connected { node: node(1) });
        }
    }
    let entry = &bench.dialer.targets[&Target::Peer(node(1))];
    assert_eq!(entry.learned.len(), LEARNED_MAX);
    assert_eq!(entry.learned[0], addr("/ip4/10.0.0.2/tcp/100"));
}

#[test]
fn new_trust_and_a_reset_dial_at_once() {
    let mut bench = Bench::new(&[(THERE, None)]);
    let target = place(THERE);
    bench.trust(0, &[1]);
    for ms in [0, 1_000, 2_000, 3_000] {
        bench.send(ms, Event::Tick);
        bench.dialled(ms, &target, THERE, Outcome::Found(node(9)));
    }
    assert_eq!(bench.trust(3_001, &[1, 9]), [dial(&target, THERE)]);
    bench.dialled(3_002, &target, THERE, Outcome::Failed);
    assert_eq!(bench.send(3_003, Event::Reset), [dial(&target, THERE)]);
}

#[test]
fn a_peer_whose_connections_seem_dead_is_dialled_beside_them() {
    let mut bench = Bench::new(&[(THERE, Some(1))]);
    let target = Target::Peer(node(1));
    bench.trust(0, &[1]);
    bench.send(0, Event::Connected { node: node(1) });
    bench.dialled(0, &target, THERE, Outcome::Found(node(1)));
    assert_eq!(bench.dialer.deadline(), None);
    bench.send(1_000, Event::Suspect { node: node(1), suspect: true });
    assert_eq!(bench.send(1_100, Event::Tick), [dial(&target, THERE)]);
    bench.dialled(1_200, &target, THERE, Outcome::Found(node(1)));
    bench.send(1_200, Event::Suspect { node: node(1), suspect: false });
    assert_eq!(bench.dialer.deadline(), None);
}

#[test]
fn rounds_in_progress_are_bounded() {
    let texts: Vec<String> = (1..=200).map(|n| format!("/ip4/10.0.0.{n}/tcp/9000")).collect();
    let bootstrap: Vec<(&str, Option<u8>)> = texts.iter().map(|text| (text.as_str(), None)).collect();
    let mut bench = Bench::new(&bootstrap);
    assert_eq!(bench.trust(0, &[1]).len(), ROUNDS_MAX);
    assert_eq!(bench.dialer.deadline(), None, "only the end of a round makes room");
    assert_eq!(bench.dialled(1, &place(&texts[0]), &texts[0], Outcome::Failed).len(), 1);
}
