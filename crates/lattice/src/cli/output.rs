//! How answers are shown, and how a command ends.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use gateway::problem::Kind;
use http::StatusCode;
use serde::Serialize;

/// Tables for people, or JSON for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// One JSON document; one a line where there are many.
    Json,
}

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    cause: Cause,
    message: String,
    /// What programs may want to know besides, by its name.
    members: Vec<(&'static str, String)>,
    /// Exit status 3 whatever the cause.
    refused: bool,
    /// The answer was printed, and says it.
    told: bool,
}

#[derive(Debug, Clone, Copy)]
enum Cause {
    /// The node refused it.
    Node(Kind),
    /// It was found, and is not as it should be.
    Untrue,
    /// It was not asked as it should be.
    Usage,
    /// Anything else.
    Failed,
    /// Who read the answer has seen enough of it: no failure, as `lattice list | head` is none.
    Unread,
}

impl Failure {
    /// Not true, or not well: exit status 1.
    pub(crate) fn untrue(message: impl Into<String>) -> Self {
        Self::new(Cause::Untrue, message)
    }

    /// Wrong usage: exit status 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Cause::Usage, message)
    }

    /// Refused or failed: exit status 3.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Cause::Failed, message)
    }

    /// As the node refused it: exit status 1 for what is not there, 2 for what was not asked as it should be, else 3.
    pub(crate) fn of_node(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Cause::Node(kind), message)
    }

    /// The same, with something that programs may want to know.
    #[must_use]
    pub(crate) fn with(mut self, member: &'static str, value: impl Into<String>) -> Self {
        self.members.push((member, value.into()));
        self
    }

    /// The same, and it was no mistake of who typed it: exit status 3.
    #[must_use]
    pub(crate) fn refused_anyway(mut self) -> Self {
        self.refused = true;
        self
    }

    /// The same, after an answer that says it: programs get no problem document besides.
    #[must_use]
    pub(crate) fn told(mut self) -> Self {
        self.told = true;
        self
    }

    /// The same, and more for people.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.message.push_str(more);
        self
    }

    fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), members: Vec::new(), refused: false, told: false }
    }

    fn exit_status(&self) -> u8 {
        match self.cause {
            _ if self.refused => 3,
            Cause::Unread => 0,
            Cause::Untrue => 1,
            Cause::Usage => 2,
            Cause::Failed => 3,
            Cause::Node(kind) => match kind.status() {
                StatusCode::NOT_FOUND => 1,
                StatusCode::BAD_REQUEST => 2,
                _ => 3,
            },
        }
    }

    /// As programs read it, on standard output: in the form of the gateway's refusals, and of the same type where the node refused.
    pub(crate) fn problem(&self) -> serde_json::Value {
        let (kind, title) = match self.cause {
            Cause::Node(kind) => (kind.uri(), kind.title()),
            Cause::Untrue => ("/problems/untrue", "Not true"),
            Cause::Usage => ("/problems/usage", "Wrong usage"),
            Cause::Failed | Cause::Unread => ("/problems/failed", "Refused or failed"),
        };
        let mut problem = serde_json::json!({
            "type": kind, "title": title, "detail": self.message, "exit_status": self.exit_status(),
        });
        for (member, value) in &self.members {
            problem[*member] = value.as_str().into();
        }
        problem
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::BrokenPipe => Cause::Unread,
            _ => Cause::Failed,
        };
        Self::new(cause, format!("write the answer: {error}"))
    }
}

impl Output {
    /// To standard output, in `format`.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One JSON document on one line.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn json(self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(document);
        self.line(&text.map_err(|error| Failure::refused(format!("write the answer: {error}")))?)
    }

    /// One line.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// When standard output does not take them.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Aligned columns under a header.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn table(self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header);
        table.add_rows(rows);
        for line in table.to_string().lines() {
            self.line(line.trim())?;
        }
        Ok(())
    }
}

/// One line for people, besides the answer. Standard error may be closed: the work goes on.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Turns the end of a command into an exit status, and its failure into one line on standard error; for programs,
/// into a problem document on standard output besides.
pub(crate) fn finish(result: Result<(), Failure>, out: Output) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { cause: Cause::Unread, .. }) => ExitCode::SUCCESS,
        Err(failure) => {
            if out.is_json() && !failure.told {
                // Standard output may be what failed.
                let _ = out.json(&failure.problem());
            }
            say(&format!("lattice: {failure}"));
            ExitCode::from(failure.exit_status())
        }
    }
}

/// Unix milliseconds as RFC 3339, UTC; `-` for never.
pub(super) fn time(millis: u64) -> String {
    rfc3339(millis).unwrap_or_else(|| "-".to_owned())
}

/// Unix milliseconds as RFC 3339, UTC; `None` for never.
pub(super) fn rfc3339(millis: u64) -> Option<String> {
    (millis > 0).then(|| gateway::json::time(millis))
}

/// So many of something: `1 entry`, `2 entries`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A byte count for people: `1.1 KiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1126), "1.1 KiB");
        assert_eq!(size(5 << 20), "5.0 MiB");
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(0), "-");
        assert_eq!(rfc3339(0), None);
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(0, "entry", "entries"), "0 entries");
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
        for (kind, status) in [(io::ErrorKind::BrokenPipe, 0), (io::ErrorKind::StorageFull, 3)] {
            assert_eq!(Failure::from(io::Error::from(kind)).exit_status(), status, "{kind}");
        }
    }

    #[test]
    fn the_exit_status_follows_from_what_the_node_said() {
        for (failure, status, kind) in [
            (Failure::of_node(Kind::KeyNotFound, "no"), 1, "/problems/key-not-found"),
            (Failure::of_node(Kind::KeyInvalid, "no"), 2, "/problems/key-invalid"),
            (Failure::of_node(Kind::Unauthorized, "no"), 3, "/problems/unauthorized"),
            (Failure::of_node(Kind::Gone, "no").with("since", "7"), 3, "/problems/gone"),
            (Failure::untrue("no"), 1, "/problems/untrue"),
            (Failure::usage("no"), 2, "/problems/usage"),
            (Failure::refused("no"), 3, "/problems/failed"),
        ] {
            let problem = failure.problem();
            assert_eq!((&problem["type"], &problem["exit_status"]), (&kind.into(), &status.into()));
            assert_eq!(problem.get("since").is_some(), kind == "/problems/gone");
        }
    }
}
