//! What all requests share: the ways to the siblings, the limits, and the few settings that are shown.

use std::sync::Arc;
use std::time::Duration;

use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::grpc::{Channel, MESSAGE_BYTES_MAX};
use lattice_runtime::{Clock, Config, Metrics, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::Channels;
use crate::access;
use crate::auth::Auth;
use crate::body::Budget;
use crate::observe::Durations;
use crate::problem::{Kind, Problem};
use crate::ready::Told;

/// How long a sibling may take for one answer.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);
/// How long a request may take until its answer begins, the arrival of its body included.
pub(crate) const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Requests whose answer has not begun yet.
const REQUESTS_MAX: usize = 1_024;
/// Exchanges, which have places of their own: anybody may send one, and none of them is to keep clients out.
const EXCHANGES_MAX: usize = 128;
/// Answers that last: event streams, and the whole state.
const STREAMS_MAX: usize = 256;
/// Bodies of clients in memory.
const BODY_BYTES_MAX: usize = 128 << 20;
/// Bodies of exchanges in memory: theirs alone, too.
const EXCHANGE_BYTES_MAX: usize = 32 << 20;

/// Shared by all requests.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) auth: Auth,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) durations: Durations,
    pub(crate) bodies: Budget,
    pub(crate) exchanges: Budget,
    /// Cancelled when the gateway stops: streams end.
    pub(crate) stopping: CancellationToken,
    /// What `/readyz` found missing, as far as the log says so.
    pub(crate) told_missing: Told,
    channels: Channels,
    requests: Arc<Semaphore>,
    exchanging: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// What answers repeat of the configuration.
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) http_sync_enabled: bool,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        runtime: &Runtime,
        channels: Channels,
        auth: Auth,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            settings: Settings {
                name: config.node.name.clone(),
                topic: config.sensor.topic.clone(),
                bootstrap: config.sensor.bootstrap.clone(),
                http_sync_enabled: !config.coordinator.http_peers.is_empty(),
            },
            auth,
            clock: runtime.clock.clone(),
            metrics: runtime.metrics.clone(),
            durations: Durations::register(&runtime.metrics),
            bodies: Budget::new(BODY_BYTES_MAX),
            exchanges: Budget::new(EXCHANGE_BYTES_MAX),
            stopping,
            told_missing: Told::default(),
            channels,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            exchanging: Arc::new(Semaphore::new(EXCHANGES_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// The siblings as they are called, with no deadline.
    pub(crate) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The public half of the store.
    pub(crate) fn kv(&self) -> KeyValueClient<Channel> {
        KeyValueClient::new(self.channels.store.deadline(CALL_MAX))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The public half of the store, for streams.
    pub(crate) fn kv_streams(&self) -> KeyValueClient<Channel> {
        KeyValueClient::new(self.channels.store.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The store, for calls with one answer.
    pub(crate) fn store(&self) -> StateStoreClient<Channel> {
        StateStoreClient::new(self.channels.store.deadline(CALL_MAX))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The store, for streams.
    pub(crate) fn store_streams(&self) -> StateStoreClient<Channel> {
        StateStoreClient::new(self.channels.store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The coordinator, for calls with one answer.
    pub(crate) fn coordinator(&self) -> SyncCoordinatorClient<Channel> {
        SyncCoordinatorClient::new(self.channels.coordinator.deadline(CALL_MAX))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The coordinator, for streams.
    pub(crate) fn coordinator_streams(&self) -> SyncCoordinatorClient<Channel> {
        SyncCoordinatorClient::new(self.channels.coordinator.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A place for a request; it is held until its answer begins.
    pub(crate) fn admit(&self, route: &str) -> Result<OwnedSemaphorePermit, Problem> {
        if route == access::EXCHANGE {
            return take(&self.exchanging, || {
                format!("more than {EXCHANGES_MAX} exchanges at once; ask again")
            });
        }
        take(&self.requests, || format!("more than {REQUESTS_MAX} requests at once; ask again"))
    }

    /// A place for an answer that lasts; it is held until the answer ends.
    pub(crate) fn admit_stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        take(&self.streams, || format!("more than {STREAMS_MAX} open streams; close one, or ask again"))
    }
}

fn take(places: &Arc<Semaphore>, detail: impl FnOnce() -> String) -> Result<OwnedSemaphorePermit, Problem> {
    places.clone().try_acquire_owned().map_err(|_| Problem::new(Kind::Busy, detail()))
}
