//! A program that is stopped for a heal and started again, from within guardiand's unit: it outlives that, and has none of
//! its walls.

use std::fs;

use super::guest::{BACKUP, Guest, database, db, run};
use super::machine::on_the_machine;
use super::support::damage::{self, Dice};

const OFTEN: &str = "integrity = { quick = \"1s\", full = \"1s\" }";

/// Configures `app`, hurts the file under the running program, and waits for the heal.
fn heals_with(guest: &Guest, app: &str) -> serde_json::Value {
    guest.configure(&database(
        "app",
        "/srv/app/app.db",
        &format!("when_in_use = \"stop-app\"\n{app}\n{BACKUP}\n{OFTEN}"),
    ));
    guest.start();
    guest.done(&["stop", "app"]);
    // More than one page of rows: the first is not written again, so that what is done to it stays.
    let as_app = ["--reuid=1234", "--regid=1234", "--clear-groups", "/usr/bin/writer", "/srv/app/app.db", "wal", "200"];
    let more = ["/srv/app/app.log", "--rows-per-commit", "5", "--while-there", "/srv/app"];
    assert_eq!(run("setpriv", &[&as_app[..], &more].concat()).status, 0);
    guest.stop_the_program();
    guest.done(&["start", "app"]);
    let promised = guest.promised().len();
    guest.wait_for("the program to go on", || (guest.promised().len() > promised + 3).then_some(()));
    damage::first_leaf(&db(), "rows", &mut Dice::new());
    let incident = guest.healed();
    let steps = incident["steps"].to_string();
    assert!(steps.contains("stop_app") && steps.contains("start_app"), "{incident:#}");
    let promised = guest.promised().len();
    guest.wait_for("the program to commit again", || (guest.promised().len() > promised + 3).then_some(()));
    guest.healthy("app");
    incident
}

#[test]
fn a_unit_is_stopped_for_the_swap_and_runs_again() {
    on_the_machine("programs::a_unit_is_stopped_for_the_swap_and_runs_again", |guest| {
        heals_with(&guest, "app = { unit = \"app.service\" }");
        let show = |what: &str| guest.done(&["show", "--value", "--property", what, "app"]).stdout.trim().to_owned();
        assert_eq!((show("ActiveState"), show("User")), ("active".to_owned(), "app".to_owned()));
        let pid = show("MainPID");
        guest.done(&["stop", "guardiand"]);
        assert_eq!((show("ActiveState"), show("MainPID")), ("active".to_owned(), pid));
    });
}

#[test]
fn a_program_started_by_a_command_outlives_guardiands_unit_and_has_none_of_its_walls() {
    let name = "programs::a_program_started_by_a_command_outlives_guardiands_unit_and_has_none_of_its_walls";
    on_the_machine(name, |guest| {
        // As a script without systemd would: it ends the program by its pid, which takes a right that guardiand has not.
        let stop = "p=$(pidof writer); kill $p; while [ -e /proc/$p/fd/0 ]; do sleep 0.1; done\n";
        let start = "mkfifo /run/started; exec setpriv --reuid=1234 --regid=1234 --clear-groups sh -c \
             'exec writer /srv/app/app.db wal forever /srv/app/app.log --pause 300 <>/run/started'\n";
        fs::write("/run/app-stop", stop).unwrap();
        fs::write("/run/app-start", format!("chmod 711 /run; umask 0; rm -f /run/started; {start}")).unwrap();
        heals_with(&guest, "app = { stop = [\"sh\", \"/run/app-stop\"], start = [\"sh\", \"/run/app-start\"] }");
        let pid = || {
            let found = run("pidof", &["writer"]).stdout.trim().to_owned();
            (!found.is_empty()).then_some(found)
        };
        let before = guest.wait_for("the writer", pid);
        let status = fs::read_to_string(format!("/proc/{before}/status")).unwrap();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (Some("0".to_owned()), Some("0".to_owned())), "{status}");
        let group = fs::read_to_string(format!("/proc/{before}/cgroup")).unwrap();
        assert!(group.contains("guardiand-app-") && !group.contains("guardiand.service"), "{group}");
        guest.done(&["stop", "guardiand"]);
        assert_eq!(pid(), Some(before.clone()), "it ended with guardiand");
        run("kill", &[&before]);
    });
}
