//! A connection as the server sees it: bytes, the first of which must come in time.

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

/// A connection whose client must send its first bytes in time. hyper has a timeout for the head of an
/// HTTP/1 request, but none while it still waits for the bytes that tell the versions apart.
pub(super) struct Headed {
    stream: Box<dyn Stream>,
    received: usize,
    /// Empty once enough was received.
    expires: Option<Pin<Box<Sleep>>>,
}

impl Headed {
    /// Allows `timeout` for the first bytes.
    pub(super) fn new(stream: Box<dyn Stream>, timeout: Duration) -> Self {
        Self { stream, received: 0, expires: Some(Box::pin(tokio::time::sleep(timeout))) }
    }
}

impl AsyncRead for Headed {
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

impl AsyncWrite for Headed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

    #[tokio::test]
    async fn a_client_that_sends_nothing_is_cut() {
        let (_client, server) = tokio::io::duplex(64);
        let error = Headed::new(Box::new(server), SOON).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_stops_within_the_preface_is_cut() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut bytes = Vec::new();
        let error = Headed::new(Box::new(server), SOON).read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!((error.kind(), bytes.as_slice()), (io::ErrorKind::TimedOut, &b"PRI * HTTP/2.0"[..]));
    }

    #[tokio::test]
    async fn a_client_past_the_preface_may_be_silent() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(&[b'x'; PREFACE_BYTES]).await.unwrap();
        let mut headed = Headed::new(Box::new(server), SOON);
        headed.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(headed.expires.is_none());
        client.write_all(b"y").await.unwrap();
        assert_eq!(headed.read_u8().await.unwrap(), b'y');
    }
}
