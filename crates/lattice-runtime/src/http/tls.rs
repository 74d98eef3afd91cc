//! TLS for a port: rustls, with a certificate that is read again when its files change.
//!
//! HTTP/1.1 and HTTP/2 are told apart by ALPN where a client offers it, and by its first bytes where it does
//! not. Handshakes are bounded in time and in number, since each costs a signature before anything is known
//! of who asks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use super::stream::Stream;
use crate::config::Error;
use crate::files;
use crate::reload::Reloaded;

/// Handshakes of one port at a time; more wait.
pub const HANDSHAKES_MAX: usize = 256;
/// How long a handshake may take, the wait for its place included.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

const CERT_FIELD: &str = "gateway.tls_cert";
const KEY_FIELD: &str = "gateway.tls_key";
/// More than any chain has.
const FILE_BYTES_MAX: u64 = 256 << 10;
const CERTIFICATES_MAX: usize = 16;

/// A certificate with its key, and the chain that vouches for it.
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads a certificate from PEM files.
    ///
    /// # Errors
    /// What is wrong with which of the two files; never what a key holds.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let refuse_cert = |why: String| Error::value(CERT_FIELD, cert.display().to_string(), why);
        let refuse_key = |why: String| Error::value(KEY_FIELD, key.display().to_string(), why);
        let chain =
            chain(&files::read_named(cert, FILE_BYTES_MAX).map_err(refuse_cert)?).map_err(refuse_cert)?;
        let private = files::read_secret(key, FILE_BYTES_MAX).map_err(refuse_key)?;
        let private = PrivateKeyDer::from_pem_slice(&private)
            .map_err(|_| refuse_key("must be a PEM file with a private key".to_owned()))?;
        let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                refuse_key(format!("is not the key of {CERT_FIELD} ({})", cert.display()))
            }
            rustls::Error::InvalidCertificate(_) => {
                refuse_cert("must begin with an X.509 certificate".to_owned())
            }
            _ => refuse_key("must be an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key".to_owned()),
        })?;
        Ok(Self(Arc::new(certified)))
    }
}

impl PartialEq for Certificate {
    /// A certificate has one key: the public half is in it.
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// What a port needs to serve TLS; cheap to clone, and clones share the bound on handshakes.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
    handshake_max: Duration,
    certificate: Arc<Reloaded<Certificate>>,
}

impl Tls {
    /// Reads the PEM files of a certificate (`gateway.tls_cert`) and its key (`gateway.tls_key`).
    ///
    /// # Errors
    /// As for [`Certificate::read`].
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, Error> {
        let certificate = Reloaded::load(CERT_FIELD, move || Certificate::read(&cert, &key))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the suites of TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Newest(certificate.clone())));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            handshake_max: HANDSHAKE_MAX,
            certificate,
        })
    }

    /// The certificate, to be read again: [`Reloaded::follow`].
    pub fn certificate(&self) -> Arc<Reloaded<Certificate>> {
        self.certificate.clone()
    }

    /// Shakes hands. `None` when that failed or took too long, which is no news.
    pub(super) async fn accept(&self, stream: Box<dyn Stream>) -> Option<Box<dyn Stream>> {
        let shaken = tokio::time::timeout(self.handshake_max, async {
            // Closed never.
            let _place = self.handshakes.acquire().await;
            self.acceptor.accept(stream).await
        });
        match shaken.await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("TLS handshake took too long");
                None
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Every new connection gets the certificate of now.
#[derive(Debug)]
struct Newest(Arc<Reloaded<Certificate>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().0.clone())
    }
}

/// The one provider of cryptography that the project uses, whatever else may be linked in.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX + 1).collect();
    let chain = chain.unwrap_or_default();
    if (1..=CERTIFICATES_MAX).contains(&chain.len()) {
        return Ok(chain);
    }
    Err(format!("must be a PEM file with 1 to {CERTIFICATES_MAX} certificates, the node's own first"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::reload::Change;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn cert(&self) -> PathBuf {
            self.folder.path().join("tls.crt")
        }

        fn key(&self) -> PathBuf {
            self.folder.path().join("tls.key")
        }

        fn write(&self, cert: &str, key: &str) {
            fs::write(self.cert(), cert).unwrap();
            fs::write(self.key(), key).unwrap();
            fs::set_permissions(self.key(), fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn load(&self) -> Result<Tls, Error> {
            Tls::load(self.cert(), self.key())
        }
    }

    fn make() -> (CertificateDer<'static>, String, String) {
        let Made { cert, key_pair } = generate_simple_self_signed(["node".to_owned()]).unwrap();
        (cert.der().clone(), cert.pem(), key_pair.serialize_pem())
    }

    /// Connects as a client that trusts `root` alone and offers `protocols`.
    async fn connect(
        tls: &Tls,
        root: &CertificateDer<'static>,
        protocols: &[&str],
    ) -> Result<(TlsStream<DuplexStream>, Box<dyn Stream>), std::io::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (client, server) = tokio::io::duplex(1 << 16);
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) =
            tokio::join!(connector.connect("node".try_into().unwrap(), client), tls.accept(Box::new(server)));
        Ok((client?, server.expect("a client that is content means a handshake")))
    }

    #[tokio::test]
    async fn both_versions_are_offered_and_bytes_pass() {
        let files = Files::new();
        let (der, cert, key) = make();
        files.write(&cert, &key);
        let tls = files.load().unwrap();
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"][..], Some("http/1.1")), (&[][..], None)]
        {
            let (mut client, mut server) = connect(&tls, &der, offered).await.unwrap();
            assert_eq!(client.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));
            client.write_all(b"hello").await.unwrap();
            let mut bytes = [0; 5];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"hello");
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_served_and_a_bad_one_is_not() {
        let files = Files::new();
        let (first, cert, key) = make();
        files.write(&cert, &key);
        let tls = files.load().unwrap();
        let (second, cert, key) = make();

        // Half of a renewal: the certificate is there and its key is not yet.
        fs::write(files.cert(), &cert).unwrap();
        assert_eq!(tls.certificate().reload(), Change::Refused);
        connect(&tls, &first, &[]).await.unwrap();

        files.write(&cert, &key);
        assert_eq!(tls.certificate().reload(), Change::Taken);
        assert_eq!(tls.certificate().reload(), Change::None);
        connect(&tls, &second, &[]).await.unwrap();
        assert!(connect(&tls, &first, &[]).await.is_err());
    }

    #[tokio::test]
    async fn a_handshake_that_does_not_go_on_is_cut() {
        let files = Files::new();
        let (_, cert, key) = make();
        files.write(&cert, &key);
        let tls = Tls { handshake_max: Duration::from_millis(1), ..files.load().unwrap() };
        let (_silent, server) = tokio::io::duplex(64);
        assert!(tls.accept(Box::new(server)).await.is_none());

        // Nor does one that waits for its place wait for ever.
        let _taken = tls.handshakes.acquire_many(HANDSHAKES_MAX as u32).await.unwrap();
        let (_silent, server) = tokio::io::duplex(64);
        assert!(tls.accept(Box::new(server)).await.is_none());
    }

    #[tokio::test]
    async fn what_is_not_tls_is_cut() {
        let files = Files::new();
        let (_, cert, key) = make();
        files.write(&cert, &key);
        let (mut client, server) = tokio::io::duplex(1 << 10);
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(files.load().unwrap().accept(Box::new(server)).await.is_none());
    }

    #[test]
    fn files_that_cannot_be_used_are_refused_by_key_and_tell_no_secret() {
        let (_, cert, key) = make();
        let (_, _, other_key) = make();
        let garbled = cert.replace("MII", "AII");
        let many = cert.repeat(CERTIFICATES_MAX + 1);
        let files = Files::new();
        let refusal = || files.load().unwrap_err().to_string();
        assert!(refusal().starts_with("gateway.tls_cert is ") && refusal().contains("cannot be read"));
        for (cert, key, field, expected) in [
            ("", key.as_str(), CERT_FIELD, "must be a PEM file with 1 to 16 certificates"),
            (&many, &key, CERT_FIELD, "must be a PEM file with 1 to 16 certificates"),
            (&garbled, &key, CERT_FIELD, "must begin with an X.509 certificate"),
            (&cert, "", KEY_FIELD, "must be a PEM file with a private key"),
            (&cert, &cert, KEY_FIELD, "must be a PEM file with a private key"),
            (&cert, &other_key, KEY_FIELD, "is not the key of gateway.tls_cert"),
        ] {
            files.write(cert, key);
            let refusal = refusal();
            assert!(refusal.starts_with(&format!("{field} is ")) && refusal.contains(expected), "{refusal}");
        }
        files.write(&cert, &key);
        assert!(files.load().is_ok());
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refusal().starts_with("gateway.tls_key is ") && refusal().contains("open to other users"));
    }
}
