//! From what was typed to what is meant: a configured target, or the path of a database.

use std::path::{Path, PathBuf};

use super::arguments::Common;
use super::output::Failure;
use crate::config::Config;
use crate::daemon::one_pass::{Scope, Subject};

/// Looked for in this order when `--config` is left out.
const DEFAULT_PATHS: [&str; 2] = ["guardian.toml", "/etc/guardiand/guardian.toml"];

/// The file that `--config` names, or the first default that exists.
pub(super) fn config_path(common: &Common) -> Option<PathBuf> {
    let default = || DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists());
    common.config.clone().or_else(default)
}

/// The configuration, where one was given or found.
///
/// # Errors
/// Its mistakes.
pub(super) fn config(common: &Common) -> Result<Option<Config>, Failure> {
    Ok(config_path(common).map(|path| Config::load(&path)).transpose()?)
}

/// Where the command works and what it is about. Paths alone need no configuration, so one that was only found and not
/// asked for is not read then: its mistakes are not this command's business.
///
/// # Errors
/// The configuration's mistakes; a name without a configuration; a name that is not configured.
pub(super) fn resolve(
    common: &Common,
    typed: &[PathBuf],
    state_dir: Option<PathBuf>,
) -> Result<(Scope, Vec<Subject>), Failure> {
    let only_paths = !typed.is_empty() && typed.iter().all(|typed| looks_like_a_path(typed));
    let config = if only_paths && common.config.is_none() { None } else { config(common)? };
    if typed.is_empty() && config.is_none() {
        return Err(Failure::usage(
            "there is no configuration (--config FILE, ./guardian.toml or /etc/guardiand/guardian.toml): name a database's path instead",
        ));
    }
    let subjects = typed.iter().map(|typed| subject(typed, config.as_ref())).collect::<Result<_, _>>()?;
    Ok((Scope { config, state_dir }, subjects))
}

fn subject(typed: &Path, config: Option<&Config>) -> Result<Subject, Failure> {
    if let (Some(name), Some(config)) = (typed.to_str(), config)
        && is_configured(name, config)
    {
        return Ok(Subject::Named(name.to_owned()));
    }
    if looks_like_a_path(typed) {
        return Ok(Subject::Path(typed.to_path_buf()));
    }
    let shown = typed.display();
    Err(Failure::usage(match config {
        Some(config) => {
            let names = config.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>().join(", ");
            format!(
                "no target is called `{shown}` in {}: it has {names}; and no file is called so",
                config.source.display()
            )
        }
        None => format!(
            "`{shown}` is no file, and there is no configuration that could have a target of this name: give --config FILE, or a path with a `/`"
        ),
    }))
}

/// A target's name, or the name of one of a glob's targets: `<name>/<match>`.
fn is_configured(name: &str, config: &Config) -> bool {
    config.databases.iter().any(|database| match name.strip_prefix(&database.name) {
        Some("") => true,
        Some(rest) => database.is_glob() && rest.starts_with('/'),
        None => false,
    })
}

/// A missing database is worth a check too, so a `/` is enough.
fn looks_like_a_path(typed: &Path) -> bool {
    typed.as_os_str().as_encoded_bytes().contains(&b'/') || std::fs::symlink_metadata(typed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn config() -> Config {
        let text = "[[database]]\nname = \"app\"\npath = \"/srv/app.db\"\n[[database]]\nname = \"tenants\"\npath = \"/srv/t/*.db\"\n";
        let environment = Environment { working_directory: PathBuf::from("/"), ..Environment::default() };
        Config::parse(text, Path::new("/g.toml"), &environment).unwrap()
    }

    #[test]
    fn names_go_before_paths_and_a_glob_lends_its_name() {
        let config = config();
        for (typed, expected) in [
            ("app", Subject::Named("app".to_owned())),
            ("tenants", Subject::Named("tenants".to_owned())),
            ("tenants/acme.db", Subject::Named("tenants/acme.db".to_owned())),
            ("app/x", Subject::Path(PathBuf::from("app/x"))),
            ("./app", Subject::Path(PathBuf::from("./app"))),
            ("/srv/missing.db", Subject::Path(PathBuf::from("/srv/missing.db"))),
        ] {
            assert_eq!(subject(Path::new(typed), Some(&config)).unwrap(), expected, "{typed}");
        }
        assert!(subject(Path::new("nobody"), Some(&config)).is_err());
        assert!(subject(Path::new("app"), None).is_err());
    }
}
