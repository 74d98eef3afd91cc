//! How often and how fast something happened.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What was measured of one thing that happened again and again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// How many operations there were.
    pub n: u64,
    /// Operations per second, over the whole time.
    pub ops_per_s: f64,
    /// The median time of a call, in microseconds; a call may have several operations.
    pub p50_us: f64,
    /// The time that 99 of 100 calls do not exceed, in microseconds.
    pub p99_us: f64,
}

impl Sample {
    /// `n` operations in `time`, in calls that took so long.
    pub fn of(n: u64, time: Duration, mut calls: Vec<Duration>) -> Self {
        calls.sort_unstable();
        let at = |percent: usize| {
            let rank = (calls.len() * percent).div_ceil(100).saturating_sub(1);
            calls.get(rank).map_or(0.0, |call| call.as_secs_f64() * 1e6)
        };
        Self { n, ops_per_s: n as f64 / time.as_secs_f64().max(1e-9), p50_us: at(50), p99_us: at(99) }
    }

    /// One operation a call, one after the other.
    pub fn one_by_one(calls: Vec<Duration>) -> Self {
        Self::of(calls.len() as u64, calls.iter().sum(), calls)
    }

    /// The median of each number over rounds; `n` is of all rounds together.
    pub fn median(rounds: &[Self]) -> Self {
        let median = |number: fn(&Self) -> f64| {
            let mut numbers: Vec<f64> = rounds.iter().map(number).collect();
            numbers.sort_unstable_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Self {
            n: rounds.iter().map(|round| round.n).sum(),
            ops_per_s: median(|round| round.ops_per_s),
            p50_us: median(|round| round.p50_us),
            p99_us: median(|round| round.p99_us),
        }
    }
}
