//! What the store wants to reach, judged by what was measured.

use lattice_bench::report::Aim;
use lattice_bench::table::{count, digits, megabytes, time};

use crate::report::Row;
use crate::stores::{DISKS, RAW};

/// The size for which memory, opening and sealing are judged.
const KEYS: u64 = 1_000_000;
/// How much more memory than raw sled the store may take.
const MEMORY_MORE: u64 = 64 << 20;

/// The aims that these rows have something to say about.
pub(crate) fn judge(rows: &[Row]) -> Vec<Aim> {
    let engine = DISKS.first().map_or("", |(name, _)| *name);
    let find = |name: &str, system: &str, size: &dyn Fn(&Row) -> bool| {
        rows.iter().find(|row| row.name == name && row.system == system && size(row))
    };
    let of_64 = |row: &Row| row.clients == 64;
    let of_million = |row: &Row| row.n == KEYS;
    let mut aims = Vec::new();

    if let (Some(ours), Some(etcd)) = (find("put", "lattice", &of_64), find("put", "etcd", &of_64)) {
        aims.push(ratio("64 clients: 2× etcd's durable puts per second", ours, 2.0));
        aims.push(Aim {
            aim: "64 clients: a lower p99 of puts than etcd's".to_owned(),
            measured: format!("{} to {}", time(ours.p99_us), time(etcd.p99_us)),
            met: ours.p99_us < etcd.p99_us,
        });
    }
    aims.extend(
        find("put, batches of 1,000", engine, &|_| true)
            .map(|row| ratio("batches of 1,000: 0.7× raw sled's rate, with the tree", row, 0.7)),
    );
    for (name, aim) in [("get", "point reads: 3× etcd's"), ("scan of 100", "scans: 3× etcd's")] {
        let ours = rows.iter().filter(|row| row.name == name && row.ratio.is_some());
        let least = ours.min_by(|a, b| f64::total_cmp(&a.ratio.unwrap_or(0.0), &b.ratio.unwrap_or(0.0)));
        aims.extend(least.map(|row| ratio(aim, row, 3.0)));
    }
    aims.extend(find("open", engine, &of_million).map(|row| within("open 10⁶ keys in 1 s", row, 1e6)));
    aims.extend(
        find("seal, 1 changed", engine, &of_million)
            .map(|row| within("seal one changed key among 10⁶ in 2 ms", row, 2e3)),
    );
    for (name, most) in [("prove presence", 1_024), ("prove absence", 1_536)] {
        let row = find(name, engine, &of_million);
        aims.extend(row.and_then(|row| row.proof_bytes).map(|bytes| Aim {
            aim: format!("{name} among 10⁶ keys in {} B", count(most as u64)),
            measured: format!("{} B", count(bytes as u64)),
            met: bytes <= most,
        }));
    }
    if let (Some(ours), Some(raw)) = (find("fill", engine, &of_million), find("fill", RAW, &of_million)) {
        aims.push(Aim {
            aim: "fill 10⁶ keys in raw sled's memory and 64 MiB more".to_owned(),
            measured: format!("{} to {}", megabytes(ours.rss_peak), megabytes(raw.rss_peak)),
            met: ours.rss_peak <= raw.rss_peak + MEMORY_MORE,
        });
    }
    aims
}

fn ratio(aim: &str, row: &Row, wanted: f64) -> Aim {
    let ratio = row.ratio.unwrap_or_default();
    Aim { aim: aim.to_owned(), measured: format!("{}×", digits(ratio)), met: ratio >= wanted }
}

fn within(aim: &str, row: &Row, wanted_us: f64) -> Aim {
    Aim { aim: aim.to_owned(), measured: time(row.p50_us), met: row.p50_us < wanted_us }
}
