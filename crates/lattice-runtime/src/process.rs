//! From `main` to the exit status.
//!
//! A process that cannot start says why in one line on stderr and exits with 2 when the person who started
//! it can mend it (usage, configuration, key), else with 3 (a port or folder in use, a failed task).
//!
//! A service's binary is one call: `fn main() -> ExitCode { process::service_main::<Store>() }`.

use std::fmt::{self, Display};
use std::future::Future;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigArgs, Listen};
use crate::{Config, Runtime, TaskGroup, config, grpc, http, identity, metrics, shutdown, tasks, telemetry};

/// How long a `healthcheck` waits.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the metrics port gets to end, and threads that block.
const GRACE: Duration = Duration::from_secs(2);

/// Threads of the runtime, also where there is one processor: half of them may wait in a short read (the store's reads in
/// place), and half of one would be nobody.
const THREADS_MIN: usize = 2;

/// Why a process ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Bad usage, configuration or key: exit status 2.
    Config(String),
    /// Refused or failed: exit status 3.
    Refused(String),
}

impl Failure {
    /// What the person who started the process can mend: exit status 2.
    pub fn config(why: impl Display) -> Self {
        Self::Config(why.to_string())
    }

    /// What was refused or has failed: exit status 3.
    pub fn refused(why: impl Display) -> Self {
        Self::Refused(why.to_string())
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Refused(_) => 3,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Config(why) | Self::Refused(why)) = self;
        f.write_str(&why.replace('\n', " "))
    }
}

impl std::error::Error for Failure {}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::config(error)
    }
}

impl From<identity::Error> for Failure {
    fn from(error: identity::Error) -> Self {
        use identity::Error::{Content, Folder, InUse, Io, Lost, Members, Mode, OtherCluster};
        match error {
            Content { .. }
            | Folder { .. }
            | Lost { .. }
            | Members { .. }
            | Mode { .. }
            | OtherCluster { .. } => Self::config(error),
            Io { .. } | InUse { .. } => Self::refused(error),
        }
    }
}

impl From<telemetry::Error> for Failure {
    fn from(error: telemetry::Error) -> Self {
        Self::config(error)
    }
}

impl From<http::BindError> for Failure {
    fn from(error: http::BindError) -> Self {
        Self::refused(error)
    }
}

impl From<tasks::Error> for Failure {
    fn from(error: tasks::Error) -> Self {
        Self::refused(error)
    }
}

/// Runs `main` in a runtime of its own. A failure becomes one line on stderr, after `name`, and the exit
/// status.
pub fn run(name: &str, main: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    log_panics();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).max(THREADS_MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(main);
            runtime.shutdown_timeout(GRACE);
            outcome
        }
        Err(error) => Err(Failure::refused(format!("start the runtime: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// A panic is a line of the log, like everything else; before there is a log, a line on stderr.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = tasks::panic_message(panic.payload());
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(location, "panic: {message}");
        } else {
            eprintln!("panic: {message} ({location})");
        }
    }));
}

/// A service that has a binary of its own.
pub trait Service {
    /// The binary's name, like `state-store`.
    const NAME: &'static str;
    /// What it is, for `--help`.
    const ABOUT: &'static str;
    /// Whether it answers `/metrics` on its own port, as the gateway does; else
    /// `telemetry.metrics_listen` is opened for it.
    const HAS_HTTP_PORT: bool = false;

    /// Where it answers gRPC health checks.
    fn health_at(config: &Config) -> Listen;

    /// Whether that port serves TLS.
    fn health_over_tls(_: &Config) -> bool {
        false
    }

    /// Refuses values of the configuration that only this service can parse; looks at nothing else, so that it also
    /// serves `--print-config`.
    ///
    /// # Errors
    /// The first such value.
    fn check(_: &Config) -> Result<(), Failure> {
        Ok(())
    }

    /// Binds, dials its siblings, runs until `shutdown`, drains.
    fn run(
        config: Config,
        runtime: Runtime,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct ServiceCli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<ServiceCommand>,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Exit with 0 when the service that runs with this configuration is serving, else with 3
    Healthcheck,
}

/// The whole `main` of a service's binary: flags, `healthcheck`, telemetry, the metrics port, signals.
pub fn service_main<S: Service>() -> ExitCode {
    let matches = service_command::<S>().get_matches();
    let cli = ServiceCli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        None => launch::<S>(&cli.config),
        Some(ServiceCommand::Healthcheck) => run(S::NAME, async move {
            let config = cli.config.load()?;
            let listen = S::health_at(&config);
            let serving = match &listen {
                Listen::Tcp(address) if S::health_over_tls(&config) => {
                    grpc::healthcheck_over_tls(*address, "", HEALTHCHECK_TIMEOUT).await
                }
                listen => grpc::healthcheck(listen, "", HEALTHCHECK_TIMEOUT).await,
            };
            serving
                .map_err(|status| Failure::refused(format!("not serving at {listen}: {}", status.message())))
        }),
    }
}

/// Loads the configuration that `args` name, prints it if that was asked, else runs the service until a
/// signal, observed: for a binary that has a command line of its own.
pub fn launch<S: Service>(args: &ConfigArgs) -> ExitCode {
    run(S::NAME, async move {
        let config = args.load()?;
        S::check(&config)?;
        if args.print_config {
            print!("{}", config.to_toml());
            return Ok(());
        }
        observed::<S>(config).await
    })
}

fn service_command<S: Service>() -> clap::Command {
    let name = S::NAME;
    let examples = format!(
        "Examples:\n  \
           {name} --config lattice.toml\n  \
           LATTICE_NODE__NAME=node-1 {name} --set telemetry.log_format=json\n  \
           {name} --print-config\n  \
           {name} healthcheck --config lattice.toml\n\n\
         Exit status: 0 ended in order, 2 usage or configuration, 3 refused or failed"
    );
    ServiceCli::command().name(name).about(S::ABOUT).after_help(examples)
}

async fn observed<S: Service>(config: Config) -> Result<(), Failure> {
    let telemetry = telemetry::init(&config, S::NAME)?;
    let outcome = serve::<S>(config).await;
    telemetry.shutdown().await;
    outcome
}

async fn serve<S: Service>(config: Config) -> Result<(), Failure> {
    let runtime = Runtime::new();
    let shutdown =
        shutdown::signal().map_err(|error| Failure::refused(format!("listen for signals: {error}")))?;
    let tasks = TaskGroup::new(S::NAME);
    if let Some(listen) = config.telemetry.metrics_listen.filter(|_| !S::HAS_HTTP_PORT) {
        let server = metrics::Server::bind(listen).await?;
        let (metrics, token) = (runtime.metrics.clone(), tasks.token());
        tasks.spawn("metrics", async move {
            server.serve(metrics, token).await;
            Ok(())
        });
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = config.node.name, "starting");
    let outcome = S::run(config, runtime, shutdown).await;
    let joined = tasks.join(GRACE).await;
    outcome?;
    joined?;
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl Service for Sample {
        const NAME: &'static str = "state-store";
        const ABOUT: &'static str = "Keeps the entries of one node";

        fn health_at(config: &Config) -> Listen {
            config.store.listen.clone()
        }

        async fn run(_: Config, _: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
            shutdown.cancelled().await;
            Ok(())
        }
    }

    fn parse(args: &[&str]) -> ServiceCli {
        let matches = service_command::<Sample>().try_get_matches_from(args).unwrap();
        ServiceCli::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        service_command::<Sample>().debug_assert();
        let help = service_command::<Sample>().render_help().to_string();
        assert!(help.starts_with("Keeps the entries of one node\n\nUsage: state-store"), "{help}");
        assert!(help.contains("state-store healthcheck --config lattice.toml"), "{help}");
    }

    #[test]
    fn configuration_flags_stand_before_or_after_the_subcommand() {
        for args in [
            ["state-store", "--config", "a.toml", "--set", "node.name=a", "healthcheck"],
            ["state-store", "healthcheck", "--config", "a.toml", "--set", "node.name=a"],
        ] {
            let cli = parse(&args);
            assert_eq!(cli.config.config.as_deref(), Some(std::path::Path::new("a.toml")));
            assert_eq!(cli.config.set, ["node.name=a"]);
            assert!(matches!(cli.command, Some(ServiceCommand::Healthcheck)));
        }
    }

    #[test]
    fn failures_say_who_can_act_by_their_status() {
        let cases: [(Failure, u8); 4] = [
            (config::Error::value("node.name", "", "must be text").into(), 2),
            (identity::Error::Content { path: "a".into() }.into(), 2),
            (identity::Error::InUse { path: "a".into() }.into(), 3),
            (Failure::refused("two\nlines"), 3),
        ];
        for (failure, status) in &cases {
            assert_eq!(failure.status(), *status, "{failure}");
            assert!(!failure.to_string().contains('\n'), "{failure}");
        }
    }

    #[test]
    fn run_returns_what_main_says() {
        let code = |outcome| format!("{:?}", run("test", async move { outcome }));
        assert_eq!(code(Ok(())), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(Err(Failure::config("bad"))), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Err(Failure::refused("gone"))), format!("{:?}", ExitCode::from(3)));
    }
}
