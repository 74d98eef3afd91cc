//! The service as a whole: binds the port, serves until it is told to stop, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lattice_proto::reads::Reads;
use lattice_runtime::config::{self, Listen};
use lattice_runtime::grpc::Channel;
use lattice_runtime::http::{BindError, DRAIN_MAX, Listener, Protocol, Tls};
use lattice_runtime::process::Failure;
use lattice_runtime::{Config, Runtime, TaskGroup, tasks};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::compression::CompressionLayer;

use crate::app::App;
use crate::auth::Auth;
use crate::guard::{Compressible, Origins, cors};
use crate::rpc;
use crate::server::Server;

/// Beyond the listener's own drain, so that it is the listener that cuts what is left.
const GRACE: Duration = DRAIN_MAX.saturating_add(Duration::from_secs(2));

/// How the gateway calls its siblings: over sockets, or in memory.
#[derive(Debug, Clone)]
pub struct Channels {
    /// The state store.
    pub store: Channel,
    /// The same store, where it is in this process, for reads that need no call.
    pub reads: Option<Arc<dyn Reads>>,
    /// The P2P sensor.
    pub sensor: Channel,
    /// The sync coordinator.
    pub coordinator: Channel,
}

/// Why the gateway does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is refused: exit status 2.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The port could not be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The built-in descriptors cannot be served.
    #[error("load descriptors for reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// It stopped serving by itself.
    #[error(transparent)]
    Tasks(#[from] tasks::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => error.into(),
            Error::Listen(error) => error.into(),
            Error::Reflection(_) => Self::refused(error),
            Error::Tasks(error) => error.into(),
        }
    }
}

/// The gateway, bound and not yet serving.
pub struct Service {
    listener: Listener,
    address: SocketAddr,
    tls: Option<Tls>,
    server: Server,
    tasks: TaskGroup,
}

impl Service {
    /// Refuses values of the configuration, and looks at nothing else.
    ///
    /// # Errors
    /// [`Error::Config`] for an origin that is none, or when the port would be open to other hosts without tokens.
    pub fn check_values(config: &Config) -> Result<(), Error> {
        Origins::of(&config.gateway)?;
        Ok(refuse_open(config, config.gateway.listen)?)
    }

    /// Refuses what [`Self::bind`] would refuse, and leaves the port free.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub async fn check(config: &Config) -> Result<(), Error> {
        Auth::load(&config.gateway)?;
        tls(&config.gateway)?;
        refuse_open(config, config.gateway.listen)?;
        Listener::bind("gateway.listen", &Listen::Tcp(config.gateway.listen)).await?;
        Ok(())
    }

    /// Reads the tokens and the certificate and binds `gateway.listen`; calls no sibling yet. Call it inside the
    /// runtime.
    ///
    /// # Errors
    /// [`Error::Config`] when one of these files is refused, or when the port would be open to other hosts
    /// without tokens; [`Error::Listen`] when the port cannot be had.
    pub async fn bind(config: &Config, runtime: &Runtime, channels: Channels) -> Result<Self, Error> {
        let auth = Auth::load(&config.gateway)?;
        let tls = tls(&config.gateway)?;
        refuse_open(config, config.gateway.listen)?;
        let listener = Listener::bind("gateway.listen", &Listen::Tcp(config.gateway.listen)).await?;
        let address = listener.local_addr().unwrap_or(config.gateway.listen);
        // Once more with what was really bound: this is the line between a node and the world.
        refuse_open(config, address)?;

        let listener = listener.with_tls(tls.clone()).with_connections_max(config.gateway.connections_max);
        let tasks = TaskGroup::new("gateway");
        let app = App::new(config, runtime, channels, auth, tasks.token());
        let server = Server::new(Arc::new(app)).await?;
        Ok(Self { listener, address, tls, server, tasks })
    }

    /// Where it serves, with the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then ends event streams, finishes the requests in flight, and returns.
    ///
    /// # Errors
    /// [`Error::Tasks`] when serving failed, or what was in flight did not end in time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { listener, address, tls, server, tasks } = self;
        tracing::info!(listen = %address, tls = tls.is_some(), "gateway serves");
        if let Some(tokens) = server.tokens() {
            let stopping = tasks.token();
            tasks.spawn("token file", async move {
                tokens.follow(stopping).await;
                Ok(())
            });
        }
        if let Some(certificate) = tls.map(|tls| tls.certificate()) {
            let stopping = tasks.token();
            tasks.spawn("certificate", async move {
                certificate.follow(stopping).await;
                Ok(())
            });
        }
        let (stopping, mut health) = (tasks.token(), server.health());
        tasks.spawn("end health watches", async move {
            stopping.cancelled().await;
            rpc::stop_watches(&mut health).await;
            Ok(())
        });
        let stopping = tasks.token();
        tasks.spawn_essential("serve", async move {
            let server = ServiceBuilder::new()
                .layer(CompressionLayer::new().compress_when(Compressible))
                .option_layer(cors(server.origins()))
                .service(server);
            listener.serve(server, Protocol::Both, stopping).await;
            Ok(())
        });
        Ok(tasks.run_until(shutdown, GRACE).await?)
    }
}

fn tls(gateway: &config::Gateway) -> Result<Option<Tls>, config::Error> {
    let (Some(cert), Some(key)) = (&gateway.tls_cert, &gateway.tls_key) else { return Ok(None) };
    Tls::load(cert.clone(), key.clone()).map(Some)
}

fn refuse_open(config: &Config, address: SocketAddr) -> Result<(), config::Error> {
    let gateway = &config.gateway;
    if gateway.token_file.is_some() || gateway.insecure || address.ip().is_loopback() {
        return Ok(());
    }
    Err(config::Error::value(
        "gateway.listen",
        address.to_string(),
        "is reachable by others and has no tokens: set gateway.token_file, listen on 127.0.0.1, or set \
         gateway.insecure = true",
    ))
}
