//! Clients in closed loops: each calls, waits for the answer, and calls again, at once or when its turn comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use tokio::task::JoinSet;

use crate::keys::{self, GROUP, VALUE_BYTES};
use crate::sample::Sample;
use crate::server::{KeyValue, Server};

/// How many calls fill a server at the same time.
const FILLERS: u64 = 16;

/// What clients call.
#[derive(Clone, Debug)]
pub enum Calls {
    /// Writes of new keys; how many were made so far.
    Puts(Arc<AtomicU64>),
    /// Reads of one of so many keys in groups.
    Gets(u64),
    /// Reads of one whole group of so many keys.
    Scans(u64),
}

/// How many call, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Loops {
    /// How many clients.
    pub clients: usize,
    /// Calls that are not measured, before.
    pub warm_up: Duration,
    /// Calls that are.
    pub time: Duration,
    /// At most so many calls a second, of all clients together; without it, each calls as soon as it was answered.
    pub rate: Option<u32>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Of the time that was measured.
    pub sample: Sample,
    /// All calls, those before that time included.
    pub calls: u64,
}

/// Runs clients against a server.
///
/// # Errors
/// When a call fails, or is answered with something else than what was written.
pub async fn run<S: Server>(server: &S, loops: Loops, calls: &Calls) -> Result<Measured> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for (number, client) in (0..loops.clients).zip(server.clients().iter().cycle()) {
        let (client, calls) = (client.clone(), calls.clone());
        clients.spawn(async move { one(client, number, &calls, loops, started).await });
    }
    let (mut times, mut made) = (Vec::new(), 0);
    while let Some(done) = clients.join_next().await {
        let (of_client, made_by_client) = done??;
        times.extend(of_client);
        made += made_by_client;
    }
    Ok(Measured { sample: Sample::of(times.len() as u64, loops.time, times), calls: made })
}

/// One client: how long those calls took that ended in the time that is measured, and how many calls it made.
async fn one<C: KeyValue>(
    mut client: C,
    number: usize,
    calls: &Calls,
    loops: Loops,
    started: Instant,
) -> Result<(Vec<Duration>, u64)> {
    let begin = started + loops.warm_up;
    let end = begin + loops.time;
    let mut times = Vec::new();
    for step in 0.. {
        let mut called = turn(loops, number, step, started).await;
        if called >= end {
            return Ok((times, step));
        }
        let call = prepare(calls, number as u64, step);
        if loops.rate.is_none() {
            called = Instant::now();
        }
        answer(&mut client, call).await?;
        let ended = Instant::now();
        if begin <= ended && ended < end {
            times.push(ended - called);
        }
    }
    Ok((times, 0))
}

/// Waits until a client's call is due; from when on it counts. One that comes late because the call before it took long
/// counts from when it was due: else who answers slowly would be asked less.
async fn turn(loops: Loops, number: usize, step: u64, started: Instant) -> Instant {
    let Some(rate) = loops.rate else { return Instant::now() };
    let turn = loops.clients as u64 * step + number as u64;
    let due = started + Duration::from_secs(turn) / rate.max(1);
    if due <= Instant::now() {
        return due;
    }
    tokio::time::sleep_until(due.into()).await;
    Instant::now()
}

enum Call {
    Put(bytes::Bytes, bytes::Bytes),
    Get(bytes::Bytes),
    Scan(bytes::Bytes),
}

fn prepare(calls: &Calls, client: u64, step: u64) -> Call {
    match calls {
        Calls::Puts(made) => {
            let index = made.fetch_add(1, Ordering::Relaxed);
            Call::Put(keys::key(index), keys::value(index, 0))
        }
        Calls::Gets(keys) => Call::Get(keys::grouped(keys::pick(client, step, *keys))),
        Calls::Scans(keys) => Call::Scan(keys::prefix(keys::pick(client, step, keys / GROUP))),
    }
}

/// Makes a call; an answer that is not the right one ends the run.
async fn answer<C: KeyValue>(client: &mut C, call: Call) -> Result<()> {
    match call {
        Call::Put(key, value) => Ok(client.put(key, value).await?),
        Call::Get(key) => match client.get(key.clone()).await? {
            Some(VALUE_BYTES) => Ok(()),
            found => bail!("key {key:?} has a value of {found:?} bytes, written were {VALUE_BYTES}"),
        },
        Call::Scan(prefix) => match client.scan(prefix.clone(), GROUP as u32).await? as u64 {
            GROUP => Ok(()),
            found => bail!("prefix {prefix:?} has {found} entries, written were {GROUP}"),
        },
    }
}

/// Writes so many keys in groups, and lets the server come to rest.
///
/// # Errors
/// When a call fails.
pub async fn fill<S: Server>(server: &S, keys: u64) -> Result<()> {
    let mut fillers = JoinSet::new();
    for (filler, client) in (0..FILLERS).zip(server.clients().iter().cycle()) {
        let mut client = client.clone();
        fillers.spawn(async move {
            for group in (filler..keys / GROUP).step_by(FILLERS as usize) {
                let indexes = group * GROUP..(group + 1) * GROUP;
                let entries = indexes.map(|index| (keys::grouped(index), keys::value(index, 0))).collect();
                client.put_all(entries).await.map_err(|status| anyhow!("fill: {status}"))?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = fillers.join_next().await {
        done??;
    }
    server.rest(keys).await
}
