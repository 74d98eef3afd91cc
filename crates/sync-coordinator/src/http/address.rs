//! Where peers' gateways are: base URLs as configured, and the names among them that stand for many.
//!
//! `dns+http://name:port` is every address of the name, asked again at every round, so that a headless
//! Kubernetes service is one line of configuration and nodes come and go behind it.

use std::collections::BTreeSet;
use std::time::Duration;

use lattice_runtime::config;
use url::Url;

/// A name with more addresses than this is cut: the rest is left out until the next round.
pub const ADDRESSES_MAX: usize = 64;

/// The most base URLs in all, names expanded.
pub const URLS_MAX: usize = 1_024;

/// A configured peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A base URL, without a slash at its end.
    Url(String),
    /// A name whose every address is a peer.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The path prefix, without a slash at its end.
        prefix: String,
    },
}

/// A name that could not be expanded.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver said no.
    #[error("cannot resolve {host}: {source}")]
    Failed {
        /// The name.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// The resolver said nothing.
    #[error("cannot resolve {host}: no answer within {} ms", within.as_millis())]
    TimedOut {
        /// The name.
        host: String,
        /// How long we waited.
        within: Duration,
    },
    /// There is no address.
    #[error("cannot resolve {host}: it has no address")]
    Nothing {
        /// The name.
        host: String,
    },
}

impl Address {
    /// Parses `coordinator.http_peers[index]`.
    ///
    /// # Errors
    /// A configuration error that names the element.
    pub fn parse(index: usize, text: &str) -> Result<Self, config::Error> {
        let refuse = |expected: &str| {
            Err(config::Error::value(format!("coordinator.http_peers[{index}]"), text, expected))
        };
        let expected = "must be a base URL like http://node-2:8080 or dns+http://nodes:8080";
        let (expands, rest) = match text.strip_prefix("dns+") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Ok(url) = Url::parse(rest) else { return refuse(expected) };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return refuse(expected) };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(expected);
        }
        if expands && url.scheme() != "http" {
            return refuse("must be dns+http: certificates are for names, not for the addresses behind them");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("must be a base URL without query and fragment");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must not carry a user name or password: nodes are known by their keys");
        }
        let prefix = url.path().trim_end_matches('/').to_owned();
        if expands {
            let Some(port) = url.port_or_known_default() else { return refuse(expected) };
            return Ok(Self::Name { host: host.to_owned(), port, prefix });
        }
        Ok(Self::Url(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// Parses the whole list.
    ///
    /// # Errors
    /// A configuration error that names the first wrong element.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Self>, config::Error> {
        texts.iter().enumerate().map(|(index, text)| Self::parse(index, text)).collect()
    }

    /// As configured, for people.
    pub fn text(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Name { host, port, prefix } => format!("dns+http://{host}:{port}{prefix}"),
        }
    }

    /// Whether talking to it takes certificates.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Url(url) if url.starts_with("https:"))
    }

    /// The base URLs that this stands for now, at most [`ADDRESSES_MAX`], sorted.
    ///
    /// # Errors
    /// [`ResolveError`] when the name has no address within `timeout`.
    pub async fn expand(&self, timeout: Duration) -> Result<Vec<String>, ResolveError> {
        let (host, port, prefix) = match self {
            Self::Url(url) => return Ok(vec![url.clone()]),
            Self::Name { host, port, prefix } => (host, *port, prefix),
        };
        // A literal IPv6 address is in brackets in a URL, and without them for the resolver.
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let found = match tokio::time::timeout(timeout, tokio::net::lookup_host((name, port))).await {
            Ok(Ok(found)) => found,
            Ok(Err(source)) => return Err(ResolveError::Failed { host: host.clone(), source }),
            Err(_) => return Err(ResolveError::TimedOut { host: host.clone(), within: timeout }),
        };
        let addresses: BTreeSet<_> = found.collect();
        if addresses.is_empty() {
            return Err(ResolveError::Nothing { host: host.clone() });
        }
        Ok(addresses.iter().take(ADDRESSES_MAX).map(|address| format!("http://{address}{prefix}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_lose_their_last_slash_and_keep_their_prefix() {
        for (text, expected) in [
            ("http://node-2:8080", "http://node-2:8080"),
            ("http://node-2:8080/", "http://node-2:8080"),
            ("https://example.org/lattice/", "https://example.org/lattice"),
        ] {
            assert_eq!(Address::parse(0, text).unwrap(), Address::Url(expected.to_owned()));
        }
    }

    #[test]
    fn a_wrong_element_is_named_with_what_would_be_right() {
        for (text, expected) in [
            ("node-2:8080", "must be a base URL like"),
            ("ftp://node-2", "must be a base URL like"),
            ("dns+https://nodes:8080", "must be dns+http"),
            ("http://node-2:8080/?a=b", "without query"),
            ("http://me:secret@node-2:8080", "must not carry"),
            ("", "must be a base URL like"),
        ] {
            let error = Address::parse(3, text).unwrap_err().to_string();
            assert!(error.starts_with("coordinator.http_peers[3] is "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_its_addresses() {
        let name = Address::parse(0, "dns+http://127.0.0.1:8080/prefix/").unwrap();
        assert_eq!(name.text(), "dns+http://127.0.0.1:8080/prefix");
        let urls = name.expand(Duration::from_secs(5)).await.unwrap();
        assert_eq!(urls, ["http://127.0.0.1:8080/prefix"]);
        let six = Address::parse(0, "dns+http://[::1]:8080").unwrap();
        assert_eq!(six.expand(Duration::from_secs(5)).await.unwrap(), ["http://[::1]:8080"]);
    }

    #[tokio::test]
    async fn a_name_without_address_says_so() {
        let name = Address::parse(0, "dns+http://no-such-name.invalid:8080").unwrap();
        let error = name.expand(Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve no-such-name.invalid: "), "{error}");
    }
}
