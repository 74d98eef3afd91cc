//! A connection to a node's gateway.

use std::ffi::OsStr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use gateway::problem::{Kind, Sibling};
use lattice_proto::coordinator::v1::sync_coordinator_client::SyncCoordinatorClient;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_runtime::grpc::{MESSAGE_BYTES_MAX, innermost};
use lattice_runtime::{duration, files};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::output::Failure;

/// Where a node is asked, unless it is said otherwise.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:8080";
/// How long one answer may take; watches have no such limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often a connection is tried while nothing comes, and how long the answer to that may take: a command that
/// follows events would else not notice that the node's host is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// More than the authorities of any system.
const CA_BYTES_MAX: u64 = 4 << 20;
const PEM_BEGINS: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The node that is asked. Dials at the first question.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    transport: InterceptedService<Channel, Credentials>,
    /// Its path comes before that of every call.
    origin: Uri,
    url: String,
    has_token: bool,
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
    /// A connection to the gateway at `url`, below its path if it has one, with `token` when the node wants one.
    /// TLS is checked against the authorities in the PEM file `ca`, else against the system's. Call inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// A usage failure when `url` is not a base URL, `token` cannot be sent in a header, or `ca` cannot be used.
    pub(crate) fn open(url: &OsStr, token: Option<&OsStr>, ca: Option<&OsStr>) -> Result<Self, Failure> {
        let (url, origin) = url.to_str().and_then(|url| Some((url, origin(url)?))).ok_or_else(|| {
            Failure::usage(format!(
                "--url, or the variable LATTICE_URL: {} is not a base URL: right would be {URL_DEFAULT}, or with a path \
                 and nothing after it",
                without_credentials(&url.to_string_lossy())
            ))
        })?;
        // Empty is what a variable that was not filled in leaves.
        let authorization = match token.filter(|token| !token.is_empty()) {
            None => None,
            Some(token) => {
                let value = token.to_str().and_then(|token| format!("Bearer {token}").parse().ok());
                let mut value: MetadataValue<Ascii> = value.ok_or_else(|| {
                    let holds = "holds characters that a header cannot carry";
                    Failure::usage(format!("--token, or the variable LATTICE_TOKEN, {holds}"))
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut endpoint = Endpoint::from(origin.clone())
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWERED_WITHIN);
        // Authorities that cannot be used are told of, whether they are needed or not.
        let trust = trust(ca.map(Path::new))?;
        if origin.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(trust).map_err(|error| {
                Failure::usage(format!("cannot check the node's certificate: {}", innermost(&error)))
            })?;
        }
        let has_token = authorization.is_some();
        let transport = InterceptedService::new(endpoint.connect_lazy(), Credentials { authorization });
        Ok(Self { transport, origin, url: url.to_owned(), has_token })
    }

    /// Where the node is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key-value API.
    pub(crate) fn key_value(&self) -> KeyValueClient<InterceptedService<Channel, Credentials>> {
        KeyValueClient::with_origin(self.transport.clone(), self.origin.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The operators' API.
    pub(crate) fn coordinator(&self) -> SyncCoordinatorClient<InterceptedService<Channel, Credentials>> {
        SyncCoordinatorClient::with_origin(self.transport.clone(), self.origin.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A request with the deadline of an ordinary question.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(ANSWER_WITHIN);
        request
    }

    /// What it means that the node answered without `what` belongs into its answer.
    pub(crate) fn nonsense(&self, what: &str) -> Failure {
        Failure::of_node(Kind::Internal, format!("{}: the node answered without {what}", self.url))
    }

    /// What it means that a stream of `what` ended before the one who follows it wanted that.
    pub(crate) fn ended(&self, what: &str, status: &Status) -> Failure {
        // They may be of either API: what ends a stream means the same in both.
        let kind = match std::error::Error::source(status) {
            Some(_) => Kind::Unavailable,
            None => Sibling::KeyValue.kind(status),
        };
        Failure::of_node(kind, format!("{}: the {what} ended: {}", self.url, root_cause(status)))
            .refused_anyway()
    }

    /// What a refused call of the operators' API means to the one who typed it.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        self.failure_of(Sibling::Coordinator, status)
    }

    /// What a refused call of the key-value API means to the one who typed it.
    pub(crate) fn key_failure(&self, status: &Status) -> Failure {
        self.failure_of(Sibling::KeyValue, status)
    }

    fn failure_of(&self, sibling: Sibling, status: &Status) -> Failure {
        // What comes with an error below it is no answer of the node.
        if std::error::Error::source(status).is_some() {
            let cause = root_cause(status);
            let tls = self.origin.scheme_str() == Some("https");
            return match status.code() {
                Code::Unavailable => {
                    let what_to_do = what_to_do(tls, &cause);
                    Failure::of_node(Kind::Unavailable, format!("{}: {cause}: {what_to_do}", self.url))
                }
                Code::Cancelled | Code::DeadlineExceeded => {
                    let within = duration::print(ANSWER_WITHIN);
                    Failure::of_node(Kind::Timeout, format!("{}: did not answer within {within}", self.url))
                }
                _ if tls => Failure::of_node(Kind::Unavailable, format!("{}: {cause}", self.url)),
                // So does a server of TLS end what it does not understand.
                _ => {
                    let what_to_do =
                        "see whether the node still runs; if it serves TLS there, ask at https://";
                    Failure::of_node(Kind::Unavailable, format!("{}: {cause}: {what_to_do}", self.url))
                }
            };
        }
        let said = status.message();
        match (status.code(), sibling.kind(status)) {
            (Code::Unauthenticated, _) => {
                let why = match self.has_token {
                    true => "the node does not know this token",
                    false => "the node asks for a token",
                };
                let how = "give one in the variable LATTICE_TOKEN, or with --token";
                Failure::of_node(Kind::Unauthorized, format!("{}: {why}: {how}", self.url))
            }
            (_, kind) if said.is_empty() => Failure::of_node(kind, format!("{}: {}", self.url, kind.title())),
            (Code::Unavailable, kind) => Failure::of_node(kind, format!("{}: {said}", self.url)),
            (_, kind) => Failure::of_node(kind, said),
        }
    }
}

/// What a person can do about a call that was not answered.
fn what_to_do(tls: bool, cause: &str) -> &'static str {
    if tls && cause.contains("InvalidContentType") {
        "it serves no TLS there: ask at http://"
    } else if tls && cause.contains("certificate") {
        "--ca, or the variable LATTICE_CA, names the PEM file of the authority that vouches for it"
    } else {
        "see whether a node runs there, and whether --url, or the variable LATTICE_URL, is right"
    }
}

/// What a node's certificate is checked against.
fn trust(ca: Option<&Path>) -> Result<ClientTlsConfig, Failure> {
    let Some(path) = ca else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let refuse = |why: String| Failure::usage(format!("--ca {:?}: {why}", path.display().to_string()));
    let pem = files::read_named(path, CA_BYTES_MAX).map_err(|why| refuse(format!("it {why}")))?;
    if !pem.windows(PEM_BEGINS.len()).any(|window| window == PEM_BEGINS) {
        return Err(refuse("it is not a PEM file with certificates".to_owned()));
    }
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// The base URL to put the path of a call after: a path without a slash at its end, and no query.
fn origin(url: &str) -> Option<Uri> {
    let uri = Uri::from_str(url.trim_end_matches('/')).ok()?;
    let authority = uri.authority()?;
    // `Uri` takes any port, and names none when it is none.
    let port = authority.as_str().strip_prefix(authority.host())?;
    let is_base = matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.host().is_empty()
        && (port.is_empty() || authority.port_u16().is_some_and(|port| port != 0))
        && uri.query().is_none();
    (is_base && !url.contains('#')).then_some(uri)
}

/// A URL as it may be shown: what stands before an `@` may be a password.
fn without_credentials(url: &str) -> String {
    match url.rsplit_once('@') {
        None => format!("{url:?}"),
        Some((_, rest)) => format!("..@{rest} (tokens go into LATTICE_TOKEN)"),
    }
}

/// The innermost error of a status: `tonic` says "transport error" and keeps the reason below it.
fn root_cause(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => innermost(cause).to_string(),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn authorities_that_cannot_be_used_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let ca = Some(path.as_os_str());
        let open = || format!("{:?}", Connection::open(OsStr::new("https://node"), None, ca).unwrap_err());
        assert!(open().contains("cannot be read"), "{}", open());
        std::fs::write(&path, "no PEM").unwrap();
        assert!(open().contains("is not a PEM file with certificates"), "{}", open());
        let plain = Connection::open(OsStr::new("http://node"), None, ca);
        assert!(plain.is_err(), "also where none are needed");
    }

    #[test]
    fn a_base_url_may_have_a_path_and_nothing_else() {
        for (url, path) in [
            ("http://node:8080", "/"),
            ("http://node:8080/", "/"),
            ("http://node/lattice/", "/lattice"),
            ("http://[::1]:8080/a/b", "/a/b"),
            ("https://node.example", "/"),
        ] {
            assert_eq!(origin(url).map(|uri| uri.path().to_owned()).as_deref(), Some(path), "{url}");
        }
        for url in [
            "node:8080",
            "ftp://node",
            "http://",
            "/path",
            "http://node/?a=b",
            "http://node/#a",
            "",
            "http://node:65536",
            "http://node:0",
            "http://node:abc",
            "http://node:",
            "http://[::1]:-1",
            "http://user:password@node:8080",
        ] {
            assert_eq!(origin(url), None, "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        let refused = Connection::open(OsStr::new("http://user:pass@word@node"), None, None).unwrap_err();
        let refused = refused.to_string();
        assert!(
            !refused.contains("pass") && !refused.contains("word@") && refused.contains("@node"),
            "{refused}"
        );
    }
}
