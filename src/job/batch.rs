//! Many probes in few children: who is the culprit when one hangs or crashes, and what becomes of the rest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::child::{self, Asked, Ending};
use super::client::{Answer, Inner, run_alone};
use super::{FailureKind, Job, JobFailure};

/// Jobs that share one look at /proc/locks: beyond it, the table is read again.
const CHUNK: usize = 2000;

/// Culprits in one batch before the rest runs one by one.
const STRIKES: u32 = 2;

/// One job of a batch.
pub struct Probe {
    /// The caller's own name for it.
    pub id: u64,
    /// What to do.
    pub job: Job,
    /// How long it may take from its own beginning.
    pub patience: Duration,
    /// What it stands on, where that is known: what cannot be ended on one ground is not begun there again in the same batch.
    pub ground: Option<String>,
}

/// Runs `probes` and sends every answer once.
pub(super) async fn run(inner: &Arc<Inner>, probes: Vec<Probe>, to: &UnboundedSender<(u64, Answer)>) {
    let mut ids = Vec::with_capacity(probes.len());
    let mut grounds = Vec::with_capacity(probes.len());
    let mut left = Vec::with_capacity(probes.len());
    for (at, Probe { id, job, patience, ground }) in probes.into_iter().enumerate() {
        ids.push(id);
        grounds.push(ground);
        match Asked::new(at, job, patience) {
            Ok(asked) => left.push(asked),
            Err(failure) => drop(to.send((id, Err(failure)))),
        }
    }
    let mut strikes = 0;
    while !left.is_empty() {
        if strikes >= STRIKES {
            return one_by_one(inner, left, &ids, to).await;
        }
        let rest = left.split_off(left.len().min(CHUNK));
        let mut stuck = None;
        let mut unanswered = one_batch(inner, left, &mut strikes, |at, answer| {
            if matches!(&answer, Err(failure) if failure.kind == FailureKind::Abandoned) {
                stuck = grounds[at].as_deref();
            }
            drop(to.send((ids[at], answer)));
        })
        .await;
        unanswered.extend(rest);
        if stuck.is_some() {
            // Nobody else of that ground is asked, so that one child stands for all of them, and it is no strike.
            strikes = strikes.saturating_sub(1);
            unanswered.retain(|one| {
                let waits = grounds[one.at].as_deref() == stuck;
                if waits {
                    drop(to.send((ids[one.at], Err(not_begun()))));
                }
                !waits
            });
        }
        left = unanswered;
    }
}

fn not_begun() -> JobFailure {
    let message = "a look at another database there could not be ended, so this one was not begun".to_owned();
    JobFailure { kind: FailureKind::Abandoned, message }
}

/// Runs one child, the kept one or a fresh one, over `asked` and gives back those that no answer came for; a culprit is answered for here.
async fn one_batch(
    inner: &Arc<Inner>,
    asked: Vec<Asked>,
    strikes: &mut u32,
    mut answer: impl FnMut(usize, Answer) + Send,
) -> Vec<Asked> {
    let lane = match inner.probe_lane().await {
        Ok(lane) => lane,
        Err(failure) => {
            asked.iter().for_each(|one| answer(one.at, Err(failure.clone())));
            return Vec::new();
        }
    };
    let mut done = 0;
    let ending = child::converse_with_kept(inner, lane, &asked, &mut |at, got| {
        done += 1;
        answer(at, got);
    })
    .await;
    let mut left = asked;
    left.drain(..done);
    match ending {
        Ending::Finished => left.clear(),
        Ending::Culprit(at, failure) => {
            *strikes += 1;
            answer(at, Err(failure));
            left.remove(0);
        }
        // After an answered panic the child ends by design: that is progress, not a strike.
        Ending::BetweenJobs(_) if done > 0 => {}
        Ending::BetweenJobs(_) => *strikes += 1,
        Ending::NotStarted(failure) => left.drain(..).for_each(|one| answer(one.at, Err(failure.clone()))),
    }
    left
}

/// Each in its own child, beside each other as lanes allow.
async fn one_by_one(inner: &Arc<Inner>, left: Vec<Asked>, ids: &[u64], to: &UnboundedSender<(u64, Answer)>) {
    let mut running = JoinSet::new();
    for asked in left {
        // Waiting for the lane here keeps the number of tasks at the number of lanes.
        let lane = match inner.probe_lane().await {
            Ok(lane) => lane,
            Err(failure) => {
                drop(to.send((ids[asked.at], Err(failure))));
                continue;
            }
        };
        let (inner, to, id) = (Arc::clone(inner), to.clone(), ids[asked.at]);
        running.spawn(async move { drop(to.send((id, run_alone(&inner, lane, &asked).await))) });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}
