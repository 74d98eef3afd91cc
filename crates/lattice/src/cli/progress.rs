//! How far a long command is: one line on a terminal that is written over; nothing elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often it is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
const CELLS: usize = 24;

/// The line.
pub(super) struct Progress {
    terminal: bool,
    last: Option<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { terminal: io::stderr().is_terminal(), last: None }
    }
}

impl Progress {
    /// Shows that `done` of `total` is done, where the total is known, and `text`.
    pub(super) fn show(&mut self, done: u64, total: Option<u64>, text: impl FnOnce() -> String) {
        if self.terminal && self.last.is_none_or(|last| last.elapsed() >= SHOW_EVERY) {
            self.last = Some(Instant::now());
            // Standard error may be closed: the work goes on.
            let _ = write!(io::stderr(), "\r{}{}\x1b[K", bar(done, total), text());
        }
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.last.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// A bar, and how much of a hundred is done; empty where nobody knows the whole.
fn bar(done: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|total| *total > 0) else { return String::new() };
    let share = (done as f64 / total as f64).clamp(0.0, 1.0);
    let full = (share * CELLS as f64) as usize;
    format!("[{}{}] {:3.0} %  ", "#".repeat(full), "-".repeat(CELLS - full), (share * 100.0).floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_nothing_to_all_and_no_further() {
        for (done, total, expected) in [
            (0, Some(10), "[------------------------]   0 %  "),
            (5, Some(10), "[############------------]  50 %  "),
            (999, Some(1_000), "[#######################-]  99 %  "),
            (10, Some(10), "[########################] 100 %  "),
            (20, Some(10), "[########################] 100 %  "),
            (20, Some(0), ""),
            (20, None, ""),
        ] {
            assert_eq!(bar(done, total), expected, "{done} of {total:?}");
        }
    }
}
