//! What systemd is told: ready, alive, reloading, stopping, and one line for people.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock::Moment;
use crate::supervisor::status::Totals;

/// How often the main loop must come round, when systemd watches it: half of what it allows.
pub(super) fn beat_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
}

/// The first sweep is scheduled and HTTP listens.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// What the main loop feeds each time it comes round. systemd hears of it a few times in the time that it allows: a busy
/// loop must not fill the socket's short queue, for then the next message would block until systemd has read.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// `None` where nobody watches: asked once, for the environment does not change.
    half: Option<Duration>,
    fed_at: Option<Moment>,
}

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        Watchdog { half: beat_interval(), fed_at: None }
    }

    pub(super) fn feed(&mut self, now: Moment) {
        let Some(half) = self.half else { return };
        if self.fed_at.is_none_or(|fed_at| now.since(fed_at) >= half / 2) {
            self.fed_at = Some(now);
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// The configuration is read again; [`ready`] follows.
pub(super) fn reloading() {
    if let Ok(state) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, state]);
    }
}

/// No new work begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub(super) fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The line.
pub(super) fn line(totals: Totals) -> String {
    let Totals { targets, healthy, unhealthy, unknown, pending, incidents_open, escalated } = totals;
    let mut line = format!("{healthy} of {targets} targets healthy");
    for (count, what) in [(unhealthy, "unhealthy"), (unknown, "unknown"), (pending, "not looked at yet")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    if incidents_open > 0 {
        line.push_str(&format!("; {incidents_open} incidents open, {escalated} need a person"));
    }
    line
}

fn tell(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET nobody listens, and that is no error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
