//! Two servers in turns, again and again, so that a machine that drifts does so for both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use lattice_bench::load::{self, Calls, Loops};
use lattice_bench::sample::Sample;
use lattice_bench::server::Server;

use crate::args::{Protocol, Scale};
use crate::report::Row;

/// Ours, and the other where there is one.
pub(crate) struct Pair<'a, Ours, Other> {
    pub(crate) ours: &'a Ours,
    pub(crate) other: Option<&'a Other>,
    pub(crate) protocol: Protocol,
    pub(crate) scale: &'a Scale,
}

impl<Ours: Server, Other: Server> Pair<'_, Ours, Other> {
    /// Each client calls as soon as it was answered.
    pub(crate) async fn closed(&self, name: &str, clients: usize, calls: &Calls) -> Result<Vec<Row>> {
        self.alternate(name, clients, None, calls).await
    }

    /// So many calls a second are made of both.
    pub(crate) async fn paced(
        &self,
        name: &str,
        clients: usize,
        rate: u32,
        calls: &Calls,
    ) -> Result<Vec<Row>> {
        self.alternate(name, clients, Some(rate), calls).await
    }

    async fn alternate(
        &self,
        name: &str,
        clients: usize,
        rate: Option<u32>,
        calls: &Calls,
    ) -> Result<Vec<Row>> {
        let loops = Loops { clients, warm_up: self.scale.warm_up, time: self.scale.time, rate };
        let mut ours = Turns::new(self.ours, calls);
        let mut other = self.other.map(|other| Turns::new(other, calls));
        for _ in 0..self.scale.rounds {
            ours.take(loops).await?;
            if let Some(other) = &mut other {
                other.take(loops).await?;
            }
        }
        let ours = ours.row(name, self.protocol, loops);
        Ok(match other.map(|other| other.row(name, self.protocol, loops)) {
            Some(other) => vec![ours.compared(&other), other],
            None => vec![ours],
        })
    }
}

/// One of the two, and what was measured of it so far.
struct Turns<'a, S> {
    server: &'a S,
    calls: Calls,
    rounds: Vec<Sample>,
    /// Processor time of the server, and the calls that it was for.
    cpu: Duration,
    made: u64,
}

impl<'a, S: Server> Turns<'a, S> {
    /// Writes are counted for each server by itself.
    fn new(server: &'a S, calls: &Calls) -> Self {
        let calls = match calls {
            Calls::Puts(_) => Calls::Puts(Default::default()),
            Calls::Gets(_) | Calls::Scans(_) => calls.clone(),
        };
        Self { server, calls, rounds: Vec::new(), cpu: Duration::ZERO, made: 0 }
    }

    async fn take(&mut self, loops: Loops) -> Result<()> {
        let before = self.server.process().cpu()?;
        let measured = load::run(self.server, loops, &self.calls).await?;
        // What was put off is part of what a write costs.
        if let Calls::Puts(made) = &self.calls {
            self.server.rest(made.load(Ordering::Relaxed)).await?;
        }
        self.cpu += self.server.process().cpu()?.saturating_sub(before);
        self.made += measured.calls;
        self.rounds.push(measured.sample);
        Ok(())
    }

    fn row(&self, name: &str, protocol: Protocol, loops: Loops) -> Row {
        let cpu = self.cpu.as_secs_f64() * 1e6 / self.made.max(1) as f64;
        Row::new(name, S::NAME, protocol, loops, Sample::median(&self.rounds), cpu)
    }
}
