//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Watches SQLite databases, heals them with the least loss possible, and proves it.
///
/// Exit status: 0 healthy or done, 1 unhealthy or failed, 2 wrong usage, 3 could not tell, 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "guardiand", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,

    /// Print one JSON document on stdout instead of a table.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// Without a command: `run`.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Clone, Default, Args)]
pub(super) struct Common {
    /// The configuration [default: ./guardian.toml, else /etc/guardiand/guardian.toml].
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,

    /// The control socket of the running daemon [default: the configuration's].
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground.
    Run,
    /// Look once, heal nothing; a path needs no configuration.
    Check(Check),
    /// Look, heal and prove once.
    Heal(Heal),
    /// Take a verified backup now.
    Backup(Backup),
    /// List the backups of a target, newest first.
    Backups(Backups),
    /// Restore a backup to a path where nothing is.
    Restore(Restore),
    /// Look through every page of a database, at the speed of the disk; a path needs no configuration.
    Scrub(Scrub),
    /// Rescue the rows of a damaged database into a new one; the damaged one is only read.
    Salvage(Salvage),
    /// What the running daemon knows of every target, or of one: who has it open, and who locks it.
    Status(Status),
    /// The running daemon's incidents, newest first.
    Incidents(Incidents),
    /// One incident of the running daemon.
    Incident(Incident),
    /// Put the files back as they were before an incident was healed.
    Rollback(Rollback),
    /// Say yes to what an incident's plan would do.
    Approve(Approve),
    /// Heal nothing of a target for a while; looks and backups go on.
    Pause(Pause),
    /// End a pause, and look again at once.
    Resume(Resume),
    /// Let the running daemon read its configuration again.
    Reload,
    /// Work on the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate a file: every mistake with its line, column and a caret.
    Check {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configured targets, or paths of databases; every configured target when left out.
    #[arg(value_name = "TARGET|DB")]
    pub(super) subjects: Vec<PathBuf>,

    /// Where private copies are made [default: the configuration's, else a temporary folder].
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Heal {
    /// A configured target, or the path of a database (then with --state-dir).
    #[arg(value_name = "TARGET|DB", required_unless_present = "interrupted")]
    pub(super) subject: Option<PathBuf>,

    /// Where evidence, backups and the journal are kept.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,

    /// Finish every heal that a crash interrupted, and nothing else: for a machine that starts, before the programs do.
    #[arg(long, conflicts_with_all = ["subject", "dry_run"])]
    pub(super) interrupted: bool,

    /// Print what would be done, and touch nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// A configured target, or the path of a database (then with --state-dir).
    #[arg(value_name = "TARGET|DB")]
    pub(super) subject: PathBuf,

    /// Where backups are kept when the configuration does not say.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Backups {
    /// A configured target, or the path of a database (then with --state-dir).
    #[arg(value_name = "TARGET|DB")]
    pub(super) subject: PathBuf,

    /// Where backups are kept when the configuration does not say.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["subject", "from"])))]
pub(super) struct Restore {
    /// A configured target: its newest backup that passes its check.
    #[arg(value_name = "TARGET")]
    pub(super) subject: Option<PathBuf>,

    /// This backup.
    #[arg(long, value_name = "BACKUP")]
    pub(super) from: Option<PathBuf>,

    /// Where to; nothing may be there.
    #[arg(long, value_name = "PATH")]
    pub(super) to: PathBuf,

    /// Where backups are kept when the configuration does not say.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Scrub {
    /// A configured target, or a database file.
    #[arg(value_name = "TARGET|DB")]
    pub(super) subject: PathBuf,

    /// Also compare what indexes hold with what their tables hold, and have SQLite check the tables' rules.
    #[arg(long)]
    pub(super) full: bool,

    /// Tell at most so many faults; all are counted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) faults: usize,

    /// Where private copies go when the configuration does not say.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Salvage {
    /// The damaged database, its WAL and journal beside it; or an incident's evidence folder.
    #[arg(value_name = "SRC")]
    pub(super) source: PathBuf,

    /// The new database; nothing may be there.
    #[arg(value_name = "DST")]
    pub(super) to: PathBuf,

    /// A schema as SQL, for what of its own cannot be read.
    #[arg(long, value_name = "FILE")]
    pub(super) schema: Option<PathBuf>,

    /// A backup of the same database: its schema for what of the wreck's own cannot be read, its rows for those that are gone.
    #[arg(long, value_name = "FILE")]
    pub(super) backup: Option<PathBuf>,

    /// Also rows on pages that were freed, into lost_and_found (with rootpgno 0).
    #[arg(long)]
    pub(super) deleted: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// One configured target; all when left out.
    #[arg(value_name = "TARGET")]
    pub(super) target: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Incidents {
    /// Only of this target.
    #[arg(long)]
    pub(super) target: Option<String>,

    /// Only in this state.
    #[arg(long, value_parser = ["open", "awaiting_approval", "healing", "verifying", "escalated", "closed"])]
    pub(super) state: Option<String>,

    /// At most so many.
    #[arg(long)]
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Incident {
    /// Its name, as `guardiand incidents` lists it.
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The incident that waits for it, as `guardiand incidents --state awaiting_approval` lists it.
    pub(super) id: String,

    /// Where the incident is kept when the configuration does not say, for a database healed by its path.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The incident's name, as `guardiand incidents` lists it.
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// Although commits were made since: they are kept in the rollback's own evidence, and nowhere else.
    #[arg(long)]
    pub(super) accept_loss: bool,

    /// Say what would come back and what it would cost, and touch nothing.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Which of the incident's preservations comes back, as `guardiand incident ID` lists them [default: the last].
    #[arg(long, value_name = "N")]
    pub(super) generation: Option<u32>,

    /// Where evidence and the journal are kept.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Pause {
    /// A configured target, or the name of a glob for all of its targets.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) target: Option<String>,

    /// Everything.
    #[arg(long)]
    pub(super) all: bool,

    /// It ends by itself after this, such as "1h 30m" [default: not before `guardiand resume`].
    #[arg(long = "for", value_name = "DURATION", value_parser = crate::model::parse_positive_duration)]
    pub(super) span: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// A configured target, which may then be healed by itself again also after a rollback; or the name of a glob for all of its
    /// targets.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) target: Option<String>,

    /// Everything, and what is held because too many targets failed at once.
    #[arg(long)]
    pub(super) all: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_configuration_alone_means_run_and_may_stand_anywhere() {
        let arguments = Arguments::try_parse_from(["guardiand", "--config", "g.toml"]).unwrap();
        assert!(arguments.command.is_none());
        assert_eq!(arguments.common.config, Some(PathBuf::from("g.toml")));
        let arguments =
            Arguments::try_parse_from(["guardiand", "check", "--json", "--config", "g.toml", "app"]).unwrap();
        assert!(arguments.json && matches!(arguments.command, Some(Command::Check(_))));
        assert_eq!(arguments.common.config, Some(PathBuf::from("g.toml")));
    }

    #[test]
    fn wrong_usage_is_status_two() {
        for wrong in [
            vec!["guardiand", "dance"],
            vec!["guardiand", "heal"],
            vec!["guardiand", "restore", "--to", "x"],
            vec!["guardiand", "restore", "app", "--from", "b", "--to", "x"],
            vec!["guardiand", "--colour"],
        ] {
            assert_eq!(Arguments::try_parse_from(&wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
