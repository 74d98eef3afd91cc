//! The page at `/`: who gets it, what it is made of, and what it may do.

use std::collections::BTreeSet;

use crate::client::{Answer, get, send};
use crate::fakes::Node;

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
/// The name of what pictures are written in; nothing is there to be fetched.
const SVG: &str = "http://www.w3.org/2000/svg";

async fn page(node: &Node) -> Answer {
    send(node.address, "GET", "/", &[BROWSER], b"").await
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

/// What stands between `before` and the next quote, wherever it does.
fn named<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// The page and all of its parts, found as a browser finds them: by what they name.
async fn files(node: &Node) -> Vec<(String, Answer)> {
    let page = page(node).await;
    let mut open: Vec<String> = ["href=\"", "src=\""]
        .iter()
        .flat_map(|before| named(text(&page), before))
        .filter(|link| link.starts_with("dashboard/"))
        .map(|link| format!("/{link}"))
        .collect();
    let mut seen = BTreeSet::new();
    let mut files = vec![("/".to_owned(), page)];
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = get(node.address, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        open.extend(named(text(&answer), " from \"./").into_iter().map(|name| format!("/dashboard/{name}")));
        files.push((path, answer));
    }
    files
}

#[tokio::test]
async fn a_browser_gets_the_page_and_a_program_gets_json() {
    let node = Node::start().await;
    for (headers, kind) in [
        (&[BROWSER][..], "text/html; charset=utf-8"),
        (&[("accept", "text/html")], "text/html; charset=utf-8"),
        (&[("accept", "*/*")], "application/json"),
        (&[("accept", "application/json, text/html;q=0.5")], "application/json"),
        (&[], "application/json"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = send(node.address, method, "/", headers, b"").await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{headers:?}");
            assert_eq!(answer.header("vary"), Some("accept"), "{headers:?}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{headers:?}");
        }
    }
    // What a node says of itself is of this moment; its page stays as it is.
    assert_eq!(get(node.address, "/").await.header("cache-control"), Some("no-store"));
    assert_eq!(page(&node).await.header("cache-control"), Some("no-cache"));
    node.stop().await;
}

#[tokio::test]
async fn every_part_of_the_page_comes_from_the_node_and_may_do_nothing_else() {
    let node = Node::start().await;
    let files = files(&node).await;
    let kinds: BTreeSet<_> = files.iter().filter_map(|(_, answer)| answer.header("content-type")).collect();
    let expected = ["text/css; charset=utf-8", "text/html; charset=utf-8", "text/javascript; charset=utf-8"];
    assert_eq!(kinds, BTreeSet::from(expected));
    for (path, answer) in &files {
        let policy = answer.header("content-security-policy").unwrap();
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"] {
            assert!(policy.split("; ").any(|given| given == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        let text = text(answer).replace(SVG, "");
        for external in ["http://", "https://", "src=\"//", "href=\"//", "url(", "@import"] {
            assert!(!text.contains(external), "{path} has {external}");
        }
        // Text is never read as a page: what a peer calls itself stays text.
        for door in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"]
        {
            assert!(!text.contains(door), "{path} has {door}");
        }
        for inline in ["<style", " style=\"", "<script>", " onclick=\"", "javascript:"] {
            assert!(!text.contains(inline), "{path} has {inline}, which its own policy refuses");
        }
        assert!(text.lines().count() < 400, "{path} holds more than one idea");
    }
    node.stop().await;
}

#[tokio::test]
async fn who_has_a_part_is_told_so_and_no_more() {
    let node = Node::start().await;
    for (path, first) in files(&node).await {
        let tag = first.header("etag").unwrap();
        let head = send(node.address, "HEAD", &path, &[BROWSER], b"").await;
        assert_eq!((head.status, head.header("etag")), (200, Some(tag)), "{path}");
        assert_eq!(head.header("content-length").unwrap().parse(), Ok(first.body.len()), "{path}");
        let again = send(node.address, "GET", &path, &[BROWSER, ("if-none-match", tag)], b"").await;
        assert_eq!((again.status, again.header("etag")), (304, Some(tag)), "{path}");
        assert!(again.body.is_empty());
        let other = send(node.address, "GET", &path, &[BROWSER, ("if-none-match", "\"other\"")], b"").await;
        assert_eq!((other.status, &other.body), (200, &first.body), "{path}");
    }
    get(node.address, "/dashboard/index.html").await.problem(404, "not-found");
    get(node.address, "/dashboard/").await.problem(404, "route-not-found");
    send(node.address, "PUT", "/dashboard/main.js", &[], b"x").await.problem(405, "method-not-allowed");
    node.stop().await;
}

#[tokio::test]
async fn the_page_asks_only_for_what_there_is() {
    let node = Node::start().await;
    let asked: BTreeSet<String> = files(&node)
        .await
        .iter()
        .flat_map(|(_, answer)| {
            named(text(answer), "\"api/").into_iter().map(|path| format!("/api/{path}")).collect::<Vec<_>>()
        })
        .collect();
    assert!(asked.len() >= 4, "{asked:?}");
    for path in asked.iter().filter(|path| !path.ends_with("/events")) {
        assert_eq!(get(node.address, path).await.status, 200, "{path}");
    }
    node.stop().await;
}
