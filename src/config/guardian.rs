//! `[guardian]`, `[gates]`, `[notify]` and `[log]`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Environment;
use crate::model::{Bytes, Delay, Period, Policy};
use crate::modes::config::{KeyProblem, period, resolve};
use crate::telemetry::{LogFormat, LogLevel};

/// `[guardian]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardian {
    /// Where incidents, evidence and the index are kept, absolute.
    pub state_dir: PathBuf,
    /// Every detector looks at least this often.
    pub interval: Duration,
    /// Where HTTP listens; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// The control socket, absolute.
    pub control: PathBuf,
    /// What may be done; a target may say otherwise.
    pub policy: Policy,
    /// Children at once, beside the lane for probes.
    pub workers: usize,
    /// How much evidence of closed incidents is kept.
    pub evidence: Evidence,
    /// Further names that HTTP answers to.
    pub http_hosts: Vec<String>,
}

/// How much evidence of closed incidents is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// How long.
    pub keep: Duration,
    /// All together, in bytes; the oldest go first.
    pub max: u64,
}

/// `[gates]`, per (target, mode).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gates {
    /// From one attempt to the next.
    pub cooldown: Duration,
    /// At most so many heals in a window.
    pub heals: HealBudget,
    /// The same kind again after "healed", so often in a window: hold and escalate.
    pub repeat: RepeatLimit,
    /// So many targets at once: heal none.
    pub mass: MassGuard,
}

/// `heals = { max, per }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealBudget {
    /// Heals.
    pub max: u32,
    /// In this window.
    pub per: Duration,
}

/// `repeat = { max, within }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepeatLimit {
    /// Returns of the same kind.
    pub max: u32,
    /// In this window.
    pub within: Duration,
}

/// `mass = { share, min, within }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MassGuard {
    /// Of all targets, from 0 to 1.
    pub share: f64,
    /// And at least so many.
    pub min: u32,
    /// In this window.
    pub within: Duration,
}

/// `[notify]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notify {
    /// Run with the incident's JSON on stdin; empty: nothing is run.
    pub command: Vec<String>,
    /// Posted to; `None`: nothing is.
    pub webhook: Option<String>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The shape of log lines.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `[guardian]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuardianTable {
    state_dir: Option<PathBuf>,
    interval: Option<Period>,
    http: Option<String>,
    control: Option<PathBuf>,
    policy: Option<Policy>,
    workers: Option<usize>,
    evidence: Option<EvidenceTable>,
    #[serde(default)]
    http_hosts: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceTable {
    keep: Option<Period>,
    max: Option<Bytes>,
}

/// `[gates]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatesTable {
    cooldown: Option<Delay>,
    heals: Option<HealsTable>,
    repeat: Option<RepeatTable>,
    mass: Option<MassTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealsTable {
    max: Option<u32>,
    per: Option<Period>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepeatTable {
    max: Option<u32>,
    within: Option<Period>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MassTable {
    share: Option<f64>,
    min: Option<u32>,
    within: Option<Period>,
}

/// `[notify]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyTable {
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    webhook: String,
}

/// A Unix socket's path must fit the 108 bytes of `sockaddr_un` (unix(7)), with `.new` and a final zero.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// More children than this would only wait for the disk.
const WORKERS_MAX: usize = 64;

const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9617);

impl GuardianTable {
    pub(super) fn settle(
        self,
        folder: &Path,
        environment: &Environment,
        problems: &mut Vec<KeyProblem>,
        warnings: &mut Vec<String>,
    ) -> Guardian {
        if self.state_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            problems.push(KeyProblem::new(&["state_dir"], "must not be empty: leave it out instead"));
        }
        let state_dir = match self.state_dir {
            Some(path) => resolve(folder, &path),
            None => environment.state_dir(),
        };
        let control = match (self.control, &environment.runtime_directory) {
            (Some(path), _) => resolve(folder, &path),
            (None, Some(runtime)) => runtime.join("control.sock"),
            (None, None) => state_dir.join("control.sock"),
        };
        if control.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let message = format!(
                "the socket's path {} is longer than {SOCKET_PATH_BYTES_MAX} bytes, which the kernel refuses: set a shorter `control`",
                control.display()
            );
            problems.push(KeyProblem::new(&["control"], message));
        }
        let workers = self.workers.unwrap_or(2);
        if !(1..=WORKERS_MAX).contains(&workers) {
            problems.push(KeyProblem::new(&["workers"], format!("must be from 1 to {WORKERS_MAX}")));
        }
        let evidence = self.evidence.unwrap_or_default();
        Guardian {
            state_dir,
            interval: period(self.interval, Duration::from_secs(30)),
            http: http(self.http.as_deref(), problems, warnings),
            control,
            policy: self.policy.unwrap_or(Policy::Heal),
            workers,
            evidence: Evidence {
                keep: period(evidence.keep, Duration::from_secs(30 * 24 * 3600)),
                max: evidence.max.map_or(10_000_000_000, |size| size.0),
            },
            http_hosts: self.http_hosts,
        }
    }
}

fn http(written: Option<&str>, problems: &mut Vec<KeyProblem>, warnings: &mut Vec<String>) -> Option<SocketAddr> {
    let address = match written {
        None => return Some(DEFAULT_HTTP),
        Some("off") => return None,
        Some(text) => match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let message =
                    format!("\"{text}\" is not an address: write \"127.0.0.1:9617\", \"[::1]:9617\" or \"off\"");
                problems.push(KeyProblem::new(&["http"], message));
                return Some(DEFAULT_HTTP);
            }
        },
    };
    if !address.ip().is_loopback() {
        warnings.push(format!(
            "HTTP on {address} can be read by others: it is read-only, but neither encrypted nor asks who reads"
        ));
    }
    Some(address)
}

impl GatesTable {
    pub(super) fn settle(self, problems: &mut Vec<KeyProblem>) -> Gates {
        let heals = self.heals.unwrap_or_default();
        let repeat = self.repeat.unwrap_or_default();
        let mass = self.mass.unwrap_or_default();
        let gates = Gates {
            cooldown: self.cooldown.map_or(Duration::from_secs(30), |delay| delay.0),
            heals: HealBudget { max: heals.max.unwrap_or(5), per: period(heals.per, Duration::from_secs(3600)) },
            repeat: RepeatLimit {
                max: repeat.max.unwrap_or(2),
                within: period(repeat.within, Duration::from_secs(600)),
            },
            mass: MassGuard {
                share: mass.share.unwrap_or(0.5),
                min: mass.min.unwrap_or(4),
                within: period(mass.within, Duration::from_secs(60)),
            },
        };
        if gates.heals.max == 0 {
            let message = "must be at least 1: to heal nothing, write policy = \"observe\"";
            problems.push(KeyProblem::new(&["heals", "max"], message));
        }
        if gates.repeat.max == 0 {
            problems.push(KeyProblem::new(&["repeat", "max"], "must be at least 1"));
        }
        if !(gates.mass.share > 0.0 && gates.mass.share <= 1.0) {
            problems.push(KeyProblem::new(&["mass", "share"], "must be above 0.0 and at most 1.0"));
        }
        if gates.mass.min == 0 {
            problems.push(KeyProblem::new(&["mass", "min"], "must be at least 1"));
        }
        gates
    }
}

impl NotifyTable {
    pub(super) fn settle(mut self, folder: &Path, problems: &mut Vec<KeyProblem>) -> Notify {
        if self.command.first().is_some_and(String::is_empty) {
            problems.push(KeyProblem::new(&["command"], "the program's name is empty"));
        }
        // A name alone is looked for in $PATH; a path is one like any other in this file.
        if let Some(program) = self.command.first_mut().filter(|program| program.contains('/')) {
            *program = resolve(folder, Path::new(program.as_str())).display().to_string();
        }
        let problem = Some(self.webhook.as_str()).filter(|url| !url.is_empty()).and_then(crate::notify::url_problem);
        problems.extend(problem.map(|problem| KeyProblem::new(&["webhook"], problem)));
        Notify { command: self.command, webhook: Some(self.webhook).filter(|url| !url.is_empty()) }
    }
}
