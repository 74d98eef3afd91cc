//! What can be typed after `lattice`, and which part of the crate does it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use lattice_core::model::NodeId;
use lattice_runtime::config::ConfigArgs;

use crate::cli::{
    Connection, Failure, Format, Output, URL_DEFAULT, check, cluster, compact, doctor, files, finish, keygen,
    kv, proof, top, watch,
};
use crate::{demo, node};

const URL: &str = "LATTICE_URL";
const CA: &str = "LATTICE_CA";

/// A replicated key-value state store that heals itself.
#[derive(Debug, Parser)]
#[command(
    name = "lattice",
    version,
    about = "A replicated key-value state store that heals itself",
    after_help = "Examples:
  lattice demo --fast                     watch three nodes lose each other and heal
  lattice keygen --file node.key          make a node's key and print its public half
  lattice node --config node-1.toml       run a node
  lattice put greeting hello              write, and read back
  lattice get greeting
  lattice --output json peers             what this node sees, for a program

Exit status: 0 done, 1 not found or not true, 2 usage or configuration, 3 refused or failed."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Which node is asked, where one is, and how the answer looks. What the variables hold is looked at by the commands that
/// ask a node: the others have no use for it, and must not fail for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct Global {
    /// The node to ask: its gateway's base URL, which may have a path
    #[arg(long, global = true, env = URL, default_value = URL_DEFAULT)]
    url: OsString,
    /// The token to ask with, when the node wants one; other users of this host see it in the list of processes, unless
    /// it comes from the environment
    #[arg(long, global = true, env = "LATTICE_TOKEN", hide_env_values = true)]
    token: Option<OsString>,
    /// PEM file of the authorities that vouch for the node's certificate, when it serves TLS [default: the system's]
    #[arg(long, global = true, env = CA, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca: Option<OsString>,
    /// Tables for people, or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: store, sensor, coordinator and gateway in one process
    #[command(after_help = "Examples:
  lattice node
  lattice node --config node-1.toml
  lattice node --set gateway.listen=127.0.0.1:8081 --set node.data_dir=./data-1
  lattice node --config node-1.toml --print-config")]
    Node(ConfigArgs),
    /// Start a local cluster that shows isolation, failover, divergence and healing
    #[command(after_help = "Examples:
  lattice demo --fast           the story, and then the cluster is yours
  lattice demo --fast --exit    for a script: status 0 when every step was seen")]
    Demo(demo::DemoArgs),
    /// Make a node's key, and print its public half
    #[command(after_help = "Examples:
  lattice keygen --file ./data/node.key
  lattice --output json keygen --file ./data/node.key

An existing key is never overwritten: its public half is printed again.")]
    Keygen {
        /// Where the secret seed goes (64 hex characters, mode 0600)
        #[arg(long, default_value = "node.key")]
        file: PathBuf,
    },
    /// Print the value of a key
    #[command(after_help = "Examples:
  lattice get greeting
  lattice get report > report.pdf
  lattice --output json get greeting")]
    Get {
        /// The key
        key: String,
    },
    /// Write a value
    #[command(after_help = "Examples:
  lattice put greeting hello
  lattice put report - < report.pdf
  lattice put session abc --ttl 60s")]
    Put {
        /// The key
        key: String,
        /// The value; `-`, or nothing, reads it from standard input
        #[arg(default_value = "-")]
        value: String,
        /// How long the key lives, like 500ms, 60s, 5m, 24h: 1ms to 87600h
        #[arg(long, value_parser = kv::parse_ttl)]
        ttl: Option<std::time::Duration>,
    },
    /// Delete a key
    #[command(after_help = "Examples:
  lattice delete greeting")]
    Delete {
        /// The key
        key: String,
    },
    /// List keys and values in key order
    #[command(after_help = "Examples:
  lattice list
  lattice list users/ --limit 1000
  lattice list users/ --cursor <what the last list said how to go on with>
  lattice --output json list users/")]
    List {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: String,
        /// The most entries to list, at least 1
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Go on where a list ended: what it said at its end, and `next` of its JSON
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Follow changes as the node commits them
    #[command(after_help = "Examples:
  lattice watch
  lattice watch users/
  lattice --output json watch users/ --since <id of the last change seen>")]
    Watch {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: String,
        /// Go on after this change: the id that JSON output shows, and a watch that ends
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        since: Option<String>,
    },
    /// Prove that a key is there, or is not, under a seal that the node signed; prints JSON
    #[command(after_help = "Examples:
  lattice proof greeting > greeting.json
  lattice verify-proof greeting.json --key <the node's public key>")]
    Proof {
        /// The key
        key: String,
        /// The sealed epoch to prove it at; the newest when left out
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Say whether a proof is true; asks no node. Exit status 0 for true, 1 for not
    #[command(after_help = "Examples:
  lattice verify-proof greeting.json --key <the node's public key>
  lattice verify-proof greeting.json --key <the node's public key> --cluster lattice
  lattice verify-proof greeting.json --key <the node's public key> --of greeting --epoch 1700000000")]
    VerifyProof {
        /// The proof, as `lattice proof` or `GET /v1/proof` gave it; `-` is standard input
        file: PathBuf,
        /// The public key of the node that is to have signed it, 64 hex characters
        #[arg(long, value_name = "HEX")]
        key: NodeId,
        /// The cluster that it is to be of; any when left out
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// The key that it is to be about; any when left out
        #[arg(long, value_name = "KEY")]
        of: Option<String>,
        /// The sealed epoch that it is to stand on; any when left out
        #[arg(long, value_name = "N")]
        epoch: Option<u64>,
    },
    /// Write all entries into a file, to be kept elsewhere
    #[command(after_help = "Examples:
  lattice backup lattice.backup
  lattice --url http://node-2:8080 backup node-2.backup
  lattice backup - | zstd > lattice.backup.zst")]
    Backup {
        /// The file, which appears when it is whole; `-` is standard output, and then what is said goes to standard error
        file: PathBuf,
    },
    /// Merge a backup into the node: of each key the newer version wins
    #[command(after_help = "Examples:
  lattice restore lattice.backup
  lattice restore other.backup --any-cluster
  zstdcat lattice.backup.zst | lattice restore -

A restore may be repeated, and one that was cut off is resumed by repeating it.")]
    Restore {
        /// The file; `-` is standard input. It is read to its end before anything is restored
        file: PathBuf,
        /// Take a file of another cluster, too
        #[arg(long)]
        any_cluster: bool,
    },
    /// What the node is, which path it uses, and how healthy it is
    #[command(after_help = "Examples:
  lattice status
  lattice --url http://node-2:8080 status
  lattice --output json status")]
    Status,
    /// The peers, as the node sees them
    #[command(after_help = "Examples:
  lattice peers
  lattice --output json peers")]
    Peers,
    /// Follow what happens, as it happens
    #[command(after_help = "Examples:
  lattice events
  lattice --output json events")]
    Events,
    /// The last reconciliations, newest first
    #[command(after_help = "Examples:
  lattice heals
  lattice heals --limit 100
  lattice --output json heals")]
    Heals {
        /// The most heals to list, 1 to 1000
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Pin a path, or leave the choice to the node; until it restarts
    #[command(after_help = "Examples:
  lattice switch http
  lattice switch auto")]
    Switch {
        /// The path
        mode: cluster::PathChoice,
    },
    /// Start a reconciliation now
    #[command(after_help = "Examples:
  lattice reconcile
  lattice reconcile <public key of a peer>")]
    Reconcile {
        /// The peer's public key; every known peer when left out
        peer: Option<String>,
    },
    /// Check a stopped store: every entry against the tree, and the tree against every entry
    #[command(after_help = "Examples:
  lattice check --config node-1.toml
  lattice --output json check --set node.data_dir=./data-1
  lattice check --accept-loss      give up what is damaged and what no peer brought back

Exit status: 0 sound, 1 damage found, 3 refused (the node runs, or there is no store).")]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Give up damaged entries, and end waiting for peers; what is left is served as if it were all
        #[arg(long)]
        accept_loss: bool,
    },
    /// Write the database of a stopped store anew, which gives room on the disk back
    #[command(after_help = "Examples:
  lattice compact --config node-1.toml
  lattice --output json compact --set node.data_dir=./data-1

With --engine the store moves to that engine, if it is built in; store.engine has to be set to it before the next start.
A store that wastes no room does not get smaller, and may get larger by what its engine adds at a time.

Needs room for the copy beside the database. Whatever interrupts it, nothing is lost: the next start, or the next
compaction, removes what it left.

Exit status: 0 done, 2 usage or configuration, 3 refused (the node runs, no room, damage: see lattice check).")]
    Compact {
        #[command(flatten)]
        config: ConfigArgs,
        /// The engine that is to keep the store from then on [default: the one that keeps it]
        #[arg(long, value_enum)]
        engine: Option<compact::To>,
    },
    /// Say what is wrong with the node, and what to do about it
    #[command(after_help = "Examples:
  lattice doctor
  lattice --url http://node-2:8080 doctor
  lattice --output json doctor

Exit status: 0 nothing bad, 1 something is, 3 the node does not answer.")]
    Doctor,
    /// A live view of the node and its peers, in a terminal
    #[command(after_help = "Examples:
  lattice top
  lattice --url http://node-2:8080 top --every 5s")]
    Top {
        /// How often the node is asked, like 500ms, 1s
        #[arg(long, default_value = "1s", value_parser = top::parse_every)]
        every: std::time::Duration,
    },
    /// Print a script that completes the command line in a shell
    #[command(after_help = "Examples:
  lattice completions bash > /etc/bash_completion.d/lattice
  lattice completions zsh > ~/.zfunc/_lattice
  lattice completions fish > ~/.config/fish/completions/lattice.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The trusted keys: list, add, remove
    #[command(after_help = "Examples:
  lattice trust list
  lattice trust add <public key>
  lattice trust remove <public key>")]
    Trust {
        #[command(subcommand)]
        change: cluster::TrustCommand,
    },
}

/// Parses the arguments, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, env::args_os()),
    };
    match command {
        Command::Node(config) => node::main(&config),
        Command::Demo(args) => demo::main(args),
        Command::Keygen { file } => {
            let out = Output::new(global.output);
            finish(keygen::run(&file, out), out)
        }
        Command::Get { key } => ask(global, async |node, out| kv::get(node, out, key).await),
        Command::Put { key, value, ttl } => {
            ask(global, async move |node, out| kv::put(node, out, key, value, ttl).await)
        }
        Command::Delete { key } => ask(global, async |node, out| kv::delete(node, out, key).await),
        Command::List { prefix, limit, cursor } => {
            ask(global, async move |node, out| kv::list(node, out, prefix, limit, cursor).await)
        }
        Command::Watch { prefix, since } => {
            ask(global, async move |node, out| watch::watch(node, out, prefix, since).await)
        }
        Command::Proof { key, epoch } => {
            ask(global, async move |node, out| proof::proof(node, out, key, epoch).await)
        }
        Command::VerifyProof { file, key, cluster, of, epoch } => {
            let out = Output::new(global.output);
            let expected = proof::Expected { signer: key, cluster, key: of, epoch };
            finish(proof::verify(out, &file, &expected), out)
        }
        Command::Backup { file } => {
            // A problem document would be taken for a part of the backup.
            let output = if files::is_standard(&file) { Format::Table } else { global.output };
            ask(Global { output, ..global }, async move |node, out| files::backup(node, out, &file).await)
        }
        Command::Restore { file, any_cluster } => {
            ask(global, async move |node, out| files::restore(node, out, &file, any_cluster).await)
        }
        Command::Status => ask(global, async |node, out| cluster::status(node, out).await),
        Command::Peers => ask(global, async |node, out| cluster::peers(node, out).await),
        Command::Events => ask(global, async |node, out| cluster::events(node, out).await),
        Command::Heals { limit } => {
            ask(global, async move |node, out| cluster::heals(node, out, limit).await)
        }
        Command::Switch { mode } => {
            ask(global, async move |node, out| cluster::switch(node, out, mode).await)
        }
        Command::Reconcile { peer } => {
            ask(global, async |node, out| cluster::reconcile(node, out, peer).await)
        }
        Command::Check { config, accept_loss } => {
            let out = Output::new(global.output);
            finish(check::run(&config, accept_loss, out), out)
        }
        Command::Compact { config, engine } => {
            let out = Output::new(global.output);
            finish(compact::run(&config, engine, out), out)
        }
        Command::Doctor => ask(global, async |node, out| doctor::run(node, out).await),
        Command::Top { every } => ask(global, async move |node, out| top::run(node, out, every).await),
        Command::Completions { shell } => {
            let out = Output::new(global.output);
            finish(completions(shell, out), out)
        }
        Command::Trust { change } => ask(global, async |node, out| cluster::trust(node, out, change).await),
    }
}

/// Shows why `args` are no command, or the help that they ask for.
fn unparsed(error: &clap::Error, args: impl Iterator<Item = OsString>) -> ExitCode {
    if error.use_stderr() && asks_for_json(args) {
        let text = error.to_string();
        // Usage and hints follow after an empty line: people see them.
        let why = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                "a command is missing: see --help".to_owned()
            }
            _ => {
                let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
                lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
            }
        };
        // Standard output may be closed; the exit status tells it all the same.
        let _ = Output::new(Format::Json).json(&Failure::usage(why).problem());
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Whether arguments that could not be parsed ask for JSON.
fn asks_for_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<_> = args.take_while(|arg| arg != "--").collect();
    // A problem document would be taken for a part of the backup.
    if args.iter().any(|arg| arg == "backup") && args.iter().any(|arg| arg == "-") {
        return false;
    }
    args.iter().any(|arg| arg == "--output=json")
        || args.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

/// Written to memory first: a reader that goes early is an error like any other.
fn completions(shell: clap_complete::Shell, out: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lattice", &mut script);
    out.bytes(&script)
}

/// Runs a command that asks a node.
fn ask(global: Global, command: impl AsyncFnOnce(Connection, Output) -> Result<(), Failure>) -> ExitCode {
    let out = Output::new(global.output);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Failure::refused(format!("start: {error}"))), out),
    };
    let done = runtime.block_on(async {
        let url = if is_unset(URL, &global.url) { OsStr::new(URL_DEFAULT) } else { &global.url };
        let ca = global.ca.as_deref().filter(|ca| !is_unset(CA, ca));
        let node = Connection::open(url, global.token.as_deref(), ca)?;
        command(node, out).await
    });
    finish(done, out)
}

/// Whether a value is only what an empty variable left: such a one was not filled in.
fn is_unset(variable: &str, value: &OsStr) -> bool {
    value.is_empty() && env::var_os(variable).is_some_and(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_examples() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  lattice "), "{}: {help}", command.get_name());
            assert!(help.contains(command.get_name()), "{}: {help}", command.get_name());
        }
    }

    #[test]
    fn shells_complete_every_command() {
        use clap_complete::Shell::{Bash, Fish, Zsh};
        for shell in [Bash, Fish, Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lattice", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} lacks {}", command.get_name());
            }
        }
    }
}
