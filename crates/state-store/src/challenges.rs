//! Challenges: what makes a request fresh. Each is issued to one sender, is good for one request, and for a
//! minute.
//!
//! Freshness rests on no clock but ours: a request that was recorded cannot be sent again, since its challenge
//! is spent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lattice_core::model::NodeId;
use lattice_core::time::Monotonic;

/// The most challenges that wait for one sender; a further one replaces the oldest.
pub const OUTSTANDING_MAX: usize = 16;
/// The most senders with challenges; the caller issues to trusted ones only.
pub const SENDERS_MAX: usize = 4_096;
/// How long a challenge is good for.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// A challenge's bytes, made by the caller's generator.
pub type Challenge = [u8; 16];

/// The challenges that were issued and not yet spent.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    issued: BTreeMap<NodeId, VecDeque<(Challenge, Monotonic)>>,
}

impl Challenges {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Issues `fresh`, which is random, to a sender.
    pub fn issue(&mut self, sender: NodeId, fresh: Challenge, now: Monotonic) -> Challenge {
        if !self.issued.contains_key(&sender) && self.issued.len() >= SENDERS_MAX {
            self.issued.pop_first();
        }
        let issued = self.issued.entry(sender).or_default();
        issued.retain(|(_, at)| now.since(*at) <= LIFETIME);
        if issued.len() == OUTSTANDING_MAX {
            issued.pop_front();
        }
        issued.push_back((fresh, now));
        fresh
    }

    /// Spends a challenge: true exactly once for each that was issued to this sender and is not too old.
    pub fn take(&mut self, sender: &NodeId, challenge: &[u8], now: Monotonic) -> bool {
        let Some(issued) = self.issued.get_mut(sender) else { return false };
        issued.retain(|(_, at)| now.since(*at) <= LIFETIME);
        let place = issued.iter().position(|(issued, _)| issued == challenge);
        let taken = place.and_then(|place| issued.remove(place)).is_some();
        if issued.is_empty() {
            self.issued.remove(sender);
        }
        taken
    }

    /// Forgets senders that are not trusted any more.
    pub fn retain(&mut self, trusted: impl Fn(&NodeId) -> bool) {
        self.issued.retain(|sender, _| trusted(sender));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn a_challenge_is_good_once_for_one_sender_and_a_minute() {
        let mut challenges = Challenges::new();
        challenges.issue(A, [7; 16], at(0));
        assert!(!challenges.take(&B, &[7; 16], at(1)));
        assert!(!challenges.take(&A, &[], at(1)));
        assert!(challenges.take(&A, &[7; 16], at(1)));
        assert!(!challenges.take(&A, &[7; 16], at(1)));
        challenges.issue(A, [8; 16], at(0));
        assert!(!challenges.take(&A, &[8; 16], at(61)));
    }

    #[test]
    fn a_sender_has_at_most_sixteen() {
        let mut challenges = Challenges::new();
        for number in 0..=16 {
            challenges.issue(A, [number; 16], at(0));
        }
        assert!(!challenges.take(&A, &[0; 16], at(1)));
        assert!(challenges.take(&A, &[1; 16], at(1)));
        assert!(challenges.take(&A, &[16; 16], at(1)));
        challenges.retain(|sender| *sender == B);
        assert!(!challenges.take(&A, &[2; 16], at(1)));
    }
}
