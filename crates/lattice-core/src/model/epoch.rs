//! Epochs: equal slices of hybrid-clock time, the unit of sealing.

use std::fmt;
use std::num::NonZeroU32;

use crate::time::WallTime;

/// The number of an epoch: epoch *e* covers Unix milliseconds `[e·length, (e+1)·length)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before; epoch 0 has none and stays.
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How long an epoch is, in milliseconds; equal on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochLength(pub NonZeroU32);

impl EpochLength {
    /// In milliseconds.
    pub fn millis(self) -> u64 {
        u64::from(self.0.get())
    }

    /// The epoch that holds `at`.
    pub fn epoch_of(self, at: WallTime) -> Epoch {
        Epoch(at.millis() / self.millis())
    }

    /// The first instant after `epoch`.
    pub fn end_of(self, epoch: Epoch) -> WallTime {
        WallTime(epoch.0.saturating_add(1).saturating_mul(self.millis()))
    }
}
