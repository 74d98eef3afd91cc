//! How an event becomes a line.

use std::fmt::{self, Write};

use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::TARGET;
use crate::config::LogFormat;

/// Formats events as lines, as `telemetry.log_format` says.
pub(crate) struct Format {
    shape: LogFormat,
    /// The process's service, for events of this crate and of libraries.
    service: &'static str,
    wall_ms: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Format {
    pub(crate) fn new(
        shape: LogFormat,
        service: &'static str,
        wall_ms: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { shape, service, wall_ms: Box::new(wall_ms) }
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let wall_ms = (self.wall_ms)();
        let line = match self.shape {
            LogFormat::Text => self.text(wall_ms, event, fields)?,
            LogFormat::Json => self.json(wall_ms, event, fields),
        };
        writeln!(writer, "{line}")
    }
}

impl Format {
    /// `[14:02:10] [HTTP_SYNC] [DIVERGENCE] Detected from ..` for an operator event, else
    /// `[14:02:10] [STATE_STORE] [WARN] message key=value`, the level left out where it is `INFO`.
    fn text(&self, wall_ms: u64, event: &Event<'_>, fields: Fields) -> Result<String, fmt::Error> {
        let metadata = event.metadata();
        let day_s = wall_ms / 1000 % 86_400;
        let mut line = format!("[{:02}:{:02}:{:02}] ", day_s / 3600, day_s / 60 % 60, day_s % 60);
        if metadata.target() == TARGET {
            for name in ["component", "tag"] {
                if let Some(value) = fields.get(name) {
                    write!(line, "[{}] ", plain(value))?;
                }
            }
            line.push_str(&fields.message);
        } else {
            write!(line, "[{}] ", self.component(metadata.target()))?;
            if *metadata.level() != Level::INFO {
                write!(line, "[{}] ", metadata.level())?;
            }
            line.push_str(&fields.message);
            for (name, value) in &fields.values {
                write!(line, " {name}={}", quoted(&plain(value)))?;
            }
        }
        Ok(one_line(&line))
    }

    fn json(&self, wall_ms: u64, event: &Event<'_>, fields: Fields) -> String {
        let metadata = event.metadata();
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| {
            // A field called as one of ours is kept, under another name.
            let name = if object.contains_key(name) { format!("{name}_") } else { name.to_owned() };
            object.insert(name, value);
        };
        put("time", rfc3339(wall_ms).into());
        put("level", metadata.level().as_str().into());
        put("service", self.service.into());
        put("target", metadata.target().into());
        put("message", fields.message.into());
        let context = opentelemetry::Context::current();
        let span_context = context.span().span_context().clone();
        if span_context.is_valid() {
            put("trace_id", span_context.trace_id().to_string().into());
            put("span_id", span_context.span_id().to_string().into());
        }
        for (name, value) in fields.values {
            put(name, value);
        }
        Value::Object(object).to_string()
    }

    /// `STATE_STORE` for `state_store::writer`; events of this crate belong to the process's service.
    fn component(&self, target: &str) -> String {
        let krate = match target.split("::").next() {
            None | Some("" | "lattice_runtime") => self.service,
            Some(name) => name,
        };
        krate.to_uppercase().replace('-', "_")
    }
}

/// Milliseconds since 1970 as `2026-11-22T14:02:10.123Z`.
fn rfc3339(wall_ms: u64) -> String {
    let timestamp = i64::try_from(wall_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", timestamp.unwrap_or(jiff::Timestamp::MAX))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// In quotes where it would otherwise not be told where a value ends.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=')
    {
        return format!("{text:?}");
    }
    text.to_owned()
}

/// Nothing that a peer or client sends can begin a line of its own or steer a terminal.
fn one_line(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, Value)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = plain(&value);
        } else {
            self.values.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::log::operator;

    /// 2026-11-22 14:02:10.123 UTC.
    const WALL_MS: u64 = 1_795_356_130_123;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(shape: LogFormat, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(Format::new(shape, "state-store", || WALL_MS))
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn operator_events_read_as_operators_know_them() {
        let (url, count) = ("http://node-2:8080", 1);
        let text = lines_of(LogFormat::Text, || {
            crate::operator!("P2P_SENSOR", { peers = 5 }, "Peer count: {}", 5);
            operator("HTTP_SYNC", Some("LUNG"), "Activating HTTP fallback");
            crate::operator!(
                "HTTP_SYNC", "DIVERGENCE", { peer = %url, count }, "Detected from {url} (count: {count})"
            );
            operator("P2P_SENSOR", None, "Unavailable: connection refused");
        });
        let expected = "[14:02:10] [P2P_SENSOR] Peer count: 5\n\
            [14:02:10] [HTTP_SYNC] [LUNG] Activating HTTP fallback\n\
            [14:02:10] [HTTP_SYNC] [DIVERGENCE] Detected from http://node-2:8080 (count: 1)\n\
            [14:02:10] [P2P_SENSOR] Unavailable: connection refused\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn other_events_have_the_same_shape_with_level_and_fields() {
        let text = lines_of(LogFormat::Text, || {
            tracing::info!(entries = 12, path = "http", "pull finished");
            tracing::warn!(target: "p2p_sensor::swarm", error = "no route to host", "dial failed");
            tracing::debug!(target: "gateway", empty = "", root = ?Some(1), "done");
        });
        let expected = "[14:02:10] [STATE_STORE] pull finished entries=12 path=http\n\
            [14:02:10] [P2P_SENSOR] [WARN] dial failed error=\"no route to host\"\n\
            [14:02:10] [GATEWAY] [DEBUG] done empty=\"\" root=Some(1)\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_event_is_one_line_whatever_a_peer_sends() {
        let text = lines_of(LogFormat::Text, || {
            operator("HTTP_SYNC", None, "from a\n[00:00:00] [FAKE] line\u{1b}[2J");
            tracing::info!(key = "a\nb", "got");
        });
        let expected = "[14:02:10] [HTTP_SYNC] from a\\n[00:00:00] [FAKE] line\\u{1b}[2J\n\
            [14:02:10] [STATE_STORE] got key=\"a\\nb\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_structured_fields() {
        let text = lines_of(LogFormat::Json, || {
            crate::operator!("HTTP_SYNC", "DIVERGENCE", { peer = "node-2", count = 1 }, "Detected");
            tracing::error!(level = 3, ok = false, "line\nbreak");
        });
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = [
            serde_json::json!({
                "time": "2026-11-22T14:02:10.123Z", "level": "INFO", "service": "state-store",
                "target": "lattice::operator", "message": "Detected", "component": "HTTP_SYNC",
                "tag": "DIVERGENCE", "peer": "node-2", "count": 1,
            }),
            serde_json::json!({
                "time": "2026-11-22T14:02:10.123Z", "level": "ERROR", "service": "state-store",
                "target": "lattice_runtime::log::format::tests", "message": "line\nbreak", "level_": 3,
                "ok": false,
            }),
        ];
        assert_eq!(lines, expected);
    }
}
