use std::time::Instant;
use super::fixture::*;
use crate::engine::{Engine, Origin};
use crate::storage::{MemoryStorage, SledStorage};

fn run(mut engine: Engine, name: &str) {
    let (mut merge, mut seal) = (0.0, 0.0);
    for batch in 0..50u64 {
        let entries: Vec<_> = (0..1_000).map(|n| entry(&format!("batch/{batch}/{n}"), batch * 1000 + 1, Some(&"x".repeat(100)))).collect();
        let began = Instant::now();
        engine.merge(entries, Origin::Pull, at(batch * 1000 + 5, batch * 1000 + 5)).unwrap();
        merge += began.elapsed().as_secs_f64();
        let began = Instant::now();
        engine.seal(at(batch * 1000 + 5, batch * 1000 + 5)).unwrap();
        seal += began.elapsed().as_secs_f64();
        if batch % 10 == 9 { println!("{name} {batch}: merge {merge:.2} seal {seal:.2}"); merge = 0.0; seal = 0.0; }
    }
}
#[test]
fn tmp_bench() {
    let s = MemoryStorage::new();
    run(open(s, 1, &settings(), at(0,0)), "memory");
    let folder = tempfile::tempdir().unwrap();
    let sled = SledStorage::open(folder.path(), 64 << 20).unwrap();
    run(open(sled, 1, &settings(), at(0,0)), "sled");
    let du = std::process::Command::new("du").arg("-sm").arg(folder.path()).output().unwrap();
    println!("{}", String::from_utf8_lossy(&du.stdout));
}
