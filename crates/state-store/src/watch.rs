//! `KeyValue.Watch`: changes in the order of their commits, resumed by their ids.
//!
//! A watch asks for what is next, at its own pace: from the memory of the last changes, or from the notes on disk.
//! Nothing is queued for it, so that one that is slow costs nobody anything.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use lattice_core::model::Incarnation;
use lattice_proto::kv::v1 as wire;
use lattice_proto::metadata;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::engine::{Change, Changes, ChangesError, Reader, Watching};
use crate::kv::blocking;
use crate::writer::status;

/// How long nothing is said at most: then how far the watch is.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream of answers.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

/// After which change a watch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatchId {
    incarnation: Incarnation,
    sequence: u64,
}

impl fmt::Display for WatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.incarnation, self.sequence)
    }
}

/// The text is no id.
struct Malformed;

impl FromStr for WatchId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (incarnation, sequence) = text.split_once('-').ok_or(Malformed)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(incarnation, &mut bytes).map_err(|_| Malformed)?;
        let digits = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
        let sequence = sequence.parse().ok().filter(|_| digits).ok_or(Malformed)?;
        Ok(Self { incarnation: Incarnation(bytes), sequence })
    }
}

/// What a watch needs of the store.
pub(crate) struct Source {
    pub(crate) reader: Reader,
    /// The number of the last change, after every commit.
    pub(crate) newest: watch::Receiver<u64>,
    pub(crate) stopping: CancellationToken,
}

/// A watch under way.
struct Watch {
    source: Source,
    incarnation: Incarnation,
    prefix: Bytes,
    /// What was read and is not told yet.
    page: VecDeque<Change>,
    /// The next change to read.
    next: u64,
    /// The number that was told last.
    told: u64,
    _watching: Watching,
}

/// Begins a watch. What is wrong with `since` is said at once, and not in the stream.
pub(crate) async fn begin(source: Source, prefix: Bytes, since: &str) -> Result<Answers, Status> {
    let watching = source.reader.watch();
    let incarnation = source.reader.view().incarnation;
    let last = source.reader.last_change();
    let after = match since {
        "" => last,
        since => {
            let id: WatchId = since.parse().map_err(|Malformed| {
                Status::invalid_argument("since: takes an id of this watch, <incarnation>-<commit sequence>")
            })?;
            if id.incarnation != incarnation {
                return Err(gone(&source.reader, format!("{id} is of another store, or an earlier one")));
            }
            if id.sequence > last {
                return Err(gone(&source.reader, format!("{id} lies ahead of all that was committed here")));
            }
            id.sequence
        }
    };
    let mut watch = Watch {
        source,
        incarnation,
        prefix,
        page: VecDeque::new(),
        next: after + 1,
        told: after,
        _watching: watching,
    };
    if after < last {
        watch.read().await?;
    }
    let first = wire::WatchResponse { id: watch.id(after), entry: None };
    let rest = stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        let answer = watch.answer().await;
        // After an error nothing follows.
        let watch = answer.is_ok().then_some(watch);
        Some((answer, watch))
    });
    Ok(Box::pin(stream::StreamExt::chain(stream::iter([Ok(first)]), rest)))
}

impl Watch {
    fn id(&self, sequence: u64) -> String {
        WatchId { incarnation: self.incarnation, sequence }.to_string()
    }

    /// The next change, or how far the watch is when nothing happened for a while.
    async fn answer(&mut self) -> Result<wire::WatchResponse, Status> {
        let keep_alive = tokio::time::sleep(KEEP_ALIVE);
        tokio::pin!(keep_alive);
        loop {
            if let Some(Change { sequence, entry }) = self.page.pop_front() {
                self.told = sequence;
                return Ok(wire::WatchResponse { id: self.id(sequence), entry: Some((&entry).into()) });
            }
            if self.source.reader.view().incarnation != self.incarnation {
                return Err(gone(&self.source.reader, "the store began a new incarnation".to_owned()));
            }
            if self.next <= *self.source.newest.borrow_and_update() {
                self.read().await?;
                // Of many changes none may be asked for: that takes no longer to say so.
                if !keep_alive.is_elapsed() || !self.page.is_empty() {
                    continue;
                }
            }
            tokio::select! {
                changed = self.source.newest.changed() => changed.map_err(|_| stopping())?,
                () = self.source.stopping.cancelled() => return Err(stopping()),
                () = keep_alive.as_mut() => {
                    self.told = self.next - 1;
                    return Ok(wire::WatchResponse { id: self.id(self.told), entry: None });
                }
            }
        }
    }

    /// Reads some more changes.
    async fn read(&mut self) -> Result<(), Status> {
        let (from, prefix) = (self.next, self.prefix.clone());
        let changes = match self.source.reader.recent_changes(from, &prefix) {
            Some(changes) => Ok(changes),
            None => {
                let reader = self.source.reader.clone();
                blocking(move || reader.noted_changes(from, &prefix)).await?
            }
        };
        let Changes { changes, next } = changes.map_err(|error| match error {
            ChangesError::Forgotten { .. } => {
                let id = self.id(self.told);
                gone(
                    &self.source.reader,
                    format!("{id} is too old: what came after it is not known any more"),
                )
            }
            ChangesError::Store(error) => status(&error),
        })?;
        self.page.extend(changes);
        self.next = next;
        Ok(())
    }
}

/// Whoever watches has to begin anew: how.
fn gone(reader: &Reader, why: String) -> Status {
    let now = WatchId { incarnation: reader.view().incarnation, sequence: reader.last_change() }.to_string();
    let mut also = MetadataMap::new();
    if let Ok(value) = MetadataValue::try_from(&now) {
        also.insert(metadata::WATCH_SINCE, value);
    }
    let message = format!("since: {why}; list the keys again, and then watch since {now}");
    Status::with_metadata(Code::OutOfRange, message, also)
}

fn stopping() -> Status {
    Status::unavailable("the store is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_nothing_else_is_one() {
        let id = WatchId { incarnation: Incarnation([0xab; 16]), sequence: 71 };
        assert_eq!(id.to_string(), format!("{}-71", "ab".repeat(16)));
        assert_eq!(id.to_string().parse::<WatchId>().ok(), Some(id));
        let incarnation = "ab".repeat(16);
        for wrong in
            ["", "7", "-7", "ab-7", &incarnation, &format!("{incarnation}-"), &format!("{incarnation}-+7")]
        {
            assert!(wrong.parse::<WatchId>().is_err(), "{wrong}");
        }
    }
}
