//! Something that is no file stands at the path of a database that a program still has open: what the program commits is kept all the
//! same, nothing that stands there is touched, and all of it goes back once the path is free.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, symlink};

use super::*;

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// `rm app.db; mkdir app.db`.
    Folder,
    /// `rm app.db; mkfifo app.db`.
    Pipe,
    /// `mv app.db moved.db; ln -s other app.db`.
    Link,
    /// `rm -r data; mkdir -p data/app.db`.
    InANewFolder,
    /// `rm app.db-wal; mkdir app.db-wal`.
    FolderForTheWal,
    /// `rm -r data; touch data`.
    FileForTheFolder,
}

impl Stands {
    fn befall(self, scene: &Scene) {
        let (db, data) = (scene.db(), scene.path("data"));
        match self {
            Stands::Folder => fs::remove_file(&db).and_then(|()| fs::create_dir(&db)).unwrap(),
            Stands::Pipe => {
                fs::remove_file(&db).unwrap();
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, &db, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            Stands::Link => {
                fs::rename(&db, scene.path("moved.db")).unwrap();
                symlink(other(scene), &db).unwrap();
            }
            Stands::InANewFolder => fs::remove_dir_all(&data).and_then(|()| fs::create_dir_all(&db)).unwrap(),
            Stands::FolderForTheWal => {
                let wal = beside(&db, "-wal");
                fs::remove_file(&wal).and_then(|()| fs::create_dir(wal)).unwrap();
            }
            Stands::FileForTheFolder => {
                fs::remove_dir_all(&data).and_then(|()| fs::write(&data, "not a folder")).unwrap();
            }
        }
    }

    /// What a person is told to move.
    fn at(self, scene: &Scene) -> PathBuf {
        match self {
            Stands::FolderForTheWal => beside(&scene.db(), "-wal"),
            Stands::FileForTheFolder => scene.path("data"),
            _ => scene.db(),
        }
    }
}

/// Where the link leads.
fn other(scene: &Scene) -> PathBuf {
    scene.path("other")
}

#[test]
fn what_a_program_holds_is_kept_whatever_stands_at_the_path_and_put_back_once_that_is_gone() {
    for (stands, ended_first) in [
        (Stands::Folder, true),
        (Stands::Folder, false),
        (Stands::Pipe, true),
        (Stands::Link, true),
        (Stands::Link, false),
        (Stands::InANewFolder, true),
        (Stands::FolderForTheWal, true),
        (Stands::FileForTheFolder, true),
    ] {
        let what = format!("{stands:?}, ended first: {ended_first}");
        let scene = Scene::of(BACKUP);
        let mut daemon = prepare(&scene, "wal");
        fs::write(other(&scene), "somebody's").unwrap();
        let program = scene.writer("wal", "forever", &[&PATIENT[..], &["--no-checkpoint"]].concat());
        runs(&scene, &mut daemon);
        // At once, as far as guardiand can see.
        daemon.signal(Signal::STOP);
        stands.befall(&scene);
        daemon.signal(Signal::CONT);

        let at = stands.at(&scene);
        let mut aside = OsString::from(&at);
        aside.push(".not-wanted");
        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_file_unlinked", "{what}: {incident:#}");
        let reason = incident["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("`mv {} {}`", at.display(), Path::new(&aside).display())), "{what}: {reason}");
        let evidence = scene.path("state/incidents").join(incident["id"].as_str().unwrap()).join("evidence");
        daemon.wait_for("it to be kept", |_| kept_in(&evidence));
        let said = |daemon: &Daemon| daemon.target("app").filter(|it| it.to_string().contains("guardiand keeps it"));
        daemon.wait_for("that to be said", said);
        goes_on(&scene, &mut daemon);
        let before = fs::symlink_metadata(&at).unwrap();
        let mut program = Some(program);
        if ended_first && let Some(program) = program.take() {
            program.kill();
            let told = |incident: &Value| incident["reason"].as_str().is_some_and(|why| why.contains(" had is in "));
            daemon.incident("app", 1, "its end to be told", told);
        }
        let now = fs::symlink_metadata(&at).unwrap();
        assert_eq!((now.file_type(), now.ino()), (before.file_type(), before.ino()), "{what}: it was touched");

        fs::rename(&at, &aside).unwrap();
        if stands == Stands::FileForTheFolder {
            fs::create_dir(&at).unwrap();
        }
        if let Some(program) = program {
            goes_on(&scene, &mut daemon);
            program.kill();
        }
        let incident = daemon.closed("app", 1);
        assert_reclaimed(&scene, &incident, &what);
        scene.assert_honest(&incident, &scene.db());
        assert_eq!(fs::read_to_string(other(&scene)).unwrap(), "somebody's", "{what}");
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}
