//! The child: its loop, and what each job does.
//!
//! No async runtime, no threads: the kernel contains what goes wrong here. A hang ends by the supervisor's SIGKILL, a
//! crash names its job by the `started` that came before it, and what this process had locked is released by its end.
//! Between jobs it holds no descriptor of a supervised file.

mod backup;
mod expand;
mod glob;
mod mend;
mod probe;
mod roll_back;
mod step;
mod sweep;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::job::{FailureKind, Job, JobFailure, Outcome, Reply, Request, line};
use crate::{host, sqlite};

use sweep::Sweep;

/// The child's whole life. Its arguments behind `worker`: the bound of its address space in bytes, and the pid of its
/// parent, with which it dies; by hand it may be started without them.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2).map(|argument| argument.to_str()?.parse::<u64>().ok());
    let (memory, parent) = (arguments.next().flatten(), arguments.next().flatten());
    if let Err(error) = confine(memory, parent) {
        return give_up(&error);
    }
    let sweep = Sweep::default();
    let mut stdin = io::stdin().lock();
    let mut stdout = io::stdout().lock();
    loop {
        let request = match line::read::<Request>(&mut stdin) {
            Ok(Some(request)) => request,
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => return give_up(&error),
        };
        let id = request.id;
        if line::write(&mut stdout, &Reply::Started { id }).is_err() {
            // The supervisor is gone, or has given up on this child: nobody is left to tell.
            return ExitCode::FAILURE;
        }
        let (result, panicked) = attempt(request.job, &sweep);
        if let Err(error) = line::write(&mut stdout, &Reply::Done { id, result }) {
            return give_up(&error);
        }
        if panicked {
            // Whatever it was in the middle of is in no known state; the supervisor starts another for the rest.
            return ExitCode::FAILURE;
        }
    }
}

/// Takes on the limits of a child before it touches anything.
fn confine(memory: Option<u64>, parent: Option<u64>) -> Result<(), host::HostError> {
    if let Some(parent) = parent.and_then(|pid| i32::try_from(pid).ok()) {
        host::die_with_parent(parent)?;
    }
    if let Some(memory) = memory {
        host::limit_memory(memory)?;
        // SQLite's answer to its own limit is an error for one query; the kernel's answer to the address space's is, at
        // best, the end of this process. So SQLite's is the lower one.
        sqlite::limit_memory(memory / 2);
    }
    // Re-executed through a link, it would be called after the link; a name in `ps` is all that this is for.
    let _ = rustix::thread::set_name(c"guardiand-child");
    host::no_core_dumps()
}

fn attempt(job: Job, sweep: &Sweep) -> (Result<Outcome, JobFailure>, bool) {
    match catch_unwind(AssertUnwindSafe(|| dispatch(job, sweep))) {
        Ok(result) => (result, false),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let message = format!("a bug in guardiand: {}; please report it", text.unwrap_or_default());
            (Err(JobFailure { kind: FailureKind::Failed, message }), true)
        }
    }
}

fn dispatch(job: Job, sweep: &Sweep) -> Result<Outcome, JobFailure> {
    match job {
        Job::Probe(probe) => Ok(Outcome::Probed(Box::new(probe::run(&probe, sweep)))),
        Job::Expand { pattern, max } => expand::run(&pattern, max),
        Job::Step(job) => step::run(&job).map(|report| Outcome::Stepped(Box::new(report))),
        Job::Backup(job) => {
            // A long copy shall not slow the programs down; the probes and heals are short and in a hurry.
            let _ = rustix::process::nice(10);
            backup::take(&job).map(|entry| Outcome::BackedUp(Box::new(entry)))
        }
        Job::Prune(job) => backup::prune(&job).map(|deleted| Outcome::Pruned { deleted }),
        Job::ListBackups { folder } => backup::list(&folder).map(|backups| Outcome::Backups { backups }),
        Job::Restore(job) => backup::restore(&job).map(Outcome::Restored),
    }
}

/// Says why on the standard error, which the supervisor puts into its log.
fn give_up(error: &dyn std::error::Error) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}
