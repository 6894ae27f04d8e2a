//! Whether anybody was cheated: promises against rows, words against files.

use std::path::Path;

use serde_json::Value;

use super::Report;
use super::fault::Fault;
use super::story::Story;
use crate::support::daemon::Daemon;
use crate::support::scene::Scene;
use crate::support::truth::{self, Content};

/// What may be in the database's folder.
const NAMES: [&str; 4] = ["app.db", "app.db-wal", "app.db-shm", "app.db-journal"];

/// More steps than this of one incident come to nothing.
const STEPS_MAX: usize = 100;

/// Panics when somebody was cheated.
pub fn judge(scene: &Scene, daemon: &mut Daemon, story: &Story, unhealed: Option<&str>, report: &mut Report) {
    // What a living program has open is not lost with its name.
    let keeps_all = story.keeps_all();
    // Whoever puts an older copy in place says that its content is what shall be there from now on.
    let set_back = story.has(Fault::RenameOver);
    assert!(daemon.ended().is_none(), "guardiand is dead");
    assert!(!daemon.log().contains("panicked"), "guardiand panicked");
    let incidents = daemon.incidents("app");
    for incident in &incidents {
        let how = incident["outcome"].as_str().or(incident["state"].as_str()).unwrap_or("?");
        *report.incidents.entry(format!("{}:{how}", incident["kind"].as_str().unwrap_or("?"))).or_default() += 1;
        let state = incident["state"].as_str().unwrap_or("?");
        assert!(["closed", "escalated", "awaiting_approval"].contains(&state), "left in the middle: {incident:#}");
        evidence(incident);
        let steps = incident["steps"].as_array().map_or(0, Vec::len);
        assert!(steps <= STEPS_MAX, "{steps} steps: it turns in circles: {incident:#}");
    }
    let left = scene.names().into_iter().filter(|name| !NAMES.contains(&name.as_str())).collect::<Vec<_>>();
    assert_eq!(left, Vec::<String>::new(), "files were left behind");

    let promised = truth::promised(&scene.log_of(&scene.db()));
    report.promised = promised.len();
    if let Some(reason) = unhealed {
        assert!(!keeps_all, "nothing was destroyed, and it could not be healed: {reason}");
        // Damage in what a program holds under no name is a person's: the bytes are kept, and no backup takes their place.
        assert!(
            !story.has_backups() || story.hurts_what_is_cut_off(),
            "there are backups, and it could not be healed: {reason}"
        );
        report.incidents.insert(format!("unhealed: {}", short(scene, reason)), 1);
        // What is not healed is at least all there: in place, or in evidence.
        let kept = incidents.iter().any(|incident| incident["evidence"].is_string());
        assert!(kept || !scene.names().is_empty() || promised.is_empty(), "not healed, and nothing is kept: {reason}");
        return;
    }
    let content = Content::of(&scene.db());
    assert_eq!(content.integrity, "ok");
    let lost = promised.difference(&content.commits).count();
    report.lost = lost;
    assert!(lost == 0 || !keeps_all, "{lost} commits are lost, and nothing was destroyed: {incidents:#?}");
    let rows = truth::rows_of_commits(&scene.db());
    let there = promised.intersection(&content.commits);
    let torn = there.filter(|id| rows.get(id).is_none_or(|rows| *rows != story.rows_per_commit())).count();
    assert!(
        torn == 0 || !keeps_all,
        "{torn} commits are not what they were, and nothing was destroyed: {incidents:#?}"
    );
    report.torn = torn;
    let said = incidents.iter().filter_map(|incident| incident["loss"].as_object()).collect::<Vec<_>>();
    let unknown = said.iter().any(|loss| loss["rows_lost"].is_null());
    let counted = said.iter().filter_map(|loss| loss["rows_lost"].as_u64()).sum::<u64>();
    report.uncounted = lost > 0 && (unknown || counted < lost as u64);
    assert!(
        unknown || counted >= lost as u64 || set_back,
        "{lost} commits are lost, and {counted} rows were said to be: {incidents:#?}"
    );
}

/// Every file that evidence speaks of is there as it says.
fn evidence(incident: &Value) {
    let Some(folder) = incident["evidence"].as_str() else { return };
    let mut folders = vec![Path::new(folder).to_owned()];
    folders.extend((2..100).map(|number| Path::new(folder).join(number.to_string())).take_while(|path| path.exists()));
    for folder in folders {
        let Ok(manifest) = std::fs::read(folder.join("manifest.json")) else { continue };
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
        for file in manifest["files"].as_array().expect("it lists files") {
            let path = folder.join(file["name"].as_str().expect("a name"));
            assert_eq!(truth::digest(&path).as_deref(), file["blake3"].as_str(), "{} in evidence", path.display());
        }
    }
}

fn short(scene: &Scene, reason: &str) -> String {
    let folder = scene.path("").display().to_string();
    reason.replace(&folder, "").chars().take(90).collect()
}
