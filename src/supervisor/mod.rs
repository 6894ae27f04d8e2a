//! Schedule, incidents, gates, execution. Knows failure modes only through [`crate::modes::Supervised`].
//!
//! ```text
//! schedule ──due──▶ look (one child for all) ──answer──▶ judge ──unhealthy──▶ attend ─▶ gate ─▶ execute ─▶ prove ─▶ close
//!     ▲                                                   │                     (a task per target)                  │
//!     └────────────────────── healthy ────────────────────┴──────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Supervisor`] is one loop over one inbox; while a target is attended it has left its slot, so nothing else can touch it.

mod alarm;
mod aside;
mod ask;
mod attend;
mod case;
mod commands;
mod execute;
mod forgiven;
mod inbox;
mod keep_first;
mod mass;
mod notices;
mod pause;
mod planting;
mod policy;
mod resume;
mod rollback;
mod schedule;
mod slot;
pub mod status;
mod sweep;
mod tending;
mod word;

use ask::lift_hold;
pub use ask::{approve_on_demand, check_on_demand, heal_on_demand};
pub use attend::{Attended, Mandate, attend};
pub use case::Case;
pub use forgiven::{FORGIVEN, Forgiven};
pub use inbox::{Command, HealAnswer, Message, Resumed};
pub use mass::{GUARDIAN, MASS_FAILURE, MassLimits};
pub use notices::Notices;
pub use pause::{PAUSES, Pause, Pauses};
pub use policy::{Admission, Candidate, Gates, GatesConfig};
pub use resume::resume;
pub use rollback::{RollbackAnswer, RollbackAsk, RollbackOutcome, rollback_on_demand};
pub use sweep::{Plant, Supervisor};

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::clock::{Clock, Moment};
use crate::job::{Client, Job};
use crate::journal::Journal;
use crate::model::Check;
use crate::modes::{Answer, Look, Supervised};

use status::StatusBoard;

/// What every part of the supervisor works with.
#[derive(Clone)]
pub struct Context {
    /// The time.
    pub clock: Clock,
    /// Runs children.
    pub jobs: Client,
    /// Lanes for errands: fewer than there are workers, so that a heal never waits behind the backups of a thousand others.
    pub errands: Arc<Semaphore>,
    /// Makes intents durable.
    pub journal: Journal,
    /// Who may heal now.
    pub gates: Arc<Mutex<Gates>>,
    /// Tells people.
    pub notices: Notices,
    /// What anybody who asks is shown.
    pub board: Arc<RwLock<StatusBoard>>,
    /// True once guardiand shall stop: nothing new begins, what runs is parked at its next durable point.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    fn with_board<T>(&self, ask: impl FnOnce(&mut StatusBoard) -> T) -> T {
        ask(&mut self.board.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_gates<T>(&self, ask: impl FnOnce(&mut Gates) -> T) -> T {
        ask(&mut self.gates.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One look at one target, in a child of its own, and what the target makes of it.
    pub async fn look(&self, target: &mut dyn Supervised, look: Look) -> Check {
        let answer = self.run(target.ask(look, self.now()), target.patience(look)).await;
        target.judge(look, &answer, self.now())
    }

    fn run(&self, job: Job, patience: Duration) -> impl Future<Output = Answer> + Send + use<'_> {
        self.jobs.run(job, patience)
    }

    /// Sleeps, but not past the order to stop. True when the time has passed.
    async fn rest(&self, span: Duration) -> bool {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = self.clock.sleep(span) => true,
            _ = stopping.wait_for(|stop| *stop) => false,
        }
    }
}
