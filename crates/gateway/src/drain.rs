//! Refused bodies: read and thrown away, so that the client sees why.
//!
//! A server that answers early and closes while the client still sends makes the kernel reset the
//! connection, and the answer is lost with it. So what a handler left unread is read here, up to
//! [`BYTES_MAX`] and for at most [`TIME_MAX`], before the answer goes out. A client that waits to be asked
//! for its body (`Expect: 100-continue`) and was not, is not asked now.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

/// Beyond this the client learns by a reset.
const BYTES_MAX: usize = 2 << 20;
const TIME_MAX: Duration = Duration::from_secs(5);

/// What a handler leaves of a request's body; resolved once the handler is done. `None` for a request without one.
pub(crate) struct Unread(Option<oneshot::Receiver<Body>>);

/// Lets the rest of the body be drained after the request was handled.
pub(crate) fn watch(request: Request<Body>) -> (Request<Body>, Unread) {
    if http_body::Body::is_end_stream(request.body()) {
        return (request, Unread(None));
    }
    let (sender, receiver) = oneshot::channel();
    let waits = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| {
        let back = Some(sender);
        Body::new(Watched { body: Some(body), back, ended: false, polled: false, waits })
    });
    (request, Unread(Some(receiver)))
}

impl Unread {
    /// Reads what is left. Call it when the handler has returned.
    pub(crate) async fn drain(mut self) {
        let Some(Ok(mut body)) = self.0.as_mut().map(oneshot::Receiver::try_recv) else { return };
        let drained = tokio::time::timeout(TIME_MAX, async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        });
        if drained.await.is_err() {
            tracing::debug!("a refused body came too slowly to be drained");
        }
    }
}

/// A body that comes back when it is dropped before its end.
struct Watched {
    /// Empty only while it is dropped.
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
    ended: bool,
    polled: bool,
    /// The client sends nothing until it is asked, which the first poll does.
    waits: bool,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.polled = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let over = http_body::Body::is_end_stream(self) || (self.waits && !self.polled);
        if let (false, Some(body), Some(back)) = (over, self.body.take(), self.back.take()) {
            // Nobody waits for it when the whole request was dropped.
            let _ = back.send(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;

    use super::*;

    /// A body of `count` frames of 1 KiB, and how many of them were taken.
    fn frames(count: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let frames = (0..count).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1024]))
        });
        (Body::from_stream(stream::iter(frames)), taken)
    }

    #[tokio::test]
    async fn what_was_left_is_drained_up_to_the_limit() {
        for (sent, drained) in [(0, 0), (3, 3), (2_048, 2_048), (5_000, 2_049)] {
            let (body, taken) = frames(sent);
            let (request, unread) = watch(Request::new(body));
            drop(request);
            unread.drain().await;
            assert_eq!(taken.load(Ordering::Relaxed), drained, "{sent} frames");
        }
    }

    #[tokio::test]
    async fn a_client_that_waits_is_not_asked() {
        let (body, taken) = frames(3);
        let request = Request::builder().header(header::EXPECT, "100-continue").body(body).unwrap();
        let (request, unread) = watch(request);
        drop(request);
        unread.drain().await;
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_body_that_was_read_is_left_alone() {
        let (body, taken) = frames(3);
        let (request, unread) = watch(Request::new(body));
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        unread.drain().await;
        assert_eq!((bytes.len(), taken.load(Ordering::Relaxed)), (3 * 1024, 3));
    }
}
