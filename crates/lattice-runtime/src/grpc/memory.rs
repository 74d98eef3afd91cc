//! Calls a service of the same process without sockets.
//!
//! The handler runs as a task of the service that is called, not of its caller: who stops or hangs is then
//! clear, and the caller waits on channels exactly as it would on a socket. The response's frames pass
//! through a bounded channel, so a slow reader holds up its own stream alone. Dropping the call aborts the
//! task.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::channel::{Channel, Transport};
use super::layered::{Layered, layered};
use crate::tasks::{TaskGroup, WeakTaskGroup};

/// Frames between a handler and its reader; tonic fills a frame up to 32 KiB, or one message.
const FRAMES_MAX: usize = 4;

/// A channel that calls `routes` directly. Each handler runs as a task of `tasks`; once that group is
/// cancelled, or gone, calls end with `UNAVAILABLE`, as they would when the process had stopped.
pub fn in_memory(routes: Routes, tasks: &TaskGroup) -> Channel {
    Channel::new(Transport::Memory(Memory { service: layered(routes), tasks: tasks.downgrade() }))
}

#[derive(Debug, Clone)]
pub(super) struct Memory {
    service: Layered,
    tasks: WeakTaskGroup,
}

/// What the task sends after the head; the end is told, since a task that is aborted just stops.
enum Item {
    Frame(Result<Frame<Bytes>, Status>),
    End,
}

impl Memory {
    pub(super) async fn call(self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        // Nothing but what a socket would carry.
        request.extensions_mut().clear();
        let (head_sender, head) = oneshot::channel();
        let (frames_sender, frames) = mpsc::channel(FRAMES_MAX);
        let mut service = self.service;
        let task = self.tasks.spawn_call(async move {
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let (mut parts, mut body) = response.into_parts();
            parts.extensions.clear();
            if head_sender.send(parts).is_err() {
                return Ok(());
            }
            while let Some(frame) = body.frame().await {
                if frames_sender.send(Item::Frame(frame)).await.is_err() {
                    return Ok(());
                }
            }
            let _ = frames_sender.send(Item::End).await;
            Ok(())
        });
        let task = AbortOnDrop(task.ok_or_else(stopping)?);
        let parts = head.await.map_err(|_| stopping())?;
        Ok(Response::from_parts(parts, Body::new(Received { frames, ended: false, _task: task })))
    }
}

fn stopping() -> Status {
    Status::unavailable("the service is stopping")
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The caller's end of a response.
struct Received {
    frames: mpsc::Receiver<Item>,
    ended: bool,
    _task: AbortOnDrop,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.frames.poll_recv(cx));
        Poll::Ready(match item {
            Some(Item::Frame(frame)) => {
                self.ended = frame.is_err();
                Some(frame)
            }
            Some(Item::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(stopping()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
