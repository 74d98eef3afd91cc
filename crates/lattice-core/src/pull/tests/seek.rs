//! Repairs: pulls of single keys.

use super::*;

fn lost(entry: &Entry) -> Lost {
    Lost { key_hash: entry.key.hash(), head: Some(entry.head()) }
}

fn hashes<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeSet<KeyHash> {
    entries.into_iter().map(|entry| entry.key.hash()).collect()
}

/// Looks for keys to the end; what was merged.
fn seek(server: &mut Server, lost: &[Lost]) -> (Ended, Vec<Entry>) {
    let config = Config { cause: Cause::Repair, ..config() };
    let mut pull = Pull::repair(Monotonic::ZERO, config, lost);
    let mut events = VecDeque::from([Event::Start]);
    let (mut ended, mut merged) = (None, Vec::new());
    for step in 0..10_000_u64 {
        let Some(event) = events.pop_front() else { break };
        let mut effects = Vec::new();
        pull.handle(Monotonic(Duration::from_millis(step)), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Ask { number, request, announce, last, .. } => {
                    assert!(!announce && !last && request.pull.is_none(), "nobody is to answer in kind");
                    assert!(matches!(request.ask, Ask::Fetch { .. }));
                    let response = server.answer(&request);
                    let (incarnation, traffic) = (server.incarnation(), Traffic::default());
                    events.push_back(Event::Reply { number, incarnation, response, traffic });
                }
                Effect::Merge(entries) => {
                    let repaired = entries.len() as u64;
                    merged.extend(entries);
                    let counts = MergeCounts { merged: repaired, repaired, ..MergeCounts::default() };
                    events.push_back(Event::Merged(counts));
                }
                Effect::Ended(over) => ended = Some(*over),
                Effect::ReadLocalNodes(_) | Effect::Compare(_) => panic!("nothing is compared"),
            }
        }
    }
    assert_eq!(pull.deadline(), None, "over");
    (ended.expect("every repair ends"), merged)
}

fn repaired(ended: &Ended) -> (u64, u64, usize) {
    let repaired = ended.repaired.as_ref().expect("it is a repair");
    (repaired.sought, repaired.repaired, repaired.left.len())
}

#[test]
fn damaged_keys_are_found_wherever_they_hang() {
    for count in [1, 20, 300, 5_000] {
        let all = entries(0..count, 1_000);
        let wanted: Vec<Entry> = all.iter().step_by(usize::max(1, count as usize / 40)).cloned().collect();
        for manner in [Manner::Honest, Manner::Terse, Manner::Challenges] {
            let mut server = Server::new(Replica::of(all.clone()), manner);
            let (ended, merged) = seek(&mut server, &wanted.iter().map(lost).collect::<Vec<_>>());
            assert_eq!(ended.outcome, Outcome::Healed, "{}", ended.detail);
            assert_eq!(hashes(&merged), hashes(&wanted), "{manner:?}: these, and nothing else");
            let all = wanted.len() as u64;
            assert_eq!(repaired(&ended), (all, all, 0));
            assert_eq!((ended.entries_merged, ended.dominated), (all, None));
            if manner == Manner::Honest {
                assert!(ended.rounds <= 5, "keys go down together: {} rounds", ended.rounds);
            }
        }
    }
}

#[test]
fn what_the_peer_lacks_or_has_older_is_left() {
    let mut server = Server::new(Replica::of(entries(0..500, 1_000)), Manner::Honest);
    let newer = entry(3, 2_000);
    let absent = entry(9_000, 1_000);
    let unknown = Lost { head: None, ..lost(&entry(4, 1_000)) };
    let older_lost = lost(&entry(5, 500));
    let sought = [lost(&newer), lost(&absent), unknown, older_lost, lost(&entry(6, 1_000))];
    let (ended, merged) = seek(&mut server, &sought);
    assert_eq!(hashes(&merged), hashes(&entries(4..7, 1_000)), "also one whose version nobody knows");
    assert_eq!(ended.outcome, Outcome::Healed);
    let left = ended.repaired.unwrap().left;
    assert_eq!(left.len(), 2);
    assert!(left.contains(&lost(&newer)) && left.contains(&lost(&absent)));
}

#[test]
fn what_the_peer_cannot_read_itself_keeps_nothing_else_from_coming() {
    for unreadable in [vec![7], vec![0, 39], (10..20).collect()] {
        let mut server = Server::new(Replica::of(entries(0..40, 1_000)), Manner::Honest);
        let unreadable: Vec<Entry> = unreadable.into_iter().map(|number| entry(number, 1_000)).collect();
        server.unreadable = hashes(&unreadable);
        let sought: Vec<Lost> = entries(0..40, 1_000).iter().map(lost).collect();
        let (ended, merged) = seek(&mut server, &sought);
        assert_eq!(ended.outcome, Outcome::Healed, "{}", ended.detail);
        assert_eq!(merged.len(), 40 - unreadable.len());
        let left: BTreeSet<KeyHash> = ended.repaired.unwrap().left.iter().map(|lost| lost.key_hash).collect();
        assert_eq!(left, hashes(&unreadable));
    }
    let mut server = Server::new(Replica::of(entries(0..200, 1_000)), Manner::Honest);
    server.unreadable = hashes(&entries(0..200, 1_000));
    let sought: Vec<Lost> = entries(0..200, 1_000).iter().map(lost).collect();
    let (ended, _) = seek(&mut server, &sought);
    assert_eq!(ended.outcome, Outcome::Refused);
    assert!(ended.rounds < 200, "one that reads nothing is left alone: {} rounds", ended.rounds);
    assert_eq!(repaired(&ended), (200, 0, 200));
}

#[test]
fn seals_that_move_on_and_buckets_that_split_are_followed() {
    let mut server = Server::new(Replica::of(entries(0..30, 1_000)), Manner::Forgetful);
    server.splits = entries(30..2_000, 1_000);
    server.writes = entries(5_000..5_020, 1_000);
    let sought: Vec<Lost> =
        entries(0..30, 1_000).iter().map(lost).chain([lost(&entry(999, 1_000))]).collect();
    let (ended, merged) = seek(&mut server, &sought);
    assert_eq!(ended.outcome, Outcome::Healed, "{}", ended.detail);
    assert!(merged.len() >= 30);
}

#[test]
fn what_is_left_at_a_bucket_is_not_asked_beside_what_it_split_into() {
    let all = entries(0..29, 1_000);
    let mut server = Server::new(Replica::of(all.clone()), Manner::Honest);
    // It is refused while all hang in one bucket, and split before the next question: of three parts, the first
    // learns of that, and the last is asked for in one question with what has room beside it.
    server.unreadable = hashes([&entry(7, 1_000)]);
    server.splits = entries(29..2_000, 1_000);
    let (ended, merged) = seek(&mut server, &all.iter().map(lost).collect::<Vec<_>>());
    assert_eq!(ended.outcome, Outcome::Healed, "{}", ended.detail);
    let mut expected = hashes(&all);
    expected.remove(&entry(7, 1_000).key.hash());
    assert_eq!(hashes(&merged), expected);
}

#[test]
fn long_entries_whose_heads_are_told_at_first_come_too() {
    for count in [20, 3_000] {
        let all = entries(0..count, 1_000);
        let wanted: Vec<Entry> = all.iter().step_by(3).take(100).cloned().collect();
        for manner in [Manner::Reserved, Manner::Terse] {
            let mut server = Server::new(Replica::of(all.clone()), manner);
            let (ended, merged) = seek(&mut server, &wanted.iter().map(lost).collect::<Vec<_>>());
            assert_eq!(ended.outcome, Outcome::Healed, "{manner:?}: {}", ended.detail);
            assert_eq!(hashes(&merged), hashes(&wanted), "{manner:?}");
        }
    }
}

#[test]
fn nothing_that_is_not_proved_reaches_the_store() {
    for (manner, outcome) in [
        (Manner::ForgesEntries, Outcome::Lied),
        (Manner::BadSignature, Outcome::Lost),
        (Manner::Refuses, Outcome::Refused),
        (Manner::TwoRoots, Outcome::Lied),
        (Manner::Reborn, Outcome::Stale),
    ] {
        let mut server = Server::new(Replica::of(entries(0..3_000, 1_000)), manner);
        let sought: Vec<Lost> = entries(0..100, 1_000).iter().map(lost).collect();
        let (ended, merged) = seek(&mut server, &sought);
        assert_eq!(ended.outcome, outcome, "{manner:?}: {}", ended.detail);
        assert_eq!((merged.len(), repaired(&ended)), (0, (100, 0, 100)), "{manner:?}");
    }
}

#[test]
fn a_repair_whose_peer_falls_silent_ends() {
    let config = Config { cause: Cause::Repair, ..config() };
    let mut pull = Pull::repair(Monotonic::ZERO, config, &[lost(&entry(1, 1_000))]);
    let mut effects = Vec::new();
    pull.handle(Monotonic::ZERO, Event::Start, &mut effects);
    effects.clear();
    pull.handle(Monotonic(TIMEOUT), Event::Tick, &mut effects);
    let [Effect::Ended(ended)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((ended.outcome, repaired(ended)), (Outcome::TimedOut, (1, 0, 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is looked for, and wherever it hangs: just what the peer has, and can read, comes.
    #[test]
    fn just_what_the_peer_has_comes(
        held in prop::collection::btree_set(0..600_u64, 1..500),
        sought in prop::collection::btree_set(0..600_u64, 1..100),
        unreadable in prop::collection::btree_set(0..600_u64, 0..4),
        manner in prop::sample::select(vec![Manner::Honest, Manner::Terse, Manner::Challenges]),
    ) {
        let of = |numbers: &BTreeSet<u64>| -> Vec<Entry> {
            numbers.iter().map(|&number| entry(number, 1_000)).collect()
        };
        let mut server = Server::new(Replica::of(of(&held)), manner);
        server.unreadable = hashes(&of(&unreadable.intersection(&held).copied().collect()));
        let (ended, merged) = seek(&mut server, &of(&sought).iter().map(lost).collect::<Vec<_>>());
        prop_assert_eq!(ended.outcome, Outcome::Healed, "{}", ended.detail);
        let mut expected = hashes(&of(&held.intersection(&sought).copied().collect()));
        expected.retain(|key| !server.unreadable.contains(key));
        prop_assert_eq!(hashes(&merged), expected);
    }
}
