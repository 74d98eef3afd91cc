//! Runs the check in the background, at a bounded rate, and tells how it goes.
//!
//! A pass begins some time after the start, and again some time after the last one ended; or when somebody asks
//! for it, and then at the disk's own pace. What a pass comes upon is confirmed, noted and told by the writer
//! (`engine::damage`); the counts here are what the writer found while the pass went on, whoever stumbled over it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use lattice_proto::store::v1 as wire;
use lattice_runtime::Clock;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::engine::{Check, Error, Finding, FindingKind, Reader};
use crate::kv::blocking;
use crate::metrics::Metrics;

/// From the start to the first pass, and from the end of a pass to the next.
const FIRST_AFTER: Duration = Duration::from_secs(60);
const PASS_AFTER: Duration = Duration::from_secs(3_600);
/// How much is read in one go: the rate is kept on average over it.
const SLICE_STEPS: usize = 64;
const SLICE_BYTES: u64 = 1 << 20;
/// The longest that the writer is waited for at the end of a pass.
const CONFIRM_MAX: Duration = Duration::from_secs(10);
/// How long it is waited for at a time, and the least time between two messages to those who watch.
const PAUSE: Duration = Duration::from_millis(100);
/// The most findings that are kept to be told.
const RECENT_MAX: usize = 100;

/// What the writer has found since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    entries: u64,
    nodes: u64,
    uncovered: u64,
    others: u64,
    /// The last ones, and how many came before the first of them.
    recent: VecDeque<String>,
    before: u64,
}

/// How the check goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    pass: u64,
    running: bool,
    permille: u32,
    records: u64,
    bytes: u64,
    began_ms: u64,
    ended_ms: u64,
    /// What had been found when it began, and when it ended.
    found: Found,
    at_end: Option<Found>,
}

/// The check, for those who watch it, start it, and find things. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checking {
    progress: watch::Sender<Progress>,
    found: watch::Sender<Found>,
    start: Arc<Notify>,
}

impl Found {
    fn add(&mut self, finding: &Finding) {
        match finding.kind {
            FindingKind::Entry => self.entries += 1,
            FindingKind::Node => self.nodes += 1,
            FindingKind::Uncovered => self.uncovered += 1,
            FindingKind::Other => self.others += 1,
            FindingKind::Mended => {}
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
            self.before += 1;
        }
        self.recent.push_back(finding.what.clone());
    }

    fn count(&self) -> u64 {
        self.before + self.recent.len() as u64
    }
}

impl Checking {
    pub(crate) fn new() -> Self {
        Self {
            progress: watch::Sender::default(),
            found: watch::Sender::default(),
            start: Arc::new(Notify::new()),
        }
    }

    /// What the writer has found.
    pub(crate) fn found(&self, findings: &[Finding]) {
        if !findings.is_empty() {
            self.found.send_modify(|found| findings.iter().for_each(|finding| found.add(finding)));
        }
    }

    /// Lets a pass begin now; one that is under way goes on, faster.
    pub(crate) fn start(&self) {
        self.start.notify_one();
    }

    /// How the check goes, at once and from then on.
    pub(crate) fn watch(&self) -> impl Stream<Item = Result<wire::CheckResponse, Status>> + Send + use<> {
        let found = self.found.clone();
        let mut told = found.borrow().count();
        let progress = WatchStream::new(self.progress.subscribe());
        progress.map(move |progress| {
            let now = found.borrow().clone();
            let new = now.count().saturating_sub(told);
            told = now.count();
            Ok(response(&progress, &now, usize::try_from(new).unwrap_or(usize::MAX)))
        })
    }

    /// Checks until it is told to stop, at `rate` bytes a second; with none, only when it is asked to.
    pub(crate) async fn run(
        self,
        reader: Reader,
        clock: Clock,
        metrics: Metrics,
        rate: u64,
        stop: CancellationToken,
    ) {
        let mut wait = FIRST_AFTER;
        loop {
            let due = async {
                match rate {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(wait).await,
                }
            };
            let unlimited = tokio::select! {
                () = stop.cancelled() => return,
                () = self.start.notified() => true,
                () = due => false,
            };
            let rate = if unlimited { u64::MAX } else { rate };
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.pass(&reader, &clock, &metrics, rate) => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "check the store");
                    }
                }
            }
            wait = PASS_AFTER;
        }
    }

    async fn pass(&self, reader: &Reader, clock: &Clock, metrics: &Metrics, rate: u64) -> Result<(), Status> {
        let found = self.found.borrow().clone();
        self.progress.send_modify(|progress| {
            *progress = Progress {
                pass: progress.pass + 1,
                running: true,
                began_ms: clock.wall_ms(),
                found,
                ..Progress::default()
            };
        });
        let mut rate = rate;
        let mut check = reader.check();
        let mut told = clock.monotonic();
        loop {
            let (before, started) = (check.read().bytes, clock.monotonic());
            let outcome = blocking(move || slice(check)).await?;
            let more;
            (check, more) = outcome.map_err(|error| crate::writer::status(&error))?;
            let read = check.read();
            metrics.checked(read.bytes - before);
            if clock.monotonic().saturating_sub(told) >= PAUSE || !more {
                told = clock.monotonic();
                self.progress.send_modify(|progress| {
                    (progress.records, progress.bytes) = (read.records, read.bytes);
                    progress.permille = check.permille();
                });
            }
            if !more {
                break;
            }
            // Nothing was read: the writer is still busy with what was found.
            let due = match read.bytes == before {
                true => PAUSE,
                false => Duration::from_secs_f64((read.bytes - before) as f64 / rate as f64),
            };
            let left = due.saturating_sub(clock.monotonic().saturating_sub(started));
            tokio::select! {
                () = tokio::time::sleep(left), if !left.is_zero() => {}
                () = self.start.notified() => rate = u64::MAX,
                () = std::future::ready(()), if left.is_zero() => {}
            }
        }
        // What was seen last is confirmed soon.
        let until = clock.monotonic() + CONFIRM_MAX;
        while reader.suspected() > 0 && clock.monotonic() < until {
            tokio::time::sleep(PAUSE).await;
        }
        metrics.checked_all();
        let found = self.found.borrow().clone();
        self.progress.send_modify(|progress| {
            progress.running = false;
            progress.ended_ms = clock.wall_ms();
            progress.at_end = Some(found);
        });
        Ok(())
    }
}

/// Some steps; hands the check back, and whether there is more.
fn slice(mut check: Check) -> Result<(Check, bool), Error> {
    let until = check.read().bytes.saturating_add(SLICE_BYTES);
    for _ in 0..SLICE_STEPS {
        if !check.step()? {
            return Ok((check, false));
        }
        if check.read().bytes >= until {
            break;
        }
    }
    Ok((check, true))
}

fn response(progress: &Progress, now: &Found, new: usize) -> wire::CheckResponse {
    let (first, last) = (&progress.found, progress.at_end.as_ref().unwrap_or(now));
    let skipped = now.recent.len().saturating_sub(new);
    wire::CheckResponse {
        pass: progress.pass,
        idle: !progress.running,
        permille: progress.permille,
        records: progress.records,
        bytes: progress.bytes,
        damaged_entries: last.entries - first.entries,
        damaged_nodes: last.nodes - first.nodes,
        uncovered: last.uncovered - first.uncovered,
        damaged_others: last.others - first.others,
        began_ms: progress.began_ms,
        ended_ms: progress.ended_ms,
        findings: now.recent.iter().skip(skipped).cloned().collect(),
    }
}
