//! `lattice get`, `put`, `delete` and `list`.

use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use bytes::Bytes;
use gateway::json;
use lattice_core::model::{TTL_MAX, VALUE_BYTES_MAX};
use lattice_proto::kv::v1::{DeleteRequest, GetRequest, ListRequest, PutRequest};
use lattice_proto::types::v1::{Entry, entry};
use lattice_runtime::duration;

use super::client::Connection;
use super::output::{Failure, Output, say, time};

/// The most entries that one question asks for.
const PAGE_MAX: u32 = 1_000;
/// The widest key or value shown in a table.
const SHOWN_CHARS_MAX: usize = 60;

/// Prints the bytes of a value, or the whole entry as JSON.
pub(crate) async fn get(node: Connection, out: Output, key: String) -> Result<(), Failure> {
    let request = node.request(GetRequest { key: key.clone().into(), version_min: None });
    let answer = node.key_value().get(request).await.map_err(|status| node.key_failure(&status))?;
    let entry = answer.into_inner().entry.unwrap_or_default();
    if out.is_json() {
        return out.json(&json::Entry::new(entry).ok_or_else(|| node.nonsense("a value with a version"))?);
    }
    out.bytes(value_of(&entry))?;
    if std::io::stdout().is_terminal() { out.line("") } else { Ok(()) }
}

/// Writes a value, from the command line or from standard input.
pub(crate) async fn put(
    node: Connection,
    out: Output,
    key: String,
    value: String,
    ttl: Option<Duration>,
) -> Result<(), Failure> {
    let value = if value == "-" { read_value()? } else { value.into_bytes() };
    let request = node.request(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        ttl_ms: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        condition: None,
    });
    let answer =
        node.key_value().put(request).await.map_err(|status| node.key_failure(&status))?.into_inner();
    let version = json::version(answer.version).ok_or_else(|| node.nonsense("a version"))?;
    match out.is_json() {
        true => out.json(&json::Written::new(key.as_bytes(), &version, answer.expires_ms)),
        false => out.line(&version.to_string()),
    }
}

/// Deletes a key, also when there is nothing.
pub(crate) async fn delete(node: Connection, out: Output, key: String) -> Result<(), Failure> {
    let request = node.request(DeleteRequest { key: key.clone().into(), condition: None });
    let answer = node.key_value().delete(request).await.map_err(|status| node.key_failure(&status))?;
    let version = json::version(answer.into_inner().version).ok_or_else(|| node.nonsense("a version"))?;
    match out.is_json() {
        true => out.json(&json::Deleted::new(key.as_bytes(), &version)),
        false => out.line(&version.to_string()),
    }
}

/// Lists up to `limit` entries from `cursor` on, page by page.
pub(crate) async fn list(
    node: Connection,
    out: Output,
    prefix: String,
    limit: u32,
    cursor: Option<String>,
) -> Result<(), Failure> {
    let mut left = limit;
    let mut cursor = json::cursor(&cursor.unwrap_or_default())
        .ok_or_else(|| Failure::usage("--cursor must be what a list said how to go on with"))?;
    let mut entries = Vec::new();
    while left > 0 {
        let request = node.request(ListRequest {
            prefix: prefix.clone().into(),
            start: Bytes::new(),
            cursor,
            limit: left.min(PAGE_MAX),
        });
        let page =
            node.key_value().list(request).await.map_err(|status| node.key_failure(&status))?.into_inner();
        left = left.saturating_sub(u32::try_from(page.entries.len()).unwrap_or(u32::MAX));
        entries.extend(page.entries);
        cursor = page.next;
        if cursor.is_empty() {
            break;
        }
    }
    if out.is_json() {
        let page = json::Page::new(entries, &cursor);
        return out.json(&page.ok_or_else(|| node.nonsense("values with versions"))?);
    }
    let rows = entries
        .iter()
        .map(|entry| {
            vec![
                shown(&entry.key),
                shown(value_of(entry)),
                entry.expires_ms.map_or_else(|| "-".to_owned(), time),
            ]
        })
        .collect();
    out.table(&["KEY", "VALUE", "EXPIRES"], rows)?;
    if let Some(next) = json::cursor_text(&cursor) {
        say(&format!("({limit} shown, and there are more: --limit, or to go on --cursor {next})"));
    }
    Ok(())
}

/// How long a key may live.
pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration::parse(text).filter(|ttl| !ttl.is_zero() && *ttl <= TTL_MAX);
    let most = duration::print(TTL_MAX);
    ttl.ok_or_else(|| format!("takes a whole number with one unit (ms, s, m, h), like 60s; 1ms to {most}"))
}

/// The value on standard input, one byte more than allowed at most, so that the node refuses it by size.
fn read_value() -> Result<Vec<u8>, Failure> {
    if std::io::stdin().is_terminal() {
        say("The value comes from this terminal (end with Ctrl-D)");
    }
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Failure::refused(format!("read the value from standard input: {error}")))?;
    Ok(value)
}

fn value_of(entry: &Entry) -> &[u8] {
    match &entry.content {
        Some(entry::Content::Value(value)) => value,
        Some(entry::Content::Tombstone(_) | entry::Content::Dropped(_)) | None => &[],
    }
}

/// A key or a value on one line of a table; JSON output has all of it.
pub(super) fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => {
            let escaped = escaped(text);
            match escaped.char_indices().nth(SHOWN_CHARS_MAX) {
                None => escaped,
                Some((end, _)) => format!("{}… ({} bytes)", &escaped[..end], value.len()),
            }
        }
        Err(_) => format!("({} bytes, not text)", value.len()),
    }
}

/// Text on one line. Quotes stand for themselves: what is stored is often JSON.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => escaped.push(c),
            _ => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lives_from_a_millisecond_to_ten_years() {
        assert_eq!(parse_ttl("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_ttl("87600h"), Ok(TTL_MAX));
        for wrong in ["", "5", "0s", "87601h", "1d"] {
            assert!(parse_ttl(wrong).unwrap_err().contains("1ms to 87600h"), "{wrong}");
        }
    }

    #[test]
    fn long_and_binary_values_stay_on_one_line() {
        assert_eq!(shown(b"a\nb"), "a\\nb");
        assert_eq!(shown(br#"{"a": "it's"}"#), r#"{"a": "it's"}"#);
        assert_eq!(shown(&[0xff, 0xfe]), "(2 bytes, not text)");
        assert!(shown("x".repeat(200).as_bytes()).ends_with("… (200 bytes)"));
    }
}
