//! Decides which path, P2P or HTTP, carries reconciliation to each peer, and what the node as a whole says.
//!
//! P2P is preferred. We leave it only after the peer was not live for `peerless_timeout`, and return only
//! after it stayed live for `return_after`, so that one lost heartbeat never flips us. The choice is made per
//! peer: an isolated node's peers still see each other, and must yet come to it over HTTP.
//!
//! This module chooses; who is live it is told by the sensor, and what HTTP does by the polls.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::NodeId;
use crate::time::Monotonic;

/// One of the two ways to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// libp2p, the primary.
    P2p,
    /// HTTP to the peer's gateway, the secondary.
    Http,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The machine chooses.
    #[default]
    Auto,
    /// P2P only.
    P2p,
    /// HTTP only.
    Http,
}

/// The path of the node as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// Any peer is reached by P2P, or its loss is only suspected.
    P2p,
    /// Every known peer is reached by HTTP.
    Http,
    /// Neither path is configured.
    None,
}

/// Which paths work, whichever is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Both.
    Optimal,
    /// At least one peer is live, and HTTP reaches nobody.
    P2pOnly,
    /// No peer is live, and HTTP reaches at least one.
    HttpOnly,
    /// Neither.
    Isolated,
}

/// Where one peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Live: reached by P2P.
    Primary,
    /// Not live, not for long enough, or without any URL to go to.
    PrimarySuspect {
        /// Since when it is not live.
        since: Monotonic,
    },
    /// Polled and pulled over HTTP.
    Secondary,
    /// Live again; still reached by HTTP until that lasted.
    PrimaryReturning {
        /// Since when it is live.
        since: Monotonic,
    },
}

/// The timings, and what is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a peer is gone before HTTP takes over.
    pub peerless_timeout: Duration,
    /// How long a peer is back before P2P takes over again.
    pub return_after: Duration,
    /// What the operator wants at first.
    pub mode: Mode,
}

/// What the machine hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer is known from now on: its key is trusted.
    PeerAdded {
        /// Who.
        peer: NodeId,
    },
    /// A peer is no longer trusted.
    PeerRemoved {
        /// Who.
        peer: NodeId,
    },
    /// A peer is live.
    PeerUp {
        /// Who.
        peer: NodeId,
    },
    /// A peer is not live.
    PeerDown {
        /// Who.
        peer: NodeId,
    },
    /// An exchange over HTTP was answered.
    HttpOk {
        /// By whom.
        peer: NodeId,
    },
    /// A poll or an exchange over HTTP failed or was refused.
    HttpFailed {
        /// Whose.
        peer: NodeId,
    },
    /// Whether any URL is known to lead to a peer.
    UrlKnown {
        /// Which peer.
        peer: NodeId,
        /// Whether.
        known: bool,
    },
    /// Whether any URL is configured at all.
    UrlsConfigured(bool),
    /// The operator's choice.
    Mode(Mode),
    /// Whether P2P is enabled in the configuration.
    P2pEnabled(bool),
    /// The deadline has come.
    Tick,
}

/// What the machine decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A peer's state is another one.
    StateChanged {
        /// Which peer.
        peer: NodeId,
        /// Its state.
        state: State,
    },
    /// A peer is reached by the other path.
    PathChanged {
        /// Which peer.
        peer: NodeId,
        /// The path from now on.
        path: Path,
    },
    /// The last live peer is gone; the node goes to HTTP unless one comes back.
    TimerStarted {
        /// When, from now.
        after: Duration,
    },
    /// The summary went to HTTP.
    FallbackActivated,
    /// The summary went from HTTP to P2P.
    Returned,
    /// The summary changed, in any way.
    SyncModeChanged(SyncMode),
    /// The health changed.
    HealthChanged(Health),
}

#[derive(Clone, Debug)]
struct Peer {
    state: State,
    live: bool,
    url_known: bool,
    http_ok: bool,
}

/// The machine: one state a peer, and the summary over them.
#[derive(Clone, Debug)]
pub struct Failover {
    config: Config,
    mode: Mode,
    p2p_enabled: bool,
    urls_configured: bool,
    peers: BTreeMap<NodeId, Peer>,
    summary: SyncMode,
    health: Health,
    /// The timer of the last live peer is running and was told.
    timer_told: bool,
}

impl State {
    /// The path that the state stands for, if the operator leaves the choice.
    pub fn path(self) -> Path {
        match self {
            Self::Primary | Self::PrimarySuspect { .. } => Path::P2p,
            Self::Secondary | Self::PrimaryReturning { .. } => Path::Http,
        }
    }

    /// The name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::PrimarySuspect { .. } => "primary suspect",
            Self::Secondary => "secondary",
            Self::PrimaryReturning { .. } => "primary returning",
        }
    }
}

impl Path {
    /// The name that programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::P2p => "P2P",
            Self::Http => "HTTP",
        }
    }
}

impl Failover {
    /// No peer is known, P2P is taken for enabled, and no URL for configured, until events say otherwise.
    pub fn new(config: Config) -> Self {
        let mut failover = Self {
            config,
            mode: config.mode,
            p2p_enabled: true,
            urls_configured: false,
            peers: BTreeMap::new(),
            summary: SyncMode::P2p,
            health: Health::Isolated,
            timer_told: false,
        };
        failover.summary = failover.summarize();
        failover
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Monotonic, event: Event, effects: &mut Vec<Effect>) {
        let before: BTreeMap<NodeId, (State, Path)> =
            self.peers.iter().map(|(&id, peer)| (id, (peer.state, self.path_of(peer)))).collect();
        let live_before = self.live();
        match event {
            Event::PeerAdded { peer } => {
                self.peers.entry(peer).or_insert(Peer {
                    state: State::PrimarySuspect { since: now },
                    live: false,
                    url_known: false,
                    http_ok: false,
                });
            }
            Event::PeerRemoved { peer } => {
                self.peers.remove(&peer);
            }
            Event::PeerUp { peer } => self.change(&peer, |peer| peer.live = true),
            Event::PeerDown { peer } => self.change(&peer, |peer| peer.live = false),
            Event::HttpOk { peer } => self.change(&peer, |peer| peer.http_ok = true),
            Event::HttpFailed { peer } => self.change(&peer, |peer| peer.http_ok = false),
            Event::UrlKnown { peer, known } => self.change(&peer, |peer| {
                peer.url_known = known;
                peer.http_ok &= known;
            }),
            Event::UrlsConfigured(configured) => self.urls_configured = configured,
            Event::Mode(mode) => self.mode = mode,
            Event::P2pEnabled(enabled) => self.p2p_enabled = enabled,
            Event::Tick => {}
        }
        let (config, p2p_enabled) = (self.config, self.p2p_enabled);
        for peer in self.peers.values_mut() {
            peer.state = peer.next(now, &config, p2p_enabled);
        }
        self.report(live_before, &before, effects);
        debug_assert!(
            self.peers.values().all(|peer| peer.url_known || peer.state.path() == Path::P2p),
            "a peer without a URL is not reached by HTTP"
        );
    }

    /// When the next peer changes by the mere passing of time.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.peers.values().filter_map(|peer| peer.deadline(&self.config)).min()
    }

    /// The path that is used for a peer; of one that is not known, the one configured.
    pub fn path(&self, peer: &NodeId) -> Path {
        self.peers.get(peer).map_or(Path::P2p, |peer| self.path_of(peer))
    }

    /// Where a known peer stands.
    pub fn state(&self, peer: &NodeId) -> Option<State> {
        self.peers.get(peer).map(|peer| peer.state)
    }

    /// Whether HTTP works to a peer.
    pub fn http_ok(&self, peer: &NodeId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.http_ok)
    }

    /// What the operator wants.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The path of the node as a whole.
    pub fn sync_mode(&self) -> SyncMode {
        self.summary
    }

    /// Which paths work.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Until the node as a whole goes to HTTP: the last peer's timer. `None` when none runs, or when some peer
    /// has no URL to go to.
    pub fn fallback_in(&self, now: Monotonic) -> Option<Duration> {
        if self.mode != Mode::Auto || self.summary != SyncMode::P2p || self.peers.is_empty() {
            return None;
        }
        let mut last = None;
        for peer in self.peers.values() {
            match peer.state {
                State::Primary => return None,
                State::PrimarySuspect { .. } => last = last.max(Some(peer.deadline(&self.config)?)),
                State::Secondary | State::PrimaryReturning { .. } => {}
            }
        }
        last.map(|last| last.since(now))
    }

    fn change(&mut self, peer: &NodeId, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(peer) {
            change(peer);
        }
    }

    fn live(&self) -> usize {
        self.peers.values().filter(|peer| peer.live).count()
    }

    fn path_of(&self, peer: &Peer) -> Path {
        match self.mode {
            Mode::Auto => peer.state.path(),
            Mode::P2p => Path::P2p,
            Mode::Http => Path::Http,
        }
    }

    fn report(
        &mut self,
        live_before: usize,
        before: &BTreeMap<NodeId, (State, Path)>,
        effects: &mut Vec<Effect>,
    ) {
        for (&id, peer) in &self.peers {
            let (state, path) = (peer.state, self.path_of(peer));
            let was = before.get(&id);
            if was.is_none_or(|was| was.0 != state) {
                effects.push(Effect::StateChanged { peer: id, state });
            }
            if was.is_some_and(|was| was.1 != path) {
                effects.push(Effect::PathChanged { peer: id, path });
            }
        }

        let live = self.live();
        // On HTTP already (a peer that was returning is gone again), there is nothing to wait for.
        let could_fall_back = self.mode == Mode::Auto
            && self.p2p_enabled
            && self.urls_configured
            && self.summary == SyncMode::P2p;
        if live > 0 {
            self.timer_told = false;
        } else if live_before > 0 && could_fall_back && !self.timer_told {
            self.timer_told = true;
            effects.push(Effect::TimerStarted { after: self.config.peerless_timeout });
        }

        let summary = self.summarize();
        if summary != self.summary {
            match (self.summary, summary) {
                (_, SyncMode::Http) => effects.push(Effect::FallbackActivated),
                (SyncMode::Http, SyncMode::P2p) => effects.push(Effect::Returned),
                (_, SyncMode::P2p | SyncMode::None) => {}
            }
            self.summary = summary;
            effects.push(Effect::SyncModeChanged(summary));
        }
        let http_ok = self.peers.values().any(|peer| peer.http_ok);
        let health = match (live > 0, http_ok) {
            (true, true) => Health::Optimal,
            (true, false) => Health::P2pOnly,
            (false, true) => Health::HttpOnly,
            (false, false) => Health::Isolated,
        };
        if health != self.health {
            self.health = health;
            effects.push(Effect::HealthChanged(health));
        }
    }

    fn summarize(&self) -> SyncMode {
        let configured = match (self.p2p_enabled, self.urls_configured) {
            (true, _) => SyncMode::P2p,
            (false, true) => SyncMode::Http,
            (false, false) => SyncMode::None,
        };
        match self.mode {
            Mode::P2p if self.p2p_enabled => SyncMode::P2p,
            Mode::Http if self.urls_configured => SyncMode::Http,
            Mode::P2p | Mode::Http => SyncMode::None,
            Mode::Auto if !self.p2p_enabled || !self.urls_configured || self.peers.is_empty() => configured,
            Mode::Auto if self.peers.values().all(|peer| peer.state.path() == Path::Http) => SyncMode::Http,
            Mode::Auto => SyncMode::P2p,
        }
    }
}

impl Peer {
    /// The state that follows, from what is known by now.
    fn next(&self, now: Monotonic, config: &Config, p2p_enabled: bool) -> State {
        let live = self.live && p2p_enabled;
        match self.state {
            State::Primary if live => State::Primary,
            State::Primary => Self { state: State::PrimarySuspect { since: now }, ..self.clone() }.next(
                now,
                config,
                p2p_enabled,
            ),
            State::PrimarySuspect { .. } if live => State::Primary,
            State::PrimarySuspect { since } => {
                let lost = !p2p_enabled || now.since(since) >= config.peerless_timeout;
                if lost && self.url_known { State::Secondary } else { State::PrimarySuspect { since } }
            }
            State::Secondary if !self.url_known => Self::without_url(now, live),
            State::Secondary if live => State::PrimaryReturning { since: now },
            State::Secondary => State::Secondary,
            State::PrimaryReturning { .. } if !self.url_known => Self::without_url(now, live),
            State::PrimaryReturning { .. } if !live => State::Secondary,
            State::PrimaryReturning { since } if now.since(since) >= config.return_after => State::Primary,
            State::PrimaryReturning { since } => State::PrimaryReturning { since },
        }
    }

    /// HTTP leads nowhere any more.
    fn without_url(now: Monotonic, live: bool) -> State {
        if live { State::Primary } else { State::PrimarySuspect { since: now } }
    }

    fn deadline(&self, config: &Config) -> Option<Monotonic> {
        match self.state {
            State::Primary | State::Secondary => None,
            // Without a URL, time changes nothing.
            State::PrimarySuspect { since } => self.url_known.then(|| since + config.peerless_timeout),
            State::PrimaryReturning { since } => Some(since + config.return_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    struct Bench {
        failover: Failover,
        effects: Vec<Effect>,
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn config(mode: Mode) -> Config {
        Config { peerless_timeout: Duration::from_secs(60), return_after: Duration::from_secs(10), mode }
    }

    impl Bench {
        fn new(peers: &[NodeId]) -> Self {
            let mut bench = Self { failover: Failover::new(config(Mode::Auto)), effects: Vec::new() };
            bench.hear(0, Event::UrlsConfigured(true));
            for &peer in peers {
                bench.hear(0, Event::PeerAdded { peer });
                bench.hear(0, Event::UrlKnown { peer, known: true });
            }
            bench
        }

        fn hear(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            self.effects.clear();
            self.failover.handle(at(seconds), event, &mut self.effects);
            self.effects.clone()
        }

        fn state(&self) -> State {
            self.failover.state(&A).unwrap()
        }
    }

    #[test]
    fn a_peer_goes_all_the_way_round() {
        let mut bench = Bench::new(&[A]);
        assert_eq!(bench.state(), State::PrimarySuspect { since: at(0) });
        bench.hear(1, Event::PeerUp { peer: A });
        assert_eq!(bench.state(), State::Primary);
        assert_eq!(bench.failover.deadline(), None);

        let effects = bench.hear(100, Event::PeerDown { peer: A });
        assert!(effects.contains(&Effect::TimerStarted { after: Duration::from_secs(60) }));
        assert_eq!(bench.state(), State::PrimarySuspect { since: at(100) });
        assert_eq!(bench.failover.sync_mode(), SyncMode::P2p, "a loss is only suspected");
        assert_eq!(bench.failover.fallback_in(at(110)), Some(Duration::from_secs(50)));

        assert_eq!(bench.hear(159, Event::Tick), []);
        let effects = bench.hear(160, Event::Tick);
        assert_eq!(
            effects,
            [
                Effect::StateChanged { peer: A, state: State::Secondary },
                Effect::PathChanged { peer: A, path: Path::Http },
                Effect::FallbackActivated,
                Effect::SyncModeChanged(SyncMode::Http),
            ]
        );
        bench.hear(300, Event::PeerUp { peer: A });
        assert_eq!(bench.state(), State::PrimaryReturning { since: at(300) });
        assert_eq!(bench.failover.sync_mode(), SyncMode::Http);
        let effects = bench.hear(305, Event::PeerDown { peer: A });
        assert_eq!(bench.state(), State::Secondary);
        let timer = |effect: &Effect| matches!(effect, Effect::TimerStarted { .. });
        assert!(!effects.iter().any(timer), "HTTP is in use already");
        bench.hear(306, Event::PeerUp { peer: A });
        assert_eq!(bench.failover.deadline(), Some(at(316)));
        let effects = bench.hear(316, Event::Tick);
        assert!(effects.contains(&Effect::PathChanged { peer: A, path: Path::P2p }));
        assert!(effects.contains(&Effect::Returned));
    }

    #[test]
    fn one_lost_heartbeat_flips_nothing() {
        let mut bench = Bench::new(&[A]);
        bench.hear(0, Event::PeerUp { peer: A });
        for second in (10..600).step_by(20) {
            bench.hear(second, Event::PeerDown { peer: A });
            let effects = bench.hear(second + 10, Event::PeerUp { peer: A });
            assert!(effects.iter().all(|effect| !matches!(effect, Effect::PathChanged { .. })));
        }
        assert_eq!(bench.failover.sync_mode(), SyncMode::P2p);
    }

    #[test]
    fn without_a_url_a_peer_stays_suspect_until_one_is_known() {
        let mut bench = Bench::new(&[A]);
        bench.hear(0, Event::UrlKnown { peer: A, known: false });
        assert_eq!(bench.failover.deadline(), None);
        bench.hear(1000, Event::Tick);
        assert_eq!(bench.state(), State::PrimarySuspect { since: at(0) });
        bench.hear(1001, Event::UrlKnown { peer: A, known: true });
        assert_eq!(bench.state(), State::Secondary);
        bench.hear(1002, Event::UrlKnown { peer: A, known: false });
        assert_eq!(bench.state(), State::PrimarySuspect { since: at(1002) });
    }

    #[test]
    fn disabled_p2p_means_http_at_once() {
        let mut bench = Bench::new(&[A]);
        bench.hear(0, Event::PeerUp { peer: A });
        let effects = bench.hear(5, Event::P2pEnabled(false));
        assert_eq!(bench.state(), State::Secondary);
        assert!(effects.contains(&Effect::FallbackActivated));
        bench.hear(5, Event::UrlKnown { peer: A, known: false });
        assert_eq!(bench.failover.sync_mode(), SyncMode::Http);
        bench.hear(6, Event::UrlsConfigured(false));
        assert_eq!(bench.failover.sync_mode(), SyncMode::None);
    }

    #[test]
    fn the_summary_is_http_only_when_every_peer_is() {
        let mut bench = Bench::new(&[A, B]);
        bench.hear(0, Event::PeerUp { peer: A });
        bench.hear(60, Event::Tick);
        assert_eq!(bench.failover.path(&B), Path::Http);
        assert_eq!(bench.failover.sync_mode(), SyncMode::P2p);
        assert_eq!(bench.failover.fallback_in(at(60)), None, "one peer is live");
        bench.hear(70, Event::PeerDown { peer: A });
        bench.hear(130, Event::Tick);
        assert_eq!(bench.failover.sync_mode(), SyncMode::Http);
        bench.hear(131, Event::PeerRemoved { peer: A });
        bench.hear(131, Event::PeerRemoved { peer: B });
        assert_eq!(bench.failover.sync_mode(), SyncMode::P2p, "no known peer: what is configured");
    }

    #[test]
    fn a_pinned_mode_rules_at_once() {
        let mut bench = Bench::new(&[A]);
        bench.hear(0, Event::PeerUp { peer: A });
        let effects = bench.hear(1, Event::Mode(Mode::Http));
        assert!(effects.contains(&Effect::PathChanged { peer: A, path: Path::Http }));
        assert_eq!(bench.failover.sync_mode(), SyncMode::Http);
        assert_eq!(bench.state(), State::Primary, "the machine goes on underneath");
        let effects = bench.hear(2, Event::Mode(Mode::P2p));
        assert!(effects.contains(&Effect::Returned));
        bench.hear(3, Event::P2pEnabled(false));
        assert_eq!(bench.failover.sync_mode(), SyncMode::None, "pinned to what is not configured");
        assert_eq!(bench.failover.path(&A), Path::P2p);
    }

    #[test]
    fn health_tells_what_works() {
        let mut bench = Bench::new(&[A, B]);
        assert_eq!(bench.failover.health(), Health::Isolated);
        bench.hear(0, Event::PeerUp { peer: A });
        assert_eq!(bench.failover.health(), Health::P2pOnly);
        bench.hear(0, Event::HttpOk { peer: B });
        assert_eq!(bench.failover.health(), Health::Optimal);
        bench.hear(0, Event::PeerDown { peer: A });
        assert_eq!(bench.failover.health(), Health::HttpOnly);
        bench.hear(0, Event::HttpFailed { peer: B });
        assert_eq!(bench.failover.health(), Health::Isolated);
    }

    fn event() -> impl Strategy<Value = Event> {
        let peer = prop::sample::select(vec![A, B]);
        prop_oneof![
            peer.clone().prop_map(|peer| Event::PeerAdded { peer }),
            peer.clone().prop_map(|peer| Event::PeerRemoved { peer }),
            peer.clone().prop_map(|peer| Event::PeerUp { peer }),
            peer.clone().prop_map(|peer| Event::PeerDown { peer }),
            peer.clone().prop_map(|peer| Event::HttpOk { peer }),
            peer.clone().prop_map(|peer| Event::HttpFailed { peer }),
            (peer, any::<bool>()).prop_map(|(peer, known)| Event::UrlKnown { peer, known }),
            any::<bool>().prop_map(Event::UrlsConfigured),
            any::<bool>().prop_map(Event::P2pEnabled),
            prop::sample::select(vec![Mode::Auto, Mode::P2p, Mode::Http]).prop_map(Event::Mode),
            Just(Event::Tick),
        ]
    }

    proptest! {
        #[test]
        fn a_tick_at_the_deadline_moves_the_deadline(events in prop::collection::vec((event(), 0..30_u64), 0..60)) {
            let mut failover = Failover::new(config(Mode::Auto));
            let mut now = Monotonic::ZERO;
            for (event, seconds) in events {
                now = now + Duration::from_secs(seconds);
                failover.handle(now, event, &mut Vec::new());
                if let Some(deadline) = failover.deadline() {
                    let mut ticked = failover.clone();
                    let deadline = deadline.max(now);
                    ticked.handle(deadline, Event::Tick, &mut Vec::new());
                    prop_assert!(ticked.deadline().is_none_or(|next| next > deadline));
                }
            }
        }
    }
}
