//! The writer over a disk that fails, is damaged, or is full.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{EpochLength, Incarnation, Key};
use lattice_proto::reason;
use lattice_runtime::Clock;
use tonic::Code;

use super::space::{ENOUGH_BYTES, LAST_BYTES, RESERVE_BYTES};
use super::{Idle, Space, Writable, Writer, now, writer};
use crate::engine::{Engine, Op, Origin, Reader, Settings};

use crate::metrics::Metrics;
use crate::storage::{Batch, Error, MemoryStorage, Storage, Visit};

/// The longest that any condition is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the test makes of a disk.
#[derive(Default)]
struct Faults {
    commits_fail: AtomicBool,
    /// The entry of key "met" cannot be read.
    reads_fail: AtomicBool,
    commits: AtomicU64,
}

/// A disk with faults.
struct Faulty {
    memory: MemoryStorage,
    faults: Arc<Faults>,
}

impl Storage for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if key.ends_with(b"met") && self.faults.reads_fail.load(Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(5).into());
        }
        self.memory.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        self.memory.range(from, to, visit)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        self.memory.last(from, to)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        self.faults.commits.fetch_add(1, Ordering::Relaxed);
        match self.faults.commits_fail.load(Ordering::Relaxed) {
            true => Err(std::io::Error::from_raw_os_error(5).into()),
            false => self.memory.commit(batch),
        }
    }
}

/// A store on a disk with faults, whose writer does not run yet.
struct Bench {
    faults: Arc<Faults>,
    clock: Clock,
    reader: Reader,
    writer: Writer,
    idle: Idle,
}

/// Epochs that end while a test waits, and ones that do not.
const SHORT_MS: u32 = 100;
const LONG_MS: u32 = u32::MAX;

impl Bench {
    /// `ops` are written already.
    fn new(space: Space, epoch_ms: u32, ops: &[Op]) -> Self {
        let (clock, faults) = (Clock::system(), Arc::<Faults>::default());
        let storage = Faulty { memory: MemoryStorage::new(), faults: Arc::clone(&faults) };
        let settings = Settings {
            cluster: "lattice".to_owned(),
            epoch_length: EpochLength(NonZeroU32::new(epoch_ms).unwrap()),
            settle: Duration::from_millis(100),
            settle_max: Duration::from_secs(1),
            retain_epochs: 30,
            max_clock_drift: Duration::from_secs(10),
            confirm_after: Duration::from_secs(60),
        };
        let incarnations = Box::new(|| Incarnation([1; 16]));
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut engine = Engine::open(storage, settings, key, incarnations, now(&clock)).unwrap();
        engine.write(ops, now(&clock)).unwrap();
        let reader = engine.reader();
        let metrics = Metrics::register(&lattice_runtime::Metrics::new());
        let (writer, idle) = writer(engine, space, clock.clone(), metrics);
        Self { faults, clock, reader, writer, idle }
    }

    fn holds(reader: &Reader, clock: &Clock, name: &str) -> bool {
        reader.get(&Key::try_from(name).unwrap(), now(clock)).unwrap().is_some()
    }
}

async fn stop(writer: Writer, thread: JoinHandle<()>) {
    tokio::task::spawn_blocking(move || writer.stop()).await.unwrap();
    thread.join().unwrap();
}

fn put(name: &str) -> Op {
    let key = Key::try_from(name).unwrap();
    Op::Put { key, value: Bytes::from_static(b"x"), ttl: None, condition: None }
}

/// Waits until the store takes writes, or does not.
async fn until(writer: &Writer, what: impl FnMut(&Writable) -> bool) {
    let mut writable = writer.published.writable.subscribe();
    tokio::time::timeout(DEADLINE, writable.wait_for(what)).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_fails_those_who_wait_and_ends_all_writing() {
    let Bench { faults, clock, reader, writer, idle } =
        Bench::new(Space::unlimited(), LONG_MS, &[put("before")]);
    let (thread, _ended) = idle.start().unwrap();

    faults.commits_fail.store(true, Ordering::Relaxed);
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..20 {
        let writer = writer.clone();
        waiting.spawn(async move { writer.write(vec![put(&format!("{number}"))], None).await });
    }
    let expected = "the store has failed: a commit did not reach the disk (disk: Input/output error (os error 5)); \
                    restart the node";
    for outcome in waiting.join_all().await {
        let status = outcome.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, expected));
    }
    assert_eq!(writer.published.writable.borrow().problem(), expected);
    // A disk that works again changes nothing: nobody knows what is on it.
    faults.commits_fail.store(false, Ordering::Relaxed);
    let refused = writer.write(vec![put("after")], None).await.unwrap_err();
    assert_eq!(refused.message(), expected);
    assert_eq!(writer.reserve(1).await.unwrap_err().code(), Code::Unavailable);
    // Reads go on.
    assert!(Bench::holds(&reader, &clock, "before"));
    assert!(!Bench::holds(&reader, &clock, "after"));
    stop(writer, thread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_error_fails_only_the_write_that_met_it() {
    let Bench { faults, clock, reader, writer, idle } =
        Bench::new(Space::unlimited(), LONG_MS, &[put("met")]);
    faults.reads_fail.store(true, Ordering::Relaxed);
    let commits = faults.commits.load(Ordering::Relaxed);
    // Queued before the writer runs: one group. Of the second, one operation is read before the error is met.
    let mut waiting = Vec::new();
    for ops in [vec![put("before")], vec![put("beside"), put("met")], vec![put("after")]] {
        let queued = writer.room.available_permits();
        let writing = writer.clone();
        waiting.push(tokio::spawn(async move { writing.write(ops, None).await }));
        let waits = async {
            while writer.room.available_permits() == queued {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, waits).await.expect("in time");
    }
    let (thread, _ended) = idle.start().unwrap();
    let mut outcomes = Vec::new();
    for waiting in waiting {
        outcomes.push(waiting.await.unwrap().map_err(|status| status.code()));
    }
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map(|written| written.len())).collect();
    assert_eq!(outcomes, [Ok(1), Err(Code::Unavailable), Ok(1)]);
    assert_eq!(faults.commits.load(Ordering::Relaxed), commits + 1, "they were one group");
    assert_eq!(*writer.published.writable.borrow(), Writable::Yes);
    faults.reads_fail.store(false, Ordering::Relaxed);
    for (name, held) in [("before", true), ("beside", false), ("after", true)] {
        assert_eq!(Bench::holds(&reader, &clock, name), held, "{name}");
    }
    stop(writer, thread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_seals_and_both_go_on_by_themselves() {
    let free = Arc::new(AtomicU64::new(ENOUGH_BYTES));
    let source = Arc::clone(&free);
    let space = Space::of(Box::new(move || Ok(source.load(Ordering::Relaxed))));
    let Bench { faults, clock, reader, writer, idle } = Bench::new(space, SHORT_MS, &[put("before")]);
    free.store(RESERVE_BYTES - 1, Ordering::Relaxed);
    let commits = faults.commits.load(Ordering::Relaxed);
    let (thread, _ended) = idle.start().unwrap();

    until(&writer, |writable| *writable != Writable::Yes).await;
    let refused = writer.write(vec![put("refused")], None).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason::of(&refused), Some(reason::DISK_FULL));
    assert_eq!(refused.message(), "the disk is full: 63 MiB are free, writes go on from 96 MiB");
    let refused = writer.merge(Vec::new(), Origin::Pull).await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::DISK_FULL));
    assert!(Bench::holds(&reader, &clock, "before"));
    // What was written before is due to be sealed, and is not.
    let due = clock.wall_ms() + 3 * u64::from(SHORT_MS);
    let passed = async {
        while clock.wall_ms() < due {
            writer.extend().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, passed).await.expect("in time");
    assert_eq!(reader.seals().runs.len(), 0);
    assert_eq!(faults.commits.load(Ordering::Relaxed), commits, "nothing is written");
    // The little that the node has to note still is, as long as there is anything left.
    assert_eq!(writer.reserve(1).await.unwrap().0, 1);
    free.store(LAST_BYTES - 1, Ordering::Relaxed);
    let refused = writer.reserve(1).await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::DISK_FULL));
    // A little more than the reserve is not enough to begin again.
    free.store(RESERVE_BYTES, Ordering::Relaxed);
    assert_eq!(writer.reserve(1).await.unwrap().0, 2);
    assert!(writer.write(vec![put("refused")], None).await.is_err());

    free.store(ENOUGH_BYTES, Ordering::Relaxed);
    until(&writer, |writable| *writable == Writable::Yes).await;
    writer.write(vec![put("after")], None).await.unwrap();
    let mut seals = writer.published.seals.subscribe();
    tokio::time::timeout(DEADLINE, seals.wait_for(|seals| seals.newest.is_some()))
        .await
        .expect("in time")
        .unwrap();
    for (name, held) in [("before", true), ("refused", false), ("after", true)] {
        assert_eq!(Bench::holds(&reader, &clock, name), held, "{name}");
    }
    stop(writer, thread).await;
}
