use serde_json::json;

use super::*;
use crate::clock::Moment;
use crate::job::Phase;
use crate::model::{IncidentState, Kind, Loss, Playbook, Resolution, Risk, StepOutcome, StepRecord, StepSpec};

fn moment(ms: u64) -> Moment {
    let wall = jiff::Timestamp::from_millisecond(1_763_780_645_000 + ms.cast_signed()).unwrap();
    Moment { wall, boot_ms: 1_000 + ms }
}

fn incident(id: &str) -> Incident {
    Incident {
        id: IncidentId(id.into()),
        target: "app".into(),
        mode: "database".into(),
        kind: Kind::new("db_file_missing"),
        opened_at: moment(0).wall,
        closed_at: None,
        state: IncidentState::Open,
        outcome: None,
        detection_seconds: Some(0.001),
        mttr_seconds: None,
        heal_seconds: None,
        playbook: String::new(),
        steps: Vec::new(),
        loss: None,
        evidence: None,
        evidence_expired_at: None,
        reason: None,
        plan: Vec::new(),
        approved_by: None,
        findings: Vec::new(),
    }
}

const ID: &str = "20251122T030405.000Z-0a1b2c";

fn spec(name: &str) -> StepSpec {
    StepSpec { name: name.into(), version: 1, risk: Risk::Lossy, args: json!({ "step": name }), finally: false }
}

fn plan() -> Vec<Playbook> {
    let steps = vec![spec("preserve"), spec("install")];
    vec![Playbook { name: "restore_backup".into(), why: "the newest that passes".into(), steps }]
}

fn record(step: &str, outcome: StepOutcome) -> StepRecord {
    StepRecord { step: step.into(), outcome, seconds: 0.25, detail: "4 files".into(), evidence: None }
}

fn intended(index: usize, name: &str) -> Entry {
    Entry::StepIntended { playbook: 0, index, spec: spec(name), phase: Phase::Apply }
}

fn ended(index: usize, name: &str, loss: Option<Loss>) -> Entry {
    Entry::StepEnded { playbook: 0, index, record: record(name, StepOutcome::Ok), loss }
}

fn loss() -> Loss {
    Loss { source: "backup".into(), rows_kept: Some(10), rows_lost: None, tables: Vec::new() }
}

/// A whole life: healed by the first playbook.
fn life(id: &str) -> Vec<Entry> {
    let mut over = incident(id);
    over.state = IncidentState::Closed;
    over.closed_at = Some(moment(900).wall);
    over.outcome = Some(Resolution::Healed);
    over.mttr_seconds = Some(0.9);
    over.loss = Some(loss());
    vec![
        Entry::Opened { incident: Box::new(incident(id)) },
        Entry::Planned { playbooks: plan(), approval: None },
        Entry::PlaybookBegan { index: 0, name: "restore_backup".into() },
        intended(0, "preserve"),
        ended(0, "preserve", None),
        intended(1, "install"),
        ended(1, "install", Some(loss())),
        Entry::Verifying,
        Entry::Proved { check: json!({ "verdict": "healthy" }) },
        Entry::Closed { incident: Box::new(over) },
    ]
}

fn records(entries: &[Entry]) -> Vec<Record> {
    let line = |(seq, entry): (usize, &Entry)| {
        let line = encode(seq as u64, moment(seq as u64 * 100), entry).unwrap();
        decode(&line[..line.len() - 1]).unwrap()
    };
    entries.iter().enumerate().map(line).collect()
}

#[test]
fn a_whole_log_looks_as_it_did_in_every_earlier_version() {
    let golden = include_str!("golden.jsonl");
    let mut written = Vec::new();
    for (seq, entry) in life(ID).iter().enumerate() {
        written.extend(encode(seq as u64, moment(seq as u64 * 100), entry).unwrap());
    }
    if std::env::var_os("GUARDIAND_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/journal/golden.jsonl"), &written).unwrap();
        return;
    }
    assert_eq!(String::from_utf8(written).unwrap(), golden);
    let contents = parse(golden.as_bytes());
    assert_eq!(contents.doubt, None);
    assert_eq!(contents.records, records(&life(ID)));
}

#[test]
fn a_history_replays_to_what_happened() {
    let replayed = replay(&records(&life(ID))).unwrap();
    assert!(replayed.closed);
    assert_eq!(replayed.incident.outcome, Some(Resolution::Healed));
    assert_eq!(replayed.runs.len(), 1);
    assert_eq!((replayed.runs[0].success, replayed.runs[0].seconds), (Some(true), Some(0.6)));
}

#[test]
fn a_death_after_any_entry_tells_what_is_unfinished() {
    let life = life(ID);
    for dead_after in 1..life.len() {
        let replayed = replay(&records(&life[..dead_after])).unwrap();
        let unfinished = replayed.unfinished.map(|open| (open.index, open.spec.name, open.phase));
        let expected = match dead_after {
            4 => Some((0, "preserve".to_owned(), Phase::Apply)),
            6 => Some((1, "install".to_owned(), Phase::Apply)),
            _ => None,
        };
        assert_eq!(unfinished, expected, "after {dead_after} entries");
        assert!(!replayed.closed);
    }
}

#[test]
fn an_illegal_history_is_rejected_where_it_breaks() {
    let life = life(ID);
    let pick = |at: &[usize]| at.iter().map(|at| life[*at].clone()).collect::<Vec<_>>();
    let cases: &[(&str, Vec<Entry>, u64)] = &[
        ("nothing opened it", pick(&[1, 2]), 0),
        ("opened twice", pick(&[0, 0]), 1),
        ("a playbook without a plan", pick(&[0, 2]), 1),
        ("a step without a playbook", pick(&[0, 1, 3]), 2),
        ("an end without an intent", pick(&[0, 1, 2, 4]), 3),
        ("another step's end", pick(&[0, 1, 2, 3, 6]), 4),
        ("an intent while another is open", pick(&[0, 1, 2, 3, 5]), 4),
        ("verified with a step open", pick(&[0, 1, 2, 3, 7]), 4),
        ("proven before anything was done", pick(&[0, 8]), 1),
        ("closed while open", pick(&[0, 9]), 1),
        ("life after the end", pick(&[0, 1, 2, 7, 8, 9, 1]), 6),
    ];
    for (what, entries, breaks_at) in cases {
        let illegal = replay(&records(entries)).expect_err(what);
        assert_eq!(illegal.seq, *breaks_at, "{what}: {illegal}");
        assert_eq!(illegal.before.is_some(), *breaks_at > 0, "{what}");
    }
}

#[test]
fn a_disproved_playbook_is_taken_back_and_the_next_one_begins() {
    let mut entries = life(ID)[..8].to_vec();
    let undo = Entry::StepIntended { playbook: 0, index: 1, spec: spec("install"), phase: Phase::Undo };
    let undone = Entry::StepEnded { playbook: 0, index: 1, record: record("install", StepOutcome::Undone), loss: None };
    entries.extend([Entry::Disproved { check: json!({}) }, undo]);
    let replayed = replay(&records(&entries)).unwrap();
    assert_eq!(replayed.unfinished.map(|open| open.phase), Some(Phase::Undo));
    entries.extend([undone, Entry::PlaybookBegan { index: 0, name: "restore_backup".into() }]);
    let replayed = replay(&records(&entries)).unwrap();
    assert_eq!(replayed.loss, None, "what was taken back costs nothing");
    assert_eq!(replayed.runs.iter().map(|run| run.success).collect::<Vec<_>>(), [Some(false), None]);
    entries.extend([Entry::Escalated { reason: "out of playbooks".into(), held: false }, Entry::Recovered]);
    assert_eq!(replay(&records(&entries)).unwrap().incident.state, IncidentState::Closed);
}

async fn live(journal: &Journal, id: &str, until: usize) {
    live_on(journal, life(id), (0, until)).await;
}

async fn live_on(journal: &Journal, life: Vec<Entry>, (from, until): (usize, usize)) {
    let Some(Entry::Opened { incident }) = life.first().cloned() else { panic!("no beginning") };
    for entry in life.into_iter().take(until).skip(from) {
        journal.append(&incident.id, entry).await.unwrap();
    }
}

/// The same life, without a loss.
fn lossless(id: &str) -> Vec<Entry> {
    let none = || Loss { rows_lost: Some(0), ..loss() };
    life(id)
        .into_iter()
        .map(|entry| match entry {
            Entry::StepEnded { playbook, index, record, loss } => {
                Entry::StepEnded { playbook, index, record, loss: loss.map(|_| none()) }
            }
            Entry::Closed { mut incident } => {
                incident.loss = Some(none());
                Entry::Closed { incident }
            }
            other => other,
        })
        .collect()
}

fn clock() -> Clock {
    Clock::manual(moment(0))
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_appended_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let other = "20251122T030406.000Z-ffffff";
    {
        let journal = Journal::start(dir.path(), clock()).unwrap();
        live(&journal, ID, 10).await;
        live(&journal, other, 6).await;
        let memory = Remembered { target: "app".into(), mode: "database".into(), memory: json!({ "schema": "x" }) };
        journal.save_memory(vec![memory]).await.unwrap();
        journal.stop().await;
    }
    let journal = Journal::start(dir.path(), clock()).unwrap();
    assert_eq!(journal.troubles().await.unwrap(), Vec::<String>::new());
    let open = journal.open_incidents().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].replayed.incident.id.0, other);
    assert_eq!(open[0].replayed.unfinished.as_ref().unwrap().spec.name, "install");
    assert_eq!(open[0].doubt, None);
    let filter = Filter { state: Some("closed".into()), limit: 10, ..Filter::default() };
    let closed = journal.incidents(filter).await.unwrap();
    assert_eq!(closed.iter().map(|one| one.id.0.as_str()).collect::<Vec<_>>(), [ID]);
    assert_eq!(journal.load_memory().await.unwrap()[0].memory, json!({ "schema": "x" }));
    assert_eq!(journal.stats(24).await.unwrap().len(), 2);
    let resumed = Entry::StepResumed { playbook: 0, index: 1, record: record("install", StepOutcome::Ok), loss: None };
    journal.append(&IncidentId(other.into()), resumed).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn who_reads_closed_also_reads_the_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let proven = life(ID).len() - 1;
    let state =
        async |journal: &Journal| journal.incidents(Filter { limit: 1, ..Filter::default() }).await.unwrap()[0].state;
    let journal = Journal::start(dir.path(), clock()).unwrap();
    live(&journal, ID, proven).await;
    assert_eq!(state(&journal).await, IncidentState::Verifying);
    journal.stop().await;
    std::fs::remove_file(dir.path().join("state.db")).unwrap();
    let journal = Journal::start(dir.path(), clock()).unwrap();
    assert_eq!(state(&journal).await, IncidentState::Verifying, "after a restart, the last entry is still to come");
    assert_eq!(journal.open_incidents().await.unwrap().len(), 1);
    live_on(&journal, life(ID), (proven, proven + 1)).await;
    assert_eq!(state(&journal).await, IncidentState::Closed);
    journal.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_damaged_or_missing_index_is_rebuilt_from_the_folders() {
    let dir = tempfile::tempdir().unwrap();
    let first = Journal::start(dir.path(), clock()).unwrap();
    live(&first, ID, 10).await;
    first.stop().await;
    for hurt in [Some(vec![0x5a_u8; 8192]), None] {
        let index = dir.path().join("state.db");
        match &hurt {
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
            None => std::fs::remove_file(&index).unwrap(),
        }
        let journal = Journal::start(dir.path(), clock()).unwrap();
        let listed = journal.incidents(Filter { limit: 10, ..Filter::default() }).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].outcome, Some(Resolution::Healed));
        let troubles = journal.troubles().await.unwrap();
        assert_eq!(troubles.iter().any(|said| said.contains("set aside")), hurt.is_some(), "{troubles:?}");
        journal.stop().await;
    }
    let kept = std::fs::read_dir(dir.path()).unwrap().filter_map(Result::ok);
    assert!(kept.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("state.db.damaged-")));
}

#[tokio::test(flavor = "current_thread")]
async fn an_entry_that_cannot_follow_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::start(dir.path(), clock()).unwrap();
    live(&journal, ID, 3).await;
    let id = IncidentId(ID.into());
    assert!(matches!(journal.append(&id, Entry::Verifying).await, Ok(())));
    assert!(matches!(journal.append(&id, intended(0, "preserve")).await, Err(JournalError::Illegal(_))));
    assert!(matches!(
        journal.append(&IncidentId("other".into()), Entry::Verifying).await,
        Err(JournalError::Unknown(_))
    ));
    let log = dir.path().join("incidents").join(ID).join(LOG_NAME);
    assert_eq!(read(&log).unwrap().records.len(), 4);
}

#[tokio::test(flavor = "current_thread")]
async fn without_a_place_on_disk_it_starts_and_refuses_intents() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // A file where the folder should be: fails for root too, as a full disk would for everybody.
    std::fs::write(&state, b"not a folder").unwrap();
    let journal = Journal::start(&state, clock()).unwrap();
    assert!(!journal.troubles().await.unwrap().is_empty());
    assert_eq!(journal.incidents(Filter { limit: 10, ..Filter::default() }).await.unwrap(), Vec::new());
    let opened = Entry::Opened { incident: Box::new(incident(ID)) };
    assert!(matches!(journal.append(&IncidentId(ID.into()), opened).await, Err(JournalError::Folder { .. })));
}

#[tokio::test(flavor = "current_thread")]
async fn only_closed_incidents_lose_their_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let journal = Journal::start(dir.path(), clock.clone()).unwrap();
    let open = "20251122T030406.000Z-ffffff";
    live_on(&journal, lossless(ID), (0, 10)).await;
    live(&journal, open, 6).await;
    for id in [ID, open] {
        let folder = journal.evidence(&IncidentId(id.into()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("main"), vec![7_u8; 100_000]).unwrap();
    }
    let month = Duration::from_secs(30 * 86_400);
    journal.limit(Limits { keep: month, max_bytes: u64::MAX });
    assert_eq!(journal.expire().await.unwrap(), Expired::default());
    journal.limit(Limits { keep: month, max_bytes: 0 });
    let by_size = journal.expire().await.unwrap();
    assert_eq!((by_size.evidence.len(), by_size.folders.len()), (1, 0));
    assert!(!journal.evidence(&IncidentId(ID.into())).exists());
    assert!(dir.path().join("incidents").join(ID).join(LOG_NAME).exists(), "the log outlives the files");
    assert!(journal.evidence(&IncidentId(open.into())).join("main").exists());
    clock.advance(month * 13);
    journal.limit(Limits { keep: month, max_bytes: u64::MAX });
    let by_age = journal.expire().await.unwrap();
    assert_eq!(by_age.folders, [IncidentId(ID.into())]);
    assert!(journal.evidence(&IncidentId(open.into())).join("main").exists());
}

/// Closed incidents with 100 kB of evidence each; those of `lossy` cost rows.
async fn closed_ones(journal: &Journal, ids: &[&str], lossy: &[&str]) {
    for id in ids {
        let life = if lossy.contains(id) { life(id) } else { lossless(id) };
        live_on(journal, life, (0, 10)).await;
        let folder = journal.evidence(&IncidentId((*id).into()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("main"), vec![7_u8; 100_000]).unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_age_rule_takes_the_copies_and_leaves_the_log_for_a_year() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let journal = Journal::start(dir.path(), clock.clone()).unwrap();
    closed_ones(&journal, &[ID], &[]).await;
    let month = Duration::from_secs(30 * 86_400);
    clock.advance(month * 2);
    let expired = journal.expire().await.unwrap();
    assert_eq!((expired.evidence.len(), expired.folders.len()), (1, 0));
    assert!(dir.path().join("incidents").join(ID).join(LOG_NAME).exists());
    let told = journal.incident(&IncidentId(ID.into())).await.unwrap().unwrap();
    assert_eq!((told.evidence_expired_at, told.evidence), (Some(clock.now().wall), None));
    assert_eq!(told.outcome, Some(Resolution::Healed), "the rest stays as it was");
    assert_eq!(journal.expire().await.unwrap(), Expired::default());
}

#[tokio::test(flavor = "current_thread")]
async fn after_a_step_of_the_clock_nothing_goes_by_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let journal = Journal::start(dir.path(), clock.clone()).unwrap();
    closed_ones(&journal, &[ID], &[]).await;
    // Ten years ahead, while no time has passed: a battery that was changed, a virtual machine that was moved.
    clock.step_wall(moment(10 * 365 * 86_400_000).wall);
    assert_eq!(journal.expire().await.unwrap(), Expired::default());
    // The size rule needs no clock.
    journal.limit(Limits { max_bytes: 0, ..Limits::default() });
    assert_eq!(journal.expire().await.unwrap().evidence.len(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn room_is_made_of_the_oldest_and_never_of_what_a_heal_cost() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::start(dir.path(), clock()).unwrap();
    let ids = ["20251122T030405.000Z-000001", "20251122T030406.000Z-000002", "20251122T030407.000Z-000003"];
    closed_ones(&journal, &ids, &ids[..1]).await;
    journal.limit(Limits { max_bytes: 310_000, ..Limits::default() });
    let new = IncidentId("20251122T030408.000Z-000004".into());
    assert_eq!(journal.make_room(&new, 5_000).await.unwrap(), Expired::default());
    // The oldest lost rows: what is left of them is in its evidence.
    let made = journal.make_room(&new, 50_000).await.unwrap();
    assert_eq!(made.evidence, [IncidentId(ids[1].into())]);
    let refused = journal.make_room(&new, 250_000).await.unwrap_err();
    assert!(matches!(refused, JournalError::EvidenceFull { needed: 250_000, .. }), "{refused}");
    assert!(journal.evidence(&IncidentId(ids[0].into())).join("main").exists());
}

#[tokio::test(flavor = "current_thread")]
async fn a_closed_log_takes_one_thing_more_and_that_once() {
    let dir = tempfile::tempdir().unwrap();
    let id = IncidentId(ID.into());
    let within = IncidentId("20251122T030408.000Z-000004".into());
    let log = dir.path().join("incidents").join(ID).join(LOG_NAME);
    let journal = Journal::start(dir.path(), clock()).unwrap();
    live(&journal, ID, 6).await;
    assert!(journal.rolled_back(&id, &within, "uid 0").await.is_err(), "it is open");
    live_on(&journal, life(ID), (6, 10)).await;
    let entries = read(&log).unwrap().records.len();
    for _ in 0..2 {
        journal.rolled_back(&id, &within, "uid 0").await.unwrap();
        assert_eq!(read(&log).unwrap().records.len(), entries + 1);
        let incident = journal.incident(&id).await.unwrap().unwrap();
        assert_eq!((incident.state, incident.outcome), (IncidentState::Closed, Some(Resolution::RolledBack)));
    }
    assert!(journal.append(&id, Entry::Verifying).await.is_err());
    journal.stop().await;
    // The index can be lost: the log says it all.
    std::fs::remove_file(dir.path().join("state.db")).unwrap();
    let journal = Journal::start(dir.path(), clock()).unwrap();
    assert_eq!(journal.incident(&id).await.unwrap().unwrap().outcome, Some(Resolution::RolledBack));
    for unknown in ["20251122T030409.000Z-000005", "../../etc"] {
        assert!(journal.rolled_back(&IncidentId(unknown.into()), &within, "uid 0").await.is_err());
    }
}

#[test]
fn folders_and_files_are_ours_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { live(&Journal::start(&state, clock()).unwrap(), ID, 2).await });
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state.clone()), 0o700);
    assert_eq!(mode(state.join("incidents").join(ID)), 0o700);
    assert_eq!(mode(state.join("incidents").join(ID).join(LOG_NAME)), 0o600);
    assert_eq!(mode(state.join("state.db")), 0o600);
}

#[tokio::test]
async fn folders_in_which_nothing_was_ever_written_go_quietly_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let folder = |random: &str| root.path().join(format!("incidents/20251122T030405.000Z-{random}"));
    for random in ["000001", "000002", "000003"] {
        std::fs::create_dir_all(folder(random)).unwrap();
    }
    // No room for the log; none for its first entry; and one that holds files as they were, which are somebody's.
    std::fs::write(folder("000002").join(LOG_NAME), "").unwrap();
    std::fs::write(folder("000003").join(LOG_NAME), "").unwrap();
    std::fs::create_dir(folder("000003").join("evidence")).unwrap();
    let journal = Journal::start(root.path(), clock()).unwrap();
    let troubles = journal.troubles().await.unwrap();
    assert!(troubles.len() == 1 && troubles[0].contains("the log is empty"), "{troubles:?}");
    assert_eq!(["000001", "000002", "000003"].map(|random| folder(random).exists()), [false, false, true]);
}

#[tokio::test]
async fn an_incident_that_cannot_be_written_is_listed_until_it_is() {
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::start(root.path(), clock()).unwrap();
    live(&journal, ID, 1).await;
    let stuck = |id: &str| Incident { state: IncidentState::Escalated, reason: Some("full".into()), ..incident(id) };
    let other = "20251122T030405.001Z-0a1b2c";
    for id in [ID, other] {
        journal.show(stuck(id)).await;
    }
    let listed = async |state: &str| {
        let filter = Filter { target: Some("app".into()), state: Some(state.into()), limit: 9 };
        journal.incidents(filter).await.unwrap().into_iter().map(|incident| incident.id.0).collect::<Vec<_>>()
    };
    assert_eq!(listed("escalated").await, [other, ID]);
    assert!(listed("open").await.is_empty());
    assert_eq!(journal.incident(&IncidentId(other.into())).await.unwrap(), Some(stuck(other)));
    // The log of one takes an entry again; of the other there was nothing to write.
    journal.append(&IncidentId(ID.into()), Entry::Deferred { reason: "pause".into() }).await.unwrap();
    journal.hide(&IncidentId(other.into())).await;
    assert!(listed("escalated").await.is_empty());
    assert_eq!(listed("open").await, [ID]);
}
