//! What the gateway wants to reach, judged by what was measured.

use lattice_bench::report::Aim;
use lattice_bench::table::{digits, time};

use crate::args::{Protocol, Scale};
use crate::report::Row;

/// Of the bare server's reads per second.
const BARE_MIN: f64 = 0.6;
/// Of etcd's.
const ETCD_MIN: f64 = 3.0;
/// More than the bare server's p99, in microseconds, when both are asked as often.
const ADDED_US_MAX: f64 = 500.0;

/// The aims that these rows have something to say about.
pub(crate) fn judge(rows: &[Row], scale: &Scale) -> Vec<Aim> {
    let clients = scale.most_clients();
    let reads = |protocol, system: &str, paced: bool| {
        rows.iter().find(|row| {
            (row.name.as_str(), row.system, row.protocol) == ("get", system, protocol)
                && row.clients == clients
                && row.offered_per_s.is_some() == paced
        })
    };
    let mut aims = Vec::new();
    for (protocol, peer, wanted) in
        [(Protocol::Http, "bare axum", BARE_MIN), (Protocol::Grpc, "etcd", ETCD_MIN)]
    {
        if let Some(ratio) = reads(protocol, "lattice", false).and_then(|row| row.ratio) {
            aims.push(Aim {
                aim: format!("{clients} clients: {wanted}× the reads per second of {peer}"),
                measured: format!("{}×", digits(ratio)),
                met: ratio >= wanted,
            });
        }
    }
    if let (Some(ours), Some(bare)) =
        (reads(Protocol::Http, "lattice", true), reads(Protocol::Http, "bare axum", true))
    {
        aims.push(Aim {
            aim: format!("{clients} clients, the same load: at most {} more at p99", time(ADDED_US_MAX)),
            measured: format!("{} to {}", time(ours.p99_us), time(bare.p99_us)),
            met: ours.p99_us - bare.p99_us <= ADDED_US_MAX,
        });
    }
    aims
}
