//! The effects of pulls: questions to the peer, work for our own store, and the record when they end.
//!
//! A pull is one span, `reconcile.pull`, from its start to its record (a repair, `reconcile.repair`, has none). Everything that is done for it is done
//! within, so that both nodes' services show it as one trace.

use lattice_core::coordinator::{Event, Route};
use lattice_core::exchange::Request;
use lattice_core::failover::Path;
use lattice_core::model::{Entry, EntryHead, NodeId};
use lattice_core::pull::{self, Cause, Ended, Failure, Outcome, Traffic};
use lattice_core::seal::Root;
use lattice_core::time::{Monotonic, WallTime};
use lattice_core::tree::Position;
use lattice_proto::store::v1::Origin;
use lattice_runtime::trace;
use tracing::{Span, field, info_span};

use super::Shell;
use super::effects::{Hands, spawn};
use crate::envelopes::{Answered, AskError, Between};
use crate::heals::Heal;
use crate::keeper::Write;
use crate::report;

/// Records that wait for the root that their heal led to; the oldest stay as they are.
const UNROOTED_MAX: usize = 64;

/// A pull under way, or one whose record still wants its root.
#[derive(Debug)]
pub(super) struct Running {
    span: Span,
    started: WallTime,
    /// Set when it has ended.
    record: Option<Heal>,
}

/// A question of a pull.
pub(super) struct Asking {
    pub(super) pull: pull::Id,
    pub(super) number: u64,
    pub(super) peer: NodeId,
    pub(super) route: Route,
    pub(super) request: Request,
    pub(super) announce: bool,
    pub(super) last: bool,
}

impl Shell {
    pub(super) fn pull_started(
        &mut self,
        id: pull::Id,
        peer: NodeId,
        cause: Cause,
        route: &Route,
        root_before: Option<Root>,
    ) {
        let path = report::path(route.path());
        let span = match cause {
            Cause::Repair => info_span!(
                "reconcile.repair",
                %peer,
                pull = %id,
                path,
                outcome = field::Empty,
                sought = field::Empty,
                repaired = field::Empty,
                rounds = field::Empty,
            ),
            Cause::Operator | Cause::InKind | Cause::Recovery | Cause::Divergence => info_span!(
                "reconcile.pull",
                %peer,
                pull = %id,
                path,
                ?cause,
                root_before = root_before.map(|root| field::display(root.digest)),
                outcome = field::Empty,
                entries_merged = field::Empty,
                rounds = field::Empty,
            ),
        };
        self.running.insert(id, Running { span, started: self.hands.wall(), record: None });
    }

    pub(super) fn pull_ended(&mut self, ended: &Ended, route: Option<&Route>, root_before: Option<&Root>) {
        let running = self.running.remove(&ended.id);
        let (span, started) = match running {
            Some(running) => (running.span, running.started),
            None => (Span::none(), self.hands.wall()),
        };
        let peer = match route {
            Some(route) => report::called(&ended.peer, route, &self.names),
            None => report::name_of(&ended.peer, &self.names),
        };
        span.record("outcome", ended.outcome.name());
        span.record("rounds", ended.rounds);
        if let Some(repaired) = &ended.repaired {
            span.record("sought", repaired.sought);
            span.record("repaired", repaired.repaired);
            span.in_scope(|| self.report.repair_ended(ended, repaired, &peer));
            // No heal: nothing is proved of the whole.
            return;
        }
        span.record("entries_merged", ended.entries_merged);
        span.in_scope(|| self.report.pull_ended(ended, &peer));

        let heal = Heal {
            id: ended.id.to_string(),
            node: ended.peer.to_string(),
            peer: report::known_as(&ended.peer, route, &self.names),
            path: report::path(ended.path).to_owned(),
            outcome: ended.outcome.name().to_owned(),
            started_ms: started.millis(),
            duration_ms: millis(ended.ended, ended.started),
            rounds: ended.rounds,
            bytes_in: ended.traffic.bytes_in,
            bytes_out: ended.traffic.bytes_out,
            entries_merged: ended.entries_merged,
            root_before: root_before.map(|root| root.digest.to_string()),
            // Until the next seal says more.
            root_after: self.own_root.map(|root| root.digest.to_string()),
            trace_id: trace::trace_id(&span).unwrap_or_default(),
            detail: ended.detail.clone(),
        };
        self.hands.keeper.write(Write::Heal(Box::new(heal.clone())));
        if ended.outcome == Outcome::Healed {
            self.forget_unrooted();
            self.running.insert(ended.id, Running { span, started, record: Some(heal) });
        }
    }

    pub(super) fn root_after(&mut self, id: pull::Id, peer: NodeId, path: Path, root: Option<&Root>) {
        let Some(Running { span, record, .. }) = self.running.remove(&id) else { return };
        span.in_scope(|| self.report.root_after(peer, path, root));
        if let Some(heal) = record {
            let root_after = root.map(|root| root.digest.to_string());
            self.hands.keeper.write(Write::Heal(Box::new(Heal { root_after, ..heal })));
        }
    }

    /// A store that seals nothing more must not make us remember every heal.
    fn forget_unrooted(&mut self) {
        let unrooted = self.running.values().filter(|running| running.record.is_some());
        if unrooted.count() < UNROOTED_MAX {
            return;
        }
        let ended = |running: &Running| running.record.is_some();
        let oldest = self.running.iter().filter(|(_, running)| ended(running));
        if let Some(id) = oldest.min_by_key(|(_, running)| running.started).map(|(id, _)| *id) {
            self.running.remove(&id);
        }
    }

    pub(super) fn remember(&self) {
        let memory = self.machine.memory(Monotonic(self.clock.monotonic()), self.hands.wall());
        self.hands.keeper.write(Write::Memory(memory));
    }

    pub(super) fn ask(&self, asking: Asking) {
        let hands = self.hands.clone();
        let span = self.span_of(asking.pull);
        spawn(&self.tasks, "pull: ask", span, async move {
            let (id, last) = (asking.pull, asking.last);
            let event = exchange(&hands, asking).await;
            if !last {
                hands.inbox.send(Event::Pull { id, event }).await;
            }
        });
    }

    pub(super) fn read_local_nodes(&self, id: pull::Id, positions: Vec<Position>) {
        let hands = self.hands.clone();
        spawn(&self.tasks, "pull: read", self.span_of(id), async move {
            let event = match hands.store.nodes(&positions).await {
                Ok(nodes) => pull::Event::LocalNodes(nodes),
                Err(error) => pull::Event::LocalFailed(error.to_string()),
            };
            hands.inbox.send(Event::Pull { id, event }).await;
        });
    }

    pub(super) fn compare(&self, id: pull::Id, heads: Vec<EntryHead>) {
        let hands = self.hands.clone();
        spawn(&self.tasks, "pull: compare", self.span_of(id), async move {
            let event = match hands.store.compare(&heads).await {
                Ok(compared) => pull::Event::Compared { missing: compared.missing, ahead: compared.ahead },
                Err(error) => pull::Event::LocalFailed(error.to_string()),
            };
            hands.inbox.send(Event::Pull { id, event }).await;
        });
    }

    pub(super) fn merge(&self, id: pull::Id, entries: Vec<Entry>, origin: Origin) {
        let hands = self.hands.clone();
        spawn(&self.tasks, "pull: merge", self.span_of(id), async move {
            let event = match hands.store.merge(&entries, origin).await {
                Ok(counts) => pull::Event::Merged(counts),
                Err(error) => pull::Event::LocalFailed(error.to_string()),
            };
            hands.inbox.send(Event::Pull { id, event }).await;
        });
    }

    fn span_of(&self, id: pull::Id) -> Span {
        self.running.get(&id).map_or_else(Span::current, |running| running.span.clone())
    }
}

/// What came of a question.
async fn exchange(hands: &Hands, asking: Asking) -> pull::Event {
    let Asking { number, peer, route, mut request, announce, .. } = asking;
    let failed = |failure| pull::Event::Failed { number, failure };
    let ours = match announce {
        true => hands.announcer.recent().await.map(|announced| {
            let announcement = announced.announcement;
            let ours = announcement.announcement.incarnation;
            request.announcement = Some(announcement);
            ours
        }),
        false => hands.announcer.incarnation().await,
    };
    let ours = match ours {
        Ok(ours) => ours,
        Err(error) => return failed(Failure::Lost(error.to_string())),
    };
    match hands.ask(Between { ours, peer, theirs: None }, &route, &request).await {
        Ok(answered) => {
            let traffic = Traffic { bytes_in: answered.bytes_in, bytes_out: answered.bytes_out };
            let Answered { incarnation, response, .. } = answered;
            pull::Event::Reply { number, incarnation, response, traffic }
        }
        Err(AskError::TimedOut(_)) => failed(Failure::TimedOut),
        Err(error @ (AskError::Lost(_) | AskError::NotProved(_))) => failed(Failure::Lost(error.to_string())),
    }
}

fn millis(ended: Monotonic, started: Monotonic) -> u64 {
    u64::try_from(ended.since(started).as_millis()).unwrap_or(u64::MAX)
}
