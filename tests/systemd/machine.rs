//! Boots the machine, once, and runs this very test program on it: each test is named twice, by the test that a person
//! runs here and by the same test there, which does the work. The one here tells what the other said.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::guest::Guest;

/// Set on the machine.
const INSIDE: &str = "GUARDIAN_INSIDE_THE_MACHINE";
/// Set where this suite is run apart from the others.
const SKIP: &str = "GUARDIAN_SKIP_MACHINE";
/// A machine that hangs fails its tests instead of hanging them.
const PATIENCE: Duration = Duration::from_secs(1500);
const DISK_BYTES: u64 = 2 << 30;
const NEEDED: [&str; 4] = ["linux.uml", "mke2fs", "setpriv", "journalctl"];

/// Runs `promise` on the machine. `name` is the test's own, with its module.
pub fn on_the_machine(name: &str, promise: impl FnOnce(Guest)) {
    if std::env::var_os(INSIDE).is_some() {
        return promise(Guest::fresh());
    }
    static SAID: OnceLock<Result<String, &str>> = OnceLock::new();
    let said = match SAID.get_or_init(boot) {
        Ok(said) => said,
        Err(why) => return println!("skipped: {why}"),
    };
    let (told, kept) = verdict(said, name);
    assert!(kept, "{told}");
    println!("{told}");
}

/// What the test there had to say, and whether it passed; everything, where it did not begin.
fn verdict<'a>(said: &'a str, name: &str) -> (&'a str, bool) {
    let Some((_, rest)) = said.split_once(&format!("\ntest {name} ... ")) else { return (said, false) };
    let end = ["\ntest ", "\n\nfailures:"].iter().filter_map(|mark| rest.find(mark)).min().unwrap_or(rest.len());
    let told = rest[..end].trim_end();
    (told, told.ends_with("ok"))
}

/// Everything that the test program said there; or why no machine is booted.
fn boot() -> Result<String, &'static str> {
    if std::env::var_os(SKIP).is_some() {
        return Err("run by itself elsewhere");
    }
    if NEEDED.map(find).iter().any(Option::is_none) || !Path::new("/lib/systemd/systemd").exists() {
        return Err("needs systemd and user-mode-linux");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("root")).unwrap();
    fs::File::create(path("disk")).unwrap().set_len(DISK_BYTES).unwrap();
    fs::write(path("init"), include_str!("init.sh")).unwrap();
    fs::set_permissions(path("init"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path("facts"), facts()).unwrap();
    fs::write(path("promises.service"), unit()).unwrap();
    let output = fs::File::create(path("output")).unwrap();
    let console = fs::File::create(path("console")).unwrap();
    // It dies with this thread, whatever ends it.
    let mut machine = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "--",
            "linux.uml",
            "mem=1G",
            "quiet",
            "ro",
            "root=/dev/root",
            "rootfstype=hostfs",
        ])
        .args(["rootflags=/", "con=null", "con0=null,fd:1", "con1=null,fd:2", "ssl=null"])
        .arg(format!("ubd0={}", path("disk").display()))
        .arg(format!("uml_dir={}/", folder.path().display()))
        .arg(format!("init={}", path("init").display()))
        .arg("--")
        .arg(folder.path())
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(output)
        .process_group(0)
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let mut in_time = true;
    while in_time && machine.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        in_time = Instant::now() < until;
    }
    // Its processes are this kernel's too; they are all of one group.
    if let Some(group) = i32::try_from(machine.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = machine.wait();
    let read = |name| String::from_utf8_lossy(&fs::read(path(name)).unwrap()).replace('\r', "");
    let mut said = read("output");
    if !said.contains("test result:") {
        said += &format!("\nThe machine came to no result (in time: {in_time}). Its console:\n{}", read("console"));
    }
    Ok(said)
}

/// What is installed there, for the shell.
fn facts() -> String {
    let writer = std::env::current_exe().unwrap();
    let writer = writer.parent().and_then(Path::parent).unwrap().join("examples/writer");
    assert!(writer.exists(), "{} is not built: run `cargo build --example writer`", writer.display());
    format!(
        "guardiand='{}'\nwriter='{}'\nunit='{}'\n",
        env!("CARGO_BIN_EXE_guardiand"),
        writer.display(),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd/guardiand.service").display()
    )
}

/// The unit that runs this program there, and with whose end the machine ends.
fn unit() -> String {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    arguments.retain(|word| !word.starts_with('-') || word == "--exact");
    format!(
        "[Unit]\nAfter=sysinit.target\nSuccessAction=poweroff-immediate\nFailureAction=poweroff-immediate\n\
         [Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/tty1\n\
         Environment={INSIDE}=1 RUST_BACKTRACE=0\nExecStart=/host{} --test-threads=1 --nocapture --color=never {}\n",
        std::env::current_exe().unwrap().display(),
        arguments.iter().filter(|word| word.parse::<u32>().is_err()).cloned().collect::<Vec<_>>().join(" ")
    )
}

fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn find(program: &str) -> Option<PathBuf> {
    search_path().split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}
