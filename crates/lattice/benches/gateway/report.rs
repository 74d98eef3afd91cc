//! A line of the table.

use lattice_bench::load::Loops;
use lattice_bench::report;
use lattice_bench::sample::Sample;
use lattice_bench::table::{count, digits, rate, time};
use serde::Serialize;

use crate::args::Protocol;

/// One kind of calls, made of one server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was called.
    pub(crate) name: String,
    /// Who answered.
    pub(crate) system: &'static str,
    /// How.
    pub(crate) protocol: Protocol,
    /// How many clients called at the same time.
    pub(crate) clients: usize,
    /// How many calls a second were made of it, where that was given.
    pub(crate) offered_per_s: Option<u32>,
    /// How many were answered.
    pub(crate) ops_per_s: f64,
    /// The median of a call, in microseconds.
    pub(crate) p50_us: f64,
    /// What 99 of 100 calls do not exceed, in microseconds.
    pub(crate) p99_us: f64,
    /// Processor time of the server for each call, in microseconds.
    pub(crate) cpu_us: f64,
    /// Who it is compared with.
    peer: Option<&'static str>,
    /// Its calls per second over those of the peer.
    pub(crate) ratio: Option<f64>,
}

impl Row {
    pub(crate) fn new(
        name: &str,
        system: &'static str,
        protocol: Protocol,
        loops: Loops,
        sample: Sample,
        cpu_us: f64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            system,
            protocol,
            clients: loops.clients,
            offered_per_s: loops.rate,
            ops_per_s: sample.ops_per_s,
            p50_us: sample.p50_us,
            p99_us: sample.p99_us,
            cpu_us,
            peer: None,
            ratio: None,
        }
    }

    /// Compares it with a peer; their rates say nothing where both were offered the same.
    pub(crate) fn compared(self, peer: &Self) -> Self {
        let ratio = self.offered_per_s.is_none().then_some(self.ops_per_s / peer.ops_per_s);
        Self { peer: Some(peer.system), ratio, ..self }
    }
}

impl report::Row<8> for Row {
    const COLUMNS: [&'static str; 8] =
        ["what", "who", "clients", "ops/s", "p50", "p99", "CPU / op", "ratio to peer"];

    fn cells(&self) -> [String; 8] {
        let how = match (self.protocol, self.offered_per_s) {
            (Protocol::Http, None) => "over HTTP".to_owned(),
            (Protocol::Grpc, None) => "over gRPC".to_owned(),
            (Protocol::Http, Some(rate)) => format!("over HTTP, {} a second", count(u64::from(rate))),
            (Protocol::Grpc, Some(rate)) => format!("over gRPC, {} a second", count(u64::from(rate))),
        };
        [
            format!("{} {how}", self.name),
            self.system.to_owned(),
            count(self.clients as u64),
            rate(self.ops_per_s),
            time(self.p50_us),
            time(self.p99_us),
            time(self.cpu_us),
            self.ratio.map(|ratio| format!("{}×", digits(ratio))).unwrap_or_default(),
        ]
    }
}
