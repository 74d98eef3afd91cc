use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::client::send;
use crate::fakes::Node;

const KEY: &str = "0909090909090909090909090909090909090909090909090909090909090909";

/// The role that INTERFACE.md asks for, by the end of the token that has it.
const OPEN: usize = 0;
const READ: usize = 1;
const WRITE: usize = 2;
const ADMIN: usize = 3;

async fn guarded() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "# operators\nadmin token-3\nwrite token-2\nread token-1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (Node::start_with(|config| config.gateway.token_file = Some(path)).await, folder)
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let (node, _folder) = guarded().await;
    let trust_key = format!("/api/lattice/trust/{KEY}");
    let switch = "/api/lattice/sync/switch?mode=http";
    for (method, path, needed) in [
        ("GET", "/", OPEN),
        ("GET", "/dashboard/main.js", OPEN),
        ("GET", "/healthz", OPEN),
        ("GET", "/readyz", OPEN),
        ("GET", "/health", OPEN),
        ("GET", "/api/lattice/state", OPEN),
        ("POST", "/sync/v1/exchange", OPEN),
        ("GET", "/metrics", READ),
        ("GET", "/v1/kv/a", READ),
        ("HEAD", "/v1/kv/a", READ),
        ("GET", "/v1/kv/", READ),
        ("GET", "/v1/kv", READ),
        ("PUT", "/v1/kv/a", WRITE),
        ("DELETE", "/v1/kv/b", WRITE),
        ("POST", "/v1/batch", WRITE),
        ("GET", "/v1/watch?since=id-old", READ),
        ("GET", "/v1/proof/a?epoch=1", READ),
        ("GET", "/v1/backup", READ),
        ("POST", "/v1/restore", ADMIN),
        ("GET", "/api/lattice/state/full", READ),
        ("GET", "/api/lattice/nodes", READ),
        ("GET", "/api/lattice/p2p/status", READ),
        ("GET", "/api/lattice/p2p/identity", READ),
        ("GET", "/api/lattice/peers", READ),
        ("GET", "/api/lattice/heals", READ),
        ("GET", "/api/lattice/trust", READ),
        ("GET", &trust_key, READ),
        ("POST", "/api/lattice/trust", ADMIN),
        ("POST", &trust_key, ADMIN),
        ("DELETE", &trust_key, ADMIN),
        ("POST", switch, ADMIN),
        ("POST", "/api/lattice/reconcile", ADMIN),
    ] {
        for given in [OPEN, READ, WRITE, ADMIN] {
            let bearer = format!("Bearer token-{given}");
            let headers = [("authorization", bearer.as_str())];
            let headers = if given == OPEN { &[][..] } else { &headers[..] };
            let answer = send(node.address, method, path, headers, b"").await;
            let context = format!("{method} {path} with {given}: {answer:?}");
            if given >= needed {
                assert!(
                    !matches!(answer.status, 401 | 403 | 404 | 405 | 500..) || path == "/v1/kv/a",
                    "{context}"
                );
                assert!(!matches!(answer.status, 401 | 403), "{context}");
            } else if given == OPEN {
                assert_eq!(answer.status, 401, "{context}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"lattice\""), "{context}");
            } else {
                assert_eq!(answer.status, 403, "{context}");
            }
        }
        let unknown = [("authorization", "Bearer token-4")];
        let answer = send(node.address, method, path, &unknown, b"").await;
        assert_eq!(answer.status == 401, needed > OPEN, "{method} {path} with an unknown token");
    }
    node.stop().await;
}

#[tokio::test]
async fn refusals_are_problems_that_never_show_a_token() {
    let (node, _folder) = guarded().await;
    let wrong = [("authorization", "Bearer not-a-token")];
    let answer = send(node.address, "GET", "/v1/kv", &wrong, b"").await;
    assert_eq!(answer.problem(401, "unauthorized"), "the token is not known here");
    assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
    let reader = [("authorization", "Bearer token-1")];
    let answer = send(node.address, "PUT", "/v1/kv/a", &reader, b"1").await;
    assert_eq!(answer.problem(403, "forbidden"), "the token's role must include write");
    // What does not exist does not ask who wants to know.
    send(node.address, "GET", "/v1/nothing", &[], b"").await.problem(404, "route-not-found");
    node.stop().await;
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing_where_no_token_is_asked_for() {
    let node = Node::start().await;
    let foreign = [("origin", "http://elsewhere.example")];
    let path = "/api/lattice/sync/switch?mode=http";
    send(node.address, "POST", path, &foreign, b"").await.problem(403, "cross-origin");
    assert_eq!(send(node.address, "POST", path, &[("origin", "http://localhost")], b"").await.status, 200);
    assert_eq!(send(node.address, "GET", "/v1/kv", &foreign, b"").await.status, 200);
    // To a browser whose resolver says that the site is this machine, its pages are of one site with the node.
    let rebound = [("host", "elsewhere.example:8080"), ("origin", "http://elsewhere.example:8080")];
    for (method, path) in
        [("GET", "/v1/kv"), ("GET", "/api/lattice/trust"), ("PUT", "/v1/kv/a"), ("POST", path)]
    {
        let told = send(node.address, method, path, &rebound, b"").await.problem(403, "cross-origin");
        assert!(told.contains("Host"), "{told}");
    }
    assert_eq!(send(node.address, "GET", "/healthz", &rebound, b"").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_browser_without_a_token_is_asked_for_one() {
    let (node, _folder) = guarded().await;
    let page = [("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];
    let asked = send(node.address, "GET", "/docs", &page, b"").await;
    assert_eq!((asked.status, asked.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(asked.header("www-authenticate").unwrap().starts_with("Bearer"));
    let policy = asked.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'sha256-") && !policy.contains("script-src 'unsafe"), "{policy}");
    let text = std::str::from_utf8(&asked.body).unwrap();
    // It fits a phone, and looks like the dashboard, by what nobody needs a token for.
    assert!(text.contains("<meta name=\"viewport\" content=\"width=device-width"), "{text}");
    let look = text.split("<link rel=\"stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let style = send(node.address, "GET", &format!("/{look}"), &[], b"").await;
    assert_eq!(
        (style.status, style.header("content-type")),
        (200, Some("text/css; charset=utf-8")),
        "{look}"
    );
    let styles = policy.split("; ").find_map(|rule| rule.strip_prefix("style-src "));
    assert!(styles.unwrap().split(' ').any(|source| source == "'self'"), "{policy}");
    assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("href=\"//"), "{text}");
    // What it loads is there for who has a token, and for nobody else.
    let parts: Vec<String> = text
        .split("part(\"")
        .skip(1)
        .map(|rest| format!("/docs/{}", rest.split('"').next().unwrap()))
        .chain(["/openapi.json".to_owned()])
        .collect();
    assert_eq!(parts.len(), 3, "{text}");
    for part in &parts {
        send(node.address, "GET", part, &page, b"").await.problem(401, "unauthorized");
        let token = [("authorization", "Bearer token-1")];
        assert_eq!(send(node.address, "GET", part, &token, b"").await.status, 200, "{part}");
    }
    // A program is told as everywhere, and so is a browser at other places.
    send(node.address, "GET", "/docs", &[("accept", "*/*")], b"").await.problem(401, "unauthorized");
    send(node.address, "GET", "/v1/kv/a", &page, b"").await.problem(401, "unauthorized");
    node.stop().await;
}
