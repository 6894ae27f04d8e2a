//! The child: its loop, and what each job does.
//!
//! No async runtime, and no threads but those of a scrub or a salvage, which end with it: the kernel contains what goes wrong here. A hang ends by the supervisor's SIGKILL, a
//! crash names its job by the `started` that came before it, and what this process had locked is released by its end.
//! Between jobs it holds no descriptor of a supervised file, and from one batch to the next it knows nothing of the host: the
//! supervisor keeps a child that has only `stat`ed for its next sweep.

mod backup;
mod expand;
mod mend;
mod probe;
mod roll_back;
mod salvage;
mod step;
mod sweep;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::job::{FailureKind, Job, JobFailure, Outcome, Reply, Request, line};
use crate::{host, sqlite};

use sweep::Sweep;

/// What a child of ours is called in lists of processes.
pub(crate) const NAME: &std::ffi::CStr = c"guardiand-child";

/// Requests that are read ahead, in bytes.
const INPUT: usize = 16 * 1024;

/// The child's whole life. Its arguments behind `worker`: the bound of its address space in bytes, and the pid of its
/// parent, with which it dies; by hand it may be started without them.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2).map(|argument| argument.to_str()?.parse::<u64>().ok());
    let (memory, parent) = (arguments.next().flatten(), arguments.next().flatten());
    if let Err(error) = confine(memory, parent) {
        return give_up(&error);
    }
    let mut sweep = Sweep::default();
    // A buffer of our own, to see whether more is there already.
    let mut stdin = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(stdin) => io::BufReader::with_capacity(INPUT, File::from(stdin)),
        Err(error) => return give_up(&error),
    };
    let mut stdout = io::stdout().lock();
    let mut said = Vec::new();
    loop {
        let request = line::read::<Request>(&mut stdin);
        let (id, job) = match request {
            Ok(Some(Request::Job { id, job })) => (id, job),
            Ok(Some(Request::Afresh)) => {
                sweep = Sweep::default();
                continue;
            }
            Ok(None) => return if say(&mut stdout, &mut said) { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            Err(error) => {
                say(&mut stdout, &mut said);
                return give_up(&error);
            }
        };
        match line::encode(&Reply::Started { id }) {
            Ok(line) => said.extend_from_slice(&line),
            Err(error) => return give_up(&error),
        }
        if !say(&mut stdout, &mut said) {
            // The supervisor is gone, or has given up on this child: nobody is left to tell.
            return ExitCode::FAILURE;
        }
        let (result, panicked) = attempt(job, &sweep);
        match line::encode(&Reply::Done { id, result }) {
            Ok(line) => said.extend_from_slice(&line),
            Err(error) => return give_up(&error),
        }
        // With the next request at hand its `started` goes along: one wake of the supervisor for each look.
        let at_hand = stdin.buffer().contains(&b'\n') && !panicked;
        let heard = at_hand || say(&mut stdout, &mut said);
        if panicked || !heard {
            // After a panic, whatever it was in the middle of is in no known state; the supervisor starts another for the rest.
            return ExitCode::FAILURE;
        }
    }
}

/// Writes what is to be said. False when nobody listens any more.
fn say(stdout: &mut impl io::Write, said: &mut Vec<u8>) -> bool {
    let written = stdout.write_all(said).and_then(|()| stdout.flush());
    said.clear();
    written.is_ok()
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
    let _ = rustix::thread::set_name(NAME);
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
        Job::Expand { pattern, exclude, max, state_dir, kept } => {
            expand::run((&pattern, &exclude), max, &state_dir, kept.as_ref())
        }
        Job::Step(job) => step::run(&job).map(|report| Outcome::Stepped(Box::new(report))),
        Job::WeighRollback(job) => step::weigh(&job).map(|weighed| Outcome::Weighed(Box::new(weighed))),
        Job::ListEvidence { folder } => step::list_evidence(&folder).map(|kept| Outcome::Evidence { kept }),
        Job::Backup(job) => {
            // A long copy shall not slow the programs down; the probes and heals are short and in a hurry.
            let _ = rustix::process::nice(10);
            backup::take(&job).map(|entry| Outcome::BackedUp(Box::new(entry)))
        }
        Job::Prune(job) => backup::prune(&job).map(|deleted| Outcome::Pruned { deleted }),
        Job::ListBackups { folder } => backup::list(&folder),
        Job::Restore(job) => backup::restore(&job).map(Outcome::Restored),
        Job::SweepOut { scratch } => {
            probe::sweep_out(&scratch);
            Ok(Outcome::SweptOut)
        }
        Job::Scrub(job) => probe::scrub(&job).map(|found| Outcome::Scrubbed(Box::new(found))),
        Job::Salvage(job) => salvage::run_and_tell(&job).map(|salvaged| Outcome::Salvaged(Box::new(salvaged))),
    }
}

/// Says why on the standard error, which the supervisor puts into its log.
fn give_up(error: &dyn std::error::Error) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}
