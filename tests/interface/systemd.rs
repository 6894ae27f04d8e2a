//! What systemd is told, and how the daemon ends.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::daemon::PATIENCE;
use crate::support::scene::Scene;

struct Systemd(Receiver<String>);

impl Systemd {
    fn listen(scene: &Scene) -> Systemd {
        let socket = UnixDatagram::bind(scene.path("notify.sock")).unwrap();
        let (to, messages) = channel();
        // As systemd does: whatever is said is read, whether anybody waits for it or not.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                if to.send(String::from_utf8(buffer[..length].to_vec()).unwrap()).is_err() {
                    break;
                }
            }
        });
        Systemd(messages)
    }

    /// Waits for a message with this key, and with `value` where one is wanted.
    fn hear(&self, key: &str, value: Option<&str>) -> BTreeMap<String, String> {
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < until {
            let text = self.0.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {key}; heard {heard:?}"));
            let message: BTreeMap<String, String> = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            if message.get(key).is_some_and(|said| value.is_none_or(|wanted| said == wanted)) {
                return message;
            }
            heard.push(text);
        }
        panic!("no {key} in {heard:?}");
    }
}

#[test]
fn it_is_told_when_ready_alive_reloading_and_stopping() {
    let scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    let systemd = Systemd::listen(&scene);
    let socket = scene.path("notify.sock").display().to_string();
    let mut daemon = scene.launch(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "2000000")]);
    systemd.hear("READY", Some("1"));
    // READY says that HTTP listens.
    daemon.get("/api/v1/status");
    systemd.hear("WATCHDOG", Some("1"));
    systemd.hear("WATCHDOG", Some("1"));
    daemon.healthy("app");
    daemon.signal(Signal::HUP);
    let reloading = systemd.hear("RELOADING", Some("1"));
    let since_boot: u64 = reloading["MONOTONIC_USEC"].parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000;
    assert!(
        since_boot > 0 && since_boot.abs_diff(now) < 600_000_000,
        "{since_boot} is not the monotonic clock ({now})"
    );
    systemd.hear("READY", Some("1"));
    daemon.terminate();
    systemd.hear("STOPPING", Some("1"));
    assert!(daemon.wait().success());
}

#[test]
fn its_status_line_is_for_people() {
    let scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    let systemd = Systemd::listen(&scene);
    let socket = scene.path("notify.sock").display().to_string();
    let _daemon = scene.launch(&[("NOTIFY_SOCKET", &socket)]);
    systemd.hear("STATUS", Some("1 of 1 targets healthy"));
}

#[test]
fn both_signals_end_it_soon_in_order_and_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::of("");
        scene.commit("wal", 3, &[]);
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        let since = Instant::now();
        daemon.signal(signal);
        let status = daemon.wait();
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
        // A bound far above what it takes, and far below systemd's patience of 90 s.
        assert!(since.elapsed() < Duration::from_secs(30), "{signal:?}: {:?}", since.elapsed());
        // Whatever it left, the next one starts on.
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        assert!(daemon.stop().success());
    }
}

#[test]
fn it_ends_in_the_middle_of_a_look_that_never_ends() {
    let mut scene = Scene::new();
    scene.database("app", "data/app.db", crate::ENDLESS_CANARY);
    scene.commit("wal", 3, &[]);
    let mut daemon = scene.launch(&[]);
    daemon.wait_for("HTTP to listen", |daemon| crate::support::http::get(daemon.address(), "/healthz").ok());
    let since = Instant::now();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

#[test]
fn a_systemd_that_does_not_read_is_no_reason_to_hang() {
    let scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    let _deaf = UnixDatagram::bind(scene.path("notify.sock")).unwrap();
    let socket = scene.path("notify.sock").display().to_string();
    let mut daemon = scene.launch(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "3600000000")]).ready();
    // A busy database wakes the main loop again and again.
    scene.commit("wal", 50, &["--pause", "5"]);
    daemon.healthy("app");
    assert!(daemon.stop().success());
}
