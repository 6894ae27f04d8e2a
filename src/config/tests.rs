use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::job::Keep;
use crate::model::Policy;
use crate::modes::database::config::{Schema, WhenInUse};
use crate::telemetry::{LogFormat, LogLevel};

fn environment() -> Environment {
    Environment { working_directory: PathBuf::from("/home/op"), ..Environment::default() }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/nowhere/guardian.toml"), &environment())
}

fn errors(text: &str) -> String {
    parse(text).map(|_| ()).unwrap_err().to_string()
}

const APP: &str = "[[database]]\nname = \"app\"\npath = \"app.db\"\n";

#[test]
fn defaults_are_those_of_the_interface() {
    let config = parse(APP).unwrap();
    let guardian = &config.guardian;
    assert_eq!(guardian.state_dir, Path::new("/home/op/guardian-state"));
    assert_eq!(guardian.control, Path::new("/home/op/guardian-state/control.sock"));
    assert_eq!(guardian.interval, Duration::from_secs(30));
    assert_eq!(guardian.http, Some("127.0.0.1:9617".parse::<SocketAddr>().unwrap()));
    assert_eq!((guardian.policy, guardian.workers), (Policy::Heal, 2));
    assert_eq!(guardian.evidence, Evidence { keep: Duration::from_secs(30 * 86_400), max: 10_000_000_000 });
    assert_eq!(config.gates.cooldown, Duration::from_secs(30));
    assert_eq!(config.gates.heals, HealBudget { max: 5, per: Duration::from_secs(3600) });
    assert_eq!(config.gates.repeat, RepeatLimit { max: 2, within: Duration::from_secs(600) });
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });

    let app = &config.databases[0];
    assert_eq!(app.path, Path::new("/nowhere/app.db"));
    assert!(!app.is_glob());
    assert_eq!((app.interval, app.policy), (None, None));
    assert_eq!(app.wal_max, 100_000_000);
    assert_eq!(app.busy_timeout, Duration::from_secs(5));
    assert_eq!(app.lock_max_age, Duration::from_secs(60));
    assert_eq!(app.when_in_use, None);
    assert!(app.resume_stopped && app.backup.is_none());
    assert!(config.warnings.iter().any(|warning| warning.contains("no `backup` table")), "{:?}", config.warnings);
}

#[test]
fn systemd_says_where_state_and_the_socket_go() {
    let environment = Environment {
        state_directory: Some(PathBuf::from("/var/lib/guardiand")),
        runtime_directory: Some(PathBuf::from("/run/guardiand")),
        working_directory: PathBuf::from("/"),
    };
    let config = Config::parse(APP, Path::new("/etc/g.toml"), &environment).unwrap();
    assert_eq!(config.guardian.state_dir, Path::new("/var/lib/guardiand"));
    assert_eq!(config.guardian.control, Path::new("/run/guardiand/control.sock"));
}

#[test]
fn a_target_may_override_what_the_guardian_says() {
    let config = parse(&format!(
        "[guardian]\ninterval = \"1m\"\npolicy = \"observe\"\n{APP}policy = \"heal\"\ninterval = \"5s\"\n\
         when_in_use = \"refuse\"\nbackup = {{ every = \"1h\" }}\n"
    ))
    .unwrap();
    let app = &config.databases[0];
    assert_eq!((app.interval, app.policy), (Some(Duration::from_secs(5)), Some(Policy::Heal)));
    assert_eq!(config.guardian.policy, Policy::Observe);
    assert_eq!(app.when_in_use, Some(WhenInUse::Refuse));
    let backup = app.backup.as_ref().unwrap();
    assert_eq!(backup.to, Path::new("/home/op/guardian-state/backups"));
    assert_eq!(backup.keep, Keep { last: 8, hourly: 24, daily: 7, weekly: 4 });
    assert_eq!(backup.every, Duration::from_secs(3600));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn each_mistake_is_shown_with_its_line_column_and_a_caret() {
    for (text, place, words) in [
        ("[guardian]\nintervall = \"30s\"\n", ":2:1:", "unknown key `intervall`"),
        ("[guardian]\ninterval = \"0s\"\n", ":2:12:", "more than zero"),
        ("[guardian]\ninterval = 30\n", ":2:12:", "a duration with its unit"),
        ("[guardian]\ninterval = \"30\"\n", ":2:12:", "has no unit"),
        ("[guardian]\npolicy = \"maybe\"\n", ":2:10:", "unknown variant `maybe`"),
        ("[guardian]\nworkers = 0\n", ":2:11:", "from 1 to"),
        ("[guardian]\nworkers = \"2\"\n", ":2:11:", "expected usize"),
        ("[guardian]\nhttp = \"localhost\"\n", ":2:8:", "is not an address"),
        ("[guardian]\nevidence = { keep = \"30d\", maxx = \"1GB\" }\n", ":2:28:", "unknown key `maxx`"),
        ("[guardian]\nevidence = { max = \"lots\" }\n", ":2:20:", "is not a size"),
        ("[gates]\nmass = { share = 1.5 }\n", ":2:18:", "at most 1.0"),
        ("[gates]\nheals = { max = -1 }\n", ":2:17:", "expected u32"),
        ("[log]\nformat = \"xml\"\n", ":2:10:", "unknown variant `xml`"),
        ("[[api]]\nname = \"x\"\n", ":1:3:", "mode `api` is not built yet"),
        ("[guardiann]\n", ":1:2:", "unknown key `guardiann`"),
        ("[database]\nname = \"x\"\n", ":1:2:", "two brackets"),
        ("guardian = 3\n", ":1:12:", "must be a table"),
        ("[guardian\n", ":1:10:", "]"),
        ("[guardian]\nworkers = 1\nworkers = 2\n", ":3:1:", "duplicate key"),
        ("[[database]]\npath = \"x\"\n", ":1:1:", "missing key `name`"),
        ("[[database]]\nname = \"a/b\"\npath = \"x\"\n", ":2:8:", "must not contain `/`"),
        ("[[database]]\nname = \"a\"\npath = \"\"\n", ":3:8:", "must name a database file"),
        (
            "[[database]]\nname = \"a\"\npath = \"x\"\nschema = \"/nowhere/s.sql\"\n",
            ":4:10:",
            "cannot read the schema file",
        ),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nschema = \"/proc\"\n", ":4:10:", "not a regular file"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nwal_max = \"100 apples\"\n", ":4:11:", "is not a size"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nmax_targets = 3\n", ":4:15:", "wildcards"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nexclude = [\"y\"]\n", ":4:11:", "wildcards"),
        ("[[database]]\nname = \"a\"\npath = \"*.db\"\nexclude = [\"te*\"]\n", ":4:11:", "each match as it is"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\non_lock = \"restart-app\"\n", ":4:11:", "needs `app`"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\napp = { stop = [\"x\"] }\n", ":4:7:", "both commands"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nretry = { attempts = 0 }\n", ":4:22:", "from 1 to 100"),
        ("[[database]]\nname = \"a\"\npath = \"x\"\n[database.backup]\nevery = \"0s\"\n", ":5:9:", "more than zero"),
        (
            "[[database]]\nname = \"a\"\npath = \"x\"\ncanary = \"WITH a AS (SELECT 1) DELETE FROM t\"\n",
            ":4:10:",
            "one read-only SELECT",
        ),
        ("[[database]]\nname = \"a\"\npath = \"x\"\nbackup = { to = \"/dev/null\" }\n", ":4:17:", "is no folder"),
        (
            "[[database]]\nname = \"a\"\npath = \"x\"\nbackup = { keep = { last = 1, yearly = 2 } }\n",
            ":4:31:",
            "unknown key `yearly`",
        ),
    ] {
        let shown = errors(text);
        let first = shown.lines().next().unwrap();
        assert!(first.starts_with(&format!("/nowhere/guardian.toml{place}")), "{text}\n→ {shown}");
        assert!(first.contains(words), "{text}\n→ {shown}");
        assert!(shown.lines().last().unwrap().trim_end().ends_with('^'), "{text}\n→ {shown}");
        assert_eq!(parse(text).unwrap_err().errors().len(), 1, "{text}\n→ {shown}");
    }
}

#[test]
fn all_mistakes_are_shown_at_once_in_the_order_of_the_file() {
    let text = "[guardian]\ninterval = \"0s\"\nwhat = 1\n[gates]\ncooldown = 5\n\
                [[database]]\nname = \"a\"\npath = \"x\"\nwal_max = 1\nbackup = { every = \"?\", max = 3 }\n\
                [[database]]\nname = \"a\"\npath = \"x\"\n[[disk]]\n";
    let lines: Vec<usize> = parse(text).unwrap_err().errors().iter().filter_map(|error| error.line).collect();
    assert_eq!(lines, [2, 3, 5, 9, 10, 10, 12, 13, 14], "{}", errors(text));
}

#[test]
fn the_commented_example_shows_every_key_and_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/guardian.toml"));
    let text = std::fs::read_to_string(path).unwrap();
    let config = Config::parse(&text, path, &environment()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.databases.len(), 2);
    assert_eq!(config.warnings, Vec::<String>::new());
    // What it shows as a default is the default.
    let bare =
        Config::parse("[[database]]\nname = \"app\"\npath = \"/srv/app/app.db\"\nbackup = {}\n", path, &environment())
            .unwrap();
    assert_eq!(config.gates, bare.gates);
    assert_eq!(config.guardian.evidence, bare.guardian.evidence);
    assert_eq!(config.databases[0].integrity, bare.databases[0].integrity);
    assert_eq!(config.databases[0].retry, bare.databases[0].retry);
    let (shown, default) = (config.databases[0].backup.clone().unwrap(), bare.databases[0].backup.clone().unwrap());
    assert_eq!(BackupShape::of(&shown), BackupShape::of(&default));

    for key in [
        "state_dir",
        "interval",
        "http",
        "control",
        "policy",
        "workers",
        "evidence",
        "http_hosts",
        "cooldown",
        "heals",
        "repeat",
        "mass",
        "command",
        "webhook",
        "format",
        "level",
        "name",
        "path",
        "max_targets",
        "exclude",
        "wal_max",
        "busy_timeout",
        "lock_max_age",
        "canary",
        "schema",
        "when_in_use",
        "app",
        "user",
        "group",
        "on_lock",
        "resume_stopped",
        "exclusive",
        "integrity",
        "retry",
        "every",
        "to",
        "keep",
        "max",
        "block_max",
        "drill",
    ] {
        let shown = |line: &str| line.trim_start_matches("# ").split(['=', ' ']).next() == Some(key);
        assert!(text.lines().any(shown), "config/guardian.toml does not show `{key}`");
    }
}

/// A plan without its folder, which the example sets.
#[derive(Debug, PartialEq)]
struct BackupShape(Duration, Keep, Option<u64>, Duration, Duration);

impl BackupShape {
    fn of(plan: &crate::modes::database::config::BackupPlan) -> BackupShape {
        BackupShape(plan.every, plan.keep, plan.max, plan.block_max, plan.drill)
    }
}

#[test]
fn the_quickstart_is_valid_and_stays_inside_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    let config = Config::load(&root.join("config/quickstart.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.guardian.state_dir, root.join("quickstart/state"));
    let database = &config.databases[0];
    assert_eq!(database.path, root.join("quickstart/app.db"));
    let Some(Schema { sql, .. }) = &database.schema else { panic!("no schema") };
    assert!(sql.contains("CREATE TABLE notes"));
}

#[test]
fn what_is_no_file_of_text_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let binary = folder.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    for path in [fifo, binary, folder.path().to_path_buf(), folder.path().join("missing")] {
        let errors = Config::load(&path).unwrap_err();
        assert_eq!(errors.errors().len(), 1);
        assert!(errors.to_string().starts_with(&path.display().to_string()), "{errors}");
    }
}

#[test]
fn a_change_that_takes_a_restart_says_so() {
    let running = parse(APP).unwrap();
    let new = parse(&format!("[guardian]\nhttp = \"off\"\ninterval = \"1s\"\n{APP}")).unwrap();
    assert_eq!(new.needs_restart(&running), ["http"]);
}

#[test]
fn a_broken_file_never_panics() {
    use proptest::prelude::*;
    proptest!(|(cut in 0usize..4000, junk in "\\PC{0,12}", at in 0usize..4000)| {
        let text = include_str!("../../config/guardian.toml");
        let clip = |n: usize| (0..=n.min(text.len())).rev().find(|&n| text.is_char_boundary(n)).unwrap();
        let broken = format!("{}{junk}{}", &text[..clip(at)], &text[clip(cut)..]);
        if let Err(errors) = parse(&broken) {
            prop_assert!(!errors.to_string().is_empty());
        }
    });
}

#[test]
fn a_folder_that_is_a_link_is_resolved_when_the_configuration_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap().join("release-7");
    std::fs::create_dir(&real).unwrap();
    let link = dir.path().join("current");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let text = format!("[[database]]\nname = \"app\"\npath = \"{}/app.db\"\n", link.display());
    let config = Config::parse(&text, &dir.path().join("g.toml"), &Environment::default()).unwrap();
    assert_eq!(config.databases[0].path, real.join("app.db"));
}

#[test]
fn a_byte_that_is_not_utf_8_is_shown_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guardian.toml");
    std::fs::write(&path, b"[guardian]\ninterval = \"\xff3s\"\n").unwrap();
    let shown = Config::load(&path).unwrap_err().to_string();
    assert!(shown.contains("guardian.toml:2:13: byte 23 is not UTF-8: save the file as UTF-8"), "{shown}");
    assert!(shown.trim_end().ends_with('^'), "{shown}");
}
