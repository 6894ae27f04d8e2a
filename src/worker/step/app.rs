//! Stopping the program that uses a database, and putting it back into the run state that it had.
//!
//! What ran is written down before anything is stopped, in the incident's evidence; only what ran is started again. Several
//! databases of one program may be healed at once, so each incident puts a marker where the others see it while it needs
//! the program stopped: whoever is the last to need that starts it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{read_json, write_json};
use super::in_use::{User, Users, users};
use super::member::{MEMBER, job_on};
use super::place::Place;
use super::{done, failed, nothing, refused, undone, while_};
use crate::backup::shared_lock;
use crate::host::{
    Folder, HostError, OfdLock, ProcessFacts, SqliteLock, Starting, UnitState, boot_id, boot_ms, runs_since, start_app,
    stop_app,
};
use crate::job::{DatabaseStep, Ending, JobFailure, Member, Phase, StepReport};
use crate::model::App;

/// The record's name in evidence.
const RECORD: &str = "app.json";

/// How its name begins once another took its place.
const ARCHIVED: &str = "app-";

/// Once the program has stopped, its files are let go at once; what takes longer is somebody else.
const LET_GO: Duration = Duration::from_secs(10);

/// Between two looks at who has the files.
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// What ran before it was stopped. Durable before that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    /// The shape's version.
    version: u32,
    recorded_at: Timestamp,
    /// The same in milliseconds since boot.
    #[serde(default)]
    recorded_boot_ms: u64,
    boot_id: String,
    /// It ran, so it is started again.
    ran: bool,
    /// Its state then, in words.
    before: String,
    /// Who had the files open: the program, and perhaps others.
    #[serde(default)]
    holders: Vec<Was>,
    /// Its stop command, or systemd, said that it is stopped.
    #[serde(default)]
    told: bool,
    /// It has ended, and nobody has the files any more.
    stopped_at: Option<Timestamp>,
    /// It was started again, or that was left to whoever needs it stopped still: the record is closed.
    started_at: Option<Timestamp>,
}

/// A process that had one of the files open before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Was {
    pid: i32,
    started_boot_ms: u64,
    comm: String,
}

impl Was {
    fn is_gone(&self) -> bool {
        let same = |now: ProcessFacts| now.started_boot_ms == self.started_boot_ms && !matches!(now.state, 'Z' | 'X');
        !ProcessFacts::of(self.pid).is_ok_and(same)
    }
}

/// The program that is stopped, and what it is stopped for.
pub(super) struct GroupProgram<'a> {
    pub app: &'a App,
    /// The other databases of the group.
    pub members: &'a [Member],
}

impl GroupProgram<'_> {
    /// Who uses the database, or another of its group.
    fn users(&self, place: &Place<'_>) -> Result<Users, JobFailure> {
        let mut all = users(place)?;
        for member in self.members {
            let job = job_on(place.job, member, &DatabaseStep::Preserve);
            let of_member = users(&Place::of(&job)?)?;
            all.found.extend(of_member.found);
            all.blind = all.blind.or(of_member.blind);
        }
        if !all.found.is_empty() {
            all.blind = None;
        }
        Ok(all)
    }
}

/// Stops it, as `ending` says.
pub(super) fn stop(
    place: &Place<'_>,
    program: &GroupProgram<'_>,
    limit: Duration,
    ending: Ending,
) -> Result<StepReport, JobFailure> {
    let app = program.app;
    let register = Register::of(place, app)?;
    let _one_at_a_time = register.lock(limit)?;
    let mut record = match record(place)? {
        Some(open) if open.started_at.is_none() => open,
        closed => {
            if closed.is_some() {
                archive(place)?;
            }
            refuse_in_vain(place, program)?;
            let record = look(place, program, &register)?;
            write_json(&place.evidence, RECORD, &record)?;
            record
        }
    };
    if !record.ran {
        return match program.users(place)?.found.first() {
            None => Ok(nothing(&format!("it does not run ({})", record.before))),
            Some(user) => Err(refused(format!(
                "{}, and that is not the configured program, which does not run ({}): end it, then {}",
                user.words,
                record.before,
                place.again()
            ))),
        };
    }
    register.enter(place)?;
    if record.stopped_at.is_some() && stands_still(place, program)? {
        return Ok(done(format!("its program is stopped still (it was {})", record.before)));
    }
    // Until nobody has the files any more.
    let kept = match ending {
        Ending::InOrder | Ending::Killed => None,
        Ending::WalKept => {
            keep_wal(place).inspect_err(|why| tracing::debug!(%why, "its WAL is not kept by locks")).ok()
        }
    };
    let killed = ending != Ending::InOrder && kept.is_none();
    if killed {
        super::kill::all(place, app)?;
    }
    match stop_app(app, &stop_name(place), limit) {
        // A stop command may well find nothing to stop any more.
        Err(error) if killed => tracing::debug!(%error, "stopping a program that was killed"),
        stopped => stopped.map_err(|error| refused(format!("its program was not stopped: {error}")))?,
    }
    record.told = true;
    write_json(&place.evidence, RECORD, &record)?;
    wait_until_let_go(place, program)?;
    record.stopped_at = Some(Timestamp::now());
    write_json(&place.evidence, RECORD, &record)?;
    let how = match (killed, kept.is_some()) {
        (true, _) => "killed",
        (false, true) => "stopped, its WAL kept,",
        (false, false) => "stopped",
    };
    Ok(done(format!("its program is {how} (it was {}), and nobody is seen to have the files", record.before)))
}

/// Locks under which programs read, write and end as they like, and nothing leaves the WAL: whoever closes the database last takes it to be
/// in use still (`sqlite3WalClose` wants the main file to itself), no checkpoint begins, and no writer begins the WAL anew
/// (`walRestartLog`).
fn keep_wal(place: &Place<'_>) -> Result<Vec<OfdLock>, HostError> {
    let patience = Duration::from_millis(place.job.site.busy_ms);
    let main = place.folder.open_own_in(&place.name)?;
    let mut locks = vec![shared_lock(&main, patience)?];
    let until = Instant::now() + patience;
    for lock in [SqliteLock::WalCheckpoint, SqliteLock::WalRead(1)] {
        let index = || place.folder.open_for_writing_in(place.side("-shm"));
        locks.push(loop {
            match OfdLock::shared(index()?.into(), lock.bytes()) {
                Err(HostError::LockHeld(_)) if Instant::now() < until => std::thread::sleep(BETWEEN_LOOKS),
                held => break held?,
            }
        });
    }
    Ok(locks)
}

/// Refuses to stop it once more where that was of no use before: whoever had the files all the while is another program. Whether a process
/// is the configured program's cannot be told beforehand (a unit may well start and stop what is in no cgroup of its own).
fn refuse_in_vain(place: &Place<'_>, program: &GroupProgram<'_>) -> Result<(), JobFailure> {
    let mut stayed = Vec::new();
    for name in place.evidence.names().map_err(while_("listing the evidence"))? {
        let name = name.to_string_lossy();
        if name.starts_with(ARCHIVED) {
            let earlier: Option<Record> = read_json(&place.evidence, &name)?;
            stayed.extend(earlier.filter(|record| record.told).into_iter().flat_map(|record| record.holders));
        }
    }
    let is_one =
        |user: &&User| stayed.iter().any(|was| (was.pid, was.started_boot_ms) == (user.pid, user.started_boot_ms));
    match program.users(place)?.found.iter().find(is_one) {
        Some(user) => Err(refused(format!(
            "{}, and had it before, when the configured program was stopped: it is another program, so that one is not stopped again. End \
             process {} ({}), then {}",
            user.words,
            user.pid,
            user.comm,
            place.again()
        ))),
        None => Ok(()),
    }
}

/// Stopped by this incident before a restart of guardiand, and nobody started it since, as far as everybody can be seen.
fn stands_still(place: &Place<'_>, program: &GroupProgram<'_>) -> Result<bool, JobFailure> {
    if let App::Unit(unit) = program.app
        && UnitState::of(unit).map_or(true, |state| state.runs)
    {
        return Ok(false);
    }
    let users = program.users(place)?;
    Ok(users.found.is_empty() && users.blind.is_none())
}

/// It was being stopped when guardiand died: how far that got nobody knows, and the last step starts it again.
pub(super) fn resume_stop(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    Ok(match record(place)? {
        Some(record) if record.stopped_at.is_some() && record.started_at.is_none() => done("its program is stopped"),
        _ => undone("nothing was changed; its program is started again if it ran"),
    })
}

/// Puts it back into the run state that it had.
pub(super) fn start(
    place: &Place<'_>,
    program: &GroupProgram<'_>,
    limit: Duration,
    phase: Phase,
) -> Result<StepReport, JobFailure> {
    let app = program.app;
    let register = Register::of(place, app)?;
    let _one_at_a_time = register.lock(limit)?;
    let Some(mut record) = record(place)?.filter(|record| record.started_at.is_none()) else {
        register.leave(place)?;
        return Ok(nothing("it was not stopped, or runs again already"));
    };
    if !record.ran {
        close(place, &mut record)?;
        return Ok(nothing(&format!("it did not run before ({})", record.before)));
    }
    if let Some(other) = register.others(place)?.first() {
        let report = done(format!("it is left stopped: {other} needs that still, and starts it afterwards"));
        close(place, &mut record)?;
        register.leave(place)?;
        return Ok(report);
    }
    if let (App::Commands { .. }, Some(why)) = (app, runs(place, program, &record)?) {
        close(place, &mut record)?;
        register.leave(place)?;
        return Ok(done(why));
    }
    if let Some(why) = must_not_run(place, app)? {
        // After a crash its playbook is taken up again at once, and that starts it.
        return if phase == Phase::Apply { Err(failed(why)) } else { Ok(nothing(&why)) };
    }
    let name = format!("guardiand-app-{}-{}", place.job.incident.to_lowercase(), Timestamp::now().as_millisecond());
    // After a crash of the machine we may run while it boots, before the unit that we start may be started.
    let no_wait = boot_id().is_ok_and(|boot| boot != record.boot_id);
    let started = start_app(app, &Starting { name: &name, stop_name: &stop_name(place), limit, no_wait });
    // Whatever came of it: the next incident that stops it must not wait for this one.
    register.leave(place)?;
    let how = started.map_err(|error| {
        failed(format!("the program ran before, and could not be started again: {error}; start it by hand"))
    })?;
    if let (App::Unit(unit), false) = (app, no_wait) {
        let state = UnitState::of(unit).map_err(while_("asking whether the program runs again"))?;
        if !state.runs {
            return Err(failed(format!(
                "{unit} was started again, and is {} now: see `journalctl -u {unit}`",
                state.words
            )));
        }
    }
    if let (App::Commands { .. }, false) = (app, no_wait) {
        wait_until_it_runs(&record, limit)?;
    }
    close(place, &mut record)?;
    Ok(done(format!("{how}; it was {} before", record.before)))
}

/// Why it need not be started, if so: a second one beside it is nobody's wish. Another program of its name may have had the files open
/// all along, and is not it.
fn runs(place: &Place<'_>, program: &GroupProgram<'_>, record: &Record) -> Result<Option<String>, JobFailure> {
    let found = program.users(place)?.found;
    let of_its_name = |user: &User| record.holders.iter().any(|was| was.comm == user.comm);
    let new = |user: &&User| user.started_boot_ms >= record.recorded_boot_ms && of_its_name(user);
    if let Some(user) = found.iter().find(new) {
        return Ok(Some(format!("it runs again by itself: {}", user.words)));
    }
    let stayed = record.holders.iter().all(|was| !was.is_gone());
    match record.holders.first() {
        Some(was) if stayed && !record.told => {
            Ok(Some(format!("it was not stopped: process {} ({}) runs on", was.pid, was.comm)))
        }
        _ => Ok(None),
    }
}

/// That its start command was found, or ended well, says nothing of the program: one of the name that it had has come up since.
fn wait_until_it_runs(record: &Record, limit: Duration) -> Result<(), JobFailure> {
    let until = Instant::now() + limit;
    let ended = record.holders.iter().filter(|was| was.is_gone());
    let mut names = ended.map(|was| was.comm.clone()).collect::<Vec<_>>();
    names.dedup();
    while !names.is_empty() && runs_since(&names, record.recorded_boot_ms) == Some(false) {
        if Instant::now() >= until {
            return Err(failed(format!(
                "the program ran before, and was not seen to run again within {} s of its start command: no `{}` has been started \
                 since. Start it by hand (`start_timeout` says how long it may take)",
                limit.as_secs_f64(),
                names.join("`, `")
            )));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}

/// What it had open under no name is not back at its path: started now, it would go on with an older database, or a new one, and
/// what it committed there would stand against what it had committed before.
fn must_not_run(place: &Place<'_>, app: &App) -> Result<Option<String>, JobFailure> {
    let Some(held) = super::held::pending_in(&place.evidence, &place.folder, &place.name)? else { return Ok(None) };
    if let App::Unit(unit) = app
        && UnitState::of(unit).is_ok_and(|state| state.runs)
    {
        return Ok(None);
    }
    Ok(Some(format!(
        "it is left stopped: what it had committed is in {} and not back at {} yet. {} puts it back and starts it",
        held.folder.display(),
        place.path().display(),
        place.again()
    )))
}

/// True while this incident has it stopped: then who cannot be seen is not it. Of a member's step the record is the incident's own.
pub(super) fn is_stopped(place: &Place<'_>) -> bool {
    let of_group = || match place.evidence.path().file_name()?.to_string_lossy().starts_with(MEMBER) {
        true => read_json(&Folder::open(place.evidence.path().parent()?).ok()?, RECORD).ok()?,
        false => None,
    };
    let record: Option<Record> = record(place).ok().flatten().or_else(of_group);
    record.is_some_and(|record| record.stopped_at.is_some() && record.started_at.is_none())
}

/// What its state is before anything is done to it.
fn look(place: &Place<'_>, program: &GroupProgram<'_>, register: &Register) -> Result<Record, JobFailure> {
    let users = program.users(place)?;
    let (ran, before) = match (register.others(place)?.first(), program.app) {
        // Stopped by us already, so it ran.
        (Some(other), _) => (true, format!("stopped already for {other}")),
        (None, App::Unit(unit)) => {
            let state = UnitState::of(unit).map_err(|error: HostError| refused(error.to_string()))?;
            (state.runs, state.words)
        }
        (None, App::Commands { .. }) => match (users.found.first(), users.blind) {
            (Some(user), _) => (true, user.words.clone()),
            (None, Some(why)) => (true, format!("taken to run, for it cannot be told: {why}")),
            (None, None) => (false, "nobody has the files open".to_owned()),
        },
    };
    let was = |user: User| Was { pid: user.pid, started_boot_ms: user.started_boot_ms, comm: user.comm };
    let mut holders: Vec<Was> = users.found.into_iter().map(was).collect();
    holders.dedup();
    Ok(Record {
        version: 1,
        recorded_at: Timestamp::now(),
        recorded_boot_ms: boot_ms(),
        boot_id: boot_id().map_err(while_("asking which boot this is"))?,
        ran,
        before,
        holders,
        told: false,
        stopped_at: None,
        started_at: None,
    })
}

fn wait_until_let_go(place: &Place<'_>, program: &GroupProgram<'_>) -> Result<(), JobFailure> {
    let until = Instant::now() + LET_GO;
    loop {
        let users = program.users(place)?;
        let Some(user) = users.found.first() else { return Ok(()) };
        if Instant::now() >= until {
            return Err(refused(format!(
                "its program was stopped, and {}: a supervisor may have started it again, or it is another program. Stop that, \
                 then {}",
                user.words,
                place.again()
            )));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

fn record(place: &Place<'_>) -> Result<Option<Record>, JobFailure> {
    read_json(&place.evidence, RECORD)
}

fn close(place: &Place<'_>, record: &mut Record) -> Result<(), JobFailure> {
    record.started_at = Some(Timestamp::now());
    write_json(&place.evidence, RECORD, record)
}

/// An earlier playbook of the same incident stopped it, and it was started again since.
fn archive(place: &Place<'_>) -> Result<(), JobFailure> {
    let name = format!("{ARCHIVED}{}.json", Timestamp::now().as_millisecond());
    place.evidence.rename(RECORD, &place.evidence, name).map_err(while_("putting the program's record away"))
}

/// Who needs a program stopped: one marker for each incident, in a folder of the program's, with the path of its evidence.
struct Register {
    folder: Folder,
    path: PathBuf,
}

impl Register {
    fn of(place: &Place<'_>, app: &App) -> Result<Register, JobFailure> {
        let text = serde_json::to_vec(app).map_err(while_("naming the program"))?;
        let name = blake3::hash(&text).to_hex();
        let path = place.job.site.scratch.join("apps").join(&name.as_str()[..32]);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(while_("making the program's folder"))?;
        let folder = Folder::open(&path).map_err(while_("opening the program's folder"))?;
        Ok(Register { folder, path })
    }

    /// Nobody else stops or starts it meanwhile.
    fn lock(&self, limit: Duration) -> Result<OfdLock, JobFailure> {
        let until = Instant::now() + limit;
        loop {
            let file = match self.folder.open_for_writing_in("lock") {
                Err(error) if error.is_absent() => match self.folder.create_in("lock", 0o600) {
                    Err(_) if Instant::now() < until => continue,
                    made => made,
                },
                found => found,
            };
            let file = file.map_err(while_("opening the program's lock"))?;
            match OfdLock::exclusive(file.into(), crate::host::Bytes::new(0, 1)) {
                Err(HostError::LockHeld(_)) if Instant::now() < until => std::thread::sleep(BETWEEN_LOOKS),
                Err(error) => {
                    return Err(refused(format!("the program is being stopped or started by another heal: {error}")));
                }
                Ok(lock) => return Ok(lock),
            }
        }
    }

    fn enter(&self, place: &Place<'_>) -> Result<(), JobFailure> {
        write_json(&self.folder, &marker(place), &place.job.evidence)
    }

    fn leave(&self, place: &Place<'_>) -> Result<(), JobFailure> {
        match self.folder.unlink(marker(place)) {
            Err(error) if !error.is_absent() => Err(while_("removing a marker of ours")(error)),
            _ => Ok(()),
        }
    }

    /// The other incidents that have it stopped now. A marker whose incident does not say so is of no account, and removed.
    fn others(&self, place: &Place<'_>) -> Result<Vec<String>, JobFailure> {
        let mut others = Vec::new();
        for name in self.folder.names().map_err(while_("listing the program's folder"))? {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with("incident-") || name == marker(place) {
                continue;
            }
            let evidence: Option<PathBuf> = read_json(&self.folder, &name)?;
            let record: Option<Record> = match evidence.map(|path| Folder::open(&path)) {
                Some(Ok(folder)) => read_json(&folder, RECORD)?,
                _ => None,
            };
            if record.is_some_and(|record| record.ran && record.started_at.is_none()) {
                others.push(name.replacen("incident-", "incident ", 1));
            } else {
                tracing::debug!(folder = %self.path.display(), marker = name, "a marker of an incident that is over");
                let _ = self.folder.unlink(&name);
            }
        }
        Ok(others)
    }
}

/// Of the transient unit that its stop command runs in.
fn stop_name(place: &Place<'_>) -> String {
    format!("guardiand-stop-{}", place.job.incident.to_lowercase())
}

fn marker(place: &Place<'_>) -> String {
    format!("incident-{}", place.job.incident)
}
