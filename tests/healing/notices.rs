//! Escalation reaches people: a real command and a real web server, which fail first; and no heal waits for them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::program::Program;
use super::support::scene::Scene;

const REFUSES: &str = "when_in_use = \"refuse\"";
const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// Adds `[notify]` to what a scene writes: its tables come last.
fn notify(scene: &mut Scene, lines: &str) {
    scene.raw(&format!("[notify]\n{lines}\n"));
}

/// A program at `page-me` with this body; what it is told is on its stdin.
fn pager(scene: &Scene, body: &str) -> PathBuf {
    let path = scene.path("page-me");
    fs::write(&path, format!("#!/bin/sh\ncd {}\n{body}\n", scene.path("").display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What the pager was told, one document a line.
fn told(scene: &Scene) -> Vec<Value> {
    let text = fs::read_to_string(scene.path("told")).unwrap_or_default();
    // The pager may be in the middle of a line.
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn told_of(daemon: &mut Daemon, scene: &Scene, occasion: &str) -> Value {
    daemon.wait_for(&format!("people to be told of: {occasion}"), |_| {
        told(scene).into_iter().find(|notice| notice["occasion"] == occasion)
    })
}

/// Damage that nothing is done about while a program has the file open, in a scene of [`REFUSES`].
fn hurt_for_a_person(scene: &Scene) -> Program {
    let program = scene.writer("wal", "0", &["--open-idle"]);
    damage::leaf(&scene.db(), "rows", &mut Dice::new());
    program
}

fn sent(daemon: &Daemon, channel: &str, outcome: &str) -> f64 {
    daemon.metric(&format!("guardian_notifications_total{{channel=\"{channel}\",outcome=\"{outcome}\"}}"))
}

#[test]
fn a_command_hears_of_an_escalation_after_it_failed_and_once() {
    let mut scene = Scene::of(REFUSES);
    // The first two attempts fail, and say so.
    let body = "echo x >> attempts; [ $(wc -l < attempts) -gt 2 ] || { echo no signal >&2; exit 3; }; \
                cat > one; { cat one; echo; } >> told";
    let pager = pager(&scene, body);
    notify(&mut scene, &format!("command = [\"{}\"]", pager.display()));
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let _program = hurt_for_a_person(&scene);
    let incident = daemon.escalated("app", 1);
    let notice = told_of(&mut daemon, &scene, "escalated");
    for key in ["id", "target", "mode", "kind", "opened_at", "state", "reason"] {
        assert_eq!(notice[key], incident[key], "{key}: {notice:#}");
    }
    daemon.wait_for("it to be counted", |daemon| (sent(daemon, "command", "ok") == 1.0).then_some(()));
    assert_eq!(sent(&daemon, "command", "failed"), 2.0);
    let log = daemon.log();
    assert_eq!(log.matches("people could not be told").count(), 1, "said once, not at every attempt:\n{log}");
    assert!(log.contains("no signal"), "{log}");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("needs a person")), "{log}");

    // A restart does not tell it again.
    daemon.wait_for("it to be kept", |_| scene.path("state/told.json").exists().then_some(()));
    daemon.kill();
    let mut daemon = scene.daemon();
    daemon.caught_up_with_looks("app");
    daemon.caught_up_with_looks("app");
    assert_eq!(told(&scene).len(), 1);
}

#[test]
fn what_nobody_could_be_told_is_told_after_a_restart_and_after_a_reload() {
    let mut scene = Scene::of(&format!("policy = \"approve\"\n{REFUSES}"));
    let tables = "command = [\"/nowhere/page-me\"]";
    notify(&mut scene, tables);
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let _program = hurt_for_a_person(&scene);
    daemon.escalated("app", 1);
    daemon.wait_for("the attempt", |daemon| (sent(daemon, "command", "failed") > 0.0).then_some(()));
    daemon.kill();

    let pager = pager(&scene, "cat > one; { cat one; echo; } >> told");
    let mut daemon = scene.daemon();
    daemon.wait_for("the attempt", |daemon| (sent(daemon, "command", "failed") > 0.0).then_some(()));
    let config = scene.path("guardian.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/nowhere/page-me", &pager.display().to_string());
    fs::write(&config, text).unwrap();
    assert_eq!(guardiand(&scene.path(""), &["reload", "--config", "guardian.toml"]).status, 0);
    told_of(&mut daemon, &scene, "escalated");
}

#[test]
fn a_question_and_a_loss_are_told_and_no_heal_waits_for_a_pager_that_hangs() {
    let mut scene = Scene::of(&format!("policy = \"approve\"\n{BACKUP}"));
    let pager = pager(&scene, "cat > one; { cat one; echo; } >> told; exec sleep 3600");
    notify(&mut scene, &format!("command = [\"{}\"]", pager.display()));
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    scene.commit("wal", 7, &[]);
    daemon.caught_up("app");
    damage::leaf(&scene.db(), "rows", &mut Dice::new());
    let notice = told_of(&mut daemon, &scene, "awaiting_approval");
    assert!(notice["reason"].as_str().unwrap().contains("guardiand approve"), "{notice:#}");
    let id = notice["id"].as_str().unwrap();
    // It is still sleeping, and the heal does not care.
    let report = guardiand(&scene.path(""), &["approve", id, "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(report["outcome"], "healed", "{report:#}");
    let incident = daemon.closed("app", 1);
    assert!(incident["loss"].is_object(), "{incident:#}");
    // SIGTERM leaves no sleeper behind, and the next start tells what this one could not.
    assert!(daemon.stop().success());
    self::pager(&scene, "cat > one; { cat one; echo; } >> told");
    let mut daemon = scene.daemon();
    let loss = told_of(&mut daemon, &scene, "loss");
    assert_eq!(loss["loss"], incident["loss"], "{loss:#}");
}

/// A web server that refuses its first `failures` requests, and keeps the others' bodies.
fn server(failures: usize, tls: Option<Arc<ServerConfig>>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let bodies = Arc::clone(&kept);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { return };
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let answered = match &tls {
                None => answer(stream, number < failures),
                Some(config) => {
                    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                    answer(StreamOwned::new(connection, stream), number < failures)
                }
            };
            bodies.lock().unwrap().extend(answered.filter(|_| number >= failures));
        }
    });
    (address, kept)
}

/// Reads one request and answers; its head and body, once they are whole.
fn answer(mut stream: impl Read + Write, refuse: bool) -> Option<String> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let request = loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
            (body.len() >= length).then_some(())
        });
        if whole.is_some() {
            break text;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend(&chunk[..read]),
        }
    };
    let status = if refuse { "503 Service Unavailable" } else { "204 No Content" };
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    stream.flush().ok()?;
    Some(request)
}

fn posted(daemon: &mut Daemon, kept: &Mutex<Vec<String>>) -> (String, Value) {
    let request = daemon.wait_for("the post", |_| kept.lock().unwrap().first().cloned());
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_webhook_hears_of_an_escalation_after_it_failed() {
    let (address, kept) = server(2, None);
    let mut scene = Scene::of(REFUSES);
    notify(&mut scene, &format!("webhook = \"http://{address}/hook?token=geheim\""));
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let _program = hurt_for_a_person(&scene);
    let incident = daemon.escalated("app", 1);
    let (head, notice) = posted(&mut daemon, &kept);
    assert!(head.starts_with("POST /hook?token=geheim HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains(&format!("host: {address}")), "{head}");
    assert_eq!((&notice["id"], &notice["occasion"]), (&incident["id"], &"escalated".into()), "{notice:#}");
    daemon.wait_for("it to be counted", |daemon| (sent(daemon, "webhook", "ok") == 1.0).then_some(()));
    let log = daemon.log();
    assert!(log.contains("503") && !log.contains("geheim"), "a secret is in the log:\n{log}");
    assert_eq!(log.matches("people could not be told").count(), 1, "{log}");
}

#[test]
fn a_webhook_with_tls_is_posted_to_when_the_system_trusts_it_and_not_otherwise() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (address, kept) = server(0, Some(Arc::new(config)));
    let mut scene = Scene::of(REFUSES);
    notify(&mut scene, &format!("webhook = \"https://{address}/hook\""));
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    for (name, certificate) in [("other.pem", other.cert.pem()), ("trusted.pem", made.cert.pem())] {
        fs::write(scene.path(name), certificate).unwrap();
    }
    let trust = |name: &str| scene.path(name).display().to_string();
    let mut daemon = scene.launch(&[("SSL_CERT_FILE", &trust("other.pem"))]).ready();
    daemon.healthy("app");
    let _program = hurt_for_a_person(&scene);
    let incident = daemon.escalated("app", 1);
    daemon.wait_for("a refusal", |daemon| (sent(daemon, "webhook", "failed") > 0.0).then_some(()));
    assert!(daemon.log().contains("refuses TLS"), "{}", daemon.log());
    assert!(kept.lock().unwrap().is_empty());
    daemon.kill();
    let mut daemon = scene.launch(&[("SSL_CERT_FILE", &trust("trusted.pem"))]).ready();
    let (_, notice) = posted(&mut daemon, &kept);
    assert_eq!(notice["id"], incident["id"], "{notice:#}");
}
