//! The writer over a disk that fails.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{EpochLength, Incarnation, Key};
use lattice_runtime::Clock;
use tonic::Code;

use super::{now, writer};
use crate::engine::{Engine, Op, Settings};
use crate::metrics::Metrics;
use crate::storage::{Batch, Error, MemoryStorage, Storage, Visit};

/// A disk whose commits fail once it is told so.
struct Failing {
    memory: MemoryStorage,
    fails: Arc<AtomicBool>,
}

impl Storage for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.memory.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.memory.range(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        self.memory.last(from, to)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(std::io::Error::from_raw_os_error(5).into()),
            false => self.memory.commit(batch),
        }
    }
}

fn put(name: &str) -> Vec<Op> {
    let key = Key::try_from(name).unwrap();
    vec![Op::Put { key, value: Bytes::from_static(b"x"), ttl: None, condition: None }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_fails_those_who_wait_and_ends_all_writing() {
    let (clock, fails) = (Clock::system(), Arc::new(AtomicBool::new(false)));
    let storage = Failing { memory: MemoryStorage::new(), fails: Arc::clone(&fails) };
    let settings = Settings {
        cluster: "lattice".to_owned(),
        epoch_length: EpochLength(NonZeroU32::new(1_000).unwrap()),
        settle: Duration::from_secs(2),
        settle_max: Duration::from_secs(10),
        retain_epochs: 30,
        max_clock_drift: Duration::from_secs(10),
        confirm_after: Duration::from_secs(60),
    };
    let incarnations = Box::new(|| Incarnation([1; 16]));
    let key = SigningKey::from_bytes(&[1; 32]);
    let engine = Engine::open(storage, settings, key, incarnations, now(&clock)).unwrap();
    let reader = engine.reader();
    let metrics = Metrics::register(&lattice_runtime::Metrics::new());
    let (writer, idle) = writer(engine, clock.clone(), metrics);
    let (thread, _ended) = idle.start().unwrap();

    writer.write(put("before"), None).await.unwrap();
    fails.store(true, Ordering::Relaxed);
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..20 {
        let writer = writer.clone();
        waiting.spawn(async move { writer.write(put(&format!("{number}")), None).await });
    }
    for outcome in waiting.join_all().await {
        assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    }
    assert!(*writer.published.failed.borrow());
    // A disk that works again changes nothing: nobody knows what is on it.
    fails.store(false, Ordering::Relaxed);
    let refused = writer.write(put("after"), None).await.unwrap_err();
    assert!(refused.message().starts_with("the store has failed"), "{refused}");
    assert_eq!(writer.reserve(1).await.unwrap_err().code(), Code::Unavailable);
    // Reads go on.
    assert!(reader.get(&Key::try_from("before").unwrap(), now(&clock)).unwrap().is_some());
    assert!(reader.get(&Key::try_from("after").unwrap(), now(&clock)).unwrap().is_none());
    tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    thread.join().unwrap();
}
