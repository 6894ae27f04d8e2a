//! A rollback dies in any gap, meets other programs, and is carried out or taken back as one.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// Of the incident whose heal is taken back, and of the one that does it.
const HEALED: &str = "20261122T030405.123Z-0a1b2c";
const ROLLBACK: &str = "20261122T040506.123Z-1b2c3d";

const ROLLBACK_GAPS: [Gap; 8] = [
    Gap::Recorded,
    Gap::OneSideAside,
    Gap::SidesAside,
    Gap::SidesDurable,
    Gap::Renamed,
    Gap::RenamedDurable,
    Gap::UndoMainBack,
    Gap::Cleaned,
];

type Files = Vec<(String, Vec<u8>)>;

/// 180 rows, 30 of them in the WAL, were replaced by the backup's 100; then a program committed 30 and was killed. What was
/// there before the heal, and what is there now.
fn healed() -> (Scene, Files, Files) {
    let scene = Scene::with_wal();
    let before = content(&scene.folder());
    scene.preserve_and_build();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    let aside = scene.dir.path().join("later.db");
    std::fs::copy(scene.path(), &aside).unwrap();
    let db = open(&aside, Access::Repair);
    insert(&db, 30);
    for suffix in ["-wal", "-shm"] {
        std::fs::copy(side(&aside, suffix), side(&scene.path(), suffix)).unwrap();
        private(&side(&scene.path(), suffix));
    }
    drop(db);
    let now = content(&scene.folder());
    assert_eq!(now.len(), 2);
    (scene, before, now)
}

fn weighed(scene: &Scene) -> crate::job::Weighed {
    weigh(&crate::job::WeighRollback {
        site: scene.site(),
        incident: HEALED.into(),
        evidence: scene.evidence(),
        generation: None,
        healed: vec![TableRows { table: "t".into(), rows: 100 }],
        members: Vec::new(),
    })
    .unwrap()
}

fn step(scene: &Scene, accept_loss: bool) -> DatabaseStep {
    let weighed = weighed(scene);
    DatabaseStep::RollBack {
        of: HEALED.into(),
        evidence: scene.evidence(),
        generation: weighed.source.generation,
        present: weighed.present,
        accept_loss,
    }
}

fn later(scene: &Scene) -> PathBuf {
    scene.dir.path().join("evidence-of-the-rollback")
}

fn run_later(scene: &Scene, step: &DatabaseStep, phase: Phase) -> Result<StepReport, JobFailure> {
    run(&StepJob {
        site: scene.site(),
        incident: ROLLBACK.into(),
        evidence: later(scene),
        phase,
        step: step.clone(),
        last: None,
        basis: None,
        wal_verified: None,
    })
}

fn dies_at(scene: &Scene, gap: Gap, step: &DatabaseStep) {
    DIE_AT.set(Some(gap));
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_later(scene, step, Phase::Apply)));
    DIE_AT.set(None);
    assert_eq!(died.unwrap_err().downcast_ref::<&str>(), Some(&"killed"), "{gap:?} was not reached");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn main_and_wal_come_back_with_their_rows_and_what_was_there_is_kept() {
    let (scene, before, now) = healed();
    let since = weighed(&scene).since;
    assert_eq!((since.commits, since.exact), (1, true), "{since:?}");
    assert_eq!((since.rows[0].then, since.rows[0].now), (100, 130));
    let step = step(&scene, true);
    run_later(&scene, &DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = run_later(&scene, &step, Phase::Apply).unwrap();
    assert_eq!(report.progress, Progress::Done, "{}", report.detail);
    assert_eq!(content(&scene.folder()), before);
    assert_eq!(scene.names(), ["app.db", "app.db-wal"]);
    assert_eq!(mode(&scene.path()), 0o600);
    assert_eq!(std::fs::read(later(&scene).join("main")).unwrap(), now[0].1);
    assert_eq!(std::fs::read(later(&scene).join("wal")).unwrap(), now[1].1);
    assert!(weighed(&scene).already);
    assert_eq!(rows(&scene.path()), 180);
}

#[test]
fn a_death_in_any_gap_of_a_rollback_is_finished_by_the_next_start() {
    for gap in ROLLBACK_GAPS {
        let (scene, before, _) = healed();
        let step = step(&scene, true);
        run_later(&scene, &DatabaseStep::Preserve, Phase::Apply).unwrap();
        dies_at(&scene, gap, &step);
        // Who is not root cannot read it then, and that is the point of it.
        let main_is_back = std::fs::read(scene.path()).is_ok_and(|main| main == before[0].1);
        if main_is_back && content(&scene.folder()).len() < 2 {
            assert_eq!(mode(&scene.path()), 0, "{gap:?}: a program could open it without its WAL");
        }
        let report = run_later(&scene, &step, Phase::Resume).unwrap();
        assert_eq!(report.progress, Progress::Done, "{gap:?}: {}", report.detail);
        assert_eq!(content(&scene.folder()), before, "{gap:?}");
        assert_eq!(scene.names(), ["app.db", "app.db-wal"], "{gap:?}");
        assert_eq!(mode(&scene.path()), 0o600, "{gap:?}");
        let again = run_later(&scene, &step, Phase::Resume).unwrap();
        assert_eq!(again.progress, Progress::Done, "{gap:?}");
        assert_eq!(content(&scene.folder()), before, "{gap:?}");
        assert_eq!(rows(&scene.path()), 180, "{gap:?}");
    }
}

#[test]
fn what_somebody_did_after_the_crash_is_never_overwritten() {
    // Written to the file that was there; another file in its place; in use.
    let (scene, _, now) = healed();
    let step = step(&scene, true);
    run_later(&scene, &DatabaseStep::Preserve, Phase::Apply).unwrap();
    dies_at(&scene, Gap::Recorded, &step);
    let held = std::fs::File::open(scene.path()).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("600").stdin(held).spawn().unwrap();
    let report = run_later(&scene, &step, Phase::Resume);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(report.unwrap().progress, Progress::Undone);
    assert_eq!(content(&scene.folder()), now);

    dies_at(&scene, Gap::SidesDurable, &step);
    let other = scene.dir.path().join("other");
    std::fs::write(&other, b"somebody's").unwrap();
    std::fs::rename(&other, scene.path()).unwrap();
    let failure = run_later(&scene, &step, Phase::Resume).unwrap_err();
    assert!(failure.message.contains("somebody"), "{}", failure.message);
    assert_eq!(std::fs::read(scene.path()).unwrap(), b"somebody's");
}

#[test]
fn commits_that_nobody_was_told_of_are_not_taken() {
    let (scene, _, _) = healed();
    let step = step(&scene, false);
    // One more, after it was weighed.
    insert(&open(&scene.path(), Access::Repair), 1);
    run_later(&scene, &DatabaseStep::Preserve, Phase::Apply).unwrap();
    let now = content(&scene.folder());
    let failure = run_later(&scene, &step, Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused, "{}", failure.message);
    assert_eq!(content(&scene.folder()), now);
    assert!(scene.names().iter().all(|name| !name.contains("guardiand")), "{:?}", scene.names());
}

#[test]
fn nothing_comes_back_over_what_was_not_preserved() {
    let (scene, _, now) = healed();
    let step = step(&scene, true);
    let failure = run_later(&scene, &step, Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Outdated, "{}", failure.message);
    assert_eq!(content(&scene.folder()), now);
    assert!(scene.names().iter().all(|name| !name.contains("guardiand")), "{:?}", scene.names());
}

#[test]
fn a_rollback_journal_comes_back_hot_beside_its_main_file() {
    let scene = with_hot_journal();
    let before = content(&scene.folder());
    scene.preserve_and_build();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    let step = step(&scene, false);
    run_later(&scene, &DatabaseStep::Preserve, Phase::Apply).unwrap();
    dies_at(&scene, Gap::RenamedDurable, &step);
    assert_eq!(mode(&scene.path()), 0, "a program could open it without its journal");
    run_later(&scene, &step, Phase::Resume).unwrap();
    assert_eq!(content(&scene.folder()), before);
    assert_eq!(mode(&scene.path()), 0o600);
}

#[test]
fn a_copy_that_takes_longer_than_writers_may_be_kept_out_is_made_without_locks() {
    let scene = Scene::new("delete");
    let before = content(&scene.folder());
    let site = DatabaseSite { block_max_ms: 0, ..scene.site() };
    let job = StepJob {
        site,
        incident: ROLLBACK.into(),
        evidence: later(&scene),
        phase: Phase::Apply,
        step: DatabaseStep::Preserve,
        last: None,
        basis: None,
        wal_verified: None,
    };
    assert_eq!(run(&job).unwrap().progress, Progress::Done);
    assert_eq!(std::fs::read(later(&scene).join("main")).unwrap(), before[0].1);
    let paper = std::fs::read_to_string(later(&scene).join("manifest.json")).unwrap();
    assert!(paper.contains("\"remarks\": []"), "nobody wrote: {paper}");
}
