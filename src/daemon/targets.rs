//! From a configuration to what is supervised: the one place that names every mode.

use crate::config::Config;
use crate::journal::Limits;
use crate::modes::database::{Database, Defaults, Glob, MODE, kinds};
use crate::notify::Channels;
use crate::supervisor::{GUARDIAN, GatesConfig, MASS_FAILURE, MassLimits, Plant};
use crate::telemetry::{register_incidents_of, register_mode};

/// Everything that `config` wants supervised.
pub(super) fn plant(config: &Config) -> Plant {
    let defaults = defaults(config);
    let mut plant = Plant::default();
    for database in &config.databases {
        match database.is_glob() {
            true => plant.discoveries.push(Box::new(Glob::new(database.clone(), &defaults))),
            false => plant.targets.push(Box::new(Database::new(database.clone(), &defaults))),
        }
    }
    plant
}

/// What targets take from the daemon's own table.
pub(super) fn defaults(config: &Config) -> Defaults {
    Defaults {
        state_dir: config.guardian.state_dir.clone(),
        interval: config.guardian.interval,
        policy: config.guardian.policy,
    }
}

/// The gates as the supervisor has them.
pub(super) fn gates(config: &Config) -> GatesConfig {
    GatesConfig {
        cooldown: config.gates.cooldown,
        heals_max: config.gates.heals.max,
        heals_per: config.gates.heals.per,
        repeat_max: config.gates.repeat.max,
        repeat_within: config.gates.repeat.within,
        mass: MassLimits {
            share: config.gates.mass.share,
            min: config.gates.mass.min,
            within: config.gates.mass.within,
        },
    }
}

/// How much evidence is kept.
pub(super) fn limits(config: &Config) -> Limits {
    Limits { keep: config.guardian.evidence.keep, max_bytes: config.guardian.evidence.max }
}

/// Where people are told.
pub(super) fn channels(config: &Config) -> Channels {
    Channels { command: config.notify.command.clone(), webhook: config.notify.webhook.clone() }
}

/// Creates the series of every mode, at zero.
pub(super) fn register_modes() {
    let names = kinds::KINDS.iter().map(crate::model::Kind::as_str).collect::<Vec<_>>();
    register_mode(MODE, kinds::LAYERS, &names);
    register_incidents_of(GUARDIAN, MODE, MASS_FAILURE.as_str());
}
