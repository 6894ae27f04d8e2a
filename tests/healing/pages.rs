//! Single pages put back out of a backup: only where nothing was committed since, and then nothing is lost.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::Bytes;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

fn backed_up(scene: &Scene) -> Daemon {
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    daemon
}

fn saved(mode: &str, lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    scene.give_away_if_root();
    let daemon = backed_up(&scene);
    (scene, daemon)
}

/// Healed by putting pages back, and nothing is lost: not by what is said, and not in truth.
fn is_put_back(scene: &Scene, incident: &Value, hurt: &Bytes) {
    assert_eq!((&incident["outcome"], &incident["playbook"]), (&"healed".into(), &"mend_pages".into()), "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(incident, &scene.db());
    scene.assert_evidence(incident, &[("main", Some(hurt))]);
}

#[test]
fn pages_that_were_overwritten_come_back_where_nothing_was_committed_since() {
    for flags in [&[][..], &["--page-size", "1024"]] {
        let scene = Scene::of(BACKUP);
        scene.commit("delete", 200, &[flags, &["--rows-per-commit", "5"]].concat());
        scene.give_away_if_root();
        let daemon = backed_up(&scene);
        // While nobody looks, so that all of it is found at once.
        assert!(daemon.stop().success());
        let whole = fs::read(scene.db()).unwrap();
        let size = damage::page_size(&whole);
        let is_leaf = |page: &usize| [10, 13].contains(&whole[page * size]);
        let leaves: Vec<usize> = (1..whole.len() / size).filter(is_leaf).collect();
        let mut dice = Dice::new();
        for page in [leaves[0], leaves[leaves.len() / 2], leaves[leaves.len() - 2]] {
            damage::overwrite(&scene.db(), page * size, &dice.bytes(size));
        }
        // A bit in what is a text, as like as not: no check sees that.
        let at = leaves[leaves.len() - 1] * size + size - 1;
        let hurt = damage::overwrite(&scene.db(), at, &[whole[at] ^ 1]);

        let mut daemon = scene.daemon();
        let incident = daemon.closed("app", 1);
        is_put_back(&scene, &incident, &hurt);
        assert!(fs::read(scene.db()).unwrap() == whole, "it is what it was, byte for byte");
        scene.assert_whole("delete");
    }
}

#[test]
fn a_cut_end_comes_back_where_nothing_was_committed_since() {
    let (scene, mut daemon) = saved("delete", BACKUP);
    let whole = fs::read(scene.db()).unwrap();
    let hurt = damage::truncate(&scene.db(), 0.6);

    let incident = daemon.closed("app", 1);
    is_put_back(&scene, &incident, &hurt);
    assert!(fs::read(scene.db()).unwrap() == whole, "it is what it was, byte for byte");
    scene.assert_whole("delete");
}

/// A commit that the backup has not is never reverted, whichever page it wrote.
#[test]
fn pages_are_not_put_back_over_a_commit() {
    for mode in ["delete", "wal"] {
        let (scene, mut daemon) = saved(mode, BACKUP);
        scene.commit(mode, 1, &[]);
        daemon.caught_up("app");
        damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_ne!(incident["playbook"], "mend_pages", "{incident:#}");
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

/// In WAL mode nothing in the main file tells of a commit. Its program was killed with 80 commits in the WAL alone: that ends where it
/// did.
#[test]
fn a_page_below_a_wal_that_ends_where_it_did_comes_back() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 100, &["--rows-per-commit", "5"]);
    scene.writer("wal", "80", &["--no-checkpoint", "--die"]).ended();
    scene.give_away_if_root();
    let mut daemon = backed_up(&scene);
    let hurt = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    is_put_back(&scene, &incident, &hurt);
    scene.assert_whole("wal");
}

/// Bits that turn on the disk leave the file's time stamp as it is, in either mode: only a check of the content finds them.
#[test]
fn bits_that_turned_come_back() {
    for mode in ["delete", "wal"] {
        let scene = Scene::of(&format!("{BACKUP}\nintegrity = {{ quick = \"300ms\", full = \"300ms\" }}"));
        scene.commit(mode, 200, &["--rows-per-commit", "5"]);
        scene.give_away_if_root();
        let set_back =
            |to: SystemTime| File::options().append(true).open(scene.db()).unwrap().set_modified(to).unwrap();
        let written_at = SystemTime::now() - Duration::from_secs(60);
        set_back(written_at);
        let daemon = backed_up(&scene);
        // A look between the two would see a file that was written.
        assert!(daemon.stop().success());
        let whole = fs::read(scene.db()).unwrap();
        let hurt = damage::leaf(&scene.db(), "rows", &mut Dice::new());
        set_back(written_at);

        let mut daemon = scene.daemon();
        let incident = daemon.closed("app", 1);
        is_put_back(&scene, &incident, &hurt);
        assert!(fs::read(scene.db()).unwrap() == whole, "it is what it was, byte for byte");
        scene.assert_whole(mode);
    }
}

/// The page that is hurt is as the backup has it; others are not, and the check that passed after they were written has mapped them all.
#[test]
fn a_page_that_was_not_written_since_the_backup_comes_back_and_later_commits_stay() {
    let scene = Scene::of(&format!("{BACKUP}\nintegrity = {{ quick = \"300ms\", full = \"24h\" }}"));
    scene.commit("delete", 200, &["--rows-per-commit", "5"]);
    scene.give_away_if_root();
    let mut daemon = backed_up(&scene);
    scene.commit("delete", 30, &[]);
    let whole = fs::read(scene.db()).unwrap();
    let counter = u32::from_be_bytes(whole[24..28].try_into().unwrap());
    let (map, said) = (scene.path("backups/app/last-sound.pages"), format!("\"change_counter\":{counter},"));
    daemon.wait_for("a map of the last commit", |_| {
        let map = fs::read(&map).ok()?;
        map.windows(said.len()).any(|window| window == said.as_bytes()).then_some(())
    });
    daemon.caught_up_with_looks("app");
    let hurt = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    is_put_back(&scene, &incident, &hurt);
    assert!(fs::read(scene.db()).unwrap() == whole, "it is what it was, byte for byte");
    scene.assert_whole("delete");
}
