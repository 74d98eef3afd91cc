//! `lattice watch`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lattice_proto::kv::v1::{WatchRequest, WatchResponse};
use lattice_proto::types::v1::{Entry, entry};
use serde_json::json;
use tonic::{Code, Request, Status};

use super::client::Connection;
use super::kv::{shown, version_text};
use super::output::{Failure, Output, rfc3339};

/// Prints changes as the node commits them, one a line, until it is stopped.
pub(crate) async fn watch(
    node: Connection,
    out: Output,
    prefix: String,
    since: Option<String>,
) -> Result<(), Failure> {
    // A watch lasts: it has no deadline.
    let request = WatchRequest { prefix: prefix.into(), since: since.unwrap_or_default() };
    let answer = node.key_value().watch(Request::new(request)).await;
    let mut changes = answer.map_err(|status| failure(&node, &status))?.into_inner();
    let mut last = String::new();
    loop {
        let message = match changes.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(ended("the node ended the watch", &last)),
            Err(status) => return Err(ended(status.message(), &last)),
        };
        last.clone_from(&message.id);
        if let WatchResponse { id, entry: Some(entry) } = message {
            print(out, &id, &entry)?;
        }
    }
}

fn failure(node: &Connection, status: &Status) -> Failure {
    match status.code() {
        // Not a mistake of who typed it: time has passed.
        Code::OutOfRange => Failure::refused(status.message().to_owned()),
        _ => node.failure(status),
    }
}

fn ended(why: &str, last: &str) -> Failure {
    match last {
        "" => Failure::refused(why.to_owned()),
        last => Failure::refused(format!("{why}; to go on from there: --since {last}")),
    }
}

fn print(out: Output, id: &str, entry: &Entry) -> Result<(), Failure> {
    let (op, value) = match &entry.content {
        Some(entry::Content::Value(value)) => ("put", Some(value)),
        Some(entry::Content::Dropped(_)) => ("expire", None),
        Some(entry::Content::Tombstone(_)) | None => ("delete", None),
    };
    let key = String::from_utf8_lossy(&entry.key);
    if out.is_json() {
        return out.json(&json!({
            "id": id,
            "op": op,
            "key": key,
            "value": value.map(|value| BASE64.encode(value)),
            "version": version_text(entry.version.as_ref()),
            "expires": entry.expires_ms.and_then(rfc3339),
        }));
    }
    let value = value.map(|value| shown(value)).unwrap_or_default();
    out.line(format!("{op} {} {value}", key.escape_debug()).trim_end())
}
