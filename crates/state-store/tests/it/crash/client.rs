//! A client with keys of its own, who remembers what it was told of each.
//!
//! One request is in flight at a time. When the store dies under it, either all of it happened or nothing, and
//! the next life of the store must show which; then the client writes all its keys again, so that there is no
//! doubt left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{Content, Entry, EntryHead, Hlc, Key, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::operation::Operation;
use lattice_proto::store::v1 as store;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::Clock;
use lattice_runtime::grpc::Channel;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tonic::Status;

use crate::harness::clients;

/// How many keys a client has.
const KEYS: u64 = 40;
/// The most operations of a batch.
const BATCH_MAX: u64 = 12;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client asks for.
#[derive(Clone, Debug)]
enum Wish {
    Put { key: Key, value: Bytes, ttl: Option<Duration> },
    Delete { key: Key },
    Batch(Vec<Wish>),
    Merge(Vec<Entry>),
}

/// The client.
pub(super) struct Client {
    number: u64,
    merges: bool,
    chance: StdRng,
    clock: Clock,
    written: u64,
    acknowledged: u64,
    known: BTreeMap<Key, Entry>,
    in_flight: Option<Wish>,
}

/// The store as it stands under load.
pub(super) struct Load {
    kv: KeyValueClient<Channel>,
    store: StateStoreClient<Channel>,
    killed: Arc<AtomicBool>,
}

impl Load {
    pub(super) fn new(channel: &Channel, killed: &Arc<AtomicBool>) -> Self {
        let (kv, store) = clients(channel);
        Self { kv, store, killed: Arc::clone(killed) }
    }
}

impl Client {
    /// One who writes, or merges as a coordinator does.
    pub(super) fn new(number: u64, merges: bool, chance: StdRng) -> Self {
        Self {
            number,
            merges,
            chance,
            clock: Clock::system(),
            written: 0,
            acknowledged: 0,
            known: BTreeMap::new(),
            in_flight: None,
        }
    }

    /// How many requests were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What the tree must commit to, of this client's keys.
    pub(super) fn heads(&self) -> impl Iterator<Item = EntryHead> {
        self.known.values().map(Entry::head)
    }

    /// Writes until the store dies.
    pub(super) async fn load(mut self, mut load: Load) -> Self {
        loop {
            let wish = self.wish();
            self.in_flight = Some(wish.clone());
            match tokio::time::timeout(PATIENCE, self.ask(&mut load, wish)).await {
                Ok(Ok(())) => {
                    self.in_flight = None;
                    self.acknowledged += 1;
                }
                Ok(Err(status)) => {
                    assert!(load.killed.load(Ordering::SeqCst), "refused by a store that lives: {status}");
                    return self;
                }
                Err(_) => panic!("a store that neither answers nor dies"),
            }
        }
    }

    /// Reads all keys back, and settles what was in flight. Answers whether something was, and whether it
    /// happened, as counts.
    pub(super) async fn verify(&mut self, channel: &Channel) -> (u64, u64) {
        let mut load = Load::new(channel, &Arc::default());
        let in_flight = self.in_flight.take();
        let kept = match &in_flight {
            Some(wish) => self.look(&mut load.kv, wish).await,
            None => false,
        };
        for (key, expected) in self.known.clone() {
            let found = read(&mut load.kv, &key).await;
            match expected.content {
                Content::Tombstone => assert_eq!(found, None, "{key:?} was deleted"),
                Content::Value(_) | Content::Dropped { .. } => {
                    assert_eq!(found.as_ref(), Some(&expected), "{key:?} was acknowledged otherwise");
                }
            }
        }
        // Said once more, and answered: there is no doubt about these keys any longer. A merge may be repeated.
        if let Some(wish) = in_flight.clone() {
            let again = match wish {
                Wish::Merge(_) => wish,
                wish => Wish::Batch(
                    wish.keys()
                        .into_iter()
                        .map(|key| Wish::Put { key, value: self.value(), ttl: None })
                        .collect(),
                ),
            };
            self.ask(&mut load, again).await.unwrap();
        }
        (u64::from(in_flight.is_some()), u64::from(kept))
    }

    /// Whether what was in flight happened: as a whole, or not at all.
    async fn look(&mut self, kv: &mut KeyValueClient<Channel>, wish: &Wish) -> bool {
        let mut happened = Vec::new();
        for (key, value) in wish.values() {
            let found = read(kv, &key).await;
            let is_there = found.as_ref().is_some_and(|entry| entry.content == Content::Value(value.clone()));
            happened.push(is_there);
        }
        assert!(happened.iter().all(|other| *other == happened[0]), "torn: {happened:?} of {wish:?}");
        let kept = happened.first().copied().unwrap_or_default();
        // Without a value it cannot be told, and what it deleted is written anew.
        if kept || happened.is_empty() {
            for key in wish.keys() {
                self.known.remove(&key);
            }
        }
        kept
    }

    async fn ask(&mut self, load: &mut Load, wish: Wish) -> Result<(), Status> {
        match wish {
            Wish::Put { ref key, ref value, .. } => {
                let answer = load.kv.put(wish.put()).await?.into_inner();
                let content = Content::value(value.clone()).unwrap();
                self.know(key.clone(), answer.version, answer.expires_ms, content);
            }
            Wish::Delete { ref key } => {
                let answer = load.kv.delete(wish.delete()).await?.into_inner();
                self.know(key.clone(), answer.version, None, Content::Tombstone);
            }
            Wish::Batch(ref wishes) => {
                let operations = wishes.iter().map(Wish::operation).collect();
                let answer = load.kv.batch(kv::BatchRequest { operations }).await?.into_inner();
                assert_eq!(answer.versions.len(), wishes.len());
                for (wish, version) in wishes.iter().zip(answer.versions) {
                    match wish {
                        Wish::Put { key, value, .. } => {
                            let content = Content::value(value.clone()).unwrap();
                            self.know(key.clone(), Some(version), None, content);
                        }
                        Wish::Delete { key } => {
                            self.know(key.clone(), Some(version), None, Content::Tombstone);
                        }
                        Wish::Batch(_) | Wish::Merge(_) => unreachable!("batches hold puts and deletions"),
                    }
                }
            }
            Wish::Merge(entries) => {
                let request = store::MergeRequest {
                    entries: entries.iter().map(Into::into).collect(),
                    origin: store::Origin::Pull.into(),
                };
                load.store.merge(request).await?;
                self.known.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            }
        }
        Ok(())
    }

    fn know(
        &mut self,
        key: Key,
        version: Option<lattice_proto::types::v1::Version>,
        expires_ms: Option<u64>,
        content: Content,
    ) {
        let version = Version::try_from(version.unwrap()).unwrap();
        let expires = expires_ms.map(WallTime);
        self.known.insert(key.clone(), Entry { key, version, expires, content });
    }

    fn wish(&mut self) -> Wish {
        if self.merges {
            let count = self.chance.random_range(1..=BATCH_MAX);
            return Wish::Merge(self.keys(count).into_iter().map(|key| self.foreign(key)).collect());
        }
        match self.chance.random_range(0..100u32) {
            0..50 => {
                let ttl = self.chance.random_bool(0.2).then_some(Duration::from_secs(3_600));
                Wish::Put { key: self.key(), value: self.value(), ttl }
            }
            50..65 => Wish::Delete { key: self.key() },
            _ => {
                let count = self.chance.random_range(1..=BATCH_MAX);
                let keys = self.keys(count).into_iter().enumerate();
                let wishes = keys.map(|(index, key)| match index % 4 {
                    3 => Wish::Delete { key },
                    _ => Wish::Put { key, value: self.value(), ttl: None },
                });
                Wish::Batch(wishes.collect())
            }
        }
    }

    /// An entry of another node, which may come late.
    fn foreign(&mut self, key: Key) -> Entry {
        let late = self.chance.random_range(0..1_000);
        let written = Hlc::at(WallTime(self.clock.wall_ms().saturating_sub(late)));
        let hlc = self.known.get(&key).map_or(written, |known| written.max(known.version.hlc.next()));
        let version = Version { hlc, writer: NodeId([7; 32]) };
        Entry { key, version, expires: None, content: Content::value(self.value()).unwrap() }
    }

    fn key(&mut self) -> Key {
        let number = self.chance.random_range(0..KEYS);
        Key::try_from(format!("{}/{number}", self.number).as_str()).unwrap()
    }

    fn keys(&mut self, count: u64) -> Vec<Key> {
        let keys: std::collections::BTreeSet<Key> = (0..count).map(|_| self.key()).collect();
        keys.into_iter().collect()
    }

    /// A value that was never written before: small ones, some in pieces, few of them large.
    fn value(&mut self) -> Bytes {
        let length = match self.chance.random_range(0..100u32) {
            0..90 => self.chance.random_range(0..300),
            90..98 => self.chance.random_range(4_000..30_000),
            _ => self.chance.random_range(100_000..=(1 << 20) - 64),
        };
        self.written += 1;
        let mut value = format!("{}/{} ", self.number, self.written).into_bytes();
        value.resize(value.len() + length, b'x');
        value.into()
    }
}

impl Wish {
    fn keys(&self) -> Vec<Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => vec![key.clone()],
            Self::Batch(wishes) => wishes.iter().flat_map(Self::keys).collect(),
            Self::Merge(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
        }
    }

    /// What reads see when it happened, of the keys that it gave a value.
    fn values(&self) -> Vec<(Key, Bytes)> {
        match self {
            Self::Put { key, value, .. } => vec![(key.clone(), value.clone())],
            Self::Delete { .. } => Vec::new(),
            Self::Batch(wishes) => wishes.iter().flat_map(Self::values).collect(),
            Self::Merge(entries) => {
                let value = |entry: &Entry| match &entry.content {
                    Content::Value(value) => Some((entry.key.clone(), value.clone())),
                    Content::Dropped { .. } | Content::Tombstone => None,
                };
                entries.iter().filter_map(value).collect()
            }
        }
    }

    fn put(&self) -> kv::PutRequest {
        let Self::Put { key, value, ttl } = self else { unreachable!("only a put puts") };
        kv::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.clone(),
            ttl_ms: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap()),
            condition: None,
        }
    }

    fn delete(&self) -> kv::DeleteRequest {
        let Self::Delete { key } = self else { unreachable!("only a deletion deletes") };
        kv::DeleteRequest { key: Bytes::copy_from_slice(key.as_bytes()), condition: None }
    }

    fn operation(&self) -> kv::Operation {
        let operation = match self {
            Self::Delete { .. } => Operation::Delete(self.delete()),
            _ => Operation::Put(self.put()),
        };
        kv::Operation { operation: Some(operation) }
    }
}

async fn read(kv: &mut KeyValueClient<Channel>, key: &Key) -> Option<Entry> {
    let request = kv::GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), version_min: None };
    match kv.get(request).await {
        Ok(response) => Some(response.into_inner().entry.unwrap().try_into().unwrap()),
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => panic!("{key:?}: {status}"),
    }
}
