//! Kills the real store at random moments under load, and holds it to its word afterwards.
//!
//! After every kill the store must open as the same incarnation, have every write that it acknowledged, have
//! of a write in flight all or nothing, and never contradict a root that it published (`witness`). Now and
//! then the load pauses until everything is sealed, and the root must be the one that a tree made from
//! nothing has: made here, from what the clients know (`client`), not from what the store says.
//!
//! `CRASH_KILLS` says how many kills, `CRASH_SEED` which; both are printed, with the tally.

mod client;
mod witness;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lattice_core::model::EpochLength;
use lattice_core::tree::{Summary, apply};
use lattice_proto::store::v1 as store;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::harness::{clients, folder, until};
use crate::process::{EPOCH_MS, Process};
use client::{Client, Load};
use witness::Witness;

/// How many clients write; the last of them merges, as a coordinator does.
const CLIENTS: u64 = 8;
/// The root is compared after so many kills.
const COMPARE_EVERY: usize = 5;
/// The longest that a store runs between two kills, and before one that is to hit its opening.
const LOAD_MS_MAX: u64 = 600;
const OPENING_MS_MAX: u64 = 150;

/// What happened, for whoever reads the output.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    kills_while_opening: usize,
    acknowledged: u64,
    in_flight: u64,
    in_flight_kept: u64,
    roots_compared: u64,
    epochs_witnessed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_keeps_its_word_over_kills_at_any_moment() {
    let kills = variable("CRASH_KILLS").unwrap_or(25) as usize;
    let seed = variable("CRASH_SEED").unwrap_or_else(rand::random);
    println!("CRASH_KILLS={kills} CRASH_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = folder();
    let mut witness = Witness::default();
    let mut tally = Tally::default();
    let mut all: Vec<Client> = (0..CLIENTS)
        .map(|number| Client::new(number, number + 1 == CLIENTS, StdRng::seed_from_u64(chance.random())))
        .collect();

    while tally.kills < kills {
        if chance.random_bool(0.2) {
            let mut process = Process::spawn(folder.path(), &[]);
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..OPENING_MS_MAX))).await;
            process.kill();
            tally.kills += 1;
            tally.kills_while_opening += 1;
            continue;
        }
        let mut process = Process::start(folder.path()).await;
        settle(&process, &mut all, &mut tally).await;
        if tally.kills.is_multiple_of(COMPARE_EVERY) {
            compare(&process, &all, &mut witness).await;
            tally.roots_compared += 1;
        }

        let killed = Arc::new(AtomicBool::new(false));
        let watching = tokio::spawn(witness.watch(clients(&process.channel).1));
        let mut loads = JoinSet::new();
        for client in std::mem::take(&mut all) {
            loads.spawn(client.load(Load::new(&process.channel, &killed)));
        }
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..LOAD_MS_MAX))).await;
        killed.store(true, Ordering::SeqCst);
        process.kill();
        tally.kills += 1;
        all = loads.join_all().await;
        witness = watching.await.unwrap();
    }

    let process = Process::start(folder.path()).await;
    settle(&process, &mut all, &mut tally).await;
    compare(&process, &all, &mut witness).await;
    tally.roots_compared += 1;
    tally.acknowledged = all.iter().map(Client::acknowledged).sum();
    tally.epochs_witnessed = witness.epochs();
    println!("{tally:?}");
    assert!(tally.acknowledged > 0 && tally.epochs_witnessed > 0, "nothing was put to the test");
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: takes a number, got {value:?}")))
}

/// Holds the store to what its clients know, and makes an end of what was in flight.
async fn settle(process: &Process, all: &mut [Client], tally: &mut Tally) {
    for client in all {
        let (in_flight, kept) = client.verify(&process.channel).await;
        tally.in_flight += in_flight;
        tally.in_flight_kept += kept;
    }
}

/// Waits until all that the clients wrote is sealed, and compares the root with one made from nothing.
async fn compare(process: &Process, all: &[Client], witness: &mut Witness) {
    let heads: Vec<_> = all.iter().flat_map(Client::heads).collect();
    let length = EpochLength(EPOCH_MS.try_into().unwrap());
    let Some(newest) = heads.iter().map(|head| length.epoch_of(head.version.hlc.wall())).max() else {
        return;
    };
    let expected: Option<Summary> = apply(heads, |_| Ok::<_, Infallible>(None)).unwrap().root;
    let (_, store) = clients(&process.channel);
    until("all that was written is sealed", async || {
        let seals = store.clone().seals(store::SealsRequest {}).await.unwrap();
        let run = witness.note(seals.into_inner())?;
        // An entry that came late is sealed with a later epoch than its own.
        (run.to > newest && run.root == expected).then_some(())
    })
    .await;
}
