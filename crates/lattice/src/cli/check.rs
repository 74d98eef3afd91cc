//! `lattice check`: verifies the store of a node that does not run.

use lattice_runtime::config::ConfigArgs;
use lattice_runtime::process;
use serde_json::{Value, json};
use state_store::engine::{DamagedEntry, Finding, FindingKind, Read};
use state_store::offline::{self, Report};

use super::output::{Failure, Output, count, rfc3339, size};
use super::progress::Progress;

/// The most findings that are shown one by one to people.
const SHOWN_MAX: usize = 50;

/// Checks, or accepts what is lost.
pub(crate) fn run(args: &ConfigArgs, accept_loss: bool, out: Output) -> Result<(), Failure> {
    let config = args.load().map_err(|error| Failure::usage(error.to_string()))?;
    if args.print_config {
        return out.line(config.to_toml().trim_end());
    }
    // What a storage engine says when it panics on its files is told as a finding.
    std::panic::set_hook(Box::new(|_| {}));
    if accept_loss {
        let keys = offline::accept_loss(&config).map_err(failure)?;
        return match out.is_json() {
            true => out.json(&json!({ "accepted": keys })),
            false => out.line(&format!(
                "Loss accepted: {} given up; the store recovers no more.",
                count(keys, "damaged key", "damaged keys")
            )),
        };
    }
    let mut shown = Progress::default();
    let progress = |permille: u32, read: Read| {
        shown.show(permille.into(), Some(1_000), || {
            format!("{}, {}", count(read.records, "record", "records"), size(read.bytes))
        });
    };
    let checked = offline::check(&config, progress);
    shown.end();
    let report = checked.map_err(failure)?;
    if out.is_json() {
        out.json(&document(&report))?
    } else {
        summary(&report, out)?
    }
    match report.is_clean() {
        true => Ok(()),
        false => Err(Failure::untrue("the store is damaged").told()),
    }
}

fn failure(error: offline::Error) -> Failure {
    match process::Failure::from(error) {
        process::Failure::Config(why) => Failure::usage(why),
        process::Failure::Refused(why) => Failure::refused(why),
    }
}

fn kind(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Entry => "entry",
        FindingKind::Node => "tree",
        FindingKind::Uncovered => "uncovered",
        FindingKind::Other => "other",
        FindingKind::Mended => "mended",
    }
}

fn key(entry: &DamagedEntry) -> String {
    entry.key.as_bytes().escape_ascii().to_string()
}

fn document(report: &Report) -> Value {
    let finding = |Finding { kind: of, what }: &Finding| json!({ "kind": kind(*of), "what": what });
    let entry = |entry: &DamagedEntry| {
        json!({
            "key": key(entry),
            "version": entry.head.map(|head| head.version.to_string()),
            "problem": entry.problem,
            "found": rfc3339(entry.found_ms),
        })
    };
    json!({
        "clean": report.is_clean(),
        "records": report.read.records,
        "bytes": report.read.bytes,
        "database": report.places,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "damaged": report.damaged.iter().map(entry).collect::<Vec<_>>(),
        "recovering": report.recovering,
        "set_aside": report
            .set_aside
            .iter()
            .map(|(folder, lines)| json!({ "folder": folder, "reported": lines }))
            .collect::<Vec<_>>(),
    })
}

fn summary(report: &Report, out: Output) -> Result<(), Failure> {
    let Read { records, bytes } = report.read;
    out.line(&format!("Read {}, {}.", count(records, "record", "records"), size(bytes)))?;
    for place in report.places.iter().take(SHOWN_MAX) {
        out.line(&format!("  database: {place}"))?;
    }
    if !report.places.is_empty() {
        out.line("The next start of the node sets this database aside and salvages it.")?;
    }
    for Finding { kind: of, what } in report.findings.iter().take(SHOWN_MAX) {
        out.line(&format!("  {}: {what}", kind(*of)))?;
    }
    if report.findings.len() > SHOWN_MAX {
        out.line(&format!("  and {} more findings", report.findings.len() - SHOWN_MAX))?;
    }
    if !report.damaged.is_empty() {
        out.line(&format!(
            "{} keys are damaged, and wait for repair by a peer or a newer write:",
            report.damaged.len()
        ))?;
        for entry in report.damaged.iter().take(SHOWN_MAX) {
            out.line(&format!("  {}: {}", key(entry), entry.problem))?;
        }
    }
    if let Some(reason) = &report.recovering {
        out.line(&format!("Recovering since: {}", reason.lines().next().unwrap_or_default()))?;
    }
    for (folder, lines) in &report.set_aside {
        out.line(&format!("Set aside: {} ({lines} lines in its REPORT)", folder.display()))?;
    }
    match report.is_clean() {
        true => out.line("The store is sound."),
        false => Ok(()),
    }
}
