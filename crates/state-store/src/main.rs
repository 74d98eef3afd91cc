//! The state store as a process of its own; see the library.

use std::process::ExitCode;

use lattice_runtime::config::Listen;
use lattice_runtime::grpc::Server;
use lattice_runtime::process::{self, Failure};
use lattice_runtime::{Allocator, Config, Runtime, identity};
use state_store::Service;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct StateStore;

impl process::Service for StateStore {
    const NAME: &'static str = "state-store";
    const ABOUT: &'static str = "Keeps a Lattice node's entries on disk, seals them, and answers peers";

    fn health_at(config: &Config) -> Listen {
        config.store.listen.clone()
    }

    fn check(config: &Config) -> Result<(), Failure> {
        Ok(Service::check_values(config)?)
    }

    async fn run(config: Config, runtime: Runtime, shutdown: CancellationToken) -> Result<(), Failure> {
        identity::check(&config.node)?;
        let server = Server::bind("store.listen", &config.store.listen).await?;
        let service = Service::bind(&config, &runtime).await?.on(server);
        Ok(service.run(shutdown).await?)
    }
}

fn main() -> ExitCode {
    process::service_main::<StateStore>()
}
