//! `lattice watch`.

use gateway::json;
use lattice_proto::kv::v1::{WatchRequest, WatchResponse};
use lattice_proto::metadata;
use lattice_proto::types::v1::{Entry, entry};
use serde::Serialize;
use tonic::{Request, Status};

use super::client::Connection;
use super::kv::shown;
use super::output::{Failure, Output, say};

/// A change, and the id to go on after it.
#[derive(Serialize)]
struct Change<'a> {
    id: &'a str,
    #[serde(flatten)]
    change: json::Change,
}

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
    let mut changes = answer.map_err(|status| refusal(&node, &status))?.into_inner();
    say(&format!("Following the changes of {} (end with Ctrl-C)", node.url()));
    let mut last = String::new();
    loop {
        let message = match changes.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(ended(&node, &Status::unavailable("the node ended the watch"), last)),
            Err(status) => return Err(ended(&node, &status, last)),
        };
        last.clone_from(&message.id);
        if let WatchResponse { id, entry: Some(entry) } = message {
            print(out, &id, entry)?;
        }
    }
}

/// Why there is no watch; of one that would begin too early, programs are told where it can begin.
fn refusal(node: &Connection, status: &Status) -> Failure {
    let failure = node.key_failure(status);
    match since(status) {
        Some(since) => failure.with("since", since),
        None => failure,
    }
}

/// What it means that a watch ended after the change `last`. One that fell behind cannot go on from there, and is told
/// where it can begin anew.
fn ended(node: &Connection, status: &Status, last: String) -> Failure {
    let failure = node.ended("changes", status);
    match (since(status), last.as_str()) {
        (Some(since), _) => failure.with("since", since),
        (None, "") => failure,
        (None, _) => failure.and(&format!("; to go on from there: --since {last}")).with("since", last),
    }
}

fn since(status: &Status) -> Option<&str> {
    status.metadata().get(metadata::WATCH_SINCE).and_then(|since| since.to_str().ok())
}

fn print(out: Output, id: &str, entry: Entry) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Change { id, change: entry.into() });
    }
    let key = String::from_utf8_lossy(&entry.key).escape_debug().to_string();
    match &entry.content {
        Some(entry::Content::Value(value)) => out.line(format!("put {key} {}", shown(value)).trim_end()),
        Some(entry::Content::Dropped(_)) => out.line(&format!("expire {key}")),
        Some(entry::Content::Tombstone(_)) | None => out.line(&format!("delete {key}")),
    }
}
