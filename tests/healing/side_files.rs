//! What is no file where SQLite has its side files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::support::daemon::Daemon;
use super::support::scene::Scene;
use super::support::truth::beside;

/// Puts it there, as soon as nothing else is: a look of the daemon's makes and removes side files, and of two that close the database at
/// one moment each leaves them to the other. False until then.
fn put(what: &str, at: &Path) -> bool {
    let put = match what {
        "a directory" => fs::create_dir(at),
        "a socket" => UnixListener::bind(at).map(drop),
        _ => rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, 0o600.into(), 0).map_err(Into::into),
    };
    match put {
        Ok(()) => true,
        Err(error) if [ErrorKind::AlreadyExists, ErrorKind::AddrInUse].contains(&error.kind()) => {
            // No program uses the database, and what SQLite has made there has nothing in it.
            if fs::symlink_metadata(at).is_ok_and(|there| there.is_file()) {
                let _gone_by_itself = fs::remove_file(at);
            }
            false
        }
        Err(error) => panic!("{}: {error}", at.display()),
    }
}

fn remove(what: &str, at: &Path) {
    let removed = if what == "a directory" { fs::remove_dir(at) } else { fs::remove_file(at) };
    removed.unwrap_or_else(|error| panic!("{what} at {} was not left alone: {error}", at.display()));
}

/// The verdict on it, once it is seen. SQLite takes an empty `-wal` away when it opens a database at that very moment, whatever that is.
fn seen(daemon: &mut Daemon, what: &str, at: &Path, words: &str) -> (String, String) {
    daemon.wait_for(words, |daemon| {
        put(what, at);
        let check = daemon.target("app")?["last_check"].clone();
        let kind = check["findings"][0]["kind"].as_str().unwrap_or_default().to_owned();
        check.to_string().contains(words).then(|| (check["verdict"].as_str().unwrap_or_default().to_owned(), kind))
    })
}

#[test]
fn what_is_no_file_in_the_place_of_a_side_file_has_one_verdict_whichever_it_is() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of("");
        scene.commit(mode, 10, &[]);
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        for side in ["-wal", "-journal", "-shm"] {
            for what in ["a FIFO", "a directory", "a socket"] {
                let at = beside(&scene.db(), side);
                let words = format!("what stands in the place of its {side} is no file: it is {what}");
                let (verdict, kind) = seen(&mut daemon, what, &at, &words);
                // Nothing uses a -shm of a database that is not in WAL mode: its program does not mind.
                match (mode, side) {
                    ("delete", "-shm") => assert_eq!((verdict.as_str(), kind.as_str()), ("unknown", "")),
                    _ => assert_eq!(
                        (verdict.as_str(), kind.as_str()),
                        ("unhealthy", "db_connection_failed"),
                        "{mode} {words}"
                    ),
                }
                remove(what, &at);
                daemon.healthy("app");
            }
        }
        let open = |incident: &serde_json::Value| incident["state"] != "closed";
        daemon.wait_for("the end of all that", |daemon| (!daemon.incidents("app").iter().any(open)).then_some(()));
        assert!(daemon.stop().success());
        scene.assert_whole(mode);
    }
}
