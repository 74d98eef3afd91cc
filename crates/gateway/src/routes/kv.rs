//! Keys and values: `/v1/kv` and `/v1/batch`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lattice_core::model::{VALUE_BYTES_MAX, Version};
use lattice_core::time::WallTime;
use lattice_proto::kv::v1 as wire;
use lattice_proto::types::v1::entry;
use serde::Deserialize;
use tonic::Status;
use utoipa::ToSchema;

use crate::app::App;
use crate::body::require_type;
use crate::conditions;
use crate::json;
use crate::key;
use crate::problem::{Kind, Problem, Sibling};
use crate::query::Query;

const LATTICE_VERSION: HeaderName = HeaderName::from_static("lattice-version");
const LATTICE_EXPIRES: HeaderName = HeaderName::from_static("lattice-expires");

/// What the store says, too, of a key that it has not.
pub(crate) const ABSENT: &str = "key is absent";

/// The longest wait that a read is told. Clocks of nodes agree to seconds: a version from further ahead than this is of
/// one that was wrong, or made up, and who waits for its time would wait for ever.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

const OPERATIONS_MAX: usize = 1_000;
/// Keys and values together.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// The same as JSON: base64 takes a third more, and each operation some words.
const BATCH_BODY_BYTES_MAX: usize = 12 << 20;

/// Reads the value of a key.
#[utoipa::path(
    get,
    path = "/v1/kv/{*key}",
    tag = "keys",
    params(
        ("key" = String, Path, min_length = 1, max_length = 1024, description = "UTF-8, 1 to 1,024 bytes, percent-encoded; `/` may stand as it is"),
        ("If-None-Match" = Option<String>, Header, description = "A version in quotes: 304 while the key still has it"),
        ("If-Match" = Option<String>, Header, description = "A version in quotes: 412 when the key has another one"),
        ("Lattice-Min-Version" = Option<String>, Header, description = "A version that this node must have reached: 503 until it has"),
    ),
    responses((status = 200, description = "The value", body = json::Binary, content_type = "application/octet-stream", headers(("ETag" = String, description = "The version in quotes"), ("Lattice-Version" = String, description = "The version bare"), ("Lattice-Expires" = Option<String>, description = "When the key expires, if it does"))),
        (status = 304, description = "The key still has that version", headers(("ETag" = String, description = "The version in quotes"), ("Lattice-Version" = String, description = "The version bare"), ("Lattice-Expires" = Option<String>, description = "When the key expires, if it does")))),
)]
pub(super) async fn get(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let key = key::of_path(request.uri())?;
    Query::parse(request.uri(), &[])?;
    let version_min = conditions::version_min(request.headers())?;
    let expected = conditions::of_read(request.headers())?;
    let question =
        wire::GetRequest { key: key.into_bytes(), version_min: version_min.as_ref().map(Into::into) };
    let refused = |status: Status| {
        let problem = Sibling::KeyValue.problem(&status);
        let now = WallTime(app.clock.wall_ms()) + app.settings.max_clock_drift;
        let ahead = version_min.as_ref().and_then(|least| ahead(least, now));
        match ahead.filter(|_| problem.kind() == Kind::Unavailable) {
            Some(ahead) => problem.retry_after(ahead),
            None => problem,
        }
    };
    let answer = app.get(tonic::Request::new(question)).await.map_err(refused)?;
    let entry = answer.into_inner().entry.ok_or_else(|| nonsense("an entry"))?;
    let version = version_of(entry.version)?;
    let Some(entry::Content::Value(value)) = entry.content else {
        return Err(Problem::new(Kind::KeyNotFound, ABSENT));
    };

    if !expected.holds(&version) {
        let why = "If-Match does not hold: the key has another version";
        return Err(Problem::new(Kind::ConditionFailed, why).etag(&version.to_string()));
    }
    let mut headers = versioned(&version, entry.expires_ms)?;
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if conditions::unchanged(request.headers(), &version) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok((headers, Body::from(value)).into_response())
}

/// Writes the value of a key.
#[utoipa::path(
    put,
    path = "/v1/kv/{*key}",
    tag = "keys",
    params(
        ("key" = String, Path, min_length = 1, max_length = 1024, description = "UTF-8, 1 to 1,024 bytes, percent-encoded; `/` may stand as it is"),
        ("ttl" = Option<String>, Query, pattern = "^[0-9]+(ms|s|m|h)$", description = "How long the key lives, like `60s`; 1ms to 87600h"),
        ("If-Match" = Option<String>, Header, description = "Only when the key has this version, in quotes (as `ETag`)"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only when the key is absent"),
    ),
    request_body(
        content((json::Binary = "application/octet-stream"), (String = "text/plain")),
        description = "The value, at most 1 MiB: the bytes as they are, whatever content type they are said to have",
    ),
    responses((status = 200, description = "Written, and durable on this node", body = json::Written, headers(("ETag" = String, description = "The version in quotes"), ("Lattice-Version" = String, description = "The version bare"), ("Lattice-Expires" = Option<String>, description = "When the key expires, if it does")))),
)]
pub(super) async fn put(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let key = key::of_path(&parts.uri)?;
    let ttl_ms = Query::parse(&parts.uri, &["ttl"])?.ttl_ms()?;
    let condition = conditions::of_write(&parts.headers)?;
    let value = app.bodies.read(&parts.headers, body, "the value", VALUE_BYTES_MAX).await?;

    let key = key.into_bytes();
    let question = wire::PutRequest { key: key.clone(), value: value.bytes.clone(), ttl_ms, condition };
    let answer = app.kv().put(question).await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let wire::PutResponse { version, expires_ms } = answer.into_inner();
    let version = version_of(version)?;
    let headers = versioned(&version, expires_ms)?;
    Ok((headers, Json(json::Written::new(&key, &version, expires_ms))).into_response())
}

/// Deletes a key, also one that is not there.
#[utoipa::path(
    delete,
    path = "/v1/kv/{*key}",
    tag = "keys",
    params(
        ("key" = String, Path, min_length = 1, max_length = 1024, description = "UTF-8, 1 to 1,024 bytes, percent-encoded; `/` may stand as it is"),
        ("If-Match" = Option<String>, Header, description = "Only when the key has this version, in quotes (as `ETag`)"),
    ),
    responses((status = 200, description = "Deleted, and durable on this node", body = json::Deleted, headers(("Lattice-Version" = String, description = "The version bare")))),
)]
pub(super) async fn delete(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let key = key::of_path(request.uri())?;
    Query::parse(request.uri(), &[])?;
    let condition = conditions::of_delete(request.headers())?;
    let key = key.into_bytes();
    let question = wire::DeleteRequest { key: key.clone(), condition };
    let answer = app.kv().delete(question).await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let version = version_of(answer.into_inner().version)?;
    let headers = [(LATTICE_VERSION, conditions::bare(&version))];
    Ok((headers, Json(json::Deleted::new(&key, &version))).into_response())
}

/// Lists keys and values in key order.
#[utoipa::path(
    get,
    path = "/v1/kv",
    tag = "keys",
    params(
        ("prefix" = Option<String>, Query, max_length = 1024, description = "Only keys that begin so"),
        ("start" = Option<String>, Query, max_length = 1024, description = "Only this key and those after it"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Elements at most; 100 when left out"),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses((status = 200, description = "A page; `next` is null at the end", body = json::Page)),
)]
pub(super) async fn list(State(app): State<Arc<App>>, request: Request) -> Result<Json<json::Page>, Problem> {
    let query = Query::parse(request.uri(), &["prefix", "start", "limit", "cursor"])?;
    let question = wire::ListRequest {
        prefix: query.key_part("prefix")?,
        start: query.key_part("start")?,
        cursor: query.cursor()?,
        limit: query.limit()?,
    };
    let answer =
        app.kv().list(question).await.map_err(|status| Sibling::KeyValue.problem(&status))?.into_inner();
    let page = json::Page::new(answer.entries, &answer.next);
    page.map(Json).ok_or_else(|| nonsense("a value, or its version"))
}

/// Writes and deletes several keys, all or nothing on this node.
#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "keys",
    request_body(content = Batch, description = "1 to 1,000 operations, 8 MiB of keys and values"),
    responses((status = 200, description = "One version for each operation", body = json::Batched)),
)]
pub(super) async fn batch(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<json::Batched>, Problem> {
    let (parts, body) = request.into_parts();
    Query::parse(&parts.uri, &[])?;
    require_type(&parts.headers, &["application/json"])?;
    let body = app.bodies.read(&parts.headers, body, "the batch", BATCH_BODY_BYTES_MAX).await?;
    let operations = operations(&body.bytes)?;
    let question = wire::BatchRequest { operations };
    let answer = app.kv().batch(question).await.map_err(|status| Sibling::KeyValue.problem(&status))?;
    let versions =
        answer.into_inner().versions.into_iter().map(|version| Ok(version_of(Some(version))?.to_string()));
    Ok(Json(json::Batched { versions: versions.collect::<Result<_, Problem>>()? }))
}

/// Several operations at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Batch {
    #[schema(min_items = 1, max_items = 1000)]
    operations: Vec<Operation>,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: Op,
    #[schema(min_length = 1, max_length = 1024)]
    key: String,
    /// Standard padded base64, of a put and only there.
    value: Option<String>,
}

/// What it does.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
}

/// Parses a batch. Errors name the operation.
fn operations(body: &[u8]) -> Result<Vec<wire::Operation>, Problem> {
    let batch: Batch = serde_json::from_slice(body).map_err(|error| {
        let right = r#"{"operations": [{"op": "put", "key": "..", "value": "<base64>"}, {"op": "delete", "key": ".."}]}"#;
        Problem::new(Kind::BodyInvalid, format!("a batch is {right}, and this is not: {error}"))
    })?;
    let count = batch.operations.len();
    if !(1..=OPERATIONS_MAX).contains(&count) {
        let detail = format!("operations has {count} elements: it takes 1 to {OPERATIONS_MAX}");
        return Err(Problem::new(Kind::BodyInvalid, detail));
    }
    let mut bytes = 0;
    let mut operations = Vec::with_capacity(count);
    for (index, operation) in batch.operations.into_iter().enumerate() {
        let (operation, size) = parse(index, operation)?;
        bytes += size;
        operations.push(operation);
    }
    if bytes > BATCH_BYTES_MAX {
        let detail = format!(
            "operations hold {bytes} bytes of keys and values: a batch takes at most {BATCH_BYTES_MAX}"
        );
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    Ok(operations)
}

fn parse(index: usize, operation: Operation) -> Result<(wire::Operation, usize), Problem> {
    let at = |member: &str, what: &str| format!("operations[{index}].{member}: {what}");
    let key = key::parse(operation.key)
        .map_err(|error| Problem::new(Kind::KeyInvalid, at("key", &error.to_string())))?
        .into_bytes();
    let invalid = |what: &str| Problem::new(Kind::BodyInvalid, at("value", what));
    let key_length = key.len();
    match (operation.op, operation.value) {
        (Op::Put, Some(text)) => {
            let value = STANDARD.decode(text).map_err(|_| invalid("must be standard base64 with padding"))?;
            if value.len() > VALUE_BYTES_MAX {
                let detail = format!("has {} bytes: a value takes at most {VALUE_BYTES_MAX}", value.len());
                return Err(Problem::new(Kind::TooLarge, at("value", &detail)));
            }
            let size = key_length + value.len();
            let put = wire::PutRequest { key, value: Bytes::from(value), ttl_ms: None, condition: None };
            Ok((wire::Operation { operation: Some(wire::operation::Operation::Put(put)) }, size))
        }
        (Op::Delete, None) => {
            let delete = wire::DeleteRequest { key, condition: None };
            Ok((wire::Operation { operation: Some(wire::operation::Operation::Delete(delete)) }, key_length))
        }
        (Op::Put, None) => Err(invalid("is missing: a put takes base64")),
        (Op::Delete, Some(_)) => Err(invalid("does not go with a delete")),
    }
}

/// How long a version cannot be here yet, as it is of a time after `now`; `None` when it can.
fn ahead(version: &Version, now: WallTime) -> Option<Duration> {
    let ahead = version.hlc.wall().since(now);
    (!ahead.is_zero()).then(|| ahead.min(RETRY_AFTER_MAX))
}

fn versioned(version: &Version, expires_ms: Option<u64>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, conditions::etag(version));
    headers.insert(LATTICE_VERSION, conditions::bare(version));
    if let Some(expires_ms) = expires_ms {
        let expires = HeaderValue::try_from(json::time(expires_ms)).map_err(|_| nonsense("an expiry"))?;
        headers.insert(LATTICE_EXPIRES, expires);
    }
    Ok(headers)
}

fn version_of(version: Option<lattice_proto::types::v1::Version>) -> Result<Version, Problem> {
    version.and_then(|version| version.try_into().ok()).ok_or_else(|| nonsense("a version"))
}

fn nonsense(what: &str) -> Problem {
    Problem::new(Kind::Internal, format!("state-store answered without {what}"))
}

#[cfg(test)]
mod tests {
    use lattice_core::model::{Hlc, NodeId};

    use super::*;

    #[test]
    fn a_version_of_a_later_time_is_waited_for_an_hour_at_most() {
        let now = WallTime(1_700_000_000_000);
        let version = |hlc| Version { hlc, writer: NodeId([7; 32]) };
        for (wall_ms, wait_ms) in [
            (0, None),
            (now.0, None),
            (now.0 + 5, Some(5)),
            (now.0 + 3_600_000, Some(3_600_000)),
            (now.0 + 3_600_001, Some(3_600_000)),
        ] {
            let wait = ahead(&version(Hlc::at(WallTime(wall_ms))), now);
            assert_eq!(wait, wait_ms.map(Duration::from_millis), "{wall_ms}");
        }
        assert_eq!(ahead(&version(Hlc(u64::MAX)), now), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn batches_are_parsed() {
        let parsed = operations(
            br#"{"operations":[{"op":"put","key":"a","value":"AQI="},{"op":"delete","key":"b"}]}"#,
        );
        let parsed: Vec<_> =
            parsed.unwrap().into_iter().map(|operation| operation.operation.unwrap()).collect();
        let [wire::operation::Operation::Put(put), wire::operation::Operation::Delete(delete)] = &parsed[..]
        else {
            panic!("{parsed:?}");
        };
        assert_eq!((&put.key[..], &put.value[..]), (&b"a"[..], &[1, 2][..]));
        assert_eq!(&delete.key[..], b"b");
    }

    #[test]
    fn batches_that_are_not_are_refused_by_place() {
        let value = STANDARD.encode(vec![0; VALUE_BYTES_MAX + 1]);
        let too_long = format!(r#"{{"operations":[{{"op":"put","key":"a","value":"{value}"}}]}}"#);
        let value = STANDARD.encode(vec![0; VALUE_BYTES_MAX]);
        let many = vec![format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#); 8].join(",");
        let too_large = format!(r#"{{"operations":[{many}]}}"#);
        let deletes = vec![r#"{"op":"delete","key":"a"}"#; 1_001].join(",");
        let too_many = format!(r#"{{"operations":[{deletes}]}}"#);
        for (body, kind, detail) in [
            ("", Kind::BodyInvalid, "EOF"),
            ("[]", Kind::BodyInvalid, "invalid"),
            (r#"{"operations":[]}"#, Kind::BodyInvalid, "1 to 1000"),
            (&too_many, Kind::BodyInvalid, "1001 elements"),
            (r#"{"operations":[{"op":"get","key":"a"}]}"#, Kind::BodyInvalid, "unknown variant"),
            (r#"{"operations":[{"op":"put","key":"a","valu":"AQ=="}]}"#, Kind::BodyInvalid, "unknown field"),
            (r#"{"operations":[{"op":"put","key":"","value":""}]}"#, Kind::KeyInvalid, "operations[0].key"),
            (
                r#"{"operations":[{"op":"put","key":"a"}]}"#,
                Kind::BodyInvalid,
                "operations[0].value: is missing",
            ),
            (r#"{"operations":[{"op":"put","key":"a","value":"AQ"}]}"#, Kind::BodyInvalid, "padding"),
            (r#"{"operations":[{"op":"delete","key":"a","value":""}]}"#, Kind::BodyInvalid, "with a delete"),
            (&too_long, Kind::TooLarge, "1048577 bytes"),
            (&too_large, Kind::TooLarge, "8388616 bytes"),
        ] {
            let problem = operations(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind(), kind, "{}", problem.detail());
            assert!(problem.detail().contains(detail), "{}", problem.detail());
        }
    }
}
