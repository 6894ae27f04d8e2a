//! Globs: one target per match, followed live.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::job::{Job, Outcome};
use crate::modes::{Answer, Discovery, Supervised};

use super::config::{DatabaseConfig, has_wildcard};
use super::{Database, Defaults};

/// A `[[database]]` whose path has wildcards.
pub struct Glob {
    config: DatabaseConfig,
    defaults: Defaults,
    /// Every match there ever was: a tenant's database that vanished is a failure, not a shorter list.
    known: HashSet<(PathBuf, String)>,
    /// What could not be looked at, as it was said last.
    unseen: Vec<String>,
}

impl Glob {
    /// Nothing is listed yet.
    pub fn new(config: DatabaseConfig, defaults: &Defaults) -> Glob {
        Glob { config, defaults: defaults.clone(), known: HashSet::new(), unseen: Vec::new() }
    }

    /// The last folder of the pattern that has no wildcard: a new match shows below it.
    fn root(&self) -> PathBuf {
        let literal = |part: &std::path::Component<'_>| !has_wildcard(part.as_os_str().as_encoded_bytes());
        self.config.path.components().take_while(literal).collect()
    }
}

impl Discovery for Glob {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn ask(&self) -> Job {
        Job::Expand {
            pattern: self.config.path.to_string_lossy().into_owned(),
            max: self.config.max_targets,
            state_dir: self.defaults.state_dir.clone(),
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

    fn targets(&mut self, answer: &Answer) -> Result<Vec<Box<dyn Supervised>>, String> {
        let (matches, truncated, unseen) = match answer {
            Ok(Outcome::Expanded { matches, truncated, unseen }) => (matches, *truncated, unseen),
            Ok(_) => return Err("the listing answered something else".to_owned()),
            Err(failure) => return Err(failure.message.clone()),
        };
        if truncated {
            tracing::warn!(
                glob = self.config.name,
                max_targets = self.config.max_targets,
                "more files match than `max_targets` allows; the rest is not supervised"
            );
        }
        if *unseen != self.unseen {
            for what in unseen.iter().filter(|what| !self.unseen.contains(what)) {
                tracing::warn!(glob = self.config.name, what, "not supervised: it could not be looked at");
            }
            self.unseen.clone_from(unseen);
        }
        let fresh = matches.iter().filter(|found| !self.known.contains(found)).cloned().collect::<Vec<_>>();
        let mut targets: Vec<Box<dyn Supervised>> = Vec::new();
        for (path, matched) in fresh {
            let config = self.config.for_match(path.clone(), &matched);
            targets.push(Box::new(Database::new(config, &self.defaults)));
            self.known.insert((path, matched));
        }
        Ok(targets)
    }
}
