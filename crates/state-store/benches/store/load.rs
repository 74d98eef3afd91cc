//! Clients in closed loops: each calls, waits for the answer, and calls again.

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
pub(crate) enum Calls {
    /// Writes of new keys; how many were made so far.
    Puts(Arc<AtomicU64>),
    /// Reads of one of so many keys in groups.
    Gets(u64),
    /// Reads of one whole group of so many keys.
    Scans(u64),
}

/// How many call, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loops {
    /// How many clients.
    pub(crate) clients: usize,
    /// Calls that are not measured, before.
    pub(crate) warm_up: Duration,
    /// Calls that are.
    pub(crate) time: Duration,
}

/// Runs clients against a server.
pub(crate) async fn run<S: Server>(server: &S, loops: Loops, calls: &Calls) -> Result<Sample> {
    let connections = &server.process().connections;
    let begin = Instant::now() + loops.warm_up;
    let end = begin + loops.time;
    let mut clients = JoinSet::new();
    for (client, connection) in (0..loops.clients).zip(connections.iter().cycle()) {
        let (connection, calls) = (connection.clone(), calls.clone());
        clients.spawn(async move { one(connection, client as u64, &calls, begin, end).await });
    }
    let mut times = Vec::new();
    while let Some(done) = clients.join_next().await {
        times.extend(done??);
    }
    Ok(Sample::of(times.len() as u64, loops.time, times))
}

/// One client: how long those calls took that ended between `begin` and `end`.
async fn one<C: KeyValue>(
    mut connection: C,
    client: u64,
    calls: &Calls,
    begin: Instant,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for step in 0.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        let call = prepare(calls, client, step);
        let started = Instant::now();
        answer(&mut connection, call).await?;
        let ended = Instant::now();
        if begin <= ended && ended < end {
            times.push(ended - started);
        }
    }
    Ok(times)
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
async fn answer<C: KeyValue>(connection: &mut C, call: Call) -> Result<()> {
    match call {
        Call::Put(key, value) => Ok(connection.put(key, value).await?),
        Call::Get(key) => match connection.get(key.clone()).await? {
            Some(VALUE_BYTES) => Ok(()),
            found => bail!("key {key:?} has a value of {found:?} bytes, written were {VALUE_BYTES}"),
        },
        Call::Scan(prefix) => match connection.scan(prefix.clone(), GROUP as u32).await? as u64 {
            GROUP => Ok(()),
            found => bail!("prefix {prefix:?} has {found} entries, written were {GROUP}"),
        },
    }
}

/// Writes so many keys in groups, and lets the server come to rest.
pub(crate) async fn fill<S: Server>(server: &S, keys: u64) -> Result<()> {
    let connections = &server.process().connections;
    let mut fillers = JoinSet::new();
    for (filler, connection) in (0..FILLERS).zip(connections.iter().cycle()) {
        let mut connection = connection.clone();
        fillers.spawn(async move {
            for group in (filler..keys / GROUP).step_by(FILLERS as usize) {
                let indexes = group * GROUP..(group + 1) * GROUP;
                let entries = indexes.map(|index| (keys::grouped(index), keys::value(index, 0))).collect();
                connection.put_all(entries).await.map_err(|status| anyhow!("fill: {status}"))?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = fillers.join_next().await {
        done??;
    }
    server.rest(keys).await
}
