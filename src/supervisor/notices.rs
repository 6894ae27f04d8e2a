//! Telling people, without ever waiting for them.

use tokio::sync::mpsc;

use crate::model::{Incident, Notice};

/// Takes what people shall be told; clones share the queue.
#[derive(Debug, Clone, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Into a bounded queue that somebody else empties.
    pub fn into_queue(queue: mpsc::Sender<Notice>) -> Notices {
        Notices(Some(queue))
    }

    /// Nobody is told: a person is watching.
    pub fn none() -> Notices {
        Notices(None)
    }

    /// Tells what `incident`, as it stands, calls for. A queue that is full is said aloud: the metrics and the log have it.
    pub(super) fn tell(&self, incident: &Incident) {
        if let (Some(queue), Some(notice)) = (&self.0, Notice::of(incident))
            && let Err(error) = queue.try_send(notice)
        {
            tracing::error!(incident = %incident.id, %error, "people are not told of this: too much waits to be told already");
        }
    }
}
