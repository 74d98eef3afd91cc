//! Request bodies: read whole, each with its limit, all together within a budget.
//!
//! The budget is what bounds the memory of the gateway: a thousand clients that each send what is allowed
//! would otherwise add up. It is taken as bytes arrive, so that who only announces a large body takes
//! nothing from the others, and given back when the request ends.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Kind, Problem};

/// Memory for bodies, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// A body, and its part of the budget.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Reads a body of at most `max` bytes, which is called `what` when it is refused.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        what: &str,
        max: usize,
    ) -> Result<Received, Problem> {
        as_it_is(headers)?;
        let too_large = || Problem::new(Kind::TooLarge, format!("{what} has more than {max} bytes"));
        if content_length(headers).is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        // Copied as it arrives: a frame may be a few bytes that hold on to a large buffer.
        let mut bytes = BytesMut::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a body did not arrive whole");
                Problem::new(Kind::BodyInvalid, format!("{what} did not arrive whole"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > max - bytes.len() {
                return Err(too_large());
            }
            let more = self.take(data.len())?;
            match &mut memory {
                None => memory = Some(more),
                Some(memory) => memory.merge(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Received { bytes: bytes.freeze(), _memory: memory })
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = || Problem::new(Kind::Busy, "too many large bodies at once; ask again");
        let count = u32::try_from(bytes).map_err(|_| busy())?;
        self.0.clone().try_acquire_many_owned(count).map_err(|_| busy())
    }
}

/// Refuses a body whose content type is not one of `accepted`.
pub(crate) fn require_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.and_then(|given| given.split(';').next()).unwrap_or_default().trim();
    if accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Problem::new(Kind::MediaType, format!("Content-Type must be {}", accepted.join(" or "))))
}

/// Refuses a body that is encoded: it would be stored so, and nobody would be told.
pub(crate) fn as_it_is(headers: &HeaderMap) -> Result<(), Problem> {
    match headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        true => Ok(()),
        false => Err(Problem::new(Kind::MediaType, "Content-Encoding is not taken: send the body as it is")),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcing(length: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.parse().unwrap())])
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_read() {
        let budget = Budget::new(64);
        for (headers, body, expected) in [
            (HeaderMap::new(), "four", Ok("four")),
            (announcing("0"), "", Ok("")),
            (HeaderMap::new(), "fives", Err(Kind::TooLarge)),
            (announcing("5"), "", Err(Kind::TooLarge)),
        ] {
            let read = budget.read(&headers, Body::from(body), "value", 4).await;
            let read = read.map(|received| received.bytes).map_err(|error| error.kind());
            assert_eq!(read, expected.map(Bytes::from), "{body}");
        }
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_until_a_request_ends() {
        let budget = Budget::new(6);
        let headers = HeaderMap::new();
        let read = || budget.read(&headers, Body::from("four"), "value", 4);
        let first = read().await.unwrap();
        assert_eq!(read().await.unwrap_err().kind(), Kind::Busy);
        drop(first);
        assert_eq!(read().await.unwrap().bytes, "four");
    }

    #[tokio::test]
    async fn a_body_that_is_encoded_is_refused() {
        for (encoding, good) in [("gzip", false), ("identity, gzip", false), ("identity", true)] {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            let read = Budget::new(64).read(&headers, Body::from("four"), "value", 4).await;
            assert_eq!(
                read.map(drop).map_err(|error| error.kind()),
                if good { Ok(()) } else { Err(Kind::MediaType) }
            );
        }
    }

    #[test]
    fn content_types_are_compared_without_parameters() {
        for (given, good) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, given.parse().unwrap())]);
            assert_eq!(require_type(&headers, &["application/json"]).is_ok(), good, "{given}");
        }
    }
}
