//! Query parameters: each known one at most once, and no other.
//!
//! A parameter that is not known is refused rather than ignored: `?tll=60s` must not store an entry that
//! lives for ever.

use bytes::Bytes;
use http::Uri;
use lattice_core::model::{KEY_BYTES_MAX, NodeId, TTL_MAX};
use lattice_runtime::duration;

use crate::json;
use crate::key;
use crate::problem::{Kind, Problem, shortened};

/// How many elements a page has when the client does not say.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Takes the parameters `known`, and refuses all others.
    pub(crate) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(&'static str, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = key::decode(name, true).map_err(|error| refused(&shortened(name), error))?;
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&shortened(&name), known));
            };
            if parameters.iter().any(|(given, _)| given == name) {
                return Err(refused(name, "is given twice"));
            }
            let value = key::decode(value, true).map_err(|error| refused(name, error))?;
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The text of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// `limit`: 1 to 1,000, 100 when it is not given.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        let Some(text) = self.text("limit") else { return Ok(LIMIT_DEFAULT) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) if digits => Ok(limit),
            _ => Err(refused("limit", format!("must be 1 to {LIMIT_MAX}"))),
        }
    }

    /// `ttl` in milliseconds: a number with one unit.
    pub(crate) fn ttl_ms(&self) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text("ttl") else { return Ok(None) };
        let ttl = duration::parse(text).filter(|ttl| !ttl.is_zero() && *ttl <= TTL_MAX);
        ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()).map(Some).ok_or_else(bad_ttl)
    }

    /// The beginning of keys, or a place among them: at most as long as a key. Empty when it is not given.
    pub(crate) fn key_part(&self, name: &'static str) -> Result<Bytes, Problem> {
        let text = self.text(name).unwrap_or_default();
        if text.len() > KEY_BYTES_MAX {
            let detail = format!("has {} bytes: a key has at most {KEY_BYTES_MAX}", text.len());
            return Err(refused(name, detail));
        }
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// `cursor`: the `next` of the page before. Empty when it is not given.
    pub(crate) fn cursor(&self) -> Result<Bytes, Problem> {
        let cursor = json::cursor(self.text("cursor").unwrap_or_default());
        cursor.ok_or_else(|| refused("cursor", "must be the next of the page before"))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.map(Some).ok_or_else(|| refused(name, "must be a whole number"))
    }

    /// `true` or `false`; false when it is not given.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(refused(name, "must be true or false")),
        }
    }

    /// A node by its key.
    pub(crate) fn node(&self, name: &'static str) -> Result<Option<NodeId>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| refused(name, "must be a node's public key, 64 hex characters"))
    }
}

fn bad_ttl() -> Problem {
    let most = duration::print(TTL_MAX);
    refused("ttl", format!("must be a whole number with one unit (ms, s, m, h), like 60s; 1ms to {most}"))
}

/// The refusal of a parameter that a route does not have, by those that it has.
pub(crate) fn unknown(name: &str, known: &[&str]) -> Problem {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    refused(name, format!("is not known: this route takes {known}"))
}

pub(crate) fn refused(name: &str, what: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::ParameterInvalid, format!("parameter {name} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Problem> {
        let uri: Uri = format!("/x?{text}").parse().unwrap();
        Query::parse(&uri, &["prefix", "limit", "ttl", "cursor", "peer"])
    }

    #[test]
    fn parameters_are_decoded_once() {
        let query = query("prefix=a%2Fb+c%2B&&limit=5").unwrap();
        assert_eq!(query.text("prefix"), Some("a/b c+"));
        assert_eq!(query.text("limit"), Some("5"));
        assert_eq!(query.text("ttl"), None);
    }

    #[test]
    fn unknown_repeated_and_malformed_ones_are_refused_by_name() {
        for (text, detail) in [
            ("tll=60s", "parameter tll is not known: this route takes prefix"),
            ("ttl=1s&ttl=2s", "parameter ttl is given twice"),
            ("prefix=%FF", "parameter prefix is not UTF-8"),
            ("prefix=%2", "parameter prefix has a %"),
            ("%FF=1", "is not UTF-8"),
        ] {
            let problem = query(text).unwrap_err();
            assert!(problem.detail().contains(detail), "{text}: {}", problem.detail());
        }
    }

    #[test]
    fn limits_are_one_to_a_thousand() {
        for (text, limit) in [
            ("", Some(100)),
            ("limit=1", Some(1)),
            ("limit=1000", Some(1_000)),
            ("limit=0", None),
            ("limit=1001", None),
            ("limit=-1", None),
            ("limit=%2B1", None),
            ("limit=", None),
            ("limit=ten", None),
            ("limit=99999999999999999999", None),
        ] {
            assert_eq!(query(text).unwrap().limit().ok(), limit, "{text}");
        }
    }

    #[test]
    fn times_to_live_are_a_millisecond_to_ten_years() {
        for (text, ms) in [
            ("1ms", Some(1)),
            ("60s", Some(60_000)),
            ("87600h", Some(315_360_000_000)),
            ("87601h", None),
            ("0s", None),
            ("60", None),
            ("", None),
        ] {
            let query = query(&format!("ttl={text}")).unwrap();
            assert_eq!(query.ttl_ms().ok().flatten(), ms, "{text}");
        }
    }

    #[test]
    fn cursors_come_back_as_they_went() {
        let text = json::cursor_text(b"a/b\xff").unwrap();
        assert_eq!(query(&format!("cursor={text}")).unwrap().cursor().unwrap(), &b"a/b\xff"[..]);
        assert_eq!(json::cursor_text(b""), None);
        assert!(query("cursor=%21").unwrap().cursor().is_err());
    }
}
