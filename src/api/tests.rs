use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::clock::Moment;
use crate::model::{Check, Incident, IncidentId, IncidentState, Kind, Resolution, Verdict};

struct List(Vec<Story>);

impl IncidentSource for List {
    fn incidents(&self, target: Option<String>, state: Option<String>, limit: usize) -> Fetched<'_, Vec<Incident>> {
        let wanted = |incident: &Incident| {
            target.as_ref().is_none_or(|target| *target == incident.target)
                && state.as_ref().is_none_or(|state| *state == incident.state.name())
        };
        let found = self.0.iter().map(|story| story.incident.clone()).filter(wanted).take(limit).collect();
        Box::pin(async { Ok(found) })
    }

    fn incident(&self, id: IncidentId) -> Fetched<'_, Option<Incident>> {
        let found = self.0.iter().map(|story| story.incident.clone()).find(|incident| incident.id == id);
        Box::pin(async { Ok(found) })
    }

    fn history(&self, _hours: u32) -> Fetched<'_, Vec<Story>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn story(id: &str, target: &str, outcome: Option<Resolution>, mttr: Option<f64>, runs: &[(&str, bool)]) -> Story {
    let state = if outcome.is_some() { IncidentState::Closed } else { IncidentState::Escalated };
    let incident = Incident {
        id: IncidentId(id.to_owned()),
        target: target.to_owned(),
        mode: "database".to_owned(),
        kind: Kind::new("db_corrupted"),
        opened_at: at(100),
        closed_at: outcome.map(|_| at(200)),
        state,
        outcome,
        detection_seconds: None,
        mttr_seconds: mttr,
        heal_seconds: None,
        playbook: runs.last().map_or(String::new(), |(playbook, _)| (*playbook).to_owned()),
        steps: Vec::new(),
        loss: None,
        evidence: None,
        evidence_expired_at: None,
        reason: None,
        plan: Vec::new(),
        approved_by: None,
        findings: Vec::new(),
    };
    let run = |(n, (playbook, success)): (usize, &(&str, bool))| Run {
        playbook: (*playbook).to_owned(),
        began_at: at(100 + n as i64),
        seconds: Some(0.5),
        success: Some(*success),
    };
    Story { incident, runs: runs.iter().enumerate().map(run).collect() }
}

fn shared() -> (Shared, Clock) {
    let clock = Clock::manual(Moment { wall: at(1000), boot_ms: 100_000 });
    let mut board = StatusBoard::default();
    board.add("app", "database");
    board.add("tenants/<b>", "database");
    let check = Check {
        target: "app".to_owned(),
        mode: "database",
        verdict: Verdict::Healthy,
        checked_at: at(990),
        duration_seconds: 0.001,
        layers: Vec::new(),
        in_use: None,
    };
    board.checked(check, false);
    let stories = vec![
        story("i3", "app", Some(Resolution::Healed), Some(0.2), &[("wait", false), ("restore_backup", true)]),
        story("i2", "tenants/<b>", None, None, &[("restore_backup", false)]),
        story("i1", "app", Some(Resolution::Healed), Some(0.4), &[("restore_backup", true)]),
    ];
    let pulse = Pulse::default();
    pulse.beat(clock.now());
    let shared = Shared {
        board: Arc::new(RwLock::new(board)),
        pulse: Arc::new(pulse),
        clock: clock.clone(),
        incidents: Arc::new(List(stories)),
        process: Arc::new(ProcessSample::default),
        hosts: Hosts::new("127.0.0.1:9617".parse().unwrap(), &[]),
        started_at: at(900),
    };
    (shared, clock)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Speaks to a real server on a real socket.
fn with_server(shared: Shared, test: impl FnOnce(&dyn Fn(&str) -> Answer) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, shared, async { drop(stopped.await) }));
        tokio::task::spawn_blocking(move || test(&|request| speak(address, request))).await.unwrap();
        drop(stop);
        server.await.unwrap().unwrap();
    });
}

fn speak(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let (line, host) = request.split_once('|').unwrap_or((request, "localhost"));
    write!(stream, "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[test]
fn every_endpoint_answers_and_everything_else_is_json() {
    with_server(shared().0, |speak| {
        assert_eq!(speak("GET /healthz").status, 200);
        assert_eq!(speak("GET /metrics").status, 200);

        let status = speak("GET /api/v1/status").json();
        assert_eq!(status["totals"]["targets"], 2);
        assert_eq!(status["targets"][0]["name"], "app");
        assert_eq!(status["targets"][0]["last_check"]["verdict"], "healthy");

        assert_eq!(speak("GET /api/v1/targets/app").json()["state"], "healthy");
        assert_eq!(speak("GET /api/v1/targets/tenants/%3Cb%3E").json()["state"], "pending");
        assert_eq!(speak("GET /api/v1/incidents/i2").json()["state"], "escalated");

        let of =
            |query: &str| speak(&format!("GET /api/v1/incidents{query}")).json()["incidents"].as_array().unwrap().len();
        assert_eq!((of(""), of("?target=app"), of("?state=escalated"), of("?limit=1")), (3, 2, 1, 1));

        for (request, status) in [
            ("GET /nothing", 404),
            ("GET /api/v1/targets/nobody", 404),
            ("GET /api/v1/incidents/none", 404),
            ("GET /api/v1/incidents?limit=0", 400),
            ("GET /api/v1/incidents?limit=many", 400),
            ("GET /api/v1/incidents?state=sad", 400),
            ("GET /api/v1/stats?hours=-1", 400),
            ("POST /api/v1/status", 405),
            ("DELETE /api/v1/incidents/i2", 405),
            ("OPTIONS /metrics", 405),
            ("GET /api/v1/status|evil.example", 421),
        ] {
            let answer = speak(request);
            assert_eq!(answer.status, status, "{request}");
            assert!(answer.json()["error"].is_string(), "{request}: {}", answer.body);
            assert!(answer.head.contains("x-content-type-options: nosniff"), "{request}: {}", answer.head);
        }

        let head = speak("HEAD /api/v1/status");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    });
}

#[test]
fn the_page_shows_targets_and_speaks_no_foreign_html() {
    with_server(shared().0, |speak| {
        let page = speak("GET /");
        assert!(page.head.contains("content-type: text/html"), "{}", page.head);
        assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
        assert!(page.body.contains("1 of 2 targets healthy"), "{}", page.body);
        assert!(page.body.contains("tenants/&lt;b&gt;") && !page.body.contains("tenants/<b>"), "{}", page.body);
    });
}

#[test]
fn a_silent_main_loop_is_not_healthy_and_the_first_sweep_makes_ready() {
    let (shared, clock) = shared();
    let pulse = Arc::clone(&shared.pulse);
    with_server(shared, move |speak| {
        assert_eq!(speak("GET /readyz").status, 503);
        pulse.set_ready();
        assert_eq!(speak("GET /readyz").status, 200);
        clock.advance(Duration::from_secs(31));
        let answer = speak("GET /healthz");
        assert_eq!((answer.status, answer.body.as_str()), (503, "the main loop has been silent for 31 s\n"));
    });
}

#[test]
fn statistics_count_runs_and_mean_recovery() {
    with_server(shared().0, |speak| {
        let stats = speak("GET /api/v1/stats?hours=24").json();
        assert_eq!(stats["total_runs"], 4);
        assert_eq!(stats["successful_runs"], 2);
        assert_eq!(stats["failed_runs"], 2);
        assert_eq!(stats["success_rate"], 0.5);
        assert!((stats["mttr_seconds"].as_f64().unwrap() - 0.3).abs() < 1e-9);
        assert!((stats["mttr_by_kind"]["db_corrupted"].as_f64().unwrap() - 0.3).abs() < 1e-9);
        assert_eq!(stats["last_runs"].as_array().unwrap().len(), 4);
        let restore = &stats["playbooks"]["restore_backup"];
        assert_eq!(
            (&restore["executions"], &restore["successes"], &restore["failures"]),
            (&3.into(), &2.into(), &1.into())
        );
        assert_eq!(restore["last_executed"], "1970-01-01T00:01:41.000Z");
        assert_eq!(stats["detectors"]["app"]["mode"], "database");
        assert_eq!(stats["detectors"]["app"]["last_check"], "1970-01-01T00:16:30.000Z");
    });
}
