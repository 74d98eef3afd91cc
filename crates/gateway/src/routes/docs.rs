//! The description of the API, and a page to try it: assets are part of the binary, nothing is fetched from elsewhere.
//!
//! All links are relative, so that the page also works behind a path prefix.
//!
//! A browser cannot send a token before a page asked for one. Where the node wants it, `/docs` is answered 401 like all
//! else, and a browser gets that answer as a page that asks, and then loads the parts with the token.

use std::sync::{Arc, LazyLock};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use lattice_core::model::Digest;
use utoipa_swagger_ui::Config;

use crate::accept;
use crate::access;
use crate::json;
use crate::openapi;
use crate::problem::{self, Kind, Problem, shortened};

/// Written once: it is the same for all.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi::document().to_json().unwrap_or_default().into());

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What the page may load: its own parts alone. It sets styles of elements from its scripts.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

/// The page that asks for a token.
const ASKING: &str = include_str!("token.html");

/// What that page may load: its own script, which is part of it, what that script fetched, and the look of the
/// dashboard, which is there without a token. Written once.
static ASKING_POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let script = ASKING.split_once("<script>")?.1.split_once("</script>")?.0;
    let digest = json::base64(Digest::of(&[script.as_bytes()]).as_bytes());
    let policy = format!(
        "default-src 'none'; connect-src 'self'; script-src 'sha256-{digest}' blob:; style-src 'self' 'unsafe-inline' blob:; \
         img-src 'self' data:; font-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).ok()
});

/// What a browser without a token gets of the page in place of `refusal`: the same, and a way to enter one.
pub(crate) fn ask_for_token(route: &str, headers: &HeaderMap, refusal: Response) -> Response {
    let asks = route == access::DOCS && accept::prefers_html(headers, problem::CONTENT_TYPE);
    let Some(policy) = ASKING_POLICY.clone().filter(|_| asks) else {
        return refusal;
    };
    let (mut parts, _) = refusal.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HTML);
    parts.headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, ASKING.into())
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "node",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)),
)]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// A page to read and to try the API.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "node",
    responses((status = 200, description = "The page", content_type = "text/html", body = String)),
)]
pub(super) async fn page() -> Result<Response, Problem> {
    let page = file("index.html")?;
    // Seen from here, its parts are one level below.
    let page = String::from_utf8_lossy(&page.1)
        .replace("\"./", "\"docs/")
        .replace("\"index.css", "\"docs/index.css");
    let headers = [(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, POLICY)];
    Ok((headers, page).into_response())
}

/// A part of the page.
#[utoipa::path(
    get,
    path = "/docs/{file}",
    tag = "node",
    params(("file" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The part", content(
            (json::Binary = "text/javascript"), (json::Binary = "text/css"), (json::Binary = "image/png"),
            (json::Binary = "text/html"),
        )),
    ),
)]
pub(super) async fn asset(request: Request) -> Result<Response, Problem> {
    // No part has a name that would have to be encoded.
    let (kind, bytes) = file(request.uri().path().rsplit('/').next().unwrap_or_default())?;
    let kind = HeaderValue::try_from(kind).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}

/// The content type and the bytes of a part.
fn file(name: &str) -> Result<(String, Bytes), Problem> {
    let config = Arc::new(Config::from("openapi.json"));
    let found = utoipa_swagger_ui::serve(name, config).ok().flatten().filter(|_| !name.is_empty());
    let found = found.map(|file| (file.content_type, Bytes::from(file.bytes.into_owned())));
    found.ok_or_else(|| Problem::new(Kind::NotFound, format!("the page has no part {:?}", shortened(name))))
}
