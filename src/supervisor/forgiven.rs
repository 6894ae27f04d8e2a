//! When a person last looked after a target: heals of before that are not held against it. Kept like the pauses, in a file of its own: the
//! attempts themselves are read back from the incidents' logs, which no word of a person changes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pause::is_below;

/// The document's name in the state directory.
pub const FORGIVEN: &str = "forgiven.json";

/// Nothing of longer ago is held against anybody: no span of a gate is read back over more.
const KEPT_FOR: Duration = Duration::from_secs(31 * 24 * 3600);

/// Since when attempts count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forgiven {
    /// Of everything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    all: Option<Timestamp>,
    /// By the name of a target, or of a glob for all of its targets.
    #[serde(default)]
    targets: BTreeMap<String, Timestamp>,
}

impl Forgiven {
    /// What an earlier process kept. What cannot be read forgives nothing: a budget that is not refilled costs a person another word,
    /// one that is refilled by mistake a database its heals.
    pub fn recall(kept: Result<Option<serde_json::Value>, String>) -> Forgiven {
        let read = kept.and_then(|kept| match kept {
            None => Ok(Forgiven::default()),
            Some(document) => serde_json::from_value(document).map_err(|error| error.to_string()),
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(
                error,
                "whose budget a person refilled cannot be told, so earlier heals count: run `guardiand resume TARGET` where that holds one up"
            );
            Forgiven::default()
        })
    }

    /// A person looked after `name`, or after everything.
    pub(super) fn note(&mut self, name: Option<&str>, now: Timestamp) {
        match name {
            None => *self = Forgiven { all: Some(now), targets: BTreeMap::new() },
            Some(name) => {
                self.targets.retain(|_, at| now.duration_since(*at).unsigned_abs() < KEPT_FOR);
                self.targets.insert(name.to_owned(), now);
            }
        }
    }

    /// What happened to `target` at `at` counts no more. `now` bounds a word that was given before the clock was set back: it shall
    /// not cover what comes.
    pub(super) fn covers(&self, target: &str, at: Timestamp, now: Timestamp) -> bool {
        let named = self.targets.iter().filter(|(name, _)| *name == target || is_below(target, name));
        let words = self.all.iter().chain(named.map(|(_, word)| word));
        words.filter(|word| **word <= now).any(|word| at <= *word)
    }

    /// As it is kept.
    pub(super) fn document(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_word_covers_what_was_before_it_and_whom_it_names_also_after_a_restart() {
        let mut forgiven = Forgiven::default();
        forgiven.note(Some("app"), at(100));
        forgiven.note(Some("shop"), at(200));
        let mut forgiven = Forgiven::recall(Ok(Some(forgiven.document())));
        for (target, second, covered) in [
            ("app", 100, true),
            ("app", 101, false),
            ("shop/a", 200, true),
            ("shopping", 1, false),
            ("other", 1, false),
        ] {
            assert_eq!(forgiven.covers(target, at(second), at(300)), covered, "{target} at {second}");
        }
        assert!(!forgiven.covers("app", at(50), at(99)), "the clock was set back");
        forgiven.note(None, at(300));
        assert!(forgiven.covers("other", at(300), at(300)) && !forgiven.covers("app", at(301), at(400)));
    }

    #[test]
    fn what_cannot_be_read_forgives_nothing_and_old_words_are_dropped() {
        for kept in [Err("torn".to_owned()), Ok(Some(serde_json::json!([1]))), Ok(None)] {
            assert_eq!(Forgiven::recall(kept), Forgiven::default());
        }
        let mut forgiven = Forgiven::default();
        forgiven.note(Some("old"), at(0));
        forgiven.note(Some("app"), at(32 * 24 * 3600));
        assert_eq!(forgiven.targets.keys().collect::<Vec<_>>(), ["app"]);
    }
}
