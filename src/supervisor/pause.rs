//! Pauses: a person said that nothing shall be healed for a while. Looks and backups go on.
//!
//! They are kept in a file of their own in the state directory, not in the index: that one can be rebuilt, and what a person
//! said cannot. A file that cannot be read pauses everything: healing what somebody forbade is the worse mistake.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::model::{for_shell, millis, millis_option};

/// The document's name in the state directory.
pub const PAUSES: &str = "pauses.json";

/// One pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    #[serde(with = "millis")]
    pub since: Timestamp,
    /// When it ends by itself; `None`: not before a person resumes.
    #[serde(with = "millis_option", skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
    /// The user who said so.
    pub by: u32,
    /// `until` on the clock that never steps.
    #[serde(skip)]
    ends: Option<Moment>,
}

/// What is paused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// Everything, also what comes later.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    all: Option<Pause>,
    /// By the name of a target, or of a glob for all of its targets.
    #[serde(default)]
    targets: BTreeMap<String, Pause>,
}

impl Pause {
    fn is_over(&self, now: Moment) -> bool {
        self.ends.is_some_and(|ends| ends.boot_ms <= now.boot_ms)
    }

    /// What is left of it, put on this boot's clock. A wall clock that was set back does not make it longer than was asked.
    fn take_up(&mut self, now: Moment) {
        let span = |from: Timestamp| move |until: Timestamp| until.duration_since(from).as_secs_f64().max(0.0);
        let left = self.until.map(|until| span(now.wall)(until).min(span(self.since)(until)));
        self.ends = left.map(|seconds| now.after(Duration::from_secs_f64(seconds)));
    }
}

impl Pauses {
    /// What an earlier process kept; `Err` says why that cannot be told.
    pub fn recall(kept: Result<Option<serde_json::Value>, String>, now: Moment) -> Pauses {
        let read = kept.and_then(|kept| match kept {
            None => Ok(Pauses::default()),
            Some(document) => serde_json::from_value::<Pauses>(document).map_err(|error| error.to_string()),
        });
        match read {
            Ok(mut pauses) => {
                pauses.all.iter_mut().chain(pauses.targets.values_mut()).for_each(|pause| pause.take_up(now));
                pauses.drop_ended(now);
                pauses
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "what a person paused cannot be told, so everything is paused: run `guardiand resume --all` once it may be healed"
                );
                let mut pauses = Pauses::default();
                pauses.pause(None, None, 0, now);
                pauses
            }
        }
    }

    /// Pauses what is called `name`, or everything; a later word replaces the one before it.
    pub fn pause(&mut self, name: Option<&str>, span: Option<Duration>, by: u32, now: Moment) -> &Pause {
        let ends = span.map(|span| now.after(span));
        let pause = Pause { since: now.wall, until: ends.map(|ends| ends.wall), by, ends };
        match name {
            None => self.all.insert(pause),
            Some(name) => {
                let place = self.targets.entry(name.to_owned());
                place.and_modify(|known| known.clone_from(&pause)).or_insert(pause)
            }
        }
    }

    /// Ends the pause of `name`, or every pause. True when there was one.
    ///
    /// # Errors
    /// When it is paused together with others, and which command ends that.
    pub fn resume(&mut self, name: Option<&str>) -> Result<bool, String> {
        let Some(name) = name else {
            let was = self.all.is_some() || !self.targets.is_empty();
            *self = Pauses::default();
            return Ok(was);
        };
        if self.all.is_some() {
            return Err("everything is paused: run `guardiand resume --all`".to_owned());
        }
        let was = self.targets.remove(name).is_some();
        match self.targets.keys().find(|known| is_below(name, known)) {
            Some(glob) => {
                Err(format!("`{name}` is paused with all of `{glob}`: run `guardiand resume {}`", for_shell(glob)))
            }
            None => Ok(was),
        }
    }

    /// The pause that holds for `target`, if one does.
    pub fn of(&self, target: &str) -> Option<&Pause> {
        let glob = || self.targets.iter().find(|(name, _)| is_below(target, name)).map(|(_, pause)| pause);
        self.all.as_ref().or_else(|| self.targets.get(target)).or_else(glob)
    }

    /// Why `target` is not healed, in words; they begin with `paused`.
    pub(super) fn words(&self, target: &str) -> Option<String> {
        let pause = self.of(target)?;
        let until = pause.until.map_or_else(String::new, |until| format!(" until {until:.0}"));
        let what = match (&self.all, self.targets.contains_key(target)) {
            (Some(_), _) => "--all",
            (None, true) => target,
            (None, false) => self.targets.keys().find(|name| is_below(target, name)).map_or(target, String::as_str),
        };
        Some(format!(
            "paused by uid {}{until}: looked at, not healed; run `guardiand resume {}`",
            pause.by,
            for_shell(what)
        ))
    }

    /// When the next one ends by itself.
    pub(super) fn next_end(&self) -> Option<Moment> {
        let ends = self.all.iter().chain(self.targets.values()).filter_map(|pause| pause.ends);
        ends.min_by_key(|ends| ends.boot_ms)
    }

    /// Forgets what is over. True when something was.
    pub(super) fn drop_ended(&mut self, now: Moment) -> bool {
        let before = (self.all.is_some(), self.targets.len());
        self.all = self.all.take().filter(|pause| !pause.is_over(now));
        self.targets.retain(|_, pause| !pause.is_over(now));
        before != (self.all.is_some(), self.targets.len())
    }

    /// As it is kept.
    pub(super) fn document(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A glob's targets are `<name>/<match>`, and no configured name has a `/` in it.
pub(super) fn is_below(target: &str, glob: &str) -> bool {
    target.strip_prefix(glob).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { wall: Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_glob_pauses_all_of_its_targets_and_no_neighbour() {
        let mut pauses = Pauses::default();
        pauses.pause(Some("shop"), None, 7, at(0));
        assert!(pauses.of("shop/a").is_some() && pauses.of("shopping").is_none() && pauses.of("app").is_none());
        assert!(pauses.resume(Some("shop/a")).unwrap_err().contains("guardiand resume shop"));
        assert_eq!(pauses.resume(Some("shop")), Ok(true));
        assert_eq!(pauses.resume(Some("shop")), Ok(false));
        assert_eq!(pauses.of("shop/a"), None);
    }

    #[test]
    fn a_pause_ends_by_itself_on_the_clock_that_never_steps() {
        let mut pauses = Pauses::default();
        pauses.pause(Some("app"), Some(Duration::from_secs(60)), 7, at(100));
        assert_eq!(pauses.next_end(), Some(at(160)));
        assert!(!pauses.drop_ended(at(159)) && pauses.drop_ended(at(160)));
        assert_eq!(pauses, Pauses::default());
    }

    #[test]
    fn a_restart_shortens_no_pause_and_a_clock_set_back_lengthens_none() {
        let mut pauses = Pauses::default();
        pauses.pause(Some("app"), Some(Duration::from_secs(60)), 7, at(100));
        pauses.pause(Some("b"), None, 7, at(100));
        let kept = || Ok(Some(pauses.document()));
        // Another boot: its clock began anew.
        let booted = |wall: u64| Moment { boot_ms: 5_000, ..at(wall) };
        let left = |wall: u64| {
            let recalled = Pauses::recall(kept(), booted(wall));
            assert!(recalled.of("b").is_some());
            recalled.next_end().map(|ends| (ends.boot_ms - 5_000) / 1000)
        };
        assert_eq!(left(120), Some(40));
        assert_eq!(left(20), Some(60), "set back");
        assert_eq!(left(161), None, "over");
    }

    #[test]
    fn what_cannot_be_read_pauses_everything() {
        for kept in [Err("torn".to_owned()), Ok(Some(serde_json::json!([1])))] {
            let mut pauses = Pauses::recall(kept, at(0));
            assert!(pauses.words("app").unwrap().contains("guardiand resume --all"));
            assert!(pauses.resume(Some("app")).is_err());
            assert_eq!(pauses.resume(None), Ok(true));
            assert_eq!(pauses.of("app"), None);
        }
    }
}
