//! The page for people at `/`: a few files of ours that are part of the binary, and that hold nothing of the node.
//!
//! All that it shows it asks for itself, with the token that its reader gave it, at the routes that programs use: so the
//! page is there for everybody, and its contents for who may read. Links are relative, so that it also works behind a path
//! prefix.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use lattice_core::model::Digest;

use crate::conditions;
use crate::json;
use crate::problem::{Kind, Problem, shortened};

/// What the page may load and ask: its own files, and the node that it came from. What a peer calls itself cannot become
/// a script here, nor send anything elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

static PAGE: LazyLock<Part> =
    LazyLock::new(|| Part::new("", "text/html; charset=utf-8", include_str!("dashboard/index.html")));

static PARTS: LazyLock<[Part; 7]> = LazyLock::new(|| {
    [
        Part::new("style.css", CSS, include_str!("dashboard/style.css")),
        Part::new("main.js", JAVASCRIPT, include_str!("dashboard/main.js")),
        Part::new("ask.js", JAVASCRIPT, include_str!("dashboard/ask.js")),
        Part::new("judge.js", JAVASCRIPT, include_str!("dashboard/judge.js")),
        Part::new("picture.js", JAVASCRIPT, include_str!("dashboard/picture.js")),
        Part::new("view.js", JAVASCRIPT, include_str!("dashboard/view.js")),
        Part::new("words.js", JAVASCRIPT, include_str!("dashboard/words.js")),
    ]
});

/// The page itself, for a client that would rather have it than what programs get.
pub(super) fn page(headers: &HeaderMap) -> Response {
    PAGE.answer(headers)
}

/// A part of the page that a browser gets at `/`.
#[utoipa::path(
    get,
    path = "/dashboard/{file}",
    tag = "node",
    params(("file" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The part", content((json::Binary = "text/javascript"), (json::Binary = "text/css"))),
        (status = 304, description = "It is the one that the client has"),
    ),
)]
pub(super) async fn part(request: Request) -> Result<Response, Problem> {
    // No part has a name that would have to be encoded.
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let found = PARTS.iter().find(|part| part.name == name);
    let absent = || Problem::new(Kind::NotFound, format!("the page has no part {:?}", shortened(name)));
    Ok(found.ok_or_else(absent)?.answer(request.headers()))
}

/// A file of the page.
struct Part {
    name: &'static str,
    kind: &'static str,
    bytes: Bytes,
    /// The beginning of its digest.
    tag: String,
}

impl Part {
    fn new(name: &'static str, kind: &'static str, text: &'static str) -> Self {
        let digest = Digest::of(&[text.as_bytes()]).to_string();
        Self { name, kind, bytes: Bytes::from_static(text.as_bytes()), tag: digest[..16].to_owned() }
    }

    /// Whole, or 304 for who has it. It is asked for again each time, so that after an update of the node no part is of
    /// the version before.
    fn answer(&self, headers: &HeaderMap) -> Response {
        // Weak: compressed or not, it is the same.
        let tag = HeaderValue::try_from(format!("W/\"{}\"", self.tag)).expect("a digest is hex");
        let common = [
            (header::ETAG, tag),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        if conditions::unchanged(headers, &self.tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(header::CONTENT_TYPE, self.kind)], self.bytes.clone()).into_response()
    }
}
