//! Calls a service of the same process without sockets.
//!
//! A call that is answered without waiting, as most reads are, is answered in its caller's own turn: a task and two
//! channels would cost several times what it does. One that has to wait goes on as a task of the service that is called,
//! not of its caller: who stops or hangs is then clear, and the caller waits on channels exactly as it would on a
//! socket. The response's frames pass through a bounded channel, so a slow reader holds up its own stream alone.
//! Dropping the call aborts the task. A panic is caught by the layers of the service in either case.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::channel::{Channel, Transport};
use super::layered::{Layered, layered};
use crate::tasks::{Place, TaskGroup, WeakTaskGroup};

/// Frames between a handler and its reader; tonic fills a frame up to 32 KiB, or one message.
const FRAMES_MAX: usize = 4;
/// Frames that are taken in the caller's own turn: a message and the trailers, which is all that a call with one answer
/// has.
const FRAMES_AT_ONCE: usize = 2;

/// A channel that calls `routes` directly, on behalf of `tasks`: what has to wait runs as a task of it. Once that group is
/// cancelled, or gone, calls end with `UNAVAILABLE`, as they would when the process had stopped.
pub fn in_memory(routes: Routes, tasks: &TaskGroup) -> Channel {
    Channel::new(Transport::Memory(Memory { service: layered(routes), tasks: tasks.downgrade() }))
}

#[derive(Debug, Clone)]
pub(super) struct Memory {
    service: Layered,
    tasks: WeakTaskGroup,
}

impl Memory {
    pub(super) async fn call(mut self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        // Nothing but what a socket would carry.
        request.extensions_mut().clear();
        let place = self.tasks.enter().ok_or_else(stopping)?;
        let mut handled = self.service.call(request);
        match at_once(|cx| handled.as_mut().poll(cx)).await {
            Poll::Ready(Ok(response)) => Ok(begun(place, response).await),
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => waited_for(place, handled).await,
        }
    }
}

/// Polls once, on behalf of whoever awaits this.
async fn at_once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    std::future::poll_fn(|cx| Poll::Ready(poll(cx))).await
}

/// An answer whose head was there at once; a task goes on with what is not there yet of its body.
async fn begun(place: Place, response: Response<Body>) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    parts.extensions.clear();
    let mut first = VecDeque::with_capacity(FRAMES_AT_ONCE);
    let mut ended = body.is_end_stream();
    while !ended && first.len() < FRAMES_AT_ONCE {
        match at_once(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Poll::Ready(Some(frame)) => first.push_back(frame),
            Poll::Ready(None) => ended = true,
            Poll::Pending => break,
        }
        ended |= body.is_end_stream();
    }
    if ended {
        return Response::from_parts(parts, Body::new(Received { first, rest: None }));
    }
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let task = AbortOnDrop(place.spawn(async move {
        send(body, sender).await;
        Ok(())
    }));
    Response::from_parts(parts, Body::new(Received { first, rest: Some(Rest { frames, _task: task }) }))
}

/// An answer that has to be waited for.
async fn waited_for(
    place: Place,
    handled: <Layered as Service<Request<Body>>>::Future,
) -> Result<Response<Body>, Status> {
    let (head_sender, head) = oneshot::channel();
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let task = AbortOnDrop(place.spawn(async move {
        let response = match handled.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (mut parts, body) = response.into_parts();
        parts.extensions.clear();
        if head_sender.send(parts).is_ok() {
            send(body, sender).await;
        }
        Ok(())
    }));
    let parts = head.await.map_err(|_| stopping())?;
    let rest = Some(Rest { frames, _task: task });
    Ok(Response::from_parts(parts, Body::new(Received { first: VecDeque::new(), rest })))
}

/// What a task sends of a body; the end is told, since a task that is aborted just stops.
enum Item {
    Frame(Result<Frame<Bytes>, Status>),
    End,
}

/// Sends the rest of a body, until it ends or nobody reads it any more.
async fn send(mut body: Body, sender: mpsc::Sender<Item>) {
    while let Some(frame) = body.frame().await {
        if sender.send(Item::Frame(frame)).await.is_err() {
            return;
        }
    }
    let _ = sender.send(Item::End).await;
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
    /// What was there at once.
    first: VecDeque<Result<Frame<Bytes>, Status>>,
    /// What was not; empty once it has ended.
    rest: Option<Rest>,
}

struct Rest {
    frames: mpsc::Receiver<Item>,
    _task: AbortOnDrop,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let item = match (self.first.pop_front(), &mut self.rest) {
            (Some(frame), _) => Some(Item::Frame(frame)),
            (None, Some(rest)) => std::task::ready!(rest.frames.poll_recv(cx)),
            (None, None) => Some(Item::End),
        };
        let frame = match item {
            Some(Item::Frame(frame)) => Some(frame),
            Some(Item::End) => None,
            None => Some(Err(stopping())),
        };
        if !matches!(frame, Some(Ok(_))) {
            // After an error nothing follows.
            self.first.clear();
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.is_none()
    }
}
