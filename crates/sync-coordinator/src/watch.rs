//! The streams between the coordinator and its siblings, each kept alive by a task of its own.
//!
//! A sibling that comes back is told the trusted keys before anything is heard of it, since it may have
//! forgotten them. Deltas and requests of peers never pass through the machine: they are carried from one
//! sibling to the other, requests here and deltas in [`Deltas`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lattice_core::coordinator::Event;
use lattice_core::exchange::PullPart;
use lattice_core::signed::Signed;
use lattice_proto::convert::{self, InField as _, Invalid, Seals};
use lattice_proto::{codec, sensor, store as store_proto};
use lattice_runtime::TaskGroup;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug, info, info_span, warn};

use crate::announcer::own_seals;
use crate::deltas::Deltas;
use crate::http::{Address, URLS_MAX};
use crate::metrics::Metrics;
use crate::sensor::{Observed, Sight, observed};
use crate::shell::{Hands, Input, Told, spawn};
use crate::streams::{Happened, Kept, reason};

/// Requests of peers that are answered at once over P2P.
const SERVING_MAX: usize = 64;

/// A key that is removed on disk is trusted no longer than that.
const LOOK_AT_TRUST_EVERY: Duration = Duration::from_secs(1);

/// The siblings' streams, and what flows between them.
#[derive(Clone)]
pub(crate) struct Watch {
    hands: Arc<Hands>,
    cluster: String,
    metrics: Metrics,
    tasks: TaskGroup,
}

impl Watch {
    pub(crate) fn new(hands: Arc<Hands>, cluster: String, metrics: Metrics, tasks: TaskGroup) -> Self {
        Self { hands, cluster, metrics, tasks }
    }

    /// Starts all of them.
    pub(crate) fn start(&self) {
        let (cluster, metrics) = (self.cluster.clone(), self.metrics.clone());
        let deltas = Deltas::start(Arc::clone(&self.hands), cluster, metrics, self.tasks.clone());
        let watch = self.clone();
        self.task("watch peers", async move |ended| watch.peers(ended).await);
        let (watch, heard) = (self.clone(), deltas.clone());
        self.task("observe", async move |ended| watch.observe(ended, &heard).await);
        let watch = self.clone();
        self.task("serve peers", async move |ended| watch.serve(ended).await);
        let watch = self.clone();
        self.task("watch seals", async move |ended| watch.seals(ended).await);
        let watch = self.clone();
        self.task("watch local writes", async move |ended| watch.local_writes(ended, &deltas).await);
        let watch = self.clone();
        self.task("watch asked", async move |ended| watch.asked(ended).await);
        let watch = self.clone();
        self.task("watch trust", async move |ended| watch.trust(ended).await);
        let watch = self.clone();
        self.task("watch trust file", async move |ended| watch.trust_file(ended).await);
    }

    /// Asks for the addresses of names, again and again.
    pub(crate) fn resolve(&self, addresses: Vec<Address>, every: Duration) {
        let watch = self.clone();
        self.task("resolve names", async move |ended| watch.names(ended, addresses, every).await);
    }

    fn task<Work>(&self, name: &'static str, work: impl FnOnce(CancellationToken) -> Work)
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        let work = work(self.tasks.token());
        self.tasks.spawn_essential(name, async move {
            work.await;
            Ok(())
        });
    }

    async fn peers(&self, ended: CancellationToken) {
        let inbox = &self.hands.inbox;
        let open = async || {
            self.hands.tell_trust(Told::Sensor).await?;
            self.hands.sensor.watch_peers().await
        };
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, open()).await {
            match happened {
                Happened::Opened => debug!("the sensor answers"),
                Happened::Message(message) => match Sight::try_from(message) {
                    Ok(sight) => inbox.put(Input::Sight(sight)).await,
                    Err(error) => warn!(%error, "the sensor tells of peers what cannot be"),
                },
                Happened::Lost(status) => inbox.send(Event::SensorGone { reason: reason(&status) }).await,
            }
        }
    }

    async fn observe(&self, ended: CancellationToken, deltas: &Deltas) {
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, self.hands.sensor.observe()).await {
            match happened {
                Happened::Opened => {}
                Happened::Message(message) => match observed(message) {
                    Ok(Observed::Announcement { from, announcement }) => {
                        let span = info_span!("reconcile.heard", peer = %from);
                        let event =
                            Event::Heard { from, announcement: *announcement, wall: self.hands.wall() };
                        self.hands.inbox.send(event).instrument(span).await;
                    }
                    Ok(Observed::Delta { writer, bytes }) => deltas.heard(writer, bytes),
                    Err(error) => warn!(%error, "the sensor heard what cannot be"),
                },
                Happened::Lost(status) => debug!(reason = reason(&status), "cannot observe"),
            }
        }
    }

    /// Requests of peers go to the store, its answers go back.
    async fn serve(&self, ended: CancellationToken) {
        let answers: Mutex<Option<mpsc::Sender<sensor::v1::ServeRequest>>> = Mutex::default();
        let serving = Arc::new(Semaphore::new(SERVING_MAX));
        let open = async || {
            let (sender, receiver) = mpsc::channel(SERVING_MAX);
            // The first, empty one says that somebody is here.
            let hello = sensor::v1::ServeRequest { id: 0, response: None };
            sender.try_send(hello).map_err(|_| tonic::Status::internal("a new channel has room"))?;
            *answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            self.hands.sensor.serve(receiver).await
        };
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, open()).await {
            match happened {
                Happened::Opened => {}
                Happened::Message(request) => {
                    let sender = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let (Some(sender), Ok(permit)) = (sender, serving.clone().acquire_owned().await) else {
                        continue;
                    };
                    let hands = Arc::clone(&self.hands);
                    spawn(&self.tasks, "serve", Span::current(), async move {
                        // Without an answer, the peer is told that nobody answers.
                        let response = answer(&hands, request.request).await;
                        // The stream may have ended meanwhile; then so has the peer's question.
                        let _ = sender.send(sensor::v1::ServeRequest { id: request.id, response }).await;
                        drop(permit);
                    });
                }
                Happened::Lost(status) => {
                    *answers.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    debug!(reason = reason(&status), "cannot serve peers over P2P");
                }
            }
        }
    }

    async fn seals(&self, ended: CancellationToken) {
        let inbox = &self.hands.inbox;
        let open = async || {
            self.hands.tell_trust(Told::Store).await?;
            self.hands.tell_clock().await?;
            self.hands.store.watch_seals().await
        };
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, open()).await {
            match happened {
                Happened::Opened => debug!("the store answers"),
                Happened::Message(message) => {
                    let seals = Seals::try_from(message).map_err(|error| error.to_string());
                    match seals.and_then(|seals| own_seals(&seals)) {
                        Ok(own) => {
                            self.hands.announcer.seen(own.incarnation);
                            inbox.send(Event::Seals(own)).await;
                        }
                        Err(error) => warn!(error, "the store tells of seals what cannot be"),
                    }
                }
                Happened::Lost(status) => inbox.send(Event::StoreGone { reason: reason(&status) }).await,
            }
        }
    }

    async fn local_writes(&self, ended: CancellationToken, deltas: &Deltas) {
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, self.hands.store.watch_local_writes()).await {
            match happened {
                Happened::Opened => {}
                Happened::Message(message) => deltas.written(message),
                Happened::Lost(status) => debug!(reason = reason(&status), "cannot watch local writes"),
            }
        }
    }

    async fn asked(&self, ended: CancellationToken) {
        let mut stream = Kept::new();
        while let Some(happened) = stream.next(&ended, self.hands.store.watch_asked()).await {
            match happened {
                Happened::Opened => {}
                Happened::Message(message) => match self.parse_asked(message) {
                    Ok(event) => {
                        let span = info_span!("reconcile.asked");
                        self.hands.inbox.send(event).instrument(span).await;
                    }
                    Err(error) => warn!(%error, "the store tells of requests what cannot be"),
                },
                Happened::Lost(status) => debug!(reason = reason(&status), "cannot watch requests"),
            }
        }
    }

    fn parse_asked(&self, wire: store_proto::v1::Asked) -> Result<Event, Invalid> {
        let announcement = match wire.announcement {
            None => None,
            Some(signed) => {
                let signed = Signed::try_from(signed).in_field("announcement")?;
                let opened = codec::open_announcement(&signed);
                Some(opened.map_err(|error| Invalid::new("announcement", error))?)
            }
        };
        Ok(Event::Asked {
            peer: convert::node("node", &wire.node)?,
            announcement,
            pull: (wire.pull != 0).then_some(PullPart { id: wire.pull, in_kind: wire.in_kind }),
            ended: wire.ended,
            wall: self.hands.wall(),
        })
    }

    /// Tells the machine of every change; it has the siblings told.
    async fn trust(&self, ended: CancellationToken) {
        let mut keys = self.hands.trust.watch();
        let forever = async {
            while keys.changed().await.is_ok() {
                let trusted = keys.borrow_and_update().iter().copied().collect();
                self.hands.inbox.send(Event::TrustChanged { trusted }).await;
            }
        };
        ended.run_until_cancelled(forever).await;
    }

    /// Looks again and again whether somebody else has changed the trusted keys on disk.
    async fn trust_file(&self, ended: CancellationToken) {
        let forever = async {
            let mut told = String::new();
            loop {
                tokio::time::sleep(LOOK_AT_TRUST_EVERY).await;
                match self.hands.trust.look().await {
                    Ok(changed) => {
                        told.clear();
                        if changed {
                            let trusted = self.hands.trust.keys().len();
                            info!(trusted, "the trusted keys were changed on disk");
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if error != told {
                            warn!(error, "the trusted keys stay as they are");
                        }
                        told = error;
                    }
                }
            }
        };
        ended.run_until_cancelled(forever).await;
    }

    async fn names(&self, ended: CancellationToken, addresses: Vec<Address>, every: Duration) {
        let timeout = self.hands.request_timeout;
        let forever = async {
            let mut known = vec![Vec::new(); addresses.len()];
            let mut failing = vec![false; addresses.len()];
            let mut told = Vec::new();
            loop {
                for (index, address) in addresses.iter().enumerate() {
                    match address.expand(timeout).await {
                        Ok(found) => (known[index], failing[index]) = (found, false),
                        Err(error) => {
                            // What it was last is still the best that we know.
                            if !std::mem::replace(&mut failing[index], true) {
                                warn!(%error, "cannot expand {}", address.text());
                            }
                        }
                    }
                }
                let urls = distinct(&known);
                if urls != told {
                    told.clone_from(&urls);
                    self.hands.inbox.send(Event::UrlsChanged { urls }).await;
                }
                tokio::time::sleep(every).await;
            }
        };
        ended.run_until_cancelled(forever).await;
    }
}

/// All URLs once, in the order of configuration, as many as are taken.
pub(crate) fn distinct(lists: &[Vec<String>]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let urls = lists.iter().flatten().filter(|url| seen.insert(url.as_str()));
    urls.take(URLS_MAX).cloned().collect()
}

/// The store's answer to a peer's request; none when the store is away.
async fn answer(
    hands: &Hands,
    request: Option<lattice_proto::types::v1::Signed>,
) -> Option<lattice_proto::types::v1::Signed> {
    let request = store_proto::v1::ExchangeRequest { request };
    match hands.store.exchange(request, hands.request_timeout).await {
        Ok(answer) => answer.response,
        Err(status) => {
            debug!(reason = reason(&status), "the store does not answer a peer");
            None
        }
    }
}
