//! `guardiand incidents`: the running daemon's incidents, newest first.

use serde_json::Value;

use super::arguments::{Common, Incidents as Asked};
use super::output::{Output, table};
use super::{Done, socket};
use crate::api::control::ControlRequest;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let request =
        ControlRequest::Incidents { target: asked.target.clone(), state: asked.state.clone(), limit: asked.limit };
    let (exit, list) = socket::daemon(common, &request)?;
    output.facts(&list, || {
        let incidents: Vec<Value> = socket::part(&list, "/incidents");
        let rows = incidents.iter().map(|incident| {
            let word = |pointer| socket::part::<String>(incident, pointer);
            let mttr = socket::part::<Option<f64>>(incident, "/mttr_seconds");
            let mttr = mttr.map(|seconds| format!("{seconds:.3} s")).unwrap_or_default();
            vec![word("/id"), word("/target"), word("/kind"), word("/state"), word("/outcome"), word("/playbook"), mttr]
        });
        table(&["ID", "TARGET", "KIND", "STATE", "OUTCOME", "PLAYBOOK", "HEALED IN"], rows)
    });
    Ok(exit)
}
