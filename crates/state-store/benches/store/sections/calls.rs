//! Calls over gRPC to server processes: ours and, in turns with it, etcd.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use lattice_bench::etcd::Etcd;
use lattice_bench::load::{self, Calls, Loops};
use lattice_bench::sample::Sample;
use lattice_bench::server::Server;

use crate::bench::Bench;
use crate::lattice::Lattice;
use crate::report::Row;

/// HTTP/2 connections that all clients share.
const CONNECTIONS: usize = 4;

/// Durable puts of new keys. Each number of clients begins with empty servers.
pub(super) fn puts(bench: &mut Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for clients in bench.scale.writers.iter().copied() {
        bench.say(&format!("put with {clients} clients"));
        let both = Both::start(bench)?;
        let warm_up = bench.scale.warm_up;
        rows.extend(both.alternate(bench, "put", clients, warm_up, || Calls::Puts(Default::default()))?);
    }
    Ok(rows)
}

/// Point reads, and scans of 100 keys with a prefix, of what both hold.
pub(super) fn reads(bench: &mut Bench) -> Result<Vec<Row>> {
    let keys = bench.scale.keys_read;
    bench.say(&format!("fill servers with {keys} keys"));
    let both = Both::start(bench)?;
    bench.runtime.block_on(load::fill(&both.ours, keys))?;
    if let Some(etcd) = &both.etcd {
        bench.runtime.block_on(load::fill(etcd, keys))?;
    }
    let mut rows = Vec::new();
    for (name, calls) in [("get", Calls::Gets(keys)), ("scan of 100", Calls::Scans(keys))] {
        for clients in bench.scale.readers.iter().copied() {
            bench.say(&format!("{name} with {clients} clients"));
            let warm_up = bench.scale.time / 10;
            rows.extend(both.alternate(bench, name, clients, warm_up, || calls.clone())?);
        }
    }
    Ok(rows)
}

/// Ours, and etcd where there is one.
struct Both {
    ours: Lattice,
    etcd: Option<Etcd>,
}

impl Both {
    fn start(bench: &Bench) -> Result<Self> {
        bench.runtime.block_on(async {
            let ours = Lattice::start(bench.dir(), CONNECTIONS, &[]).await?;
            let etcd = match &bench.etcd {
                Some(program) => Some(Etcd::start(program, bench.dir(), CONNECTIONS).await?),
                None => None,
            };
            Ok(Self { ours, etcd })
        })
    }

    /// Measures one after the other, again and again, so that a machine that drifts does so for both.
    fn alternate(
        &self,
        bench: &Bench,
        name: &str,
        clients: usize,
        warm_up: Duration,
        calls: impl Fn() -> Calls,
    ) -> Result<Vec<Row>> {
        let loops = Loops { clients, warm_up, time: bench.scale.time, rate: None };
        let mut ours = Turns::new(&self.ours, calls());
        let mut etcd = self.etcd.as_ref().map(|etcd| Turns::new(etcd, calls()));
        bench.runtime.block_on(async {
            for _ in 0..bench.scale.rounds {
                ours.take(loops).await?;
                if let Some(etcd) = &mut etcd {
                    etcd.take(loops).await?;
                }
            }
            let etcd = etcd.map(|etcd| etcd.row(name, clients)).transpose()?;
            Ok(Row::beside(ours.row(name, clients)?, etcd))
        })
    }
}

/// One of the two, and what was measured of it so far.
struct Turns<'a, S> {
    server: &'a S,
    calls: Calls,
    rounds: Vec<Sample>,
}

impl<'a, S: Server> Turns<'a, S> {
    fn new(server: &'a S, calls: Calls) -> Self {
        Self { server, calls, rounds: Vec::new() }
    }

    async fn take(&mut self, loops: Loops) -> Result<()> {
        self.rounds.push(load::run(self.server, loops, &self.calls).await?.sample);
        match &self.calls {
            Calls::Puts(made) => self.server.rest(made.load(Ordering::Relaxed)).await,
            Calls::Gets(_) | Calls::Scans(_) => Ok(()),
        }
    }

    fn row(&self, name: &str, clients: usize) -> Result<Row> {
        let usage = self.server.process().usage()?;
        Ok(Row::new(name, S::NAME, Sample::median(&self.rounds), usage).clients(clients))
    }
}
