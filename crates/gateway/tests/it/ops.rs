use lattice_runtime::grpc::ServingStatus;

use crate::client::{get, put, send};
use crate::fakes::{DISK_FULL, Node};

#[tokio::test]
async fn a_whole_node_is_ready() {
    let node = Node::start().await;
    for (path, status) in [("/healthz", "alive"), ("/readyz", "ready"), ("/health", "healthy")] {
        let answer = get(node.address, path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &status.into()), "{path}");
    }
    let root = get(node.address, "/").await.json();
    assert_eq!((&root["name"], &root["status"]), (&"alpha".into(), &"ready".into()));
    assert!(root["version"].is_string());
    node.stop().await;
}

#[tokio::test]
async fn a_missing_sibling_is_named_and_the_gateway_lives_on() {
    for (index, name) in ["state-store", "p2p-sensor", "sync-coordinator"].into_iter().enumerate() {
        let node = Node::start().await;
        let fakes = &node.fakes;
        [&fakes.store_tasks, &fakes.sensor_tasks, &fakes.coordinator_tasks][index].token().cancel();
        for path in ["/readyz", "/health"] {
            let answer = get(node.address, path).await;
            let detail = answer.problem(503, "not-ready");
            assert!(detail.starts_with(name), "{detail}");
            let missing = &answer.json()["missing"];
            assert_eq!(missing.as_array().unwrap().len(), 1, "{missing}");
            assert_eq!(missing[0]["service"], name);
            assert!(missing[0]["reason"].is_string());
        }
        assert_eq!(get(node.address, "/healthz").await.status, 200);
        assert_eq!(get(node.address, "/").await.json()["status"], "not ready");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_store_that_cannot_write_is_not_ready() {
    let node = Node::start().await;
    node.fakes.store_health.set_service_status("lattice.kv.v1.KeyValue", ServingStatus::NotServing).await;
    let detail = get(node.address, "/readyz").await.problem(503, "not-ready");
    assert_eq!(detail, format!("state-store: {DISK_FULL}"));
    node.fakes.store_health.set_service_status("lattice.kv.v1.KeyValue", ServingStatus::Serving).await;
    assert_eq!(get(node.address, "/readyz").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn metrics_have_every_route_from_the_start_and_no_other() {
    let node = Node::start().await;
    let metrics = async || String::from_utf8(get(node.address, "/metrics").await.body).unwrap();
    let count = "lattice_gateway_request_duration_seconds_count";
    let fresh = metrics().await;
    for (route, method, status) in [
        ("/v1/kv/{key}", "PUT", 200),
        ("/api/lattice/reconcile", "POST", 202),
        ("/lattice.kv.v1.KeyValue/Get", "POST", 200),
    ] {
        let line = format!("{count}{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} 0\n");
        assert!(fresh.contains(&line), "{line}{fresh}");
    }
    assert!(fresh.ends_with("# EOF\n"));

    put(node.address, "/v1/kv/a", b"1").await;
    put(node.address, "/v1/kv/b/c", b"2").await;
    get(node.address, "/v1/kv/none").await;
    get(node.address, "/nowhere/at/all").await;
    send(node.address, "BREW", "/v1/kv/a", &[], b"").await;
    let used = metrics().await;
    for (route, method, status, times) in [
        ("/v1/kv/{key}", "PUT", 200, 2),
        ("/v1/kv/{key}", "GET", 404, 1),
        ("other", "GET", 404, 1),
        ("/v1/kv/{key}", "other", 405, 1),
    ] {
        let line = format!("{count}{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {times}\n");
        assert!(used.contains(&line), "{line}{used}");
    }
    assert!(!used.contains("nowhere") && !used.contains("BREW"));
    node.stop().await;
}

#[tokio::test]
async fn the_api_describes_itself_and_has_a_page_of_its_own() {
    let node = Node::start().await;
    let document = get(node.address, "/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/kv/{key}"]["put"].is_object(), "{document}");

    let page = get(node.address, "/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'self'"));
    let page = String::from_utf8(page.body).unwrap();
    let parts: Vec<&str> = page
        .split(['"'])
        .filter(|text| [".css", ".js", ".png"].iter().any(|end| text.ends_with(end)))
        .collect();
    assert!(parts.len() >= 5, "{page}");
    for part in parts {
        // From `/docs`, a relative link leads to what is beside it.
        let answer = get(node.address, &format!("/{part}")).await;
        assert_eq!(answer.status, 200, "{part}");
    }
    let script = get(node.address, "/docs/swagger-initializer.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript"));
    let script = String::from_utf8(script.body).unwrap();
    assert!(script.contains("\"openapi.json\"") && !script.contains("petstore"), "{script}");
    get(node.address, "/docs/nothing").await.problem(404, "not-found");
    node.stop().await;
}
