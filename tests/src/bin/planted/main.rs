//! Plants bugs one at a time, and sees whether the simulation finds them.
//!
//! `make planted`, or `cargo run -p lattice-tests --features programs --bin planted -- --help`. Each bug of
//! `planted.toml` is an edit of a copy of the sources, in a folder of its own with a target folder of its own; there
//! `simulate` is built, and run until something is broken. Then the same seed is run without the bug: what breaks
//! anyway says nothing. The table goes to stdout, progress to stderr.

mod checkout;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lattice_tests::planted::{self, Bug};

use crate::checkout::{Checkout, Simulated};
use crate::report::{Report, Row};

const EXAMPLES: &str = "\
Examples:
  make planted
      every bug; some minutes, most of which go into compiling each
  make planted ARGS='--markdown docs/simulation.md --json target/planted.json'
      the same, into the document and as JSON
  make planted ARGS='--only \"no pause\" --seeds 50'
      one of them, with no more than 50 seeds

Status 0: every bug was found. 1: one was not, or its seed breaks without it.";

/// Plants bugs one at a time, and sees whether the simulation finds them.
#[derive(Parser)]
#[command(name = "planted", after_help = EXAMPLES)]
struct Args {
    /// Only bugs of this name; may be given more than once.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The most seeds that each is looked for with.
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Where the copy of the sources and what is built of it are kept.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the table as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as Markdown, too: between the marks of a document that has them, else as a new file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("planted: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every bug was found.
fn run(args: &Args) -> Result<bool> {
    let began = Instant::now();
    let say = |what: String| eprintln!("{:>4} s  {what}", began.elapsed().as_secs());
    let bugs = chosen(args)?;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = args.dir.clone().unwrap_or_else(|| target().join("planted"));
    let checkout =
        Checkout::new(&root, &dir).with_context(|| format!("copy the sources to {}", dir.display()))?;

    say("building without any bug".to_owned());
    let sound = checkout.build()?.keep("sound")?;
    let mut rows = Vec::new();
    for bug in &bugs {
        say(format!("planting {:?}", bug.name));
        checkout.plant(bug)?;
        let built = checkout.build().with_context(|| format!("with bug {:?}", bug.name));
        checkout.restore(bug)?;
        let found = match built?.run(1, args.seeds)? {
            Simulated::Broken { seed, invariant } => Some((seed, invariant)),
            Simulated::Held => None,
        };
        let sound = match &found {
            Some((seed, _)) => matches!(sound.run(*seed, 1)?, Simulated::Held),
            None => true,
        };
        let row = Row::new(bug, found, sound);
        say(row.line());
        rows.push(row);
    }
    let report = Report { commit: checkout.commit(), seeds: args.seeds, rows };
    print!("{}", report.markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, json).with_context(|| format!("--json: write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        report.write_into(path).with_context(|| format!("--markdown: write {}", path.display()))?;
    }
    Ok(report.all_found())
}

fn chosen(args: &Args) -> Result<Vec<Bug>> {
    let mut bugs = planted::bugs().context("planted.toml")?;
    if let Some(unknown) = args.only.iter().find(|name| !bugs.iter().any(|bug| bug.name == **name)) {
        let names: Vec<&str> = bugs.iter().map(|bug| bug.name.as_str()).collect();
        bail!("--only {unknown:?}: there is no such bug, only {}", names.join(", "));
    }
    bugs.retain(|bug| args.only.is_empty() || args.only.contains(&bug.name));
    Ok(bugs)
}

/// Where cargo puts what it builds: this program is in a folder of it.
fn target() -> PathBuf {
    let own = env::current_exe().ok();
    let target = own.as_deref().and_then(|own| own.parent()?.parent());
    target.map_or_else(|| PathBuf::from("target"), PathBuf::from)
}
