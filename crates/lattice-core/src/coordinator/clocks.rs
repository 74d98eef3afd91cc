//! Judges clocks: whose is off, ours or a peer's, from the times that peers sign.
//!
//! Nobody is right by himself. One peer that disagrees is off; when at least two live trusted peers, and most
//! of them, agree with each other against us, we are. Then nobody else is blamed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Clock;
use crate::model::NodeId;
use crate::time::{Monotonic, WallTime};

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// How far the peer's clock is ahead of ours.
    ahead_ms: i64,
    at: Monotonic,
    /// It was named as off.
    named: bool,
}

/// The signed times of peers against our clock: one sample for each.
#[derive(Debug)]
pub(super) struct Clocks {
    max_drift_ms: i64,
    /// Samples older than this say nothing.
    fresh_for: Duration,
    samples: BTreeMap<NodeId, Sample>,
    verdict: Clock,
}

/// What changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) own: Option<Clock>,
    /// Ours was judged wrong until now.
    pub(super) was_wrong: bool,
    /// Peers whose clock is off from now on, and by how much; or right again.
    pub(super) peers: Vec<(NodeId, Option<i64>)>,
}

impl Clocks {
    pub(super) fn new(max_drift: Duration, fresh_for: Duration) -> Self {
        let max_drift_ms = i64::try_from(max_drift.as_millis()).unwrap_or(i64::MAX);
        Self { max_drift_ms, fresh_for, samples: BTreeMap::new(), verdict: Clock::Unknown }
    }

    pub(super) fn verdict(&self) -> &Clock {
        &self.verdict
    }

    /// A peer signed `time` just now, when our clock reads `wall`.
    pub(super) fn sample(&mut self, now: Monotonic, peer: NodeId, time: WallTime, wall: WallTime) -> Changes {
        let to_i64 = |time: WallTime| i64::try_from(time.millis()).unwrap_or(i64::MAX);
        let ahead_ms = to_i64(time).saturating_sub(to_i64(wall));
        let named = self.samples.get(&peer).is_some_and(|sample| sample.named);
        self.samples.insert(peer, Sample { ahead_ms, at: now, named });
        self.judge(now)
    }

    /// A peer is no longer trusted.
    pub(super) fn forget(&mut self, peer: &NodeId) {
        self.samples.remove(peer);
    }

    /// Judges again, since samples age.
    pub(super) fn judge(&mut self, now: Monotonic) -> Changes {
        let mut changes = Changes::default();
        let verdict = self.weigh(now);
        if std::mem::discriminant(&verdict) != std::mem::discriminant(&self.verdict) {
            changes.own = Some(verdict.clone());
            changes.was_wrong = matches!(self.verdict, Clock::Wrong { .. });
        }
        self.verdict = verdict;
        for (peer, sample) in &mut self.samples {
            let against_us = matches!(&self.verdict, Clock::Wrong { peers, .. } if peers.contains(peer));
            let off = sample.ahead_ms.saturating_abs() > self.max_drift_ms && !against_us;
            if off != sample.named {
                sample.named = off;
                changes.peers.push((*peer, off.then_some(sample.ahead_ms)));
            }
        }
        changes
    }

    fn weigh(&self, now: Monotonic) -> Clock {
        let mut fresh: Vec<(i64, NodeId)> = self
            .samples
            .iter()
            .filter(|(_, sample)| now.since(sample.at) < self.fresh_for)
            .map(|(&peer, sample)| (sample.ahead_ms, peer))
            .collect();
        fresh.sort_unstable();
        let off = |ahead: i64| ahead.saturating_abs() > self.max_drift_ms;
        let agree = fresh.iter().filter(|sample| !off(sample.0)).count();
        if agree * 2 > fresh.len() {
            return Clock::Confirmed;
        }
        // The most of those who are off that agree with each other.
        let mut most: &[(i64, NodeId)] = &[];
        for first in 0..fresh.len() {
            let together = fresh[first..].partition_point(|sample| {
                off(sample.0)
                    && sample.0.saturating_sub(fresh[first].0) <= self.max_drift_ms
                    && (sample.0 > 0) == (fresh[first].0 > 0)
            });
            if together > most.len() {
                most = &fresh[first..first + together];
            }
        }
        if most.len() >= 2 && most.len() * 2 > fresh.len() {
            let behind_ms = most[most.len() / 2].0;
            return Clock::Wrong { behind_ms, peers: most.iter().map(|sample| sample.1).collect() };
        }
        Clock::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId([id; 32])
    }

    fn clocks() -> Clocks {
        Clocks::new(Duration::from_secs(10), Duration::from_secs(30))
    }

    /// Peers sign times that are `ahead` seconds ahead of ours.
    fn hear(clocks: &mut Clocks, second: u64, ahead: &[i64]) -> Vec<Changes> {
        let (now, wall) = (Monotonic(Duration::from_secs(second)), WallTime(1_000_000));
        let time = |ahead: &i64| WallTime(1_000_000_u64.saturating_add_signed(ahead * 1000));
        (1..).zip(ahead).map(|(id, ahead)| clocks.sample(now, node(id), time(ahead), wall)).collect()
    }

    #[test]
    fn one_peer_that_disagrees_is_named_and_we_are_not() {
        let mut clocks = clocks();
        let changes = hear(&mut clocks, 0, &[0, 1, 60]);
        assert_eq!(changes[0].own, Some(Clock::Confirmed));
        assert_eq!(changes[2], Changes { peers: vec![(node(3), Some(60_000))], ..Changes::default() });
        assert_eq!(hear(&mut clocks, 1, &[0, 1, 60])[2], Changes::default(), "named once");
        assert_eq!(hear(&mut clocks, 2, &[0, 1, 2])[2].peers, [(node(3), None)]);
    }

    #[test]
    fn two_that_agree_against_us_are_right() {
        let mut clocks = clocks();
        hear(&mut clocks, 0, &[60, 61]);
        let wrong = Clock::Wrong { behind_ms: 61_000, peers: vec![node(1), node(2)] };
        assert_eq!(*clocks.verdict(), wrong);
        assert_eq!(hear(&mut clocks, 1, &[0, 1])[1].own, Some(Clock::Confirmed));
    }

    #[test]
    fn two_that_disagree_with_each_other_say_nothing_of_us() {
        let mut clocks = clocks();
        hear(&mut clocks, 0, &[60, -60]);
        assert_eq!(*clocks.verdict(), Clock::Unknown);
        hear(&mut clocks, 0, &[60, -60, 0, 1]);
        assert_eq!(*clocks.verdict(), Clock::Unknown, "two of four are no majority");
    }

    #[test]
    fn what_is_old_says_nothing() {
        let mut clocks = clocks();
        hear(&mut clocks, 0, &[60, 61]);
        let changes = clocks.judge(Monotonic(Duration::from_secs(31)));
        assert_eq!(changes.own, Some(Clock::Unknown));
    }
}
