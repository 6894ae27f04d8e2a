//! Telling people: a command, a webhook, or both, on escalation, on a plan that waits for approval, and on every loss.
//!
//! Nothing waits for this room. What shall be told comes through a bounded queue; each channel has a task and a queue of its
//! own, so that a dead web server holds up no command. What was told is kept (`told.json`): after a restart the untold is
//! told, and the told is not told again. A crash between telling and keeping tells twice, which is better than never.

mod command;
mod told;
mod webhook;

pub use webhook::url_problem;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};

use crate::clock::{Clock, Moment};
use crate::journal::{Filter, Journal};
use crate::model::Notice;
use crate::telemetry::{Notified, NotifyChannel, NotifyFailed, NotifyGaveUp};
use told::Told;

/// So many notices wait at most, for each channel; the oldest go first, and that is said.
pub const QUEUE: usize = 256;
/// One attempt takes no longer.
const ATTEMPT: Duration = Duration::from_secs(30);
/// After the first failure the next attempt comes after this, then after twice as long…
const RETRY_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A notice that could not be told for so long is given up: by now somebody reads the log, or nobody will.
const GIVE_UP: Duration = Duration::from_secs(3600);
/// Losses of longer ago are no news at a start.
const NEWS_HOURS: u32 = 24;

/// Where people are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channels {
    /// Run with the notice's JSON on stdin; empty: nothing is run.
    pub command: Vec<String>,
    /// Posted to; `None`: nothing is.
    pub webhook: Option<String>,
}

/// Tells what comes in through `inbox`, over the channels that are configured at the time, until the senders are gone.
pub async fn tell(
    journal: Journal,
    clock: Clock,
    mut channels: watch::Receiver<Channels>,
    mut inbox: mpsc::Receiver<Notice>,
) {
    let told = Arc::new(Mutex::new(Told::recall(&journal).await));
    let mut queues = Vec::new();
    for channel in NotifyChannel::ALL {
        let (queue, notices) = mpsc::unbounded_channel();
        let clock = clock.clone();
        let teller =
            Teller { channel, channels: channels.clone(), told: Arc::clone(&told), journal: journal.clone(), clock };
        tokio::spawn(teller.run(notices));
        queues.push(queue);
    }
    let offer = |notice: Notice| queues.iter().for_each(|queue| drop(queue.send(notice.clone())));
    channels.mark_changed();
    loop {
        tokio::select! {
            notice = inbox.recv() => match notice {
                Some(notice) => offer(notice),
                None => return,
            },
            // At the start, and when somebody can be told from now on: what is open and untold.
            changed = channels.changed() => match changed {
                Ok(()) => untold(&journal).await.into_iter().for_each(offer),
                Err(_) => return,
            },
        }
    }
}

/// What calls for a person by the journal: the tellers know what was told already.
async fn untold(journal: &Journal) -> Vec<Notice> {
    let mut incidents = Vec::new();
    for state in ["escalated", "awaiting_approval"] {
        let filter = Filter { target: None, state: Some(state.to_owned()), limit: QUEUE };
        incidents.extend(journal.incidents(filter).await.unwrap_or_default());
    }
    let lately = journal.stats(NEWS_HOURS).await.unwrap_or_default();
    incidents.extend(lately.into_iter().map(|past| past.incident).filter(|incident| incident.closed_at.is_some()));
    incidents.sort_by(|a, b| a.id.cmp(&b.id));
    incidents.iter().filter_map(Notice::of).collect()
}

/// One channel's task.
struct Teller {
    channel: NotifyChannel,
    channels: watch::Receiver<Channels>,
    told: Arc<Mutex<Told>>,
    journal: Journal,
    clock: Clock,
}

struct Waiting {
    notice: Notice,
    since: Moment,
}

impl Teller {
    async fn run(mut self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        let mut queue = VecDeque::new();
        let mut failures = 0_u32;
        loop {
            if queue.is_empty() {
                match notices.recv().await {
                    Some(notice) => self.enqueue(&mut queue, notice),
                    None => return,
                }
            }
            while let Ok(notice) = notices.try_recv() {
                self.enqueue(&mut queue, notice);
            }
            let Some(next) = queue.front() else { continue };
            if !self.is_wanted() || self.told.lock().await.knows(self.channel, &next.notice) {
                queue.pop_front();
                continue;
            }
            match self.attempt(&next.notice).await {
                Ok(()) => {
                    Notified { notice: &next.notice, channel: self.channel, after_failures: failures }.emit();
                    failures = 0;
                    self.told.lock().await.note(&self.journal, self.channel, &next.notice).await;
                    queue.pop_front();
                }
                Err(error) => {
                    // Said once, not at every attempt.
                    let first = failures == 0;
                    NotifyFailed { notice: &next.notice, channel: self.channel, error: &error, first }.emit();
                    failures = failures.saturating_add(1);
                    if self.clock.now().since(next.since) >= GIVE_UP {
                        NotifyGaveUp { notice: &next.notice, channel: self.channel, error: &error }.emit();
                        queue.pop_front();
                    }
                    self.pause(failures).await;
                }
            }
        }
    }

    fn enqueue(&self, queue: &mut VecDeque<Waiting>, notice: Notice) {
        queue.push_back(Waiting { notice, since: self.clock.now() });
        if queue.len() > QUEUE
            && let Some(oldest) = queue.pop_front()
        {
            let error = "too many wait to be told";
            NotifyGaveUp { notice: &oldest.notice, channel: self.channel, error }.emit();
        }
    }

    fn is_wanted(&self) -> bool {
        let channels = self.channels.borrow();
        match self.channel {
            NotifyChannel::Command => !channels.command.is_empty(),
            NotifyChannel::Webhook => channels.webhook.is_some(),
        }
    }

    async fn attempt(&self, notice: &Notice) -> Result<(), String> {
        let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
        let channels = self.channels.borrow().clone();
        let telling = async {
            match (self.channel, &channels.webhook) {
                (NotifyChannel::Command, _) => command::run(&channels.command, &body).await,
                (NotifyChannel::Webhook, Some(url)) => webhook::post(url, body).await,
                (NotifyChannel::Webhook, None) => Ok(()),
            }
        };
        let late = |_| Err(format!("it did not end within {} s", ATTEMPT.as_secs()));
        tokio::time::timeout(ATTEMPT, telling).await.unwrap_or_else(late)
    }

    /// Waits before the next attempt; another configuration may work at once.
    async fn pause(&mut self, failures: u32) {
        let delay = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX);
        tokio::select! {
            () = self.clock.sleep(delay) => {}
            changed = self.channels.changed() => {
                if changed.is_err() {
                    self.clock.sleep(delay).await;
                }
            }
        }
    }
}
