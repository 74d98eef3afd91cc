//! `KeyValue.Backup` and `KeyValue.Restore`: entries to a file and back, one chunk in memory at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use lattice_core::model::{Entry, Key};
use lattice_core::time::WallTime;
use lattice_proto::codec::{
    BACKUP_CHUNK_BYTES, BACKUP_CHUNK_ENTRIES, BackupError, BackupHeader, BackupItem, BackupReader,
    BackupWriter,
};
use lattice_proto::kv::v1 as wire;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::engine::{Origin, Reader};
use crate::kv::blocking;
use crate::writer::{Writer, status};

/// Backups and restores at a time, each of them.
const AT_ONCE: usize = 4;
/// How long a restore waits for the next bytes.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often, and after which pause, a full queue is tried again.
const QUEUE_TRIES: usize = 200;
const QUEUE_PAUSE: Duration = Duration::from_millis(50);

/// A backup as it is sent.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<wire::BackupResponse, Status>> + Send>>;

/// How many of each there may be.
#[derive(Clone)]
pub(crate) struct Places {
    backups: Arc<Semaphore>,
    restores: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { backups: Arc::new(Semaphore::new(AT_ONCE)), restores: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Places {
    fn take(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| Status::resource_exhausted(format!("{AT_ONCE} {what} are under way: ask later"));
        Arc::clone(places).try_acquire_owned().map_err(full)
    }
}

/// A backup under way.
struct Backup {
    reader: Reader,
    writer: BackupWriter,
    after: Option<Key>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Begins a backup.
pub(crate) fn backup(
    reader: Reader,
    time: WallTime,
    places: &Places,
    stopping: CancellationToken,
) -> Result<Pieces, Status> {
    let place = Places::take(&places.backups, "backups")?;
    let view = reader.view();
    let header = BackupHeader {
        cluster: reader.settings().cluster.clone(),
        node: reader.node(),
        incarnation: view.incarnation,
        time,
        about: view.stats.entries + view.stats.tombstones,
    };
    let (writer, first) = BackupWriter::begin(&header);
    let backup = Backup { reader, writer, after: None, stopping, _place: place };
    let rest = stream::unfold(Some(backup), |backup| async { backup?.step().await });
    let first = Ok(wire::BackupResponse { data: first });
    Ok(Box::pin(stream::StreamExt::chain(stream::iter([first]), rest)))
}

impl Backup {
    /// The next piece, and what comes after it; an error is the last.
    async fn step(mut self) -> Option<(Result<wire::BackupResponse, Status>, Option<Self>)> {
        if self.stopping.is_cancelled() {
            return Some((Err(Status::unavailable("the store is stopping")), None));
        }
        let (reader, after) = (self.reader.clone(), self.after.take());
        let read = move || reader.export(after.as_ref(), BACKUP_CHUNK_ENTRIES, BACKUP_CHUNK_BYTES);
        let entries = match blocking(read).await {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => return Some((Err(status(&error)), None)),
            Err(status) => return Some((Err(status), None)),
        };
        let Some(last) = entries.last() else {
            return Some((Ok(wire::BackupResponse { data: self.writer.end() }), None));
        };
        self.after = Some(last.key.clone());
        let data = self.writer.chunk(&entries);
        Some((Ok(wire::BackupResponse { data }), Some(self)))
    }
}

/// A restore under way.
struct Restore<'a> {
    writer: &'a Writer,
    /// Our cluster, and whether another one's file is taken, too.
    cluster: &'a str,
    any_cluster: bool,
    file: BackupReader,
    done: wire::RestoreResponse,
}

/// Restores what a client sends.
pub(crate) async fn restore(
    writer: &Writer,
    cluster: &str,
    places: &Places,
    mut sent: Streaming<wire::RestoreRequest>,
) -> Result<wire::RestoreResponse, Status> {
    let _place = Places::take(&places.restores, "restores")?;
    let mut restore = None;
    while let Some(request) = next(&mut sent).await? {
        let restore = restore.get_or_insert_with(|| Restore {
            writer,
            cluster,
            any_cluster: request.any_cluster,
            file: BackupReader::default(),
            done: wire::RestoreResponse::default(),
        });
        restore.take(request.data).await?;
    }
    let restore = restore.ok_or_else(|| Status::invalid_argument("data: is missing: send a backup"))?;
    restore.file.finish().map_err(|error| restore.damaged(&error))?;
    Ok(restore.done)
}

async fn next(sent: &mut Streaming<wire::RestoreRequest>) -> Result<Option<wire::RestoreRequest>, Status> {
    match tokio::time::timeout(IDLE_MAX, sent.message()).await {
        Ok(received) => received,
        Err(_) => {
            let message = format!("nothing arrived for {} s: the restore was given up", IDLE_MAX.as_secs());
            Err(Status::deadline_exceeded(message))
        }
    }
}

impl Restore<'_> {
    async fn take(&mut self, data: Bytes) -> Result<(), Status> {
        self.file.push(data);
        while let Some(item) = self.file.next_item().map_err(|error| self.damaged(&error))? {
            match item {
                BackupItem::Header(header) if header.cluster != self.cluster && !self.any_cluster => {
                    let message = format!(
                        "any_cluster: the backup is of cluster {:?}, and this node is of cluster {:?}: to merge it all \
                         the same takes any_cluster=true",
                        header.cluster, self.cluster
                    );
                    return Err(Status::invalid_argument(message));
                }
                BackupItem::Header(header) => self.done.cluster = header.cluster,
                BackupItem::Entries(entries) => self.merge(entries).await?,
                BackupItem::End { .. } => {}
            }
        }
        Ok(())
    }

    async fn merge(&mut self, entries: Vec<Entry>) -> Result<(), Status> {
        let count = entries.len() as u64;
        let mut tries = 0;
        let merged = loop {
            match self.writer.merge(entries.clone(), Origin::Restore).await {
                Err(status) if status.code() == Code::ResourceExhausted && tries < QUEUE_TRIES => {
                    tries += 1;
                    tokio::time::sleep(QUEUE_PAUSE).await;
                }
                merged => break merged?,
            }
        };
        self.done.entries += count;
        self.done.merged += merged.merged;
        self.done.known += merged.known;
        self.done.held += merged.held;
        self.done.dropped += merged.dropped;
        Ok(())
    }

    fn damaged(&self, error: &BackupError) -> Status {
        let entries = self.done.entries;
        let message = format!("the backup is damaged {error}; the {entries} entries before it are restored");
        Status::invalid_argument(message)
    }
}
