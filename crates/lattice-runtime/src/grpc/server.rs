//! A gRPC server on a socket of its own.

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::layered;
use crate::config::Listen;
use crate::http::{BindError, Listener, Protocol};

/// A bound gRPC port, not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
}

impl Server {
    /// Binds the port; `field` is its configuration key (`store.listen`), for the error.
    pub async fn bind(field: &str, listen: &Listen) -> Result<Self, BindError> {
        Ok(Self { listener: Listener::bind(field, listen).await? })
    }

    /// What was bound, with the actual port; what a [`super::Channel`] dials.
    pub fn local(&self) -> Listen {
        self.listener.local()
    }

    /// Serves `routes` behind the common layers until `shutdown`; then finishes what is in flight, within
    /// [`crate::http::DRAIN_MAX`].
    pub async fn serve(self, routes: Routes, shutdown: CancellationToken) {
        self.listener.serve(layered(routes), Protocol::Http2, shutdown).await;
    }
}
