//! What people were told, and what not.

use crate::model::Notice;
use crate::telemetry::metrics;

/// How people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyChannel {
    /// A program is run.
    Command,
    /// A URL is posted to.
    Webhook,
}

impl NotifyChannel {
    /// All.
    pub const ALL: [NotifyChannel; 2] = [NotifyChannel::Command, NotifyChannel::Webhook];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            NotifyChannel::Command => "command",
            NotifyChannel::Webhook => "webhook",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyOutcome {
    /// Told.
    Ok,
    /// An attempt failed.
    Failed,
    /// Given up.
    Dropped,
}

impl NotifyOutcome {
    /// All.
    pub const ALL: [NotifyOutcome; 3] = [NotifyOutcome::Ok, NotifyOutcome::Failed, NotifyOutcome::Dropped];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            NotifyOutcome::Ok => "ok",
            NotifyOutcome::Failed => "failed",
            NotifyOutcome::Dropped => "dropped",
        }
    }
}

/// People were told.
#[derive(Debug)]
pub struct Notified<'a> {
    /// Of what.
    pub notice: &'a Notice,
    /// How.
    pub channel: NotifyChannel,
    /// Attempts that failed just before.
    pub after_failures: u32,
}

/// An attempt to tell people failed; it is made again.
#[derive(Debug)]
pub struct NotifyFailed<'a> {
    /// Of what.
    pub notice: &'a Notice,
    /// How.
    pub channel: NotifyChannel,
    /// Why not.
    pub error: &'a str,
    /// The one before it did not fail.
    pub first: bool,
}

/// People are not told of this over this channel.
#[derive(Debug)]
pub struct NotifyGaveUp<'a> {
    /// Of what.
    pub notice: &'a Notice,
    /// How.
    pub channel: NotifyChannel,
    /// Why not.
    pub error: &'a str,
}

impl Notified<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let (incident, occasion) = (&self.notice.incident, self.notice.occasion.name());
        let (channel, after_failures) = (self.channel.name(), self.after_failures);
        tracing::info!(incident = %incident.id, target = incident.target, occasion, channel, after_failures, "people were told");
        count(self.channel, NotifyOutcome::Ok);
    }
}

impl NotifyFailed<'_> {
    /// Logs the first of a row, and counts.
    pub fn emit(&self) {
        let (incident, occasion) = (&self.notice.incident, self.notice.occasion.name());
        let (channel, error) = (self.channel.name(), self.error);
        if self.first {
            tracing::warn!(incident = %incident.id, target = incident.target, occasion, channel, error, "people could not be told; tried again, without another word until it works");
        }
        count(self.channel, NotifyOutcome::Failed);
    }
}

impl NotifyGaveUp<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let (incident, occasion) = (&self.notice.incident, self.notice.occasion.name());
        let (channel, error) = (self.channel.name(), self.error);
        tracing::error!(incident = %incident.id, target = incident.target, occasion, channel, error, "people were not told, and will not be");
        count(self.channel, NotifyOutcome::Dropped);
    }
}

fn count(channel: NotifyChannel, outcome: NotifyOutcome) {
    if let Some(metrics) = metrics() {
        metrics.notifications.with_label_values(&[channel.name(), outcome.name()]).inc();
    }
}
