//! Conditional requests: `If-Match` and `If-None-Match`, where an entity tag is a version in quotes.
//!
//! Conditions of writes are judged by the store, in the moment of the write; here they are only parsed.
//! Conditions of reads save the body, and are judged here.

use std::fmt::Display;

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};
use lattice_core::model::Version;
use lattice_proto::kv::v1::{Condition, condition};

use crate::problem::{Kind, Problem};

/// Asks for an answer no older than this version.
pub(crate) const LATTICE_MIN_VERSION: HeaderName = HeaderName::from_static("lattice-min-version");

/// What a write asks to hold, if anything.
pub(crate) fn of_write(headers: &HeaderMap) -> Result<Option<Condition>, Problem> {
    let condition = match (single(headers, &IF_MATCH)?, single(headers, &IF_NONE_MATCH)?) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(refused("If-Match and If-None-Match cannot be asked for together"));
        }
        (Some("*"), None) => condition::Condition::Present(true),
        (Some(tag), None) => condition::Condition::Version((&if_match(tag)?).into()),
        (None, Some("*")) => condition::Condition::Absent(true),
        (None, Some(_)) => return Err(refused("If-None-Match of a write must be *")),
    };
    Ok(Some(Condition { condition: Some(condition) }))
}

/// What a delete asks to hold: there, only `If-Match` makes sense.
pub(crate) fn of_delete(headers: &HeaderMap) -> Result<Option<Condition>, Problem> {
    if headers.contains_key(IF_NONE_MATCH) {
        return Err(refused("If-None-Match does not go with DELETE: use If-Match"));
    }
    of_write(headers)
}

/// What a read asks of the key that it finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing.
    Any,
    /// This version.
    Version(Version),
    /// What no key has.
    Never,
}

impl Expected {
    /// Whether a key with this version is as it was asked to be.
    pub(crate) fn holds(&self, version: &Version) -> bool {
        match self {
            Self::Any => true,
            Self::Version(expected) => expected == version,
            Self::Never => false,
        }
    }
}

/// What a read asks of the key that it finds, by `If-Match`.
pub(crate) fn of_read(headers: &HeaderMap) -> Result<Expected, Problem> {
    match single(headers, &IF_MATCH)? {
        None | Some("*") => Ok(Expected::Any),
        Some(tag) => match if_match(tag) {
            Ok(version) => Ok(Expected::Version(version)),
            Err(never) if never.kind() == Kind::ConditionFailed => Ok(Expected::Never),
            Err(malformed) => Err(malformed),
        },
    }
}

/// Whether the client already holds what it asks for: what now has `tag`, which holds no comma.
pub(crate) fn unchanged(headers: &HeaderMap, tag: &impl Display) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let ours = tag.to_string();
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // A read compares weakly (RFC 9110, 13.1.2).
        .map(|tag| tag.strip_prefix("W/").unwrap_or(tag))
        .any(|tag| tag == "*" || unquoted(tag) == Some(ours.as_str()))
}

/// The oldest version that the client accepts.
pub(crate) fn version_min(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let Some(text) = single(headers, &LATTICE_MIN_VERSION)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error| refused(format!("Lattice-Min-Version is malformed: {error}")))
}

/// A version as an entity tag.
pub(crate) fn etag(version: &Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("a version is hex and a dash")
}

/// A version as header text.
pub(crate) fn bare(version: &Version) -> HeaderValue {
    HeaderValue::try_from(version.to_string()).expect("a version is hex and a dash")
}

/// The one version that `If-Match` names. A tag that no entry can have is a condition that does not hold.
fn if_match(tag: &str) -> Result<Version, Problem> {
    let never = |why: &str| Problem::new(Kind::ConditionFailed, format!("If-Match cannot hold: {why}"));
    if tag.starts_with("W/") {
        return Err(never("it takes a strong entity tag, without W/"));
    }
    match unquoted(tag) {
        Some(text) => text.parse().map_err(|_| never("no entry has such an ETag")),
        None if tag.contains(',') => Err(refused("If-Match takes one entity tag")),
        None => Err(refused("If-Match must be * or an ETag in its quotes")),
    }
}

fn unquoted(tag: &str) -> Option<&str> {
    tag.strip_prefix('"')?.strip_suffix('"').filter(|inner| !inner.contains('"'))
}

/// A header that is given once, or not at all: of two, others on the way might read another one than we.
pub(crate) fn single<'headers>(
    headers: &'headers HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'headers str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused(format!("{name} is given twice")));
    }
    let text = value.to_str().map_err(|_| refused(format!("{name} must be ASCII")))?;
    Ok(Some(text.trim()))
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::HeaderInvalid, detail)
}

#[cfg(test)]
mod tests {
    use lattice_core::model::{Hlc, NodeId};

    use super::*;

    const VERSION: Version = Version { hlc: Hlc(0x0123), writer: NodeId([7; 32]) };

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn conditions_of_writes() {
        let tag = format!("\"{VERSION}\"");
        let weak = format!("W/{tag}");
        let two = format!("{tag}, {tag}");
        let bare = VERSION.to_string();
        let same = || Ok(Some(condition::Condition::Version((&VERSION).into())));
        for (sent, expected) in [
            (vec![], Ok(None)),
            (vec![(&IF_MATCH, "*")], Ok(Some(condition::Condition::Present(true)))),
            (vec![(&IF_MATCH, &*tag)], same()),
            (vec![(&IF_NONE_MATCH, "*")], Ok(Some(condition::Condition::Absent(true)))),
            (vec![(&IF_MATCH, &weak)], Err(Kind::ConditionFailed)),
            (vec![(&IF_MATCH, "\"other\"")], Err(Kind::ConditionFailed)),
            (vec![(&IF_MATCH, &bare)], Err(Kind::HeaderInvalid)),
            (vec![(&IF_MATCH, &two)], Err(Kind::HeaderInvalid)),
            (vec![(&IF_MATCH, "*"), (&IF_MATCH, "*")], Err(Kind::HeaderInvalid)),
            (vec![(&IF_MATCH, "*"), (&IF_NONE_MATCH, "*")], Err(Kind::HeaderInvalid)),
            (vec![(&IF_NONE_MATCH, &tag)], Err(Kind::HeaderInvalid)),
        ] {
            let parsed = of_write(&headers(&sent));
            let parsed =
                parsed.map(|found| found.and_then(|found| found.condition)).map_err(|error| error.kind());
            assert_eq!(parsed, expected, "{sent:?}");
        }
        assert!(of_delete(&headers(&[(&IF_NONE_MATCH, "*")])).is_err());
        assert!(of_delete(&headers(&[(&IF_MATCH, "*")])).unwrap().is_some());
    }

    #[test]
    fn reads_that_would_bring_nothing_new() {
        let tag = format!("\"{VERSION}\"");
        for (sent, same) in [
            (vec![], false),
            (vec![(&IF_NONE_MATCH, tag.clone())], true),
            (vec![(&IF_NONE_MATCH, format!("W/{tag}"))], true),
            (vec![(&IF_NONE_MATCH, format!("\"other\", {tag}"))], true),
            (vec![(&IF_NONE_MATCH, "*".to_owned())], true),
            (vec![(&IF_NONE_MATCH, VERSION.to_string())], false),
            (vec![(&IF_NONE_MATCH, "\"other\"".to_owned()), (&IF_NONE_MATCH, tag.clone())], true),
        ] {
            let pairs: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(unchanged(&headers(&pairs), &VERSION), same, "{sent:?}");
        }
    }

    #[test]
    fn reads_of_one_version() {
        let tag = format!("\"{VERSION}\"");
        let weak = format!("W/{tag}");
        for (sent, expected) in [
            (vec![], Ok(Expected::Any)),
            (vec![(&IF_MATCH, "*")], Ok(Expected::Any)),
            (vec![(&IF_MATCH, &*tag)], Ok(Expected::Version(VERSION))),
            (vec![(&IF_MATCH, &*weak)], Ok(Expected::Never)),
            (vec![(&IF_MATCH, "bare")], Err(Kind::HeaderInvalid)),
        ] {
            assert_eq!(of_read(&headers(&sent)).map_err(|error| error.kind()), expected, "{sent:?}");
        }
    }

    #[test]
    fn the_oldest_accepted_version_is_bare() {
        let bare = VERSION.to_string();
        assert_eq!(version_min(&headers(&[(&LATTICE_MIN_VERSION, &bare)])).unwrap(), Some(VERSION));
        assert_eq!(version_min(&HeaderMap::new()).unwrap(), None);
        assert!(version_min(&headers(&[(&LATTICE_MIN_VERSION, "7")])).is_err());
    }
}
