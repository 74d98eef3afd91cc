//! The HTTP path between nodes: one signed request in, one signed answer out.
//!
//! Whoever reaches the port may send one. The gateway bounds its size and looks no further: the store checks
//! the signature, and what is wrong with a request becomes a signed refusal, which is an answer, too.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header;
use lattice_core::signed::Signed;
use lattice_proto::codec::{SIGNED_BYTES_MAX, decode_signed, encode_signed};
use lattice_proto::store::v1 as wire;

use crate::app::App;
use crate::body::require_type;
use crate::problem::{Kind, Problem, Sibling};
use crate::query::Query;

const PROTOBUF: &str = "application/x-protobuf";

/// `POST /sync/v1/exchange`
pub(super) async fn exchange(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Query::parse(&parts.uri, &[])?;
    require_type(&parts.headers, &[PROTOBUF, "application/octet-stream"])?;
    let body = app.exchanges.read(&parts.headers, body, "the exchange", SIGNED_BYTES_MAX).await?;
    let signed = decode_signed(body.bytes.clone()).map_err(|error| {
        Problem::new(Kind::BodyInvalid, format!("the body must be a signed envelope: {error}"))
    })?;

    let question = wire::ExchangeRequest { request: Some((&signed).into()) };
    let answer = app.store().exchange(question).await.map_err(|status| Sibling::Store.problem(&status))?;
    let answer: Option<Signed> = answer.into_inner().response.and_then(|signed| signed.try_into().ok());
    let answer = answer
        .ok_or_else(|| Problem::new(Kind::Internal, "state-store answered without a signed envelope"))?;
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], encode_signed(&answer)).into_response())
}
