//! What a process and its reaped children cost, from /proc.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU and reads of a process, of all children that it has waited for, and of those that it has now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Bytes that read calls returned, from files, pipes and /proc alike.
    pub read_chars: u64,
    /// Bytes that storage delivered.
    pub read_disk: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // proc_pid_stat(5): cutime and cstime are fields 16 and 17; the state after the name is field 3.
        let ticks: u64 = fields[13..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        let ended = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let (read_chars, read_disk) = reads(pid).unwrap();
        let mut usage = Usage { cpu: cpu(pid).unwrap() + ended, read_chars, read_disk };
        for child in workers(pid) {
            // One that ends just now is counted among those that were waited for, next time.
            if let (Some(cpu), Some((read_chars, read_disk))) = (cpu(child), reads(child)) {
                usage.cpu += cpu;
                usage.read_chars += read_chars;
                usage.read_disk += read_disk;
            }
        }
        usage
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu - before.cpu,
            read_chars: self.read_chars - before.read_chars,
            read_disk: self.read_disk - before.read_disk,
        }
    }
}

/// A memory figure of a process, in bytes: `VmRSS`, `VmHWM`.
pub fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// CPU seconds of all threads that a process has, to the nanosecond: `stat` counts in hundredths of a second.
fn cpu(pid: u32) -> Option<f64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum as f64 / 1e9)
}

/// What read calls returned and what storage delivered, in bytes.
fn reads(pid: u32) -> Option<(u64, u64)> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let io: BTreeMap<&str, u64> = io
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    Some((*io.get("rchar")?, *io.get("read_bytes")?))
}

/// The children that a process has now and that are workers: between fork and exec one is its parent still.
fn workers(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_worker = |child: &u32| {
        std::fs::read(format!("/proc/{child}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"worker"))
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_worker).collect()
}

/// The most that any child of a process had resident, as far as quick looks at it see, over some time.
pub fn worker_peak(pid: u32, during: Duration) -> u64 {
    let until = Instant::now() + during;
    let mut peak = 0;
    while Instant::now() < until {
        for child in workers(pid) {
            peak = peak.max(memory(child, "VmHWM").unwrap_or(0));
        }
    }
    peak
}
