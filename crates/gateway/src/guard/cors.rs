//! Pages of other sites: nobody's, unless `gateway.cors_origins` names them.

use http::{HeaderName, HeaderValue, Method, Uri, header};
use lattice_runtime::config;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::REQUEST_ID;

const FIELD: &str = "gateway.cors_origins";
const ANY: &str = "*";
/// How long a browser may remember what it was allowed.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

const VERSION: HeaderName = HeaderName::from_static("lattice-version");
const EXPIRES: HeaderName = HeaderName::from_static("lattice-expires");
const MIN_VERSION: HeaderName = HeaderName::from_static("lattice-min-version");
const WATCH_SINCE: HeaderName = HeaderName::from_static("lattice-watch-since");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The sites whose pages may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    any: bool,
    listed: Vec<HeaderValue>,
}

impl Origins {
    /// Reads `gateway.cors_origins`.
    pub(crate) fn of(gateway: &config::Gateway) -> Result<Self, config::Error> {
        let mut origins = Self::default();
        for (index, text) in gateway.cors_origins.iter().enumerate() {
            if text == ANY {
                origins.any = true;
                continue;
            }
            let value = HeaderValue::try_from(text.as_str()).ok().filter(|_| is_origin(text));
            let refused = || {
                let expected = "must be an origin like https://app.example:8443, without a path, or *";
                config::Error::value(format!("{FIELD}[{index}]"), text, expected)
            };
            origins.listed.push(value.ok_or_else(refused)?);
        }
        Ok(origins)
    }

    /// Whether pages of a host, in lower case and without its port, may call.
    pub(crate) fn name(&self, host: &str) -> bool {
        let of = |origin: &HeaderValue| Some(origin.to_str().ok()?.parse::<Uri>().ok()?.host()? == host);
        self.any || self.listed.iter().any(|origin| of(origin) == Some(true))
    }

    /// Whether pages of `origin` may call.
    pub(crate) fn allow(&self, origin: &HeaderValue) -> bool {
        self.any || self.listed.contains(origin)
    }
}

/// What tells browsers so; `None` when there is nothing to tell.
pub(crate) fn cors(origins: &Origins) -> Option<CorsLayer> {
    if *origins == Origins::default() {
        return None;
    }
    let allowed = if origins.any { AllowOrigin::any() } else { AllowOrigin::list(origins.listed.clone()) };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::PUT, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            MIN_VERSION,
            LAST_EVENT_ID,
            REQUEST_ID,
            TRACEPARENT,
        ])
        .expose_headers([header::ETAG, header::RETRY_AFTER, VERSION, EXPIRES, WATCH_SINCE, REQUEST_ID])
        .max_age(MAX_AGE);
    Some(layer)
}

/// As browsers write it: a scheme, a host in lower case, and a port that is not the scheme's own.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let Ok(parsed) = authority.parse::<http::uri::Authority>() else { return false };
    let own_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => return false,
    };
    !authority.contains('@')
        && !parsed.host().is_empty()
        && parsed.port_u16() != own_port
        && authority == authority.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &[&str]) -> Result<Origins, config::Error> {
        let cors_origins = list.iter().map(|origin| (*origin).to_owned()).collect();
        Origins::of(&config::Gateway { cors_origins, ..Default::default() })
    }

    #[test]
    fn origins_are_as_browsers_write_them() {
        for (text, good) in [
            ("https://app.example", true),
            ("http://localhost:3000", true),
            ("https://[::1]:8443", true),
            ("*", true),
            ("https://app.example/", false),
            ("https://app.example:443", false),
            ("https://App.example", false),
            ("https://user@app.example", false),
            ("app.example", false),
            ("ftp://app.example", false),
            ("https://", false),
            ("null", false),
        ] {
            assert_eq!(origins(&[text]).is_ok(), good, "{text}");
        }
        let error = origins(&["https://a.example", "b"]).unwrap_err().to_string();
        assert!(error.starts_with("gateway.cors_origins[1] is \"b\": must be an origin"), "{error}");
    }

    #[test]
    fn only_who_is_listed_is_allowed() {
        let value = HeaderValue::from_static;
        let listed = origins(&["https://app.example"]).unwrap();
        assert!(listed.allow(&value("https://app.example")));
        assert!(!listed.allow(&value("http://app.example")) && !listed.allow(&value("null")));
        assert!(origins(&["*"]).unwrap().allow(&value("https://anybody.example")));
        assert!(!origins(&[]).unwrap().allow(&value("https://anybody.example")));
        assert!(cors(&origins(&[]).unwrap()).is_none() && cors(&listed).is_some());
    }
}
