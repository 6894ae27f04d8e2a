//! Reading the configuration again: all of it comes into force, or none.

use tokio::sync::mpsc;

use crate::config::Config;
use crate::supervisor::{Command, Message};
use crate::telemetry::{ConfigRefused, ConfigReloaded, ConfigWarning};

use super::{systemd, targets};

/// Reads `running`'s file again. A bad one is refused with its errors, and `running` stays.
pub(super) fn reload(running: &mut Config, outbox: &mpsc::UnboundedSender<Message>) {
    systemd::reloading();
    match Config::load(&running.source) {
        Err(errors) => ConfigRefused { path: &running.source, errors: &errors.to_string() }.emit(),
        Ok(mut config) => {
            config.warnings.iter().for_each(|warning| ConfigWarning(warning).emit());
            let waiting = config.needs_restart(running);
            // What needs a restart stays as it is, also for the targets: their scratch is in the state directory.
            config.guardian.state_dir.clone_from(&running.guardian.state_dir);
            config.guardian.http = running.guardian.http;
            config.guardian.control.clone_from(&running.guardian.control);
            let command = Command::Reconfigure { plant: targets::plant(&config), gates: targets::gates(&config) };
            let _ = outbox.send(Message::Command(command));
            let detail = match waiting.is_empty() {
                true => "in force".to_owned(),
                false => format!("in force, but for {}, which need a restart", waiting.join(", ")),
            };
            ConfigReloaded { path: &running.source, detail: &detail }.emit();
            *running = config;
        }
    }
    systemd::ready();
}
