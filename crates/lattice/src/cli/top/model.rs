//! What `lattice top` knows: the last sample, what changed since the one before, and what is wrong.

use std::time::Duration;

use lattice_proto::coordinator::v1::{Heal, StatusResponse};

use crate::cli::cluster::Sealed;

/// What the node said at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// When it was asked, by a clock that only goes on.
    pub(super) at: Duration,
    pub(super) status: StatusResponse,
    /// The newest seal; empty when the node has none to show.
    pub(super) sealed: Option<Sealed>,
    /// Newest first.
    pub(super) heals: Vec<Heal>,
}

/// What changes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Keys that were added, less those that went.
    pub(super) entries: f64,
    /// Entries that pulls brought.
    pub(super) pulled: f64,
    /// Bytes that pulls cost, both ways.
    pub(super) bytes: f64,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Top {
    pub(super) url: String,
    pub(super) last: Option<Sample>,
    pub(super) rates: Option<Rates>,
    /// Why the last question had no answer; what is shown is then older.
    pub(super) trouble: Option<String>,
}

impl Top {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// Takes an answer.
    pub(super) fn sampled(&mut self, sample: Sample) {
        self.rates = self.last.as_ref().and_then(|before| rates(before, &sample));
        self.trouble = None;
        self.last = Some(sample);
    }

    /// Takes that there was none.
    pub(super) fn failed(&mut self, why: String) {
        self.trouble = Some(why);
        self.rates = None;
    }
}

fn rates(before: &Sample, now: &Sample) -> Option<Rates> {
    let seconds = now.at.checked_sub(before.at).filter(|passed| !passed.is_zero())?.as_secs_f64();
    let count = |sample: &Sample| sample.sealed.as_ref().map_or(0, |sealed| sealed.entries) as f64;
    let new = || now.heals.iter().filter(|heal| before.heals.iter().all(|known| known.id != heal.id));
    Some(Rates {
        entries: (count(now) - count(before)) / seconds,
        pulled: new().map(|heal| heal.entries_merged).sum::<u64>() as f64 / seconds,
        bytes: new().map(|heal| heal.bytes_in + heal.bytes_out).sum::<u64>() as f64 / seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, entries: u64, heals: &[&str]) -> Sample {
        let heal = |id: &&str| Heal {
            id: (*id).to_owned(),
            entries_merged: 10,
            bytes_in: 80,
            bytes_out: 20,
            ..Heal::default()
        };
        Sample {
            at: Duration::from_millis(at_ms),
            sealed: Some(Sealed { entries, ..Sealed::default() }),
            heals: heals.iter().map(heal).collect(),
            ..Sample::default()
        }
    }

    #[test]
    fn rates_are_of_what_is_new() {
        let mut top = Top::new("http://node");
        top.sampled(sample(1_000, 100, &["a"]));
        assert_eq!(top.rates, None, "of one sample nothing follows");
        top.sampled(sample(3_000, 104, &["c", "b", "a"]));
        assert_eq!(top.rates, Some(Rates { entries: 2.0, pulled: 10.0, bytes: 100.0 }));
        top.sampled(sample(4_000, 90, &["c", "b"]));
        assert_eq!(top.rates, Some(Rates { entries: -14.0, pulled: 0.0, bytes: 0.0 }));
        top.sampled(sample(4_000, 90, &[]));
        assert_eq!(top.rates, None, "no time has passed");
    }

    #[test]
    fn trouble_lasts_until_the_next_answer_and_what_was_known_stays() {
        let mut top = Top::new("http://node");
        top.sampled(sample(1_000, 100, &[]));
        top.failed("connection refused".to_owned());
        assert!(top.trouble.is_some() && top.last.is_some());
        top.sampled(sample(2_000, 100, &[]));
        assert_eq!(top.trouble, None);
    }
}
