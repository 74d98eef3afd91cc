//! The shell's hands: what the machine wants of siblings and of peers, outside of pulls.
//!
//! Each effect is a task. What repeats by itself (an announcement, what was heard) is dropped when too much of
//! it is under way already; what the machine waits for always comes back as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lattice_core::coordinator::{Clock as Judgement, Effect, Event, Recipients, Route};
use lattice_core::exchange::{Answer, Ask, Reason, Request};
use lattice_core::model::{Epoch, Incarnation, Key, NodeId};
use lattice_core::pull::Lost;
use lattice_core::time::WallTime;
use lattice_proto::convert::Damaged;
use lattice_runtime::grpc::Reconnect;
use lattice_runtime::{Clock, TaskGroup};
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span, debug, info_span, warn};

use super::Inbox;
use crate::announcer::Announcer;
use crate::envelopes::{Answered, AskError, Asker, Between};
use crate::http;
use crate::keeper::Keeper;
use crate::sensor::Sensor;
use crate::store::Store;
use crate::streams::reason;
use crate::trust::Trust;

/// Announcements, and words to the store, that may be under way at once.
const UNHURRIED_MAX: usize = 64;

/// All that effects are run with.
pub(crate) struct Hands {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) sensor: Sensor,
    pub(crate) http: http::Client,
    pub(crate) asker: Asker,
    pub(crate) announcer: Announcer,
    pub(crate) trust: Trust,
    pub(crate) keeper: Keeper,
    pub(crate) inbox: Inbox,
    /// The longest wait for one answer of a peer.
    pub(crate) request_timeout: Duration,
    unhurried: Arc<Semaphore>,
    /// What must not run twice at once.
    under_way: Mutex<BTreeSet<Once>>,
    /// Each sibling is told one list after the other, so that the newest is the last.
    telling_store: tokio::sync::Mutex<()>,
    telling_sensor: tokio::sync::Mutex<()>,
    /// How often each thing was to be told; only the last one goes on trying.
    words: Mutex<BTreeMap<Word, u64>>,
    /// What peers say of our clock.
    judgement: Mutex<Judgement>,
    telling_heard: tokio::sync::Mutex<()>,
    heard: Mutex<Unsaid>,
}

/// What the store is still to be told of peers, the newest of each. Told one after the other: of two
/// incarnations the store takes the later one for the present one, for good.
#[derive(Debug, Default)]
struct Unsaid(BTreeMap<NodeId, Heard>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    incarnation: Incarnation,
    sequence: u64,
    epoch: Epoch,
}

impl Unsaid {
    fn put(&mut self, node: NodeId, heard: Heard) {
        self.0.insert(node, heard);
    }

    /// None when somebody has said it meanwhile.
    fn take(&mut self, node: &NodeId) -> Option<Heard> {
        self.0.remove(node)
    }
}

/// What siblings are told until they have heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Trust(Told),
    Clock,
}

/// Work of which one at a time is enough: its answer answers everybody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Once {
    ReadSeals,
    Poll(String),
    Recovered,
    ListDamaged,
    Reincarnate,
}

/// What [`Hands`] is made of, apart from its own bounds.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) sensor: Sensor,
    pub(crate) http: http::Client,
    pub(crate) asker: Asker,
    pub(crate) announcer: Announcer,
    pub(crate) trust: Trust,
    pub(crate) keeper: Keeper,
    pub(crate) inbox: Inbox,
    pub(crate) request_timeout: Duration,
}

/// A sibling that keeps the list of trusted keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    Store,
    Sensor,
}

impl Hands {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { clock, store, sensor, http, asker, announcer, trust, keeper, inbox, request_timeout } =
            parts;
        Self {
            clock,
            store,
            sensor,
            http,
            asker,
            announcer,
            trust,
            keeper,
            inbox,
            request_timeout,
            unhurried: Arc::new(Semaphore::new(UNHURRIED_MAX)),
            under_way: Mutex::default(),
            judgement: Mutex::new(Judgement::Unknown),
            words: Mutex::default(),
            heard: Mutex::default(),
            telling_heard: tokio::sync::Mutex::default(),
            telling_store: tokio::sync::Mutex::default(),
            telling_sensor: tokio::sync::Mutex::default(),
        }
    }

    /// Our wall clock.
    pub(crate) fn wall(&self) -> WallTime {
        WallTime(self.clock.wall_ms())
    }

    /// Starts the task of an effect that is not a pull's.
    pub(super) fn start(self: &Arc<Self>, tasks: &TaskGroup, effect: Effect) {
        let hands = Arc::clone(self);
        match effect {
            Effect::Announce { to } => {
                let span = info_span!("announce");
                self.unhurried(tasks, "announce", span, async move { hands.announce(to).await });
            }
            Effect::TellHeard { node, incarnation, sequence, epoch } => {
                self.lock_heard().put(node, Heard { incarnation, sequence, epoch });
                self.unhurried(tasks, "tell heard", Span::current(), async move {
                    hands.tell_heard(node).await;
                });
            }
            Effect::ReadSeals => {
                self.once(tasks, Once::ReadSeals, Span::current(), async move { hands.read_seals().await });
            }
            Effect::Poll { url } => {
                let span = info_span!("reconcile.poll", url);
                self.once(tasks, Once::Poll(url.clone()), span, async move { hands.poll(url).await });
            }
            Effect::Hello { peer, route } => {
                let span = info_span!("reconcile.hello", %peer, path = crate::report::path(route.path()));
                spawn(tasks, "hello", span, async move { hands.hello(peer, route).await });
            }
            Effect::SetTrust { trusted: _ } => {
                // The list that counts is the one on disk; this one was made of it.
                for told in [Told::Store, Told::Sensor] {
                    self.insist(tasks, "tell trust", Word::Trust(told));
                }
            }
            Effect::Reincarnate { incarnation } => {
                self.announcer.give_up(incarnation);
                let span = info_span!("reincarnate", %incarnation);
                self.once(tasks, Once::Reincarnate, span, async move {
                    hands.reincarnate(incarnation).await;
                    hands.read_seals().await
                });
            }
            Effect::Recovered { incarnation } => {
                let span = info_span!("recovered", %incarnation);
                self.once(tasks, Once::Recovered, span, async move {
                    // What is not told now is told again, as long as the store recovers.
                    if let Err(status) = hands.store.recovered(incarnation).await {
                        warn!(reason = reason(&status), "cannot tell the store that it has recovered");
                    }
                    hands.read_seals().await
                });
            }
            Effect::ListDamaged { after, limit } => {
                self.once(tasks, Once::ListDamaged, Span::current(), async move {
                    hands.list_damaged(after, limit).await
                });
            }
            Effect::JudgeClock(judgement) => {
                *self.judgement.lock().unwrap_or_else(PoisonError::into_inner) = judgement;
                self.insist(tasks, "judge the clock", Word::Clock);
            }
            Effect::Exchange { .. }
            | Effect::ReadLocalNodes { .. }
            | Effect::Compare { .. }
            | Effect::Merge { .. }
            | Effect::ReconcileAccepted { .. }
            | Effect::PullStarted { .. }
            | Effect::PullEnded { .. }
            | Effect::RootAfter { .. }
            | Effect::Remember
            | Effect::Notice(_) => debug_assert!(false, "the loop runs these itself"),
        }
    }

    /// Tells a sibling until it has heard, or there is something newer to tell: a key that was removed is not
    /// to be honoured for want of one answer. One that comes back is told besides, before it is heard.
    fn insist(self: &Arc<Self>, tasks: &TaskGroup, name: &'static str, word: Word) {
        let hands = Arc::clone(self);
        let turn = {
            let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = words.entry(word).or_default();
            *turn += 1;
            *turn
        };
        spawn(tasks, name, Span::current(), async move {
            let mut reconnect = Reconnect::new();
            while let Err(status) = hands.tell(word).await {
                debug!(?word, reason = reason(&status), "a sibling cannot be told yet");
                tokio::time::sleep(reconnect.next_delay()).await;
                let newest = hands.words.lock().unwrap_or_else(PoisonError::into_inner).get(&word).copied();
                if newest != Some(turn) {
                    return;
                }
            }
        });
    }

    async fn tell(&self, word: Word) -> Result<(), tonic::Status> {
        match word {
            Word::Trust(told) => self.tell_trust(told).await,
            Word::Clock => self.tell_clock().await,
        }
    }

    /// Tells the store the newest that was heard of a peer.
    async fn tell_heard(&self, node: NodeId) {
        let _turn = self.telling_heard.lock().await;
        let Some(Heard { incarnation, sequence, epoch }) = self.lock_heard().take(&node) else { return };
        match self.store.heard(node, incarnation, sequence, epoch).await {
            Ok(None) => {}
            Ok(Some(present)) => {
                self.inbox.send(Event::Replaced { peer: node, incarnation, present }).await;
            }
            // It is told again with the next announcement.
            Err(error) => debug!(%error, peer = %node, "cannot tell the store what was heard"),
        }
    }

    /// Tells a sibling the effective trusted keys, as they are when it is told.
    pub(crate) async fn tell_trust(&self, told: Told) -> Result<(), tonic::Status> {
        match told {
            Told::Store => {
                let _turn = self.telling_store.lock().await;
                self.store.set_trust(self.trust.keys().iter().copied()).await
            }
            Told::Sensor => {
                let _turn = self.telling_sensor.lock().await;
                self.sensor.set_trust(self.trust.keys().iter().copied()).await
            }
        }
    }

    /// Tells the store what peers say of our clock, as they say it when it is told.
    pub(crate) async fn tell_clock(&self) -> Result<(), tonic::Status> {
        let _turn = self.telling_store.lock().await;
        let judgement = self.judgement.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.store.judge_clock(&judgement).await
    }

    /// Asks a peer one thing over one route, within one deadline. That it knows a newer incarnation of this node
    /// concerns more than the question: the machine hears of it first.
    pub(super) async fn ask(
        &self,
        between: Between,
        route: &Route,
        request: &Request,
    ) -> Result<Answered, AskError> {
        let timeout = self.request_timeout;
        let carry = async |envelope| match route {
            Route::P2p => self.sensor.exchange(between.peer, &envelope, timeout).await,
            Route::Http { url } => Ok(self.http.exchange(url, &envelope).await?),
        };
        let asked = self.asker.ask(between, request, carry);
        let answered = match tokio::time::timeout(timeout, asked).await {
            Ok(answered) => answered?,
            Err(_) => {
                return Err(AskError::TimedOut(format!("no answer within {} ms", timeout.as_millis())));
            }
        };
        let Between { peer, ours: incarnation, .. } = between;
        if matches!(&answered.response.answer, Answer::Refused(refusal) if refusal.reason == Reason::Incarnation)
        {
            self.inbox.send(Event::Disowned { peer, incarnation }).await;
        }
        Ok(answered)
    }

    async fn announce(&self, to: Recipients) {
        let announced = match self.announcer.fresh().await {
            Ok(announced) => announced,
            Err(error) => {
                debug!(%error, "nothing to announce");
                if let crate::announcer::Error::Store(error) = error {
                    self.inbox.send(Event::StoreGone { reason: error.to_string() }).await;
                }
                return;
            }
        };
        match self.sensor.announce(&announced.announcement, to).await {
            Ok(peers) => debug!(peers, "announced"),
            Err(status) => debug!(reason = reason(&status), "cannot announce"),
        }
    }

    async fn read_seals(&self) -> Event {
        match self.announcer.read_seals().await {
            Ok((_, own)) => Event::Seals(own),
            Err(error) => Event::StoreGone { reason: error.to_string() },
        }
    }

    async fn list_damaged(&self, after: Option<Key>, limit: usize) -> Event {
        match self.store.damaged(after.as_ref(), limit).await {
            // So many that they are no longer listed one by one: nothing that is mended would be served.
            Ok(Damaged { overflow: true, .. }) => Event::Damaged { lost: Vec::new(), more: None },
            Ok(Damaged { entries, overflow: false }) => Event::Damaged {
                more: entries.last().filter(|_| entries.len() >= limit).map(|(key, _)| key.clone()),
                lost: entries.iter().map(|(key, head)| Lost { key_hash: key.hash(), head: *head }).collect(),
            },
            Err(error) => {
                debug!(%error, "cannot list what is damaged");
                Event::DamageUnknown
            }
        }
    }

    async fn poll(&self, url: String) -> Event {
        match self.http.poll(&url).await {
            Ok(announcement) => Event::Polled { url, announcement, wall: self.wall() },
            Err(error) => Event::PollFailed { url, reason: error.to_string() },
        }
    }

    async fn hello(&self, peer: NodeId, route: Route) {
        let event = match self.greet(peer, &route).await {
            Ok(event) => event,
            Err(reason) => Event::GreetFailed { peer, route, reason },
        };
        self.inbox.send(event).await;
    }

    async fn greet(&self, peer: NodeId, route: &Route) -> Result<Event, String> {
        let announced = self.announcer.recent().await.map_err(|error| error.to_string())?;
        let ours = announced.announcement.announcement.incarnation;
        let request = Request { announcement: Some(announced.announcement), pull: None, ask: Ask::Hello };
        let between = Between { ours, peer, theirs: None };
        let answered = self.ask(between, route, &request).await.map_err(|error| error.to_string())?;
        match answered.response.answer {
            Answer::Hello { heard_sequence, heard_epoch } => Ok(Event::Greeted {
                peer,
                route: route.clone(),
                incarnation: answered.incarnation,
                own_incarnation: ours,
                heard_sequence,
                heard_epoch,
                time: answered.response.time,
                wall: self.wall(),
            }),
            Answer::Refused(refusal) => Err(format!("refused ({:?}): {}", refusal.reason, refusal.detail)),
            Answer::Walk { .. } | Answer::Fetch { .. } | Answer::Bye => {
                Err("hello was answered with something else".to_owned())
            }
        }
    }

    /// Until it is done: without it, nothing can be announced.
    async fn reincarnate(&self, incarnation: Incarnation) {
        let mut reconnect = Reconnect::new();
        loop {
            match self.store.reincarnate(incarnation).await {
                Ok(new) => {
                    warn!(%incarnation, %new, "the store has a new incarnation");
                    break;
                }
                Err(error) => warn!(%error, "cannot start a new incarnation yet"),
            }
            tokio::time::sleep(reconnect.next_delay()).await;
        }
    }

    /// Dropped when too much is under way.
    fn unhurried(
        &self,
        tasks: &TaskGroup,
        name: &'static str,
        span: Span,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let Ok(permit) = self.unhurried.clone().try_acquire_owned() else {
            debug!(name, "too much is under way: left out");
            return;
        };
        spawn(tasks, name, span, async move {
            work.await;
            drop(permit);
        });
    }

    /// Left out while the same is under way: its event answers both.
    fn once(
        self: &Arc<Self>,
        tasks: &TaskGroup,
        once: Once,
        span: Span,
        work: impl Future<Output = Event> + Send + 'static,
    ) {
        if !self.lock_under_way().insert(once.clone()) {
            return;
        }
        let claim = Claim { hands: Arc::clone(self), once };
        let inbox = self.inbox.clone();
        spawn(tasks, "effect", span, async move {
            let event = work.await;
            // First this, then the event: the machine may want the same again as soon as it hears of it.
            drop(claim);
            inbox.send(event).await;
        });
    }

    fn lock_heard(&self) -> std::sync::MutexGuard<'_, Unsaid> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_under_way(&self) -> std::sync::MutexGuard<'_, BTreeSet<Once>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the work, also when that is cancelled or panics.
struct Claim {
    hands: Arc<Hands>,
    once: Once,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.hands.lock_under_way().remove(&self.once);
    }
}

/// A task that ends with the group.
pub(crate) fn spawn(
    tasks: &TaskGroup,
    name: &'static str,
    span: Span,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let ended = tasks.token();
    tasks.spawn(name, async move {
        ended.run_until_cancelled(work.instrument(span)).await;
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_heard_of_a_peer_the_newest_is_said_once() {
        let node = NodeId([1; 32]);
        let heard = |incarnation, sequence| Heard {
            incarnation: Incarnation([incarnation; 16]),
            sequence,
            epoch: Epoch(1),
        };
        let mut unsaid = Unsaid::default();
        unsaid.put(node, heard(1, 9));
        unsaid.put(NodeId([2; 32]), heard(3, 1));
        unsaid.put(node, heard(2, 1));
        assert_eq!(unsaid.take(&node), Some(heard(2, 1)), "never the replaced one after its successor");
        assert_eq!(unsaid.take(&node), None);
        assert_eq!(unsaid.0.len(), 1);
    }
}
