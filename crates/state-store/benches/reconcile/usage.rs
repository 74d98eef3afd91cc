//! What the one who pulls takes: CPU time of this thread, and memory that is neither its store nor its peer.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::HEAP;

/// The CPU time that this thread has used.
pub(crate) fn cpu() -> Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Ok(Duration::from_nanos(nanos.with_context(|| format!("{path} has no time"))?))
}

/// Heap memory from now on, without what others allocate meanwhile.
pub(crate) struct Memory {
    /// What is allocated, and is not ours.
    others: usize,
    peak: usize,
}

impl Memory {
    pub(crate) fn new() -> Self {
        HEAP.reset_peak_usage();
        Self { others: HEAP.current_usage(), peak: 0 }
    }

    /// Does what is not ours: what it leaves allocated, or frees, does not count.
    pub(crate) fn except<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.look();
        let before = HEAP.current_usage();
        let done = work();
        self.others = (self.others + HEAP.current_usage()).saturating_sub(before);
        HEAP.reset_peak_usage();
        done
    }

    /// The most that was ours at any time.
    pub(crate) fn peak(&mut self) -> u64 {
        self.look();
        self.peak as u64
    }

    fn look(&mut self) {
        self.peak = self.peak.max(HEAP.peak_usage().saturating_sub(self.others));
    }
}
