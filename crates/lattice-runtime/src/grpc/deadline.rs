//! Deadlines: the `grpc-timeout` header, honoured for the whole call.
//!
//! tonic's transport reads the header only on sockets and only until the response's head, so a stream that
//! drips could last for ever. This one bounds head and body, and both the caller and the called apply it: a
//! caller must not depend on a server that hangs. A call without the header has no deadline; that is how
//! watches live long.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
pub(super) const EXCEEDED: &str = "deadline exceeded";

/// The timeout that `headers` carry; one that cannot be read is none.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Adds a timeout to `headers` that carry none.
pub(super) fn set_default(headers: &mut HeaderMap, timeout: Duration) {
    if headers.contains_key(GRPC_TIMEOUT) {
        return;
    }
    // The header has 8 digits: milliseconds reach 27 hours, seconds three years.
    let ms = timeout.as_millis();
    let text =
        if ms < 100_000_000 { format!("{ms}m") } else { format!("{}S", timeout.as_secs().min(99_999_999)) };
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// Ends `call`, then its body, with `DEADLINE_EXCEEDED` after `timeout`. What is there at once needs no timer.
pub(super) async fn bound<F, E>(timeout: Option<Duration>, call: F) -> Result<Response<Body>, E>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    let Some(timeout) = timeout else { return call.await };
    let until = Instant::now() + timeout;
    let response = tokio::select! {
        biased;
        response = call => response?,
        () = tokio::time::sleep_until(until) => return Ok(Status::deadline_exceeded(EXCEEDED).into_http()),
    };
    // Head and body share one deadline.
    Ok(response.map(|body| Body::new(Bounded { body, until, timer: None, expired: false })))
}

/// A body that ends with `DEADLINE_EXCEEDED` when its time is up.
struct Bounded {
    body: Body,
    until: Instant,
    /// Made when the body has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    expired: bool,
}

impl Bounded {
    /// Whether the time is up; else the task is woken when it is.
    fn expires(&mut self, cx: &mut Context<'_>) -> bool {
        let until = self.until;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.expired {
            return Poll::Ready(None);
        }
        // Asked first, so that a stream that is always ready ends as well.
        if Instant::now() < self.until {
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            if polled.is_ready() || !self.expires(cx) {
                return polled;
            }
        }
        self.expired = true;
        // Dropping the body cancels the handler behind it.
        self.body = Body::empty();
        Poll::Ready(Some(Ok(Frame::trailers(exceeded_trailers()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn exceeded_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from(Code::DeadlineExceeded as u16));
    trailers.insert(GRPC_MESSAGE, HeaderValue::from_static("deadline%20exceeded"));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1x", None),
            ("1 S", None),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
            assert_eq!(of(&headers), expected, "{text:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_default_is_added_only_where_there_is_none() {
        let mut headers = HeaderMap::new();
        set_default(&mut headers, Duration::from_millis(1500));
        assert_eq!(of(&headers), Some(Duration::from_millis(1500)));
        set_default(&mut headers, Duration::from_secs(9));
        assert_eq!(of(&headers), Some(Duration::from_millis(1500)));

        let mut headers = HeaderMap::new();
        set_default(&mut headers, Duration::from_secs(200_000));
        assert_eq!(of(&headers), Some(Duration::from_secs(200_000)));
    }
}
