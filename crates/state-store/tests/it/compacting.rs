//! Compacting the files of a stopped store: what the service finds afterwards, and what is refused.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lattice_runtime::Config;
use lattice_runtime::config::Engine;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use state_store::{compact, offline};

use crate::full_disk::Disk;
use crate::harness::{Store, config, folder};

/// Tells the process that compacts where; set by the test that kills it.
const FOLDER: &str = "LATTICE_COMPACT_FOLDER";
const KILLS: usize = 12;
const KEYS: usize = 400;

fn value(number: usize, round: usize) -> String {
    format!("{number} {round} ").repeat(20 + number % 400)
}

/// Overwrites all keys several times.
async fn overwrite(store: &Store, rounds: std::ops::Range<usize>) {
    for round in rounds {
        for number in 0..KEYS {
            store.put(&format!("key-{number}"), &value(number, round)).await;
        }
    }
}

async fn holds(store: &Store, round: usize) {
    for number in 0..KEYS {
        let found = store.get(&format!("key-{number}")).await;
        assert!(
            found.is_some_and(|found| found == value(number, round)),
            "key-{number} after {round} rounds"
        );
    }
}

fn run(config: &Config, to: Option<Engine>) -> Result<compact::Compacted, compact::Error> {
    compact::run(config, to, |_, _, _| {})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_compacted_between_two_runs_and_never_during_one() {
    let folder = folder();
    let mut config = config(folder.path(), None);
    let refused = |config: &Config, expected: &str| {
        let error = run(config, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&config, "there is no store");
    let store = Store::start(&config).await;
    overwrite(&store, 0..4).await;
    refused(&config, "in use by another process");
    let before = store.sealed(KEYS as u64).await;
    store.stop().await;

    let done = run(&config, None).unwrap();
    println!("{done:?}");
    assert!(done.after.1 < done.before.1 && done.records > KEYS as u64);
    assert!(offline::check(&config, |_, _| {}).unwrap().is_clean());
    for round in 3..6 {
        let store = Store::start(&config).await;
        holds(&store, round).await;
        let seals = store.sealed(KEYS as u64).await;
        assert_eq!(seals.incarnation, before.incarnation);
        overwrite(&store, round + 1..round + 2).await;
        store.stop().await;
        run(&config, None).unwrap();
    }
    config.store.engine = Engine::Memory;
    refused(&config, "a store in memory");
}

#[cfg(feature = "redb")]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_the_other_engine_and_back_whatever_is_configured() {
    let folder = folder();
    let mut config = config(folder.path(), None);
    let store = Store::start(&config).await;
    overwrite(&store, 0..1).await;
    let before = store.sealed(KEYS as u64).await;
    store.stop().await;
    for (round, to) in [Engine::Redb, Engine::Redb, Engine::Sled].into_iter().enumerate() {
        // Before or after it is configured.
        if round == 1 {
            config.store.engine = to;
        }
        let done = run(&config, Some(to)).unwrap();
        assert_eq!(done.after.0, to.name());
        if config.store.engine != to {
            let error = run(&config, None).unwrap_err().to_string();
            assert!(error.contains("store.engine") && error.contains(to.name()), "{error}");
        }
        config.store.engine = to;
        let store = Store::start(&config).await;
        holds(&store, 0).await;
        assert_eq!(store.seals().await.incarnation, before.incarnation);
        store.stop().await;
    }
}

#[cfg(not(feature = "redb"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_an_engine_that_was_left_out_is_refused_by_name() {
    let folder = folder();
    let config = config(folder.path(), None);
    Store::start(&config).await.stop().await;
    let error = run(&config, Some(Engine::Redb)).unwrap_err().to_string();
    assert!(error.ends_with("redb is not built into this binary, which has sled, memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_the_copy_everything_stays_as_it_was() {
    let folder = folder();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), 320) else { return };
    let config = config(&folder.path().join("disk/data"), None);
    let store = Store::start(&config).await;
    overwrite(&store, 0..1).await;
    for number in 0..300 {
        store.put(&format!("long-{number}"), &"x".repeat(100_000)).await;
    }
    store.stop().await;
    // Too little to begin with, though a node could still start; enough for a while.
    for free in [70, 97] {
        disk.leave(free);
        let error = run(&config, None).unwrap_err();
        println!("with {free} MiB: {error}");
        assert!(matches!(error, compact::Error::Room { .. }), "{error}");
        assert!(error.to_string().contains("data/store: its disk has no room"), "{error}");
        assert!(!config.node.data_dir.join("store/compacting").exists());
        disk.clear();
    }
    run(&config, None).unwrap();
    let store = Store::start(&config).await;
    holds(&store, 0).await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_nothing() {
    let folder = folder();
    let config = config(folder.path(), None);
    let store = Store::start(&config).await;
    overwrite(&store, 0..2).await;
    store.stop().await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let started = std::time::Instant::now();
    assert!(child(folder.path()).wait().unwrap().success());
    let whole = started.elapsed();
    let mut killed = 0;
    for round in 1..=KILLS {
        let mut child = child(folder.path());
        tokio::time::sleep(whole.mul_f64(chance.random_range(0.1..1.1))).await;
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        if round % 3 == 0 {
            let store = Store::start(&config).await;
            holds(&store, 1).await;
            store.stop().await;
            assert!(!folder.path().join("store/compacting").exists());
        }
    }
    println!("{killed} of {KILLS} were killed before the end, which takes {whole:?}");
    run(&config, None).unwrap();
    assert!(offline::check(&config, |_, _| {}).unwrap().is_clean());
}

fn child(folder: &Path) -> std::process::Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", "compacting::the_process_that_is_killed", "--ignored"]);
    command.env(FOLDER, folder).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "run by a_kill_at_any_moment_loses_nothing"]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    run(&config(Path::new(&folder), None), None).unwrap();
    std::thread::sleep(Duration::from_millis(20));
}
