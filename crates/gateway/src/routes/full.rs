//! The whole sealed state as one JSON document, streamed: neither side holds more than a piece of it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, stream};
use http::header;
use lattice_proto::store::v1 as wire;
use lattice_proto::types::v1::{Entry, Seal, entry};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};

use crate::app::App;
use crate::json;
use crate::key;
use crate::problem::{Problem, Sibling};
use crate::query::Query;

/// All keys and values as of the newest seal.
#[utoipa::path(
    get,
    path = "/api/lattice/state/full",
    tag = "node",
    responses((status = 200, description = "The document, streamed", body = json::Full)),
)]
pub(super) async fn full(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::parse(request.uri(), &[])?;
    let place = app.admit_stream()?;
    let failed = |status: Status| Sibling::Store.problem(&status);
    let question = wire::SealedEntriesRequest {};
    let mut pieces = app.store_streams().sealed_entries(question).await.map_err(failed)?.into_inner();
    // The first piece before the head of the answer: until then an error can still be told as one.
    let first = pieces.message().await.map_err(failed)?.unwrap_or_default();
    let document = Document { app, pieces, next: Some(first), begun: false, any: false, _place: place };
    let body = Body::from_stream(document.into_stream());
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A document being written.
struct Document {
    app: Arc<App>,
    pieces: Streaming<wire::SealedEntriesResponse>,
    /// The piece that is written next; empty after the last.
    next: Option<wire::SealedEntriesResponse>,
    begun: bool,
    /// An entry was written, so that the next one needs a comma.
    any: bool,
    _place: OwnedSemaphorePermit,
}

impl Document {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> {
        // An error cuts the answer short, so that no client takes a part for the whole.
        stream::try_unfold(Some(self), |document| async {
            let Some(mut document) = document else { return Ok(None) };
            let Some(piece) = document.next.take() else {
                return Ok(Some((Bytes::from_static(b"}}"), None)));
            };
            let text = document.write(piece);
            document.next = tokio::select! {
                piece = document.pieces.message() => piece?,
                () = document.app.stopping.cancelled() => return Err(Status::unavailable("the gateway is stopping")),
            };
            Ok(Some((Bytes::from(text), Some(document))))
        })
    }

    fn write(&mut self, piece: wire::SealedEntriesResponse) -> String {
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            text = beginning(piece.seal.as_ref());
        }
        for entry in piece.entries {
            let Some((key, value)) = member(entry) else { continue };
            if self.any {
                text.push(',');
            }
            self.any = true;
            text.push_str(&Value::String(key).to_string());
            text.push(':');
            text.push_str(&value.to_string());
        }
        text
    }
}

fn beginning(seal: Option<&Seal>) -> String {
    let root = seal.and_then(|seal| seal.root.as_ref()).map(|root| hex::encode(&root.digest));
    let epoch = seal.map(|seal| seal.epoch);
    format!("{{\"success\":true,\"merkle_root\":{},\"epoch\":{},\"state\":{{", json!(root), json!(epoch))
}

/// A key and its value: text where it is UTF-8.
fn member(entry: Entry) -> Option<(String, Value)> {
    let Some(entry::Content::Value(value)) = entry.content else { return None };
    let value = match std::str::from_utf8(&value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": json::base64(&value) }),
    };
    Some((key::text(&entry.key), value))
}
