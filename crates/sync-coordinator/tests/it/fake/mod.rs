//! Siblings that live in memory: a store whose tree is one bucket, and sensors that share a network.

pub(crate) mod sensor;
pub(crate) mod store;

use std::pin::Pin;

use futures::Stream;
use lattice_runtime::config::Listen;
use lattice_runtime::grpc::{Channel, Server};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream that is fed through the sender.
pub(crate) fn stream<T: Send + 'static>() -> (mpsc::Sender<Result<T, Status>>, Answers<T>) {
    let (sender, receiver) = mpsc::channel(64);
    (sender, Box::pin(ReceiverStream::new(receiver)))
}

/// A fake behind a socket, so that it can go away and come back.
pub(crate) struct Served {
    routes: Routes,
    listen: Listen,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Served {
    pub(crate) async fn start(routes: Routes) -> Self {
        let mut served = Self { routes, listen: "127.0.0.1:0".parse().unwrap(), running: None };
        served.come_back().await;
        served
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::connect(&self.listen)
    }

    pub(crate) async fn go_away(&mut self) {
        let (token, running) = self.running.take().unwrap();
        token.cancel();
        // Streams that never end would be waited for.
        running.abort();
        let _ = running.await;
    }

    pub(crate) async fn come_back(&mut self) {
        let server = Server::bind("test.listen", &self.listen).await.unwrap();
        self.listen = server.local();
        let token = CancellationToken::new();
        let serving = server.serve(self.routes.clone(), token.clone());
        self.running = Some((token, tokio::spawn(serving)));
    }
}
