use std::time::Instant;
use crate::harness::{Store, config, folder, put, bytes};
#[tokio::test(flavor = "multi_thread")]
async fn tmp_bench() {
    let folder = folder();
    let mut config = config(folder.path(), None);
    config.store.epoch_ms = 1000; config.store.settle_ms=2000; config.store.settle_max_ms=10000;
    let store = Store::start(&config).await;
    for clients in [1usize, 16, 64, 256] {
        let n = 4000usize;
        let began = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for c in 0..clients {
            let mut kv = store.kv.clone();
            set.spawn(async move { for i in 0..n/clients { kv.put(put(&format!("key/{clients}/{c}/{i}"), &"x".repeat(100))).await.unwrap(); } });
        }
        set.join_all().await;
        println!("{clients} clients: {:.0} puts/s", n as f64 / began.elapsed().as_secs_f64());
    }
    let began = Instant::now();
    let mut kv = store.kv.clone();
    for b in 0..100 {
        let operations = (0..1000).map(|i| lattice_proto::kv::v1::Operation { operation: Some(lattice_proto::kv::v1::operation::Operation::Put(put(&format!("batch/{b}/{i}"), &"x".repeat(100)))) }).collect();
        kv.batch(lattice_proto::kv::v1::BatchRequest { operations }).await.unwrap();
    }
    println!("100 batches of 1000: {:?}", began.elapsed());
    store.sealed(4000*4 - (4000%64) as u64 - (4000 % 256) as u64 - 4000%16 + 100_000).await;
    println!("sealed after {:?}", began.elapsed());
    let began = Instant::now();
    for i in 0..2000 { let _ = store.get(&format!("batch/{}/{i}", i % 100)).await; }
    println!("get: {:?} each", began.elapsed() / 2000);
    let _ = bytes("x");
    let text = store.runtime.metrics.encode();
    for l in text.lines().filter(|l| l.starts_with("lattice_store_commit_duration") || l.contains("pending")) { println!("{l}"); }
    let du = std::process::Command::new("du").arg("-sm").arg(folder.path()).output().unwrap();
    println!("{}", String::from_utf8_lossy(&du.stdout));
    store.stop().await;
}
