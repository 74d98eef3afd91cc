//! Tells how many peers are live: when that changes, and of a start without any only once peers had the time
//! to be found.

use std::time::Duration;

use super::{Coordinator, Effect, Mode, Notice};
use crate::liveness;
use crate::time::Monotonic;

/// What was told of the number of live peers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// The last one, of this sensor.
    told: Option<usize>,
    /// Nobody is live yet; told then, if it is still so.
    due: Option<Monotonic>,
    /// Some count was told, ever.
    ever: bool,
}

impl Coordinator {
    /// Tells how many peers are live, if that is news. Of a sensor that is gone nothing is known, and with P2P
    /// disabled nobody is missing.
    pub(super) fn tell_count(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.sensor.available != Some(true) || !self.sensor.enabled {
            self.sensor.count.told = None;
            self.sensor.count.due = None;
            return;
        }
        let live = self.peers.values().filter(|peer| peer.state == liveness::State::Live).count();
        if live == 0 && self.sensor.count.told.is_none() {
            let grace = self.count_grace();
            if now < *self.sensor.count.due.get_or_insert(now + grace) {
                return;
            }
        }
        self.sensor.count.due = None;
        if self.sensor.count.told.replace(live) != Some(live) {
            effects.push(Effect::Notice(Notice::PeerCount { live }));
        }
        if !std::mem::replace(&mut self.sensor.count.ever, true) && live == 0 {
            self.tell_first_timer(effects);
        }
    }

    /// When [`Self::tell_count`] has something to tell by the mere passing of time.
    pub(super) fn count_deadline(&self) -> Option<Monotonic> {
        self.sensor.count.due
    }

    /// A peer that is there has announced itself within a heartbeat.
    fn count_grace(&self) -> Duration {
        self.config.heartbeat_interval.min(self.config.peerless_timeout / 2)
    }

    /// From the start nobody was live: no peer was lost, and yet the timer runs, since the start.
    fn tell_first_timer(&self, effects: &mut Vec<Effect>) {
        let could_fall_back =
            !self.peers.is_empty() && !self.book.is_empty() && self.failover.mode() == Mode::Auto;
        if could_fall_back {
            let after = self.config.peerless_timeout.saturating_sub(self.count_grace());
            effects.push(Effect::Notice(Notice::TimerStarted { after }));
        }
    }
}
