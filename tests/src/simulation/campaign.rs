//! Many random histories, on all cores, and what they came to together.
//!
//! A history is one thread's alone, so seeds are handed out one by one. One that panics is broken like any other:
//! the machines assert what must hold inside of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use lattice_core::pull::Outcome;

use super::invariant::{Checked, Invariant};
use super::liar::Lie;
use super::{Broken, Report, Scenario};

/// What is run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The seeds, in the order in which they begin.
    pub seeds: Vec<u64>,
    /// How many at once.
    pub threads: usize,
    /// Nothing more begins once something is broken.
    pub until_broken: bool,
}

/// A history in which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What did not hold.
    pub invariant: Invariant,
    /// All that is known of it.
    pub report: String,
}

/// What all histories came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many were run to their end, or until something broke.
    pub seeds: u64,
    /// How much time passed in those that held.
    pub simulated: Duration,
    /// How many events happened.
    pub events: u64,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How many pulls ended how.
    pub pulls: BTreeMap<Outcome, u64>,
    /// How often what went wrong.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often which lies were told.
    pub lies: BTreeMap<Lie, u64>,
    /// How often each invariant was looked at.
    pub checked: Checked,
    /// How long each took from the end of its faults until all had converged, ascending at the end.
    pub converged_after: Vec<Duration>,
    /// What is broken.
    pub failures: Vec<Failure>,
}

impl Campaign {
    /// Runs it. `told` hears the totals after each history.
    pub fn run(&self, mut told: impl FnMut(&Totals)) -> Totals {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let (ended, heard) = mpsc::channel();
        let mut totals = Totals::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                let (ended, next, stop) = (ended.clone(), &next, &stop);
                scope.spawn(move || {
                    while let Some(&seed) = self.seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = history(seed);
                        if result.is_err() && self.until_broken {
                            stop.store(true, Ordering::Relaxed);
                        }
                        // Nobody hears of it: the campaign is over.
                        if ended.send(result).is_err() || stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            drop(ended);
            for result in heard {
                totals.add(result);
                told(&totals);
            }
        });
        totals.converged_after.sort_unstable();
        totals.failures.sort_by_key(|failure| failure.seed);
        totals
    }
}

/// Runs the random history of one seed.
///
/// # Errors
/// What did not hold.
#[allow(clippy::result_large_err, reason = "a failure is told once")]
pub fn history(seed: u64) -> Result<Report, Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| Scenario::of(seed).run(seed)));
    match ran {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(broken)) => Err(Failure::from(broken)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(Failure { seed, invariant: Invariant::NoPanic, report: said.to_owned() })
        }
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        // A random history expects nothing else.
        let invariant = broken.invariant.unwrap_or(Invariant::OneRootInTheEnd);
        Self { seed: broken.seed, invariant, report: broken.to_string() }
    }
}

impl Totals {
    /// How many histories broke an invariant.
    pub fn broken(&self, invariant: Invariant) -> usize {
        self.failures.iter().filter(|failure| failure.invariant == invariant).count()
    }

    fn add(&mut self, result: Result<Report, Failure>) {
        self.seeds += 1;
        let report = match result {
            Ok(report) => report,
            Err(failure) => {
                self.checked.count(failure.invariant, 1);
                self.failures.push(failure);
                return;
            }
        };
        self.simulated += report.simulated;
        self.events += report.events;
        self.acknowledged += report.acknowledged;
        self.converged_after.push(report.converged_after);
        for (kind, times) in report.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        for (lie, times) in report.lies {
            *self.lies.entry(lie).or_default() += times;
        }
        for ended in &report.tally.ended {
            *self.pulls.entry(ended.pull.outcome).or_default() += 1;
        }
        self.checked.add(&report.tally.checked);
        // Every event goes through machines that assert what must hold inside of them.
        self.checked.count(Invariant::NoPanic, report.events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once_on_however_many_threads() {
        let campaign = Campaign { seeds: vec![1, 2, 3], threads: 2, until_broken: false };
        let mut told = 0;
        let totals = campaign.run(|_| told += 1);
        assert_eq!((totals.seeds, told), (3, 3));
        assert_eq!(totals.converged_after.len() + totals.failures.len(), 3);
        assert!(totals.simulated > Duration::from_secs(600) || !totals.failures.is_empty());
    }
}
