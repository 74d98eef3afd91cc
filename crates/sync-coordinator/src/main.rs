//! The coordinator as a process of its own; see the library.

use std::process::ExitCode;

use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{Channel, Server};
use lattice_runtime::process::{self, Failure};
use lattice_runtime::{Allocator, Config, Runtime, identity};
use sync_coordinator::{Channels, Service};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct Coordinator;

impl process::Service for Coordinator {
    const NAME: &'static str = "sync-coordinator";
    const ABOUT: &'static str = "Decides when and how one node reconciles with its peers, and does it";

    fn health_at(config: &Config) -> Listen {
        config.coordinator.listen.clone()
    }

    fn check(config: &Config) -> Result<(), Failure> {
        Ok(Service::check_values(config)?)
    }

    async fn run(config: Config, runtime: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
        let channels = Channels {
            store: Channel::connect(&config.store.listen),
            sensor: Channel::connect(&config.sensor.listen),
        };
        identity::check(&config.node)?;
        let server = Server::bind("coordinator.listen", &config.coordinator.listen).await?;
        let service = Service::bind(&config, &runtime, channels).await?.on(server);
        Ok(service.run(shutdown).await?)
    }
}

fn main() -> ExitCode {
    process::service_main::<Coordinator>()
}
