//! The status page: plain HTML, without scripts, so that it works everywhere and cannot do anything.

use std::fmt::Write;

use jiff::Timestamp;

use crate::model::{Incident, Resolution, Verdict, shown};
use crate::supervisor::status::{StatusBoard, TargetStatus};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;\
border-bottom:1px solid #8884;vertical-align:top}.healthy,.closed{color:#178a3b}.pending,.unknown{color:#997300}\
.unhealthy,.escalated,.open,.healing,.verifying,.awaiting_approval{color:#c02b2b;font-weight:600}small{opacity:.7}";

/// A person looks at a page of this many at most; scripts read the API.
const TARGETS_MAX: usize = 500;

/// The whole page.
pub(super) fn render(
    board: &StatusBoard,
    recent: &Result<Vec<Incident>, String>,
    started_at: Timestamp,
    now: Timestamp,
) -> String {
    let totals = board.totals();
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"10\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>guardiand</title><style>{STYLE}</style></head>\
         <body><h1>guardiand</h1><p>{} of {} targets healthy, {} unhealthy, {} unknown, {} not looked at yet; \
         {} incidents open, {} need a person.<br><small>{} since {:.0}; shown as of {:.0}.</small></p>",
        totals.healthy,
        totals.targets,
        totals.unhealthy,
        totals.unknown,
        totals.pending,
        totals.incidents_open,
        totals.escalated,
        env!("CARGO_PKG_VERSION"),
        started_at,
        now,
    );
    html.push_str(
        "<h2>Targets</h2><table><tr><th>Target<th>Mode<th>State<th>Last look<th>Size<th>WAL<th>Last backup</tr>",
    );
    for target in board.targets().take(TARGETS_MAX) {
        html.push_str(&row(target));
    }
    html.push_str("</table>");
    if totals.targets > TARGETS_MAX {
        let _ = write!(html, "<p>… and {} more: <a href=\"/api/v1/status\">all</a></p>", totals.targets - TARGETS_MAX);
    }
    html.push_str("<h2>Latest incidents</h2>");
    html.push_str(&incidents(recent));
    html.push_str(
        "<p><small><a href=\"/metrics\">metrics</a> · <a href=\"/api/v1/status\">status</a> · \
         <a href=\"/api/v1/incidents\">incidents</a> · <a href=\"/api/v1/stats\">statistics</a></small></p></body></html>",
    );
    html
}

fn row(target: &TargetStatus) -> String {
    let said = match target.last_check.as_ref().map(|check| &check.verdict) {
        Some(Verdict::Unhealthy(findings)) => findings
            .iter()
            .map(|finding| format!("{}: {}", finding.kind, finding.detail))
            .collect::<Vec<_>>()
            .join("; "),
        Some(Verdict::Unknown(reason)) => reason.clone(),
        Some(Verdict::Healthy) | None => String::new(),
    };
    let paused = match &target.paused {
        None => String::new(),
        Some(pause) => match pause.until {
            Some(until) => format!("(paused until {until:.0})"),
            None => "(paused)".to_owned(),
        },
    };
    let reason = target.incident.as_ref().and_then(|incident| incident.reason.clone()).unwrap_or_default();
    let looked = target.last_check.as_ref().map(|check| format!("{:.0}", check.checked_at)).unwrap_or_default();
    let size = |bytes: Option<u64>| bytes.map(|bytes| bytesize::ByteSize(bytes).to_string()).unwrap_or_default();
    let backup = target.last_backup_at.map(|at| format!("{at:.0}")).unwrap_or_default();
    let link = percent(&target.name);
    format!(
        "<tr><td><a href=\"/api/v1/targets/{link}\">{}</a><td>{}<td><span class=\"{}\">{}</span> {paused} <small>{} {}</small>\
         <td>{looked}<td>{}<td>{}<td>{backup}</tr>",
        escape(&target.name),
        target.mode,
        target.state,
        target.state,
        escape(&said),
        escape(&reason),
        size(target.database_size_bytes),
        size(target.database_wal_bytes),
    )
}

fn incidents(recent: &Result<Vec<Incident>, String>) -> String {
    let incidents = match recent {
        Err(error) => return format!("<p>They cannot be read now: {}</p>", escape(error)),
        Ok(incidents) if incidents.is_empty() => return "<p>None.</p>".to_owned(),
        Ok(incidents) => incidents,
    };
    let mut html =
        "<table><tr><th>Opened<th>Target<th>Kind<th>State<th>Playbook<th>Healed in<th>Rows lost</tr>".to_owned();
    for incident in incidents {
        let outcome = incident.outcome.map_or(incident.state.name(), Resolution::name);
        let mttr = incident.mttr_seconds.map(|seconds| format!("{seconds:.3} s")).unwrap_or_default();
        let lost = incident.loss.as_ref().map_or_else(String::new, |loss| {
            loss.rows_lost.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string())
        });
        let _ = write!(
            html,
            "<tr><td><a href=\"/api/v1/incidents/{}\">{:.0}</a><td>{}<td>{}<td><span class=\"{}\">{}</span><td>{}<td>{mttr}<td>{lost}</tr>",
            percent(&incident.id.0),
            incident.opened_at,
            escape(&incident.target),
            escape(incident.kind.as_str()),
            incident.state.name(),
            outcome,
            escape(&incident.playbook),
        );
    }
    html + "</table>"
}

fn escape(text: &str) -> String {
    shown(text).chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
        escaped
    })
}

/// A name as part of a URL's path; `/` stays, the route takes it.
fn percent(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => path.push(char::from(byte)),
            byte => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
        path
    })
}
