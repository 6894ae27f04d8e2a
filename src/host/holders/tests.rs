use std::fs::{File, OpenOptions};
use std::process::{Child, Command, Stdio};

use super::super::mounts::Mounts;
use super::*;

/// A process of our own that has `file` as its standard input.
struct Holding(Child);

impl Holding {
    fn start(file: File) -> Holding {
        Holding(Command::new("sleep").arg("1000").stdin(Stdio::from(file)).spawn().unwrap())
    }
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The program of these tests runs many of them at once, and a child that any of them starts has what all of them have open until
/// it is another program. No worker is like that: it has one thread, and knows its children.
pub(super) fn is_copy_of_us(pid: i32) -> bool {
    let like_us = |pid: i32| {
        let words = |of: &str| std::fs::read(format!("/proc/{of}/cmdline")).ok();
        words(&pid.to_string()).is_some_and(|theirs| Some(theirs) == words("self"))
    };
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    like_us(pid) && parent(pid).is_some_and(like_us)
}

fn sought(tag: &'static str, path: &Path) -> Sought<&'static str> {
    let facts = FileFacts::of_path(path, false).unwrap();
    let device = Mounts::read().unwrap().lock_device(&facts, path);
    Sought::File { tag, facts, device }
}

#[test]
fn every_holder_of_many_files_is_found_in_one_pass() {
    let dir = tempfile::tempdir().unwrap();
    let [main, wal, idle] = ["a", "a-wal", "idle"].map(|name| dir.path().join(name));
    for path in [&main, &wal, &idle] {
        std::fs::write(path, b"x").unwrap();
    }
    let reader = Holding::start(File::open(&main).unwrap());
    let writer = Holding::start(OpenOptions::new().append(true).open(&wal).unwrap());
    let files = [sought("main", &main), sought("wal", &wal), sought("idle", &idle)];
    let holders = find_holders(&files, &Scan { maps: true, but_children_of: None }).unwrap();

    let [main_holder] = holders.of(&"main").collect::<Vec<_>>()[..] else { panic!("{holders:?}") };
    assert_eq!((main_holder.pid, main_holder.comm.as_str(), main_holder.read_only), (reader.pid(), "sleep", true));
    assert_eq!((main_holder.fds.as_slice(), main_holder.deleted), (&[0][..], false));
    let [wal_holder] = holders.of(&"wal").collect::<Vec<_>>()[..] else { panic!("{holders:?}") };
    assert_eq!((wal_holder.pid, wal_holder.read_only), (writer.pid(), false));
    assert_eq!(holders.of(&"idle").count(), 0);

    let own = i32::try_from(std::process::id()).ok();
    let but_ours = Scan { but_children_of: own, ..Scan::default() };
    assert!(find_holders(&files, &but_ours).unwrap().found.is_empty());
}

#[test]
fn a_file_that_was_unlinked_is_found_by_inode_and_by_its_old_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("gone.db");
    std::fs::write(&path, b"the last copy").unwrap();
    let by_inode = sought("inode", &path);
    let holding = Holding::start(File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let by_name = Sought::UnlinkedFrom { tag: "name", path: path.clone(), like: None };
    let holders = find_holders(&[by_inode, by_name], &Scan::default()).unwrap();
    for tag in ["inode", "name"] {
        let [holder] = holders.of(&tag).collect::<Vec<_>>()[..] else { panic!("{tag}: {holders:?}") };
        assert!(holder.deleted && holder.pid == holding.pid());
        let bytes = std::fs::read(format!("/proc/{}/fd/{}", holder.pid, holder.fds[0])).unwrap();
        assert_eq!(bytes, b"the last copy");
    }
}

#[test]
fn a_file_that_was_known_is_found_under_another_name_and_none_that_was_made_since() {
    let dir = tempfile::tempdir().unwrap();
    let [path, moved] = ["app.db", "moved.db"].map(|name| dir.path().join(name));
    std::fs::write(&path, b"x").unwrap();
    let facts = FileFacts::of_path(&path, false).unwrap();
    let holding = Holding::start(File::open(&path).unwrap());
    std::fs::rename(&path, &moved).unwrap();
    let known = |changed_ns| Sought::Known { tag: "known", id: facts.id, changed_ns, rights: (0, 0, 0o600) };
    let holders = find_holders(&[known(facts.ctime_ns)], &Scan::default()).unwrap();
    let [holder] = &holders.found[..] else { panic!("{holders:?}") };
    assert!(holder.pid == holding.pid() && !holder.deleted, "{holder:?}");
    // Another file that got the number of one that was changed last before this one was made.
    let holders = find_holders(&[known(facts.ctime_ns - 1_000_000_000)], &Scan::default()).unwrap();
    assert!(holders.found.is_empty(), "{holders:?}");
}

#[test]
fn a_file_beside_one_that_is_sought_is_found_under_the_name_that_this_has_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let [path, other, beside, alone] =
        ["app.db", "other.db", "other.db-wal", "else.db-wal"].map(|name| folder.join(name));
    std::fs::write(&path, b"x").unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    for path in [&beside, &alone] {
        std::fs::write(path, b"commits").unwrap();
    }
    let start = |main: &Path, wal: &Path| {
        let [main, wal] = [main, wal].map(|path| Stdio::from(OpenOptions::new().append(true).open(path).unwrap()));
        Holding(Command::new("sleep").arg("1000").stdin(main).stdout(wal).spawn().unwrap())
    };
    let (program, stranger) = (start(&other, &beside), start(&other, &alone));
    let wal = Sought::UnlinkedBeside { tag: "wal", of: vec!["main"], suffix: "-wal" };
    let files = [sought("main", &path), wal];
    // A file that has its name still is not gone.
    assert_eq!(find_holders(&files, &Scan::default()).unwrap().of(&"wal").count(), 0);
    for path in [&other, &beside, &alone] {
        std::fs::remove_file(path).unwrap();
    }
    let holders = find_holders(&files, &Scan::default()).unwrap();
    let [holder] = holders.of(&"wal").collect::<Vec<_>>()[..] else { panic!("{holders:?}") };
    assert_eq!((holder.pid, holder.fds.as_slice(), holder.deleted), (program.pid(), &[1][..], true));
    assert!(holders.of(&"main").any(|holder| holder.pid == stranger.pid()), "{holders:?}");
}

#[test]
fn a_process_that_ended_holds_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new("true").stdin(Stdio::from(file.reopen().unwrap())).spawn().unwrap();
    child.wait().unwrap();
    let holders = find_holders(&[sought("x", file.path())], &Scan { maps: true, but_children_of: None }).unwrap();
    assert!(holders.found.is_empty(), "{holders:?}");
}

#[test]
fn who_could_have_opened_a_file_is_told_by_its_mode() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Sought::File { mut facts, device, .. } = sought("x", file.path()) else { unreachable!() };
    (facts.uid, facts.gid) = (1000, 50);
    let process = |uid, gids: &[u32]| ProcessFacts {
        pid: 1,
        comm: String::new(),
        uid,
        gids: gids.to_vec(),
        state: 'S',
        started_boot_ms: 0,
    };
    for (mode, uid, gids, open) in [
        (0o600, 1000, &[1][..], true),
        (0o600, 1001, &[50], false),
        (0o660, 1001, &[50], true),
        (0o640, 1001, &[50], false),
        (0o660, 1001, &[51], false),
        (0o602, 1001, &[51], true),
        (0o644, 1001, &[51], false),
        (0o000, 0, &[0], true),
        (0o000, 1000, &[0], true), // the owner may have changed the mode since
    ] {
        facts.mode = mode;
        let sought = Sought::File { tag: (), facts: facts.clone(), device };
        assert_eq!(sought.open_to(&process(uid, gids)), open, "{mode:o} {uid}");
    }
}
