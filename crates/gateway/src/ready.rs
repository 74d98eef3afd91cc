//! Whether the node is ready: its four services answer, and the store can write.
//!
//! Each sibling is asked for its own health. One that answers without knowing the question still answers;
//! one that says it is not serving (a store that cannot write) is missing. Peers and trust are no part of
//! it: a node without peers is isolated, not broken.

use std::time::Duration;

use futures::future::join_all;
use lattice_runtime::grpc::Channel;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::app::App;
use crate::json::Missing;
use crate::problem::Sibling;

/// How long a sibling may take to say that it is well.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// All of a service.
const WHOLE: &str = "";
/// Serving exactly while the store can write.
const KEY_VALUE: &str = "lattice.kv.v1.KeyValue";

/// What the node lacks; empty when it is ready.
pub(crate) async fn missing(app: &App) -> Vec<Missing> {
    if app.stopping.is_cancelled() {
        return vec![Missing { service: "gateway", reason: "is stopping".to_owned() }];
    }
    let channels = app.channels();
    let probes = [
        (Sibling::Store, &channels.store, WHOLE),
        (Sibling::Store, &channels.store, KEY_VALUE),
        (Sibling::Sensor, &channels.sensor, WHOLE),
        (Sibling::Coordinator, &channels.coordinator, WHOLE),
    ];
    let answers = join_all(probes.map(|(sibling, channel, part)| async move {
        let reason = probe(channel, part).await?;
        Some(Missing { service: sibling.name(), reason })
    }));
    let mut missing: Vec<Missing> = answers.await.into_iter().flatten().collect();
    missing.dedup_by(|later, earlier| later.service == earlier.service);
    missing
}

/// What is wrong, if anything.
async fn probe(channel: &Channel, part: &str) -> Option<String> {
    let mut client = HealthClient::new(channel.deadline(PROBE_MAX));
    match client.check(HealthCheckRequest { service: part.to_owned() }).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => None,
        Ok(_) if part == KEY_VALUE => Some("cannot write".to_owned()),
        Ok(_) => Some("says that it is not serving".to_owned()),
        Err(status) => match status.code() {
            Code::NotFound | Code::Unimplemented => None,
            Code::DeadlineExceeded => Some("did not answer in time".to_owned()),
            Code::Unavailable if !status.message().is_empty() => Some(status.message().to_owned()),
            _ => Some(format!("does not answer: {status}")),
        },
    }
}
