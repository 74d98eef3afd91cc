//! `lattice.coordinator.v1.SyncCoordinator`: what the coordinator knows and does, for its siblings and for
//! operators.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use lattice_core::coordinator::{PeerStatus, Status as Known, UrlState, UrlStatus};
use lattice_core::failover::{Health, Mode, Path, SyncMode};
use lattice_core::liveness;
use lattice_core::model::{Digest, NodeId};
use lattice_core::time::{Monotonic, WallTime};
use lattice_proto::convert;
use lattice_proto::coordinator::v1 as wire;
use lattice_proto::coordinator::v1::sync_coordinator_server::SyncCoordinator;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::heals::{HEALS_MAX, Heal, History};
use crate::report::{self, Report};
use crate::sensor::Detail;
use crate::shell::{Hands, Input, Snapshot};
use crate::trust::{self, Source};

/// Events handed to a reader that it has not taken yet; beyond them it lags, and loses some in the end.
const STREAM_MAX: usize = 64;

const HEALS_DEFAULT: usize = 100;

/// What the API needs of the node; never changes.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) http_configured: bool,
    pub(crate) p2p_configured: bool,
    pub(crate) hands: Arc<Hands>,
    pub(crate) history: Arc<History>,
    pub(crate) report: Report,
    pub(crate) tasks: lattice_runtime::TaskGroup,
}

type EventStream = Pin<Box<dyn futures::Stream<Item = Result<wire::Event, Status>> + Send>>;

impl Api {
    /// Asks the loop.
    async fn input<Answer>(
        &self,
        input: impl FnOnce(oneshot::Sender<Answer>) -> Input,
    ) -> Result<Answer, Status> {
        let (reply, answer) = oneshot::channel();
        self.hands.inbox.put(input(reply)).await;
        answer.await.map_err(|_| Status::unavailable("the coordinator is stopping"))
    }

    fn trusted(&self) -> wire::TrustResponse {
        let key = |(node, source): (NodeId, Source)| wire::TrustedKey {
            node: bytes_of(&node),
            source: match source {
                Source::Configuration => "configuration".to_owned(),
                Source::RunTime => "run time".to_owned(),
            },
        };
        wire::TrustResponse { keys: self.hands.trust.list().into_iter().map(key).collect() }
    }

    /// What an operator is told after choosing.
    fn switched(&self, known: &Known) -> String {
        let now = match known.sync_mode {
            SyncMode::P2p => "now P2P",
            SyncMode::Http => "now HTTP",
            SyncMode::None => "now neither: no path is configured",
        };
        match known.mode {
            Mode::Auto => format!("P2P while it works, else HTTP: {now}"),
            Mode::P2p if !self.p2p_configured => {
                "P2P until restart, but P2P is disabled (sensor.enabled): nothing is reconciled".to_owned()
            }
            Mode::P2p => "P2P until restart, whether it works or not".to_owned(),
            Mode::Http if !self.http_configured => {
                "HTTP until restart, but no URL is configured (coordinator.http_peers): nothing is reconciled"
                    .to_owned()
            }
            Mode::Http => "HTTP until restart, whether P2P works or not".to_owned(),
        }
    }
}

#[tonic::async_trait]
impl SyncCoordinator for Api {
    type WatchEventsStream = EventStream;

    async fn status(
        &self,
        _: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let snapshot = self.input(Input::Status).await?;
        Ok(Response::new(status_response(self, snapshot)))
    }

    async fn state(&self, _: Request<wire::StateRequest>) -> Result<Response<wire::StateResponse>, Status> {
        let announced = self.hands.announcer.recent().await;
        let announced = announced.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(wire::StateResponse {
            announcement: Some((&announced.announcement.signed).into()),
            state_size: announced.state_size,
        }))
    }

    async fn watch_events(
        &self,
        _: Request<wire::WatchEventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let mut events = self.report.subscribe();
        let metrics = self.report.metrics().clone();
        let (sender, receiver) = mpsc::channel(STREAM_MAX);
        let ended = self.tasks.token();
        self.tasks.spawn("watch events", async move {
            let mut missed = 0;
            let forever = async {
                loop {
                    match events.recv().await {
                        Ok(event) => {
                            let event = wire::Event { missed: std::mem::take(&mut missed), ..event };
                            if sender.send(Ok(event)).await.is_err() {
                                return;
                            }
                        }
                        Err(RecvError::Lagged(events)) => {
                            metrics.missed(events);
                            missed += events;
                        }
                        Err(RecvError::Closed) => return,
                    }
                }
            };
            tokio::select! {
                () = forever => {}
                () = sender.closed() => {}
                () = ended.cancelled() => {}
            }
            Ok(())
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn switch_mode(
        &self,
        request: Request<wire::SwitchModeRequest>,
    ) -> Result<Response<wire::SwitchModeResponse>, Status> {
        let mode = match request.get_ref().mode() {
            wire::Mode::Auto => Mode::Auto,
            wire::Mode::P2p => Mode::P2p,
            wire::Mode::Http => Mode::Http,
            wire::Mode::Unspecified => {
                return Err(Status::invalid_argument("mode: must be auto, p2p or http"));
            }
        };
        let snapshot = self.input(|reply| Input::SwitchMode(mode, reply)).await?;
        let path = match snapshot.status.sync_mode {
            SyncMode::P2p => wire::Path::P2p,
            SyncMode::Http => wire::Path::Http,
            // Neither is in use: the one that was asked for.
            SyncMode::None if mode == Mode::Http => wire::Path::Http,
            SyncMode::None => wire::Path::P2p,
        };
        let message = self.switched(&snapshot.status);
        Ok(Response::new(wire::SwitchModeResponse { path: path.into(), message }))
    }

    async fn reconcile(
        &self,
        request: Request<wire::ReconcileRequest>,
    ) -> Result<Response<wire::ReconcileResponse>, Status> {
        let node = &request.get_ref().node;
        let peer = if node.is_empty() { None } else { Some(convert::node("node", node)?) };
        let pulls = self.input(|reply| Input::Reconcile(peer, reply)).await?;
        match peer {
            Some(peer) if pulls.is_empty() => {
                Err(Status::not_found(format!("{peer} is not a known peer: add it to the trusted keys")))
            }
            Some(_) | None => {
                let ids = pulls.iter().map(|(_, id)| id.to_string()).collect();
                Ok(Response::new(wire::ReconcileResponse { ids }))
            }
        }
    }

    async fn heals(
        &self,
        request: Request<wire::HealsRequest>,
    ) -> Result<Response<wire::HealsResponse>, Status> {
        let limit = match request.get_ref().limit as usize {
            0 => HEALS_DEFAULT,
            limit @ 1..=HEALS_MAX => limit,
            limit => {
                return Err(Status::invalid_argument(format!("limit: is {limit}, must be 1 to {HEALS_MAX}")));
            }
        };
        let heals = self.history.newest(limit).into_iter().map(heal).collect();
        Ok(Response::new(wire::HealsResponse { heals }))
    }

    async fn trust(
        &self,
        request: Request<wire::TrustRequest>,
    ) -> Result<Response<wire::TrustResponse>, Status> {
        use wire::trust_request::Change;
        let changed = match &request.get_ref().change {
            None => Ok(()),
            Some(Change::Add(node)) => self.hands.trust.add(convert::node("add", node)?).await,
            Some(Change::Remove(node)) => self.hands.trust.remove(convert::node("remove", node)?).await,
        };
        match changed {
            Ok(()) => Ok(Response::new(self.trusted())),
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &trust::Error) -> Status {
    let message = error.to_string();
    match error {
        trust::Error::NotAKey(_) | trust::Error::Own(_) => Status::invalid_argument(message),
        trust::Error::NotTrusted(_) => Status::not_found(message),
        trust::Error::Full => Status::resource_exhausted(message),
        trust::Error::List(_) | trust::Error::Write(_) => Status::internal(message),
    }
}

fn status_response(api: &Api, snapshot: Snapshot) -> wire::StatusResponse {
    let Snapshot { status, sight, names, now, wall } = snapshot;
    let mode = match status.mode {
        Mode::Auto => wire::Mode::Auto,
        Mode::P2p => wire::Mode::P2p,
        Mode::Http => wire::Mode::Http,
    };
    let sync_mode = match status.sync_mode {
        SyncMode::P2p => wire::SyncMode::P2p,
        SyncMode::Http => wire::SyncMode::Http,
        SyncMode::None => wire::SyncMode::None,
    };
    let health = match status.health {
        Health::Optimal => wire::Health::Optimal,
        Health::P2pOnly => wire::Health::P2pOnly,
        Health::HttpOnly => wire::Health::HttpOnly,
        Health::Isolated => wire::Health::Isolated,
    };
    let sensor = &status.sensor;
    // Those of the URL that a peer is shown with are counted there.
    let strange = |url: &&UrlStatus| match url.state {
        UrlState::Unknown | UrlState::Of(_) => {
            status.peers.iter().all(|peer| peer.url.as_ref() != Some(&url.url))
        }
        UrlState::Ours => false,
    };
    let url_errors = status.urls.iter().filter(strange).filter(|url| url.errors > 0);
    wire::StatusResponse {
        node: bytes_of(&api.node),
        name: api.name.clone(),
        cluster: api.cluster.clone(),
        mode: mode.into(),
        sync_mode: sync_mode.into(),
        health: health.into(),
        sensor: Some(wire::Sensor {
            available: sensor.available,
            enabled: sensor.enabled,
            started: sensor.started,
            error: sensor.error.clone(),
            peer_id: sight.peer_id,
            listen_addresses: if sensor.available { sight.listen_addresses } else { Vec::new() },
            live: count(sensor.live),
            zombie: count(sensor.zombie),
            connected: count(sensor.connected),
        }),
        peers: status.peers.iter().map(|peer| peer_of(peer, &sight.details, now, wall)).collect(),
        urls: status.urls.iter().map(|url| url.url.clone()).collect(),
        fallback_in_ms: status.fallback_in.map(millis),
        store_error: status.store_error.clone().unwrap_or_default(),
        heartbeat_active: status.heartbeat_active,
        clock_error: report::clock_error(&status.clock, &names).unwrap_or_default(),
        url_errors: url_errors
            .map(|url| wire::UrlError {
                url: url.url.clone(),
                errors: url.errors,
                last_error: url.last_error.clone(),
            })
            .collect(),
        recovering: status.recovering,
        damaged: status.damaged,
        // The gateway's to say.
        missing: Vec::new(),
    }
}

fn peer_of(peer: &PeerStatus, details: &[Detail], now: Monotonic, wall: WallTime) -> wire::Peer {
    let detail = details.iter().find(|detail| detail.node == peer.node);
    // Heard by us, on either path; or by the sensor, before our time.
    let heard = peer.heard.map(|heard| wall - now.since(heard));
    let sensed = detail.and_then(|detail| detail.heard);
    let state = match peer.state {
        liveness::State::Live => wire::PeerState::Live,
        liveness::State::Zombie => wire::PeerState::Zombie,
        // Of one that has just connected nothing is known yet.
        liveness::State::Fresh | liveness::State::Down => wire::PeerState::Down,
    };
    let path = match peer.path {
        Path::P2p => wire::Path::P2p,
        Path::Http => wire::Path::Http,
    };
    wire::Peer {
        node: bytes_of(&peer.node),
        peer_id: detail.map(|detail| detail.peer_id.clone()).unwrap_or_default(),
        name: peer.name.clone(),
        addresses: peer.addresses.clone(),
        http_url: peer.url.clone().unwrap_or_default(),
        state: state.into(),
        last_heartbeat_ms: heard.max(sensed).map_or(0, WallTime::millis),
        path: path.into(),
        failover: report::failover(peer.failover).to_owned(),
        divergence_count: peer.divergence_count,
        backoff_ms: millis(peer.backoff),
        lag_epochs: peer.lag_epochs,
        errors: peer.errors,
        last_error: peer.last_error.clone(),
    }
}

fn heal(heal: Heal) -> wire::Heal {
    let path = match heal.path.as_str() {
        "P2P" => wire::Path::P2p,
        "HTTP" => wire::Path::Http,
        _ => wire::Path::Unspecified,
    };
    wire::Heal {
        id: heal.id,
        node: heal.node.parse().map(|node: NodeId| bytes_of(&node)).unwrap_or_default(),
        peer: heal.peer,
        path: path.into(),
        outcome: heal.outcome,
        started_ms: heal.started_ms,
        duration_ms: heal.duration_ms,
        rounds: heal.rounds,
        bytes_in: heal.bytes_in,
        bytes_out: heal.bytes_out,
        entries_merged: heal.entries_merged,
        root_before: root(heal.root_before.as_deref()),
        root_after: root(heal.root_after.as_deref()),
        trace_id: heal.trace_id,
        detail: heal.detail,
    }
}

/// Empty for none, and for one that the file does not spell right.
fn root(text: Option<&str>) -> Bytes {
    let digest: Option<Digest> = text.and_then(|text| text.parse().ok());
    digest.map(|digest| Bytes::copy_from_slice(digest.as_bytes())).unwrap_or_default()
}

fn bytes_of(node: &NodeId) -> Bytes {
    Bytes::copy_from_slice(node.as_bytes())
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
