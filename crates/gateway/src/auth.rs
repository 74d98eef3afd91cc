//! Who asks, and whether that suffices.
//!
//! Tokens come from one file, which is read again when it changes, and are kept as digests only. Comparing digests of fixed size, all of them and
//! without stopping early, tells a caller nothing about how close a guess was. A token is never logged and
//! never part of an error.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, Method, Uri, header};
use lattice_core::model::Digest;
use lattice_runtime::reload::Reloaded;
use lattice_runtime::{config, files};

use crate::access::{Access, Role};
use crate::guard::Origins;
use crate::problem::{Kind, Problem};

const FIELD: &str = "gateway.token_file";
const FILE_BYTES_MAX: u64 = 64 * 1024;
const TOKENS_MAX: usize = 1_000;
const TOKEN_BYTES_MAX: usize = 512;

pub(crate) const FOREIGN_ORIGIN: &str =
    "the Origin header names another site, and this gateway asks for no token";
pub(crate) const FOREIGN_HOST: &str = "the Host header names neither an IP address nor localhost, as a page of another site could make a \
                            browser do, and this gateway asks for no token: ask by one of these, or name the site in \
                            gateway.cors_origins, or have tokens (gateway.token_file)";

const CHALLENGE: &str = "Bearer realm=\"lattice\"";
const CHALLENGE_UNKNOWN: &str = "Bearer realm=\"lattice\", error=\"invalid_token\"";
const CHALLENGE_ROLE: &str = "Bearer realm=\"lattice\", error=\"insufficient_scope\"";

/// What the caller of this request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grant(pub(crate) Role);

/// Why a caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token was sent.
    Missing,
    /// The token is not in the file.
    Unknown,
    /// The token's role does not include this one.
    Role(Role),
}

/// Decides who may do what.
pub(crate) struct Auth {
    /// `None`: no token file, so everybody who reaches the port may do everything.
    tokens: Option<Arc<Reloaded<Tokens>>>,
    /// Sites whose pages may call.
    origins: Origins,
    /// Without tokens, only this machine reaches the port.
    local: bool,
}

/// What each token, by its digest, allows.
pub(crate) type Tokens = Vec<(Digest, Role)>;

impl Auth {
    /// Reads the token file, if there is one.
    pub(crate) fn load(gateway: &config::Gateway) -> Result<Self, config::Error> {
        let origins = Origins::of(gateway)?;
        let local = !gateway.insecure;
        let Some(path) = gateway.token_file.clone() else { return Ok(Self { tokens: None, origins, local }) };
        let tokens = Reloaded::load(FIELD, move || {
            read(&path).map_err(|expected| config::Error::value(FIELD, path.display().to_string(), expected))
        })?;
        Ok(Self { tokens: Some(tokens), origins, local })
    }

    /// The sites whose pages may call.
    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The tokens, to be read again: [`Reloaded::follow`].
    pub(crate) fn tokens(&self) -> Option<Arc<Reloaded<Tokens>>> {
        self.tokens.clone()
    }

    /// Whether the sender of `headers` may do what needs `access`.
    pub(crate) fn check(&self, headers: &HeaderMap, access: Access) -> Result<Grant, Denied> {
        let Some(tokens) = &self.tokens else { return Ok(Grant(Role::Admin)) };
        let Access::Needs(needed) = access else { return Ok(Grant(Role::Read)) };
        let token = bearer(headers).ok_or(Denied::Missing)?;
        let role = role_of(&tokens.current(), token).ok_or(Denied::Unknown)?;
        if role < needed {
            return Err(Denied::Role(needed));
        }
        Ok(Grant(role))
    }

    /// Why this is not done although no token is asked for: a page of another site may have sent it, and the browser of
    /// somebody who may reach the port would act for that site. `None`: it is done.
    pub(crate) fn foreign(
        &self,
        access: Access,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<&'static str> {
        if self.tokens.is_some() {
            return None;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let own = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
        let guarded = self.local && matches!(access, Access::Needs(_));
        if guarded && !own.is_none_or(|own| self.is_ours(own)) {
            return Some(FOREIGN_HOST);
        }
        let origin = headers.get(header::ORIGIN)?;
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || self.origins.allow(origin) {
            return None;
        }
        let site = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        (site.is_none() || site != own).then_some(FOREIGN_ORIGIN)
    }

    /// Whether a name by which a node on this machine is asked cannot be another site's, whose owner made it mean this
    /// machine (DNS rebinding): its pages would seem to be ours.
    fn is_ours(&self, authority: &str) -> bool {
        let host = authority.parse::<Authority>().map(|authority| authority.host().to_ascii_lowercase());
        let host = host.unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.origins.name(host)
    }
}

impl Denied {
    pub(crate) fn problem(self) -> Problem {
        let detail = self.detail();
        match self {
            Self::Missing => Problem::new(Kind::Unauthorized, detail).challenge(CHALLENGE),
            Self::Unknown => Problem::new(Kind::Unauthorized, detail).challenge(CHALLENGE_UNKNOWN),
            Self::Role(_) => Problem::new(Kind::Forbidden, detail).challenge(CHALLENGE_ROLE),
        }
    }

    pub(crate) fn status(self) -> tonic::Status {
        match self {
            Self::Missing | Self::Unknown => tonic::Status::unauthenticated(self.detail()),
            Self::Role(_) => tonic::Status::permission_denied(self.detail()),
        }
    }

    fn detail(self) -> String {
        match self {
            Self::Missing => "one token is needed: Authorization: Bearer <token>".to_owned(),
            Self::Unknown => "the token is not known here".to_owned(),
            Self::Role(needed) => format!("the token's role must include {}", needed.name()),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    // Of several, others on the way may read another one than we.
    let (Some(one), None) = (sent.next(), sent.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn role_of(tokens: &[(Digest, Role)], token: &str) -> Option<Role> {
    let given = Digest::of(&[token.as_bytes()]);
    let mut found = None;
    for (digest, role) in tokens {
        let difference = digest.0.iter().zip(given.0).fold(0, |sum, (left, right)| sum | (left ^ right));
        if difference == 0 {
            found = Some(*role);
        }
    }
    found
}

fn read(path: &Path) -> Result<Tokens, String> {
    let bytes = files::read_secret(path, FILE_BYTES_MAX)?;
    parse(std::str::from_utf8(&bytes).map_err(|_| "must be text".to_owned())?)
}

/// Errors name the line, never what is on it.
fn parse(text: &str) -> Result<Tokens, String> {
    let mut tokens = Tokens::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let (role, token) = match (words.next(), words.next(), words.next()) {
            (Some(role), Some(token), None) => (role, token),
            _ => return Err(format!("line {number} must be <role> <token>")),
        };
        let role = [Role::Read, Role::Write, Role::Admin]
            .into_iter()
            .find(|known| known.name() == role)
            .ok_or_else(|| format!("line {number} must begin with the role read, write or admin"))?;
        if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the token of line {number} must be 1 to {TOKEN_BYTES_MAX} printable ASCII characters"
            ));
        }
        let digest = Digest::of(&[token.as_bytes()]);
        if tokens.iter().any(|(other, _)| *other == digest) {
            return Err(format!("line {number} repeats a token: each has one role"));
        }
        tokens.push((digest, role));
        if tokens.len() > TOKENS_MAX {
            return Err(format!("must have at most {TOKENS_MAX} tokens"));
        }
    }
    if tokens.is_empty() {
        return Err("must have at least one line <role> <token>, else nobody gets in".to_owned());
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn auth() -> Auth {
        let tokens = Reloaded::load(FIELD, || Ok(parse("# who\nread r\n\n write w \nadmin a\n").unwrap()));
        Auth { tokens: Some(tokens.unwrap()), origins: Origins::default(), local: true }
    }

    #[test]
    fn roles_include_the_ones_below() {
        let needs = |role| Access::Needs(role);
        for (sent, access, expected) in [
            (None, Access::Open, Ok(Grant(Role::Read))),
            (None, needs(Role::Read), Err(Denied::Missing)),
            (Some("Basic r"), needs(Role::Read), Err(Denied::Missing)),
            (Some("Bearer nobody"), needs(Role::Read), Err(Denied::Unknown)),
            (Some("Bearer "), needs(Role::Read), Err(Denied::Unknown)),
            (Some("Bearer r"), needs(Role::Read), Ok(Grant(Role::Read))),
            (Some("bearer r"), needs(Role::Read), Ok(Grant(Role::Read))),
            (Some("Bearer r"), needs(Role::Write), Err(Denied::Role(Role::Write))),
            (Some("Bearer w"), needs(Role::Read), Ok(Grant(Role::Write))),
            (Some("Bearer w"), needs(Role::Admin), Err(Denied::Role(Role::Admin))),
            (Some("Bearer a"), needs(Role::Admin), Ok(Grant(Role::Admin))),
        ] {
            let headers = sent.map(|sent| headers(&[(header::AUTHORIZATION, sent)])).unwrap_or_default();
            assert_eq!(auth().check(&headers, access), expected, "{sent:?} for {access:?}");
        }
    }

    #[test]
    fn of_two_tokens_none_counts() {
        let two = ["Bearer a", "Bearer r"].map(|token| (header::AUTHORIZATION, token.parse().unwrap()));
        let two: HeaderMap = two.into_iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        });
        assert_eq!(auth().check(&two, Access::Needs(Role::Read)), Err(Denied::Missing));
    }

    #[test]
    fn a_bad_token_file_is_refused_by_line_and_never_shows_a_token() {
        for (text, expected) in [
            ("", "at least one line"),
            ("# only a comment", "at least one line"),
            ("read", "line 1 must be"),
            ("read secret more", "line 1 must be"),
            ("\nroot secret", "line 2 must begin with the role"),
            ("read secret\nadmin secret", "line 2 repeats a token"),
            ("read s\u{e9}cret", "line 1 must be 1 to 512"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "read r\n").unwrap();
        let gateway = config::Gateway { token_file: Some(path.clone()), ..Default::default() };
        for (mode, good) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Auth::load(&gateway).is_ok(), good, "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        let error = Auth::load(&gateway).err().unwrap().to_string();
        assert!(error.contains("gateway.token_file") && error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn only_a_foreign_page_that_changes_something_is_refused() {
        let open = Auth { tokens: None, origins: Origins::default(), local: true };
        let gateway =
            config::Gateway { cors_origins: vec!["http://elsewhere".to_owned()], ..Default::default() };
        let shared = Auth { tokens: None, origins: Origins::of(&gateway).unwrap(), local: true };
        let uri = Uri::from_static("/api/lattice/reconcile");
        let own = [(header::HOST, "localhost:8080"), (header::ORIGIN, "http://localhost:8080")];
        let foreign = [(header::HOST, "localhost:8080"), (header::ORIGIN, "http://elsewhere")];
        let hidden = [(header::HOST, "localhost:8080"), (header::ORIGIN, "null")];
        for (auth, method, sent, refused) in [
            (&open, Method::POST, &headers(&own), false),
            (&open, Method::POST, &headers(&foreign), true),
            (&open, Method::POST, &headers(&hidden), true),
            (&shared, Method::POST, &headers(&foreign), false),
            (&shared, Method::POST, &headers(&hidden), true),
            (&open, Method::POST, &headers(&own[..1]), false),
            (&open, Method::GET, &headers(&foreign), false),
            (&auth(), Method::POST, &headers(&foreign), false),
        ] {
            let said = auth.foreign(Access::Open, &method, &uri, sent);
            assert_eq!(said, refused.then_some(FOREIGN_ORIGIN), "{method} {sent:?}");
        }
    }

    const NEEDS: Access = Access::Needs(Role::Read);

    #[test]
    fn a_foreign_name_for_this_machine_is_refused_whatever_is_asked() {
        let names = vec!["https://app.example:8443".to_owned()];
        let gateway = config::Gateway { cors_origins: names, ..Default::default() };
        let origins = Origins::of(&gateway).unwrap();
        let local = Auth { tokens: None, origins: origins.clone(), local: true };
        let insecure = Auth { tokens: None, origins, local: false };
        let anybody = config::Gateway { cors_origins: vec!["*".to_owned()], ..Default::default() };
        let anybody = Auth { tokens: None, origins: Origins::of(&anybody).unwrap(), local: true };
        for (host, ours) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("node-1.localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("10.0.0.7", true),
            ("app.example:9000", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("evil-localhost", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            let sent = headers(&[(header::HOST, host), (header::ORIGIN, &format!("http://{host}"))]);
            let uri = Uri::from_static("/v1/kv/k");
            for method in [Method::GET, Method::PUT] {
                let said = |auth: &Auth| auth.foreign(NEEDS, &method, &uri, &sent);
                assert_eq!(said(&local) == Some(FOREIGN_HOST), !ours, "{method} {host}");
                // Who opened the port to others is asked by names; and who allows all sites, allows this one.
                assert_eq!(said(&insecure), None, "{method} {host}");
                assert_eq!(said(&anybody), None, "{method} {host}");
                assert_eq!(said(&auth()), None, "{method} {host}");
            }
        }
        let absolute = Uri::from_static("http://evil.example/v1/kv/k");
        let said = |access, uri: &Uri| local.foreign(access, &Method::GET, uri, &HeaderMap::new());
        assert_eq!(said(NEEDS, &absolute), Some(FOREIGN_HOST));
        assert_eq!(said(Access::Open, &absolute), None, "what is no secret, or signed");
        assert_eq!(said(NEEDS, &Uri::from_static("/v1/kv/k")), None, "no browser leaves its name out");
    }
}
