//! The P2P sensor as a process of its own: serves gRPC where the node's file says it listens.

use std::process::ExitCode;

use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{self, Server, ServingStatus};
use lattice_runtime::process::{self, Failure};
use lattice_runtime::{Allocator, Config, Runtime, identity};
use p2p_sensor::Service;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct Sensor;

impl process::Service for Sensor {
    const NAME: &'static str = "p2p-sensor";
    const ABOUT: &'static str = "Sees the libp2p peers of a Lattice node, and carries what is said to them";

    fn health_at(config: &Config) -> Listen {
        config.sensor.listen.clone()
    }

    fn check(config: &Config) -> Result<(), Failure> {
        Ok(Service::check_values(config)?)
    }

    async fn run(config: Config, runtime: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
        identity::check(&config.node)?;
        let server = Server::bind("sensor.listen", &config.sensor.listen).await?;
        let service = Service::bind(&config, &runtime).await?;
        let (reporter, health) = grpc::health();
        reporter.set_service_status("lattice.sensor.v1.P2pSensor", ServingStatus::Serving).await;
        let reflection = grpc::reflection(&[lattice_proto::DESCRIPTORS]).map_err(Failure::refused)?;
        let routes = service.routes().add_service(health).add_service(reflection);

        // The port ends first: it stops accepting, and the streams end with the service.
        let ended = CancellationToken::new();
        let serving = server.serve(routes, ended.clone());
        let running = async {
            let outcome = service.run(shutdown).await;
            ended.cancel();
            outcome
        };
        let ((), outcome) = tokio::join!(serving, running);
        Ok(outcome?)
    }
}

fn main() -> ExitCode {
    process::service_main::<Sensor>()
}
