//! Which of two forms of an answer a client would rather have, by its `Accept` header (RFC 9110, 12.5.1).
//!
//! Where a route has a form for programs and one for people, programs come first: who has no preference, like curl with
//! its `*/*`, gets theirs.

use http::HeaderMap;
use http::header::ACCEPT;

/// What browsers ask for when they open a page.
const HTML: &str = "text/html";

/// Weights are thousandths here: they have three decimals at most.
const WHOLE: u16 = 1_000;

/// Whether the client would rather have a page than `other`, a media type in lower case without parameters. Of two that
/// it wants alike, it would rather have the one that it names: old browsers end their list in a bare `*/*`.
pub(crate) fn prefers_html(headers: &HeaderMap, other: &str) -> bool {
    let (html, other) = (wanted(headers, HTML), wanted(headers, other));
    html.weight > 0 && html > other
}

/// How much a form is wanted, and how closely it was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    weight: u16,
    closeness: u8,
}

/// How much the client wants `kind`: what the closest range that covers it says, and nothing when none does. Without a
/// header, all is wanted alike. A range that cannot be read is none.
fn wanted(headers: &HeaderMap, kind: &str) -> Wanted {
    if !headers.contains_key(ACCEPT) {
        return Wanted { weight: WHOLE, closeness: 0 };
    }
    let (group, _) = kind.split_once('/').unwrap_or_default();
    let given = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let covering =
        given.flat_map(|value| value.split(',')).filter_map(range).filter_map(|(range, weight)| {
            let closeness = match range.split_once('/') {
                Some(("*", "*")) => 1,
                Some((of, "*")) if of.eq_ignore_ascii_case(group) => 2,
                Some(_) if range.eq_ignore_ascii_case(kind) => 3,
                Some(_) | None => return None,
            };
            Some(Wanted { weight, closeness })
        });
    covering.max_by_key(|range| (range.closeness, range.weight)).unwrap_or(Wanted { weight: 0, closeness: 0 })
}

/// A range without its parameters, and its weight. None of our forms has parameters that a client could mean.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next()?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    Some((range, weight.map_or(Some(WHOLE), thousandths)?))
}

/// `1`, `0.8`, `0.125`: at most three decimals, and at most 1.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let decimals: u16 = format!("{decimals:0<3}").parse().ok().filter(|_| digits)?;
    match (whole, decimals) {
        ("0", decimals) => Some(decimals),
        ("1", 0) => Some(WHOLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str =
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8";

    fn prefers(given: &[&str]) -> bool {
        let headers = given.iter().map(|value| (ACCEPT, value.parse().unwrap())).collect();
        prefers_html(&headers, "application/json")
    }

    #[test]
    fn browsers_prefer_a_page_and_programs_do_not() {
        for (given, page) in [
            (CHROME, true),
            ("text/html", true),
            ("TEXT/HTML; charset=utf-8", true),
            ("text/html, application/xhtml+xml, */*", true),
            ("text/*", true),
            ("text/html;q=0.9, */*;q=0.1", true),
            ("application/json;q=0.5, text/html;q=0.501", true),
            ("*/*;q=1, application/json;q=0", true),
            ("text/html;level=1;q=0.4, application/json;q=0.3", true),
            ("*/*", false),
            ("application/json", false),
            ("text/html, application/json", false),
            ("text/html;q=0.5, application/json", false),
            ("text/html;q=0, */*", false),
            ("text/html;q=0", false),
            ("application/*, text/html;q=0.9", false),
            ("image/png", false),
            ("text/htmlx", false),
            ("text", false),
            ("", false),
        ] {
            assert_eq!(prefers(&[given]), page, "{given}");
        }
        assert!(!prefers(&[]));
    }

    #[test]
    fn the_most_specific_range_decides_wherever_it_stands() {
        assert!(prefers(&["application/json;q=0.2", "text/*;q=0.1, text/html;q=0.3, */*"]));
        assert!(!prefers(&["*/*, text/*", "text/html;q=0.1"]));
    }

    #[test]
    fn what_cannot_be_read_is_no_range() {
        for given in
            ["text/html;q=2", "text/html;q=0.1234", "text/html;q=-1", "text/html;q=x", "text/html;q=1.1"]
        {
            assert!(!prefers(&[given]), "{given}");
        }
        assert_eq!(thousandths("0."), Some(0));
        assert_eq!(thousandths("1.000"), Some(WHOLE));
        assert_eq!(thousandths("0.05"), Some(50));
    }
}
