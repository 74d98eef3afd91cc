//! Prints the story: what is about to happen, what was seen, and what the nodes themselves say.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

use lattice_proto::coordinator::v1::Event;

use crate::cli::cluster::event_line;

/// Writes to standard output; with colour on a terminal only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrator {
    started: Instant,
    colour: bool,
}

impl Narrator {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), colour: stdout().is_terminal() }
    }

    /// The next step of the story.
    pub(super) fn step(&self, number: usize, title: &str) {
        self.line(&format!("\n{}", self.styled("1", &format!("{number:>2}. {title}"))));
    }

    /// Something that was observed.
    pub(super) fn seen(&self, what: &str) {
        let mark = self.styled("32", "✔");
        self.line(&format!(
            "    {mark} {what} {}",
            self.styled("2", &format!("(+{})", seconds(self.started.elapsed())))
        ));
    }

    /// What a node says of itself, as it says it.
    pub(super) fn event(&self, name: &str, event: &Event) {
        self.line(&self.styled("2", &format!("      {name} | {}", event_line(event))));
    }

    /// What was not seen.
    pub(super) fn failed(&self, what: &str) {
        self.line(&format!("    {} not seen: {what}", self.styled("31", "✘")));
    }

    /// Anything else.
    pub(super) fn say(&self, text: &str) {
        self.line(&format!("\n{text}"));
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A story whose reader has gone goes on: with `--exit` it is a check.
    fn line(&self, text: &str) {
        let _ = writeln!(stdout().lock(), "{text}");
    }
}

/// A duration for people: `3.2 s`.
fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}
