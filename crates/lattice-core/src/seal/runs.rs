//! The runs of one node: what it sealed lately, parsed or built up.
//!
//! A node keeps as many of its own as it publishes, so that both sides of a comparison reach back as far.

use super::{RUNS_MAX, Root, Run};
use crate::model::Epoch;

/// A node's recent seals: at most [`RUNS_MAX`] runs, ascending, none over another. Epochs that were never
/// sealed (a clock that stepped) are gaps between them; runs that follow each other with one root are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

/// Why runs are not what one node can have sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuns {
    /// More than [`RUNS_MAX`].
    #[error("runs has {count} items: it takes at most 64")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A run that ends before it begins.
    #[error("runs[{index}].to lies before its from")]
    Backwards {
        /// Which run.
        index: usize,
    },
    /// A run that begins before the one before it has ended: two roots for one epoch, or no order.
    #[error("runs[{index}].from does not lie after the run before it")]
    NotAscending {
        /// Which run.
        index: usize,
    },
    /// A root over nothing: an empty tree has none.
    #[error("runs[{index}].root holds nothing: an empty tree has no root")]
    EmptyRoot {
        /// Which run.
        index: usize,
    },
}

/// An epoch that is sealed already, or lies before one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {epoch} does not lie after the newest sealed one, {newest}")]
pub struct NotNewer {
    /// The epoch given.
    pub epoch: Epoch,
    /// The newest one here.
    pub newest: Epoch,
}

impl Runs {
    /// Parses what a node sent. Runs that follow each other with equal roots are folded: nothing in them
    /// contradicts anything.
    ///
    /// # Errors
    /// [`InvalidRuns`], which names the run and the field.
    pub fn parse(runs: Vec<Run>) -> Result<Self, InvalidRuns> {
        if runs.len() > RUNS_MAX {
            return Err(InvalidRuns::TooMany { count: runs.len() });
        }
        let mut parsed = Self(Vec::with_capacity(runs.len()));
        for (index, run) in runs.into_iter().enumerate() {
            if run.to < run.from {
                return Err(InvalidRuns::Backwards { index });
            }
            if parsed.newest_epoch().is_some_and(|newest| run.from <= newest) {
                return Err(InvalidRuns::NotAscending { index });
            }
            if run.root.is_some_and(|root| root.total() == 0) {
                return Err(InvalidRuns::EmptyRoot { index });
            }
            parsed.append(run);
        }
        Ok(parsed)
    }

    /// Adds the seal of `epoch`. Beyond [`RUNS_MAX`] runs the oldest is forgotten.
    ///
    /// # Errors
    /// [`NotNewer`], and nothing is changed, unless the epoch lies after the newest one: an epoch has one root.
    pub fn push(&mut self, epoch: Epoch, root: Option<Root>) -> Result<(), NotNewer> {
        debug_assert!(root.is_none_or(|root| root.total() > 0), "an empty tree has no root");
        match self.newest_epoch() {
            Some(newest) if epoch <= newest => Err(NotNewer { epoch, newest }),
            _ => {
                self.append(Run { from: epoch, to: epoch, root });
                Ok(())
            }
        }
    }

    /// States that the newest root stood up to `epoch` without a gap: idle time. Nothing happens without a
    /// run, or when the newest one reaches as far already.
    pub fn extend(&mut self, epoch: Epoch) {
        if let Some(newest) = self.0.last_mut() {
            newest.to = newest.to.max(epoch);
        }
    }

    /// All of them, in ascending order.
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// The newest run.
    pub fn newest(&self) -> Option<&Run> {
        self.0.last()
    }

    /// The newest epoch.
    pub fn newest_epoch(&self) -> Option<Epoch> {
        self.newest().map(|run| run.to)
    }

    /// What was sealed at `epoch`: `None` when nothing is known of it, `Some(None)` when the tree was empty.
    pub fn at(&self, epoch: Epoch) -> Option<Option<&Root>> {
        let after = self.0.partition_point(|run| run.from <= epoch);
        let run = self.0[..after].last()?;
        (epoch <= run.to).then_some(run.root.as_ref())
    }

    /// Adds a run that lies after all others.
    fn append(&mut self, run: Run) {
        match self.0.last_mut() {
            Some(newest) if newest.to.next() == run.from && newest.root == run.root => newest.to = run.to,
            _ => {
                if self.0.len() == RUNS_MAX {
                    self.0.remove(0);
                }
                self.0.push(run);
            }
        }
    }
}

impl TryFrom<Vec<Run>> for Runs {
    type Error = InvalidRuns;

    fn try_from(runs: Vec<Run>) -> Result<Self, InvalidRuns> {
        Self::parse(runs)
    }
}

impl From<Runs> for Vec<Run> {
    fn from(runs: Runs) -> Self {
        runs.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{parsed, root, runs};
    use super::*;
    use crate::model::Digest;

    #[test]
    fn runs_ascend_without_overlap() {
        assert_eq!(Runs::parse(Vec::new()), Ok(Runs::default()));
        assert_eq!(parsed(&[(1, 3, 1), (4, 4, 2), (9, 9, 2)]).as_slice().len(), 3);
        for (given, error) in [
            (vec![(1, 1, 1), (3, 2, 1)], InvalidRuns::Backwards { index: 1 }),
            (vec![(1, 3, 1), (3, 4, 2)], InvalidRuns::NotAscending { index: 1 }),
            (vec![(5, 6, 1), (1, 2, 2)], InvalidRuns::NotAscending { index: 1 }),
            (vec![(1, 1, 1), (1, 1, 1)], InvalidRuns::NotAscending { index: 1 }),
        ] {
            assert_eq!(Runs::parse(runs(&given)), Err(error));
        }
        let mut hollow = runs(&[(1, 1, 1), (2, 2, 2)]);
        hollow[1].root = Some(Root { digest: Digest([2; 32]), entries: 0, tombstones: 0 });
        assert_eq!(Runs::parse(hollow), Err(InvalidRuns::EmptyRoot { index: 1 }));
        let many: Vec<(u64, u64, u8)> = (0..65).map(|epoch| (epoch, epoch, 1)).collect();
        assert_eq!(Runs::parse(runs(&many)), Err(InvalidRuns::TooMany { count: 65 }));
    }

    #[test]
    fn neighbours_with_one_root_are_folded_and_gaps_stay() {
        let folded = parsed(&[(1, 2, 1), (3, 3, 1), (5, 5, 1)]);
        assert_eq!(folded.as_slice(), runs(&[(1, 3, 1), (5, 5, 1)]));
        assert_eq!(folded.at(Epoch(0)), None);
        assert_eq!(folded.at(Epoch(3)), Some(root(1).as_ref()));
        assert_eq!(folded.at(Epoch(4)), None);
        assert_eq!(folded.at(Epoch(6)), None);
        assert_eq!(parsed(&[(1, 2, 0)]).at(Epoch(2)), Some(None));
    }

    #[test]
    fn pushing_extends_or_appends_and_forgets_the_oldest() {
        let mut runs = Runs::default();
        for epoch in 0..200 {
            // Each root stands for two epochs.
            runs.push(Epoch(epoch), root((epoch / 2 + 1) as u8)).unwrap();
        }
        assert_eq!(runs.as_slice().len(), RUNS_MAX);
        assert_eq!(runs.newest_epoch(), Some(Epoch(199)));
        assert_eq!(runs.at(Epoch(72)), Some(root(37).as_ref()));
        assert_eq!(runs.at(Epoch(71)), None);
        let before = runs.clone();
        for epoch in [0, 199] {
            let refused = NotNewer { epoch: Epoch(epoch), newest: Epoch(199) };
            assert_eq!(runs.push(Epoch(epoch), root(100)), Err(refused));
        }
        assert_eq!(runs, before);
        assert_eq!(Runs::parse(runs.clone().into()), Ok(runs));
    }

    #[test]
    fn idle_time_extends_the_newest_run() {
        let mut idle = Runs::default();
        idle.extend(Epoch(9));
        assert_eq!(idle, Runs::default());
        idle.push(Epoch(3), root(1)).unwrap();
        idle.extend(Epoch(9));
        idle.extend(Epoch(4));
        assert_eq!(idle.as_slice(), runs(&[(3, 9, 1)]));
    }
}
