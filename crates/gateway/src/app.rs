//! What all requests share: the ways to the siblings, the limits, and the few settings that are shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::{GetRequest, GetResponse};
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::grpc::{Channel, MESSAGE_BYTES_MAX};
use lattice_runtime::{Clock, Config, Metrics, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::Channels;
use crate::access;
use crate::auth::Auth;
use crate::body::Budget;
use crate::guard::Rates;
use crate::observe::Durations;
use crate::problem::{Kind, Problem};
use crate::ready::Told;

/// How long a sibling may take for one answer.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);

/// Exchanges, which have places of their own: anybody may send one, and none of them is to keep clients out.
pub(crate) const EXCHANGES_MAX: usize = 128;
/// Bodies of clients in memory.
const BODY_BYTES_MAX: usize = 128 << 20;
/// Bodies of exchanges in memory: theirs alone, too.
const EXCHANGE_BYTES_MAX: usize = 32 << 20;

/// What an address is told that asks too often.
pub(crate) const TOO_OFTEN: &str =
    "this address asks more often than gateway.rate_per_s allows; ask again later";

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
    rates: Rates,
    requests: Places,
    exchanging: Places,
    streams: Places,
}

/// What answers repeat of the configuration.
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) http_sync_enabled: bool,
    pub(crate) max_clock_drift: Duration,
    /// How long a request may take until its answer begins, the arrival of its body included.
    pub(crate) request_timeout: Duration,
}

/// Room for a number of requests at a time.
struct Places {
    free: Arc<Semaphore>,
    max: usize,
    /// What takes them, in the plural.
    of: &'static str,
}

impl Places {
    fn new(max: usize, of: &'static str) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), max, of }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.free.clone().try_acquire_owned().map_err(|_| too_many(self.max, self.of))
    }
}

/// The refusal of what is more than `max` at a time, called `of` in the plural.
pub(crate) fn too_many(max: usize, of: &str) -> Problem {
    Problem::new(Kind::Busy, format!("more than {max} {of} at once; ask again"))
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
                max_clock_drift: config.node.max_clock_drift,
                request_timeout: config.gateway.request_timeout,
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
            rates: Rates::new(config.gateway.rate_per_s, config.gateway.rate_burst),
            requests: Places::new(config.gateway.requests_max, "requests"),
            exchanging: Places::new(EXCHANGES_MAX, "exchanges"),
            streams: Places::new(config.gateway.streams_max, "streams"),
        }
    }

    /// The siblings as they are called, with no deadline.
    pub(crate) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Reads a key, without a call where the store is beside us and need not wait. A call that is traced is made all the
    /// same: it is part of the trace.
    pub(crate) async fn get(&self, question: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        if let Some(reads) = self.channels.reads.as_ref().filter(|_| Span::current().is_none())
            && let Some(answer) = reads.get(question.get_ref())
        {
            return answer.map(Response::new);
        }
        self.kv().get(question).await
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

    /// A place for a request that came at `now` from `remote`; it is held until its answer begins.
    pub(crate) fn admit(
        &self,
        route: &str,
        now: Duration,
        remote: Option<IpAddr>,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        // Peers are bounded by what they may exchange, and a probe that is refused would restart the node.
        if route == access::EXCHANGE {
            return self.exchanging.take();
        }
        if let Some(remote) = remote.filter(|_| !access::is_probe(route)) {
            let often = |wait| Problem::new(Kind::RateLimited, TOO_OFTEN).retry_after(wait);
            self.rates.take(now, remote).map_err(often)?;
        }
        self.requests.take()
    }

    /// A place for an answer that lasts; it is held until the answer ends.
    pub(crate) fn admit_stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.streams.take()
    }
}
