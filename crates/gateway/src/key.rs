//! Keys as clients name them: in the path, percent-encoded UTF-8, never normalized.
//!
//! The key is all of the path after `/v1/kv/`, decoded once. So `%2F` equals `/`, `a//b` has an empty middle,
//! `.` and `..` mean themselves, and two spellings are one key exactly when their bytes are equal.

use bytes::Bytes;
use http::Uri;
use lattice_core::model::{InvalidKey, Key};

use crate::problem::{Kind, Problem};

const PREFIX: &str = "/v1/kv/";
const PROOF_PREFIX: &str = "/v1/proof/";

/// The text is not percent-encoded UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A `%` without two hex digits.
    #[error("has a % that is not followed by two hex digits (a plain % is written %25)")]
    Escape,
    /// The bytes are not UTF-8.
    #[error("is not UTF-8")]
    Encoding,
}

/// The key in the path of a request.
pub(crate) fn of_path(uri: &Uri) -> Result<Key, Problem> {
    after(PREFIX, uri)
}

/// The key in the path of a request for a proof.
pub(crate) fn of_proof(uri: &Uri) -> Result<Key, Problem> {
    after(PROOF_PREFIX, uri)
}

fn after(prefix: &str, uri: &Uri) -> Result<Key, Problem> {
    let encoded = uri.path().strip_prefix(prefix).unwrap_or_default();
    let text = decode(encoded, false).map_err(|error| refused(format!("the key {error}")))?;
    parse(text).map_err(|error| refused(format!("the key {error}")))
}

/// A key in text that was decoded already.
pub(crate) fn parse(text: String) -> Result<Key, InvalidKey> {
    Key::try_from(Bytes::from(text))
}

/// The text of a key. Keys that came in through this port are UTF-8; of others, what is not is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Decodes percent-encoding strictly; in a query (`form`), `+` is a space.
pub(crate) fn decode(encoded: &str, form: bool) -> Result<String, Malformed> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                high << 4 | low
            }
            b'+' if form => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| Malformed::Encoding)
}

fn digit(byte: Option<u8>) -> Result<u8, Malformed> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(Malformed::Escape)?;
    Ok(digit as u8)
}

fn refused(detail: String) -> Problem {
    Problem::new(Kind::KeyInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_keys() {
        let longest = "k".repeat(1_024);
        for (path, key) in [
            ("a", "a"),
            ("a/b", "a/b"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("a//b", "a//b"),
            ("/", "/"),
            ("../x/.", "../x/."),
            ("%2e%2E", ".."),
            ("a+b", "a+b"),
            ("a%20b", "a b"),
            ("100%25", "100%"),
            ("%E2%82%AC", "\u{20ac}"),
            ("e%CC%81", "e\u{301}"),
            ("%00", "\0"),
            ("%3Fx%3D1%23", "?x=1#"),
            (&longest, &longest),
        ] {
            let uri: Uri = format!("/v1/kv/{path}").parse().unwrap();
            assert_eq!(of_path(&uri).unwrap().as_bytes(), key.as_bytes(), "{path}");
        }
    }

    #[test]
    fn other_paths_do_not() {
        for (path, detail) in [
            ("", "empty"),
            (&*"k".repeat(1_025), "1025 bytes"),
            (&*"%E2%82%AC".repeat(342), "1026 bytes"),
            ("%FF", "not UTF-8"),
            ("%C0%AF", "not UTF-8"),
            ("%E2%82", "not UTF-8"),
            ("a%", "two hex digits"),
            ("a%2", "two hex digits"),
            ("a%zz", "two hex digits"),
            ("a%+1", "two hex digits"),
        ] {
            let uri: Uri = format!("/v1/kv/{path}").parse().unwrap();
            let problem = of_path(&uri).unwrap_err();
            assert_eq!(problem.kind(), Kind::KeyInvalid, "{path}");
            assert!(problem.detail().contains(detail), "{path}: {}", problem.detail());
        }
    }
}
