//! The id under which a request is found again: in its answer, in the log and in its trace.

use http::{HeaderMap, HeaderName, HeaderValue};
use lattice_runtime::entropy;

/// Where it stands, in requests and in answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const BYTES_MAX: usize = 128;

/// The id of a request: the client's where it is usable, else a new one, which then is in its headers.
pub(crate) fn identify(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(REQUEST_ID).filter(|given| is_usable(given)) {
        return given.clone();
    }
    let made = hex::encode(entropy::bytes::<16>());
    let made = HeaderValue::try_from(made).expect("hex digits are a header value");
    headers.insert(REQUEST_ID, made.clone());
    made
}

/// What can stand in one line of a log as it is.
fn is_usable(given: &HeaderValue) -> bool {
    (1..=BYTES_MAX).contains(&given.len()) && given.as_bytes().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_id_is_kept_and_another_is_replaced() {
        let long = "x".repeat(BYTES_MAX + 1);
        for (given, kept) in [("a-1_b:2/c", true), ("", false), ("two words", false), (&long, false)] {
            let mut headers = HeaderMap::from_iter([(REQUEST_ID, given.parse().unwrap())]);
            let id = identify(&mut headers);
            assert_eq!(id == given, kept, "{given}");
            assert_eq!(headers[REQUEST_ID], id);
        }
    }

    #[test]
    fn ids_that_are_made_differ() {
        let make = || identify(&mut HeaderMap::new());
        assert_ne!(make(), make());
        assert_eq!(make().len(), 32);
    }
}
