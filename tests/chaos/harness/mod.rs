//! A seed is a story: a program, a configuration, and what happens to them. [`story`] rolls it, [`service`] keeps the program
//! running as a service manager would, [`fault`] does the harm, [`act`] plays it all, [`oracle`] says whether anybody was
//! cheated.

mod act;
mod fault;
mod oracle;
mod service;
mod story;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use story::Story;

/// What one run came to, when nobody was cheated.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Commits that the program was promised.
    pub promised: usize,
    /// Those that are not there, and were said to be lost.
    pub lost: usize,
    /// Some are missing, and how many was said to be unknown.
    pub uncounted: bool,
    /// Commits that are there and not whole, or not as they were written.
    pub torn: usize,
    /// Incidents, by how they ended.
    pub incidents: BTreeMap<String, u32>,
    /// The faults that were done.
    pub faults: Vec<String>,
    /// A person was needed.
    pub operator: u32,
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Total {
    /// Runs that came to an end.
    pub runs: u64,
    /// Seeds that somebody was cheated in.
    pub failed: Vec<u64>,
    /// Seeds that this machine or user cannot play.
    pub skipped: u64,
    promised: usize,
    lost: usize,
    runs_with_loss: u64,
    uncounted: u64,
    torn: usize,
    operator: u32,
    incidents: BTreeMap<String, u32>,
    faults: BTreeMap<String, u32>,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.promised += report.promised;
        self.lost += report.lost;
        self.runs_with_loss += u64::from(report.lost > 0);
        self.uncounted += u64::from(report.uncounted);
        self.torn += report.torn;
        self.operator += report.operator;
        report.incidents.iter().for_each(|(how, count)| *self.incidents.entry(how.clone()).or_default() += count);
        report.faults.iter().for_each(|fault| *self.faults.entry(fault.clone()).or_default() += 1);
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |map: &BTreeMap<String, u32>| {
            map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let Total { runs, skipped, promised, lost, runs_with_loss, uncounted, torn, operator, .. } = self;
        writeln!(
            f,
            "{runs} runs, {} failed {:?}, {skipped} skipped (need root that may mount)",
            self.failed.len(),
            self.failed
        )?;
        writeln!(
            f,
            "{promised} commits promised, {lost} of them lost, in {runs_with_loss} runs (in {uncounted} without a number), {torn} of \
             harmed files not as they were; {operator} times a person was called",
        )?;
        writeln!(f, "incidents: {}", list(&self.incidents))?;
        write!(f, "faults: {}", list(&self.faults))
    }
}

/// Runs the seeds from `first` on, `jobs` at a time, until there were `runs` of them or `time` is over.
pub fn run(first: u64, runs: u64, time: Duration, jobs: usize) -> Total {
    let (next, total, began) = (AtomicU64::new(0), Mutex::new(Total::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs || began.elapsed() >= time {
                        return;
                    }
                    let seed = first + number;
                    let story = Story::of(seed);
                    let played = catch_unwind(AssertUnwindSafe(|| act::play(&story)));
                    let mut total = total.lock().unwrap();
                    match played {
                        Ok(None) => total.skipped += 1,
                        Ok(Some(report)) => {
                            total.runs += 1;
                            total.add(&report);
                        }
                        Err(_) => {
                            total.runs += 1;
                            println!("seed {seed} FAILED: {story:#?}");
                            total.failed.push(seed);
                        }
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}
