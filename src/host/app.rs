//! The program that uses a database: whether it runs, stopped, started. Without a shell, each command within a limit of
//! its own, and none with more of us than a program would have had without us.
#![allow(unsafe_code)] // pre_exec alone: what a child does between fork and exec is not checked by the compiler.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open, setrlimit};

use super::error::HostError;
use super::process::first_limits;
use crate::model::App;

/// All that a started program finds in its environment: it belongs to nobody's session.
const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("LANG", "C.UTF-8")];

/// Asking systemd is answered at once, or not at all.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// A start command that ends within this time tells by its status whether it started anything; later it is the program.
const EARLY_END: Duration = Duration::from_millis(300);

/// Of what a command said, no more is repeated.
const SAID_MAX: usize = 300;

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// It runs, begins to, or is restarted by itself in a moment: it is meant to run.
    pub runs: bool,
    /// Its main process, while there is one.
    pub main_pid: Option<i32>,
    /// `ActiveState/SubState`, such as `active/running`.
    pub words: String,
}

impl UnitState {
    /// Asks systemd.
    ///
    /// # Errors
    /// [`HostError::Command`]; also when there is no such unit.
    pub fn of(unit: &str) -> Result<UnitState, HostError> {
        let properties = "--property=LoadState,ActiveState,SubState,MainPID";
        let told = run_systemctl(&["show", properties, "--", unit], ASK_LIMIT)?;
        let value = |key: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        if !matches!(value("LoadState").as_str(), "loaded" | "masked") {
            let why = format!("says that {unit} is {}: see `app` in the configuration", value("LoadState"));
            return Err(HostError::Command { program: "systemctl".into(), why });
        }
        let (active, sub) = (value("ActiveState"), value("SubState"));
        Ok(UnitState {
            runs: matches!(active.as_str(), "active" | "activating" | "reloading" | "refreshing"),
            main_pid: value("MainPID").parse().ok().filter(|pid| *pid > 0),
            words: format!("{active}/{sub}"),
        })
    }
}

/// Stops the program, and waits for its end as far as systemd or its stop command does; at most `limit`. `name` is for a
/// transient unit: unlike any other, and the same when it is tried again.
///
/// # Errors
/// [`HostError::Command`].
pub fn stop_app(app: &App, name: &str, limit: Duration) -> Result<(), HostError> {
    match app {
        App::Unit(unit) => run_systemctl(&["stop", "--", unit], limit).map(drop),
        App::Commands { stop, .. } if systemd_takes_it() => {
            end_transient(name);
            // Outside of our own unit, which has not the rights that stopping another user's program takes. A oneshot is started
            // once it has ended; `--wait` would need a message bus.
            let stopped = run_told(&transient(name, &["--property=Type=oneshot"], stop), limit).map(drop);
            if stopped.is_err() {
                end_transient(name);
            }
            stopped
        }
        App::Commands { stop, .. } => {
            let mut command = bare(stop)?;
            // A new group, so that one which does not end is ended with all that it waits for; and it ends with us, for
            // whoever carries on after us may start the program again while it still stops it.
            command.process_group(0);
            let ours = Some(Pid::as_raw(Some(rustix::process::getpid())));
            // SAFETY: two system calls and a comparison; nothing is allocated and no lock taken between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                    let parent = Some(Pid::as_raw(rustix::process::getppid()));
                    if parent == ours { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
                });
            }
            let mut child = spawn(stop, &mut command)?;
            match wait(&mut child, limit) {
                Some(status) if status.success() => Ok(()),
                Some(status) => Err(failed(stop, format!("ended with {status}"))),
                None => {
                    end_group(&mut child);
                    Err(failed(stop, format!("did not end within {limit:?}, and was killed")))
                }
            }
        }
    }
}

/// Has systemd send SIGKILL to every process of the unit.
///
/// # Errors
/// [`HostError::Command`].
pub fn kill_unit(unit: &str) -> Result<(), HostError> {
    run_systemctl(&["kill", "--signal=SIGKILL", "--", unit], ASK_LIMIT).map(drop)
}

/// A stop command that outlived who had run it must not stop what is started now.
fn end_transient(name: &str) {
    // There mostly is none, and then this fails.
    let _ = run_systemctl(&["stop", "--", &format!("{name}.service")], ASK_LIMIT);
}

/// `systemd-run` of a command in a unit of this name: in ours it would end with us, and have our limits and our few rights.
fn transient(name: &str, options: &[&str], argv: &[String]) -> Vec<String> {
    let unit = format!("--unit={name}");
    let words = ["systemd-run", "--quiet", "--collect", "--no-ask-password", &unit];
    let words = words.iter().chain(options).chain(&["--"]).map(|word| (*word).to_owned());
    words.chain(argv.iter().cloned()).collect()
}

/// How to start.
#[derive(Debug, Clone)]
pub struct Starting<'a> {
    /// For a transient unit: unlike any other.
    pub name: &'a str,
    /// The transient unit that its stop command ran in.
    pub stop_name: &'a str,
    /// The longest that systemd may take.
    pub limit: Duration,
    /// Only order it. While the machine boots, a unit may wait for the very unit that we run in.
    pub no_wait: bool,
}

/// Starts the program, so that it outlives us and whoever started us. Says how it did.
///
/// # Errors
/// [`HostError::Command`].
pub fn start_app(app: &App, how: &Starting<'_>) -> Result<String, HostError> {
    match app {
        App::Unit(unit) => {
            let no_wait = ["start", "--no-block", "--", unit];
            let all = ["start", "--", unit];
            run_systemctl(if how.no_wait { &no_wait } else { &all }, how.limit)?;
            Ok(format!("systemd was told to start {unit}"))
        }
        App::Commands { start, .. } if systemd_takes_it() => {
            end_transient(how.stop_name);
            // Type=exec tells whether the program was found; KillMode=process lets one live that a start script left behind.
            let mut options = vec!["--property=Type=exec", "--property=KillMode=process"];
            options.extend(how.no_wait.then_some("--no-block"));
            run_told(&transient(how.name, &options, start), how.limit)?;
            Ok(format!("{} runs as {}.service", start.first().map_or("it", String::as_str), how.name))
        }
        App::Commands { start, .. } => detach(start, EARLY_END),
    }
}

/// systemd is there, and takes orders from us.
fn systemd_takes_it() -> bool {
    Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root()
}

/// A session of its own, no terminal, nothing open, the limits that we began with. Its parent is gone as soon as this
/// child of guardiand's is. What ends within `early` tells by its status whether it started anything.
fn detach(argv: &[String], early: Duration) -> Result<String, HostError> {
    let mut command = bare(argv)?;
    let limits = first_limits();
    // SAFETY: system calls alone; `limits` was computed before the fork, and nothing is allocated after it.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            for (resource, limit) in &limits {
                restore(*resource, limit);
            }
            Ok(())
        });
    }
    let mut child = spawn(argv, &mut command)?;
    let pid = child.id();
    let program = argv.first().map_or("it", String::as_str);
    match wait(&mut child, early) {
        Some(status) if status.success() => {
            Ok(format!("{program} ran to its end; what it left running is not known here"))
        }
        Some(status) => Err(failed(argv, format!("ended at once with {status}"))),
        None => Ok(format!("{program} runs as pid {pid}")),
    }
}

/// Best effort: with less it runs, too.
fn restore(resource: Resource, limit: &Rlimit) {
    let _ = setrlimit(resource, Rlimit { current: limit.current, maximum: limit.maximum });
}

fn run_systemctl(arguments: &[&str], limit: Duration) -> Result<String, HostError> {
    let words = ["systemctl", "--no-ask-password", "--no-pager"].iter().chain(arguments);
    run_told(&words.map(|word| (*word).to_owned()).collect::<Vec<_>>(), limit)
}

/// Runs a command of systemd's to its end; what it printed.
fn run_told(argv: &[String], limit: Duration) -> Result<String, HostError> {
    let mut command = bare(argv)?;
    let (out, err) = (pad(argv)?, pad(argv)?);
    let copy = |pad: &File| pad.try_clone().map_err(|error| failed(argv, format!("cannot be run: {error}")));
    command.stdout(copy(&out)?).stderr(copy(&err)?).process_group(0);
    let mut child = spawn(argv, &mut command)?;
    match wait(&mut child, limit) {
        Some(status) if status.success() => Ok(read(out)),
        Some(status) => {
            let said = read(err);
            let said = said.trim();
            let said = said.char_indices().nth(SAID_MAX).map_or(said, |(at, _)| &said[..at]);
            Err(failed(argv, format!("ended with {status}: {said}")))
        }
        None => {
            end_group(&mut child);
            Err(failed(argv, format!("did not answer within {limit:?}")))
        }
    }
}

/// Memory to write into: a pipe could be full, or held open by somebody else.
fn pad(argv: &[String]) -> Result<File, HostError> {
    let made: Result<OwnedFd, _> = rustix::fs::memfd_create(c"said", MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|errno| failed(argv, format!("cannot be run: {errno}")))
}

fn read(mut pad: File) -> String {
    let mut bytes = Vec::new();
    let _ = pad.rewind().and_then(|()| pad.take(64 << 10).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Nothing of ours: the standard library opens every descriptor close-on-exec, and gives a child no blocked signals.
fn bare(argv: &[String]) -> Result<Command, HostError> {
    let Some((program, arguments)) = argv.split_first() else { return Err(failed(argv, "is empty".into())) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(ENVIRONMENT).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn spawn(argv: &[String], command: &mut Command) -> Result<Child, HostError> {
    command.spawn().map_err(|error| failed(argv, format!("cannot be run: {error}")))
}

/// Waits for the end, at most `limit`.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok()?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return child.try_wait().ok().flatten(),
            Ok(_) => return child.wait().ok(),
            Err(_) if left.is_zero() => return None,
            Err(_) => {}
        }
    }
}

fn end_group(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

/// Never the arguments: secrets are passed there.
fn failed(argv: &[String], why: String) -> HostError {
    HostError::Command { program: argv.first().cloned().unwrap_or_default(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ProcessFacts;

    fn app(stop: &[&str], start: &[&str]) -> App {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        App::Commands { stop: words(stop), start: words(start) }
    }

    #[test]
    fn a_stop_command_is_waited_for_and_its_status_believed() {
        let limit = Duration::from_secs(30);
        stop_app(&app(&["true"], &["true"]), "guardiand-test", limit).unwrap();
        let error = stop_app(&app(&["false", "secret"], &["true"]), "guardiand-test", limit).unwrap_err().to_string();
        assert!(error.contains("`false`") && !error.contains("secret"), "{error}");
        let error = stop_app(&app(&["/does/not/exist"], &["true"]), "guardiand-test", limit).unwrap_err().to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
    }

    #[test]
    fn a_stop_command_that_hangs_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        // However long it takes until there is something to kill.
        let mut limit = Duration::from_millis(500);
        while !std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')) {
            assert!(limit < Duration::from_secs(60), "it starts nothing");
            let error = stop_app(&app(&["sh", "-c", &script], &["true"]), "guardiand-test", limit).unwrap_err();
            assert!(error.to_string().contains("did not end"), "{error}");
            limit *= 4;
        }
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while ProcessFacts::of(pid).is_ok_and(|facts| facts.state != 'Z') {
            assert!(Instant::now() < until, "{pid} lives");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_detached_program_has_a_session_of_its_own_and_nothing_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("facts");
        let script = format!(
            "{{ ls -l /proc/$$/fd; env; ulimit -v; umask; }} > {0}.part 2>&1; mv {0}.part {0}; exec sleep 1000",
            file.display()
        );
        let kept = File::open("/etc/passwd").unwrap();
        let said = detach(&["sh".to_owned(), "-c".to_owned(), script], EARLY_END).unwrap();
        let pid: i32 = said.rsplit(' ').next().unwrap().parse().unwrap();
        drop(kept);
        let until = Instant::now() + Duration::from_secs(30);
        while !file.exists() {
            assert!(Instant::now() < until, "it wrote nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        let facts = std::fs::read_to_string(&file).unwrap();
        // Once the shell has become the program: a shell blocks signals while it makes a process.
        while ProcessFacts::of(pid).unwrap().comm != "sleep" {
            assert!(Instant::now() < until, "it runs no program");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        assert!(!facts.contains("passwd") && !facts.contains("CARGO"), "{facts}");
        assert!(status.contains(&format!("NSsid:\t{pid}")) && status.contains("SigBlk:\t0000000000000000"), "{status}");
        assert!(facts.contains("0 -> /dev/null") && facts.lines().any(|line| line == "0022"), "{facts}");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_said() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let told = |argv: &[&str]| detach(&words(argv), Duration::from_secs(60));
        assert!(told(&["false"]).unwrap_err().to_string().contains("at once"));
        assert!(told(&["/does/not/exist"]).is_err());
        assert!(told(&[]).is_err());
        assert!(told(&["true"]).unwrap().contains("ran to its end"));
    }
}
