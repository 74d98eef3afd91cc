//! What happened, as one number and, when something broke, as lines.
//!
//! The same seed makes the same trace, to the byte of every message: a test compares the numbers of two runs.
//! The last lines are kept as they come, and rendered only when somebody wants them.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

/// Lines kept for the report of a failure.
const LINES_MAX: usize = 60;

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    hasher: DefaultHasher,
    lines: VecDeque<String>,
    aloud: bool,
}

impl Trace {
    /// Nothing happened yet; `aloud` prints every line as it comes.
    pub fn new(aloud: bool) -> Self {
        // This hasher has fixed keys, unlike that of maps.
        Self { hasher: DefaultHasher::new(), lines: VecDeque::new(), aloud }
    }

    /// Takes in that something happened to a node, with what tells it from other things.
    pub fn step(&mut self, now: Duration, node: usize, kind: u8, what: &[u8]) {
        self.hasher.write_u128(now.as_nanos());
        self.hasher.write_usize(node);
        self.hasher.write_u8(kind);
        self.hasher.write(what);
    }

    /// Takes in something worth a line.
    pub fn line(&mut self, now: Duration, line: impl fmt::Display) {
        let line = format!("{:>12.6} {line}", now.as_secs_f64());
        self.hasher.write(line.as_bytes());
        if self.aloud {
            println!("{line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The number: equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
