//! `lattice.kv.v1.KeyValue`: what clients write and read, from the wire to the engine and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::{Entry, Epoch, KEY_BYTES_MAX, Key, TTL_MAX, Version};
use lattice_core::time::WallTime;
use lattice_proto::convert::{self, InField as _, Invalid};
use lattice_proto::kv::v1 as wire;
use lattice_proto::reads::Reads;
use lattice_proto::types::v1 as types;
use lattice_runtime::{Clock, duration, trace};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::backup::{self, Pieces, Places};
use crate::engine::{Condition, MAX_OPERATIONS, Op, Page, ProveError, Proved, Reader, Written};
use crate::in_place::{InPlace, Moment};
use crate::serving::Turns;
use crate::watch::{self, Answers, Source};
use crate::writer::{Writer, now, status};

/// The most bytes of keys and values in one batch.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// The most entries of a page, and how many when nothing is said.
const LIMIT_MAX: u32 = 1_000;
const LIMIT: u32 = 100;

/// The service.
#[derive(Clone)]
pub(crate) struct KeyValue {
    reader: Reader,
    writer: Writer,
    clock: Clock,
    places: Places,
    in_place: Arc<InPlace>,
    turns: Arc<Turns>,
    stopping: CancellationToken,
}

impl KeyValue {
    /// The service over a store, to which peers leave the `turns`; its streams end with `stopping`. Within a runtime,
    /// which is the one that it serves on.
    pub(crate) fn new(
        reader: Reader,
        writer: Writer,
        clock: Clock,
        turns: Arc<Turns>,
        stopping: CancellationToken,
    ) -> Self {
        let in_place = Arc::new(InPlace::new(Handle::current().metrics().num_workers()));
        Self { reader, writer, clock, places: Places::default(), in_place, turns, stopping }
    }

    /// The entry of a key, where reading it holds up nobody.
    fn at_once(&self, key: &Key) -> Option<Option<Entry>> {
        self.turns.client_calls();
        self.in_place.run(|| Moment::now(&self.clock), || self.reader.current_at_once(key))?
    }

    /// What is answered when this was found.
    fn found(&self, entry: Option<Entry>, version_min: Option<Version>) -> Result<wire::GetResponse, Status> {
        if let Some(version_min) = version_min
            && entry.as_ref().is_none_or(|entry| entry.version < version_min)
        {
            return Err(Status::unavailable(format!("version_min: {version_min} is not here yet")));
        }
        let entry = entry.filter(|entry| entry.visible(now(&self.clock).wall));
        let Some(entry) = entry else {
            self.reader.absence().map_err(|error| status(&error))?;
            return Err(Status::not_found("key is absent"));
        };
        Ok(wire::GetResponse { entry: Some((&entry).into()) })
    }

    async fn write_one(&self, op: Op) -> Result<Written, Status> {
        self.turns.client_calls();
        let written = self.writer.write(vec![op], trace::current_traceparent()).await;
        // The client named no operations: its own field is what it reads of.
        let written = written.map_err(|status| {
            let message = status.message().trim_start_matches("operations[0].").to_owned();
            Status::with_metadata(status.code(), message, status.metadata().clone())
        })?;
        written.first().copied().ok_or_else(|| Status::internal("a write was made, but is not told"))
    }
}

impl Reads for KeyValue {
    fn get(&self, request: &wire::GetRequest) -> Option<Result<wire::GetResponse, Status>> {
        if self.stopping.is_cancelled() {
            return None;
        }
        let key = convert::key("key", request.key.clone()).ok()?;
        let version_min = convert::optional("version_min", request.version_min.clone()).ok()?;
        Some(self.found(self.at_once(&key)?, version_min))
    }
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyValue").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl wire::key_value_server::KeyValue for KeyValue {
    type WatchStream = Answers;
    type BackupStream = Pieces;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let request = request.into_inner();
        let key = convert::key("key", request.key)?;
        let version_min = convert::optional("version_min", request.version_min)?;
        let entry = match self.at_once(&key) {
            Some(entry) => entry,
            None => {
                let reader = self.reader.clone();
                blocking(move || reader.current(&key)).await?.map_err(|error| status(&error))?
            }
        };
        self.found(entry, version_min).map(Response::new)
    }

    async fn put(&self, request: Request<wire::PutRequest>) -> Result<Response<wire::PutResponse>, Status> {
        let written = self.write_one(put(request.into_inner())?).await?;
        Ok(Response::new(wire::PutResponse {
            version: Some((&written.version).into()),
            expires_ms: written.expires.map(WallTime::millis),
        }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let written = self.write_one(delete(request.into_inner())?).await?;
        Ok(Response::new(wire::DeleteResponse { version: Some((&written.version).into()) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        self.turns.client_calls();
        let page = page(request.into_inner())?;
        let (reader, now) = (self.reader.clone(), now(&self.clock));
        let listed = blocking(move || reader.list(&page, now)).await?.map_err(|error| status(&error))?;
        Ok(Response::new(wire::ListResponse {
            entries: listed.entries.iter().map(types::Entry::from).collect(),
            next: listed.next.unwrap_or_default(),
        }))
    }

    async fn batch(
        &self,
        request: Request<wire::BatchRequest>,
    ) -> Result<Response<wire::BatchResponse>, Status> {
        self.turns.client_calls();
        let operations = request.into_inner().operations;
        if operations.is_empty() || operations.len() > MAX_OPERATIONS {
            let count = operations.len();
            let problem = format!("takes 1 to {MAX_OPERATIONS}, got {count}");
            return Err(Invalid::new("operations", problem).into());
        }
        let mut ops = Vec::with_capacity(operations.len());
        for (index, operation) in operations.into_iter().enumerate() {
            ops.push(op(operation).in_item("operations", index)?);
        }
        let bytes: usize = ops.iter().map(Op::bytes).sum();
        if bytes > BATCH_BYTES_MAX {
            let problem = format!("take at most {BATCH_BYTES_MAX} bytes together, got {bytes}");
            return Err(Invalid::new("operations", problem).into());
        }
        let written = self.writer.write(ops, trace::current_traceparent()).await?;
        let versions = written.iter().map(|written| (&written.version).into()).collect();
        Ok(Response::new(wire::BatchResponse { versions }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let wire::WatchRequest { prefix, since } = request.into_inner();
        bounded("prefix", &prefix)?;
        let source = Source {
            reader: self.reader.clone(),
            newest: self.writer.published.changes.subscribe(),
            stopping: self.stopping.clone(),
        };
        Ok(Response::new(watch::begin(source, prefix, &since).await?))
    }

    async fn prove(
        &self,
        request: Request<wire::ProveRequest>,
    ) -> Result<Response<wire::ProveResponse>, Status> {
        self.turns.client_calls();
        let request = request.into_inner();
        let key = convert::key("key", request.key)?;
        let (reader, epoch) = (self.reader.clone(), request.epoch.map(Epoch));
        let proved = blocking(move || reader.prove(&key, epoch)).await?;
        let Proved { sealed, unsealed } = proved.map_err(|error| match error {
            ProveError::NoSeal => Status::unavailable(error.to_string()),
            ProveError::NotKept { .. } => Status::out_of_range(error.to_string()),
            ProveError::Store(error) => status(&error),
        })?;
        let unsealed = unsealed
            .map(|(version, epoch)| wire::Unsealed { version: Some((&version).into()), epoch: epoch.0 });
        Ok(Response::new(wire::ProveResponse { unsealed, ..(&sealed).into() }))
    }

    async fn backup(&self, _: Request<wire::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let time = now(&self.clock).wall;
        let pieces = backup::backup(self.reader.clone(), time, &self.places, self.stopping.clone())?;
        Ok(Response::new(pieces))
    }

    async fn restore(
        &self,
        request: Request<Streaming<wire::RestoreRequest>>,
    ) -> Result<Response<wire::RestoreResponse>, Status> {
        let cluster = &self.reader.settings().cluster;
        let restored = backup::restore(&self.writer, cluster, &self.places, request.into_inner()).await?;
        Ok(Response::new(restored))
    }
}

/// Runs what reads the disk for long where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(format!("a read ended early: {error}")))
}

fn op(operation: wire::Operation) -> Result<Op, Invalid> {
    match operation.operation {
        Some(wire::operation::Operation::Put(request)) => put(request).map_err(|error| error.within("put")),
        Some(wire::operation::Operation::Delete(request)) => {
            delete(request).map_err(|error| error.within("delete"))
        }
        None => Err(Invalid::missing("operation")),
    }
}

fn put(request: wire::PutRequest) -> Result<Op, Invalid> {
    let ttl = request.ttl_ms.map(Duration::from_millis);
    if let Some(ttl) = ttl.filter(|ttl| ttl.is_zero() || *ttl > TTL_MAX) {
        let (most, given) = (duration::print(TTL_MAX), ttl.as_millis());
        return Err(Invalid::new(
            "ttl_ms",
            format!("takes 1 to {} ({most}), got {given}", TTL_MAX.as_millis()),
        ));
    }
    Ok(Op::Put {
        key: convert::key("key", request.key)?,
        value: convert::value("value", request.value)?,
        ttl,
        condition: condition(request.condition)?,
    })
}

fn delete(request: wire::DeleteRequest) -> Result<Op, Invalid> {
    let condition = condition(request.condition)?;
    Ok(Op::Delete { key: convert::key("key", request.key)?, condition })
}

fn condition(condition: Option<wire::Condition>) -> Result<Option<Condition>, Invalid> {
    use wire::condition::Condition as Wire;
    let Some(condition) = condition else { return Ok(None) };
    match condition.condition {
        Some(Wire::Absent(true)) => Ok(Some(Condition::Absent)),
        Some(Wire::Present(true)) => Ok(Some(Condition::Present)),
        Some(Wire::Absent(false)) => Err(Invalid::new("condition.absent", "takes true, or is left out")),
        Some(Wire::Present(false)) => Err(Invalid::new("condition.present", "takes true, or is left out")),
        Some(Wire::Version(version)) => {
            Ok(Some(Condition::Version(Version::try_from(version).in_field("condition.version")?)))
        }
        None => Err(Invalid::missing("condition.condition")),
    }
}

/// A part of a key.
fn bounded(field: &str, bytes: &Bytes) -> Result<(), Invalid> {
    match bytes.len() {
        0..=KEY_BYTES_MAX => Ok(()),
        length => Err(Invalid::new(field, format!("takes at most {KEY_BYTES_MAX} bytes, got {length}"))),
    }
}

fn page(request: wire::ListRequest) -> Result<Page, Invalid> {
    bounded("prefix", &request.prefix)?;
    bounded("start", &request.start)?;
    bounded("cursor", &request.cursor)?;
    let limit = match request.limit {
        0 => LIMIT,
        limit @ 1..=LIMIT_MAX => limit,
        limit => return Err(Invalid::new("limit", format!("takes 1 to {LIMIT_MAX}, got {limit}"))),
    };
    Ok(Page { prefix: request.prefix, start: request.start, cursor: request.cursor, limit: limit as usize })
}

/// Entries as they travel.
pub(crate) fn entries(entries: &[Entry]) -> Vec<types::Entry> {
    entries.iter().map(types::Entry::from).collect()
}
