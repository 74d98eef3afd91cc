//! What is compressed when the client accepts it: JSON and other text, from [`BYTES_MIN`] on.
//!
//! Values and backups go out as they are: they are whatever clients stored, often compressed already, and the
//! `ETag` of a value names exactly its bytes. Event streams and gRPC are sent message by message.

use http::{Response, header};
use http_body::Body;
use tower_http::compression::Predicate;

/// Less is not worth the headers.
const BYTES_MIN: u64 = 1_024;
const TYPES: [&str; 7] = [
    "application/json",
    "application/problem+json",
    "application/openmetrics-text",
    "text/plain",
    "text/html",
    "text/css",
    "text/javascript",
];

/// Decides it from the head of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compressible;

impl Predicate for Compressible {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        let given = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
        TYPES.contains(&essence) && response.body().size_hint().upper().is_none_or(|bytes| bytes >= BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn text_is_compressed_when_there_is_enough_of_it() {
        for (kind, bytes, compressed) in [
            ("application/json", 2_000, true),
            ("application/json; charset=utf-8", 2_000, true),
            ("application/json", 1_000, false),
            ("application/octet-stream", 2_000, false),
            ("text/event-stream", 2_000, false),
            ("application/grpc", 2_000, false),
            ("", 2_000, false),
        ] {
            let body = Full::new(bytes::Bytes::from(vec![b'x'; bytes]));
            let response = Response::builder().header(header::CONTENT_TYPE, kind).body(body).unwrap();
            assert_eq!(Compressible.should_compress(&response), compressed, "{kind} of {bytes}");
        }
    }
}
