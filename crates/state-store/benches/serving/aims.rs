//! What peers may cost, judged by what was measured.

use lattice_bench::report::Aim;
use lattice_bench::table::digits;

use crate::report::Row;

/// The least part of their throughput that clients keep while peers pull as fast as they can.
const FREE_MIN: f64 = 0.5;
/// The same while peers are served within a limit.
const LIMITED_MIN: f64 = 0.8;

/// The aims that these rows have something to say about.
pub(crate) fn judge(rows: &[Row]) -> Vec<Aim> {
    let pulled = rows.iter().filter(|row| row.peers > 0);
    pulled
        .map(|row| {
            let (least, how) = match row.limit {
                None => (FREE_MIN, "as fast as they can"),
                Some(_) => (LIMITED_MIN, "within the limit"),
            };
            Aim {
                aim: format!("{} while {} peers pull {how}: at least {least}×", row.kind.name(), row.peers),
                measured: format!("{}×", digits(row.part)),
                met: row.part >= least,
            }
        })
        .collect()
}
