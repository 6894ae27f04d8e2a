//! A privileged guardian is not fooled: who owns a database's folder can plant links, further names and files in it, and swap them
//! while it is looked at. Nothing outside is read into a place that others can read, written, given away or moved.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, open, renameat_with};

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, beside, is_root, ownership};

/// The user who owns the database and its folder.
const USER: u32 = 65_534;

/// What nobody but root may read, and what must never turn up elsewhere.
const SECRET: &str = "root:$6$the-secret-that-nobody-shall-read";

fn give(path: &Path, mode: u32) {
    lchown(path, Some(USER), Some(USER)).unwrap();
    if !path.is_symlink() {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

/// A user's database in a user's folder, and secrets of root's beside it.
struct House {
    scene: Scene,
}

impl House {
    /// `None`, and said, without root.
    fn of(mode: &str, lines: &str) -> Option<House> {
        if !is_root() {
            println!("skipped: needs root");
            return None;
        }
        let scene = Scene::of(&format!("{lines}\nuser = \"nobody\"\nbackup = {{ every = \"24h\", to = \"backups\" }}"));
        fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
        give(&scene.path("data"), 0o750);
        scene.commit(mode, 20, &[]);
        give(&scene.db(), 0o640);
        fs::create_dir(scene.path("roots")).unwrap();
        fs::set_permissions(scene.path("roots"), Permissions::from_mode(0o700)).unwrap();
        fs::write(scene.path("roots/shadow"), SECRET).unwrap();
        fs::set_permissions(scene.path("roots/shadow"), Permissions::from_mode(0o600)).unwrap();
        let db = Connection::open(scene.path("roots/root.db")).unwrap();
        db.execute_batch(&format!("CREATE TABLE secrets(a); INSERT INTO secrets VALUES ('{SECRET}')")).unwrap();
        db.close().unwrap();
        fs::set_permissions(scene.path("roots/root.db"), Permissions::from_mode(0o600)).unwrap();
        Some(House { scene })
    }

    /// A daemon that has saved the database and saw it healthy.
    fn guarded(&self) -> Daemon {
        let mut daemon = self.scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        daemon
    }

    fn roots(&self) -> Vec<(PathBuf, Bytes, (u32, u32, u32))> {
        let mut all: Vec<_> = fs::read_dir(self.scene.path("roots"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), Bytes(fs::read(&path).unwrap()), ownership(&path)))
            .collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Nothing of root's changed hands or content, and no one else's file has a word of it.
    fn assert_closed(&self, before: &[(PathBuf, Bytes, (u32, u32, u32))], what: &str) {
        assert_eq!(self.roots(), before, "{what}");
        let mut folders = vec![self.scene.path("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // What is swapped meanwhile may be gone, and is another a moment later: whose it is and what it says must be of one file.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let Ok(mut file) = open(&path, flags, Mode::empty()).map(File::from) else { continue };
                let facts = file.metadata().unwrap();
                if facts.is_dir() {
                    folders.push(path);
                } else if facts.is_file() {
                    let others = facts.permissions().mode() & 0o077 != 0 || facts.uid() != 0;
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).unwrap();
                    let leaks = others && contains(&bytes, SECRET.as_bytes());
                    assert!(!leaks, "{what}: others can read root's secret in {}", path.display());
                }
            }
        }
    }

    /// Asks for a check, a heal and a backup, as an operator would; none may panic or hang.
    fn ask_for_everything(&self) {
        for words in [&["check", "app"][..], &["heal", "app"], &["backup", "app"]] {
            let ran = guardiand(&self.scene.path(""), &[words, &["--json", "--config", "guardian.toml"]].concat());
            assert!([0, 1, 3].contains(&ran.status), "{words:?}: {ran:#?}");
        }
    }

    fn unknown(&self, daemon: &mut Daemon, why: &str) {
        daemon.wait_for(&format!("it to be unknown, for: {why}"), |daemon| {
            let check = daemon.target("app")?["last_check"].clone();
            (check["verdict"] == "unknown" && check["reason"].as_str()?.contains(why)).then_some(())
        });
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn a_link_planted_as_the_database_leads_nowhere() {
    for target in ["roots/shadow", "roots/root.db", "roots/none"] {
        let Some(house) = House::of("wal", "") else { return };
        let mut daemon = house.guarded();
        let before = house.roots();
        fs::remove_file(house.scene.db()).unwrap();
        symlink(house.scene.path(target), house.scene.db()).unwrap();
        give(&house.scene.db(), 0);
        daemon.caught_up_with_looks("app");
        house.ask_for_everything();
        house.assert_closed(&before, target);
        drop(daemon);
        // And in one that no guardian has seen yet.
        fs::remove_dir_all(house.scene.path("state")).unwrap();
        house.ask_for_everything();
        house.assert_closed(&before, target);
    }
}

#[test]
fn a_link_planted_in_the_place_of_its_folder_leads_nowhere() {
    let Some(house) = House::of("wal", "schema = \"schema.sql\"") else { return };
    fs::write(house.scene.path("schema.sql"), "CREATE TABLE planted(a);").unwrap();
    // The folder that the user owns is above the database's own.
    let scene = &house.scene;
    fs::create_dir(scene.path("home")).unwrap();
    fs::rename(scene.path("data"), scene.path("home/data")).unwrap();
    give(&scene.path("home"), 0o755);
    symlink("home/data", scene.path("data")).unwrap();
    // That link is root's own, and as good as a folder.
    let mut daemon = house.guarded();
    let before = house.roots();
    fs::rename(scene.path("home/data"), scene.path("home/away")).unwrap();
    for target in ["roots", "."] {
        symlink(scene.path(target), scene.path("home/data")).unwrap();
        give(&scene.path("home/data"), 0);
        house.unknown(&mut daemon, "planted");
        daemon.caught_up_with_looks("app");
        house.ask_for_everything();
        house.assert_closed(&before, target);
        assert!(!scene.path("app.db").exists(), "restored through the link");
        fs::remove_file(scene.path("home/data")).unwrap();
    }
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    fs::rename(scene.path("home/away"), scene.path("home/data")).unwrap();
    daemon.healthy("app");
}

#[test]
fn links_planted_as_side_files_lead_nowhere() {
    for suffix in ["-wal", "-shm", "-journal"] {
        for mode in ["wal", "delete"] {
            let Some(house) = House::of(mode, "wal_max = \"1KB\"") else { return };
            let mut daemon = house.guarded();
            let before = house.roots();
            let side = beside(&house.scene.db(), suffix);
            let _ = fs::remove_file(&side);
            symlink(house.scene.path("roots/shadow"), &side).unwrap();
            give(&side, 0);
            damage::header(&house.scene.db(), &mut Dice::new());
            daemon.caught_up_with_looks("app");
            house.ask_for_everything();
            house.assert_closed(&before, &format!("{suffix} in {mode} mode"));
        }
    }
}

#[test]
fn a_further_name_of_a_file_of_roots_is_not_the_users_database() {
    for target in ["roots/shadow", "roots/root.db"] {
        let Some(house) = House::of("wal", "") else { return };
        let mut daemon = house.guarded();
        let before = house.roots();
        fs::remove_file(house.scene.db()).unwrap();
        fs::hard_link(house.scene.path(target), house.scene.db()).unwrap();
        house.unknown(&mut daemon, "hard link");
        daemon.caught_up_with_looks("app");
        house.ask_for_everything();
        // Its owner was not "put back": that would have given root's file to the user.
        house.assert_closed(&before, target);
        // It is kept out of the backups too, however closed these are.
        for backup in fs::read_dir(house.scene.path("backups/app")).unwrap() {
            let bytes = fs::read(backup.unwrap().path()).unwrap();
            assert!(!contains(&bytes, SECRET.as_bytes()), "{target}: root's file was backed up");
        }
    }
}

#[test]
fn further_names_of_files_of_roots_are_not_the_users_side_files() {
    for suffix in ["-wal", "-shm", "-journal"] {
        for mode in ["wal", "delete"] {
            let Some(house) = House::of(mode, "wal_max = \"1KB\"") else { return };
            let mut daemon = house.guarded();
            let before = house.roots();
            let side = beside(&house.scene.db(), suffix);
            let _ = fs::remove_file(&side);
            fs::hard_link(house.scene.path("roots/shadow"), &side).unwrap();
            daemon.caught_up_with_looks("app");
            house.ask_for_everything();
            house.assert_closed(&before, &format!("{suffix} in {mode} mode"));
            // A heal that is due does not act on it either.
            damage::header(&house.scene.db(), &mut Dice::new());
            daemon.caught_up_with_looks("app");
            house.ask_for_everything();
            house.assert_closed(&before, &format!("{suffix} in {mode} mode, beside a damaged database"));
        }
    }
}

/// Whatever of root's is planted, no byte of it is kept anywhere, however closed the place is.
fn assert_unread(house: &House, words: &[u8], what: &str) {
    let mut folders = vec![house.scene.path("state"), house.scene.path("backups")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    let leaks = contains(&fs::read(entry.path()).unwrap_or_default(), words);
                    assert!(!leaks, "{what}: root's file was read into {}", entry.path().display());
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_further_name_planted_as_a_journal_is_not_read_and_nothing_is_replaced_for_it() {
    for hot in [false, true] {
        let Some(house) = House::of("delete", "") else { return };
        let secret = house.scene.path("roots/shadow");
        if hot {
            // A journal that SQLite would roll back: of a transaction on a copy that is under way.
            let copy = house.scene.path("roots/copy.db");
            fs::copy(house.scene.db(), &copy).unwrap();
            let db = Connection::open(&copy).unwrap();
            db.execute_batch("PRAGMA synchronous = OFF; BEGIN; DELETE FROM rows; DELETE FROM commits").unwrap();
            fs::copy(beside(&copy, "-journal"), &secret).unwrap();
            drop(db);
        }
        let words = fs::read(&secret).unwrap();
        let words = &words[..words.len().min(512)];
        assert!(words.iter().any(|byte| *byte != 0), "there is nothing to be read");
        let mut daemon = house.guarded();
        let (before, content) = (house.roots(), fs::read(house.scene.db()).unwrap());
        let (inode, journal) = (fs::metadata(house.scene.db()).unwrap().ino(), beside(&house.scene.db(), "-journal"));
        fs::hard_link(&secret, &journal).unwrap();
        let what = format!("as a journal, hot: {hot}");
        let incident = daemon.escalated("app", 1);
        assert!(incident["reason"].as_str().unwrap().contains("may have planted"), "{what}: {incident:#}");
        daemon.caught_up_with_looks("app");
        house.ask_for_everything();
        // A heal that is due does not act on it either, and says what is in its way.
        damage::header(&house.scene.db(), &mut Dice::new());
        let hurt = fs::read(house.scene.db()).unwrap();
        let incident = daemon.escalated("app", 1);
        let reason = incident["reason"].as_str().unwrap();
        assert!(reason.contains("-journal") && reason.contains("hard links"), "{what}: {incident:#}");
        house.ask_for_everything();
        daemon.caught_up_with_looks("app");
        assert_ne!(content, hurt);
        assert_eq!(fs::read(house.scene.db()).unwrap(), hurt, "{what}");
        assert_eq!(fs::metadata(house.scene.db()).unwrap().ino(), inode, "{what}: it was replaced");
        assert_eq!(fs::metadata(&journal).unwrap().ino(), fs::metadata(&secret).unwrap().ino(), "{what}: it was moved");
        house.assert_closed(&before, &what);
        assert_unread(&house, words, &what);
        // Once it is moved away the database is healed.
        fs::remove_file(&journal).unwrap();
        guardiand(&house.scene.path(""), &["heal", "app", "--json", "--config", "guardian.toml"]).json_of(0);
        assert_eq!(house.scene.lost(), 0);
    }
}

#[test]
fn a_backup_beside_a_side_file_with_a_planted_name_is_refused_unread_and_says_why() {
    for (mode, suffix) in [("wal", "-wal"), ("wal", "-shm"), ("delete", "-journal"), ("delete", "-wal")] {
        let Some(house) = House::of(mode, "") else { return };
        let before = house.roots();
        let side = beside(&house.scene.db(), suffix);
        let _ = fs::remove_file(&side);
        fs::hard_link(house.scene.path("roots/shadow"), &side).unwrap();
        house.scene.write_config();
        let ran = guardiand(&house.scene.path(""), &["backup", "app", "--json", "--config", "guardian.toml"]);
        let what = format!("{suffix} in {mode} mode");
        assert_eq!(ran.status, 1, "{what}: {ran:#?}");
        let said = format!("{ran:?}");
        assert!(said.contains(&format!("app.db{suffix}")) && said.contains("hard links"), "{what}: {said}");
        assert!(!said.contains("damaged"), "{what}: {said}");
        house.assert_closed(&before, &what);
        assert_unread(&house, SECRET.as_bytes(), &what);
    }
}

#[test]
fn a_file_that_root_left_in_the_folder_is_not_given_away_under_the_databases_name() {
    let Some(house) = House::of("delete", "") else { return };
    let mut daemon = house.guarded();
    let report = house.scene.path("data/report");
    fs::write(&report, SECRET).unwrap();
    fs::set_permissions(&report, Permissions::from_mode(0o600)).unwrap();
    // Who owns the folder may rename what is in it.
    fs::rename(&report, house.scene.db()).unwrap();
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_access_denied", "{incident:#}");
    assert!(incident["reason"].as_str().unwrap().contains("another file"), "{incident:#}");
    house.ask_for_everything();
    assert_eq!(ownership(&house.scene.db()), (0, 0, 0o600), "root's file was given to the user");
    assert_eq!(fs::read_to_string(house.scene.db()).unwrap(), SECRET);
}

#[test]
fn links_planted_in_the_place_of_backups_lead_nowhere() {
    let Some(house) = House::of("wal", "") else { return };
    let scene = &house.scene;
    let before = house.roots();
    // The backups' folder lies in one that the user owns: it is named through a link to root's, or is one.
    fs::create_dir(scene.path("backups")).unwrap();
    give(&scene.path("backups"), 0o755);
    symlink(scene.path("roots"), scene.path("backups/app")).unwrap();
    give(&scene.path("backups/app"), 0);
    let mut daemon = scene.daemon();
    daemon.caught_up_with_looks("app");
    let ran = guardiand(&scene.path(""), &["backup", "app", "--json", "--config", "guardian.toml"]);
    assert_ne!(ran.status, 0, "{ran:#?}");
    house.assert_closed(&before, "backups/app is a link");
    drop(daemon);
    fs::remove_file(scene.path("backups/app")).unwrap();
    fs::remove_dir(scene.path("backups")).unwrap();
    fs::create_dir(scene.path("home")).unwrap();
    give(&scene.path("home"), 0o755);
    symlink(scene.path("roots"), scene.path("home/backups")).unwrap();
    give(&scene.path("home/backups"), 0);
    let config = fs::read_to_string(scene.write_config()).unwrap().replace("to = \"backups\"", "to = \"home/backups\"");
    fs::write(scene.path("guardian.toml"), config).unwrap();
    let ran = guardiand(&scene.path(""), &["backup", "app", "--json", "--config", "guardian.toml"]);
    assert_ne!(ran.status, 0, "{ran:#?}");
    house.assert_closed(&before, "a folder was made behind a planted link");
}

#[test]
fn what_guardiand_keeps_is_closed_to_others() {
    let Some(house) = House::of("wal", "") else { return };
    let mut daemon = house.guarded();
    damage::header(&house.scene.db(), &mut Dice::new());
    daemon.closed("app", 1);
    assert!(daemon.stop().success());
    let mut folders = vec![house.scene.path("state"), house.scene.path("backups")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(ownership(&folder), (0, 0, 0o700), "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            match entry.metadata().unwrap() {
                facts if facts.is_dir() => folders.push(entry.path()),
                facts if facts.is_file() => {
                    files += 1;
                    let mode = facts.permissions().mode() & 0o7777;
                    assert!(mode & 0o077 == 0, "{} has mode {mode:o}", entry.path().display());
                }
                // The control socket, whose mode decides who may act.
                _ => {}
            }
        }
    }
    assert!(files > 5, "only {files} files were looked at");
}

#[test]
fn names_of_ours_that_were_taken_beforehand_are_a_trap_for_nobody() {
    let Some(house) = House::of("wal", "") else { return };
    let mut daemon = house.guarded();
    let before = house.roots();
    let (data, roots, stop) = (house.scene.path("data"), house.scene.path("roots"), Arc::new(AtomicBool::new(false)));
    // As soon as a name of ours turns up, all that may follow are taken: by links, by further names, by folders.
    let trap = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut sprung = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(entries) = fs::read_dir(&data) else { continue };
                let names: Vec<String> =
                    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
                let Some(ours) = names.iter().find(|name| name.starts_with(".guardiand-")) else { continue };
                let stem = ours.rsplit_once('.').map_or(ours.as_str(), |(stem, _)| stem).to_owned();
                for (at, what) in
                    ["part", "new", "old-main", "old-wal", "d", "part-wal", "undo-main"].iter().enumerate()
                {
                    let name = data.join(format!("{stem}.{what}"));
                    let taken = match at % 3 {
                        0 => symlink(roots.join("shadow"), &name).is_ok(),
                        1 => fs::hard_link(roots.join("root.db"), &name).is_ok(),
                        _ => {
                            // In the place of a file that is being worked on.
                            let planted = data.join("planted");
                            fs::hard_link(roots.join("root.db"), &planted).is_ok()
                                && renameat_with(CWD, &planted, CWD, &name, RenameFlags::EXCHANGE).is_ok()
                                    | fs::rename(&planted, &name).is_ok()
                        }
                    };
                    sprung += u64::from(taken);
                }
            }
            sprung
        }
    });
    for _ in 0..5 {
        damage::header(&house.scene.db(), &mut Dice::new());
        house.ask_for_everything();
        daemon.caught_up_with_looks("app");
        house.assert_closed(&before, "names of ours were taken");
    }
    stop.store(true, Ordering::Relaxed);
    println!("{} names were taken", trap.join().unwrap());
    house.assert_closed(&before, "names of ours were taken");
    // The trap is gone, and the database can be healed after all.
    for name in house.scene.names().iter().filter(|name| name.starts_with(".guardiand-") || *name == "planted") {
        let path = house.scene.path("data").join(name);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    guardiand(&house.scene.path(""), &["heal", "app", "--json", "--config", "guardian.toml"]).json_of(0);
    assert_eq!(house.scene.lost(), 0);
}

/// Swaps the two names as fast as the kernel can, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn between(one: PathBuf, other: PathBuf) -> Swapper {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, swaps) = (Arc::clone(&stop), Arc::clone(&swaps));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                    // Each of the two is to be met, also on a machine of one processor.
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        Swapper { stop, swaps, thread: Some(thread) }
    }

    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is swapped with what, all of it in the user's hands: the name in `data`, and what stands there every other moment.
fn race(name: &str, plant: impl Fn(&House, &Path)) {
    let Some(house) = House::of("wal", "canary = \"SELECT count(*) FROM rows\"\nwal_max = \"1KB\"") else { return };
    let mut daemon = house.guarded();
    let path = match name {
        "data" => house.scene.path("data"),
        name => house.scene.path("data").join(name),
    };
    // A folder of the user's, from where it is swapped in.
    fs::create_dir(house.scene.path("home")).unwrap();
    give(&house.scene.path("home"), 0o755);
    let planted = house.scene.path("home/planted");
    plant(&house, &planted);
    let before = house.roots();
    if !path.exists() {
        fs::write(&path, b"").unwrap();
        give(&path, 0o640);
    }
    let mut swapper = Swapper::between(path, planted);
    for round in 0..4 {
        house.ask_for_everything();
        daemon.caught_up_with_looks("app");
        house.assert_closed(&before, &format!("{name}, round {round}"));
    }
    let swaps = swapper.end();
    println!("{name}: {swaps} swaps");
    assert!(swaps > 1000, "only {swaps} swaps: nothing was raced");
    daemon.caught_up_with_looks("app");
    house.assert_closed(&before, name);
    assert!(daemon.ended().is_none());
    assert_eq!(daemon.metric("guardian_worker_restarts_total{reason=\"crash\"}"), 0.0);
}

#[test]
fn a_database_that_is_swapped_for_a_link_while_it_is_looked_at_leads_nowhere() {
    race("app.db", |house, planted| {
        symlink(house.scene.path("roots/root.db"), planted).unwrap();
        give(planted, 0);
    });
}

#[test]
fn a_database_that_is_swapped_for_a_further_name_while_it_is_looked_at_leads_nowhere() {
    race("app.db", |house, planted| fs::hard_link(house.scene.path("roots/root.db"), planted).unwrap());
}

#[test]
fn a_wal_that_is_swapped_for_a_further_name_while_it_is_looked_at_leads_nowhere() {
    race("app.db-wal", |house, planted| fs::hard_link(house.scene.path("roots/shadow"), planted).unwrap());
}

#[test]
fn a_folder_that_is_swapped_for_a_link_while_it_is_looked_at_leads_nowhere() {
    race("data", |house, planted| {
        // What the link leads to has a database of the same name.
        fs::rename(house.scene.path("roots/root.db"), house.scene.path("roots/app.db")).unwrap();
        symlink(house.scene.path("roots"), planted).unwrap();
        give(planted, 0);
    });
}
