//! The gateway as a process of its own: dials its siblings where the node's file says they listen.

use std::process::ExitCode;

use gateway::{Channels, Service};
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::Channel;
use lattice_runtime::process::{self, Failure};
use lattice_runtime::{Allocator, Config, Runtime};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct Gateway;

impl process::Service for Gateway {
    const NAME: &'static str = "gateway";
    const ABOUT: &'static str = "The public port of a Lattice node: REST and gRPC for clients and operators";
    const HAS_HTTP_PORT: bool = true;

    fn health_at(config: &Config) -> Listen {
        Listen::dial(config.gateway.listen)
    }

    fn health_over_tls(config: &Config) -> bool {
        config.gateway.tls_cert.is_some()
    }

    fn check(config: &Config) -> Result<(), Failure> {
        Ok(Service::check_values(config)?)
    }

    async fn run(config: Config, runtime: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
        let channels = Channels {
            store: Channel::connect(&config.store.listen),
            reads: None,
            sensor: Channel::connect(&config.sensor.listen),
            coordinator: Channel::connect(&config.coordinator.listen),
        };
        let service = Service::bind(&config, &runtime, channels).await?;
        Ok(service.run(shutdown).await?)
    }
}

fn main() -> ExitCode {
    process::service_main::<Gateway>()
}
