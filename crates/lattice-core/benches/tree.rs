//! What one changed entry costs: our 16-way tree beside one flat `rs_merkle` tree over the same entries, in the
//! same run. The flat tree has no way to replace a leaf, so that a change means building it anew.
//!
//! `cargo bench -p lattice-core --bench tree`, or `make bench`; prints a table and, with `--json` as an
//! argument after `--`, one JSON document. Medians; the ratio is flat time over ours.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use lattice_core::model::{Digest, EntryHead, HeadContent, Hlc, KeyHash, NodeId, Version};
use lattice_core::tree::{Node, Position, apply};
use rs_merkle::MerkleTree;
use rs_merkle::algorithms::Sha256;

/// The sizes measured.
const SIZES: [u64; 3] = [1_000, 10_000, 100_000];
/// How often each is measured.
const RUNS: u64 = 15;

struct Row {
    entries: u64,
    ours: Duration,
    flat: Duration,
    nodes: usize,
}

fn main() {
    let rows: Vec<Row> = SIZES.into_iter().map(measure).collect();
    if std::env::args().any(|argument| argument == "--json") {
        let rows: Vec<String> = rows.iter().map(json).collect();
        println!("[{}]", rows.join(","));
        return;
    }
    println!(
        "{:>10} {:>14} {:>16} {:>14} {:>8}",
        "entries", "ours (µs)", "flat tree (µs)", "nodes changed", "ratio"
    );
    for row in &rows {
        println!(
            "{:>10} {:>14.1} {:>16.1} {:>14} {:>7.0}x",
            row.entries,
            micros(row.ours),
            micros(row.flat),
            row.nodes,
            ratio(row)
        );
    }
}

/// Changes one entry after the other in a tree of `entries`.
fn measure(entries: u64) -> Row {
    let mut tree: BTreeMap<Position, Node> = BTreeMap::new();
    put(&mut tree, (0..entries).map(|index| head(index, 1)).collect());
    let mut leaves: Vec<[u8; 32]> = (0..entries).map(|index| head(index, 1).digest().0).collect();
    let mut ours = Vec::new();
    let mut flat = Vec::new();
    let mut nodes = 0;
    for run in 0..RUNS {
        let index = run * entries / RUNS;
        let changed = head(index, 2 + run);

        let start = Instant::now();
        nodes = put(&mut tree, vec![changed]);
        ours.push(start.elapsed());

        let start = Instant::now();
        leaves[index as usize] = changed.digest().0;
        let rebuilt = MerkleTree::<Sha256>::from_leaves(&leaves);
        assert!(rebuilt.root().is_some());
        flat.push(start.elapsed());
    }
    Row { entries, ours: median(ours), flat: median(flat), nodes }
}

/// Applies a batch; how many nodes changed.
fn put(tree: &mut BTreeMap<Position, Node>, heads: Vec<EntryHead>) -> usize {
    let load = |position: &Position| Ok::<_, Infallible>(tree.get(position).cloned());
    let applied = apply(heads, load).expect("a tree that we built");
    let changed = applied.nodes.len();
    tree.extend(applied.nodes);
    changed
}

fn head(index: u64, version: u64) -> EntryHead {
    EntryHead {
        key_hash: KeyHash(Digest::of(&[&index.to_be_bytes()])),
        version: Version { hlc: Hlc(version), writer: NodeId([7; 32]) },
        expires: None,
        content: HeadContent::Value(Digest::of(&[&version.to_be_bytes()])),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn ratio(row: &Row) -> f64 {
    row.flat.as_secs_f64() / row.ours.as_secs_f64()
}

fn json(row: &Row) -> String {
    format!(
        "{{\"entries\":{},\"ours_us\":{:.1},\"flat_us\":{:.1},\"nodes_changed\":{},\"ratio\":{:.1}}}",
        row.entries,
        micros(row.ours),
        micros(row.flat),
        row.nodes,
        ratio(row)
    )
}
