//! Asks a node of the demo what an operator could ask it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lattice_core::seal::Runs;
use lattice_proto::codec;
use lattice_proto::coordinator::v1::{
    Event, Heal, HealsRequest, StateRequest, StatusRequest, StatusResponse, WatchEventsRequest,
};
use lattice_proto::kv::v1::{GetRequest, PutRequest};
use lattice_proto::types::v1::entry;
use tonic::Code;

use super::narrator::Narrator;
use crate::cli::Connection;

/// The most events kept for the story to look back at.
const EVENTS_MAX: usize = 10_000;
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One node, asked through its gateway.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    node: Connection,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Observer {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let node =
            Connection::open(url.as_ref(), None, None).map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        Ok(Self { node, events: Arc::default() })
    }

    /// Prints the node's events from now on, and keeps them for [`Self::heard`]. Ends with the node.
    pub(super) async fn follow(&self, name: String, narrator: Narrator) {
        let Ok(answer) = self.node.coordinator().watch_events(WatchEventsRequest {}).await else { return };
        let mut stream = answer.into_inner();
        while let Ok(Some(event)) = stream.message().await {
            narrator.event(&name, &event);
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() < EVENTS_MAX {
                events.push(event);
            }
        }
    }

    /// How many events the node has told so far.
    pub(super) fn mark(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The first event since `mark` that fits.
    pub(super) fn heard(&self, mark: usize, fits: impl Fn(&Event) -> bool) -> Option<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().skip(mark).find(|event| fits(event)).cloned()
    }

    pub(super) async fn status(&self) -> Option<StatusResponse> {
        let request = self.node.request(StatusRequest {});
        self.node.coordinator().status(request).await.ok().map(tonic::Response::into_inner)
    }

    /// Live peers, if the sensor is there to count them.
    pub(super) async fn live_peers(&self) -> Option<u32> {
        let sensor = self.status().await?.sensor?;
        (sensor.available && sensor.started).then_some(sensor.live)
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Result<(), String> {
        let request = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ttl_ms: None,
            condition: None,
        };
        let answer = self.node.key_value().put(self.node.request(request)).await;
        answer.map(drop).map_err(|status| status.message().to_owned())
    }

    /// The value of `key`; `Some(None)` when the node says that there is none.
    pub(super) async fn get(&self, key: &str) -> Option<Option<String>> {
        let request = GetRequest { key: key.to_owned().into(), version_min: None };
        match self.node.key_value().get(self.node.request(request)).await {
            Ok(answer) => match answer.into_inner().entry?.content? {
                entry::Content::Value(value) => Some(Some(String::from_utf8_lossy(&value).into_owned())),
                entry::Content::Tombstone(_) | entry::Content::Dropped(_) => Some(None),
            },
            Err(status) if status.code() == Code::NotFound => Some(None),
            Err(_) => None,
        }
    }

    /// The node's recent seals, from its signed announcement.
    pub(super) async fn runs(&self) -> Option<Runs> {
        let answer = self.node.coordinator().state(self.node.request(StateRequest {})).await.ok()?;
        let signed = answer.into_inner().announcement?.try_into().ok()?;
        let announcement = codec::open_announcement(&signed).ok()?.announcement;
        Runs::parse(announcement.runs).ok()
    }

    pub(super) async fn heals(&self) -> Option<Vec<Heal>> {
        let answer =
            self.node.coordinator().heals(self.node.request(HealsRequest { limit: 1_000 })).await.ok()?;
        Some(answer.into_inner().heals)
    }
}

/// Looks until `look` sees something, at most for `patience`.
pub(super) async fn wait<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Result<T, String> {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(patience, seen)
        .await
        .map_err(|_| format!("{what} (waited {} s)", patience.as_secs()))
}
