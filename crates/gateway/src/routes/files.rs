//! `/v1/backup`, `/v1/restore` and `/v1/proof`: what leaves the node to be kept, or shown, elsewhere.
//!
//! Backups pass through in pieces, in both directions: the gateway holds one at a time, and looks into none.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, stream};
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use lattice_proto::kv::v1 as wire;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::app::App;
use crate::body::as_it_is;
use crate::json;
use crate::key;
use crate::problem::{Kind, Problem, Sibling};
use crate::proof;
use crate::query::Query;

/// The most bytes of one message of a restore.
const PIECE_BYTES: usize = 256 << 10;

/// Proves that a key has this entry, or none, under a seal that the node signed.
#[utoipa::path(
    get,
    path = "/v1/proof/{*key}",
    tag = "keys",
    params(
        ("key" = String, Path, min_length = 1, max_length = 1024, description = "UTF-8, 1 to 1,024 bytes, percent-encoded; `/` may stand as it is"),
        ("epoch" = Option<u64>, Query, description = "The sealed epoch; the newest when left out"),
    ),
    responses((status = 200, description = "The proof", body = json::Proof)),
)]
pub(super) async fn proof(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<serde_json::Value>, Problem> {
    let key = key::of_proof(request.uri())?;
    let epoch = Query::parse(request.uri(), &["epoch"])?.number("epoch")?;
    let question = wire::ProveRequest { key: key.into_bytes(), epoch };
    let answer = app.kv().prove(question).await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let document = proof::document(&answer.into_inner());
    document.map(Json).ok_or_else(|| Problem::new(Kind::Internal, "state-store answered without a proof"))
}

/// Hands out all entries as one file.
#[utoipa::path(
    get,
    path = "/v1/backup",
    tag = "keys",
    responses((status = 200, description = "The file; whole only with its trailer", body = json::Binary, content_type = "application/octet-stream")),
)]
pub(super) async fn backup(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::parse(request.uri(), &[])?;
    let place = app.admit_stream()?;
    let failed = |status: Status| Sibling::KeyValue.problem(&status);
    let mut pieces = app.kv_streams().backup(wire::BackupRequest {}).await.map_err(failed)?.into_inner();
    // The first piece before the head of the answer: until then an error can still be told as one.
    let first = pieces.message().await.map_err(failed)?.unwrap_or_default();
    let backup = Backup { pieces, first: Some(first), stopping: app.stopping.clone(), _place: place };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"lattice.backup\""),
    ];
    Ok((headers, Body::from_stream(backup.into_stream())).into_response())
}

struct Backup {
    pieces: Streaming<wire::BackupResponse>,
    first: Option<wire::BackupResponse>,
    stopping: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Backup {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> {
        // An error cuts the answer short, and the file then lacks its trailer.
        stream::try_unfold(self, |mut backup| async {
            let piece = match backup.first.take() {
                Some(first) => Some(first),
                None => tokio::select! {
                    piece = backup.pieces.message() => piece?,
                    () = backup.stopping.cancelled() => return Err(Status::unavailable("the gateway is stopping")),
                },
            };
            Ok(piece.map(|piece| (piece.data, backup)))
        })
    }
}

/// Merges a backup: of each key the newer version wins.
#[utoipa::path(
    post,
    path = "/v1/restore",
    tag = "keys",
    params(
        ("any_cluster" = Option<bool>, Query, description = "Take a file of another cluster, too"),
    ),
    request_body(content = json::Binary, content_type = "application/octet-stream", description = "The file"),
    responses((status = 200, description = "What it held, and what became of it", body = json::Restored)),
)]
pub(super) async fn restore(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Restored>, Problem> {
    let (parts, body) = request.into_parts();
    let any_cluster = Query::parse(&parts.uri, &["any_cluster"])?.flag("any_cluster")?;
    as_it_is(&parts.headers)?;
    if body.is_end_stream() {
        return Err(Problem::new(Kind::BodyInvalid, "the body is empty: send a backup"));
    }
    let pieces = pieces(body, any_cluster, app.stopping.clone());
    let answer = app.kv_streams().restore(pieces).await;
    let answer = answer.map_err(|status| Sibling::KeyValue.problem(&status))?;
    Ok(Json(answer.into_inner().into()))
}

/// The body in pieces. When it breaks off, so do they: the store then finds the end missing.
fn pieces(
    body: Body,
    any_cluster: bool,
    stopping: CancellationToken,
) -> impl Stream<Item = wire::RestoreRequest> + Send + 'static {
    stream::unfold((body, Bytes::new()), move |(mut body, mut left)| {
        let stopping = stopping.clone();
        async move {
            while left.is_empty() {
                let frame = tokio::select! {
                    frame = body.frame() => frame?.ok()?,
                    () = stopping.cancelled() => return None,
                };
                left = frame.into_data().unwrap_or_default();
            }
            let data = left.split_to(left.len().min(PIECE_BYTES));
            Some((wire::RestoreRequest { any_cluster, data }, (body, left)))
        }
    })
}
