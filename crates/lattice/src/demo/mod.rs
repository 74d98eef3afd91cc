//! `lattice demo`: three real nodes on loopback that lose each other and heal, told as it happens.
//!
//! Nothing is acted. The nodes are the ones that `lattice node` runs, with their own ports, keys and data
//! folders; what is told was asked of their public API, and every step fails when it is not seen in time.

mod cluster;
mod narrator;
mod observe;
mod story;

use std::process::ExitCode;

use lattice_runtime::{Config, shutdown, telemetry};

use cluster::{Cluster, Pace};
use narrator::Narrator;

/// The options of `lattice demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lattice demo --fast            the whole story in less than a minute, then play with the nodes
  lattice demo --fast --exit     the same as a check: status 0 only if every step was seen
  lattice demo                   with the timers that production uses (about four minutes)")]
pub(crate) struct DemoArgs {
    /// How many nodes, 3 to 9
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// Shorten the timers
    #[arg(long)]
    fast: bool,
    /// End after the story: status 0 if every step was seen, 1 if not
    #[arg(long)]
    exit: bool,
}

/// Runs the story, then leaves the nodes to the user unless asked to end.
pub(crate) fn main(args: DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refused(&format!("start: {error}")),
    };
    runtime.block_on(run(args))
}

async fn run(args: DemoArgs) -> ExitCode {
    let pace = if args.fast { Pace::fast() } else { Pace::production() };
    let _telemetry = match telemetry::init_silent(&Config::default(), "lattice") {
        Ok(telemetry) => telemetry,
        Err(error) => return refused(&format!("telemetry: {error}")),
    };
    let stop = match shutdown::signal() {
        Ok(stop) => stop,
        Err(error) => return refused(&format!("listen for signals: {error}")),
    };
    let narrator = Narrator::new();
    let cluster = match Cluster::start(usize::from(args.nodes), pace).await {
        Ok(cluster) => cluster,
        Err(error) => return refused(&format!("start the nodes: {error:#}")),
    };

    let told = tokio::select! {
        told = story::tell(&cluster, &narrator) => told,
        () = stop.cancelled() => {
            narrator.say("Interrupted.");
            cluster.stop().await;
            return ExitCode::from(1);
        }
    };
    let status = match &told {
        Ok(()) => {
            narrator.say("Every step was seen.");
            ExitCode::SUCCESS
        }
        Err(missing) => {
            narrator.failed(missing);
            ExitCode::from(1)
        }
    };
    if !args.exit && told.is_ok() {
        narrator.say("The nodes go on until Ctrl-C. Try, in another terminal:");
        for url in cluster.urls() {
            narrator.say(&format!("  lattice --url {url} peers"));
        }
        stop.cancelled().await;
    }
    cluster.stop().await;
    status
}

fn refused(why: &str) -> ExitCode {
    eprintln!("lattice: {why}");
    ExitCode::from(3)
}
