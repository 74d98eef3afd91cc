//! Our own incarnation, when peers' words stand against it.

use super::*;
use crate::hearing::Register;

const DAY: u64 = 24 * 3_600;

/// Heartbeats this far apart, so that days pass in little time.
fn bench(trusted: &[NodeId], memory: &Memory) -> Bench {
    let now = Monotonic(Duration::from_secs(1_000));
    let config = Config { heartbeat_interval: Duration::from_secs(600), ..config(trusted, &[]) };
    let coordinator = Coordinator::new(config, now, WallTime(WALL), memory);
    let mut bench = Bench { coordinator, now, sequence: 0, epoch: 1_000, recovering: false, damaged: 0 };
    bench.seals(1);
    bench.sensor(trusted);
    bench
}

/// Our store speaks in this incarnation.
fn store(bench: &mut Bench, incarnation: Incarnation) -> Vec<Effect> {
    bench.hear(Event::Seals(OwnSeals {
        incarnation,
        damage_generation: 0,
        runs: runs(3, 1),
        recovering: false,
        damaged: 0,
    }))
}

fn disowned(bench: &mut Bench, peer: NodeId, incarnation: Incarnation) -> Vec<Effect> {
    bench.hear(Event::Disowned { peer, incarnation })
}

/// The incarnation that the store is to replace.
fn reincarnate(effects: &[Effect]) -> Option<Incarnation> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reincarnate { incarnation } => Some(*incarnation),
        _ => None,
    })
}

fn nth(n: u64) -> Incarnation {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Incarnation(bytes)
}

#[test]
fn a_rolled_back_disk_becomes_another_incarnation_before_it_speaks_again() {
    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    bench.hear(Event::Sequence { incarnation: OURS, last: 50 });
    let hello = |bench: &mut Bench, sequence, epoch, own_incarnation| {
        let (time, wall) = (bench.wall(), bench.wall());
        bench.hear(Event::Greeted {
            peer: A,
            route: Route::P2p,
            incarnation: incarnation(A),
            own_incarnation,
            heard_sequence: sequence,
            heard_epoch: Epoch(epoch),
            time,
            wall,
        })
    };
    let reincarnate = Effect::Reincarnate { incarnation: OURS };
    assert!(!hello(&mut bench, 50, 1_000, OURS).contains(&reincarnate));
    assert!(!hello(&mut bench, 99, 1_000, Incarnation([5; 16])).contains(&reincarnate), "of another store");
    assert!(hello(&mut bench, 51, 1_000, OURS).contains(&reincarnate));
    assert!(!hello(&mut bench, 51, 1_000, OURS).contains(&reincarnate), "once");
    assert!(!bench.pass(20).iter().any(|effect| matches!(effect, Effect::Announce { .. })));
    let other = OwnSeals {
        incarnation: Incarnation([101; 16]),
        damage_generation: 0,
        runs: runs(3, 1),
        recovering: false,
        damaged: 0,
    };
    bench.hear(Event::Seals(other));
    assert!(bench.pass(5).contains(&Effect::Announce { to: Recipients::All }));

    let mut bench = Bench::new(&[A], &[]);
    bench.sensor(&[A]);
    assert!(hello(&mut bench, 0, 9_999, OURS).contains(&reincarnate), "a later epoch tells as well");
}

#[test]
fn a_store_that_hands_a_number_out_again_was_rolled_back_under_us() {
    let mut bench = bench(&[A], &Memory::default());
    let sequence = |last| Event::Sequence { incarnation: OURS, last };
    assert_eq!(bench.hear(sequence(50)), []);
    assert_eq!(bench.hear(sequence(51)), []);
    let effects = bench.hear(sequence(40));
    assert_eq!(reincarnate(&effects), Some(OURS));
    assert!(matches!(notices(&effects)[..], [Notice::RolledBack { peer: None, heard_sequence: 51, .. }]));
    store(&mut bench, nth(1));
    assert_eq!(bench.hear(Event::Sequence { incarnation: nth(1), last: 41 }), [], "another one counts anew");
}

#[test]
fn a_store_that_was_replaced_becomes_another_incarnation_at_once() {
    let mut bench = bench(&[A], &Memory::default());
    assert_eq!(disowned(&mut bench, STRANGER, OURS), [], "a stranger's word is none");
    assert_eq!(disowned(&mut bench, A, nth(1)), [], "asked in an incarnation of before");
    let effects = disowned(&mut bench, A, OURS);
    let told = Notice::Disowned { peer: A, incarnation: OURS, renewed_in: Duration::ZERO };
    assert_eq!(notices(&effects), [&told]);
    assert!(effects.contains(&Effect::Remember), "the next one has to wait, also after a restart");
    assert_eq!(reincarnate(&effects), Some(OURS));
    assert_eq!(disowned(&mut bench, A, OURS), [], "once");
    assert!(!bench.coordinator.status(bench.now).heartbeat_active, "nothing is said in the old one's name");
    store(&mut bench, nth(1));
    assert!(bench.coordinator.status(bench.now).heartbeat_active);
}

#[test]
fn a_disk_that_was_rolled_back_to_an_incarnation_that_was_given_up_gets_another_at_once() {
    let mut bench = bench(&[A], &Memory::default());
    assert_eq!(reincarnate(&disowned(&mut bench, A, OURS)), Some(OURS));
    assert_eq!(reincarnate(&store(&mut bench, OURS)), None, "it was read before the store began the new one");
    assert_eq!(reincarnate(&store(&mut bench, nth(1))), None);
    // Nobody who could say so hears anything of us: nothing is said in its name.
    let effects = store(&mut bench, OURS);
    assert_eq!(notices(&effects), [&Notice::Reappeared { incarnation: OURS }]);
    assert_eq!(reincarnate(&effects), Some(OURS));
    assert!(!bench.coordinator.status(bench.now).heartbeat_active);
    assert_eq!(reincarnate(&store(&mut bench, nth(2))), None);
    assert!(bench.coordinator.status(bench.now).heartbeat_active);
}

#[test]
fn a_member_that_lies_makes_us_start_over_ever_more_rarely_and_never_silences_us() {
    let mut bench = bench(&[A, B], &Memory::default());
    let (mut present, mut count) = (OURS, 0);
    for _ in 0..10 * DAY / 300 {
        let mut effects = disowned(&mut bench, A, present);
        let (time, wall) = (bench.wall(), bench.wall());
        // And the other lie to the same end.
        effects.extend(bench.hear(Event::Greeted {
            peer: A,
            route: Route::P2p,
            incarnation: incarnation(A),
            own_incarnation: present,
            heard_sequence: u64::MAX,
            heard_epoch: Epoch(u64::MAX),
            time,
            wall,
        }));
        effects.extend(bench.pass(300));
        while let Some(replaced) = reincarnate(&effects) {
            assert_eq!(replaced, present);
            count += 1;
            present = nth(count);
            store(&mut bench, present);
            effects = disowned(&mut bench, A, present);
        }
        assert!(bench.coordinator.status(bench.now).heartbeat_active, "we go on until one may be started");
    }
    assert!((10..=20).contains(&count), "{count} in ten days");
}

#[test]
fn while_a_new_incarnation_has_to_wait_operators_know_until_when_and_a_restart_forgets_nothing() {
    let mut first = bench(&[A], &Memory::default());
    disowned(&mut first, A, OURS);
    let memory = first.coordinator.memory(first.now, first.wall());
    let mut bench = bench(&[A], &memory);
    let effects = disowned(&mut bench, A, OURS);
    let told = Notice::Disowned { peer: A, incarnation: OURS, renewed_in: Duration::from_secs(300) };
    assert_eq!(effects, [Effect::Notice(told)]);
    assert_eq!(disowned(&mut bench, A, OURS), [], "told once");
    assert_eq!(reincarnate(&bench.pass(299)), None);
    assert_eq!(reincarnate(&bench.pass(1)), Some(OURS));

    store(&mut bench, nth(1));
    disowned(&mut bench, A, nth(1));
    store(&mut bench, nth(2));
    assert_eq!(reincarnate(&bench.pass(DAY)), None, "the store began a new one by itself");
}

#[test]
fn two_nodes_that_share_a_key_do_not_replace_each_other_for_ever() {
    let mut peer = Register::new("lattice".into(), EpochLength(NonZeroU32::MIN), Duration::ZERO);
    peer.set_trusted([US].into());
    let mut clones = [bench(&[A], &Memory::default()), bench(&[A], &Memory::default())];
    let mut present = [OURS, OURS];
    // Both began as one, and one of them was noticed.
    peer.confirm(US, OURS).unwrap();
    let mut made = 1;
    present[0] = nth(1);
    store(&mut clones[0], nth(1));
    for _ in 0..10 * DAY / 300 {
        for (clone, present) in clones.iter_mut().zip(&mut present) {
            let mut effects = match peer.confirm(US, *present) {
                Ok(()) => Vec::new(),
                Err(Refused::Replaced { .. }) => disowned(clone, A, *present),
                Err(other) => panic!("{other}"),
            };
            effects.extend(clone.pass(300));
            if reincarnate(&effects).is_some() {
                made += 1;
                *present = nth(made);
                store(clone, *present);
            }
        }
    }
    assert!((15..=40).contains(&made), "{made} in ten days");
}
