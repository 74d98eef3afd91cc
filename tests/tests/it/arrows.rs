//! The dependency arrows of the architecture hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each crate of the workspace may depend on, tests included.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("lattice-core", &[]),
    ("lattice-proto", &["lattice-core"]),
    ("lattice-runtime", &[]),
    ("lattice-bench", &["lattice-core", "lattice-proto"]),
    ("state-store", SERVICE),
    ("p2p-sensor", SERVICE),
    ("sync-coordinator", SERVICE),
    ("gateway", SERVICE),
    ("lattice", NODE),
    ("lattice-tests", EVERYTHING),
];
const SERVICE: &[&str] = &["lattice-core", "lattice-proto", "lattice-runtime"];
const NODE: &[&str] = &[
    "lattice-core",
    "lattice-proto",
    "lattice-runtime",
    "state-store",
    "p2p-sensor",
    "sync-coordinator",
    "gateway",
];
const EVERYTHING: &[&str] = &[
    "lattice-core",
    "lattice-proto",
    "lattice-runtime",
    "state-store",
    "p2p-sensor",
    "sync-coordinator",
    "gateway",
    "lattice",
    MEASURING,
];

/// What measurements share: any crate's benches may use it, and nothing that ships does.
const MEASURING: &str = "lattice-bench";

/// Libraries that exactly one crate knows (besides the tests).
const KNOWN_ALONE: [(&str, &[&str]); 5] = [
    ("libp2p", &["p2p-sensor"]),
    ("sled", &["state-store"]),
    ("rs_merkle", &["lattice-core"]),
    ("axum", &["gateway"]),
    ("opentelemetry", &["lattice-runtime"]),
];

/// What would make the pure crate impure.
const NOT_IN_CORE: [&str; 8] =
    ["tokio", "futures", "prost", "tonic", "tracing", "libp2p", "reqwest", "lattice-runtime"];

#[test]
fn crates_depend_only_where_the_architecture_points() {
    let allowed = BTreeMap::from(ALLOWED);
    for (name, manifest) in manifests() {
        let mut may: BTreeSet<_> = allowed[name.as_str()].iter().copied().collect();
        for sections in [&["dependencies", "build-dependencies"][..], &["dev-dependencies"]] {
            let dependencies = dependencies(&manifest, sections);
            let ours: BTreeSet<_> =
                dependencies.iter().map(String::as_str).filter(|name| allowed.contains_key(name)).collect();
            assert!(ours.is_subset(&may), "{name} must not depend on {:?}", ours.difference(&may));
            may.insert(MEASURING);
        }
    }
}

#[test]
fn one_crate_knows_each_library() {
    for (name, manifest) in manifests() {
        if name == "lattice-tests" {
            continue;
        }
        let dependencies = dependencies(&manifest, &["dependencies"]);
        for (library, knowing) in KNOWN_ALONE {
            assert!(
                !dependencies.contains(library) || knowing.contains(&name.as_str()),
                "{name} must not know {library}: {knowing:?} does, alone"
            );
        }
    }
}

#[test]
fn core_stays_pure() {
    let core = manifests().remove("lattice-core").expect("lattice-core");
    let dependencies = dependencies(&core, &["dependencies"]);
    for impure in NOT_IN_CORE {
        assert!(!dependencies.contains(impure), "lattice-core must not know {impure}");
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/lattice-core/src");
    for file in rust_files(&sources) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        for impure in ["Instant::now", "SystemTime::now", "std::fs", "std::net", "rand::rng("] {
            assert!(!text.contains(impure), "{} uses {impure}", file.display());
        }
    }
}

#[test]
fn clocks_are_read_in_one_place() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for file in rust_files(&crates) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_clock = file.ends_with("lattice-runtime/src/clock.rs");
        let is_test =
            file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches")
                || file.file_stem().is_some_and(|stem| stem == "tests");
        let measures = file.components().any(|part| part.as_os_str() == MEASURING);
        for clock in ["Instant::now", "SystemTime::now"] {
            assert!(
                is_clock || is_test || measures || !shipped.contains(clock),
                "{} reads {clock}",
                file.display()
            );
        }
    }
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &Path| -> toml::Table {
        std::fs::read_to_string(path).expect("a manifest").parse().expect("valid TOML")
    };
    let workspace = read(&root.join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| {
            let manifest = read(&root.join(member.as_str().expect("a path")).join("Cargo.toml"));
            (manifest["package"]["name"].as_str().expect("a name").to_owned(), manifest)
        })
        .collect()
}

fn dependencies(manifest: &toml::Table, sections: &[&str]) -> BTreeSet<String> {
    sections
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
