//! Medians and percentiles, and how they are printed.

use std::time::Duration;

/// Measurements of one thing, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` of all are (nearest rank).
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }
}

impl Extend<f64> for Figures {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, seconds: T) {
        self.0.extend(seconds);
    }
}

/// One line: what, how often, median, p99, greatest, and the target with whether the value it speaks of meets it.
pub fn line(what: &str, figures: &Figures, target: Option<(&str, f64, Duration)>) {
    let verdict = target.map_or_else(String::new, |(of, value, limit)| {
        format!("   target {of} <= {}: {}", words(limit.as_secs_f64()), met(value <= limit.as_secs_f64()))
    });
    println!(
        "  {what:<34} n={:<4} p50 {:>9}  p99 {:>9}  max {:>9}{verdict}",
        figures.count(),
        words(figures.median()),
        words(figures.percentile(0.99)),
        words(figures.percentile(1.0)),
    );
}

/// `ours` as a multiple of `theirs`, against the most it may be.
pub fn ratio(what: &str, ours: &Figures, theirs: &Figures, most: f64) {
    let ratio = ours.median() / theirs.median();
    println!("  {what:<34} {ratio:.2} x   target <= {most} x: {}", met(ratio <= most));
}

pub fn met(yes: bool) -> &'static str {
    if yes { "met" } else { "MISSED" }
}

/// Seconds for people.
pub fn words(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
