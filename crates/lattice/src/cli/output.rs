//! How answers are shown, and how a command ends.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use comfy_table::{Table, presets};

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
    message: String,
    status: u8,
}

impl Failure {
    /// Not found, or not true: exit status 1.
    pub(crate) fn not_found(message: &str) -> Self {
        Self { message: message.to_owned(), status: 1 }
    }

    /// Wrong usage: exit status 2.
    pub(crate) fn usage(message: String) -> Self {
        Self { message, status: 2 }
    }

    /// Refused or failed: exit status 3.
    pub(crate) fn refused(message: String) -> Self {
        Self { message, status: 3 }
    }

    /// As programs read it, in the form of the gateway's refusals.
    fn problem(&self) -> serde_json::Value {
        let (kind, title) = match self.status {
            1 => ("/problems/not-found", "Not found"),
            2 => ("/problems/usage", "Wrong usage"),
            _ => ("/problems/refused", "Refused or failed"),
        };
        serde_json::json!({ "type": kind, "title": title, "detail": self.message, "exit_status": self.status })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::refused(format!("write the answer: {error}"))
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
    pub(crate) fn json(self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(&value.to_string())
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

/// Turns the end of a command into an exit status, and its failure into one line on standard error; for programs,
/// into a problem document on standard output besides.
pub(crate) fn finish(result: Result<(), Failure>, out: Output) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if out.is_json() {
                // Standard output may be what failed.
                let _ = out.json(&failure.problem());
            }
            // Standard error may be closed; the exit status tells it all the same.
            let _ = writeln!(io::stderr(), "lattice: {failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// Unix milliseconds as RFC 3339, UTC; `-` for never.
pub(super) fn time(millis: u64) -> String {
    rfc3339(millis).unwrap_or_else(|| "-".to_owned())
}

/// Unix milliseconds as RFC 3339, UTC; `None` for never, or past the end of the calendar.
pub(super) fn rfc3339(millis: u64) -> Option<String> {
    let at = i64::try_from(millis).ok().filter(|at| *at > 0)?;
    let at = jiff::Timestamp::from_millisecond(at).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
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
        assert_eq!(rfc3339(u64::MAX), None);
    }
}
