//! A rebuild of indexes that was cut off between its commit and the return of the pages that it had abandoned.

use super::*;

/// What a rebuild has done by then to an index whose tree cannot be read.
fn abandon(scene: &Scene) {
    let run = |sql: &str| rusqlite::Connection::open(scene.path()).unwrap().execute_batch(sql).unwrap();
    run("CREATE INDEX t_again ON t(body); PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='t_again'");
    run("CREATE INDEX t_again ON t(body)");
}

fn check(scene: &Scene) -> Vec<String> {
    open(&scene.path(), Access::Probe).integrity_check(3).messages
}

#[test]
fn what_it_had_abandoned_is_given_back_by_the_next_and_what_another_lost_is_not() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        abandon(&scene);
        let step = || DatabaseStep::RebuildIndexes { indexes: vec!["t_again".to_owned()] };
        // Pages that nothing refers to may be rows that a lost write cut off.
        let refused = scene.run(step(), Phase::Apply).unwrap_err();
        assert!(refused.message.contains("never used"), "{refused:?}");
        assert!(!check(&scene).is_empty());

        assert!(!scene.evidence().join("rebuild.json").exists());
        std::fs::write(scene.evidence().join("rebuild.json"), r#"{ "begun_at": "2026-01-01T00:00:00Z" }"#).unwrap();
        let report = scene.run(step(), Phase::Resume).unwrap();
        assert!(report.detail.contains("when it was cut off"), "{report:?}");
        assert_eq!((check(&scene), rows(&scene.path())), (Vec::new(), 150));
        assert!(!scene.evidence().join("rebuild.json").exists());
    }
}
