//! It heals what belongs to others from within its unit's walls, and the journal tells how.

use std::fs;

use super::guest::{BACKUP, Guest, database, db};
use super::machine::on_the_machine;
use super::support::damage::{self, Dice};
use super::support::truth::{Content, beside, ownership};

/// The program runs, stops, its file is hurt and healed; the program goes on with all that it was promised.
fn heals(guest: &Guest, hurt: impl FnOnce()) -> serde_json::Value {
    guest.start();
    let before = ownership(&db());
    guest.stop_the_program();
    hurt();
    let incident = guest.healed();
    assert_eq!(ownership(&db()), before, "{incident:#}");
    for suffix in ["-wal", "-shm", "-journal"] {
        let side = beside(&db(), suffix);
        assert!(!side.exists() || ownership(&side).0 == before.0, "{} shuts the program out", side.display());
    }
    let promised = guest.promised();
    guest.done(&["start", "app"]);
    guest.wait_for("the program to go on", || (guest.promised().len() > promised.len() + 3).then_some(()));
    guest.healthy("app");
    guest.done(&["stop", "app", "guardiand"]);
    let content = Content::of(&db());
    let lost = guest.promised().difference(&content.commits).copied().collect::<Vec<_>>();
    assert!(lost.is_empty(), "{lost:?} of {:?} are lost: {incident:#}\n{}", guest.promised(), guest.log());
    incident
}

#[test]
fn a_deleted_database_of_another_user_comes_back_as_it_was() {
    on_the_machine("heals::a_deleted_database_of_another_user_comes_back_as_it_was", |guest| {
        let incident = heals(&guest, || fs::remove_file(db()).unwrap());
        tells_the_story(&guest, &incident);
    });
}

#[test]
fn a_damaged_database_of_another_user_comes_back_as_it_was() {
    on_the_machine("heals::a_damaged_database_of_another_user_comes_back_as_it_was", |guest| {
        let incident = heals(&guest, || drop(damage::header(&db(), &mut Dice::new())));
        tells_the_story(&guest, &incident);
    });
}

/// Every step, with its fields, in order, at the priority that it deserves.
fn tells_the_story(guest: &Guest, incident: &serde_json::Value) {
    let id = incident["id"].as_str().unwrap();
    let entries = guest.journal(&[&format!("GUARDIAN_INCIDENT={id}")]);
    let field = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let story = || format!("{entries:#?}");
    for entry in &entries {
        assert_eq!(field(entry, "GUARDIAN_TARGET"), "app", "{}", story());
        assert_eq!(field(entry, "GUARDIAN_MODE"), "database", "{}", story());
        assert_eq!(field(entry, "_SYSTEMD_UNIT"), "guardiand.service", "{}", story());
        assert_eq!(field(entry, "SYSLOG_IDENTIFIER"), "guardiand", "{}", story());
    }
    let (first, last) = (entries.first().unwrap(), entries.last().unwrap());
    assert_eq!(
        (field(first, "MESSAGE"), field(first, "PRIORITY")),
        ("incident opened".into(), "4".into()),
        "{}",
        story()
    );
    assert_eq!(field(first, "GUARDIAN_KIND"), incident["kind"].as_str().unwrap(), "{}", story());
    // A loss that cannot be ruled out is a warning.
    let no_loss = incident["loss"]["rows_lost"] == 0 || incident["loss"].is_null();
    let closing = if no_loss { ("incident closed", "6") } else { ("incident closed with a loss", "4") };
    assert_eq!((field(last, "MESSAGE"), field(last, "PRIORITY")), (closing.0.into(), closing.1.into()), "{}", story());
    assert_eq!(field(last, "GUARDIAN_OUTCOME"), "healed", "{}", story());
    let told = entries.iter().filter(|entry| entry["GUARDIAN_STEP"].is_string()).collect::<Vec<_>>();
    for step in incident["steps"].as_array().unwrap() {
        let same = told.iter().find(|entry| {
            entry["GUARDIAN_STEP"] == step["step"]
                && entry["GUARDIAN_OUTCOME"] == step["outcome"]
                && entry["PRIORITY"] == "6"
        });
        let seconds = same.map(|entry| field(entry, "GUARDIAN_SECONDS").parse::<f64>());
        assert!(matches!(seconds, Some(Ok(_))), "{step:#} is not told: {}", story());
    }
}

#[test]
fn what_needs_a_person_is_an_error_in_the_journal() {
    on_the_machine("heals::what_needs_a_person_is_an_error_in_the_journal", |guest| {
        guest.start();
        guest.stop_the_program();
        // Whatever put a folder there, it is not ours to remove.
        fs::rename(db(), "/srv/app/elsewhere.db").unwrap();
        fs::create_dir(db()).unwrap();
        let incident = guest.incident("escalated", |incident| incident["state"] == "escalated");
        let id = format!("GUARDIAN_INCIDENT={}", incident["id"].as_str().unwrap());
        let entries = guest.journal(&[&id, "PRIORITY=3"]);
        assert_eq!(entries.len(), 1, "{entries:#?}");
        assert_eq!(entries[0]["MESSAGE"], "incident needs a person");
    });
}

/// Commits once, and keeps everybody else from writing until `/srv/app/hold` is gone.
const HOLDER: &str = "[Service]
User=app
UMask=0027
ExecStart=/usr/bin/writer /srv/app/app.db wal 1 /srv/app/app.log --hold-write 3600 --while-there /srv/app/hold
";

#[test]
fn a_stopped_program_of_another_user_that_locks_others_out_is_let_go_on() {
    on_the_machine("heals::a_stopped_program_of_another_user_that_locks_others_out_is_let_go_on", |guest| {
        guest.configure(&database("app", "/srv/app/app.db", &format!("lock_max_age = \"10s\"\n{BACKUP}")));
        guest.start();
        guest.stop_the_program();
        fs::write("/etc/systemd/system/app.service", HOLDER).unwrap();
        fs::write("/srv/app/hold", "").unwrap();
        guest.done(&["daemon-reload"]);
        let promised = guest.promised().len();
        guest.done(&["start", "app"]);
        guest.wait_for("its commit", || (guest.promised().len() > promised).then_some(()));
        guest.done(&["kill", "--signal=STOP", "app"]);
        // Once it goes on it lets go, and ends in order.
        fs::remove_file("/srv/app/hold").unwrap();

        let incident = guest.healed();
        assert_eq!(
            (&incident["kind"], &incident["playbook"]),
            (&"db_locked".into(), &"unblock".into()),
            "{incident:#}"
        );
        let first = &incident["steps"][0];
        assert_eq!((&first["step"], &first["outcome"]), (&"resume_stopped".into(), &"ok".into()), "{incident:#}");
        let show = |what: &str| guest.done(&["show", "--value", "--property", what, "app"]).stdout.trim().to_owned();
        guest.wait_for("its end", || (show("ActiveState") == "inactive").then_some(()));
        assert_eq!((show("Result"), show("ExecMainStatus")), ("success".to_owned(), "0".to_owned()), "{}", guest.log());
        tells_the_story(&guest, &incident);
        guest.done(&["stop", "guardiand"]);
        assert!(guest.promised().is_subset(&Content::of(&db()).commits), "{}", guest.log());
    });
}
