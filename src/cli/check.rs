//! `guardiand check`: one pass of the detectors, no healing.

use std::process::ExitCode;

use super::Done;
use super::arguments::{Check as Asked, Common};
use super::output::{INCONCLUSIVE, Output, table};
use super::subject;
use crate::daemon::one_pass::{self, Subject};
use crate::model::{Check, Verdict, shown};

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let (scope, subjects) = subject::resolve(common, &asked.subjects, asked.state_dir.clone())?;
    let checks = one_pass::check(&scope, &subjects)?;
    let globs = |name: &String| {
        scope
            .config
            .iter()
            .flat_map(|config| &config.databases)
            .any(|database| database.name == *name && database.is_glob())
    };
    // Who asks about one target gets its check; who asks about several gets a list, however long it is.
    let single = match subjects.as_slice() {
        [Subject::Path(_)] => true,
        [Subject::Named(name)] => !globs(name),
        _ => false,
    };
    match checks.as_slice() {
        [check] if single => output.facts(check, || text(&checks)),
        checks => output.facts(&checks, || text(checks)),
    }
    Ok(exit(&checks))
}

/// Of several the worst: unhealthy, then cannot tell, then healthy.
pub(super) fn exit(checks: &[Check]) -> ExitCode {
    let any = |wanted: fn(&Verdict) -> bool| checks.iter().any(|check| wanted(&check.verdict));
    if any(|verdict| matches!(verdict, Verdict::Unhealthy(_))) {
        ExitCode::FAILURE
    } else if any(|verdict| matches!(verdict, Verdict::Unknown(_))) {
        ExitCode::from(INCONCLUSIVE)
    } else {
        ExitCode::SUCCESS
    }
}

/// The table: a row per finding, and below it what to do.
pub(super) fn text(checks: &[Check]) -> String {
    let mut rows = Vec::new();
    let mut advice = String::new();
    for check in checks {
        let users = check.in_use.iter().flat_map(|in_use| {
            let holders = in_use.holders.iter().flatten().map(|holder| &holder.words);
            holders.chain(in_use.locks.iter().map(|lock| &lock.words))
        });
        users.for_each(|words| advice.push_str(&format!("\n{}: {}", shown(&check.target), shown(words))));
        let row = |kind: &str, detail: &str| {
            vec![check.target.clone(), check.verdict.name().to_owned(), kind.to_owned(), detail.to_owned()]
        };
        match &check.verdict {
            Verdict::Healthy => rows.push(row("", "")),
            Verdict::Unknown(reason) => rows.push(row("", reason)),
            Verdict::Unhealthy(findings) => {
                for finding in findings {
                    rows.push(row(finding.kind.as_str(), &finding.detail));
                    advice.push_str(&format!(
                        "\n{}: {}: {}",
                        shown(&check.target),
                        finding.kind,
                        shown(&finding.remediation)
                    ));
                }
            }
        }
    }
    format!("{}\n{advice}", table(&["TARGET", "VERDICT", "KIND", "DETAIL"], rows))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{Finding, Kind, Layer, Severity};

    fn check(verdict: Verdict) -> Check {
        Check {
            target: "app".to_owned(),
            mode: "database",
            verdict,
            checked_at: Timestamp::UNIX_EPOCH,
            duration_seconds: 0.0,
            layers: Vec::new(),
            in_use: None,
        }
    }

    #[test]
    fn of_several_the_worst_counts() {
        let healthy = || check(Verdict::Healthy);
        let unknown = || check(Verdict::Unknown("why".to_owned()));
        let unhealthy = || {
            check(Verdict::Unhealthy(vec![Finding {
                kind: Kind::new("db_locked"),
                severity: Severity::High,
                layer: Layer::new("locks"),
                detail: "held by writer (pid 7)".to_owned(),
                sqlite_code: None,
                at_stake: None,
                remediation: "wait".to_owned(),
            }]))
        };
        let status = |checks: &[Check]| format!("{:?}", exit(checks));
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(status(&[healthy(), healthy()]), code(0));
        assert_eq!(status(&[healthy(), unknown()]), code(3));
        assert_eq!(status(&[unknown(), unhealthy(), healthy()]), code(1));
        let shown = text(&[unhealthy()]);
        assert!(shown.contains("db_locked") && shown.contains("pid 7") && shown.contains(": wait"), "{shown}");
    }
}
