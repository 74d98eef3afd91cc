//! The HTTP path between nodes: one signed request in, one signed answer out.
//!
//! Whoever reaches the port may send one. The gateway bounds its size and looks no further: the store checks
//! the signature, and what is wrong with a request becomes a signed refusal, which is an answer, too.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header;
use lattice_core::signed::Signed;
use lattice_proto::codec::{decode_signed, encode_signed};
use lattice_proto::store::v1 as wire;

use crate::app::App;
use crate::body::require_type;
use crate::json;
use crate::problem::{Kind, Problem, Sibling};
use crate::query::Query;

const PROTOBUF: &str = "application/x-protobuf";
/// Answers may be larger; a request is at most 1,024 positions with what is known there, cut short, keys that are
/// wanted, and an announcement. As many of these as are admitted fit into the budget, so that strangers who send slowly do not use it up.
const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Takes a signed envelope of another node, and answers with one.
#[utoipa::path(
    post,
    path = "/sync/v1/exchange",
    tag = "nodes",
    request_body(
        content((json::Binary = "application/x-protobuf"), (json::Binary = "application/octet-stream")),
        description = "A signed envelope (`lattice.peer.v1`), at most 256 KiB",
    ),
    responses((status = 200, description = "A signed envelope (`lattice.peer.v1`)", body = json::Binary, content_type = "application/x-protobuf")),
)]
pub(super) async fn exchange(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Query::parse(&parts.uri, &[])?;
    require_type(&parts.headers, &[PROTOBUF, "application/octet-stream"])?;
    let body = app.exchanges.read(&parts.headers, body, "the exchange", REQUEST_BYTES_MAX).await?;
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

#[cfg(test)]
mod tests {
    use lattice_core::exchange::{
        Ask, Digests, FetchAsk, KEYS_MAX, Known, POSITIONS_MAX, PullPart, Request, WHOLE_POSITIONS_MAX,
        WalkAsk,
    };
    use lattice_core::model::{Digest, Epoch, EpochLength, Incarnation, KeyHash, NodeId};
    use lattice_core::seal::{RUNS_MAX, Root, Run};
    use lattice_core::signed::Announcement;
    use lattice_core::time::WallTime;
    use lattice_core::tree::{BUCKET_ENTRIES_MAX, FANOUT, Position};
    use lattice_proto::codec::{Header, sign_announcement, sign_request};
    use lattice_runtime::identity::NodeKey;

    use super::*;

    #[test]
    fn the_largest_request_fits() {
        let key = NodeKey::from_seed(&[7; 32]);
        let (node, incarnation) = (NodeId(key.public()), Incarnation([7; 16]));
        let root = Some(Root { digest: Digest([255; 32]), entries: u64::MAX / 2, tombstones: u64::MAX / 2 });
        let runs = (0..RUNS_MAX as u64).map(|run| u64::MAX - 2 * run).rev();
        let announcement = Announcement {
            cluster: "c".repeat(64),
            node,
            incarnation,
            sequence: u64::MAX,
            time: WallTime(u64::MAX),
            epoch_length: EpochLength(u32::MAX.try_into().unwrap()),
            runs: runs.map(|epoch| Run { from: Epoch(epoch), to: Epoch(epoch), root }).collect(),
            addresses: vec!["a".repeat(256); 16],
            name: "n".repeat(128),
            recovering: false,
        };
        let position = Position::towards(&KeyHash(Digest([255; 32])), Position::DEPTH_MAX);
        let inner = |width| WalkAsk { position, mine: Digests::parse(&vec![255; FANOUT * width]) };
        let bucket = |width, keys: usize| FetchAsk {
            position,
            known: Known::parse(width, &vec![255; BUCKET_ENTRIES_MAX * width]).unwrap(),
            keys: vec![KeyHash(Digest([255; 32])); keys],
        };
        let epoch = Some(Epoch(u64::MAX));
        // What the machine cuts to four bytes, and what it asks again whole.
        let asks = [
            Ask::Walk { epoch, nodes: vec![inner(4); POSITIONS_MAX] },
            Ask::Walk { epoch, nodes: vec![inner(32); WHOLE_POSITIONS_MAX] },
            Ask::Fetch { epoch, buckets: vec![bucket(4, KEYS_MAX / POSITIONS_MAX); POSITIONS_MAX] },
            Ask::Fetch {
                epoch,
                buckets: vec![bucket(32, KEYS_MAX / WHOLE_POSITIONS_MAX); WHOLE_POSITIONS_MAX],
            },
        ];
        let header = Header {
            cluster: "c".repeat(64),
            sender: node,
            incarnation,
            receiver: node,
            challenge: vec![7; 64].into(),
            nonce: [7; 16],
            traceparent: "t".repeat(128),
            request_hash: None,
        };
        for ask in asks {
            let announcement = Some(sign_announcement(&announcement, key.signing_key()));
            let pull = Some(PullPart { id: u64::MAX, in_kind: true });
            let request = Request { announcement, pull, ask };
            let length = encode_signed(&sign_request(&header, &request, key.signing_key())).len();
            assert!(length < REQUEST_BYTES_MAX, "{length} bytes");
        }
    }
}
