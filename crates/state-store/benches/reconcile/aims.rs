//! What a pull is to cost, judged by what was measured.

use lattice_bench::report::Aim;
use lattice_bench::table::{digits, megabytes};

use crate::report::{Row, bytes};
use crate::sets::Kind;

/// The state for which pulls are judged, and how much of it differs.
const KEYS: u64 = 1_000_000;
const DIFFERING: u64 = 1_000;
/// The most metadata and rounds for that.
const METADATA_MAX: u64 = 600 << 10;
const ROUNDS_MAX: u32 = 5;
/// The most that a new node may hear, by what it must.
const BOOTSTRAP_MAX: f64 = 1.1;
/// Less memory than this, whatever differs.
const MEMORY_MAX: u64 = 64_000_000;

/// The aims that these rows have something to say about.
pub(crate) fn judge(rows: &[Row]) -> Vec<Aim> {
    let mut aims = Vec::new();
    let judged: Vec<&Row> = rows.iter().filter(|row| row.keys == KEYS).collect();
    for row in judged.iter().filter(|row| row.differing == DIFFERING) {
        let (metadata, rounds) = (row.metadata(), row.pulled.rounds);
        aims.push(Aim {
            aim: format!("10³ of 10⁶ {}: at most 600 KiB of metadata in 5 rounds", row.kind.name()),
            measured: format!("{} in {rounds}", bytes(metadata)),
            met: metadata <= METADATA_MAX && rounds <= ROUNDS_MAX,
        });
    }
    let whole = judged.iter().find(|row| row.differing == KEYS && row.kind == Kind::Missing);
    aims.extend(whole.map(|row| Aim {
        aim: "an empty node: at most 1.1× the floor for 10⁶".to_owned(),
        measured: format!("{}×", digits(row.ratio())),
        met: row.ratio() <= BOOTSTRAP_MAX,
    }));
    aims.extend(judged.iter().map(|row| row.pulled.memory).max().map(|memory| Aim {
        aim: "any pull of 10⁶: memory under 64 MB".to_owned(),
        measured: megabytes(memory),
        met: memory < MEMORY_MAX,
    }));
    aims
}
