//! Where incidents come from: the journal, or a list in a test.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;

use crate::model::{Incident, IncidentId};

/// What a source answers, in its own time; an error is a sentence for people.
pub type Fetched<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// Where incidents are read.
pub trait IncidentSource: Send + Sync {
    /// Incidents, newest first; of one target and in one state where these are given.
    fn incidents(&self, target: Option<String>, state: Option<String>, limit: usize) -> Fetched<'_, Vec<Incident>>;

    /// One incident.
    fn incident(&self, id: IncidentId) -> Fetched<'_, Option<Incident>>;

    /// Every incident that something happened to in the last `hours`, with its playbooks' runs.
    fn history(&self, hours: u32) -> Fetched<'_, Vec<Story>>;
}

/// An incident and the playbooks that ran for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// The incident.
    pub incident: Incident,
    /// In the order of their beginning.
    pub runs: Vec<Run>,
}

/// One run of one playbook.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The playbook.
    pub playbook: String,
    /// When it began.
    pub began_at: Timestamp,
    /// How long it took; `None` while it runs.
    pub seconds: Option<f64>,
    /// Whether the detector said healthy after it; `None` while it runs.
    pub success: Option<bool>,
}
