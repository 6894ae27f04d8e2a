//! Globs: one target per match, followed live, and known again after a restart.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::job::{Job, KeptMatches, Outcome};
use crate::model::glob;
use crate::modes::{Answer, Discovery, Recalled, Supervised};

use super::config::{DatabaseConfig, has_wildcard};
use super::memory::Memory;
use super::{Database, Defaults, MODE};

/// A `[[database]]` whose path has wildcards.
pub struct Glob {
    config: DatabaseConfig,
    defaults: Defaults,
    /// Every match there ever was: a tenant's database that vanished is a failure, not a shorter list.
    known: HashSet<(PathBuf, String)>,
    /// The backups of matches that are gone were asked for and seen: once is enough.
    seen_kept: bool,
    /// What could not be looked at, as it was said last.
    unseen: Vec<String>,
}

impl Glob {
    /// Nothing is listed yet.
    pub fn new(config: DatabaseConfig, defaults: &Defaults) -> Glob {
        Glob { config, defaults: defaults.clone(), known: HashSet::new(), seen_kept: false, unseen: Vec::new() }
    }

    /// The last folder of the pattern that has no wildcard: a new match shows below it.
    fn root(&self) -> PathBuf {
        let literal = |part: &std::path::Component<'_>| !has_wildcard(part.as_os_str().as_encoded_bytes());
        self.config.path.components().take_while(literal).collect()
    }

    /// The matches that earlier processes knew, whether they are there now or not: a database that was deleted while nobody
    /// looked is missing all the same.
    pub fn matches_recalled(&mut self, recalled: &[Recalled<'_>]) -> Vec<DatabaseConfig> {
        let mut matches = recalled.iter().filter_map(|one| self.match_of(one)).collect::<Vec<_>>();
        matches.sort();
        self.take_in(matches).0
    }

    /// The matches that a listing found, and those that it did not find and their backups tell of.
    ///
    /// # Errors
    /// When the listing failed.
    pub fn matches_listed(&mut self, answer: &Answer) -> Result<Vec<DatabaseConfig>, String> {
        let (matches, truncated, unseen, kept) = match answer {
            Ok(Outcome::Expanded { matches, truncated, unseen, kept }) => (matches, *truncated, unseen, kept),
            Ok(_) => return Err("the listing answered something else".to_owned()),
            Err(failure) => return Err(failure.message.clone()),
        };
        if *unseen != self.unseen {
            for what in unseen.iter().filter(|what| !self.unseen.contains(what)) {
                tracing::warn!(glob = self.config.name, what, "not supervised: it could not be looked at");
            }
            self.unseen.clone_from(unseen);
        }
        self.seen_kept = true;
        let (fresh, left_out) = self.take_in(matches.iter().chain(kept).cloned().collect());
        if truncated || left_out {
            tracing::warn!(
                glob = self.config.name,
                max_targets = self.config.max_targets,
                "more files match than `max_targets` allows; the rest is not supervised"
            );
        }
        Ok(fresh)
    }

    /// What a memory says of a match of this glob: of one as the pattern is now, for the same name may have been another file's.
    fn match_of(&self, recalled: &Recalled<'_>) -> Option<(PathBuf, String)> {
        let matched = recalled.target.strip_prefix(&self.config.name)?.strip_prefix('/')?;
        let path = Memory::path_of_known(recalled.memory, recalled.left_open).filter(|_| recalled.mode == MODE)?;
        let named = glob::matched(self.config.path.to_str()?, path.to_str()?)?;
        (named == matched).then_some((path, named))
    }

    /// Those that are new, and whether some had no room: a match that is gone is watched, too.
    fn take_in(&mut self, matches: Vec<(PathBuf, String)>) -> (Vec<DatabaseConfig>, bool) {
        let (mut fresh, mut left_out) = (Vec::new(), false);
        for one in matches {
            if self.config.exclude.contains(&one.1) || self.known.contains(&one) {
                continue;
            }
            if self.known.len() >= self.config.max_targets {
                left_out = true;
                continue;
            }
            fresh.push(self.config.for_match(one.0.clone(), &one.1));
            self.known.insert(one);
        }
        (fresh, left_out)
    }

    fn targets_of(&self, matches: Vec<DatabaseConfig>) -> Vec<Box<dyn Supervised>> {
        let target = |config| Box::new(Database::new(config, &self.defaults)) as Box<dyn Supervised>;
        matches.into_iter().map(target).collect()
    }
}

impl Discovery for Glob {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn ask(&self) -> Job {
        let backups = self.config.backup.as_ref().filter(|_| !self.seen_kept);
        Job::Expand {
            pattern: self.config.path.to_string_lossy().into_owned(),
            exclude: self.config.exclude.clone(),
            max: self.config.max_targets,
            state_dir: self.defaults.state_dir.clone(),
            kept: backups.map(|backup| KeptMatches { folder: backup.to.clone(), name: self.config.name.clone() }),
        }
    }

    fn watches(&self) -> Vec<PathBuf> {
        // A watch names an entry of a folder; the pattern's parent is a folder only when it has no wildcard itself.
        let folder = self
            .config
            .path
            .parent()
            .filter(|parent| !has_wildcard(parent.as_os_str().as_encoded_bytes()))
            .map(Path::to_path_buf);
        vec![folder.unwrap_or_else(|| self.root()).join("*")]
    }

    fn excludes(&self, target: &str) -> bool {
        let matched = target.strip_prefix(&self.config.name).and_then(|rest| rest.strip_prefix('/'));
        matched.is_some_and(|matched| self.config.exclude.iter().any(|one| one == matched))
    }

    fn recall(&mut self, recalled: &[Recalled<'_>]) -> Vec<Box<dyn Supervised>> {
        let matches = self.matches_recalled(recalled);
        self.targets_of(matches)
    }

    fn targets(&mut self, answer: &Answer) -> Result<Vec<Box<dyn Supervised>>, String> {
        let matches = self.matches_listed(answer)?;
        Ok(self.targets_of(matches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Policy;
    use serde_json::Value;
    use std::time::Duration;

    fn glob(exclude: &[&str]) -> Glob {
        let config = DatabaseConfig {
            name: "g".into(),
            exclude: exclude.iter().map(|one| (*one).to_owned()).collect(),
            ..DatabaseConfig::for_path(Path::new("/g/*.db"), Path::new("/"))
        };
        let defaults = Defaults { state_dir: "/s".into(), interval: Duration::from_secs(30), policy: Policy::Heal };
        Glob::new(config, &defaults)
    }

    fn memory(path: &str, ever_healthy: bool) -> Value {
        serde_json::to_value(Memory { ever_healthy, ..Memory::of(Path::new(path)) }).unwrap()
    }

    #[test]
    fn a_match_is_known_again_where_it_was_healthy_once_or_has_an_open_incident() {
        let table = [
            ("g/x", "database", memory("/g/x.db", true), false, true),
            ("g/x", "database", memory("/g/x.db", false), false, false),
            ("g/x", "database", memory("/g/x.db", false), true, true),
            // The pattern was another one then.
            ("g/x", "database", memory("/h/x.db", true), true, false),
            ("g/x", "database", memory("/g/y.db", true), true, false),
            ("gg/x", "database", memory("/g/x.db", true), true, false),
            ("g", "database", memory("/g/x.db", true), true, false),
            ("g/x", "other", memory("/g/x.db", true), true, false),
            ("g/x", "database", Value::Null, true, false),
        ];
        for (target, mode, memory, left_open, known) in table {
            let recalled = [Recalled { target, mode, memory: &memory, left_open }];
            let found = glob(&[]).matches_recalled(&recalled);
            assert_eq!(!found.is_empty(), known, "{target} {mode} {memory} {left_open}");
            assert!(glob(&["x"]).matches_recalled(&recalled).is_empty(), "it is excluded");
        }
    }

    #[test]
    fn what_is_known_already_is_no_news_when_it_is_listed() {
        let memory = memory("/g/x.db", true);
        let mut glob = glob(&["z"]);
        let known = glob.matches_recalled(&[Recalled { target: "g/x", mode: MODE, memory: &memory, left_open: false }]);
        assert_eq!(known.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["g/x"]);
        let of = |name: &str| (PathBuf::from(format!("/g/{name}.db")), name.to_owned());
        let answer = Ok(Outcome::Expanded {
            matches: vec![of("x"), of("y"), of("z")],
            truncated: false,
            unseen: Vec::new(),
            kept: vec![of("gone")],
        });
        let listed = glob.matches_listed(&answer).unwrap();
        assert_eq!(listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["g/y", "g/gone"]);
        assert!(glob.matches_listed(&answer).unwrap().is_empty());
    }
}
