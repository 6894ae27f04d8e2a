//! Ending every program that has the WAL's index, at once and none of them in order: where what a program does as it ends would
//! tear the database (rule 16). A program that is killed loses nothing that it had committed.

use std::time::{Duration, Instant};

use super::in_use::with_wal;
use super::place::Place;
use super::{refused, while_};
use crate::host::{Holder, ProcessHandle, kill_unit, not_ours_to_signal};
use crate::job::JobFailure;
use crate::model::App;

/// Those that were there end within this time; who comes after them, a supervisor sends.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Kills whoever has the index; nobody, unless all of them can be: one that is left would do the damage.
pub(super) fn all(place: &Place<'_>, app: &App) -> Result<(), JobFailure> {
    let until = Instant::now() + END_WITHIN;
    loop {
        let mut handles = Vec::new();
        for holder in with_wal(place)? {
            match ProcessHandle::open(holder.pid, holder.started_boot_ms) {
                Ok(handle) => handles.push((may_be_killed(app, &holder, &handle)?, handle)),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(while_(format!("finding process {}", holder.pid))(error)),
            }
        }
        if handles.is_empty() || Instant::now() >= until {
            return Ok(());
        }
        if let App::Unit(unit) = app {
            kill_unit(unit).map_err(|error| refused(format!("its program was not killed: {error}")))?;
        }
        for (by_us, handle) in &handles {
            match if *by_us { handle.kill() } else { Ok(()) } {
                Err(error) if !error.is_absent() => return Err(while_("killing its program")(error)),
                _ => {}
            }
        }
        for (_, handle) in &handles {
            let left = until.saturating_duration_since(Instant::now());
            if !handle.wait_gone(left).map_err(while_("waiting for the end of its program"))? {
                return Err(refused(format!("process {} was killed, and does not end", handle.pid())));
            }
        }
    }
}

/// Whether it is us who kill it: what belongs to the unit is systemd's to kill, which has the right to.
fn may_be_killed(app: &App, holder: &Holder<String>, handle: &ProcessHandle) -> Result<bool, JobFailure> {
    let Holder { pid, comm, .. } = holder;
    if let App::Unit(unit) = app
        && handle.is_of_unit(unit).map_err(while_(format!("asking whose process {pid} is")))?
    {
        return Ok(false);
    }
    let not_ours = not_ours_to_signal(*pid, holder.uid).map_err(while_(format!("asking whose process {pid} is")))?;
    let why = not_ours.or_else(|| handle.cannot_be_signalled().map(|error| error.to_string()));
    match why {
        None => Ok(true),
        Some(why) => Err(refused(format!(
            "process {pid} ({comm}) uses the database and cannot be killed ({why}), so none is: `kill -9` all that have it open, at \
             once"
        ))),
    }
}
