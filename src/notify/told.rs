//! What people were told, so that a restart does not tell it again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::model::Notice;
use crate::telemetry::NotifyChannel;

/// The document's name in the state directory.
const TOLD: &str = "told.json";
/// Older ones are of incidents that nobody offers again.
const TOLD_MAX: usize = 2000;

/// What was told, the oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    told: VecDeque<String>,
}

impl Told {
    pub(super) async fn recall(journal: &Journal) -> Told {
        let kept = journal.kept(TOLD).await.map_err(|error| error.to_string());
        let read =
            kept.and_then(|kept| kept.map(serde_json::from_value).transpose().map_err(|error| error.to_string()));
        match read {
            Ok(told) => told.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error, "what people were told cannot be read: they may be told twice");
                Told::default()
            }
        }
    }

    pub(super) fn knows(&self, channel: NotifyChannel, notice: &Notice) -> bool {
        self.told.contains(&key(channel, notice))
    }

    pub(super) async fn note(&mut self, journal: &Journal, channel: NotifyChannel, notice: &Notice) {
        self.told.push_back(key(channel, notice));
        if self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
        let document = serde_json::to_value(&*self).unwrap_or_default();
        if let Err(error) = journal.keep(TOLD, document).await {
            tracing::warn!(%error, "what people were told could not be kept: they may be told again after a restart");
        }
    }
}

fn key(channel: NotifyChannel, notice: &Notice) -> String {
    format!("{} {}", channel.name(), notice.key())
}
