//! The standard services beside every service: health checking and reflection.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as WireStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

pub use tonic_health::ServingStatus;
pub use tonic_health::server::HealthReporter;

use super::Channel;
use crate::config::Listen;

/// Descriptors that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("load descriptors for reflection: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The health service and its reporter: `reporter.set_service_status("lattice.store.v1.StateStore",
/// ServingStatus::Serving)`. The name `""` stands for the whole server and is serving from the start.
pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    tonic_health::server::health_reporter()
}

/// The reflection service over encoded `FileDescriptorSet`s.
pub fn reflection(
    descriptor_sets: &[&[u8]],
) -> Result<ServerReflectionServer<impl ServerReflection>, ReflectionError> {
    let mut builder = tonic_reflection::server::Builder::configure();
    for set in descriptor_sets {
        builder = builder.register_encoded_file_descriptor_set(set);
    }
    Ok(builder.build_v1()?)
}

/// Asks whether `service` is serving (`""`: the whole server); what the `healthcheck` subcommands do.
pub async fn healthcheck(listen: &Listen, service: &str, timeout: Duration) -> Result<(), Status> {
    ask(Channel::connect(listen), service, timeout).await
}

/// As [`healthcheck`], of a port that serves TLS. The certificate is not verified: the one who asks is on the same
/// host, sends nothing, and believes no more than that the port serves; and the certificate has the name by which
/// others know the node.
///
/// # Errors
/// What the port answers, or why it does not.
pub async fn healthcheck_over_tls(
    address: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Result<(), Status> {
    ask(Channel::connect_unverified(address)?, service, timeout).await
}

async fn ask(channel: Channel, service: &str, timeout: Duration) -> Result<(), Status> {
    let mut client = HealthClient::new(channel.deadline(timeout));
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(request).await?.into_inner();
    if answer.status() == WireStatus::Serving {
        return Ok(());
    }
    Err(Status::new(Code::Unavailable, format!("status is {}", answer.status().as_str_name())))
}
