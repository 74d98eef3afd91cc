//! A connection to a node's gateway.

use std::str::FromStr;
use std::time::Duration;

use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_runtime::grpc::MESSAGE_BYTES_MAX;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::output::Failure;

/// How long one answer may take; watches have no such limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The node that is asked. Dials at the first question.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    transport: InterceptedService<Channel, Credentials>,
    url: String,
}

/// What every request carries.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

impl Connection {
    /// A connection to the gateway at `url`, with `token` when it wants one. Call inside a tokio runtime.
    ///
    /// # Errors
    /// A usage failure when `url` is not a base URL, or `token` cannot be sent in a header.
    pub(crate) fn open(url: &str, token: Option<&str>) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_str(url).ok().filter(|endpoint| {
            let uri = endpoint.uri();
            uri.scheme_str() == Some("http") && uri.host().is_some()
        });
        let endpoint = endpoint.ok_or_else(|| {
            Failure::usage(format!("--url {url:?} is not a base URL: right would be http://127.0.0.1:8080"))
        })?;
        // Empty is what a variable that was not filled in leaves.
        let authorization = match token.filter(|token| !token.is_empty()) {
            None => None,
            Some(token) => {
                let mut value = MetadataValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                    Failure::usage("--token holds characters that a header cannot carry".to_owned())
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let channel = endpoint.connect_timeout(CONNECT_WITHIN).connect_lazy();
        let transport = InterceptedService::new(channel, Credentials { authorization });
        Ok(Self { transport, url: url.to_owned() })
    }

    /// Where the node is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key-value API.
    pub(crate) fn key_value(&self) -> KeyValueClient<InterceptedService<Channel, Credentials>> {
        KeyValueClient::new(self.transport.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The operators' API.
    pub(crate) fn coordinator(&self) -> SyncCoordinatorClient<InterceptedService<Channel, Credentials>> {
        SyncCoordinatorClient::new(self.transport.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A request with the deadline of an ordinary question.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(ANSWER_WITHIN);
        request
    }

    /// What a refused call means to the one who typed it.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        match status.code() {
            tonic::Code::NotFound => Failure::not_found(status.message()),
            tonic::Code::InvalidArgument => Failure::usage(status.message().to_owned()),
            tonic::Code::Unavailable => Failure::refused(format!("{}: {}", self.url, root_cause(status))),
            _ => Failure::refused(format!("{:?}: {}", status.code(), status.message())),
        }
    }
}

/// The innermost error of a status: `tonic` says "transport error" and keeps the reason below it.
fn root_cause(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
