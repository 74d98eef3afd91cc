//! `lattice compact`: gives back the room that the store of a node that does not run takes in vain.

use lattice_runtime::config::{ConfigArgs, Engine};
use lattice_runtime::process;
use serde_json::{Value, json};
use state_store::compact::{self, Compacted, Step};

use super::output::{Failure, Output, count, size};
use super::progress::Progress;

/// The engines that a store may be moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum To {
    /// Grows when it is overwritten: compact it now and then
    Sled,
    /// Uses its room again by itself
    // One that is not built in is refused by name, and not offered.
    #[value(hide = !cfg!(feature = "redb"))]
    Redb,
}

impl From<To> for Engine {
    fn from(to: To) -> Self {
        match to {
            To::Sled => Self::Sled,
            To::Redb => Self::Redb,
        }
    }
}

/// Compacts, and moves to another engine when one is named.
pub(crate) fn run(args: &ConfigArgs, to: Option<To>, out: Output) -> Result<(), Failure> {
    let config = args.load().map_err(|error| Failure::usage(error.to_string()))?;
    if args.print_config {
        return out.line(config.to_toml().trim_end());
    }
    // What a storage engine says when it panics on its files is told as what it is: damage.
    std::panic::set_hook(Box::new(|_| {}));
    let mut shown = Progress::default();
    let progress = |step: Step, done: u64, of: Option<u64>| {
        let what = match step {
            Step::Counting => "records counted",
            Step::Copying => "records copied",
            Step::Comparing => "records compared",
            // An instant, but for deleting what is replaced.
            Step::Replacing => "names changed",
        };
        shown.show(done, of, || format!("{done} {what}"));
    };
    let compacted = compact::run(&config, to.map(Engine::from), progress);
    shown.end();
    let compacted = compacted.map_err(|error| match process::Failure::from(error) {
        process::Failure::Config(why) => Failure::usage(why),
        process::Failure::Refused(why) => Failure::refused(why),
    })?;
    let configured = config.store.engine.name();
    if out.is_json() {
        return out.json(&document(&compacted, configured));
    }
    let Compacted { records, bytes, before, after } = compacted;
    out.line(&format!(
        "Copied {}, {}, and compared them.",
        count(records, "record", "records"),
        size(bytes)
    ))?;
    out.line(&format!(
        "On the disk: {} before ({}), {} now ({}).",
        size(before.1),
        before.0,
        size(after.1),
        after.0
    ))?;
    match after.0 == configured {
        true => Ok(()),
        false => out.line(&format!(
            "Set store.engine = \"{}\" before the next start: it is {configured:?}.",
            after.0
        )),
    }
}

fn document(compacted: &Compacted, configured: &str) -> Value {
    let Compacted { records, bytes, before, after } = compacted;
    let database = |(engine, bytes): &(&str, u64)| json!({ "engine": engine, "bytes": bytes });
    json!({
        "records": records,
        "bytes": bytes,
        "before": database(before),
        "after": database(after),
        "configured": configured,
    })
}
