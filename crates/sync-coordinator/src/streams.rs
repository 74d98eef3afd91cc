//! Keeps a stream of a sibling alive: opened again, with growing pauses, whenever it ends.

use std::time::Duration;

use lattice_runtime::grpc::Reconnect;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// A stream that cannot be opened within this is tried again. Opening takes no work, only a sibling.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that lasted so long worked; one that ends earlier is opened again after a longer pause each time, whatever
/// it brought.
const LASTED: Duration = Duration::from_secs(1);

/// A stream that is opened again when it ends.
pub(crate) struct Kept<Message> {
    stream: Option<(Streaming<Message>, Instant)>,
    reconnect: Reconnect,
    /// Before it is opened again.
    pause: Duration,
}

/// What happens on a stream that is kept alive.
pub(crate) enum Happened<Message> {
    /// It is open, also again.
    Opened,
    /// A message came.
    Message(Message),
    /// It could not be opened, or has ended; it will be opened again.
    Lost(Status),
}

impl<Message> Kept<Message> {
    /// Not open yet.
    pub(crate) fn new() -> Self {
        Self { stream: None, reconnect: Reconnect::new(), pause: Duration::ZERO }
    }

    /// What happens next; `None` once `ended`. `open` opens the stream, and is left alone while it is open.
    pub(crate) async fn next(
        &mut self,
        ended: &CancellationToken,
        open: impl Future<Output = Result<Streaming<Message>, Status>>,
    ) -> Option<Happened<Message>> {
        let happened = ended.run_until_cancelled(self.step(open)).await?;
        match &happened {
            Happened::Opened | Happened::Message(_) => {}
            Happened::Lost(_) => {
                if self.stream.take().is_some_and(|(_, opened)| opened.elapsed() >= LASTED) {
                    self.reconnect.reset();
                }
                self.pause = self.reconnect.next_delay();
            }
        }
        Some(happened)
    }

    async fn step(
        &mut self,
        open: impl Future<Output = Result<Streaming<Message>, Status>>,
    ) -> Happened<Message> {
        if let Some((stream, _)) = &mut self.stream {
            return match stream.message().await {
                Ok(Some(message)) => Happened::Message(message),
                Ok(None) => Happened::Lost(Status::unavailable("it closed the stream")),
                Err(status) => Happened::Lost(status),
            };
        }
        tokio::time::sleep(std::mem::take(&mut self.pause)).await;
        let opened = tokio::time::timeout(OPEN_TIMEOUT, open).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer"))) {
            Ok(stream) => {
                self.stream = Some((stream, Instant::now()));
                Happened::Opened
            }
            Err(status) => Happened::Lost(status),
        }
    }
}

/// A status for people: what it says, or else what it is called.
pub(crate) fn reason(status: &Status) -> String {
    let text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    // It goes into one line of a log.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
