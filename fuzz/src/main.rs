//! Feeds made-up bytes to every decoder that takes them from outside: from a peer, a client, a file, the disk.
//!
//! libFuzzer makes up the bytes, and keeps those that reach new code. `LATTICE_FUZZ_TARGET` names the decoder;
//! `LATTICE_FUZZ_SEEDS` a folder that gets valid encodings to begin with. Of each input: nothing panics, memory stays
//! within a bound that follows the input's length, and what decodes has an encoding that decodes to the same.
//!
//! `make fuzz` builds and runs all of them.

#![cfg_attr(fuzzing, no_main)]
// Nothing calls them without the fuzzer: that is for `cargo check`.
#![cfg_attr(not(fuzzing), allow(dead_code, reason = "the fuzzer calls it"))]

mod disk;
mod files;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests of the wire use more of it")]
#[path = "../../crates/lattice-proto/tests/it/fixtures.rs"]
mod fixtures;
mod records;
mod seeds;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests of the wire use more of it")]
#[path = "../../crates/lattice-proto/tests/it/strategies.rs"]
mod strategies;
mod wire;

use std::path::PathBuf;
use std::sync::OnceLock;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One decoder.
struct Target {
    name: &'static str,
    /// Feeds it.
    feed: fn(&[u8]),
    /// Valid inputs.
    seeds: fn() -> Vec<Vec<u8>>,
    /// The most bytes that it may take at a time, whatever it is fed, and for each byte that it is fed.
    bytes_max: (usize, usize),
}

const TARGETS: &[Target] = &[
    Target { name: "request", feed: wire::request, seeds: seeds::requests, bytes_max: WIRE },
    Target { name: "response", feed: wire::response, seeds: seeds::responses, bytes_max: WIRE },
    Target { name: "envelope", feed: wire::envelope, seeds: seeds::envelopes, bytes_max: WIRE },
    Target { name: "statement", feed: wire::statement, seeds: seeds::statements, bytes_max: WIRE },
    Target { name: "delta", feed: wire::delta, seeds: seeds::deltas, bytes_max: WIRE },
    Target { name: "record", feed: wire::record, seeds: seeds::records, bytes_max: WIRE },
    Target { name: "proof", feed: wire::proof, seeds: seeds::proofs, bytes_max: WIRE },
    Target { name: "sibling", feed: wire::sibling, seeds: seeds::siblings, bytes_max: WIRE },
    Target { name: "backup", feed: files::backup, seeds: seeds::backups, bytes_max: WIRE },
    Target { name: "state", feed: files::state, seeds: seeds::states, bytes_max: WIRE },
    Target { name: "config", feed: files::config, seeds: seeds::configs, bytes_max: WIRE },
    Target { name: "store", feed: disk::store, seeds: seeds::stores, bytes_max: STORE },
    Target { name: "salvage", feed: disk::salvage, seeds: seeds::salvages, bytes_max: STORE },
    Target { name: "log", feed: disk::log, seeds: seeds::logs, bytes_max: STORE },
];

/// A message may be many times as large as its bytes, since an empty part of it takes two.
const WIRE: (usize, usize) = (1 << 20, 256);
/// A store has buffers of its own.
const STORE: (usize, usize) = (32 << 20, 256);

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Finds the target, and writes its seeds.
fn begin() {
    let name = std::env::var("LATTICE_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("LATTICE_FUZZ_TARGET: {name:?} is none of {}", names.join(", "));
        std::process::exit(2);
    };
    if let Some(folder) = std::env::var_os("LATTICE_FUZZ_SEEDS").map(PathBuf::from) {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)
                .expect("a folder that can be written");
        }
    }
    TARGET.get_or_init(|| target);
}

fn feed(bytes: &[u8]) {
    let target = TARGET.get().expect("the fuzzer begins with `begin`");
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    (target.feed)(bytes);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let (whatever, each) = target.bytes_max;
    let bound = whatever + each * bytes.len();
    assert!(taken <= bound, "{} bytes made it take {taken}: more than {bound}", bytes.len());
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: begin(), |bytes: &[u8]| feed(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this is built by `make fuzz`");
}
