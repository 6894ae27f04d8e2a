//! `guardian_target_recovery_seconds`: a sum and a count per target, without a histogram's buckets, so that a thousand
//! targets stay small. In Prometheus' terms it is a summary without quantiles: the only type that may carry the
//! suffixes `_sum` and `_count`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType, Summary};

const NAME: &str = "guardian_target_recovery_seconds";
const HELP: &str = "From the first unhealthy look to proven health, per target, healed incidents only.";

/// Seconds and count of one target's recoveries.
#[derive(Debug, Default, Clone, Copy)]
struct Total {
    seconds: f64,
    count: u64,
}

/// The collector; clones share the figures.
#[derive(Debug, Clone)]
pub(super) struct TargetRecovery {
    desc: Desc,
    totals: Arc<Mutex<BTreeMap<(String, String), Total>>>,
}

impl TargetRecovery {
    pub(super) fn new() -> prometheus::Result<TargetRecovery> {
        let labels = vec!["mode".to_owned(), "target".to_owned()];
        let desc = Desc::new(NAME.to_owned(), HELP.to_owned(), labels, HashMap::new())?;
        Ok(TargetRecovery { desc, totals: Arc::default() })
    }

    /// Makes the series exist, at zero.
    pub(super) fn touch(&self, target: &str, mode: &str) {
        self.with(|totals| {
            totals.entry((target.to_owned(), mode.to_owned())).or_default();
        });
    }

    pub(super) fn add(&self, target: &str, mode: &str, seconds: f64) {
        self.with(|totals| {
            let total = totals.entry((target.to_owned(), mode.to_owned())).or_default();
            total.seconds += seconds;
            total.count += 1;
        });
    }

    pub(super) fn remove(&self, target: &str, mode: &str) {
        self.with(|totals| {
            totals.remove(&(target.to_owned(), mode.to_owned()));
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<(String, String), Total>) -> T) -> T {
        f(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collector for TargetRecovery {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series: Vec<Metric> =
            self.with(|totals| totals.iter().map(|((target, mode), total)| series(target, mode, *total)).collect());
        if series.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(series);
        vec![family]
    }
}

fn series(target: &str, mode: &str, total: Total) -> Metric {
    let mut summary = Summary::default();
    summary.set_sample_count(total.count);
    summary.set_sample_sum(total.seconds);
    let mut metric = Metric::from_label(vec![label("mode", mode), label("target", target)]);
    metric.set_summary(summary);
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
