//! Reading the configuration again: all of it comes into force, or none.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};

use crate::config::Config;
use crate::journal::Journal;
use crate::notify::Channels;
use crate::supervisor::{Command, Message};
use crate::telemetry::{ConfigRefused, ConfigReloaded, ConfigWarning};

use super::{systemd, targets};

/// Holds the running configuration; clones share it.
#[derive(Clone)]
pub(super) struct Reloader {
    running: Arc<Mutex<Config>>,
    outbox: mpsc::UnboundedSender<Message>,
    journal: Journal,
    channels: watch::Sender<Channels>,
}

impl Reloader {
    pub(super) fn new(
        running: Config,
        outbox: mpsc::UnboundedSender<Message>,
        journal: Journal,
        channels: watch::Sender<Channels>,
    ) -> Reloader {
        Reloader { running: Arc::new(Mutex::new(running)), outbox, journal, channels }
    }

    /// Reads the file again. A bad one is refused with its errors, and the running configuration stays.
    pub(super) async fn reload(&self) -> Result<String, String> {
        let mut running = self.running.lock().await;
        systemd::reloading();
        let result = match Config::load(&running.source).map_err(|errors| errors.to_string()) {
            // A file that is just being written, or was emptied by mistake, is more likely than a wish to watch nothing.
            Ok(config) if config.databases.is_empty() && !running.databases.is_empty() => Err(format!(
                "{} has no [[database]] any more, and {} are watched: nothing is changed. To watch none, restart guardiand",
                running.source.display(),
                running.databases.len()
            )),
            Ok(config) => Ok(self.take_over(&mut running, config)),
            Err(errors) => Err(errors),
        };
        if let Err(errors) = &result {
            ConfigRefused { path: &running.source, errors }.emit();
        }
        systemd::ready();
        result
    }

    fn take_over(&self, running: &mut Config, mut config: Config) -> String {
        config.warnings.iter().for_each(|warning| ConfigWarning(warning).emit());
        let waiting = config.needs_restart(running);
        // What needs a restart stays as it is, also for the targets: their scratch is in the state directory.
        config.guardian.state_dir.clone_from(&running.guardian.state_dir);
        config.guardian.http = running.guardian.http;
        config.guardian.control.clone_from(&running.guardian.control);
        self.journal.limit(targets::limits(&config));
        let command = Command::Reconfigure { plant: targets::plant(&config), gates: targets::gates(&config) };
        let _ = self.outbox.send(Message::Command(command));
        let channels = targets::channels(&config);
        self.channels.send_if_modified(|now| std::mem::replace(now, channels.clone()) != channels);
        let detail = match waiting.is_empty() {
            true => "in force".to_owned(),
            false => format!("in force, but for {}, which need a restart", waiting.join(", ")),
        };
        ConfigReloaded { path: &running.source, detail: &detail }.emit();
        *running = config;
        detail
    }
}
