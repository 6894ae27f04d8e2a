//! HTTP: what each endpoint says, and what none of them does.

use serde_json::Value;

use crate::promised;
use crate::support::daemon::Daemon;
use crate::support::http;
use crate::support::scene::Scene;

const ENDPOINTS: [&str; 9] = [
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/status",
    "/api/v1/targets/app",
    "/api/v1/incidents",
    "/api/v1/incidents/none",
    "/api/v1/stats",
];

fn scene() -> Scene {
    let scene = Scene::of("backup = { every = \"1h\" }");
    scene.commit("wal", 5, &[]);
    scene
}

fn status(daemon: &Daemon, path: &str) -> u16 {
    http::get(daemon.address(), path).unwrap().0
}

#[test]
fn a_healed_fault_is_told_everywhere_in_the_promised_shape() {
    let scene = scene();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    for number in 1..=2 {
        std::fs::remove_file(scene.db()).unwrap();
        daemon.closed("app", number);
        daemon.healthy("app");
    }
    let incidents = daemon.get("/api/v1/incidents");
    let incidents = incidents["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 2);
    for incident in incidents {
        promised::healed_incident(incident);
        promised::loss(&incident["loss"]);
        assert_eq!(*incident, daemon.get(&format!("/api/v1/incidents/{}", incident["id"].as_str().unwrap())));
    }
    assert!(promised::time(&incidents[0]["opened_at"]) > promised::time(&incidents[1]["opened_at"]), "newest first");

    let target = daemon.get("/api/v1/targets/app");
    promised::check(&target["last_check"]);
    let status = daemon.get("/api/v1/status");
    assert_eq!(status["targets"][0]["name"], "app");
    assert_stats(&daemon.get("/api/v1/stats"));
    let (_, page) = http::get(daemon.address(), "/").unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("app"), "{page}");
    assert!(!page.contains("<script"), "the page must not be able to do anything");
}

fn assert_stats(stats: &Value) {
    assert_eq!(
        (&stats["total_runs"], &stats["successful_runs"], &stats["failed_runs"]),
        (&2.into(), &2.into(), &0.into())
    );
    assert_eq!(stats["success_rate"], 1.0);
    promised::seconds(&stats["mttr_seconds"]);
    assert_eq!(stats["last_runs"].as_array().unwrap().len(), 2);
    let playbook = &stats["playbooks"]["restore_backup"];
    assert_eq!(
        (&playbook["executions"], &playbook["successes"], &playbook["failures"]),
        (&2.into(), &2.into(), &0.into())
    );
    assert_eq!(playbook["success_rate"], 1.0);
    promised::time(&playbook["last_executed"]);
    let detector = &stats["detectors"]["app"];
    assert_eq!((&detector["mode"], &detector["consecutive_failures"]), (&"database".into(), &0.into()));
    assert!(detector["total_failures"].as_u64().unwrap() >= 2, "{stats:#}");
    promised::time(&detector["last_check"]);
    promised::seconds(&stats["mttr_by_kind"]["db_file_missing"]);
}

#[test]
fn incidents_are_filtered_and_limited() {
    let scene = scene();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    for number in 1..=3 {
        std::fs::remove_file(scene.db()).unwrap();
        daemon.closed("app", number);
        daemon.healthy("app");
    }
    let count = |query: &str| daemon.get(&format!("/api/v1/incidents{query}"))["incidents"].as_array().unwrap().len();
    for (query, expected) in [
        ("", 3),
        ("?target=app", 3),
        ("?target=nobody", 0),
        ("?state=closed", 3),
        ("?state=escalated", 0),
        ("?limit=2", 2),
        ("?target=app&state=closed&limit=1", 1),
        ("?target=%27%20OR%201=1%20--", 0),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    for query in ["?limit=0", "?limit=-1", "?limit=many", "?state=fine"] {
        assert_eq!(status(&daemon, &format!("/api/v1/incidents{query}")), 400, "{query}");
    }
    for query in ["?hours=0", "?hours=x", "?hours=99999999999"] {
        assert_eq!(status(&daemon, &format!("/api/v1/stats{query}")), 400, "{query}");
    }
    assert_eq!(daemon.get("/api/v1/stats?hours=1")["total_runs"], 3);
}

#[test]
fn what_is_not_there_is_404_and_says_so_in_json() {
    let scene = scene();
    let daemon = scene.daemon();
    for path in [
        "/nothing",
        "/api",
        "/api/v1",
        "/api/v1/targets/nobody",
        "/api/v1/targets/app%2Fx",
        "/api/v1/incidents/none",
        "/api/v1/incidents/..%2F..%2Fstate.db",
        "/metrics/x",
        "/%00",
    ] {
        let (status, body) = http::get(daemon.address(), path).unwrap();
        assert_eq!(status, 404, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().is_some_and(|words| !words.is_empty()), "{path}: {body}");
    }
}

#[test]
fn no_method_but_get_does_anything() {
    let scene = scene();
    let mut daemon = scene.daemon();
    let address = daemon.address();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAL"] {
        for path in ENDPOINTS {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            let (status, body) = http::say(address, &request).unwrap();
            assert_eq!(status, 405, "{method} {path}: {body}");
        }
    }
    daemon.healthy("app");
}

#[test]
fn a_foreign_host_is_refused_everywhere() {
    let scene = scene();
    let daemon = scene.daemon();
    let address = daemon.address();
    for host in ["Host: evil.example\r\n", "Host: 127.0.0.1.evil.example\r\n", "Host: \r\n", ""] {
        for path in ENDPOINTS {
            let (status, body) =
                http::say(address, &format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).unwrap();
            assert!((400..500).contains(&status), "{host:?} {path}: {status} {body}");
            assert!(!body.contains("app"), "{host:?} {path}: {body}");
        }
    }
    for host in ["localhost".to_owned(), format!("127.0.0.1:{}", address.port()), "[::1]:1".to_owned()] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(http::say(address, &request).unwrap().0, 200, "{host}");
    }
}

#[test]
fn nonsense_on_the_socket_harms_nobody() {
    let scene = scene();
    let mut daemon = scene.daemon();
    let address = daemon.address();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "x".repeat(100_000));
    let wide = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Y: z\r\n".repeat(10_000));
    for request in ["\r\n\r\n\r\n\r\n", "GET", "\u{0}\u{1}\u{2}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", &long, &wide] {
        // A half-open question must not keep the others waiting.
        if let Ok((status, _)) = http::say_and_close(address, request) {
            assert!((400..500).contains(&status), "{status}");
        }
        assert_eq!(status(&daemon, "/healthz"), 200);
    }
    daemon.healthy("app");
}

#[test]
fn readiness_comes_with_the_first_sweep_and_health_before_it() {
    let mut scene = Scene::new();
    // A canary that never ends keeps the first sweep busy until the worker's deadline.
    scene.database("app", "data/app.db", crate::ENDLESS_CANARY);
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.launch(&[]);
    daemon.wait_for("HTTP to listen", |daemon| http::get(daemon.address(), "/healthz").ok());
    assert_eq!(status(&daemon, "/healthz"), 200);
    assert_eq!(status(&daemon, "/readyz"), 503);
    assert_eq!(daemon.get("/api/v1/status")["ready"], false);
    let mut daemon = daemon.ready();
    assert_eq!(daemon.get("/api/v1/status")["ready"], true);
    daemon.incident("app", 1, "open", |_| true);
}
