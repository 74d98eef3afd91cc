//! A connection as the server sees it: bytes, the first of which must come in time, and of which some must be taken
//! in time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Length of the HTTP/2 preface; a client that has sent this much is past version detection.
const PREFACE_BYTES: usize = 24;

/// A TCP or Unix connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection whose client must send its first bytes in time, and must not stop taking what it is sent.
///
/// hyper has a timeout for the head of an HTTP/1 request, but none while it still waits for the bytes that tell the
/// versions apart, and none for a client that reads nothing: its answers would be kept for as long as it likes.
pub(super) struct Guarded {
    stream: Box<dyn Stream>,
    received: usize,
    /// Empty once enough was received.
    expires: Option<Pin<Box<Sleep>>>,
    stall: Duration,
    /// Runs while the client takes nothing that is to be sent.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    /// Allows `head` for the first bytes, and `stall` without progress while there is something to send.
    pub(super) fn new(stream: Box<dyn Stream>, head: Duration, stall: Duration) -> Self {
        let expires = Some(Box::pin(tokio::time::sleep(head)));
        Self { stream, received: 0, expires, stall, stalled: None }
    }

    /// What became of a write; an error when the last that went on was too long ago.
    fn sent(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(expires) = &mut self.expires {
            if polled.is_pending() && expires.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.received += buf.filled().len() - before;
            if self.received >= PREFACE_BYTES {
                self.expires = None;
            }
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_client_that_sends_nothing_is_cut() {
        let (_client, server) = tokio::io::duplex(64);
        let error = Guarded::new(Box::new(server), SOON, LATE).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_stops_within_the_preface_is_cut() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut bytes = Vec::new();
        let error = Guarded::new(Box::new(server), SOON, LATE).read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!((error.kind(), bytes.as_slice()), (io::ErrorKind::TimedOut, &b"PRI * HTTP/2.0"[..]));
    }

    #[tokio::test]
    async fn a_client_past_the_preface_may_be_silent() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(&[b'x'; PREFACE_BYTES]).await.unwrap();
        let mut guarded = Guarded::new(Box::new(server), SOON, LATE);
        guarded.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(guarded.expires.is_none());
        client.write_all(b"y").await.unwrap();
        assert_eq!(guarded.read_u8().await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut() {
        let (_client, server) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(Box::new(server), LATE, SOON);
        guarded.write_all(&[b'x'; 64]).await.unwrap();
        assert_eq!(guarded.write_u8(b'x').await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_takes_something_has_all_its_time_again() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(Box::new(server), LATE, LATE);
        guarded.write_all(&[b'x'; 64]).await.unwrap();
        let waits = std::future::poll_fn(|cx| {
            assert!(Pin::new(&mut guarded).poll_write(cx, b"y").is_pending());
            Poll::Ready(guarded.stalled.is_some())
        });
        assert!(waits.await);
        client.read_exact(&mut [0; 64]).await.unwrap();
        guarded.write_all(b"y").await.unwrap();
        assert!(guarded.stalled.is_none());
    }
}
