//! Against the real inotify. The limits here only end a test that has failed; none depends on speed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> Watcher {
    Watcher::start(Duration::from_millis(5), Duration::from_secs(1)).unwrap()
}

async fn next(watcher: &mut Watcher) -> Wake {
    timeout(PATIENCE, watcher.next()).await.unwrap().unwrap()
}

/// Takes wakes until `path` is among them; what came before it.
async fn until(watcher: &mut Watcher, path: &Path) -> Vec<Wake> {
    let mut before = Vec::new();
    loop {
        match next(watcher).await {
            Wake::Path(woken) | Wake::Written(woken) if woken == path => return before,
            other => before.push(other),
        }
    }
}

async fn watching(folder: &Path) -> Watcher {
    let mut watcher = start();
    watcher.watch(folder, None);
    assert_eq!(next(&mut watcher).await, Wake::Path(folder.into()));
    watcher
}

#[tokio::test(flavor = "current_thread")]
async fn every_kind_of_change_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let [db, other] = ["a.db", "b.db"].map(|name| dir.path().join(name));
    let mut watcher = watching(dir.path()).await;
    let mut file = File::create(&db).unwrap();
    until(&mut watcher, &db).await;
    file.write_all(b"x").unwrap();
    until(&mut watcher, &db).await;
    drop(file);
    until(&mut watcher, &db).await;
    std::fs::set_permissions(&db, std::fs::Permissions::from_mode(0o000)).unwrap();
    until(&mut watcher, &db).await;
    std::fs::rename(&db, &other).unwrap();
    until(&mut watcher, &other).await;
    std::fs::remove_file(&other).unwrap();
    until(&mut watcher, &other).await;
    assert!(watcher.blind().is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn our_own_temporary_files_and_forgotten_folders_wake_nobody() {
    let [quiet, seen] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut watcher = watching(quiet.path()).await;
    watcher.watch(seen.path(), None);
    until(&mut watcher, seen.path()).await;
    watcher.forget(quiet.path());
    // Orders are obeyed in their turn: when the refresh is through, so is the forgetting.
    watcher.watch(&seen.path().join("sub"), None);
    until(&mut watcher, &seen.path().join("sub")).await;
    File::create(quiet.path().join("x")).unwrap();
    File::create(seen.path().join(".guardiand-1.tmp")).unwrap();
    File::create(seen.path().join("y")).unwrap();
    assert_eq!(until(&mut watcher, &seen.path().join("y")).await, []);
}

#[tokio::test(flavor = "current_thread")]
async fn ten_thousand_writes_wake_a_few_times_and_a_deletion_still_does() {
    let dir = tempfile::tempdir().unwrap();
    let [db, end] = ["a.db", "end"].map(|name| dir.path().join(name));
    let mut file = OpenOptions::new().create(true).append(true).open(&db).unwrap();
    let mut watcher = watching(dir.path()).await;
    let writer = std::thread::spawn({
        let (db, end) = (db.clone(), end.clone());
        move || {
            for _ in 0..10_000 {
                file.write_all(b"x").unwrap();
            }
            std::fs::remove_file(db).unwrap();
            File::create(end).unwrap();
        }
    });
    let wakes = until(&mut watcher, &end).await;
    writer.join().unwrap();
    assert!(wakes.iter().all(|wake| [Wake::Path(db.clone()), Wake::Written(db.clone())].contains(wake)), "{wakes:?}");
    assert!(!wakes.is_empty() && wakes.len() < 1000, "{}", wakes.len());
}

#[tokio::test(flavor = "current_thread")]
async fn lost_events_mean_everything() {
    let dir = tempfile::tempdir().unwrap();
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 100_000 {
        return println!("skipped: the queue holds {limit} events");
    }
    let mut watcher = watching(dir.path()).await;
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    // By turns, for the kernel merges what repeats. On one thread, nobody reads the queue meanwhile.
    let mut files = [File::create(&one).unwrap(), File::create(&two).unwrap()];
    for turn in 0..limit + 10 {
        files[turn % 2].write_all(b"x").unwrap();
    }
    while next(&mut watcher).await != Wake::Everything {}
    // And it goes on after that.
    std::fs::remove_file(&one).unwrap();
    until(&mut watcher, &one).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_folder_that_vanishes_is_reported_and_watched_again_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("srv/app");
    std::fs::create_dir_all(&folder).unwrap();
    let mut watcher = watching(&folder).await;
    for turn in 0..3 {
        std::fs::remove_dir_all(dir.path().join("srv")).unwrap();
        until(&mut watcher, &folder).await;
        std::fs::create_dir_all(&folder).unwrap();
        // The last report of the folder comes when its watch stands: what is touched after that is seen.
        // Under another name each time: the end of the last one may be reported late.
        let db = folder.join(format!("{turn}.db"));
        while ![Wake::Path(db.clone()), Wake::Written(db.clone())].contains(&next(&mut watcher).await) {
            File::create(&db).unwrap();
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_folder_that_was_moved_away_and_replaced_is_watched_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, aside] = ["app", "aside"].map(|name| dir.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    let mut watcher = watching(&folder).await;
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    // The last report of the folder comes when its new watch stands: what is touched after that is seen.
    let db = folder.join("a.db");
    while ![Wake::Path(db.clone()), Wake::Written(db.clone())].contains(&next(&mut watcher).await) {
        File::create(&db).unwrap();
    }
}

/// Commits with a rollback journal, as far as the kernel sees them, until it is dropped.
struct Committing(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Committing {
    fn to(db: &Path) -> Committing {
        let (end, journal) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), db.with_extension("db-journal"));
        let (ended, mut file) = (Arc::clone(&end), OpenOptions::new().create(true).append(true).open(db).unwrap());
        let thread = std::thread::spawn(move || {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let mut undo = File::create(&journal).unwrap();
                for _ in 0..4 {
                    undo.write_all(b"x").unwrap();
                    file.write_all(b"x").unwrap();
                }
                drop(undo);
                std::fs::remove_file(&journal).unwrap();
            }
        });
        Committing(end, Some(thread))
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

/// What the kernel watches a folder for, as it tells itself.
fn is_told_of_writes(folder: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let number = format!("ino:{:x} ", std::fs::metadata(folder).unwrap().ino());
    let all = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let told = all.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect::<String>();
    let line = told.lines().find(|line| line.starts_with("inotify") && line.contains(&number))?;
    let mask = line.split(" mask:").nth(1)?.split(' ').next()?;
    Some(u32::from_str_radix(mask, 16).unwrap() & 2 != 0)
}

async fn until_told_of_writes(watcher: &mut Watcher, folder: &Path, told: bool) {
    let seen = async {
        while is_told_of_writes(folder) != Some(told) {
            let _ = timeout(Duration::from_millis(1), watcher.next()).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_rests_while_its_one_target_is_written_and_what_happens_meanwhile_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    let mut watcher = watching(dir.path()).await;
    watcher.watch(dir.path(), Some(&db));
    let committing = Committing::to(&db);
    for _ in 0..2 {
        until_told_of_writes(&mut watcher, dir.path(), false).await;
        while next(&mut watcher).await != Wake::Written(db.clone()) {}
        until_told_of_writes(&mut watcher, dir.path(), true).await;
    }
    until_told_of_writes(&mut watcher, dir.path(), false).await;
    std::fs::remove_file(&db).unwrap();
    while next(&mut watcher).await != Wake::Path(db.clone()) {}
    until_told_of_writes(&mut watcher, dir.path(), false).await;
    drop(committing);
    let mut file = File::create(&db).unwrap();
    file.write_all(b"x").unwrap();
    until(&mut watcher, &db).await;
    until_told_of_writes(&mut watcher, dir.path(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_many_targets_never_rests() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    let mut watcher = watching(dir.path()).await;
    let committing = Committing::to(&db);
    for _ in 0..5 {
        while next(&mut watcher).await != Wake::Written(db.clone()) {}
        assert_eq!(is_told_of_writes(dir.path()), Some(true));
    }
    drop(committing);
}
