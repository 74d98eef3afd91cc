//! Whether the node is ready: its four services answer, and the store can write.
//!
//! Each sibling is asked for its own health. One that answers without knowing the question still answers;
//! one that says it is not serving is missing. A store that takes no writes says so of its key-value half, and is
//! asked why. Peers and trust are no part of it: a node without peers is isolated, not broken. What is found
//! missing goes into the log once, and once when it is back: a service that has died cannot say so itself.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use lattice_proto::store::v1::WritableRequest;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
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

/// The services that the log says are missing.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeSet<&'static str>>);

impl Told {
    /// What the log does not say yet: what is missing now and was not, and what was and is not.
    fn news<'a>(&self, missing: &'a [Missing]) -> (Vec<&'a Missing>, Vec<&'static str>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<&'static str> = missing.iter().map(|missing| missing.service).collect();
        let gone = missing.iter().filter(|missing| !told.contains(missing.service)).collect();
        let back = told.difference(&now).copied().collect();
        *told = now;
        (gone, back)
    }
}

/// What the node lacks; empty when it is ready.
pub(crate) async fn missing(app: &App) -> Vec<Missing> {
    if app.stopping.is_cancelled() {
        return vec![Missing { service: "gateway", reason: "is stopping".to_owned() }];
    }
    let channels = app.channels();
    let probes = [
        (Sibling::Store, &channels.store, KEY_VALUE),
        (Sibling::Store, &channels.store, WHOLE),
        (Sibling::Sensor, &channels.sensor, WHOLE),
        (Sibling::Coordinator, &channels.coordinator, WHOLE),
    ];
    let answers = join_all(probes.map(|(sibling, channel, part)| async move {
        let reason = probe(channel, part).await?;
        Some(Missing { service: sibling.name(), reason })
    }));
    let mut missing: Vec<Missing> = answers.await.into_iter().flatten().collect();
    // What is said of the part says more than what is said of the whole.
    missing.dedup_by(|later, earlier| later.service == earlier.service);
    let (gone, back) = app.told_missing.news(&missing);
    for Missing { service, reason } in gone {
        tracing::warn!("{service} is missing: {reason}");
    }
    for service in back {
        tracing::info!("{service} is back");
    }
    missing
}

/// What is wrong, if anything.
async fn probe(channel: &Channel, part: &str) -> Option<String> {
    let mut client = HealthClient::new(channel.deadline(PROBE_MAX));
    match client.check(HealthCheckRequest { service: part.to_owned() }).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => None,
        Ok(_) if part == KEY_VALUE => Some(why_not_writable(channel).await),
        Ok(_) => Some("says that it is not serving".to_owned()),
        Err(status) => match status.code() {
            Code::NotFound | Code::Unimplemented => None,
            Code::DeadlineExceeded => Some("did not answer in time".to_owned()),
            Code::Unavailable if !status.message().is_empty() => Some(status.message().to_owned()),
            _ => Some(format!("does not answer: {status}")),
        },
    }
}

/// Why the store takes no writes, in its own words.
async fn why_not_writable(channel: &Channel) -> String {
    let mut client = StateStoreClient::new(channel.deadline(PROBE_MAX));
    match client.writable(WritableRequest {}).await {
        Ok(answer) if !answer.get_ref().problem.is_empty() => answer.into_inner().problem,
        Ok(_) | Err(_) => "cannot write".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(services: &[&'static str]) -> Vec<Missing> {
        services.iter().map(|service| Missing { service, reason: "why".to_owned() }).collect()
    }

    #[test]
    fn what_is_missing_is_news_once_and_so_is_its_return() {
        let told = Told::default();
        let news = |services: &[&'static str]| {
            let missing = missing(services);
            let (gone, back) = told.news(&missing);
            (gone.iter().map(|missing| missing.service).collect::<Vec<_>>(), back)
        };
        let none = Vec::<&str>::new;
        assert_eq!(news(&[]), (none(), none()));
        assert_eq!(news(&["state-store"]), (vec!["state-store"], none()));
        assert_eq!(news(&["state-store"]), (none(), none()));
        assert_eq!(news(&["p2p-sensor"]), (vec!["p2p-sensor"], vec!["state-store"]));
        assert_eq!(news(&[]), (none(), vec!["p2p-sensor"]));
    }
}
